"""On a real Slurm of three emulated nodes: `pytest -m slurm`. tests/slurm/up.sh starts it, installs it if it may."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import done, ends, job, slurm, starts, step, until
from runs import ending, refuse_difference
from worlds import saved, world

from offline_marl.launch.jobs import executors, states
from offline_marl.launch.jobs.job import Job, perform
from offline_marl.launch.jobs.profile import Profile
from offline_marl.launch.jobs.site_check import check_site
from offline_marl.launch.jobs.slurm import SlurmError
from offline_marl.launch.jobs.states import state_of, states_of
from offline_marl.launch.jobs.worker import start_ticks

pytestmark = pytest.mark.slurm
SCRIPTS = Path(__file__).parents[2] / "slurm"
LONG: dict[str, Any] = {"steps": 5_000, "log_every": 10, "checkpoint_every": 0}
"""Some ten seconds of work."""
ALL_OF_N1 = {"exclusive": True, "nodelist": "n1"}
HOUR = Profile(minutes=60)
"""Below a quarter of it submitit takes every pre-emption for the end of the time."""

Submit = Callable[..., list[str]]


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cluster of this module's own."""
    pytest.importorskip("submitit")
    folder = tmp_path_factory.mktemp("slurm")
    up = subprocess.run([SCRIPTS / "up.sh", folder], capture_output=True, text=True)
    if up.returncode == 77:
        pytest.skip(up.stderr.strip())
    try:
        assert up.returncode == 0, up.stderr
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
            yield folder
    finally:
        subprocess.run([SCRIPTS / "down.sh", folder], check=True)


@pytest.fixture
def data(tmp_path: Path) -> str:
    return saved(tmp_path, world("continuous"))


@pytest.fixture
def submit(tmp_path: Path) -> Submit:
    def call(*jobs: Job, profile: Profile = HOUR, after: tuple[str, ...] = ()) -> list[str]:
        return executors.submit(jobs, "slurm", profile, tmp_path / "logs", after)

    return call


def at_once(name: str) -> None:
    """Let a requeued job start now and not after Slurm's two minutes."""
    until(lambda: "PENDING" in slurm("squeue", "-h", "-j", name, "-o", "%T"))
    slurm("scontrol", "update", f"JobId={name}", "StartTime=now")


def preempt() -> None:
    wanted = ["--partition=high", "--nodelist=n1", "--exclusive", "--output=/dev/null", "--wrap", "sleep 2"]
    slurm("sbatch", *wanted)


def processes_of(each: Job) -> list[int]:
    return [row["pid"] for row in starts(each) if start_ticks(row["pid"]) == row["born"]]


