from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from offline_marl.algorithms.base import algorithms
from offline_marl.algorithms.marie import MARIEConfig
from offline_marl.algorithms.presets import preset_names, preset_rows, read_preset
from offline_marl.core.config import ConfigError, build
from offline_marl.core.partition import split_task
from offline_marl.core.permissions import ImportPath
from offline_marl.datasets.catalog import CATALOG
from offline_marl.losses import policy
from offline_marl.runs.config import RunFlags
from offline_marl.tasks.environment_tasks import find_environment_task
from offline_marl.training.models.fit import prepare_fit
from offline_marl.training.run import prepare
from offline_marl.worldmodels.base import worldmodels

Cli = Callable[..., Any]
ROOT = Path(__file__).resolve().parents[3]
BUILT_IN = [entry.name for entry in algorithms.listings() if entry.origin == "built-in"]
PRESETS = [(algorithm, name) for algorithm in BUILT_IN for name in preset_names(algorithm)]


def settings_of(run: Path) -> dict[str, Any]:
    config = json.loads((run / "config.json").read_text())
    return {**config, **config["settings"]}


@pytest.mark.parametrize("algorithm", BUILT_IN)
def test_every_algorithm_has_its_published_settings(algorithm: str) -> None:
    assert "published" in preset_names(algorithm)


@pytest.mark.parametrize(("algorithm", "name"), [each for each in PRESETS if "centralised" in each[1]])
def test_a_preset_called_centralised_makes_the_critic_read_all_agents(algorithm: str, name: str) -> None:
    assert read_preset(algorithm, name)["critic"] == "centralised"


def test_every_folder_of_presets_is_an_algorithms() -> None:
    folders = {path.name.replace("_", "-") for path in (ROOT / "offline_marl" / "presets").iterdir()}
    assert folders == set(BUILT_IN)


@pytest.mark.parametrize("algorithm", BUILT_IN)
def test_presets_hold_only_what_differs_from_the_defaults_and_validate(algorithm: str) -> None:
    fields = {**RunFlags.model_fields, **algorithms.get(algorithm).Config.model_fields}
    for name in preset_names(algorithm):
        settings = read_preset(algorithm, name)
        for field, value in settings.items():
            assert field in fields, f"{field} of {name} is no field"
            assert fields[field].is_required() or fields[field].default != value, f"{field} of {name} is the default"
        environment = settings.get("environment")
        dataset = settings.pop("dataset", None)
        prepare(algorithm, dataset or (None if environment else "some-data"), settings)
        if environment is not None:
            named = find_environment_task(environment, permit=ImportPath).name
            assert name == named, "a preset is named for its environment"
        if dataset is not None:
            assert name.endswith(dataset), f"{name}: a preset is named for its data set"
            assert split_task(dataset)[0] in CATALOG, name


@pytest.mark.parametrize(
    ("algorithm", "kind", "sizes"),
    [
        ("marie", "marie", {"width": 256, "vocabulary": 512, "action_bins": 256, "reward_bins": 128}),
        ("moma-ppo", "ensemble", {"hidden": (1024,) * 4, "lr": 3e-5, "members": 7, "elites": 5, "steps": 10_000}),
    ],
)
def test_published_settings_are_those_of_the_world_model_too(algorithm: str, kind: str, sizes: dict[str, Any]) -> None:
    config = prepare_fit(kind, "some-data", read_preset(algorithm, "published")["fit"])
    own = {**build(worldmodels.get(kind).Config, config.settings).model_dump(), "steps": config.steps}
    assert {name: own[name] for name in sizes} == sizes


def test_the_published_settings_of_marie_let_values_reach_returns_of_hundreds() -> None:
    """Its clip of .1 is of values in deviations; one in units of the rewards lets nothing move them further."""
    config = build(MARIEConfig, {"value_clip": read_preset("marie", "published").get("value_clip", 0.0)})
    before, target = torch.zeros(1), torch.full((1,), 400.0)
    _, slope = policy.clipped_value(torch.full((1,), 1.0), before, target, config.value_clip)
    assert float(slope) < 0


def test_defaults_lie_under_preset_under_file_under_flags(cli: Cli, team: Path) -> None:
    Path("mine.toml").write_text("window = 4\nsteps = 30\nbatch_size = 5\n")
    flags = ("--dataset", team, "--steps", 2, "--hidden", "8", "--final-episodes", 2, "--out", "run")
    assert cli("train", "td3-bc", "--preset", "published_centralised", "--config", "mine.toml", *flags).code == 0
    settings = settings_of(Path("run"))
    assert settings["steps"] == 2, "flag over file and preset"
    assert (settings["window"], settings["batch_size"]) == (4, 5), "file over preset"
    assert (settings["critic"], settings["standardize_obs"]) == ("centralised", False), "preset over default"
    assert settings["gamma"] == 0.99
    assert "preset" not in settings


def test_an_unknown_preset_is_answered_with_what_there_is(cli: Cli) -> None:
    said = cli("train", "bc", "--preset", "publishd", "--dataset", "x")
    assert said.code == 2
    assert "There is no preset 'publishd' of bc: did you mean 'published'?" in said.error
    assert "reacher-scripted-mix-v0_2x1notip_0" in said.error


def test_an_algorithm_without_presets_says_so(register: Callable[..., None]) -> None:
    register("toy-without-presets", algorithms.get("bc"))
    assert preset_names("toy-without-presets") == []
    with pytest.raises(ConfigError, match="no preset 'any' of toy-without-presets: it has none"):
        read_preset("toy-without-presets", "any")


@pytest.mark.parametrize("name", ["../bc/published", "/etc/passwd", "published.toml", ""])
def test_a_strange_name_reads_nothing(name: str) -> None:
    with pytest.raises(ConfigError, match="There is no preset"):
        read_preset("bc", name)


def test_help_and_list_show_the_names(cli: Cli) -> None:
    text = "".join(cli("train", "cql", "--help").out.split())  # argparse breaks lines at hyphens
    for name in preset_names("cql"):
        assert name in text
    listed = cli("list", "presets").out
    for algorithm, name, *_ in preset_rows():
        assert any(line.split()[:2] == [algorithm, name] for line in listed.splitlines())
    assert "published_centralised" not in cli("list").out, "long lists are for those who ask"


def test_presets_are_listed_without_torch() -> None:
    program = (
        "import sys\nfrom offline_marl.launch.cli import main\n"
        "try:\n    main(['list', 'presets'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
