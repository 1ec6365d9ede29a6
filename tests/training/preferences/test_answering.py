from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest
from compared import compare
from worlds import saved, world

from offline_marl.core.errors import BadInputError
from offline_marl.launch.recipes.contents import content_of
from offline_marl.preferences.answers import Judgement, Post
from offline_marl.preferences.label_store import StoreError
from offline_marl.preferences.labels import AskedPair, Label
from offline_marl.preferences.pairs import Pair, SegmentKey
from offline_marl.preferences.revisions import onward
from offline_marl.tasks.data_tasks import open_task
from offline_marl.training.preferences.answering import summarize
from offline_marl.training.preferences.asking import Plan, ask
from offline_marl.training.preferences.everything import export_everything, take_in_everything
from offline_marl.training.preferences.folders import ComparisonFolder
from offline_marl.training.preferences.label_tables import export, take_in


@pytest.fixture
def folder(tmp_path):
    data = saved(tmp_path, world("continuous", episodes=20))
    with ComparisonFolder(tmp_path / "c", make=True) as folder:
        ask(folder, open_task(data), Plan(budget=10, length=3))
        yield folder


def ids(folder) -> list[str]:
    return [one.pair.id for one in folder.store.pairs()]


def written(tmp_path, *lines: str, head: str = "pair_id,answer,annotator"):
    path = tmp_path / "labels.csv"
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


def test_pairs_go_out_to_be_answered_and_labels_come_back(tmp_path, folder) -> None:
    out = tmp_path / "pairs.csv"
    assert export(folder, out) == (0, 10)
    with out.open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["pair_id"] for line in lines] == sorted(ids(folder)), "held-out pairs do not come first"
    assert {line["first_length"] for line in lines} == {"3"}
    for number, line in enumerate(lines[:8]):
        line["answer"], line["annotator"] = ("first", "second", "equal", "skip")[number % 4], "ann"
    with out.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    assert take_in(folder, out) == (8, 0) and take_in(folder, out) == (0, 8)
    assert [one.value for one in folder.store.labels()] == [1.0, 0.0, 0.5, None] * 2
    assert {one.source for one in folder.store.labels()} == {"imported"}


def test_what_is_exported_comes_back_as_it_was(tmp_path) -> None:
    data = saved(tmp_path, world("continuous", episodes=20))
    place = compare(tmp_path / "c", data, target="agents", budget=12, skip=0.3, equal=0.2)
    twin = tmp_path / "twin"
    with ComparisonFolder(place) as folder, ComparisonFolder(twin, make=True) as other:
        assert export(folder, tmp_path / "all.csv") == (36, 0)
        ask(other, open_task(data), Plan(budget=12, length=3))
        assert take_in(other, tmp_path / "all.csv") == (36, 0)
        assert other.store.labels() == folder.store.labels()


SIDES = [f"{side}_{what}" for side in ("first", "second") for what in ("source", "episode", "start", "length")]


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_first_and_second_are_those_of_the_file_even_where_the_folder_holds_the_pair_the_other_way_round(
    tmp_path, kind
) -> None:
    task = open_task(saved(tmp_path, world("continuous", episodes=20)))
    with ComparisonFolder(tmp_path / "a", make=True) as here, ComparisonFolder(tmp_path / "b", make=True) as there:
        ask(here, task, Plan(budget=4, length=3))
        turned = [replace(one, pair=Pair(one.pair.second, one.pair.first)) for one in here.store.pairs()]
        there.store.state({"data": here.store.facts()["data"]})
        there.store.ask_about(turned)
        first, second, third, fourth = ids(here)
        given = [Label(first, "first", "a"), Label(second, "second", "a", shown_order="swapped")]
        here.store.add([*given, Label(third, "equal", "a"), Label(fourth, "skip", "a")])
        file = tmp_path / f"all.{kind}"
        put, take = (export, take_in) if kind == "csv" else (export_everything, take_in_everything)
        put(here, file)
        assert take(there, file) == (4, 0) and take(there, file) == (0, 4)
        got = {label.pair_id: (label.answer, label.shown_order) for label in there.store.labels()}
        assert got[first] == ("second", "swapped") and got[second] == ("first", "as stored")
        assert got[third][0] == "equal" and got[fourth][0] == "skip"
        assert take(here, file) == (0, 4), "in their own order they are as they were"
        put(there, file)
        assert take(here, file) == (0, 4), "and back again"


