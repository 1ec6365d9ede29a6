"""Golden runs end as they did when they were recorded, bit for bit.

On another processor, or with another torch, numpy or simulator, bits differ for reasons of their own: there the library
of the recorded commit is unpacked, and the same runs made with it are what counts.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import golden_records
import golden_runs
import pytest
from golden_records import Outcome

RECORDED = golden_records.recorded()
RUNS = golden_runs.runs()


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("golden")


@pytest.fixture(scope="session")
def expected(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Outcome]:
    """What a run should come to: its record where bits can be compared, else what the recorded commit does here."""
    selected = [item for item in request.session.items if item.path == Path(__file__) and hasattr(item, "callspec")]
    wanted = [item.callspec.params["name"] for item in selected]
    elsewhere: dict[str, Path] = {}

    def of(name: str) -> Outcome:
        record = RECORDED[name]
        if record["platform"] == golden_records.here():
            return record["outcome"]
        commit = record["commit"]
        if commit not in elsewhere:
            names = [other for other in wanted if other in RECORDED and RECORDED[other]["commit"] == commit]
            elsewhere[commit] = run_at(commit, names, tmp_path_factory.mktemp("library"))
        return golden_records.recorded(elsewhere[commit])[name]["outcome"]

    return of


def run_at(commit: str, names: list[str], folder: Path) -> Path:
    """Records of golden runs made here with the library of a commit."""
    try:
        golden_records.unpack(commit, folder)
    except RuntimeError as error:
        pytest.skip(f"recorded on another platform, and the library of that commit is not at hand: {error}")
    script = Path(golden_records.__file__).with_name("record.py")
    records = folder / "records"
    done = subprocess.run(
        [sys.executable, str(script), *names, "--into", str(records), "--library", str(folder.resolve())],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return records


@pytest.mark.slow
@pytest.mark.mujoco
@pytest.mark.parametrize("name", sorted({*RUNS, *RECORDED}))
def test_a_golden_run_ends_as_it_was_recorded(name: str, expected: Callable[[str], Outcome], home: Path) -> None:
    if name not in RECORDED:
        pytest.skip(f"not recorded yet: python tests/golden/record.py {name}")
    assert name in RUNS, f"{name} is recorded, and nothing makes it any more"
    recorded = expected(name)
    now = golden_records.outcome(golden_runs.play(name, home))
    difference = golden_records.first_difference(name, recorded, now)
    assert difference is None, difference


@pytest.mark.slow
@pytest.mark.mujoco
def test_the_library_of_a_recorded_commit_runs_here_and_repeats_its_record(tmp_path: Path) -> None:
    record = RECORDED["bc-continuous"]
    if record["platform"] != golden_records.here():
        pytest.skip("recorded on another platform")
    made = golden_records.recorded(run_at(record["commit"], ["bc-continuous"], tmp_path))
    assert made["bc-continuous"]["outcome"] == record["outcome"]
