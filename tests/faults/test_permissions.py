"""What an ordinary user may not read or write is told in one sentence, and nothing is lost."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kills import fork
from works import CASES, Data, make_data, run_command, shrink

from offline_marl.core.errors import BAD_INPUT, FAILED

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform != "linux", reason="who is root lays down its privileges by a call of Linux"),
]

READING = [
    "train bc --dataset {team} --steps 2 --out {out}/x",
    "fit-model ensemble --dataset {team} --steps 2 --out {out}/x",
    "fit-reward bradley-terry --dataset {team} --preferences {comparisons} --out {out}/x",
    "resume {run}",
    "evaluate {run} --episodes 1",
    "crossplay {run} {reward} --episodes 1 --out {out}/x",
    "exploit {run} --out {out}/x",
    "data info {team}",
    "data verify {team}",
    "data convert {team} {out}/x --to minari",
    "data convert {body} {out}/x.hdf5",
    "data mix {place}/mix.toml {out}/x.safetensors",
    "sweep {place}/sweep.toml --executor debug --out {out}/x",
    "sweep status {place}",
    "recipe run {place}/recipe.toml --out {out}/x",
    "collect rendezvous --who {run} --episodes 2 --out {out}/x.safetensors",
    "prefs simulate {comparisons}",
    "prefs report {comparisons} --dataset {team}",
    "prefs exchange {comparisons} --label-server http://127.0.0.1:9",
]
WRITING = [
    *(text for text in READING if "{out}" in text),
    "report {run} --reps 100 --out {out}/x",
    "prefs pairs {comparisons} --dataset {team} --budget 90",
    "prefs simulate {comparisons} --annotator other",
    "sweep {place}/sweep.toml --executor debug --out {place}/x",
]


@pytest.fixture
def data(tmp_path) -> Iterator[Data]:
    place = tmp_path / "data"
    place.mkdir()
    yield make_data(place)
    set_modes(place, 0o700, 0o600)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shrink(monkeypatch)
    monkeypatch.chdir(tmp_path)


def set_modes(place: Path, folders: int, files: int) -> None:
    """Permissions of a folder and all that is in it."""
    for path in [*sorted(place.rglob("*"), reverse=True), place]:
        path.chmod(folders if path.is_dir() else files)


def unprivileged(work: Callable[[], object]) -> Callable[[], object]:
    """The work, done without any capability: permissions bind root then as they bind everybody who owns a file."""

    def done() -> object:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        if ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()):
            raise OSError(ctypes.get_errno(), "privileges cannot be laid down")
        return work()

    return done


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(text: str, data: Data, out: Path, log: Path) -> None:
    """Run a command that may not do what it should; it says so in one sentence."""
    words = text.format(out=out, **data)
    code = fork(unprivileged(lambda: run_command(words)), log)
    said = log.read_text()
    assert code in {FAILED, BAD_INPUT}, f"{words} ended by {code}:\n{said}"
    assert said.splitlines()[-1].startswith("error:") and "Traceback" not in said, f"{words}:\n{said}"


@pytest.mark.parametrize("modes", [(0o700, 0), (0, 0)])
def test_what_may_not_be_read_is_one_sentence(tmp_path, data, record_property, modes):
    place = Path(data["place"])
    before = contents(place)
    set_modes(place, *modes)
    for number, text in enumerate(READING):
        refused(text, data, tmp_path / f"out-{number}", tmp_path / f"log-{number}")
    set_modes(place, 0o700, 0o600)
    assert contents(place) == before
    record_property("places that may not be read", len(READING))


def test_what_may_not_be_written_is_one_sentence(tmp_path, data, record_property):
    place, closed = Path(data["place"]), tmp_path / "closed"
    closed.mkdir(0o500)
    before = contents(place)
    set_modes(place, 0o500, 0o400)
    for number, text in enumerate(WRITING):
        refused(text, data, closed, tmp_path / f"log-{number}")
    assert contents(place) == before and not list(closed.iterdir())
    record_property("places that may not be written", len(WRITING))


@pytest.mark.parametrize("name", ["a run on data", "a fit of an ensemble", "a collection", "labels"])
def test_work_whose_folder_is_closed_goes_on_once_it_is_open_again(tmp_path, data, name, record_property):
    case, log, out = CASES[name], tmp_path / "log", tmp_path / "out"
    out.mkdir(0o500)
    code = fork(unprivileged(lambda: case.work(out, data)), log)
    assert code in {FAILED, BAD_INPUT}, log.read_text()
    assert not list(out.iterdir()) and "Traceback" not in log.read_text()
    out.chmod(0o700)
    assert fork(unprivileged(lambda: case.work(out, data)), log) == 0, log.read_text()
    record_property("folders closed and opened again", 1)