def test_lines_of_other_segments_than_their_pairs_are_refused(tmp_path, folder) -> None:
    one = folder.store.pairs()[0]
    cells = [one.pair.first.source, 0, 0, 3, one.pair.second.source, 999, 0, 3]
    head = ",".join(["pair_id", "answer", "annotator", *SIDES])
    path = written(tmp_path, ",".join(map(str, [one.pair.id, "first", "ann", *cells])), head=head)
    with pytest.raises(BadInputError, match=f"names other segments than those of pair {one.pair.id}"):
        take_in(folder, path)


def test_a_store_takes_no_pair_the_other_way_round(folder) -> None:
    asked = folder.store.pairs()
    turned = replace(asked[0], pair=Pair(asked[0].pair.second, asked[0].pair.first))
    with pytest.raises(StoreError, match="the other way round"):
        folder.store.ask_about([turned])
    assert folder.store.pairs() == asked


def test_an_answer_that_was_corrected_goes_out_and_comes_back(tmp_path, folder) -> None:
    one, two, *_ = ids(folder)
    folder.store.add([Label(one, "first", "ann"), Label(one, "withdrawn", "ann", revision=1)])
    folder.store.add([Label(one, "second", "ann", revision=2), Label(two, "first", "ann")])
    assert export(folder, tmp_path / "out.csv") == (2, 8)
    assert take_in(folder, tmp_path / "out.csv") == (0, 2)
    folder.store.add([Label(two, "withdrawn", "ann", revision=1)])
    assert take_in(folder, tmp_path / "out.csv") == (1, 1), "what was taken back here is answered anew"
    assert {label.pair_id: (label.answer, label.revision) for label in folder.store.labels()} == {
        one: ("second", 2),
        two: ("first", 2),
    }


def test_a_line_that_names_a_revision_corrects_also_without_a_repeat(tmp_path, folder) -> None:
    one, *_ = ids(folder)
    take_in(folder, written(tmp_path, f"{one},first,ann"))
    corrected = written(tmp_path, f"{one},second,ann,1", head="pair_id,answer,annotator,revision")
    assert take_in(folder, corrected) == (1, 0) and take_in(folder, corrected) == (0, 1)
    assert [(label.answer, label.repeat, label.revision) for label in folder.store.labels()] == [("second", 0, 1)]


def test_numbers_are_labels_too(tmp_path, folder) -> None:
    one, two, three, *_ = ids(folder)
    path = written(tmp_path, f"{one},1,agent_1", f"{two},0.5,", f"{three},0,team", head="pair_id,label,target")
    assert take_in(folder, path, annotator="ann") == (3, 0)
    assert [(x.value, x.target) for x in folder.store.labels()] == [(1.0, "agent_1"), (0.5, "team"), (0.0, "team")]


def test_answers_that_contradict_themselves_are_kept_counted_and_shown(tmp_path, folder) -> None:
    one, two, *_ = ids(folder)
    path = written(tmp_path, f"{one},first,ann", f"{one},second,ann", f"{two},first,ann", f"{two},first,ann")
    assert take_in(folder, path) == (3, 1) and take_in(folder, path) == (0, 4)
    summary = summarize(folder)
    assert summary["contradictions"] == [[one, "team", "ann"]] and summary["repeated"] == 1
    assert summary["self_agreement"] == 0.0 and summary["labels"] == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0123,first,ann", "There is no pair 0123 in .*: line 2 of .* labels it"),
        ("{},better,ann", "line 2 of .* cannot be read: 'better' is no answer"),
        ("{},first,", "Nobody is named who gave the label in line 2"),
    ],
)
def test_lines_that_say_nothing_are_refused_and_none_is_stored(tmp_path, folder, line, message) -> None:
    first, second, *_ = ids(folder)
    path = written(tmp_path, line.format(first), f"{second},first,ann")
    with pytest.raises(BadInputError, match=message):
        take_in(folder, path)
    assert folder.store.labels() == []


