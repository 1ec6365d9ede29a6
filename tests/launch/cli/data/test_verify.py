from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from worlds import saved, world

from offline_marl.core.files import save_tree
from offline_marl.datasets.files import KIND, load_data, save_data
from offline_marl.launch.cli.data import verify

Cli = Callable[..., Any]


def sentences(said: Any) -> list[str]:
    return [line.removeprefix("  - ") for line in said.out.splitlines() if line.startswith("  - ")]


def test_what_is_whole_is_told_so(cli: Cli, team: Path, recording: str) -> None:
    said = cli("data", "verify", team, recording, recording.removesuffix("_2x1notip_0"))
    assert said.code == 0 and "error" not in said.err
    checksum = load_data(team).metadata["sha256"]
    assert f"  sha256    {checksum}, stored and computed alike\n" in said.out
    assert said.out.count(": ok\n") == 3 and "ours, layout 1, Dataset" in said.out
    assert "6 episodes, 30 transitions" in said.out


def test_all_that_is_wrong_with_a_file_that_training_refuses(cli: Cli, team: Path) -> None:
    data = load_data(team)
    actions, rewards = data.actions.clone(), data.rewards.clone()
    actions[3, 0, 0], rewards[7] = 2.0, math.nan
    about = {"who": [0, 0], "actors": [{"name": "a"}], "reward": "team"}
    save_data(Path("bad.safetensors"), replace(data, actions=actions, rewards=rewards, metadata=about))
    said = cli("data", "verify", "bad.safetensors", team)
    assert said.code == 2
    assert said.error == "error: something is wrong with 1 of 2; all of it is listed above."
    assert "bad.safetensors: 4 problems\n" in said.out and "stored and computed alike" in said.out
    told = sentences(said)
    assert [told[0], told[2]] == [
        "Field 'rewards' is not finite in episode 1, step 2 (1 rows in all).",
        "The metadata claim a team reward, but the agents' rewards differ in episode 1, step 2 (1 steps in all).",
    ]
    assert told[1].startswith("1 of 180 action entries lie outside [-1, 1]")
    assert told[3] == "The metadata's 'who' is of other episodes: it has 2 entries, there are 6 episodes."
    refused = cli("train", "bc", "--dataset", "bad.safetensors")
    assert "(and 2 more: `offline-marl data verify` lists them)." in refused.error


def flipped(content: bytes) -> bytes:
    return content[:-3] + bytes([content[-3] ^ 64]) + content[-2:]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda c: c[:5], "has 5 bytes, too few for its header"),
        (lambda c: c[:200], "has 200 bytes, too few for its header"),
        (lambda c: b"\xff" * 8 + c[8:], "too few for its header"),
        (lambda c: c[:8] + b"x" + c[9:], "has a header that is no JSON"),
        (lambda c: c[:-100], "cannot be read: the file ends 100 bytes before it."),
        (lambda c: c + b"more", "has 4 bytes more than its header tells of."),
        (flipped, "is damaged: its content does not match its checksum."),
        (lambda c: b"", "has 0 bytes, too few for its header"),
    ],
)
def test_damage_is_told_as_far_as_the_file_can_be_read(
    cli: Cli, team: Path, damage: Callable[[bytes], bytes], told: str
) -> None:
    team.write_bytes(damage(team.read_bytes()))
    said = cli("data", "verify", team)
    assert said.code == 2 and any(told in sentence for sentence in sentences(said)), said.out
    if damage is flipped:
        assert "  stored    " in said.out and "  computed  " in said.out


def test_files_of_others_are_told_in_one_sentence(cli: Cli, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "theirs.safetensors")
    save_tree(tmp_path / "checkpoint.safetensors", {"a": 1}, "checkpoint")
    save_tree(tmp_path / "later.safetensors", {"layout": 9, "type": "Dataset"}, KIND)
    save_tree(tmp_path / "empty.safetensors", {"layout": 1, "type": "Recording", "state": 3, "odd": []}, KIND)
    (tmp_path / "text.txt").write_text("x")
    ours = [f"{name}.safetensors" for name in ("theirs", "checkpoint", "later", "empty")]
    said = cli("data", "verify", *ours, "text.txt", "gone.hdf5", "nosuch", "reacher-scripted-mix-v0_9x9_0")
    assert said.code == 2 and "wrong with 8 of 8" in said.error
    told = sentences(said)
    assert told[0].endswith("theirs.safetensors is not a data set of this library.")
    assert told[1].endswith("checkpoint.safetensors is not a data set of this library.")
    assert told[2].endswith("later.safetensors has layout 9 of a Dataset; this version reads layout 1.")
    assert {"There is an unknown field 'odd'.", "The field 'lengths' is missing."} <= set(told)
    assert "Field 'state' is a int, it should be a tensor." in told
    assert "There is no file gone.hdf5." in told and "Unknown reacher conf '9x9'" in told[-1]


def test_a_published_format_is_looked_through_too(cli: Cli, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "hopper.hdf5", "w") as file:
        ends = torch.arange(1, 21) % 10 == 0
        actions = torch.zeros(20, 3)
        actions[4, 0] = 7
        rows = {"observations": torch.rand(20, 11), "actions": actions, "rewards": torch.full((20,), math.nan)}
        for name, value in {**rows, "terminals": ends, "timeouts": ~ends & ends}.items():
            file[name] = value.numpy()
    said = cli("data", "verify", "hopper.hdf5")
    assert said.code == 2
    assert [sentence.split()[:3] for sentence in sentences(said)] == [["Field", "'rewards'", "is"], ["1", "of", "60"]]
    assert "hdf5, read as Recording" in said.out


def test_json_for_machines(cli: Cli, team: Path) -> None:
    said = json.loads(cli("data", "verify", team, "--json").out)[str(team)]
    assert said["ok"] and said["stored"] == said["computed"] and said["problems"] == [] and said["episodes"] == 6
    bad = cli("data", "verify", "gone.safetensors", "--json")
    assert json.loads(bad.out)["gone.safetensors"]["problems"][0]["field"] == "file"


def test_random_damage_never_breaks_the_report(cli: Cli, tmp_path: Path) -> None:
    path = Path(saved(tmp_path, world("discrete", 3)))
    content, draw = path.read_bytes(), torch.Generator().manual_seed(0)
    header = int.from_bytes(content[:8], "little")
    for _ in range(60):
        damaged = bytearray(content)
        for place in torch.randint(header + 20, (3,), generator=draw).tolist():
            damaged[place] = int(torch.randint(256, (), generator=draw))
        path.write_bytes(damaged)
        if bytes(damaged) != content:
            assert verify.report(str(path)).problems
