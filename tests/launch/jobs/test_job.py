from __future__ import annotations

import errno
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from cluster import ends, job, starts
from runs import ending, refuse_difference
from worlds import saved, world

from offline_marl.algorithms.bc import BC
from offline_marl.core.config import ConfigError
from offline_marl.core.types import Batch, Metrics
from offline_marl.launch.jobs import disk
from offline_marl.launch.jobs import job as jobs
from offline_marl.launch.jobs.executors import FailedJobsError, submit
from offline_marl.launch.jobs.job import Job, JobError, perform, read_submitted
from offline_marl.launch.jobs.profile import Profile, read_profile
from offline_marl.launch.jobs.states import state_of, states_of
from offline_marl.launch.jobs.worker import Work, this_process
from offline_marl.runs import checkpoint
from offline_marl.runs.folder import HeldFolderError, RunFolder
from offline_marl.runs.stopping import asked
from offline_marl.training.loop import LogHook
from offline_marl.training.models import fit as fitting


@pytest.fixture(autouse=True)
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take most of a small fit's time."""
    monkeypatch.setattr(fitting, "draw_report", lambda *_: None)


@pytest.fixture
def data(tmp_path: Path) -> str:
    return saved(tmp_path, world("continuous"))


@pytest.mark.parametrize("name", ["bc", "ensemble"])
def test_a_job_performed_again_goes_on_and_a_finished_one_returns(tmp_path: Path, data: str, name: str) -> None:
    each = job(data, tmp_path / "run", name)
    first = perform(each)
    assert perform(each) == first == json.loads((each.out / "DONE").read_text())
    (each.out / "DONE").unlink()
    assert perform(each)["steps"] == first["steps"]


def test_fields_are_refused_before_anything_is_submitted(tmp_path: Path, data: str) -> None:
    with pytest.raises(ConfigError, match=r"^Unknown field 'stepz' of bc: did you mean 'steps'"):
        job(data, tmp_path / "run", stepz=3)
    with pytest.raises(ConfigError, match="needs a dataset"):
        jobs.checked(Job(command="fit-model", name="ensemble", out=tmp_path))


def test_a_job_with_other_memory_and_workers_is_the_same_one(tmp_path: Path, data: str) -> None:
    first = perform(job(data, tmp_path / "run"))
    (tmp_path / "run" / "DONE").unlink()
    again = perform(job(data, tmp_path / "run", memory=6.0, workers=2))
    assert again["steps"] == first["steps"] and RunFolder(tmp_path / "run").config().memory == 4.0


def test_a_folder_of_another_run_is_refused_in_one_sentence(tmp_path: Path, data: str) -> None:
    perform(job(data, tmp_path / "run"))
    with pytest.raises(JobError, match=r"holds another run than this job's \(hidden is \[8\] there and \[9\] here\)"):
        perform(job(data, tmp_path / "run", hidden=[9]))


@pytest.mark.parametrize("name", ["bc", "ensemble"])
def test_a_job_on_other_data_or_with_another_beginning_is_another_run(tmp_path: Path, data: str, name: str) -> None:
    perform(job(data, tmp_path / "run", name))
    (tmp_path / "other").mkdir()
    other = saved(tmp_path / "other", world("continuous", seed=1))
    refused = r"holds another run than this job's \({} is {} there and {} here\)"
    with pytest.raises(JobError, match=refused.format("dataset", f"'{data}'", f"'{other}'")):
        perform(job(other, tmp_path / "run", name))
    if name == "bc":
        begun = job(data, tmp_path / "second", init=str(tmp_path / "run"))
        perform(begun)
        with pytest.raises(JobError, match=refused.format("init", "None", f"'{tmp_path / 'run'}'")):
            perform(begun.model_copy(update={"out": tmp_path / "run"}))
        with pytest.raises(JobError, match=refused.format("init", f"'{tmp_path / 'run'}'", "None")):
            perform(job(data, tmp_path / "second"))


def test_a_job_whose_paths_are_spelled_otherwise_is_the_same_one(tmp_path: Path, data: str) -> None:
    first = perform(job(data, tmp_path / "run"))
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "linked.safetensors").symlink_to(data)
    for spelled in (tmp_path / "link" / ".." / tmp_path.name / Path(data).name, tmp_path / "linked.safetensors"):
        assert perform(job(str(spelled), tmp_path / "run")) == first


def test_an_edited_file_is_told_by_its_name(tmp_path: Path, data: str) -> None:
    each = job(data, tmp_path / "run")
    submit([each], "debug", Profile(), tmp_path / "logs")
    (each.out / "job.json").write_text('{"job": 3}')
    with pytest.raises(JobError, match=r"job\.json was damaged or edited: "):
        read_submitted(each.out)


