"""HDF5 on a disk that takes no more: one error, nothing left, and the process lives."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from worlds import reacher_recording, world

from offline_marl.datasets.writers import d4rl, minari
from offline_marl.datasets.writers.hdf5_file import GuardedFile, writing_hdf5

h5py = pytest.importorskip("h5py")


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """No file of this process may grow beyond this size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write(kind: str, place: Path) -> None:
    if kind == "d4rl":
        d4rl.write(place, reacher_recording(episodes=40))
    else:
        pytest.importorskip("minari")
        minari.write(place, world("continuous", episodes=4))


@pytest.mark.parametrize("kind", ["d4rl", "minari"])
def test_a_file_that_may_not_grow_is_an_error_and_leaves_nothing(tmp_path, kind):
    write(kind, tmp_path / "whole")
    whole = tmp_path / "whole"
    size = sum(file.stat().st_size for file in [whole, *whole.rglob("*")] if file.is_file())
    for share in (0.0, 0.01, 0.3, 0.7, 0.9):
        with pytest.raises(OSError) as error, files_end_at(int(share * size)):
            write(kind, tmp_path / "x")
        assert error.value.errno == errno.EFBIG and error.value.filename == str(tmp_path / "x")
        assert [path.name for path in tmp_path.iterdir()] == ["whole"]
    write(kind, tmp_path / "x")


def test_hdf5_lives_through_a_failure_at_any_byte(tmp_path):
    def fill(path: Path) -> None:
        with writing_hdf5(path) as (file, guard):
            for number in range(4):
                file.create_dataset(f"rows {number}", data=range(500), compression="gzip")
                guard.refuse_failure()
            file.attrs["word"] = "x" * 500

    fill(tmp_path / "whole.hdf5")
    for limit in range(0, (tmp_path / "whole.hdf5").stat().st_size, 97):
        with pytest.raises(OSError, match="large"), files_end_at(limit):
            fill(tmp_path / "x.hdf5")
    fill(tmp_path / "x.hdf5")
    with h5py.File(tmp_path / "x.hdf5") as file:
        assert list(file["rows 3"]) == list(range(500)) and file.attrs["word"] == "x" * 500


def test_what_could_not_be_written_is_kept_to_be_read(tmp_path):
    guard = GuardedFile(tmp_path / "x")
    with files_end_at(5):
        assert guard.write(b"abcdefgh") == 8
        assert guard.seek(3) == 3 and guard.write(b"XYZ") == 3
    guard.seek(0)
    assert guard.read(100) == b"abcXYZgh"
    with pytest.raises(OSError) as error:
        guard.refuse_failure()
    assert error.value.errno == errno.EFBIG
    guard.close()
    assert os.path.getsize(tmp_path / "x") == 5


def test_a_guarded_file_is_added_to(tmp_path):
    with writing_hdf5(tmp_path / "x", "a") as (file, _):
        file["one"] = 1
    with writing_hdf5(tmp_path / "x", "a") as (file, _):
        assert file["one"][()] == 1
        file["two"] = 2
    with h5py.File(tmp_path / "x") as file:
        assert sorted(file) == ["one", "two"]
