from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cluster import done, job, starts, until
from worlds import saved, world

from offline_marl.launch.jobs import in_flight, slurm, states
from offline_marl.launch.jobs.job import note_start, read_submitted, write_submitted
from offline_marl.launch.jobs.slurm import MissingSlurmError, SlurmError, explain
from offline_marl.launch.jobs.states import cancel, state_of, states_of
from offline_marl.training.models import fit as fitting

Cli = Callable[..., Any]
SMALL = ("--steps", 3, "--hidden", "8", "--device", "cpu")
QUEUE = """\
7_0|RUNNING|None
7_1|PENDING|Priority
7_2|PENDING|DependencyNeverSatisfied
7_3|OUT_OF_MEMORY|None
7_4|COMPLETED|None
"""


@pytest.fixture(autouse=True)
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take most of a small fit's time."""
    monkeypatch.setattr(fitting, "draw_report", lambda *_: None)


@pytest.fixture
def data(tmp_path: Path) -> str:
    return saved(tmp_path, world("continuous"))


@pytest.fixture
def no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm.shutil, "which", lambda name: None)


def test_a_dry_run_prints_the_script_and_makes_nothing(tmp_path: Path, data: str, cli: Cli, no_slurm: None) -> None:
    pytest.importorskip("submitit")
    (tmp_path / "site.toml").write_text(
        'account = "lab"\nmemory_gb = 2.5\nsetup = ["module load x"]\nsbatch = {nice = 5}'
    )
    said = cli("submit", "train", "bc", "--dataset", data, *SMALL, "--out", "run", "--dry-run", "--profile=site.toml")
    assert said.code == 0
    for line in ("--account=lab", "--mem=2560MB", "--nice=5", "--requeue", "--signal=USR2@120", "--time=720"):
        assert f"#SBATCH {line}\n" in said.out
    assert "\nmodule load x\n" in said.out and not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [("train", "bc"), ("fit-model", "ensemble")])
def test_debug_runs_here_and_a_finished_run_is_not_run_again(
    tmp_path: Path, data: str, cli: Cli, words: tuple[str, str]
) -> None:
    command = ("submit", *words, "--dataset", data, *SMALL, "--out", "run", "--executor", "debug")
    for _ in range(2):
        said = cli(*command)
        assert (said.code, f"run folder  {tmp_path / 'run'}" in said.out) == (0, True), said.err
    assert "done" in cli("submit", "status", "run").out
    assert "and 9 here" in cli(*command, "--batch-size", 9).error


def test_the_status_of_a_folder_that_is_not_there_is_refused(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "mine").mkdir()
    assert "it was not submitted" in cli("submit", "status", "mine").out
    said = cli("submit", "status", "mine", "nope")
    assert (said.code, said.error) == (2, f"error: There is no folder {tmp_path / 'nope'}.")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("train", ""),
        ("train --dataset x", "error: submit train needs the ALGORITHM first, before --dataset."),
        ("train bc --executor", "error: Flag --executor of submit needs a value."),
        ("train bc --executor=cloud", "error: Field 'executor' cannot be 'cloud': "),
        ("check now", "error: 'now' is one word too many: "),
        ("trian", "error: Unknown command 'submit trian': did you mean 'train'?"),
        ("train bc --dataset DATA", "error: There is no sbatch on this machine: "),
    ],
)
def test_bad_input_is_one_sentence(data: str, cli: Cli, no_slurm: None, words: str, sentence: str) -> None:
    pytest.importorskip("submitit")
    said = cli("submit", *words.replace("DATA", data).split())
    if sentence:
        assert said.code == 2 and said.error.startswith(sentence)
    else:
        assert said.code == 0 and "usage:" in said.out


def test_check_says_what_is_missing(cli: Cli, no_slurm: None) -> None:
    pytest.importorskip("submitit")
    said = cli("submit", "check")
    assert said.code == 1 and "NO  There is no sbatch: this is no login node of a Slurm cluster." in said.out
    assert said.err == "This machine cannot submit with this profile: see the lines with NO.\n"


def test_the_queue_is_told_in_plain_words(tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*words: str) -> str:
        if words[0] == "sacct":
            raise SlurmError("Slurm accounting storage is disabled")
        assert words[-2:] == ("-j", "7")
        return QUEUE

    monkeypatch.setattr(slurm, "run_command", ask)
    monkeypatch.setattr(states.time, "sleep", lambda seconds: None)
    jobs = [job(data, tmp_path / f"run{number}") for number in range(6)]
    for number, each in enumerate(jobs):
        write_submitted(each, "slurm", f"7_{number}", tmp_path)
    note_start(jobs[1].out, {"event": "start", "id": "7_1"})
    (tmp_path / "7_5_0_log.err").write_text("first\nbar 1\rbar 2\rbar 3\n\nKilled\n")
    found = states_of([each.out for each in jobs])
    assert [(state.state, state.why) for state in found] == [
        ("running", ""),
        ("waiting", "requeued, others are before it"),
        ("failed", "a job that it depends on failed"),
        ("failed", "it needed more memory than it had asked for"),
        ("failed", "its process ended, but the folder holds no DONE"),
        ("failed", "it is gone from Slurm's queue, and its folder holds no DONE"),
    ]
    assert found[1].requeues == 1 and found[5].log == ("first", "bar 3", "Killed")


