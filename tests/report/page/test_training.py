"""Figures of training: which updates the mean over runs of a label is drawn at."""

from __future__ import annotations

from pathlib import Path

from pages import run_of

from offline_marl.report.page.training import MOST_ROWS, _series


def logged(folder: Path, rows: int, value: float) -> Path:
    """A folder whose metrics.csv has a row of one value every ten updates."""
    folder.mkdir()
    lines = [f"{10 * (row + 1)},{value}\n" for row in range(rows)]
    (folder / "metrics.csv").write_text("".join(["step,loss/actor\n", *lines]))
    return folder


def test_losses_of_runs_of_different_lengths_are_drawn_at_updates_that_all_of_them_logged(tmp_path: Path) -> None:
    runs = [
        run_of("t", "bc", seed, 1.0, logged(tmp_path / str(seed), rows, float(seed)))
        for seed, rows in enumerate((1000, 1303, 777))
    ]
    points = _series(runs)["loss/actor"]["t", "bc"]
    assert len(points) == MOST_ROWS and (points[0].x, points[-1].x) == (10, 7770)
    assert {point.y for point in points} == {1.0}, "the mean over all three"
