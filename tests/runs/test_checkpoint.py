from __future__ import annotations

import errno
import os

import pytest
import torch

from offline_marl.core.files import DamagedFileError, save_tree
from offline_marl.runs import checkpoint


def state(value: float) -> dict:
    return {"algorithm": {"weight": torch.full((3, 2), value), "groups": [{"lr": 0.1}]}, "elapsed": 1.5}


def steps(folder) -> list[int]:
    return [step for step, _ in checkpoint.found(folder)]


def test_what_was_saved_comes_back(tmp_path):
    checkpoint.save(tmp_path, 20, state(1.0), keep=2)
    [(path, found)] = checkpoint.candidates(tmp_path)
    assert path == checkpoint.path_of(tmp_path, 20) and found["step"] == 20
    assert torch.equal(found["algorithm"]["weight"], torch.ones(3, 2))
    assert found["algorithm"]["groups"] == [{"lr": 0.1}] and found["elapsed"] == 1.5


def test_only_the_newest_are_kept(tmp_path):
    for step in (5, 10, 15, 1_000_000_000, 20):
        checkpoint.save(tmp_path, step, state(step), keep=2)
    assert steps(tmp_path) == [1_000_000_000, 20]


def test_other_files_are_neither_found_nor_removed(tmp_path):
    for name in ("step_000000001.pt", "notes.txt", "step_best.safetensors", ".step_000000009.safetensors.x.part"):
        (tmp_path / name).write_text("mine")
    for step in (5, 10):
        checkpoint.save(tmp_path, step, state(step), keep=1)
    assert steps(tmp_path) == [10] and len(list(tmp_path.iterdir())) == 5


def test_torchs_own_generator_is_taken_up(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        checkpoint.save(tmp_path, 1, state(1.0), keep=1)
        expected = torch.rand(4)
        [(_, found)] = checkpoint.candidates(tmp_path)
        checkpoint.restore_torch(found)
        assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty", "text"])
def test_a_damaged_one_is_told_and_the_older_one_offered(tmp_path, damage):
    for step in (5, 10):
        checkpoint.save(tmp_path, step, state(step), keep=2)
    newest = checkpoint.path_of(tmp_path, 10)
    content = bytearray(newest.read_bytes())
    content[-3] ^= 1
    newest.write_bytes({"truncated": content[:-40], "changed": content, "empty": b"", "text": b"hello" * 99}[damage])
    (_, first), (_, second) = checkpoint.candidates(tmp_path)
    assert isinstance(first, DamagedFileError) and str(newest) in str(first)
    assert second["step"] == 5


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_on_a_full_disk_the_old_ones_stay_and_nothing_half_written_is_left(tmp_path, monkeypatch, call):
    for step in (5, 10):
        checkpoint.save(tmp_path, step, state(step), keep=2)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(os, call, full)
        checkpoint.save(tmp_path, 15, state(15), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step_000000005.safetensors",
        "step_000000010.safetensors",
    ]
    assert next(iter(checkpoint.candidates(tmp_path)))[1]["step"] == 10


def test_nothing_in_a_checkpoint_can_execute_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, ("true",)

    with pytest.raises(TypeError, match="Only tensors and plain values"):
        checkpoint.save(tmp_path, 1, {"algorithm": Evil()}, keep=1)
    checkpoint.save(tmp_path, 1, state(1.0), keep=1)
    header = checkpoint.path_of(tmp_path, 1).read_bytes()[8:]
    assert header.startswith(b"{"), "a safetensors header, not a pickle"


def written(folder, step: int, **more) -> None:
    """A checkpoint as another version of the library writes it."""
    save_tree(checkpoint.path_of(folder, step), {"step": step, **state(step), **more}, checkpoint.KIND)


def test_every_version_up_to_ours_is_taken_further():
    assert sorted(checkpoint.MIGRATIONS) == list(range(checkpoint.SCHEMA))


def test_a_checkpoint_from_before_versions_were_noted_is_read(tmp_path):
    written(tmp_path, 5)
    checkpoint.save(tmp_path, 10, state(10), keep=2)
    new, old = (found for _, found in checkpoint.candidates(tmp_path))
    assert list(old) == [name for name in new if name != "torch"] and old["step"] == 5


def test_migrations_are_applied_in_order(tmp_path, monkeypatch):
    def renamed(state: dict) -> dict:
        return {("age" if name == "elapsed" else name): value for name, value in state.items()}

    monkeypatch.setattr(checkpoint, "SCHEMA", 2)
    monkeypatch.setattr(checkpoint, "MIGRATIONS", {0: dict, 1: renamed})
    written(tmp_path, 5, schema=1)
    written(tmp_path, 6)
    written(tmp_path, 7, schema=2)
    assert ["age" in found for _, found in checkpoint.candidates(tmp_path)] == [False, True, True]


def test_a_checkpoint_of_the_future_is_refused_in_one_sentence_and_no_older_one_taken(tmp_path):
    checkpoint.save(tmp_path, 5, state(5), keep=2)
    written(tmp_path, 10, schema=checkpoint.SCHEMA + 1)
    for look in (lambda: list(checkpoint.candidates(tmp_path)), lambda: checkpoint.read(tmp_path, 10)):
        with pytest.raises(checkpoint.NewerFileError, match=r"newer version of this library .*: update the library\.$"):
            look()
    assert checkpoint.read(tmp_path, 5)["step"] == 5


@pytest.mark.parametrize("schema", ["1", -1, 1.5, None])
def test_a_version_that_is_none_is_damage(tmp_path, schema):
    written(tmp_path, 5, schema=schema)
    with pytest.raises(DamagedFileError, match="its version is"):
        checkpoint.read(tmp_path, 5)
