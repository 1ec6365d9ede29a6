"""Names with commas and equal signs, and negative numbers behind a space, on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from offline_marl.collection.config import CollectConfig
from offline_marl.core.config import ConfigError, build
from offline_marl.launch.cli.collect import CollectFlags
from offline_marl.launch.cli.crossplay import CrossplayFlags
from offline_marl.launch.cli.flags import read


def collect(*words: str) -> CollectConfig:
    made: CollectConfig = build(CollectFlags, read(CollectFlags, "collect", "", "", ["coordination", *words]))
    return made


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    name = "sweep,1/bc_lr=0.1,x=.5_seed0"
    Path(name).mkdir(parents=True)
    return name


def test_runs_of_any_name_stand_in_lists(run: str) -> None:
    for words in (["--who", f"{run},random=0.5"], [f"--who={run},random=0.5"], ["--who", run, "--who", "random=0.5"]):
        assert collect(*words, "--out", "x.safetensors").who == (run, "random=0.5")
    both = build(CrossplayFlags, read(CrossplayFlags, "crossplay", "", "", [run, f"{run}@3", "--episodes", "5"]))
    assert both.runs == [Path(run), Path(f"{run}@3")] and both.episodes == 5


@pytest.mark.parametrize("words", [["--reference", "-30,-5"], ["--reference=-30,-5"], ["--reference", "-3e1,-.5e1"]])
def test_negative_numbers_stand_behind_a_space(words: list[str]) -> None:
    assert collect(*words, "--out", "x.safetensors").reference == (-30, -5)


@pytest.mark.parametrize("value", ["-1", "-1e-3", "-.5", "-inf"])
def test_a_number_below_its_bound_is_refused_as_such(value: str) -> None:
    with pytest.raises(ConfigError, match=f"Field 'tier_tolerance' cannot be '{value}'"):
        collect("--tier-tolerance", value, "--out", "x.safetensors")


def test_a_flag_is_not_taken_for_a_number() -> None:
    with pytest.raises(ConfigError, match="Unknown flag '-x' of collect"):
        collect("-x", "--out", "x.safetensors")
