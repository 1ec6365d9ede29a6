"""Scales of scores: what is normalised by different reference scores is not compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import finished
import pytest
from finished import run

from offline_marl.report.gather.gathering import gather
from offline_marl.report.gather.scales import drop_unlike_scales, scale_of


def folder(path: Path, algorithm: str, reference: tuple[float, float] | None, **task: Any) -> Path:
    """A finished run whose task.json names its reference scores."""
    made = finished.folder(path, algorithm=algorithm, data={"return": 0.5, "normalized_return": 50.0})
    about = None if reference is None else {"random": reference[0], "expert": reference[1], "note": ""}
    (made / "task.json").write_text(json.dumps({"reference": about, **task}))
    return made


def test_scores_of_unlike_reference_scores_are_compared_raw(tmp_path: Path) -> None:
    folder(tmp_path / "bc", "bc", (-1.0, 6.0))
    folder(tmp_path / "iql", "iql", (-20.0, 6.0))
    gathered = gather([tmp_path])
    assert "Returns on toy are not normalized: its runs name different reference scores." in gathered.notes
    for each in gathered.runs:
        figures = [each.score, *each.curve, each.best or {}]
        assert [figure["normalized_return"] for figure in figures] == [None] * len(figures)
        assert each.score["return"] == 1.0
        assert (each.data_return, each.data_normalized) == (0.5, None)


def test_scores_of_one_scale_stay_normalized(tmp_path: Path) -> None:
    folder(tmp_path / "bc", "bc", (-1.0, 6.0))
    folder(tmp_path / "iql", "iql", (-1.0, 6.0))
    folder(tmp_path / "old", "cql", None)
    gathered = gather([tmp_path])
    assert not gathered.notes
    assert [(each.score["normalized_return"], each.data_normalized) for each in gathered.runs] == [(10.0, 50.0)] * 3


def test_a_run_that_was_scored_elsewhere_stands_beside_no_data(tmp_path: Path) -> None:
    for name, scenario, data in (("there", "spread", (None, None)), ("untold", None, (0.5, 50.0))):
        folder(tmp_path / name, "bc", (-1.0, 6.0), elsewhere=True, scenario=scenario)
        (only,) = gather([tmp_path / name]).runs
        assert (only.data_return, only.data_normalized) == data


@pytest.mark.parametrize(("cells", "unlike"), [(('"[-1, 6]"', '"[-1, 6]"'), False), (('"[-1, 6]"', ""), True)])
def test_rows_of_tables_tell_their_reference_scores(tmp_path: Path, cells: tuple[str, str], unlike: bool) -> None:
    rows = [f"{name},t,0,10,1.0,50.0,{cell}" for name, cell in zip(("bc", "iql"), cells, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["algo,dataset,seed,step,return,normalized_return,reference", *rows]))
    gathered = gather([tmp_path / "t.csv"])
    assert [each.score["normalized_return"] is None for each in gathered.runs] == [unlike] * 2


def test_lengths_of_episodes_that_differ_within_a_task_are_noted() -> None:
    runs = [run("bc", "t", 0, 1.0, settings={"max_steps": 5}), run("iql", "t", 0, 2.0, settings={"max_steps": None})]
    assert drop_unlike_scales(runs)[1] == ["Runs on t have another max_steps each, which is compared too: 5, none."]
    folders = [run(name, "t", 0, 1.0, settings={"env_settings": value}) for name, value in (("bc", {}), ("iql", None))]
    assert not drop_unlike_scales(folders)[1]


def test_a_scale_is_two_numbers() -> None:
    assert scale_of({"random": -1, "expert": 2.5}) == scale_of(None, [-1, 2.5]) == (-1.0, 2.5)
    for record, given in ((None, None), ({"random": 1}, None), ("x", [1, "b"]), (None, "1,2")):
        assert scale_of(record, given) is None