@pytest.mark.parametrize(
    ("head", "line", "message"),
    [
        ("pair_id,label,annotator", "{},0.7,ann", "0.7 is no label"),
        ("pair_id,answer,annotator,target", "{},first,ann,agent_9", "'agent_9' is no target"),
        ("pair,answer", "{},first", "should have the columns pair_id and answer"),
        ("pair_id,answer,label,annotator", "{},first,0,ann", "its answer is first and its label '0': leave one empty"),
        ("pair_id,answer,annotator,repeat", "{},first,ann,99999999999999999999", "'99999999999999999999' is no count"),
        ("pair_id,answer,annotator,response_ms", "{},first,ann,-3", "'-3' is no count"),
        ("pair_id,answer", "{},first" + "x" * 200_000, "no table of comma-separated values: field larger than"),
        ("pair_id,answer,annotator", '{},first,"Ann', "unexpected end of data, in what begins at line 2"),
        ("pair_id,answer,annotator", "{},first,Doe, Jane", "more cells in line 2 of .* than columns"),
        ("pair_id,answer,annotator,answer", "{},first,ann,second", "has the column answer twice"),
        ("pair_id,answer,annotator", '{},first,"A\nnn"', "line 2 of .* goes over several lines"),
        ("pair_id,answer,annotator", "{},first,A\x07nn", "line 2 of .* holds a character that cannot be written"),
        ("pair_id,answer,annotator,shown_order", "{},first,ann,mirrored", "'mirrored' is no shown_order"),
    ],
)
def test_files_of_other_columns_or_values_are_refused(tmp_path, folder, head, line, message) -> None:
    path = written(tmp_path, line.format(ids(folder)[0]), head=head)
    with pytest.raises(BadInputError, match=message):
        take_in(folder, path)


@pytest.mark.parametrize("form", [".csv", ".json"])
def test_answers_about_another_run_are_refused_in_a_sentence(tmp_path, form) -> None:
    put, take = {".csv": (export, take_in), ".json": (export_everything, take_in_everything)}[form]
    for name in ("one", "other"):
        pair = Pair(*(SegmentKey.of_run(name, 0, start, 3) for start in (0, 4)))
        with ComparisonFolder(tmp_path / name, make=True) as folder:
            folder.store.state({"data": {"key": f"run:{name}", "spec": {"obs_dims": [1, 1]}}})
            folder.store.ask_about([AskedPair(pair, 1, "train", "uniform")])
            if name == "one":
                folder.store.add([Label(pair.id, "first", "ann")])
                put(folder, tmp_path / f"one{form}")
                continue
            with pytest.raises(BadInputError, match="another run"):
                take(folder, tmp_path / f"one{form}")
            assert folder.store.labels() == []


def test_an_open_quote_stores_no_line_and_empty_cells_behind_the_columns_are_nothing(tmp_path, folder) -> None:
    one, two, three, *_ = ids(folder)
    with pytest.raises(BadInputError, match="in what begins at line 3"):
        take_in(folder, written(tmp_path, f"{one},first,ann", f'{two},first,"ann', f"{three},second,ann"))
    assert folder.store.labels() == []
    assert take_in(folder, written(tmp_path, f"{one},first,ann,,", f'{two},first,"Doe, Jane"')) == (2, 0)
    assert folder.store.annotators() == {"ann", "Doe, Jane"}


