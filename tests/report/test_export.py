"""Files of a report: their columns, their fields, and marl-eval's form."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from finished import folder, run

from offline_marl.report.export import export, marl_eval
from offline_marl.report.gather.gathering import gather
from offline_marl.report.gather.scores import Gathered
from offline_marl.report.statistics.summary import summarize

pytest.importorskip("rliable")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("report")
    for seed in (0, 1):
        for lr in (0.1, 0.2):
            told = {"return": -1.0, "normalized_return": -10.0}
            folder(place / f"bc_{lr}_{seed}", lr * 10 + seed, seed=seed, settings={"lr": lr}, data=told)
    (place / "bc_0.1_0" / "tuned.json").write_text('{"seeds": [7], "metric": "return", "configurations": 3}')
    folder(place / "going", done=False)
    export(summarize(gather([place]), reps=100), place / "out" / "deep")
    return place / "out" / "deep"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_scores_have_a_row_for_each_run(report: Path) -> None:
    table = rows(report / "scores.csv")
    assert [(row["run"], row["label"], row["lr"], row["seed"]) for row in table] == [
        ("bc_0.1_0", "bc, lr 0.1", "0.1", "0"),
        ("bc_0.1_1", "bc, lr 0.1", "0.1", "1"),
        ("bc_0.2_0", "bc, lr 0.2", "0.2", "0"),
        ("bc_0.2_1", "bc, lr 0.2", "0.2", "1"),
    ]
    first = table[0]
    assert (first["return"], first["normalized_return"], first["data_return"]) == ("1.0", "10.0", "-1.0")
    assert (first["budget"], first["step"], first["scored"]) == ("20", "20", "last checkpoint at the declared budget")
    assert first["tuned_on"] == "tuned on seeds 7: best return of 3 settings" and table[1]["tuned_on"] == ""
    assert (first["commit"], first["dataset_sha256"]) == ("abc", "5e")


def test_summary_has_a_row_for_each_label_on_each_task(report: Path) -> None:
    table = rows(report / "summary.csv")
    assert [(row["task"], row["label"], row["runs"], row["seeds"]) for row in table] == [
        ("toy", "bc, lr 0.1", "2", "0 1"),
        ("toy", "bc, lr 0.2", "2", "0 1"),
    ]
    row = table[0]
    assert (row["mean_return"], row["mean_return_low"], row["mean_return_high"]) == ("1.5", "1.0", "2.0")
    assert row["iqm_normalized"] == "15.0" and row["agreement"] == "0.5" and row["data_normalized"] == "-10.0"
    assert row["tuned_on"].startswith("tuned on seeds 7")


def test_everything_is_json_that_any_reader_takes(report: Path) -> None:
    held = json.loads((report / "evidence.json").read_text(), parse_constant=pytest.fail)
    assert held["format"] == 1 and held["reps"] == 100 and held["seed"] == 0
    assert len(held["gathered"]["runs"]) == 4 and held["gathered"]["varied"] == ["lr"]
    assert held["gathered"]["left_out"] == [{"name": "going", "why": "unfinished: 20 of 20 updates"}]
    assert set(held) >= {"cells", "aggregates", "profiles", "comparisons", "curves", "notes", "scored"}
    assert held["cells"][0]["mean"] == {"value": 1.5, "low": 1.0, "high": 2.0}


def test_marl_evals_form_field_by_field(report: Path) -> None:
    held = json.loads((report / "marl_eval.json").read_text())
    assert list(held) == ["unknown"] and list(held["unknown"]) == ["toy"]
    algorithms = held["unknown"]["toy"]
    assert list(algorithms) == ["bc; lr 0.1", "bc; lr 0.2"]  # no commas
    for runs in algorithms.values():
        assert list(runs) == ["run_0", "run_1"]
        for each in runs.values():
            assert list(each) == ["step_0", "step_1", "absolute_metrics"]
            assert [each[step]["step_count"] for step in ("step_0", "step_1")] == [10, 20]
            for place in ("step_0", "step_1", "absolute_metrics"):
                for metric in {"return", "normalized_return", "agreement"}:
                    assert isinstance(each[place][metric], list) and isinstance(each[place][metric][0], float)
    assert algorithms["bc; lr 0.2"]["run_1"]["absolute_metrics"]["return"] == [3.0]


def test_marl_evals_environments_are_those_of_the_data_and_rows_have_one_step() -> None:
    made = run("bc", "A", 0, 1.0, provenance={"dataset_versions": {"env_id": "Reacher-v5"}})
    held = marl_eval(summarize(Gathered((made,)), reps=100))
    step = {"step_count": 100, "return": [1.0], "normalized_return": [1.0]}
    absolute = {"return": [1.0], "normalized_return": [1.0]}
    assert held == {"Reacher-v5": {"A": {"bc": {"run_0": {"step_0": step, "absolute_metrics": absolute}}}}}


def test_marl_evals_names_hold_no_commas() -> None:
    data = {"dataset_versions": {"env_id": "own:make, fast"}}
    made = [run("bc, lr 0.1", "d.safetensors, online", seed, 1.0, provenance=data) for seed in (0, 1)]
    held = marl_eval(summarize(Gathered(tuple(made)), reps=100))
    assert list(held) == ["own:make; fast"] and list(held["own:make; fast"]) == ["d.safetensors; online"]
    assert {name: list(runs) for name, runs in held["own:make; fast"]["d.safetensors; online"].items()} == {
        "bc; lr 0.1": ["run_0", "run_1"]
    }


def test_a_report_is_written_over_an_earlier_one_and_leaves_no_parts(report: Path) -> None:
    before = (report / "evidence.json").read_text()
    export(summarize(Gathered((run("bc", "A", 0, 1.0),)), reps=100), report.parent / "again")
    export(summarize(Gathered((run("bc", "A", 0, 2.0),)), reps=100), report.parent / "again")
    assert '"2.0"' not in before and re.search(r",2\.0,", (report.parent / "again" / "scores.csv").read_text())
    assert sorted(path.name for path in (report.parent / "again").iterdir()) == [
        "evidence.json",
        "marl_eval.json",
        "scores.csv",
        "summary.csv",
    ]
