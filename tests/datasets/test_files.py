from __future__ import annotations

import errno
import json
import os
import pickle
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from offline_marl.core.files import save_tree
from offline_marl.core.types import DataError, Spec
from offline_marl.datasets.base import Dataset, Recording
from offline_marl.datasets.files import load_data, save_data

ABOUT = {"scenario": "reacher", "seeds": [1, 2], "versions": {"mujoco": "3.1"}, "reference": {"random": -11.144625}}


def make_recording() -> Recording:
    draw = torch.Generator().manual_seed(0)
    ends = torch.tensor([False, False, True, True, False, True])
    return Recording(
        state=torch.randn(9, 10, generator=draw),
        actions=torch.rand(6, 2, generator=draw),
        rewards=torch.randn(6, generator=draw),
        terminations=ends & torch.tensor([False, False, False, True, False, False]),
        truncations=ends & torch.tensor([True, True, True, False, True, True]),
        lengths=torch.tensor([3, 1, 2]),
        metadata=ABOUT,
    ).check()


def make_dataset(kind: str) -> Dataset:
    recording, draw = make_recording(), torch.Generator().manual_seed(1)

    def both(values: torch.Tensor) -> torch.Tensor:
        return values.unsqueeze(-1).repeat(1, 2)

    discrete = kind == "discrete"
    return Dataset(
        obs=torch.randn(9, 2, 3, generator=draw),
        actions=torch.randint(4, (6, 2), generator=draw) if discrete else torch.rand(6, 2, 2, generator=draw),
        rewards=both(recording.rewards),
        terminations=both(recording.terminations),
        truncations=both(recording.truncations),
        lengths=recording.lengths,
        spec=Spec((3, 3), (4, 4), 10, "discrete") if discrete else Spec((3, 3), (2, 2)),
        state=recording.state if discrete else None,
        avail_actions=torch.ones(9, 2, 4, dtype=torch.bool) if discrete else None,
        metadata=ABOUT,
    ).check()


MADE = {"recording": make_recording, "continuous": lambda: make_dataset("continuous")}
MADE["discrete"] = lambda: make_dataset("discrete")


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_data(path)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and path.name in message
    return message


@pytest.mark.parametrize("kind", MADE)
def test_data_come_back_bit_for_bit_with_their_checksum(tmp_path: Path, kind: str) -> None:
    data = MADE[kind]()
    checksum = save_data(tmp_path / "x.safetensors", data)
    loaded = load_data(tmp_path / "x.safetensors")
    assert type(loaded) is type(data)
    assert loaded.metadata == {**ABOUT, "sha256": checksum}
    for item in fields(data):
        ours, theirs = getattr(data, item.name), getattr(loaded, item.name)
        if isinstance(ours, torch.Tensor):
            assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
        elif item.name != "metadata":
            assert ours == theirs


def test_equal_data_have_one_checksum_and_others_another(tmp_path: Path) -> None:
    data = make_recording()
    checksums = [save_data(tmp_path / "x", made) for made in (data, make_recording())]
    assert checksums[0] == checksums[1]
    assert save_data(tmp_path / "x", replace(data, rewards=-data.rewards)) != checksums[0]
    assert save_data(tmp_path / "x", replace(data, metadata={})) != checksums[0]


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_data(path, make_recording())
    content = path.read_bytes()
    for length in (0, 4, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        assert "cannot be read as a data set" in refusal(path)


def test_one_flipped_byte_among_the_numbers_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_data(path, make_recording())
    content = bytearray(path.read_bytes())
    header = int.from_bytes(content[:8], "little")
    for place in (8 + header, 8 + header + 200, len(content) - 1):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        assert "is damaged: its content does not match its checksum" in refusal(path)


def test_one_flipped_byte_among_the_metadata_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_data(path, make_recording())
    content = path.read_bytes()
    path.write_bytes(content.replace(b"-11.144625", b"-12.144625"))
    assert "is damaged" in refusal(path)


@pytest.mark.parametrize("content", [b"", b"not data at all", pickle.dumps([1]), json.dumps({"a": 1}).encode() * 50])
def test_a_file_of_another_format_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert "cannot be read as a data set" in refusal(path)


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_tree(path, {"step": 3, "obs": torch.zeros(2)}, "checkpoint")
    assert "is not a data set of this library" in refusal(path)
    save_file({"obs": torch.zeros(2)}, path)
    assert "is not a data set of this library" in refusal(path)


def test_another_layout_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_tree(path, {"layout": 99, "type": "Recording"}, "data set")
    assert "has layout 99; this version reads layout 1" in refusal(path)


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    assert "There is no file" in refusal(tmp_path / "none.safetensors")


def test_what_is_loaded_is_checked(tmp_path: Path) -> None:
    data = make_recording()
    state = data.state.clone()
    state[5, 3] = float("nan")
    save_data(tmp_path / "x", replace(data, state=state))
    with pytest.raises(DataError, match="Field 'state' is not finite in episode 1, step 1"):
        load_data(tmp_path / "x")


def test_a_rename_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.safetensors"
    save_data(path, make_recording())
    old = path.read_bytes()

    def refuse(*args: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match=r"Read-only file system.*x\.safetensors"):
        save_data(path, make_dataset("discrete"))
    monkeypatch.undo()
    assert path.read_bytes() == old and [found.name for found in tmp_path.iterdir()] == [path.name]