@pytest.mark.parametrize("form", [".csv", ".json"])
def test_answers_are_about_the_target_that_a_file_or_its_reader_names(tmp_path, twins, form) -> None:
    folder, twin, forms = twins
    put, take = forms[form]
    path = tmp_path / f"filled{form}"
    assert put(folder, path, ["agent_0", "agent_1"])[1] == 2 * len(ids(folder)), "the team's answers are of no agent"
    if form == ".csv":
        with path.open() as stream:
            lines = list(csv.DictReader(stream))
        given = [{**line, "answer": "second", "annotator": "bo"} for line in lines if not line["answer"]]
        del given[0]["target"]
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, lines[0].keys())
            writer.writeheader()
            writer.writerows(given)
    else:
        content = json.loads(path.read_text())
        content["labels"] = [{**line, "answer": "second", "annotator": "bo"} for line in content["open"]]
        del content["labels"][0]["target"]
        path.write_text(json.dumps({**content, "judgements": [], "taken_back": {}}))
    assert take(twin, path, None, "agent_1")[0] == 2 * len(ids(folder)) - 1, "one is there twice"
    told = [label.target for label in twin.store.labels() if label.annotator == "bo"]
    assert "team" not in told and told.count("agent_1") > told.count("agent_0")


def test_a_file_that_is_not_there_is_told(tmp_path, folder) -> None:
    with pytest.raises(BadInputError, match="none.csv cannot be read"):
        take_in(folder, tmp_path / "none.csv")


def test_the_summary_counts_what_was_said_by_whom(tmp_path, folder) -> None:
    one, two, three, *_ = ids(folder)
    path = written(
        tmp_path, f"{one},first,ann", f"{two},skip,ann", f"{one},first,bob", f"{three},second,bob", f"{two},equal,bob"
    )
    take_in(folder, path)
    summary = summarize(folder)
    assert (summary["pairs"], summary["answered_pairs"], summary["held_out_pairs"]) == (10, 3, 2)
    assert summary["answers"] == {"first": 2, "second": 1, "equal": 1, "skip": 1}
    assert summary["annotators"]["ann"] == {"first": 1, "second": 0, "equal": 0, "skip": 1}
    assert summary["kappa"] == [{"annotators": ["ann", "bob"], "kappa": None, "questions": 1}]


def test_the_median_of_an_even_count_lies_between_the_middle_ones(folder) -> None:
    assert summarize(folder)["median_response_ms"] is None
    for count, (pair, wait, middle) in enumerate(zip(ids(folder), (10, 30, 20), (10, 20, 20), strict=False), 1):
        folder.store.add([Label(pair, "first", "ann", response_ms=wait)])
        assert summarize(folder)["median_response_ms"] == middle, count


def test_a_pair_whose_answer_was_taken_back_is_open_again(tmp_path, folder) -> None:
    one, two, *_ = ids(folder)
    folder.store.add(
        [Label(one, "first", "ann"), Label(one, "withdrawn", "ann", revision=1), Label(two, "first", "ann")]
    )
    assert export(folder, tmp_path / "out.csv") == (1, 9)
    summary = summarize(folder)
    assert (summary["labels"], summary["answered_pairs"], summary["answers"]["first"]) == (1, 1, 1)


def test_ratings_credit_and_reasons_are_counted_and_are_part_of_the_folders_content(tmp_path, folder) -> None:
    before = summarize(folder)
    assert before["ratings"] == before["credit"] == before["skip_reasons"] == {}
    content = content_of(folder.path)
    first = folder.store.pairs()[0].pair
    judged = [Judgement("rating", first.first, "4", "ann"), Judgement("credit", first.second, "agent_0", "ann")]
    folder.store.judge([*judged, Judgement("rating", first.second, "4", "ann")])
    skipped = Label(first.id, "skip", "ann")
    folder.store.record([Post("a key", "d", (skipped,), remark=("q", "ann", "cannot tell"))])
    told = summarize(folder)
    assert told["ratings"] == {"4": 2} and told["credit"] == {"agent_0": 1}
    assert told["skip_reasons"] == {"cannot tell": 1}
    assert content_of(folder.path) != content