def test_it_waits_for_a_process_that_is_still_in_its_folder(tmp_path: Path, data: str) -> None:
    each = job(data, tmp_path / "run")
    with RunFolder(each.out).locked(), pytest.raises(HeldFolderError):
        perform(each, patience_s=0.0)
    held = RunFolder(each.out).locked()
    held.__enter__()
    threading.Timer(0.3, held.__exit__, (None, None, None)).start()
    assert perform(each)["steps"] == 20


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No pause takes time; holds how long each would have been."""
    pauses: list[float] = []
    monkeypatch.setattr(asked, "wait", pauses.append)
    return pauses


@pytest.mark.parametrize("name", ["bc", "ensemble"])
def test_a_disk_that_is_full_for_a_while_costs_only_time(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch, hasty: list[float], name: str
) -> None:
    straight, each, save = job(data, tmp_path / "straight", name), job(data, tmp_path / "run", name), checkpoint.save
    perform(straight)
    tries = [0]

    def full_at_first(folder: Path, step: int, *rest: object) -> None:
        tries[0] += step == 20
        if step == 20 and tries[0] < 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(folder))
        save(folder, step, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoint, "save", full_at_first)
    perform(each)
    assert tries[0] >= 3 and hasty == [2.0, 4.0]
    refuse_difference(ending(straight.out), ending(each.out))


@pytest.mark.parametrize(("number", "tries"), [(errno.EDQUOT, 15), (errno.EROFS, 1)])
def test_a_disk_that_stays_full_or_is_broken_ends_the_job(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch, hasty: list[float], number: int, tries: int
) -> None:
    calls = []

    def never(folder: Path, *_: object) -> None:
        calls.append(folder)
        raise OSError(number, "no", str(folder))

    monkeypatch.setattr(checkpoint, "save", never)
    each = job(data, tmp_path / "run", steps=2)
    with pytest.raises(OSError, match="no"):
        Work()(each)
    assert len(calls) == tries and sum(hasty) == (disk.FULL_DISK_LIMIT_S if tries > 1 else 0)
    assert ends(each) == ["failed"]


def test_a_world_model_that_shows_late_is_waited_for(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = tmp_path / "model"
    each = job(data, tmp_path / "run").model_copy(update={"after": fit})
    threading.Timer(0.3, lambda: (fit.mkdir(), (fit / "DONE").touch())).start()
    assert perform(each)["steps"] == 20
    never = job(data, tmp_path / "other").model_copy(update={"after": tmp_path / "nothing"})
    monkeypatch.setattr(disk.wait_for, "__defaults__", (0.0,))
    with pytest.raises(disk.LateFileError, match=r"nothing/DONE is not there after 0 s: what writes it failed"):
        perform(never)


def test_a_line_that_a_full_disk_cut_off_costs_no_other(tmp_path: Path) -> None:
    jobs.note_start(tmp_path, {"event": "start"})
    with (tmp_path / jobs.STARTS_FILE).open("a") as stream:
        stream.write('{"when": "20')
    jobs.note_start(tmp_path, {"event": "end"})
    assert [row["event"] for row in jobs.read_starts(tmp_path)] == ["start", "end"]


@pytest.mark.parametrize("name", ["bc", "ensemble"])
@pytest.mark.parametrize("how", ["preempted", "terminated"])
def test_a_signal_saves_and_the_next_turn_ends_as_if_there_had_been_none(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch, name: str, how: str
) -> None:
    pytest.importorskip("submitit")
    straight = job(data, tmp_path / "straight", name)
    perform(straight)
    each, work, log = job(data, tmp_path / "run", name), Work(), LogHook.__call__

    def preempted(*_: object) -> None:  # as submitit does
        assert work.checkpoint(each).args == (each,)
        raise SystemExit(255)

    def call(self: LogHook, step: int, *rest: object) -> None:
        if step == 7:
            os.kill(os.getpid(), signal.SIGUSR2 if how == "preempted" else signal.SIGTERM)
            time.sleep(0.2)
        log(self, step, *rest)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        before = signal.signal(signal.SIGUSR2, preempted)
        patch.setattr(LogHook, "__call__", call)
        try:
            work(each)
        finally:
            signal.signal(signal.SIGUSR2, before)
    asked.clear()
    assert ends(each) == [how] and not (each.out / "DONE").exists()
    Work()(each)
    assert ends(each) == [how, "done"]
    refuse_difference(ending(straight.out), ending(each.out))


def test_a_job_that_gets_no_more_turns_says_so(tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    each, work, log = job(data, tmp_path / "run"), Work(), LogHook.__call__

    def refused(*_: object) -> None:  # as submitit does
        work.checkpoint(each)
        raise RuntimeError("timed-out too many times")

    def call(self: LogHook, step: int, *rest: object) -> None:
        if step == 7:
            os.kill(os.getpid(), signal.SIGUSR2)
            time.sleep(0.2)
        log(self, step, *rest)

    monkeypatch.setattr(LogHook, "__call__", call)
    before = signal.signal(signal.SIGUSR2, refused)
    try:
        with pytest.raises(RuntimeError, match="too many times"):
            work(each)
    finally:
        signal.signal(signal.SIGUSR2, before)
        asked.clear()
    assert ends(each) == ["preempted", "failed"]
    assert jobs.read_starts(each.out)[-1]["why"].startswith("its time was over in the last turn")


def test_debug_runs_all_and_tells_of_those_that_failed(tmp_path: Path, data: str) -> None:
    good, bad = job(data, tmp_path / "good"), job(f"{data}", tmp_path / "bad", batch_size=8)
    bad = bad.model_copy(update={"fields": {**bad.fields, "dataset": str(tmp_path / "none.safetensors")}})
    with pytest.raises(FailedJobsError, match=r"^1 of 2 jobs failed, the first: .*none\.safetensors"):
        submit([bad, good], "debug", Profile(), tmp_path / "logs")
    failed, finished = states_of([bad.out, good.out])
    assert (failed.state, finished.state) == ("failed", "done")
    assert "none.safetensors" in failed.why
    assert (finished.step, finished.steps, len(starts(good))) == (20, 20, 1)
    assert submit([], "slurm", Profile(), tmp_path / "logs") == []


def test_debug_that_is_interrupted_saves_and_starts_no_more(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = BC.update

    def interrupting(self: BC, batch: Batch) -> Metrics:
        metrics = update(self, batch)
        if self.updates == 3:
            os.kill(os.getpid(), signal.SIGINT)
            assert asked.wait(30)
        return metrics

    monkeypatch.setattr(BC, "update", interrupting)
    first, second = (job(data, tmp_path / name) for name in ("first", "second"))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    try:
        with pytest.raises(KeyboardInterrupt):
            submit([first, second], "debug", Profile(), tmp_path / "logs")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert [number for number, _ in checkpoint.found(first.out / "checkpoints")] == [3]
    assert (ends(first), starts(second), asked.is_set()) == (["terminated"], [], False)


def test_a_job_that_another_machine_left_behind_goes_on(tmp_path: Path, data: str) -> None:
    each = job(data, tmp_path / "run")
    jobs.write_submitted(each, "local", "7", tmp_path / "logs")
    jobs.note_start(each.out, {"event": "start", "id": "7", "host": "gone", "pid": 1, "born": 1})
    assert state_of(each.out).state == "running" and "only that machine" in state_of(each.out).why
    long_ago = time.time() - 1_000
    os.utime(each.out / "starts.jsonl", (long_ago, long_ago))
    with RunFolder(each.out).locked():
        assert state_of(each.out).state == "running"
    known = state_of(each.out)
    assert known.state == "failed" and known.why.startswith("nobody holds its folder, and gone has written nothing")

    jobs.note_start(each.out, {"event": "end", "how": "terminated", "why": "it saved"})
    assert state_of(each.out).state == "stopped"


def test_a_job_whose_number_another_process_has_by_now_is_gone(tmp_path: Path, data: str) -> None:
    each = job(data, tmp_path / "run")
    jobs.write_submitted(each, "local", str(os.getpid()), tmp_path / "logs")
    assert state_of(each.out).why == "its process is starting"
    jobs.note_start(each.out, {"event": "start", **this_process(), "born": 1})
    assert (state_of(each.out).state, state_of(each.out).why[:19]) == ("failed", "its process is gone")


def test_a_folder_that_nobody_submitted_waits(tmp_path: Path) -> None:
    assert state_of(tmp_path).why == "it was not submitted"


def test_the_profile_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("OFFLINE_MARL_PROFILE", raising=False)
    assert read_profile() == Profile()
    own = tmp_path / "offline_marl" / "profile.toml"
    own.parent.mkdir()
    own.write_text('partition = "long"\nmemory-gb = 3\nsetup = ["module load python"]\n')
    assert read_profile().partition == "long" and read_profile().memory_gb == 3
    named = tmp_path / "other.toml"
    named.write_text("minuts = 3")
    monkeypatch.setenv("OFFLINE_MARL_PROFILE", str(named))
    with pytest.raises(
        ConfigError, match=r"^In the profile .*other\.toml: Unknown field 'minuts': did you mean 'minutes'"
    ):
        read_profile()
    with pytest.raises(ConfigError, match="There is no config file"):
        read_profile(tmp_path / "none.toml")
