"""docs/sweeps.md: its file is the example and becomes the jobs that it says, its commands have the flags named."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from offline_marl.launch.cli import main
from offline_marl.launch.sweeps.file import Axes, Optuna, SweepFile, read_sweep_file
from offline_marl.launch.sweeps.plan import plan
from offline_marl.launch.sweeps.studies import plan_studies
from offline_marl.launch.sweeps.table import FIGURES

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "sweeps.md").read_text()
EXAMPLE = ROOT / "examples" / "sweep.toml"
TUNE = ROOT / "examples" / "tune.toml"


def test_the_file_on_the_page_is_the_example():
    assert f"```toml\n{EXAMPLE.read_text()}```" in PAGE


def test_the_example_becomes_as_many_jobs_as_the_page_says():
    jobs = plan(read_sweep_file(EXAMPLE))
    # bc, iql, moma-ppo, and a world model for each data set.
    assert len(jobs) == 2 * 3 * 2 + 2 * 3 * 2 * 8 + 2 * 5 * 2 + 2
    assert f"{len(jobs)} jobs" in PAGE


def test_the_file_that_is_tuned_is_on_the_page_and_becomes_as_many_trials_as_it_says():
    assert f"```toml\n{TUNE.read_text()}```" in PAGE
    assert plan(read_sweep_file(TUNE)) == []
    (study,) = plan_studies(read_sweep_file(TUNE))
    assert f"{study.asked.trials} trials of {('two', 'three')[len(study.runs) - 2]} seeds" in PAGE
    told = set(re.findall(r"`(\w+)`|^(\w+) =", PAGE, re.MULTILINE))
    assert set(Optuna.model_fields) - {"fields"} <= {name for pair in told for name in pair}


def test_the_page_names_every_key_of_the_file():
    told = set(re.findall(r"`\[?(\w+)(?:\.NAME)?\]?`", PAGE))
    assert set(SweepFile.model_fields) | set(Axes.model_fields) <= told


def test_the_page_names_every_figure_of_the_table():
    for name in FIGURES:
        if not name.endswith(("_low", "_high", "random_return")):
            assert f"`{name}`" in PAGE


@pytest.mark.parametrize("command", re.findall(r"^offline-marl (sweep .*?)(?: +#.*)?$", PAGE, re.MULTILINE))
def test_the_flags_on_the_page_exist(command, capsys):
    _, *words = shlex.split(command)
    first = words[0] if words[0] in {"status", "retry", "cancel", "collect", "best"} else "x.toml"
    with pytest.raises(SystemExit) as end:
        main(["sweep", first, "--help"])
    assert end.value.code == 0
    page = capsys.readouterr().out
    assert all(word in page for word in words if word.startswith("--"))
