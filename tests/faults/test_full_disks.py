"""Disks that are full, and files that may not grow: one sentence, nothing half-written left, and the rerun succeeds."""

from __future__ import annotations

import copy
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from campaign import SHORT
from every_work import CASES
from kills import fork
from runs import refuse_difference, small_run
from works import Case, Data, command, make_data, make_env, run_command, shrink

from offline_marl.core.errors import BAD_INPUT, FAILED
from offline_marl.tasks.data_tasks import ScoredTask

pytestmark = pytest.mark.faults

SHARES = (0.3, 0.9) if SHORT else (0.02, 0.15, 0.4, 0.6, 0.8, 0.95)
"""Of the room that the work takes when there is enough."""
ROOM = 1 << 28
PAGE = 4096
SKIPPED = {"coded training"} if not SHORT else {"coded training", "a page", "moma-ppo", "a mixed run", "a recipe"}


def names_of(out: Path) -> list[str]:
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def written(text: str, name: str) -> Case:
    """A command that writes one thing, and is over once that is there."""
    return Case(command(text, lambda out: (out / name).exists()), (), names_of)


def filming(out: Path, data: Data) -> None:
    """Film an environment that has a picture."""
    out.mkdir(exist_ok=True)
    ScoredTask.make_env = make_env  # type: ignore[method-assign] - in a process of its own
    if not (out / "x.mp4").exists():
        run_command(f"evaluate {data['shown']} --episodes 1 --video {out}/x.mp4")


WRITERS = {
    "minari": written("data convert {team} {out}/x --to minari", "x"),
    "d4rl": written("data convert {body} {out}/x.hdf5", "x.hdf5"),
    "mixtures": written("data mix {place}/mix.toml {out}/x.safetensors", "x.safetensors"),
    "plots": written("data plot {team} --out {out}/x.png", "x.png"),
    "films": Case(filming, (), names_of),
    "infos": written("evaluate {run} --episodes 40 --infos {out}/x.csv", "x.csv"),
    "crossplay": written("crossplay {run} {other} --episodes 2 --out {out}/x", "x/crossplay.png"),
    "exported labels": written("prefs export {comparisons} {out}/x.csv", "x.csv"),
}
EVERY = {name: case for name, case in {**CASES, **WRITERS}.items() if name not in SKIPPED}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    place = tmp_path_factory.mktemp("data")
    made = make_data(place) | {"steps": "40"}
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        short = {"warmup_steps": 20, "steps": 20, "final_episodes": 1}
        small_run(place / "other", None, algorithm="td3-bc", environment="rendezvous", seed=1, **short)
        small_run(place / "shown", None, algorithm="vdn", environment="simple-spread", **short)
    return made | {"other": str(place / "other"), "shown": str(place / "shown")}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A disk of its own of a size in bytes, which may change; mounting needs root on Linux."""
    place = tmp_path / "disk"
    place.mkdir()

    def sized(size: int) -> Path:
        again = "remount," if place.is_mount() else ""
        words = ["mount", "-t", "tmpfs", "-o", f"{again}size={size}", "tmpfs", str(place)]
        try:
            subprocess.run(words, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            if again:
                raise
            pytest.skip(f"no disk can be mounted here: {getattr(error, 'stderr', b'').decode().strip() or error}")
        return place

    yield sized
    if place.is_mount():
        subprocess.run(["umount", "-l", str(place)], check=True)


def clear(disk: Path) -> None:
    subprocess.run(["find", str(disk), "-mindepth", "1", "-delete"], check=True)


def refuse_litter(out: Path, name: str) -> None:
    litter = [path for path in out.rglob(".*") if path.name.endswith((".part", ".writing"))]
    assert not litter, f"{name} left {litter}"


@pytest.mark.parametrize("name", EVERY)
def test_a_full_disk_is_one_sentence_and_nothing_is_lost(tmp_path, data, disk, monkeypatch, name, record_property):
    case, log = EVERY[name], tmp_path / "log"
    place = disk(ROOM)
    (place / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place / "tmp"))
    assert fork(lambda: case.work(place / "straight", data), log) == 0, log.read_text()
    needed = sum(path.stat().st_blocks * 512 for path in place.rglob("*"))
    whole = copy.deepcopy(case.end(place / "straight"))  # tensors map the file, whose room is to be free again
    failures = 0
    for share in SHARES:
        clear(place)
        disk(max(PAGE, int(share * needed) // PAGE * PAGE))
        (place / "tmp").mkdir(exist_ok=True)
        log.unlink(missing_ok=True)
        code = fork(lambda: case.work(place / "out", data), log)
        assert code in {0, FAILED, BAD_INPUT}, f"{name} with {share} of its room ended by {code}:\n{log.read_text()}"
        if code:
            failures += 1
            refuse_litter(place, name)
            assert "Traceback" not in log.read_text()
        disk(ROOM)
        (place / "tmp").mkdir(exist_ok=True)
        assert fork(lambda: case.work(place / "out", data), log) == 0, log.read_text()
        refuse_difference(whole, case.end(place / "out"))
    assert failures > 0, "no disk was full"
    record_property(f"full disks: {name}", failures)


@pytest.mark.parametrize("name", EVERY)
def test_files_that_may_not_grow_are_one_sentence_and_nothing_is_lost(tmp_path, data, name, record_property):
    case, log = EVERY[name], tmp_path / "log"
    straight = tmp_path / "straight"
    assert fork(lambda: case.work(straight, data), log) == 0, log.read_text()
    largest = max(path.stat().st_size for path in straight.rglob("*") if path.is_file())
    whole, failures = case.end(straight), 0

    def limited(work: Callable[[], object], size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        work()

    for number, share in enumerate(SHARES):
        out = tmp_path / f"out-{number}"
        log = tmp_path / f"log-{number}"
        log.touch()
        code = fork(lambda: limited(lambda: case.work(out, data), int(share * largest)), log)  # noqa: B023
        assert code in {0, FAILED, BAD_INPUT}, f"{name} with files of {share} ended by {code}:\n{log.read_text()}"
        if code:
            failures += 1
            refuse_litter(tmp_path, name)
        assert fork(lambda: case.work(out, data), log) == 0, log.read_text()  # noqa: B023
        refuse_difference(whole, case.end(out))
    assert failures > 0, "every file could grow"
    record_property(f"limits of files: {name}", failures)