def test_a_copy_is_what_is_compared_without_what_a_server_has_beside_it(tmp_path, folder) -> None:
    for name in (".label.lock", "label_token", "clips/2/x.json"):
        file = folder.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("a server's")
    with ComparisonFolder(folder.path) as server:  # which has written and not closed the store
        server.store.add([Label(ids(folder)[0], "first", "ann")])
        folder.copy_to(tmp_path / "copy")
    assert content_of(tmp_path / "copy") == content_of(folder.path)
    assert not {path.name for path in (tmp_path / "copy").iterdir()} & {".label.lock", "label_token", "clips"}
    with ComparisonFolder(tmp_path / "copy") as copy:
        assert len(copy.store.labels()) == 1 and copy.copies(copy.store.pairs()).keys


def corrected(folder) -> tuple[str, str, str]:
    """One answer is corrected, and one taken back."""
    one, two, three, *_ = ids(folder)
    folder.store.add([Label(one, "withdrawn", "ann", revision=1), Label(one, "equal", "ann", revision=2)])
    folder.store.add([Label(two, "withdrawn", "ann", revision=1)])
    rated = Judgement("rating", folder.store.pairs()[0].pair.first, "4", "ann")
    folder.store.judge([replace(rated, answer="withdrawn", revision=1), replace(rated, answer="2", revision=2)])
    return one, two, three


@pytest.fixture
def twins(tmp_path, folder):
    """Two folders of the same answers, and a file of them as they were at first, in each form."""
    first = [Label(pair, "first", "ann") for pair in ids(folder)[:3]]
    folder.store.add(first)
    folder.store.judge([Judgement("rating", folder.store.pairs()[0].pair.first, "4", "ann")])
    forms = {".csv": (export, take_in), ".json": (export_everything, take_in_everything)}
    for form, (put, _) in forms.items():
        put(folder, tmp_path / f"before{form}")
    with ComparisonFolder(tmp_path / "twin", make=True) as twin:
        ask(twin, open_task(str(tmp_path / "data.safetensors")), Plan(budget=10, length=3))
        take_in_everything(twin, tmp_path / "before.json")
        yield folder, twin, forms


@pytest.mark.parametrize("form", [".csv", ".json"])
def test_an_answer_that_was_corrected_elsewhere_is_corrected_here(tmp_path, twins, form) -> None:
    folder, twin, forms = twins
    one, two, three = corrected(folder)
    put, take = forms[form]
    put(folder, tmp_path / f"after{form}")
    back = form == ".json"
    assert take(twin, tmp_path / f"after{form}") == ((3, 1) if back else (1, 1))
    assert take(twin, tmp_path / f"after{form}")[0] == 0
    answers = {label.pair_id: label.answer for label in twin.store.labels()}
    assert answers == {one: "equal", two: "withdrawn" if back else "first", three: "first"}
    if back:
        assert [judged.answer for judged in twin.store.judgements()] == ["2"]
    assert take(twin, tmp_path / f"before{form}")[0] == int(back), "what is older than a correction changes nothing"
    assert {label.pair_id: label.answer for label in twin.store.labels()}[one] == "equal"


@pytest.mark.parametrize("form", [".csv", ".json"])
def test_files_that_are_taken_in_out_of_order_leave_the_newest_answer(tmp_path, twins, form) -> None:
    folder, twin, forms = twins
    pair = ids(folder)[0]
    put, take = forms[form]
    folder.store.add([Label(pair, "withdrawn" if form == ".json" else "second", "ann", revision=1)])
    put(folder, tmp_path / f"between{form}")
    folder.store.add([Label(pair, "first", "ann", revision=2)])
    put(folder, tmp_path / f"newest{form}")
    for name in ("newest", "between", "newest", "before"):
        assert take(twin, tmp_path / f"{name}{form}")[0] == 0, name
    assert {label.pair_id: label.answer for label in twin.store.labels()}[pair] == "first"


@pytest.mark.parametrize(
    ("given", "stored", "answer"),
    [((4, 1), (2, 9), None), ((2, 1), (0, 9), 2), ((0, 9), (2, 1), 3), ((4, 5), (2, 5), 4), ((1, 5), (2, 5), None)],
)
def test_times_come_before_revisions_but_of_first_answers(given, stored, answer) -> None:
    given, stored = (
        Label("p", what, "ann", revision=revision, answered=f"2026-01-01T00:00:0{second}+00:00")
        for what, (revision, second) in (("first", given), ("second", stored))
    )
    following = onward(given, stored)
    assert (None if following is None else following.revision) == answer


