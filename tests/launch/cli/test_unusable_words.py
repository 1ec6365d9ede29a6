"""Names that cannot be written down, and what is neither file nor folder: refused before anything begins."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest
from runs import checkpoints
from warm import Warm
from worlds import saved, world

ODD = os.fsdecode(b"r\xe4tsel")


@pytest.fixture
def team(tmp_path: Path) -> str:
    return saved(tmp_path, world("continuous"))


@pytest.mark.parametrize(
    "words",
    [
        ["train", "bc", "--dataset", "team.safetensors", "--out", ODD],
        ["train", "bc", f"--dataset={ODD}.safetensors"],
        ["report", ODD],
        ["data", "info", ODD],
        ["collect", "rendezvous", "--out", f"{ODD}.safetensors"],
        ["--plugin", f"{ODD}.py", "list"],
    ],
)
def test_a_name_that_is_not_utf8_is_refused_in_one_sentence(cli, tmp_path, words):
    refused = cli(*words)
    assert refused.code == 2 and r"r\xe4tsel" in refused.error and "is not UTF-8" in refused.error
    assert not list(tmp_path.iterdir())


def test_nothing_begins_in_a_folder_whose_name_is_not_utf8(cli, tmp_path, monkeypatch):
    (tmp_path / ODD).mkdir()
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path / ODD)
        assert "The current folder" in cli("list").error
    monkeypatch.setenv("OFFLINE_MARL_HOME", str(tmp_path / ODD))
    assert "The folder in OFFLINE_MARL_HOME" in cli("list").error


def test_a_folder_that_was_deleted_below_us_is_told(cli, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert cli("list").error == "error: The current folder was deleted: change into another one."


def special(folder: Path, kind: str) -> Path:
    place = folder / "place.safetensors"
    if kind == "a pipe":
        os.mkfifo(place)
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(os.path.relpath(place))
    else:
        place.symlink_to("/dev/zero")
    return place


@pytest.mark.parametrize("kind", ["a pipe", "a socket", "a device"])
@pytest.mark.parametrize(
    "command",
    [
        "train bc --dataset {}",
        "train bc --dataset={}",
        "train bc --config {}",
        "collect rendezvous --out {}",
        "data info {}",
        "data convert team.safetensors {} --overwrite",
        "report {}",
        "sweep {}",
        "recipe run {}",
        "resume {}",
        "prefs report {}",
    ],
)
def test_pipes_sockets_and_devices_are_refused_in_one_sentence(cli, tmp_path, team, kind, command):
    place = special(tmp_path, kind)
    before = place.lstat()
    refused = cli(*command.format(place).split())
    assert refused.code == 2
    assert refused.error == f"error: {place} is {kind}: only ordinary files are read and written."
    assert place.lstat() == before


@pytest.mark.parametrize("file", ["config.json", "DONE", "metrics.jsonl", "checkpoints/step_000000060.safetensors"])
def test_a_pipe_inside_a_folder_is_not_waited_for(cli, tmp_path, file):
    place = tmp_path / "sweep" / "runs" / "run"
    (place / "checkpoints").mkdir(parents=True)
    os.mkfifo(place / file)
    (place / "link").symlink_to("nowhere")
    for words in (["resume", place], ["evaluate", place], ["report", place], ["sweep", "status", tmp_path / "sweep"]):
        refused = cli(*words)
        assert refused.code == 2 and refused.error.endswith("is a pipe: only ordinary files are read and written.")


def test_sockets_and_links_that_lead_nowhere_hinder_nobody(cli, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "link").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("runs/socket")
    assert "socket" not in cli("report", "runs").error


@pytest.mark.slow
def test_the_terminals_end_lets_a_run_save(tmp_path: Path, team: str, warm: Warm) -> None:
    program = f"""
import os, pty, sys, time
from pathlib import Path
pid, terminal = pty.fork()
if not pid:
    from offline_marl.launch.cli import main
    main("train bc --dataset {team} --out run --steps 100000000 --device cpu --hidden 8".split())
deadline = time.monotonic() + 60
while not Path("run/metrics.csv").exists() and time.monotonic() < deadline:
    time.sleep(0.02)
time.sleep(0.1)
os.close(terminal)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = warm.run("-c", program, cwd=tmp_path)
    assert done.returncode == 143, done.stderr
    assert checkpoints(tmp_path / "run")[0] > 0


@pytest.mark.parametrize("ignored", [False, True])
def test_a_hangup_is_heeded_unless_it_is_ignored(monkeypatch, ignored):
    from offline_marl.runs.stopping import heeding_the_end

    def before(*_):
        pass

    told = []
    monkeypatch.setattr(os, "isatty", lambda _: False)
    outer = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else before)
    try:
        with heeding_the_end(lambda: told.append("end")):
            os.kill(os.getpid(), signal.SIGHUP)
        assert told == ([] if ignored else ["end"])
        assert signal.getsignal(signal.SIGHUP) == (signal.SIG_IGN if ignored else before)
    finally:
        signal.signal(signal.SIGHUP, outer)