def test_what_slurm_complains_of_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "partitions", lambda: ["long", "short"])
    said = "sbatch: error: invalid partition specified: shrot\nsbatch: error: Batch job submission failed: Invalid ..."
    assert (
        explain(said)
        == "There is no partition 'shrot' in this cluster: did you mean 'short'? (there are: long, short)."
    )
    assert explain("slurm_load_jobs error: Unable to contact slurm controller (connect failure)").startswith(
        "Slurm's con"
    )
    assert explain("fatal: Could not establish a configuration source").startswith(
        "Slurm's commands find no slurm.conf"
    )
    assert explain("sbatch: error: QOSMaxSubmit reached\n") == "sbatch refused: QOSMaxSubmit reached."
    with pytest.raises(MissingSlurmError):
        slurm.run_command("no-such-command")


def test_a_job_may_submit_jobs_that_do_not_inherit_what_it_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_CONF": "x", "SLURM_CPUS_PER_TASK": "4", "SLURM_JOB_ID": "3"}.items():
        monkeypatch.setenv(name, value)
    with slurm.without_job_environment():
        assert [name for name in os.environ if name.startswith("SLURM_")] == ["SLURM_CONF"]
    assert os.environ["SLURM_CPUS_PER_TASK"] == "4"
    monkeypatch.delenv("SLURM_JOB_ID")
    with slurm.without_job_environment():
        assert "SLURM_CPUS_PER_TASK" in os.environ  # the person's own wish


@pytest.mark.parametrize("count", [1, 3])
def test_what_slurm_took_from_a_launcher_that_died_is_told_to_its_folders(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    jobs, logs = [job(data, tmp_path / f"run{number}") for number in range(count)], tmp_path / "logs"
    logs.mkdir()
    with pytest.raises(KeyboardInterrupt), in_flight.recorded_before_submission(jobs, logs) as word:
        write_submitted(jobs[0], "slurm", "6_9", logs)  # an older submission
        raise KeyboardInterrupt
    ids = ["7"] if count == 1 else ["7_1", "7_2"]  # 7_0 has run, and Slurm has forgotten it
    said = "".join(f"{name}|{word}\n" for name in ids) + "8|somebody's\n"
    monkeypatch.setattr(slurm, "run_command", lambda *_: said)
    assert in_flight.recover_submissions(logs) == count and in_flight.recover_submissions(logs) == 0
    held = [read_submitted(each.out) for each in jobs]
    assert [each and each.id for each in held] == (["7"] if count == 1 else ["7_0", "7_1", "7_2"])
    assert [each and each.job for each in held] == jobs


def test_what_slurm_did_not_take_is_forgotten(tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    each = job(data, tmp_path / "run")
    with pytest.raises(SlurmError), in_flight.recorded_before_submission([each], tmp_path):
        raise SlurmError("refused.")
    monkeypatch.setattr(slurm, "run_command", lambda *_: pytest.fail("there is nothing to ask for"))
    assert in_flight.recover_submissions(tmp_path) == 0
    with pytest.raises(KeyboardInterrupt), in_flight.recorded_before_submission([each], tmp_path):
        raise KeyboardInterrupt
    monkeypatch.setattr(slurm, "run_command", lambda *_: "8|somebody's\n")
    assert (
        in_flight.recover_submissions(tmp_path) == 0
        and not list(tmp_path.glob("*.json"))
        and read_submitted(each.out) is None
    )


LAUNCHER = """
import signal, sys
from pathlib import Path
from cluster import job
from offline_marl.launch.scale.executors import submit
from offline_marl.launch.scale.profile import Profile
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests in the background ignores it
data, out = sys.argv[1], Path(sys.argv[2])
jobs = [job(data, out / f"run{number}", seed=number, steps=int(sys.argv[3])) for number in range(3)]
submit(jobs, "local", Profile(array_parallelism=2), out / "logs")
"""


@pytest.mark.slow
def test_local_jobs_outlive_their_launcher_and_a_second_one_ends_what_is_left(tmp_path: Path, data: str) -> None:
    pytest.importorskip("submitit")
    jobs = [job(data, tmp_path / f"run{number}", seed=number, steps=400) for number in range(3)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), *sys.path])}
    command = [sys.executable, "-c", LAUNCHER, data, str(tmp_path), "400"]
    launcher = subprocess.Popen(command, env=environment)
    until(lambda: starts(jobs[0]) and starts(jobs[1]))
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    assert state_of(jobs[0].out).state in {"running", "done"} and not starts(jobs[2])
    subprocess.run(command, env=environment, check=True)
    assert all(done(each) for each in jobs)


@pytest.mark.slow
def test_a_local_job_that_is_cancelled_saves_and_one_that_is_killed_is_noticed(tmp_path: Path, data: str) -> None:
    pytest.importorskip("submitit")
    jobs = [job(data, tmp_path / f"run{number}", seed=number, steps=1_000_000) for number in range(3)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), *sys.path])}
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, data, str(tmp_path), "1000000"], env=environment)
    try:
        until(lambda: starts(jobs[0]) and starts(jobs[1]) and state_of(jobs[0].out).step > 20)
        os.kill(starts(jobs[1])[0]["pid"], signal.SIGKILL)
        until(lambda: state_of(jobs[1].out).state == "failed")
        assert state_of(jobs[1].out).why == "its process is gone, and its folder holds no DONE"
        assert cancel([jobs[0].out])[0].state == "running"
        until(lambda: state_of(jobs[0].out).state == "stopped")
        assert list((jobs[0].out / "checkpoints").glob("step_*"))
    finally:
        launcher.send_signal(signal.SIGINT)  # it tells the rest to save, and ends
        assert launcher.wait(30)
    until(lambda: state_of(jobs[2].out).state == "stopped")
