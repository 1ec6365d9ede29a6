from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from offline_marl.core.types import DataError
from offline_marl.datasets.staging import staged


def contents(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("is_folder", [False, True])
def test_what_is_written_takes_its_place_whole(tmp_path: Path, is_folder: bool) -> None:
    out = tmp_path / "sub" / "out"
    for number in range(2):
        with staged(out, overwrite=bool(number)) as place:
            assert out.exists() == bool(number) and place.name == "out"
            if is_folder:
                (place / "data").mkdir(parents=True)
                (place / "data" / f"{number}").write_text("x")
            else:
                place.write_text(f"{number}")
    assert contents(tmp_path) == ({"sub/out/data/1": "x"} if is_folder else {"sub/out": "1"})
    assert [each.name for each in (tmp_path / "sub").iterdir()] == ["out"], "nothing is left beside it"


@pytest.mark.parametrize("is_folder", [False, True])
def test_what_fails_leaves_all_as_it_was(tmp_path: Path, is_folder: bool) -> None:
    out = tmp_path / "out"
    if is_folder:
        out.mkdir()
        (out / "old").write_text("old")
    else:
        out.write_text("old")
    before = contents(tmp_path)
    with pytest.raises(OSError, match="full"), staged(out, overwrite=True) as place:
        place.write_text("half")
        raise OSError("full")
    assert contents(tmp_path) == before
    with pytest.raises(OSError, match="full"), staged(tmp_path / "new") as place:
        place.mkdir()
        raise OSError("full")
    assert contents(tmp_path) == before and len(list(tmp_path.iterdir())) == 1


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("old")
    with pytest.raises(DataError, match=r"out exists already: choose another name, or say --overwrite\.$"):
        staged(tmp_path / "out").__enter__()
    assert contents(tmp_path) == {"out": "old"}


def test_two_do_not_write_one_file(tmp_path: Path) -> None:
    with staged(tmp_path / "out") as place:
        place.write_text("mine")
        with pytest.raises(DataError, match="Another process is writing"):
            staged(tmp_path / "out").__enter__()
    assert contents(tmp_path) == {"out": "mine"}


def test_after_a_kill_the_same_call_begins_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    child = os.fork()
    if child == 0:
        with staged(out) as place:
            place.mkdir()
            (place / "half").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert not out.exists()
    with staged(out) as place:
        assert not place.exists(), "what was half-written is gone"
        place.write_text("whole")
    assert contents(tmp_path) == {"out": "whole"}


def test_a_folder_that_was_moved_aside_comes_back(tmp_path: Path) -> None:
    # Killed between two renames: the old folder is aside, the new one not yet in its place.
    aside = tmp_path / ".out.writing" / "old"
    aside.mkdir(parents=True)
    (aside / "a").write_text("old")
    with pytest.raises(OSError, match="full"), staged(tmp_path / "out", overwrite=True):
        raise OSError("full")
    assert contents(tmp_path) == {"out/a": "old"}
