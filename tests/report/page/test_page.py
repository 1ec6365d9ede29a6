"""The page as text: complete, escaped, the same every time, small, and honest about what is not there."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from pages import NASTY, evidence, material, matrix, report, run_of

from offline_marl.report.gather.scores import LeftOut
from offline_marl.report.page.answer import sentence
from offline_marl.report.page.assemble import render, write_page
from offline_marl.report.page.crossplay import crossplay_section
from offline_marl.report.page.figures import Interval, Line, Point, interval_chart, line_chart, thin
from offline_marl.report.page.markup import Markup, number, tag
from offline_marl.report.page.material import Material, Model, collect_material
from offline_marl.report.page.models import models_section
from offline_marl.report.page.training import sample_rows
from offline_marl.report.statistics.estimates import Cell, Estimate, Evidence

EMPTY = {"meta", "link", "img", "path", "circle", "br"}


class Reader(HTMLParser):
    """Tags that open and close, ids, and the text of elements."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: Counter[str] = Counter()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, name: str, held: list[tuple[str, str | None]]) -> None:
        self.tags.append((name, dict(held)))
        self.ids.update(value for key, value in held if key == "id" and value)
        if name not in EMPTY:
            self.open.append(name)

    def handle_startendtag(self, name: str, held: list[tuple[str, str | None]]) -> None:
        self.tags.append((name, dict(held)))

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [held for each, held in self.tags if each == name]


@pytest.fixture(scope="module")
def full() -> str:
    found = evidence()
    return render(found, material(found))


def words(markup: str) -> str:
    return " ".join("".join(Reader(markup).words).split())


def test_every_part_is_there_and_every_link_leads_somewhere(full: str) -> None:
    read = Reader(full)
    assert not read.open
    titles = re.findall(r"<h2[^>]*>([^<]*)</h2>", full)
    assert titles == [
        "The answer", "Scores", "Over all tasks", "Who beats whom", "Performance profiles", "Agreement", "Cross-play",
        "Learning curves", "World models", "Settings that differ", "What was left out", "Where this comes from",
    ]  # fmt: skip
    assert set(read.ids.values()) == {1}, "ids are unique"
    assert {held["href"] for held in read.all("a")} <= {f"#{each}" for each in read.ids}


def test_parts_without_content_are_not_there() -> None:
    found = evidence(tasks=1, labels=("bc",), seeds=1)
    bare = replace(found, aggregates=(), profiles=(), comparisons=(), curves=(), notes=())
    bare = replace(
        bare, cells=(replace(found.cells[0], agreement=None),), gathered=replace(found.gathered, left_out=())
    )
    assert re.findall(r"<h2[^>]*>([^<]*)</h2>", render(bare)) == ["The answer", "Scores", "Where this comes from"]


def test_the_page_fetches_nothing_and_lets_nothing_else_run(full: str) -> None:
    read = Reader(full)
    assert "default-src 'none'" in full and len(read.all("script")) == 1
    outside = [held for _, held in read.tags if any("//" in (held.get(key) or "") for key in ("src", "href"))]
    assert not outside and "url(" not in full and "@import" not in full


def test_figures_have_alternatives_in_numbers_and_tables_have_heads(full: str) -> None:
    read = Reader(full)
    drawn = [held for held in read.all("svg") if held.get("aria-hidden") is None]
    assert len(drawn) > 8 and all(held["role"] == "img" for held in drawn)
    assert all(re.search(r"\d", held["aria-label"] or "") for held in drawn)
    assert full.count("<caption") == full.count("<table") and all(held.get("scope") for held in read.all("th"))
    assert full.count("<h1") == 1


