from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from offline_marl.core import locks, parts
from offline_marl.core.files import write_atomically, writing
from offline_marl.core.parts import part_of

LEFT = ".x.0123abcd.part"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_writer_left_goes_with_the_next_write_of_the_same_file(tmp_path: Path) -> None:
    # Killed: in a fork that ends without leaving its blocks.
    if not (pid := os.fork()):
        with writing(tmp_path / "x") as stream:
            stream.write(b"half")
            stream.flush()
            os._exit(0)
    os.waitpid(pid, 0)
    assert len(names(tmp_path)) == 1 and names(tmp_path)[0].endswith(".part")
    write_atomically(tmp_path / "x", b"whole")
    assert names(tmp_path) == ["x"]


def test_what_another_writer_is_writing_stays(tmp_path: Path) -> None:
    with writing(tmp_path / "x") as stream:
        stream.write(b"first")
        write_atomically(tmp_path / "x", b"second")
        assert (tmp_path / "x").read_bytes() == b"second" and len(names(tmp_path)) == 2
    assert (tmp_path / "x").read_bytes() == b"first" and names(tmp_path) == ["x"]


def test_a_part_is_locked_until_it_is_renamed_though_its_handle_is_closed(tmp_path: Path) -> None:
    with part_of(tmp_path / "x") as (handle, part):
        os.write(handle, b"first")
        os.close(handle)
        write_atomically(tmp_path / "x", b"second")
        os.replace(part, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"first" and names(tmp_path) == ["x"]


def test_only_unfinished_files_of_the_same_name_go(tmp_path: Path) -> None:
    others = [".y.0123abcd.part", ".x.0123abcd.part.old", ".x.mine.part", "x.0123abcd.part", ".x.y.0123abcd.part"]
    for name in [*others, LEFT]:
        (tmp_path / name).touch()
    write_atomically(tmp_path / "x", b"")
    assert names(tmp_path) == sorted([*others, "x"])


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_what_is_no_ordinary_file_stays(tmp_path: Path, kind: str) -> None:
    (tmp_path / "elsewhere").write_bytes(b"theirs")
    make = {"folder": Path.mkdir, "pipe": os.mkfifo, "link": lambda path: path.symlink_to(tmp_path / "elsewhere")}
    make[kind](tmp_path / LEFT)
    write_atomically(tmp_path / "x", b"")
    assert names(tmp_path) == [LEFT, "elsewhere", "x"] and (tmp_path / "elsewhere").read_bytes() == b"theirs"


def test_a_part_that_was_taken_for_abandoned_before_it_was_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = parts.lock_open

    def late(handle: int, wait: bool = False) -> int | None:
        monkeypatch.setattr(parts, "lock_open", lock)
        write_atomically(tmp_path / "x", b"second")
        return lock(handle, wait)

    monkeypatch.setattr(parts, "lock_open", late)
    write_atomically(tmp_path / "x", b"first")
    assert (tmp_path / "x").read_bytes() == b"first" and names(tmp_path) == ["x"]


def test_a_part_that_is_just_being_taken_for_abandoned_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = parts.lock_open

    def beaten(handle: int, wait: bool = False) -> int | None:
        monkeypatch.setattr(parts, "lock_open", lock)
        part = next(tmp_path.glob(".x.*.part"))
        other = os.open(part, os.O_RDWR)  # by another writer, who has it locked before we have, and removes it after
        locks.fcntl.flock(other, locks.fcntl.LOCK_EX)
        threading.Timer(0.1, lambda: (part.unlink(), os.close(other))).start()
        return lock(handle, wait)

    monkeypatch.setattr(parts, "lock_open", beaten)
    with writing(tmp_path / "x") as stream:
        time.sleep(0.2)
        stream.write(b"first")
    assert (tmp_path / "x").read_bytes() == b"first" and names(tmp_path) == ["x"]


def test_without_locks_files_are_written_and_unfinished_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    (tmp_path / LEFT).touch()
    with monkeypatch.context() as patch:
        patch.setattr(locks.fcntl, "flock", no_locks)  # such a file system
        write_atomically(tmp_path / "x", b"one")
    monkeypatch.setattr(locks, "fcntl", None)  # such a system
    write_atomically(tmp_path / "x", b"two")
    assert (tmp_path / "x").read_bytes() == b"two" and names(tmp_path) == [LEFT, "x"]


def test_many_writers_of_one_file_leave_one_whole_file(tmp_path: Path) -> None:
    contents = [bytes([number]) * 5000 for number in range(8)]
    failures = list[BaseException]()

    def write(content: bytes) -> None:
        try:
            for _ in range(12):
                write_atomically(tmp_path / "x", content)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and names(tmp_path) == ["x"] and (tmp_path / "x").read_bytes() in contents


def test_no_handle_is_left_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    (tmp_path / LEFT).touch()
    for _ in range(3):
        write_atomically(tmp_path / "x", b"")
    assert before == 0 or len(os.listdir("/proc/self/fd")) == before