@pytest.mark.parametrize("form", [".csv", ".json"])
def test_an_answer_that_contradicts_is_refused_and_a_later_one_corrects(tmp_path, twins, form) -> None:
    folder, twin, forms = twins
    file = tmp_path / f"before{form}"
    text = file.read_text()
    then = next(label.answered for label in folder.store.labels())
    told = {".csv": ("first,1.0", "second,0.0"), ".json": ('"answer": "first"', '"answer": "second"')}[form]
    file.write_text(text.replace(*told))
    with pytest.raises(BadInputError, match="ann answered 'first' to pair .* before, not 'second'"):
        forms[form][1](twin, file)
    assert {label.answer for label in twin.store.labels()} == {"first"}
    file.write_text(text.replace(*told).replace(then[:5], f"{int(then[:4]) + 4}-"))
    assert forms[form][1](twin, file)[0] == 3
    assert {label.answer for label in twin.store.labels()} == {"second"}


@pytest.mark.parametrize("form", [".csv", ".json"])
def test_accents_are_one_name_however_a_file_writes_them(tmp_path, twins, form) -> None:
    folder, twin, forms = twins
    put, take = forms[form]
    file, accents = tmp_path / f"accents{form}", ("Rene\u0301", "Ren\u00e9")
    folder.store.add([Label(pair, "skip", name) for pair, name in zip(ids(folder)[5:7], accents, strict=True)])
    put(folder, file)
    assert take(twin, file)[0] == 2 and take(twin, file)[0] == 0
    assert {label.annotator for label in twin.store.labels()} == {"ann", accents[1]}
    assert take(folder, file)[0] == 0, "where a name was of another form before, it stays"


def test_remarks_go_out_and_come_back_once(tmp_path, twins) -> None:
    folder, twin, _ = twins
    pair = ids(folder)[4]
    question = f"pair.{pair}.team.0"
    skipped = Label(pair, "skip", "ann")
    folder.store.record([Post("a key", "d", (skipped,), remark=(question, "ann", "cannot tell"))])
    export_everything(folder, tmp_path / "all.json")
    for _ in range(2):
        take_in_everything(twin, tmp_path / "all.json")
        assert twin.store.remarks() == [(question, "ann", "cannot tell")]
    assert summarize(twin)["skip_reasons"] == {"cannot tell": 1}
    text = (tmp_path / "all.json").read_text()
    for other, message in (('["a"]', "should be a question"), (f'["a", "b", "{"x" * 300}"]', "longer than")):
        (tmp_path / "bad.json").write_text(text.replace('"remarks": [', f'"remarks": [{other},'))
        with pytest.raises(BadInputError, match=message):
            take_in_everything(twin, tmp_path / "bad.json")


def test_files_of_earlier_versions_come_in(tmp_path, twins) -> None:
    import json

    folder, twin, _ = twins
    content = json.loads((tmp_path / "before.json").read_text())
    del content["taken_back"], content["remarks"]
    (tmp_path / "old.json").write_text(json.dumps(content))
    assert take_in_everything(twin, tmp_path / "old.json") == (0, 4)
    lines = [line.rpartition(",")[0] for line in (tmp_path / "before.csv").read_text().splitlines()]
    (tmp_path / "old.csv").write_text("\n".join(lines))
    assert take_in(twin, tmp_path / "old.csv") == (0, 3)
    corrected(folder)
    export(folder, tmp_path / "after.csv")
    lines = [line.rpartition(",")[0] for line in (tmp_path / "after.csv").read_text().splitlines()]
    (tmp_path / "old.csv").write_text("\n".join(lines))
    assert take_in(twin, tmp_path / "old.csv") == (1, 1), "its time says that it is newer"
