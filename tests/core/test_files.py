from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from offline_marl.core.files import DamagedFileError, load_tree, save_tree, write_atomically
from offline_marl.core.locks import LinkError


def same(left: Any, right: Any) -> bool:
    """Equal in structure, kinds of keys, dtypes, shapes and bits; tuples come back as lists."""
    if isinstance(left, torch.Tensor):
        return (
            isinstance(right, torch.Tensor)
            and (left.dtype, left.shape) == (right.dtype, right.shape)
            and bits(left) == bits(right)
        )
    if isinstance(left, dict):
        return (
            isinstance(right, dict)
            and list(left) == list(right)
            and [type(key) for key in left] == [type(key) for key in right]
            and all(same(left[key], right[key]) for key in left)
        )
    if isinstance(left, list | tuple):
        return (
            isinstance(right, list)
            and len(left) == len(right)
            and all(same(a, b) for a, b in zip(left, right, strict=True))
        )
    return type(left) is type(right) and bool(left == right)


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.detach().contiguous().clone().reshape(-1).view(torch.uint8).tolist()


def listed(node: Any) -> Any:
    """With lists where there were tuples."""
    if isinstance(node, dict):
        return {key: listed(value) for key, value in node.items()}
    return [listed(value) for value in node] if isinstance(node, list | tuple) else node


def small(path: Path) -> dict[str, Any]:
    tree = {"step": 7, "weights": torch.arange(6.0).view(2, 3), "flags": torch.tensor([True, False]), "lr": 0.1}
    save_tree(path, tree, "checkpoint")
    return tree


TREES: dict[str, dict[str, Any]] = {
    "nested": {"a": {0: {"b": torch.ones(2)}, 1: [torch.zeros(1), {"c": None}]}, "1": "text", "e": {}, "l": []},
    "int keys stay ints beside the same text": {"groups": {1: "one", "1": "text", -3: 0.5}},
    "plain": {"i": 2**62, "f": 0.1 + 0.2, "t": True, "n": None, "s": "ü\n\"'", "tiny": 5e-324, "tuple": (0.9, 0.999)},
    "words of the format as keys": {"__tensor__": "x", "__dict__": [1], "__metadata__": torch.ones(1)},
    "dtypes": {
        str(dtype): torch.tensor([0, 1, 1, 0, 1]).to(dtype)
        for dtype in (
            torch.bool,
            torch.uint8,
            torch.int8,
            torch.int16,
            torch.int32,
            torch.int64,
            torch.float16,
            torch.bfloat16,
            torch.float32,
            torch.float64,
        )
    },
    "scalars and empties": {
        "s": torch.tensor(3.5),
        "b": torch.tensor(True),
        "e": torch.zeros(0),
        "w": torch.ones(0, 4),
    },
    "odd numbers": {"x": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])},
    "not contiguous": {"x": torch.arange(12).view(3, 4).t()[1:], "y": torch.ones(1).expand(5)},
    "one tensor twice": {"x": torch.arange(3), "y": torch.arange(3)},
    "no tensor": {"x": 1},
}


@pytest.mark.parametrize("name", TREES)
def test_a_tree_comes_back_bit_for_bit(tmp_path: Path, name: str) -> None:
    checksum = save_tree(tmp_path / "tree", TREES[name], "thing")
    loaded, found = load_tree(tmp_path / "tree", "thing")
    assert same(TREES[name], loaded)
    assert found == checksum and len(checksum) == 64


def test_shared_memory_and_gradients_are_no_obstacle(tmp_path: Path) -> None:
    weights = torch.nn.Parameter(torch.arange(4.0))
    save_tree(tmp_path / "tree", {"all": weights, "part": weights[1:3]}, "thing")
    loaded, _ = load_tree(tmp_path / "tree", "thing")
    assert loaded["part"].tolist() == [1.0, 2.0] and not loaded["all"].requires_grad


