"""Jobs as processes of this machine."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from cluster import done, ends, job, starts, step, until
from runs import ending, refuse_difference
from worlds import saved, world

from offline_marl.launch.jobs import executors
from offline_marl.launch.jobs.executors import FailedJobsError, submit
from offline_marl.launch.jobs.job import perform, read_submitted
from offline_marl.launch.jobs.processes import ProcessExecutor
from offline_marl.launch.jobs.profile import Profile
from offline_marl.launch.jobs.slurm import MissingSlurmError
from offline_marl.launch.jobs.states import cancel, state_of
from offline_marl.launch.jobs.worker import Work


@pytest.fixture
def data(tmp_path: Path) -> str:
    return saved(tmp_path, world("continuous"))


@pytest.fixture(autouse=True)
def _no_submitit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "find_spec", lambda name: None)


@pytest.mark.long
def test_local_jobs_run_after_the_shells_lines_and_log_where_status_looks(
    tmp_path: Path, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    some, logs = [job(data, tmp_path / "run")], tmp_path / "logs"  # a process each; several of them are below
    setup = (f"echo set >> '{tmp_path}/setup'", "export OMP_NUM_THREADS=1")
    profile = Profile(setup=setup, container="nowhere", array_parallelism=1)
    ids = submit(some, "local", profile, logs)
    assert "jobs of the local executor run outside the profile's container" in capsys.readouterr().err
    assert all(done(each) for each in some) and (tmp_path / "setup").read_text() == "set\n"
    for each, name in zip(some, ids, strict=True):
        submitted = read_submitted(each.out)
        assert submitted is not None and (submitted.executor, submitted.id) == ("local", name)
        assert "updates on cpu" in (logs / f"{name}_0_log.err").read_text()
        assert starts(each)[0]["id"] == name and ends(each) == ["done"]
    with pytest.raises(MissingSlurmError, match="submitit is not installed"):
        submit(some, "slurm", profile, logs)


@pytest.mark.slow
def test_a_job_that_fails_says_why_and_the_others_go_on(tmp_path: Path, data: str) -> None:
    bad, good = job(data, tmp_path / "bad", lr=1e30), job(data, tmp_path / "good")
    with pytest.raises(FailedJobsError, match="1 of 2 jobs failed"):
        submit([bad, good], "local", Profile(), tmp_path / "logs")
    state = state_of(bad.out)
    assert state.state == "failed" and any("error: " in line for line in state.log) and done(good)


@pytest.mark.slow
def test_a_job_that_is_cancelled_saves_and_goes_on_to_the_same_end(tmp_path: Path, data: str) -> None:
    straight, each = (job(data, tmp_path / name, steps=4_000) for name in ("straight", "run"))
    perform(straight)
    stopping = threading.Thread(target=lambda: (until(lambda: step(each) > 10), cancel([each.out])))
    stopping.start()
    with pytest.raises(FailedJobsError):
        submit([each], "local", Profile(), tmp_path / "logs")
    stopping.join()
    assert ends(each) == ["terminated"] and not done(each)
    submit([each], "local", Profile(), tmp_path / "logs")
    refuse_difference(ending(straight.out), ending(each.out))


@pytest.mark.slow
def test_a_job_whose_turn_is_over_saves_and_takes_another_one(tmp_path: Path, data: str) -> None:
    each = job(data, tmp_path / "run", steps=10_000_000)
    logs = tmp_path / "logs"
    logs.mkdir()
    started = ProcessExecutor(logs, Profile(minutes=1, requeues=1), delay_s=60 - 12).submit(Work(30.0), each)
    try:
        until(lambda: len(starts(each)) == 2)
        assert ends(each)[0] == "terminated" and {row["pid"] for row in starts(each)} == {int(started.job_id)}
        started.process.wait(60)
        assert len(starts(each)) == 2 and ends(each) == ["terminated", "terminated"], "one turn more, and no third"
    finally:
        if started.process.poll() is None:
            os.kill(int(started.job_id), signal.SIGKILL)
        started.process.wait()
