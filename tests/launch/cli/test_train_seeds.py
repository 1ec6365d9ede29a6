"""Several seeds by one command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offline_marl.runs.stopping import StoppedEarly
from offline_marl.training import seeds

Cli = Callable[..., Any]
TINY = ("--steps", 4, "--eval-every", 0, "--final-episodes", 2, "--batch-size", 8, "--hidden", "8")


def test_several_seeds_by_one_command_which_may_be_given_again(cli: Cli, team: Path) -> None:
    for _ in range(2):
        done = cli("train", "bc", "--dataset", team, *TINY, "--seeds", "0,2", "--out", "all")
        assert done.code == 0, done.error
        lines = done.out.splitlines()
        assert [line.partition("  ")[0] for line in lines] == [
            "seed 0",
            "run folder",
            "seed 2",
            "run folder",
            "compare",
        ]
        assert lines[3].endswith("all/seed2") and lines[4].endswith("report all/seed0 all/seed2 --out DIR")
    assert sorted(path.name for path in Path("all").iterdir()) == ["seed0", "seed2"]
    assert cli("resume", "all/seed2").code == 0


def test_without_out_each_goes_where_it_would_go_alone(cli: Cli, team: Path) -> None:
    assert cli("train", "bc", "--dataset", team, *TINY, "--seeds", "3..4").code == 0
    assert sorted(path.name[-5:] for path in Path("runs").iterdir()) == ["seed3", "seed4"]


def test_whoever_stops_them_is_told_how_to_go_on(cli: Cli, team: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(sessions: Any) -> None:
        raise StoppedEarly(2)

    monkeypatch.setattr(seeds, "_run", stopped)
    failed = cli("train", "bc", "--dataset", team, *TINY, "--seeds", "0..1", "--out", "all")
    assert failed.code == 143
    assert "go on with all runs by the same command, with one by `offline-marl resume RUN`" in failed.err


def test_help_names_the_flag(cli: Cli) -> None:
    shown = cli("train", "bc", "--seeds", "0..3", "--help")
    assert shown.code == 0 and "--seeds" in shown.out and "OUT/seed<seed>" in " ".join(shown.out.split())
