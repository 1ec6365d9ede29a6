"""`offline-marl label`: what it refuses, which folder it means, and labels that go elsewhere and come back."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
from compared import compare, small_reward
from worlds import saved, world

from offline_marl.labelling import serve
from offline_marl.launch.cli import main
from offline_marl.preferences.answers import AnswerStore, Judgement
from offline_marl.preferences.label_store import NAME
from offline_marl.preferences.labels import Label
from offline_marl.training.preferences.folders import ComparisonFolder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return saved(tmp_path_factory.mktemp("data"), world("continuous", episodes=20))


@pytest.fixture
def folder(tmp_path, data):
    return compare(tmp_path / "pairs", data, budget=20)


def label(capsys, *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["label", *map(str, words)])
    out, err = capsys.readouterr()
    return int(str(end.value.code)), out, err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["PLACE", "--no-token", "--host", "0.0.0.0"], "--no-token would let everybody in"),
        (["PLACE", "--ask", "pairs,pairs"], "--ask names what to ask, each once"),
        (["PLACE", "--ask", "bananas"], "ask"),
        (["PLACE", "--target", "agent_9"], "is no target of a label"),
        (["PLACE", "--port", "70000"], "port"),
        (["PLACE", "--host", "203.0.113.7"], "Nothing can listen on 203.0.113.7"),
        (["PLACE", "--export", "x.txt"], "should end in .csv or .json"),
        (["PLACE", "--export", "x.csv", "--import", "y.csv"], "exclude each other"),
        (["PLACE", "--import", "y.csv", "--target", "agents"], "need one: --target team, or agent_0"),
        (["PLACE", "--export", "x.csv", "--target", "agent_7"], "is no target of a label"),
        (["PLACE", "--import", "missing.json"], "missing.json cannot be read"),
        (["PLACE", "--lease", "60"], "--lease 60 could not be kept: the page renews what it shows every minute"),
        (["PLACE", "--budget", "7"], "--budget is about pairs to draw of a data set, and"),
        (["PLACE", "--conf", "2x1"], "--conf is about pairs to draw of a data set, and"),
        (["PLACE/..", "--receive"], "is there, and no folder of comparisons"),
        (["nothing-of-that-name"], "nothing-of-that-name"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(capsys, folder, words, said) -> None:
    code, _, err = label(capsys, *(word.replace("PLACE", str(folder)) for word in words))
    assert code == 2 and said in err and len(err.splitlines()) == 1


def test_a_port_that_is_taken_and_a_folder_that_is_served_are_refused(capsys, folder) -> None:
    from offline_marl.labelling.serve import alone

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, _, err = label(capsys, folder, "--port", taken.getsockname()[1])
        assert code == 2 and "Nothing can listen" in err and "--port" in err
    with alone(folder):
        code, _, err = label(capsys, folder, "--port", "0")
        assert code == 2 and "Another server asks about" in err


def test_the_page_needs_its_extra_and_files_do_not(capsys, folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, _, err = label(capsys, folder)
    assert code == 2 and "pip install 'offline-marl[label]'" in err
    assert label(capsys, folder, "--export", tmp_path / "out.csv")[0] == 0


def test_a_run_names_the_folder_that_it_learned_from_and_data_begin_one(tmp_path, data, folder) -> None:
    from offline_marl.core.types import DataError
    from offline_marl.labelling.places import begin_folder, find_folder

    reward = small_reward(tmp_path / "reward", data, folder).folder
    assert find_folder(folder) == folder and find_folder(reward) == folder
    assert find_folder(tmp_path / "nowhere") is None
    made = begin_folder(tmp_path / "new", data, 20, None, 0)
    assert made is not None and made.pairs == 20
    assert begin_folder(tmp_path / "new", data, 20, None, 0) is None, "it is gone on with"
    with pytest.raises(DataError, match="asks about"):
        begin_folder(tmp_path / "new", f"{data}x", 20, None, 0)
    inside = tmp_path / "run"
    (inside / "comparisons").mkdir(parents=True)
    (inside / "config.json").write_text((reward / "config.json").read_text())
    AnswerStore(inside / "comparisons" / NAME, make=True).close()
    assert find_folder(inside) == inside / "comparisons"


def test_pairs_are_drawn_as_the_user_says_or_not_at_all(capsys, tmp_path, data) -> None:
    drawn = [data, "--out", tmp_path / "new", "--budget", "6", "--length", "3", "--seed", "1"]
    for times in range(2):
        file = tmp_path / f"{times}.csv"
        assert label(capsys, *drawn, "--export", file)[0] == 0, "the same command goes on"
    assert label(capsys, *drawn[:3], "--export", tmp_path / "again.csv")[0] == 0
    for flag, other in (("--budget", "500"), ("--length", "7"), ("--seed", "0")):
        code, _, err = label(capsys, *drawn[:3], flag, other, "--export", tmp_path / "other.csv")
        assert code == 2 and f"leave {flag} {other} away" in err and not (tmp_path / "other.csv").exists()


def test_a_start_with_too_little_data_can_be_tried_again_with_fewer_pairs(capsys, tmp_path, data) -> None:
    words = [data, "--out", tmp_path / "new", "--export", tmp_path / "all.csv"]
    code, _, err = label(capsys, *words, "--budget", "5000")
    assert code == 2 and "ask for fewer" in err
    code, out, _ = label(capsys, *words, "--budget", "4")
    assert code == 0 and "4 drawn from" in out and "4 pairs without" in out


def test_a_folder_is_made_to_receive_pairs(capsys, tmp_path) -> None:
    place = tmp_path / "from elsewhere"
    for _ in range(2):
        code, out, _ = label(capsys, place, "--receive", "--export", tmp_path / "all.csv", "--overwrite")
        assert code == 0 and "0 answers, 0 pairs" in out
    code, _, err = label(capsys, place, "--receive", "--target", "agents", "--port", "0")
    assert code == 2 and "name one, --target agent_0" in err


def test_a_run_is_not_left_waiting_for_its_pairs(capsys, tmp_path) -> None:
    with AnswerStore(tmp_path / NAME, make=True) as store:
        store.state({"data": {"key": "run:1", "spec": {"obs_dims": [2, 2]}}})
    code, _, err = label(capsys, tmp_path, "--ask", "ratings", "--port", "0")
    assert code == 2 and "A run waits for answers to its pairs: --ask names pairs too" in err


def test_everything_goes_elsewhere_and_comes_back_once(capsys, tmp_path, folder, data) -> None:
    with ComparisonFolder(folder) as opened:
        pairs = [one.pair for one in opened.store.pairs()]
        opened.store.judge([Judgement("rating", pairs[0].first, "4", "ann", target="agent_1")])
        opened.store.judge([Judgement("credit", pairs[1].first, "agent_0", "ann")])
        opened.store.add([Label(pairs[2].id, "skip", "ann"), Label(pairs[3].id, "first", "ann")])
        opened.store.add([Label(pairs[3].id, "withdrawn", "ann", revision=1)])
    code, out, _ = label(capsys, folder, "--export", tmp_path / "all.json")
    assert code == 0 and "23 answers" in out
    assert label(capsys, folder, "--export", tmp_path / "all.json")[0] == 2, "it is there already"
    assert "0 new, 23 were there" in label(capsys, folder, "--import", tmp_path / "all.json")[1]
    other = compare(tmp_path / "other", data, budget=20, error_rate=0.5)
    with ComparisonFolder(other) as opened:
        held = len(opened.store.labels())
    code, _, err = label(capsys, other, "--import", tmp_path / "all.json")
    assert code == 2 and "before, not" in err, "the same teacher answered otherwise here"
    with ComparisonFolder(other) as opened:
        assert len(opened.store.labels()) == held and opened.store.judgements() == [], "all or none"
    content = json.loads((tmp_path / "all.json").read_text())
    content["labels"] = [row for row in content["labels"] if row["annotator"] == "ann"]
    (tmp_path / "ann.json").write_text(json.dumps(content))
    assert "3 new, 0 were there" in label(capsys, other, "--import", tmp_path / "ann.json")[1]
    with ComparisonFolder(other) as opened:
        assert {(one.kind, one.answer, one.target) for one in opened.store.judgements()} == {
            ("rating", "4", "agent_1"),
            ("credit", "agent_0", "team"),
        }


def rated(content, change=lambda key: key) -> dict[str, object]:
    return {"kind": "rating", "segment": change(content["labels"][0]["first"]), "answer": "3", "annotator": "ann"}


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(kind="something else"),
        lambda content: content.update(labels="many"),
        lambda content: content["labels"].append({"pair_id": "x"}),
        lambda content: content["labels"].append([]),
        lambda content: content["labels"][0].update(answer="banana"),
        lambda content: content["labels"][0].update(answer=["first"]),
        lambda content: content["labels"][0].update(repeat="0"),
        lambda content: content["labels"][0].update(target="agent_7"),
        lambda content: content["labels"][0].update(pair_id="0" * 32),
        lambda content: content["labels"][0].update(more=1),
        lambda content: content["judgements"].append({"kind": "rating", "segment": ["x"], "answer": "1"}),
        lambda content: content.update(data={"key": "other", "spec": {}}),
        lambda content: content["labels"][0].update(annotator="\ud800"),
        lambda content: content["labels"][0].update(annotator="A\nnn"),
        lambda content: content["labels"][0].update(shown_order="mirrored"),
        lambda content: content["labels"][0].update(first=["x", float("inf"), 0, 1], second=["x", 0, 0, 1]),
        lambda content: content["labels"][0].update(first=["x", 10**30, 0, 1], second=["x", 0, 0, 1]),
        lambda content: content["judgements"].append(rated(content, lambda key: [key[0], key[1] + 0.9, *key[2:]])),
        lambda content: content["judgements"].append(rated(content, lambda key: [key[0], float("inf"), *key[2:]])),
        lambda content: content["judgements"].append(rated(content, lambda key: [key[0], 1e30, *key[2:]])),
        lambda content: content["judgements"].append(
            rated(content) | {"kind": "credit", "answer": "agent_1", "target": "agent_0"}
        ),
        lambda content: content.update(remarks=[["q", "ann", "\udfff"]]),
    ],
)
def test_files_that_were_edited_badly_are_refused_whole(capsys, tmp_path, folder, data, change) -> None:
    file = tmp_path / "all.json"
    label(capsys, folder, "--export", file)
    content = json.loads(file.read_text())
    for row in content["labels"]:
        row["annotator"] = "new"
    change(content)
    file.write_text(json.dumps(content))
    with ComparisonFolder(folder) as opened:
        before = opened.store.cursor()
    code, _, err = label(capsys, folder, "--import", file)
    assert code == 2 and len(err.splitlines()) == 1
    with ComparisonFolder(folder) as opened:
        assert opened.store.cursor() == before


def test_a_spreadsheet_goes_out_and_comes_back(capsys, tmp_path, data) -> None:
    from offline_marl.labelling.places import begin_folder

    begin_folder(tmp_path / "open", data, 20, 3, 0)
    code, out, _ = label(capsys, tmp_path / "open", "--export", tmp_path / "open.csv")
    assert code == 0 and "20 pairs without" in out
    lines = (tmp_path / "open.csv").read_text().splitlines()
    columns = lines[0].split(",")
    filled = [line.split(",") for line in lines[1:]]
    for row in filled:
        row[columns.index("answer")] = "second"
    (tmp_path / "open.csv").write_text("\n".join([lines[0], *(",".join(row) for row in filled)]))
    code, out, _ = label(capsys, tmp_path / "open", "--import", tmp_path / "open.csv", "--annotator", "cas")
    assert code == 0 and "20 new" in out


HELP = """
import sys
from offline_marl.launch.cli import main
try:
    main(["label", "--help"])
