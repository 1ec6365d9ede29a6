"""info, convert, mix and plot, as they are typed."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from offline_marl.datasets.base import Dataset
from offline_marl.datasets.files import load_data, save_data
from offline_marl.datasets.picture import draw_data
from offline_marl.datasets.statistics import returns_of
from offline_marl.tasks.data_tasks import open_task

Cli = Callable[..., Any]
WORDS = ("list", "info", "verify", "convert", "mix", "plot", "push", "pull")


@pytest.mark.parametrize("word", WORDS)
def test_every_command_has_help_and_a_line_in_the_table(cli: Cli, word: str) -> None:
    said = cli("data", word, "--help")
    assert said.code == 0 and said.out.startswith(f"usage: offline-marl data {word}")
    assert f"  data {word} " in cli("data").out


def test_help_imports_no_torch() -> None:
    program = (
        "import sys\nfrom offline_marl.launch.cli import main\n"
        f"for word in {WORDS!r}:\n"
        "    try:\n        main(['data', word, '--help'])\n"
        "    except SystemExit as end:\n        assert end.code == 0\n"
        "assert not {'torch', 'matplotlib', 'huggingface_hub'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- info ---------------------------------------------------------------------------------------------------------


def test_info_tells_coverage_ranges_duplicates_and_quantiles(cli: Cli, recording: str, discrete_team: Path) -> None:
    said = json.loads(cli("data", "info", recording, "--json").out)
    assert said["coverage"]["rows"] == 36 and 0 < said["coverage"]["share"] <= 36 / said["coverage"]["cells"]
    assert len(said["action_ranges"]) == len(said["action_coverage"]) == said["agents"]
    assert said["action_range"] == [
        min(low for low, _ in said["action_ranges"]),
        max(h for _, h in said["action_ranges"]),
    ]
    assert said["duplicates"] == {"transitions": 0, "episodes": 0}
    assert said["returns"]["min"] <= said["returns"]["q25"] <= said["returns"]["q50"] <= said["returns"]["max"]
    team = json.loads(cli("data", "info", discrete_team, "--json").out)
    assert team["action_range"] == [0, 2] and team["action_coverage"] == [1, 1]
    lines = cli("data", "info", recording).out
    assert "duplicates " in lines and "transitions = 0, episodes = 0" in lines and " to " in lines


@pytest.mark.parametrize(
    "about",
    [
        {"reference": 3, "actors": "x", "parts": {"a": 1}, "versions": [1], "how": {}, "licence": 5},
        {"reference": {"random": "a", "expert": 1}, "actors": [3, {}], "parts": [None, {}], "tier": [[]]},
        {"reference": {"random": 1, "expert": 2}, "action_noise": "much", "seed": None, "who": 3},
        {"reference": {"a": 1}, "scenario": 7, "episodes_end": [{}]},
    ],
)
def test_metadata_of_anybody_are_refused_in_one_sentence(cli: Cli, team: Path, about: dict[str, Any]) -> None:
    save_data(team, replace(load_data(team), metadata=about))
    for words in (["info", team], ["info", team, "--json"], ["convert", team, "out.safetensors"]):
        said = cli("data", *words)
        assert said.code == 2 and said.error.startswith("error: The metadata's '") and "\n" not in said.error.strip()
    said = cli("data", "verify", team)
    assert said.code == 2 and "The metadata's '" in said.out
    assert not Path("out.safetensors").exists()


def test_large_sets_are_looked_through_with_a_bar(cli: Cli, team: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "looking through" not in cli("data", "info", team).err
    monkeypatch.setattr("offline_marl.launch.cli.data.describe.LARGE", 1)
    assert "looking through" in cli("data", "info", team).err


# --- convert ------------------------------------------------------------------------------------------------------


def test_convert_into_our_layout(cli: Cli, recording: str) -> None:
    whole = recording.removesuffix("_2x1notip_0")
    said = cli("data", "convert", whole, "sub/copy.safetensors")
    assert said.code == 0 and "offline-marl data info sub/copy.safetensors" in said.out
    old, new = load_data(Path(whole)), load_data(Path("sub/copy.safetensors"))
    held = [f.name for f in fields(old) if isinstance(getattr(old, f.name), torch.Tensor)]
    assert len(held) == 6 and all(torch.equal(getattr(old, name), getattr(new, name)) for name in held)
    assert new.metadata["source_sha256"] == old.metadata["sha256"] and new.metadata["source"] == "arm.safetensors"
    assert "copying" not in said.err and os.listdir("sub") == ["copy.safetensors"]
    assert cli("data", "convert", recording, "team.safetensors").code == 0
    assert load_data(Path("team.safetensors")).metadata["conf"] == "2x1notip"


def test_convert_of_a_task_that_stays_on_disk(cli: Cli, recording: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("data", "convert", recording, "memory.safetensors").code == 0
    monkeypatch.setattr(
        "offline_marl.launch.cli.data.loading.open_task", lambda name, clip: open_task(name, clip, memory=0.0)
    )
    assert cli("data", "convert", recording, "disk.safetensors").code == 0
    assert Path("memory.safetensors").read_bytes() == Path("disk.safetensors").read_bytes()


def test_convert_overwrites_only_when_told(cli: Cli, team: Path) -> None:
    Path("out.safetensors").write_text("precious")
    refused = cli("data", "convert", team, "out.safetensors")
    assert refused.code == 2 and "out.safetensors exists already" in refused.error
    assert Path("out.safetensors").read_text() == "precious"
    assert cli("data", "convert", team, "out.safetensors", "--overwrite").code == 0
    assert load_data(Path("out.safetensors")).metadata["name"] == "team.safetensors"


def test_convert_on_a_full_disk_leaves_nothing_half_written(
    cli: Cli, team: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    failed = cli("data", "convert", team, "out.safetensors")
    assert failed.code == 1 and "No space left on device" in failed.error
    assert [each.name for each in Path().iterdir()] == ["team.safetensors"]
    monkeypatch.undo()
    assert cli("data", "convert", team, team.parent / "out.safetensors").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("gone.safetensors out.safetensors", "There is no file gone.safetensors."),
        ("{team} out.txt --to ours", "files of our layout end in .safetensors."),
        ("{team} out.safetensors --to d4rl", "D4RL's files end in .hdf5."),
        ("{team} minari://../x", "it should be minari://ID"),
        ("{team} hf://a/b/c", "`data push` writes to the hub."),
        ("{team} minari://a/b-v0 --to ours", "is Minari's: leave --to ours away"),
        ("{team} . --overwrite", "is a folder of something else"),
        ("{team}", "data convert needs OUT"),
        ("{team} out.safetensors --to zarr", "'to' cannot be 'zarr'"),
    ],
)
def test_convert_refuses_what_it_cannot_do(cli: Cli, team: Path, words: str, said: str) -> None:
    failed = cli("data", "convert", *words.format(team=team).split())
    assert failed.code == 2 and said in failed.error
    assert [each.name for each in Path().iterdir()] == ["team.safetensors"]


@pytest.mark.parametrize("storage", ["minari", "d4rl"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_convert_out_to_a_published_layout_and_back(cli: Cli, recording: str, storage: str) -> None:
    pytest.importorskip("minari" if storage == "minari" else "h5py")
    out = "arm-v0" if storage == "minari" else "arm.hdf5"
    whole = recording.removesuffix("_2x1notip_0")
    for _ in range(2):
        said = cli("data", "convert", whole, out, "--overwrite")
        assert said.code == 0, said.err
        assert cli("data", "convert", out, "back.safetensors", "--overwrite").code == 0
    old, new = load_data(Path(whole)), load_data(Path("back.safetensors"))
    assert torch.equal(old.actions, new.actions) and torch.equal(old.lengths, new.lengths)
    assert torch.allclose(old.rewards, new.rewards) and new.metadata["source"] == out
    assert sorted(os.listdir()) == sorted(["arm.safetensors", out, "back.safetensors"])


def test_convert_reads_a_published_file_in_pieces(cli: Cli, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "hopper.hdf5", "w") as file:
        ends = torch.arange(1, 21) % 10 == 0
        rows = {"observations": torch.rand(20, 11), "actions": torch.zeros(20, 3), "rewards": torch.ones(20)}
        for name, value in {**rows, "terminals": ends, "timeouts": ~ends & ends}.items():
            file[name] = value.numpy()
    assert cli("data", "convert", "hopper.hdf5", "ours.safetensors").code == 0
    about = load_data(Path("ours.safetensors")).metadata
    assert about["source"] == "hopper.hdf5" and about["scenario"] == "hopper" and len(about["source_sha256"]) == 64
    with h5py.File("hopper.hdf5", "a") as file:
        file["actions"][3, 0] = 9.0
    failed = cli("data", "convert", "hopper.hdf5", "bad.safetensors")
    assert failed.code == 2 and "hopper.hdf5: 1 of 60 action entries lie outside" in failed.error
    assert not Path("bad.safetensors").exists()
    assert cli("data", "convert", "hopper.hdf5", "clipped.safetensors", "--clip-actions").code == 0
    assert load_data(Path("clipped.safetensors")).metadata["clipped_actions"] == 1


# --- mix ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "few.toml",
            'seed = 4\n[[parts]]\ndata = "{0}"\nepisodes = 2\n[[parts]]\ndata = "{1}"\nreturns = [0.6, 1.0]\n',
        ),
        ("few.yaml", "seed: 4\nparts:\n- {{data: '{0}', episodes: 2}}\n- {{data: '{1}', returns: [0.6, 1.0]}}\n"),
    ],
)
def test_mix_by_a_recipe(cli: Cli, recording: str, name: str, text: str) -> None:
    arm = Path(recording.removesuffix("_2x1notip_0"))
    data = load_data(arm)
    save_data(
        Path("other.safetensors"), replace(data, rewards=-data.rewards, metadata=dict(data.metadata, versions={}))
    )
    save_data(arm, replace(data, metadata={**data.metadata, "versions": {"mujoco": "3"}}))
    Path(name).write_text(text.format(arm, "other.safetensors"))
    said = cli("data", "mix", name, "mixed.safetensors")
    assert said.code == 0 and "mixed.safetensors: 5 episodes, 25 transitions" in said.out
    assert "warning: The parts were recorded with different versions of mujoco: 3, unknown.\n" in said.err
    about = load_data(Path("mixed.safetensors")).metadata
    assert about["name"] == "few" and [part["data"] for part in about["parts"]] == [
        "arm.safetensors",
        "other.safetensors",
    ]
    first = Path("mixed.safetensors").read_bytes()
    refused = cli("data", "mix", name, "mixed.safetensors")
    assert refused.code == 2 and "exists already" in refused.error
    assert cli("data", "mix", name, "mixed.safetensors", "--overwrite").code == 0
    assert Path("mixed.safetensors").read_bytes() == first
    assert "2 of " in cli("data", "info", "mixed.safetensors").out


@pytest.mark.parametrize(
    ("text", "out", "said"),
    [
        ("parts = 3", "x.safetensors", "Field 'parts' cannot be 3"),
        ("", "x.safetensors", "Field 'parts' is missing."),
        ('[[parts]]\ndata = "gone.safetensors"', "x.safetensors", "There is no file gone.safetensors."),
        ('[[parts]]\ndata = "x"', "x.hdf5", "it should end in .safetensors."),
    ],
)
def test_mix_refuses_recipes_that_make_no_sense(cli: Cli, text: str, out: str, said: str) -> None:
    Path("r.toml").write_text(text)
    failed = cli("data", "mix", "r.toml", out)
    assert failed.code == 2 and said in failed.error
    assert [each.name for each in Path().iterdir()] == ["r.toml"]


# --- plot ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["png", "svg"])
def test_plot_draws_teams_bodies_and_choices(cli: Cli, recording: str, discrete_team: Path, form: str) -> None:
    pytest.importorskip("matplotlib")
    name = recording if form == "png" else discrete_team
    assert cli("data", "plot", name, "--out", f"x.{form}").code == 0
    drawn = Path(f"x.{form}").read_bytes()
    assert drawn.startswith(b"\x89PNG" if form == "png" else b"<?xml")
    if form == "svg":
        assert draw_data(load_data(discrete_team), "choices.safetensors", "svg") == drawn, "equal data, equal picture"


def test_plot_draws_returns_that_are_equal_but_for_rounding() -> None:
    # Three agents earn as much in every episode, each in steps of its own.
    rng = np.random.default_rng(0)
    rewards = np.concatenate([rng.permuted(np.tile(np.arange(25) < 5, (3, 1)), axis=1).T for _ in range(50)])
    shape = (len(rewards), 3, 1)
    data = Dataset.from_arrays(np.zeros(shape), np.zeros(shape), rewards, lengths=[25] * 50)
    assert 0 < returns_of(data).max() - returns_of(data).min() < 1e-14
    assert draw_data(data, "x").startswith(b"\x89PNG")


def test_plot_says_what_is_missing(cli: Cli, team: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "needs --out FILE" in cli("data", "plot", team).error
    assert "should end in .png or .svg" in cli("data", "plot", team, "--out", "a.pdf").error
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install 'offline-marl[report]'" in cli("data", "plot", team, "--out", "a.png").error
