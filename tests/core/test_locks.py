from __future__ import annotations

import os
import subprocess
import sys

import pytest

from offline_marl.core import locks
from offline_marl.core.locks import BusyError, LinkError, NoLocksError, locked, open_own, refuse_links


def test_a_lock_held_by_another_process_is_told(tmp_path):
    with locked(tmp_path / "lock"):
        program = (
            "import sys\nfrom pathlib import Path\nfrom offline_marl.core.locks import BusyError, locked\n"
            "try:\n    with locked(Path(sys.argv[1])): print('taken')\n"
            "except BusyError: print('busy')"
        )
        done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "lock")], capture_output=True, text=True)
        assert done.stdout == "busy\n", done.stderr
    with locked(tmp_path / "lock"):
        pass


def test_a_lock_is_never_emptied(tmp_path):
    (tmp_path / "lock").write_text("somebody's words")
    with locked(tmp_path / "lock"):
        pass
    assert (tmp_path / "lock").read_text() == "somebody's words"


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder"])
def test_what_is_no_ordinary_file_is_neither_locked_nor_written(tmp_path, kind):
    victim, place = tmp_path / "victim", tmp_path / "place"
    if kind != "dangling link":
        victim.write_text("precious")
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        place.symlink_to(victim)
    for attempt in (lambda: locked(place).__enter__(), lambda: open_own(place, "a"), lambda: open_own(place, "ab+")):
        with pytest.raises((LinkError, IsADirectoryError)):
            attempt()
    assert victim.exists() == (kind != "dangling link")
    assert kind == "dangling link" or victim.read_text() == "precious"


def test_lines_are_added_behind_those_that_are_there(tmp_path):
    for line in ("one\n", "zwei ü\n"):
        with open_own(tmp_path / "rows", "a") as stream:
            stream.write(line)
    assert (tmp_path / "rows").read_text(encoding="utf-8") == "one\nzwei ü\n"


def test_a_folder_of_ours_that_leads_elsewhere_is_refused_by_name(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LinkError, match=r"run/checkpoints is a link"):
        refuse_links(tmp_path / "run", ["logs", "checkpoints"])
    (tmp_path / "short").symlink_to(tmp_path / "run")
    refuse_links(tmp_path / "short", ["logs"])


def test_a_system_without_posix_locks_is_told_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    with pytest.raises(NoLocksError, match="needs a system with POSIX file locks"), locked(tmp_path / "lock"):
        pass


def test_waiting_takes_the_lock_when_it_is_let_go(tmp_path):
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom offline_marl.core.locks import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(0.3)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    with pytest.raises(BusyError), locked(tmp_path / "lock"):
        pass
    with locked(tmp_path / "lock", wait=True):
        assert other.wait(5) == 0
    other.stdout.close()


def test_a_fork_does_not_hold_its_parents_lock(tmp_path):
    program = (
        "import os, signal, sys, time\nfrom pathlib import Path\nfrom offline_marl.core.locks import locked\n"
        "with locked(Path(sys.argv[1])):\n"
        "    if not os.fork(): time.sleep(60)\n"
        "    time.sleep(0.2)\n"
        "    print('forked', flush=True); time.sleep(60)"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "lock")],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert started.stdout is not None and started.stdout.readline() == "forked\n"
        with pytest.raises(BusyError), locked(tmp_path / "lock"):
            pass
        started.kill()
        started.wait()
        with locked(tmp_path / "lock"):
            pass
    finally:
        os.killpg(started.pid, 9)
        started.stdout.close()