def test_the_state_of_adam_comes_back_and_goes_on_exactly(tmp_path: Path) -> None:
    def learner() -> tuple[torch.nn.Module, torch.optim.Adam]:
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        groups = [{"params": [model.weight], "name": "w"}, {"params": [model.bias], "name": "b", "lr": 0.5}]
        return model, torch.optim.Adam(groups, lr=0.1, fused=True)

    def step(model: torch.nn.Module, optimizer: torch.optim.Adam, scale: float) -> None:
        optimizer.zero_grad()
        model(torch.full((4, 3), scale)).square().sum().backward()
        optimizer.step()

    model, optimizer = learner()
    for scale in (1.0, 0.3, -2.0):
        step(model, optimizer, scale)
    state = {"model": dict(model.state_dict()), "optimizer": optimizer.state_dict()}
    save_tree(tmp_path / "tree", state, "thing")
    loaded, _ = load_tree(tmp_path / "tree", "thing")
    assert same(state, loaded)

    other, resumed = learner()
    other.load_state_dict(loaded["model"])
    resumed.load_state_dict(loaded["optimizer"])
    for scale in (0.7, 1.1):
        step(model, optimizer, scale)
        step(other, resumed, scale)
    assert same(dict(model.state_dict()), dict(other.state_dict()))
    assert same(optimizer.state_dict(), listed(resumed.state_dict()))


@pytest.mark.parametrize("thing", [object(), {1, 2}, b"bytes", Path("x"), lambda: None, 1j])
def test_objects_are_refused_and_nothing_is_written(tmp_path: Path, thing: Any) -> None:
    with pytest.raises(TypeError, match=type(thing).__name__):
        save_tree(tmp_path / "tree", {"deep": [{"x": thing}]}, "thing")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", [(1, 2), 1.5, Path("x")])
def test_keys_that_would_not_come_back_are_refused(tmp_path: Path, key: Any) -> None:
    with pytest.raises(TypeError, match="key"):
        save_tree(tmp_path / "tree", {"deep": {key: 1}}, "thing")


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    small(tmp_path / "good")
    good = (tmp_path / "good").read_bytes()
    bad = tmp_path / "bad"
    for place in range(len(good)):
        content = bytearray(good)
        content[place] ^= 1 << (place % 8)
        bad.write_bytes(content)
        with pytest.raises(DamagedFileError):
            load_tree(bad, "checkpoint")


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    small(tmp_path / "good")
    good = (tmp_path / "good").read_bytes()
    bad = tmp_path / "bad"
    for length in range(len(good)):
        bad.write_bytes(good[:length])
        with pytest.raises(DamagedFileError):
            load_tree(bad, "checkpoint")


@pytest.mark.parametrize(
    "content",
    [b"", b"hello, this is text", pickle.dumps({"x": 1}), b"\x89HDF\r\n\x1a\n" + b"\0" * 64, b"\xff" * 64, b"\0" * 64],
)
def test_files_of_other_kinds_are_refused_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DamagedFileError, match="cannot be read") as caught:
        load_tree(tmp_path / "x", "checkpoint")
    assert "\n" not in str(caught.value)


def test_safetensors_of_somebody_else_are_refused(tmp_path: Path) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0\0\0")
    with pytest.raises(DamagedFileError, match="not a checkpoint of this library"):
        load_tree(tmp_path / "x", "checkpoint")


def test_another_kind_of_ours_is_refused(tmp_path: Path) -> None:
    small(tmp_path / "x")
    with pytest.raises(DamagedFileError, match="not a data set"):
        load_tree(tmp_path / "x", "data set")


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(FileNotFoundError, match="There is no file"):
            load_tree(path, "checkpoint")


def test_loaded_tensors_do_not_follow_the_file(tmp_path: Path) -> None:
    tree = small(tmp_path / "x")
    loaded, _ = load_tree(tmp_path / "x", "checkpoint")
    save_tree(tmp_path / "x", {"weights": torch.zeros(2, 3)}, "checkpoint")
    loaded["flags"].logical_not_()
    assert torch.equal(loaded["weights"], tree["weights"])
    assert load_tree(tmp_path / "x", "checkpoint")[0]["weights"].tolist() == [[0.0] * 3] * 2


def test_writing_makes_the_folder_and_leaves_only_the_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a" / "b" / "x", b"content")
    assert (tmp_path / "a" / "b" / "x").read_bytes() == b"content"
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["x"]


@pytest.mark.parametrize("call", ["replace", "fsync", "open"])
def test_a_write_that_fails_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    write_atomically(tmp_path / "x", b"old")

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "x", b"new")
    monkeypatch.undo()
    assert (tmp_path / "x").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_says_who_may_read(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "x", b"content")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == mode


def test_a_pipe_is_neither_written_to_nor_done_away_with(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    with pytest.raises(LinkError, match="is a pipe"):
        write_atomically(tmp_path / "x", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["x"] and (tmp_path / "x").is_fifo()
