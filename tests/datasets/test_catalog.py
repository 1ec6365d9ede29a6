from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from offline_marl.core.partition import SCENARIOS
from offline_marl.core.reference import Reference
from offline_marl.datasets.catalog import CATALOG, UnknownDatasetError, find, home, path_of
from offline_marl.environments import registry


def test_normalised_returns_are_zero_at_random_and_a_hundred_at_expert() -> None:
    reference = Reference(random=-11.144625, expert=-4.2370844)
    assert reference.normalized(-11.144625) == 0.0
    assert reference.normalized(-4.2370844) == 100.0
    # Halfway: (-11.144625 - 4.2370844) / 2 = -7.6908547
    assert reference.normalized(-7.6908547) == pytest.approx(50.0, abs=1e-5)


def test_every_entry_is_under_its_own_name_and_of_a_known_body_or_environment() -> None:
    for name, entry in CATALOG.items():
        assert entry.name == name and entry.scenario in {*SCENARIOS, *registry.names()}
        assert entry.summary and entry.reference.expert > entry.reference.random


def test_the_scripted_reacher_sets_are_2000_episodes_at_three_noise_levels() -> None:
    sets = {name: entry.recipe for name, entry in CATALOG.items() if name.startswith("reacher-scripted-")}
    assert {name.split("-")[2] for name in sets} == {"clockwise", "counterclockwise", "mix"}
    for recipe in sets.values():
        assert recipe.episodes == 2_000 and recipe.noise == (0.05, 0.15, 0.4)
    assert sets["reacher-scripted-mix-v0"].experts == ("clockwise", "counterclockwise")


def test_an_unknown_name_is_answered_with_the_closest_and_the_list() -> None:
    with pytest.raises(UnknownDatasetError) as caught:
        find("reacher-scripted-mixed-v0")
    message = str(caught.value)
    assert "Unknown data set 'reacher-scripted-mixed-v0': did you mean 'reacher-scripted-mix-v0'?" in message
    assert all(name in message for name in CATALOG)
    assert find("reacher-scripted-mix-v0") is CATALOG["reacher-scripted-mix-v0"]


def test_home_is_the_folder_that_the_environment_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OFFLINE_MARL_HOME", str(tmp_path))
    assert home() == tmp_path
    assert path_of("x-v0") == tmp_path / "datasets" / "x-v0.safetensors"
    monkeypatch.setenv("OFFLINE_MARL_HOME", "~/data")
    assert home() == Path.home() / "data"


def test_home_is_else_the_platforms_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OFFLINE_MARL_HOME")
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert home() == tmp_path / "offline_marl"
    assert home().name == "offline_marl"


def test_the_catalogue_is_read_without_torch() -> None:
    code = "import sys, offline_marl.datasets.catalog; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