@pytest.mark.parametrize("name", NASTY)
def test_names_never_become_markup(name: str, tmp_path: Path) -> None:
    found = evidence(labels=(f"bc {name}", "iql"), tasks=1)
    runs = tuple(
        replace(run, name=name, task=name, settings={name: name, "lr": run.seed}) for run in found.gathered.runs
    )
    left = (LeftOut(name, name),)
    cells = tuple(replace(cell, task=name, tuned_on=name) for cell in found.cells)
    curves = tuple(replace(each, task=name) for each in found.curves)
    gathered = replace(found.gathered, runs=runs, left_out=left)
    found = replace(found, gathered=gathered, cells=cells, curves=curves, notes=(name,))
    held = material(found)
    models = tuple(replace(each, name=name, report={**report(), "reasons": [name]}) for each in held.models)
    matrices = ({**matrix(), "task": name, "runs": [{"name": name}] * 4, "notes": [name]},)
    read = Reader(page := render(found, replace(held, models=models, matrices=matrices), title=name))
    assert len(read.all("script")) == 1 and not read.all("img") and not read.open
    assert name not in page and "onerror" not in {key for _, held in read.tags for key in held}
    assert page.count(name.replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")) > 20


def test_the_same_evidence_gives_the_same_bytes(full: str) -> None:
    found = evidence()
    assert render(found, material(found)) == full


def test_nothing_that_is_not_finite_comes_into_a_path() -> None:
    bad = [None, float("nan"), float("inf"), -float("inf")]
    points = [Point(step, value, value, value) for step, value in enumerate([1.0, 2.0, *bad, 3.0, 4.0])]
    drawn = line_chart([Line("iql", 0, points), Line("bc", 1, [])], "alt", "x", "y")
    drawn += interval_chart(
        [Interval("bc", 0, value, value, 1.0, bad) for value in (*bad, 0.5)], "alt", "x", marks={"a": bad[1]}
    )
    assert not re.search(r"nan|inf", drawn.replace("Infinity", "inf"), re.IGNORECASE)
    assert drawn.count('class="line s0 d0"') == 2, "broken in two where values are missing"
    found = evidence(tasks=1)
    cells = tuple(replace(each, normalized_iqm=Estimate(float("nan"))) for each in found.cells)
    assert not re.search(r'd="[^"]*(nan|inf)', render(replace(found, cells=cells)))


def test_wide_ranges_are_logarithmic_and_constant_ones_have_an_axis() -> None:
    wide = line_chart([Line("a", 0, [Point(0, 0.001), Point(1, 1000.0)])], "alt", "x", "y")
    assert ">0.01<" in wide and ">100<" in wide
    assert "M40" in line_chart([Line("a", 0, [Point(0, 5.0), Point(1, 5.0)])], "alt", "x", "y")


def test_long_lines_are_thinned_to_their_ends() -> None:
    kept = thin([Point(step, 0.0) for step in range(10_001)])
    assert len(kept) == 100 and (kept[0].x, kept[-1].x) == (0, 10_000)


def test_numbers_are_short_and_dashes_stand_for_none() -> None:
    assert [number(each) for each in (94.678, -6.2678, 5000.0, 0.91234, 123.45)] == [
        "94.68",
        "-6.27",
        "5,000",
        "0.912",
        "123.5",
    ]
    assert number(None) == number(float("nan")) == "–" and number(-0.0004, 2) == "0.00"


def test_markup_is_escaped_once() -> None:
    assert tag("p", "a < b", Markup("<b>"), title='"') == '<p title="&quot;">a &lt; b<b></p>'


def verdicts(found: Evidence, cells: list[Cell]) -> str:
    return words(sentence(found, cells))


def test_the_answer_names_a_winner_only_where_all_comparisons_allow_it() -> None:
    found = evidence(tasks=1)
    cells = list(found.cells)
    clear = verdicts(found, cells)
    assert "iql is best, 90.0 [88.0, 92.0]; its interval lies clear of every other’s" in clear
    assert "Next is bc 80.0" in clear
    doubt = tuple(replace(each, wins=each.wins and each.other != "bc") for each in found.comparisons)
    few = (
        "leads with 90.0 [88.0, 92.0], but 3 runs are too few to claim a win. Its interval lies clear of every other’s"
    )
    assert few in verdicts(replace(found, comparisons=doubt), cells)
    many = [replace(cell, seeds=tuple(range(5))) for cell in cells]
    several = (
        "iql leads with 90.0 [88.0, 92.0] and beats 1 of 2 others. The runs do not tell it from bc 80.0 [78.0, 82.0]."
    )
    assert several in verdicts(replace(found, comparisons=doubt), many)
    lacking = [replace(cell, seeds=tuple(range(2 if cell.label == "bc" else 5))) for cell in cells]
    told = verdicts(replace(found, comparisons=doubt), lacking)
    assert "beats 1 of 2 others. There are too few runs to claim a win over bc 80.0 [78.0, 82.0]." in told
    assert "do not tell" not in told
    alone = replace(found, comparisons=())
    assert "is best" in verdicts(alone, cells)
    single = [
        replace(cell, normalized_iqm=Estimate(cell.normalized_iqm.value)) for cell in cells if cell.normalized_iqm
    ]
    assert "too few to claim a win. Next is bc 80.0" in verdicts(alone, single)


def test_many_tasks_are_summed_up_first() -> None:
    page = render(evidence(tasks=6))
    assert "Best are iql on 6." in words(page)


def test_crossplay_tells_groups_and_tints_blocks() -> None:
    section = crossplay_section(matrix())
    assert section is not None
    assert "The runs fall into 2 groups" in words(section.body) and "run 0, run 1 (clockwise)" in words(section.body)
    assert section.body.count('class="n t4" data-key="90"') == 8


def test_material_is_found_beside_the_runs(tmp_path: Path) -> None:
    run = tmp_path / "sweep" / "bc-0"
    (model := run / "world_model").mkdir(parents=True)
    (run / "checkpoints").mkdir()
    (model / "report.json").write_text(json.dumps(report()))
    (run / "checkpoints" / "report.json").write_text(json.dumps(report()))
    (tmp_path / "crossplay.json").write_text(json.dumps(matrix()))
    (tmp_path / "sweep" / "crossplay.json").write_text("{broken")
    conventions = {
        "names": ["left", "right"],
        "followed": [[0, 0], [1, 0], [-1, -1]],
        "targets": [[0, 1], [1, 0], [1, 1]],
    }
    (run / "DONE").write_text(json.dumps({"conventions": conventions}))
    (run / "metrics.csv").write_text("step,wall_s,loss/actor\n10,0.1,1.5\n20,0.2,nan\n30,0.3,oops\n")
    (run / "video.mp4").write_bytes(b"film")
    (run / "video.png").write_bytes(b"frames")
    found = evidence(tasks=1, labels=("bc",), seeds=1)
    held = replace(
        found, gathered=replace(found.gathered, runs=(run_of("reacher-scripted-mix-v0_view0", "bc", 0, 90.0, run),))
    )
    seen = collect_material(held, [tmp_path])
    assert [each.name for each in seen.models] == ["sweep/bc-0/world_model"] and len(seen.matrices) == 1
    assert [(each.name, each.why) for each in seen.damaged] == [
        ("sweep/crossplay.json", "no cross-play matrix can be read from it")
    ]
    assert seen.ends[0].ways() == ["left", "apart", "apart"] and seen.media == ()
    assert sample_rows(run / "metrics.csv")[0] == {"step": 10.0, "wall_s": 0.1, "loss/actor": 1.5}
    page = write_page(held, [tmp_path], tmp_path / "report.html", videos=True).read_text()
    assert "data:video/mp4;base64,ZmlsbQ==" in page and "data:image/png;base64,ZnJhbWVz" in page
    assert "bc: 1 metric" in page and collect_material(held, [run / "DONE"]) != Material()


@pytest.mark.parametrize(("steps", "shown"), [(6, False), (10, True)])
def test_models_of_short_episodes_show_no_error_ten_steps_ahead(steps: int, shown: bool) -> None:
    curves = {name: [0.625] * steps for name in ("error", "nothing_changes")}
    section = models_section([Model("m", {**report(), "open_loop": {"steps": [*range(1, steps + 1)], **curves}})])
    assert section is not None and ("<td" in section.body)
    assert (re.search(r"<td[^>]*>0\.625", section.body) is not None) == shown


def test_two_hundred_runs_are_quick_and_small() -> None:
    found = evidence(tasks=4, labels=tuple(f"algorithm {number}" for number in range(10)), seeds=5)
    assert len(found.gathered.runs) == 200
    begun = time.process_time()
    page = render(found, material(found))
    assert time.process_time() - begun < 5 and len(page) < 2_000_000


def test_scores_that_are_alike_are_level_and_lead_nothing() -> None:
    found = evidence(tasks=2, seeds=5)
    one, other, third = (cell for cell in found.cells if cell.task == found.tasks[0])
    level = [one, replace(other, normalized_iqm=one.normalized_iqm), third]
    assert verdicts(found, level).endswith(": bc and iql are level at 90.0. Next is ma-iql 70.0 [68.0, 72.0].")
    three = [one, *(replace(each, normalized_iqm=one.normalized_iqm) for each in (other, third))]
    assert verdicts(found, three).endswith(": bc, iql and ma-iql are level at 90.0.")
    overall = tuple(replace(each, iqm=found.aggregates[0].iqm) for each in found.aggregates[:2])
    page = words(render(replace(found, aggregates=overall)))
    assert "Over all 2 tasks: bc and iql are level at 90.0." in page


def test_an_interval_that_was_withheld_meets_nothing() -> None:
    found = replace(evidence(tasks=1), comparisons=())
    first, other, _ = found.cells
    alone = replace(other, normalized_iqm=Estimate(80.0), seeds=(0,))
    said = verdicts(found, [first, alone])
    assert "meets" not in said and "Next is bc 80.0; of one run no interval can be given." in said


def test_tables_of_best_evaluations_say_so_themselves() -> None:
    scored = "best of 5 evaluations (chosen on the test environment)"
    page = render(replace(evidence(), scored=scored))
    captions = re.findall(r"<caption[^>]*>([^<]*)</caption>", page)
    told = [each for each in captions if each.startswith(("Scores on", "Aggregates", "Probability"))]
    assert len(told) > 3 and all(each.endswith(scored) for each in told)
    assert page.count(f'<span class="below">3 runs each, {scored}') == 2
    assert scored not in render(evidence())


def test_names_turn_no_direction_and_long_ones_are_broken() -> None:
    found = evidence(labels=("a\u202eb\x1b[31m", "y" * 300))
    page = render(found)
    assert "\u202e" not in page and "\x1b" not in page and "a\ufffdb" in page
    assert '<th scope="col" class="n broken">' in page and '<th scope="row" class="broken">' in page


def test_a_row_that_is_not_there_is_not_spoken_of() -> None:
    found = evidence()
    bare = replace(found, cells=tuple(replace(each, data_return=None, data_normalized=None) for each in found.cells))
    assert "The last row is the data’s own" in render(found) and "last row" not in render(bare)


@pytest.mark.parametrize(("value", "shown"), [(1e-6, "1e-06"), (0.00125, "0.00125"), (2e30, "2e+30"), (0.05, "0.050")])
def test_numbers_of_any_size_show_something_and_not_too_much(value: float, shown: str) -> None:
    assert number(value) == shown and number(-value) == f"-{shown}"


def test_figures_of_very_many_labels_draw_the_best_and_say_so() -> None:
    found = evidence(tasks=2, labels=tuple(f"iql, lr {number}" for number in range(20)))
    page = render(found)
    said = "Drawn are the best 8 of 20; evidence.json holds all."
    profiles, curves = (page.partition(f'id="{name}"')[2].partition("</section>")[0] for name in ("profiles", "curves"))
    assert said in profiles and said in curves and "Drawn are" not in render(evidence())
    assert "iql, lr 7" in profiles and "iql, lr 8" not in profiles and "iql, lr 8" not in curves


@pytest.mark.parametrize(
    "fault", [{"summary": {"self_play": [1]}}, {"return_low": 3}, {"groups": 5}, {"runs": [1, 2, 3, 4]}]
)
def test_an_edited_matrix_costs_no_page(fault: dict[str, object], tmp_path: Path) -> None:
    good = {**matrix(), "normalized_return": None, "return": matrix()["normalized_return"]}
    (tmp_path / "crossplay.json").write_text(json.dumps({**good, **fault}))
    found = evidence()
    page = render(found, collect_material(found, [tmp_path]))
    assert 'id="crossplay-1"' not in page and "cross-play matrix" in page.partition('id="left-out"')[2]


@pytest.mark.parametrize("fault", [{"reasons": 5}, {"open_loop": [1]}, {"rewards": {"bias_open_loop": [1]}}])
def test_an_edited_report_costs_no_page(fault: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps({**report(), **fault}))
    found = evidence()
    page = render(found, collect_material(found, [tmp_path]))
    assert "report of a world model was edited" in page or 'id="models"' in page


@pytest.mark.parametrize(
    "conventions", [[1], {"names": ["a"]}, {"names": ["a"], "followed": [[7, 7]]}, {"names": ["a"], "followed": [[]]}]
)
def test_edited_conventions_cost_no_page(conventions: object, tmp_path: Path) -> None:
    (tmp_path / "DONE").write_text(json.dumps({"conventions": conventions}))
    found = evidence(tasks=1, labels=("bc",), seeds=1)
    run = replace(found.gathered.runs[0], folder=tmp_path)
    found = replace(found, gathered=replace(found.gathered, runs=(run,)))
    assert collect_material(found, [tmp_path]).ends == ()