except SystemExit:
    print({"torch", "starlette", "uvicorn"} & set(sys.modules))
"""


def test_files_are_about_the_target_that_is_named(capsys, tmp_path, folder) -> None:
    file = tmp_path / "open.csv"
    code, out, _ = label(capsys, folder, "--export", file, "--target", "agent_1")
    assert code == 0 and "20 questions without" in out
    head, *lines = file.read_text().splitlines()
    named = [dict(zip(head.split(","), line.split(","), strict=True)) for line in lines]
    still_open = [line["pair_id"] for line in named if not line["answer"] and line["target"] == "agent_1"]
    assert len(still_open) == 20
    file.write_text(f"pair_id,answer,annotator\n{still_open[0]},first,ann\n")
    assert "1 new" in label(capsys, folder, "--import", file, "--target", "agent_1")[1]
    with ComparisonFolder(folder) as opened:
        assert [one.target for one in opened.store.labels() if one.annotator == "ann"] == ["agent_1"]


@pytest.mark.parametrize(("kinds", "labelled"), [("ratings,credit", False), ("ratings", True), ("pairs", False)])
def test_who_asks_no_pairs_is_told_what_fit_reward_needs(
    capsys, tmp_path, folder, data, monkeypatch, kinds, labelled
) -> None:
    if not labelled:
        assert label(capsys, data, "--out", tmp_path / "new", "--budget", "6", "--export", tmp_path / "new.csv")[0] == 0
    monkeypatch.setattr(serve, "make_server", lambda *given: SimpleNamespace(run=lambda sockets: sockets[0].close()))
    code, out, _ = label(capsys, folder if labelled else tmp_path / "new", "--ask", kinds, "--port", "0")
    noted = "fit-reward needs labels of pairs beside these: --ask pairs,ratings,credit" in out
    assert code == 0 and noted is (kinds == "ratings,credit")


def test_help_needs_neither_torch_nor_the_server() -> None:
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "set()", done.stderr