@pytest.fixture(scope="module")
def refuse_another_end(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Job], None]:
    """Wait for a job, and compare its end with that of the run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("straight")
    straight = job(saved(folder, world("continuous")), folder / "run", **LONG)
    perform(straight)

    def compare(each: Job) -> None:
        until(lambda: done(each), 90)
        refuse_difference(ending(straight.out), ending(each.out))

    return compare


def test_an_array_of_twelve_finishes_on_three_nodes(tmp_path: Path, data: str, submit: Submit) -> None:
    each = [job(data, tmp_path / f"run{seed}", seed=seed) for seed in range(12)]
    began = time.monotonic()
    ids = submit(*each)
    took = time.monotonic() - began
    assert ids == [f"{ids[0].partition('_')[0]}_{number}" for number in range(12)]
    assert took < 2
    folders = [one.out for one in each]
    until(lambda: all(state.state in {"done", "failed"} for state in states_of(folders)), 120)
    states = states_of(folders)
    assert {state.state for state in states} == {"done"}
    assert {row["node"] for one in each for row in starts(one)} == {"n1", "n2", "n3"}


def test_more_jobs_than_an_array_may_have_are_split_and_submitted_in_no_time(
    tmp_path: Path, data: str, submit: Submit
) -> None:
    each = [job(data, tmp_path / f"run{seed}", seed=seed) for seed in range(100)]
    took = []
    for _ in range(3):
        began = time.monotonic()
        ids = submit(*each, profile=Profile(minutes=60, sbatch={"hold": True}))
        took.append(time.monotonic() - began)
        slurm("scancel", *ids)
        assert len(ids) == 100 and len({name.partition("_")[0] for name in ids}) == 2
    print(f"{len(each)} jobs submitted in {min(took):.2f} s")
    assert min(took) < 1, took  # a third of it on an idle machine
    assert {state.state for state in states_of([one.out for one in each])} == {"failed"}


def test_a_preempted_job_ends_as_if_it_had_not_been(
    tmp_path: Path, data: str, submit: Submit, refuse_another_end: Callable[[Job], None]
) -> None:
    each = job(data, tmp_path / "run", **LONG)
    (low,) = submit(each, profile=Profile(minutes=60, partition="low", sbatch=ALL_OF_N1))
    until(lambda: step(each) > 20)
    preempt()
    until(lambda: ends(each))
    assert ends(each) == ["preempted"] and not done(each)
    at_once(low)
    refuse_another_end(each)
    assert len(starts(each)) == 2 and state_of(each.out).requeues == 1


def test_a_job_that_is_preempted_before_it_listens_is_not_lost(
    tmp_path: Path, data: str, submit: Submit, refuse_another_end: Callable[[Job], None]
) -> None:
    each = job(data, tmp_path / "run", **LONG)
    (low,) = submit(each, profile=Profile(minutes=60, partition="low", sbatch=ALL_OF_N1))
    until(lambda: "RUNNING" in slurm("squeue", "-h", "-j", low, "-o", "%T"))
    preempt()
    time.sleep(1)
    assert not starts(each)
    until(lambda: done(each) or "PENDING" in slurm("squeue", "-h", "-j", low, "-o", "%T"))
    if not done(each):
        at_once(low)
    refuse_another_end(each)


def test_a_requeue_by_hand_saves_first(
    tmp_path: Path, data: str, submit: Submit, refuse_another_end: Callable[[Job], None]
) -> None:
    each = job(data, tmp_path / "run", **LONG)
    (name,) = submit(each)
    until(lambda: step(each) > 20)
    slurm("scontrol", "requeue", name)
    until(lambda: ends(each))
    assert ends(each) == ["terminated"] and list((each.out / "checkpoints").glob("step_*"))
    at_once(name)
    refuse_another_end(each)


def test_a_node_set_down_costs_nothing_but_time(
    tmp_path: Path, data: str, submit: Submit, refuse_another_end: Callable[[Job], None]
) -> None:
    each = job(data, tmp_path / "run", **LONG)
    (name,) = submit(each)
    until(lambda: step(each) > 20)
    node = starts(each)[0]["node"]
    slurm("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    try:
        until(lambda: state_of(each.out).state == "waiting")
        assert state_of(each.out).why.startswith("requeued, ")
        at_once(name)
        refuse_another_end(each)
        assert starts(each)[1]["node"] != node
    finally:
        slurm("scontrol", "update", f"NodeName={node}", "State=RESUME")


def test_a_killed_job_is_noticed_and_told_with_its_last_lines(tmp_path: Path, data: str, submit: Submit) -> None:
    each = job(data, tmp_path / "run", **LONG)
    (name,) = submit(each)
    until(lambda: step(each) > 20)
    assert state_of(each.out).state == "running" and state_of(each.out).rate
    os.kill(starts(each)[0]["pid"], signal.SIGKILL)
    began = time.monotonic()
    until(lambda: state_of(each.out).state == "failed")
    assert time.monotonic() - began < 60
    state = state_of(each.out)
    assert state.why == "its process ended with an error or was killed"
    assert any("updates on cpu" in line or "Killed" in line for line in state.log)


def test_what_ends_a_run_is_told_and_what_depends_on_it_never_starts(tmp_path: Path, data: str, submit: Submit) -> None:
    bad = job(str(tmp_path / "none.safetensors"), tmp_path / "bad")
    then = job(data, tmp_path / "then")
    submit(then, after=tuple(submit(bad)))
    until(lambda: {state.state for state in states_of([bad.out, then.out])} == {"failed"})
    assert "none.safetensors" in state_of(bad.out).why
    assert not starts(then)


def test_cancelling_leaves_no_process(tmp_path: Path, data: str, submit: Submit) -> None:
    each = [job(data, tmp_path / f"run{seed}", seed=seed, **LONG) for seed in range(2)]
    submit(*each)
    until(lambda: all(step(one) > 20 for one in each))
    assert all(processes_of(one) for one in each)
    states.cancel([one.out for one in each])
    until(lambda: not any(processes_of(one) for one in each))
    until(lambda: {state.state for state in states_of([one.out for one in each])} == {"stopped"})


def test_this_machine_can_submit_and_refusals_are_one_sentence(
    tmp_path: Path, data: str, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(good for good, _ in check_site())
    with pytest.raises(SlurmError, match=r"^There is no partition 'lov' in this cluster: did you mean 'low'\?"):
        submit(job(data, tmp_path / "run"), profile=Profile(partition="lov"))
    with pytest.raises(SlurmError, match=r"^No node of the partition has as many cores"):
        submit(job(data, tmp_path / "run"), profile=Profile(memory_gb=900))
    asking = tmp_path / "profile.toml"
    asking.write_text("cpus = 64")
    assert [line for good, line in check_site(asking) if not good] == [
        "No node of the partition has as many cores, as much memory or the GPUs that the profile asks for."
    ]
    down = tmp_path / "slurm.conf"
    down.write_text(re.sub(r"SlurmctldPort=\d+", "SlurmctldPort=9", Path(os.environ["SLURM_CONF"]).read_text()))
    monkeypatch.setenv("SLURM_CONF", str(down))
    with pytest.raises(SlurmError, match=r"^Slurm's controller \(slurmctld\) does not answer"):
        submit(job(data, tmp_path / "run"))
