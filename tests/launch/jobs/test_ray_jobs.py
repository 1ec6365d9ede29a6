"""Jobs on Ray: what the launcher starts again and what not, what their folders tell, and how kept processes end."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from cluster import until
from distributed.test_ray import in_namespace
from sweeping import GONE, finish

from offline_marl.core.config import ConfigError
from offline_marl.core.errors import WorkError
from offline_marl.distributed import ray as ray_engine
from offline_marl.distributed import ray_processes
from offline_marl.distributed.ray_processes import KEPT_VARIABLE, Command, Ended, Resources, _Keeper
from offline_marl.launch.jobs import ray_jobs, states
from offline_marl.launch.jobs.executors import FailedJobsError, submit
from offline_marl.launch.jobs.job import Job, note_start, read_starts, read_submitted, write_submitted
from offline_marl.launch.jobs.profile import Profile
from offline_marl.launch.jobs.states import state_of
from offline_marl.launch.jobs.worker import this_process
from offline_marl.launch.sweeps.launch import failed_by_itself, is_live
from offline_marl.runs import checkpoint

on_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: the extra 'ray'")
ELSEWHERE = {"host": "another-machine", "pid": 1, "born": 1}


class Stage:
    """Takes the cluster's place: `play` does what a job's process would, and gives its exit code; None for a loss."""

    started_here = False

    def __init__(self, address=None):
        self.address, self.started, self.ended, self.told = address, [], [], []
        self.left = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.left = True

    def machines(self):
        return [{"CPU": 4.0, "memory": 1e10}]

    def start(self, name, command, resources):
        self.started.append((name, command, resources))
        given = Job.model_validate_json(command.words[3])
        code = self.play(given, sum(one == name for one, *_ in self.started))
        self.ended.append(Ended(name, code, "its end", futile=code is not None))

    def wait(self, timeout_s):
        return [self.ended.pop(0)] if self.ended else []

    def terminate(self, name):
        self.told.append(name)


@pytest.fixture
def stage(monkeypatch):
    stage = Stage()
    monkeypatch.setattr(ray_jobs, "RayProcesses", lambda address: setattr(stage, "address", address) or stage)
    monkeypatch.setattr(ray_jobs, "LATE_S", 0.0)
    return stage


def a_job(tmp_path: Path, name: str = "run") -> Job:
    return Job(name="bc", fields={"steps": 20}, out=tmp_path / name)


def save(each: Job, step: int) -> None:
    path = checkpoint.path_of(each.out / "checkpoints", step)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def began(each: Job) -> None:
    note_start(each.out, {"event": "start", "id": read_submitted(each.out).id, **GONE})


def test_a_lost_job_is_started_again_until_it_is_done(tmp_path, stage):
    each = a_job(tmp_path)

    def play(given, turn):
        began(each)
        if turn == 5:
            finish(given, {"return": 1.0})
            return 0
        save(each, turn)
        return -9 if turn % 2 else None

    stage.play = play
    (name,) = submit([each], "ray", Profile(cpus=2, memory_gb=1, ray_address="auto"), tmp_path / "logs")

    assert [one for one, *_ in stage.started] == [name] * 5 and stage.address == "auto" and stage.left
    assert stage.started[0][2] == Resources(2, 0, 2**30)
    assert stage.started[0][1].variables["OFFLINE_MARL_RAY_JOB"] == name
    assert [row["event"] for row in read_starts(each.out)].count("lost") == 4
    assert state_of(each.out).state == "done" and state_of(each.out).requeues == 4


def test_a_job_that_keeps_dying_where_it_stands_is_given_up(tmp_path, stage):
    each = a_job(tmp_path)
    save(each, 7)
    stage.play = lambda given, turn: began(each) or 137
    with pytest.raises(FailedJobsError, match="died 3 times without getting beyond step 7, of the last its end"):
        submit([each], "ray", Profile(), tmp_path / "logs")
    assert len(stage.started) == 3
    assert failed_by_itself(state_of(each.out))


def test_lost_machines_are_not_the_jobs_fault_but_are_counted(tmp_path, stage):
    each = a_job(tmp_path)
    stage.play = lambda given, turn: None
    with pytest.raises(FailedJobsError, match="lost 6 times, more often than `requeues`"):
        submit([each], "ray", Profile(requeues=5), tmp_path / "logs")
    assert len(stage.started) == 6


@pytest.mark.parametrize("code", [1, None])
def test_a_failure_of_its_own_is_not_tried_again_and_the_others_go_on(tmp_path, stage, code):
    bad, good = a_job(tmp_path, "bad"), a_job(tmp_path, "good")
    note_start(bad.out, {"event": "end", "how": "failed", "why": "of an earlier submission", "when": "2000"})

    def play(given, turn):
        if given.out == good.out:
            finish(given, {"return": 1.0})
            return 0
        if turn == 1:
            return None
        note_start(given.out, {"event": "end", "how": "failed", "why": "its loss is not finite."})
        return code

    stage.play = play
    with pytest.raises(FailedJobsError, match="1 of 2 jobs failed, the first: its loss is not finite"):
        submit([bad, good], "ray", Profile(), tmp_path / "logs")
    assert len(stage.started) == 3


def test_no_more_run_at_once_than_the_profile_says(tmp_path, stage):
    most = []

    def play(given, turn):
        most.append(len(stage.ended))
        finish(given, {"return": 1.0})
        return 0

    stage.play = play
    submit([a_job(tmp_path, str(n)) for n in range(7)], "ray", Profile(array_parallelism=2), tmp_path / "logs")
    assert len(most) == 7 and max(most) == 1


def test_an_interrupted_launcher_tells_its_jobs_to_save_and_marks_those_that_wait(tmp_path, stage):
    some = [a_job(tmp_path, str(n)) for n in range(3)]
    stage.play = lambda given, turn: 0

    def interrupted(timeout_s):
        if not stage.told:
            raise KeyboardInterrupt
        return [stage.ended.pop(0)] if stage.ended else []

    stage.wait = interrupted
    with pytest.raises(KeyboardInterrupt):
        submit(some, "ray", Profile(array_parallelism=2), tmp_path / "logs")
    assert stage.told == [name for name, *_ in stage.started] and len(stage.told) == 2 and stage.left
    assert all(read_starts(each.out)[-1]["event"] == "cancel" for each in some)


def test_too_small_a_machine_is_refused_and_a_cluster_is_waited_for(tmp_path, stage, capsys):
    each = a_job(tmp_path)
    stage.play = lambda given, turn: finish(given, {}) or 0
    submit([each], "ray", Profile(cpus=64), tmp_path / "logs")
    assert "no machine of the Ray cluster has 64 cores" in capsys.readouterr().err
    stage.started_here = True
    with pytest.raises(ConfigError, match="asks for 1 cores, 2 GPUs"):
        submit([each], "ray", Profile(gpus=2), tmp_path / "logs")


def test_states_are_told_by_the_log_and_the_launcher(tmp_path):
    each = a_job(tmp_path)
    write_submitted(each, "ray", "ray-a-0", tmp_path / "logs", this_process())
    assert (state_of(each.out).state, state_of(each.out).why) == ("waiting", "in Ray's queue")
    began(each)
    assert (state_of(each.out).state, state_of(each.out).why) == ("running", f"on {GONE['host']}")
    note_start(each.out, {"event": "lost", "id": "ray-a-0", "why": "its machine"})
    note_start(each.out, {"event": "end", "how": "terminated"})  # the lost one, that saved
    assert (state_of(each.out).state, state_of(each.out).why) == ("waiting", "requeued, in Ray's queue")
    assert is_live(state_of(each.out))
    began(each)
    assert state_of(each.out).state == "running"


def test_a_dead_launcher_leaves_no_job_alive(tmp_path):
    each = a_job(tmp_path)
    write_submitted(each, "ray", "ray-a-0", tmp_path / "logs", GONE)
    assert state_of(each.out).state == "failed" and not failed_by_itself(state_of(each.out))
    began(each)
    assert "launcher is gone" in state_of(each.out).why
    note_start(each.out, {"event": "start", "id": "ray-a-0", **this_process()})
    assert is_live(state_of(each.out)), "it is saving, here"
    note_start(each.out, {"event": "start", "id": "ray-a-0", **GONE})
    note_start(each.out, {"event": "end", "how": "terminated"})
    assert state_of(each.out).state == "stopped"


def test_a_launcher_of_another_machine_counts_as_alive_until_one_here_holds_the_lock(tmp_path):
    each = a_job(tmp_path)
    write_submitted(each, "ray", "ray-a-0", tmp_path / "logs", ELSEWHERE)
    began(each)
    assert state_of(each.out).state == "running" and "another-machine" in state_of(each.out).why
    states.abandon([each.out])
    assert state_of(each.out).state == "failed" and not failed_by_itself(state_of(each.out))
    mine = a_job(tmp_path, "mine")
    write_submitted(mine, "ray", "ray-a-1", tmp_path / "logs", this_process())
    states.abandon([mine.out])
    assert state_of(mine.out).state == "waiting"


# --- kept processes, without Ray ------------------------------------------------------------------------------------
SAVES = """
import os, signal, sys, threading
from offline_marl.distributed.ray_processes import end_with_keeper
told = threading.Event()
end_with_keeper(float(sys.argv[2]), told.set)
open(sys.argv[1] + ".pid", "w").write(str(os.getpid()))
told.wait(30)
open(sys.argv[1] + ".saved", "w").close()
signal.pause() if sys.argv[2] == "0.1" else None
"""


def kept(tmp_path, words, **fields) -> tuple[_Keeper, threading.Thread, list[int]]:
    keeper, codes = _Keeper(), list[int]()
    command = Command(words, log=str(tmp_path / "log"), **fields)
    thread = threading.Thread(target=lambda: codes.append(keeper.keep(command)), daemon=True)
    thread.start()
    return keeper, thread, codes


def gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):  # the second where it ends between the opening and the reading
        return True


@pytest.mark.parametrize("patience", ["20", "0.1"])
def test_a_process_whose_keeper_is_killed_saves_and_ends(tmp_path, patience):
    script = tmp_path / "saves.py"
    script.write_text(SAVES)
    holder = f"""
import sys
from offline_marl.distributed.ray_processes import Command, _Keeper
_Keeper().keep(Command([{str(script)!r}, {str(tmp_path / "it")!r}, {patience!r}], log={str(tmp_path / "log")!r}))
"""
    keeper = subprocess.Popen([sys.executable, "-c", holder])
    until(lambda: (tmp_path / "it.pid").exists() and (tmp_path / "it.pid").read_text(), 30)
    process = int((tmp_path / "it.pid").read_text())
    assert not (tmp_path / "it.saved").exists()
    keeper.kill()
    keeper.wait()
    until(lambda: gone(process), 20)
    assert (tmp_path / "it.saved").exists()


def test_kept_processes_get_their_shell_lines_their_environment_and_their_place(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_JOB_ID", "7")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    show = "import json, os; print(json.dumps([dict(os.environ), os.getcwd()]))"
    fields = {"setup": ["export A=1", 'export B="{x}"'], "variables": {"C": "3"}, "directory": str(tmp_path)}
    _, thread, codes = kept(tmp_path, ["-c", show], **fields)
    thread.join(20)
    variables, place = json.loads((tmp_path / "log.out").read_text())
    assert codes == [0] and place == str(tmp_path)
    assert (variables["A"], variables["B"], variables["C"], variables[KEPT_VARIABLE]) == ("1", "{x}", "3", "1")
    assert variables["RAY_AUTH_MODE"] == "token" and not {"RAY_JOB_ID", "SUBMITIT_EXECUTOR"} & set(variables)


@pytest.mark.parametrize(
    ("code", "known"), [("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 128 + signal.SIGKILL)]
)
def test_exit_codes_are_those_of_the_process(tmp_path, code, known):
    _, thread, codes = kept(tmp_path, ["-c", code])
    thread.join(20)
    assert codes == [known]
    assert ray_processes._signalled(137) == "its process was ended by SIGKILL"


def test_a_process_that_is_told_to_end_may_save_and_one_that_has_not_begun_never_does(tmp_path):
    saves = "import signal, sys; signal.signal(15, lambda *_: sys.exit(7)); print('up', flush=True); signal.pause()"
    keeper, thread, codes = kept(tmp_path, ["-c", saves])
    until(lambda: (tmp_path / "log.out").exists() and (tmp_path / "log.out").read_text() == "up\n", 20)
    keeper.terminate()
    thread.join(20)
    assert codes == [7]
    late = _Keeper()
    late.terminate()
    assert late.keep(Command(["-c", "print('never')"], log=str(tmp_path / "late"))) == 128 + signal.SIGTERM
    assert not (tmp_path / "late.out").exists()


def test_a_process_that_is_told_to_end_while_it_is_started_ends(tmp_path, monkeypatch):
    keeper = _Keeper()

    class ToldAtItsStart(subprocess.Popen):
        def __init__(self, *words, **fields):
            keeper.terminate()
            super().__init__(*words, **fields)

    monkeypatch.setattr(ray_processes.subprocess, "Popen", ToldAtItsStart)
    command = Command(["-c", "import time; time.sleep(5); print('never')"], log=str(tmp_path / "log"))
    assert keeper.keep(command) == 128 + signal.SIGTERM
    assert (tmp_path / "log.out").read_text() == ""


def test_what_is_no_kept_process_is_left_alone(monkeypatch):
    monkeypatch.delenv(KEPT_VARIABLE, raising=False)
    before = threading.active_count()
    ray_processes.end_with_keeper(0.0, lambda: None)
    assert threading.active_count() == before


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(WorkError, match=r"offline-marl\[ray\]"):
        submit([a_job(tmp_path)], "ray", Profile(), tmp_path / "logs")
    assert read_submitted(tmp_path / "run") is None


# --- the way to a cluster, without Ray ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("flag", "variable", "address"),
    [(None, "", None), (None, "a:1", "a:1"), ("auto", "a:1", "a:1"), ("auto", "", "auto"), ("b:2", "a:1", "b:2")],
)
def test_the_flag_names_the_cluster_and_without_it_the_environment(monkeypatch, flag, variable, address):
    monkeypatch.setenv("RAY_ADDRESS", variable)
    assert ray_engine.resolved(flag) == address


def test_a_ray_of_this_machine_alone_may_be_asked_for_by_name(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert ray_engine.resolved(None) is None and ray_engine.resolved("auto") is None


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_what_listens_at_the_address_and_is_no_ray_is_told_at_once(monkeypatch, answer):
    def refuse(**settings):
        raise AssertionError("Ray itself would try for minutes")

    monkeypatch.setattr(ray_engine, "import_ray", lambda: SimpleNamespace(is_initialized=lambda: False, init=refuse))
    monkeypatch.setattr(ray_engine, "REACH_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        connected = []

        def serve():
            connected.append(server.accept()[0])
            connected[0].sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(WorkError, match=f"There is no Ray at {address}: what listens there speaks another"):
            ray_engine.connect(address)
        connected[0].close()


def test_what_speaks_rays_protocol_is_handed_to_ray(monkeypatch):
    asked = []
    ray = SimpleNamespace(is_initialized=lambda: False, init=lambda **settings: asked.append(settings["address"]))
    monkeypatch.setattr(ray_engine, "import_ray", lambda: ray)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        settings, connected = bytes([0, 0, 6, 4, 0, 0, 0, 0, 0]) + bytes(6), []

        def serve():
            connected.append(server.accept()[0])
            connected[0].sendall(settings)

        threading.Thread(target=serve, daemon=True).start()
        assert ray_engine.connect(address)
        connected[0].close()
    assert asked == [address]


@pytest.mark.parametrize("address", ["x", "host:99999", "host:abc", "ray://host:10001", "http://host:8265", ":6379"])
def test_what_is_no_address_is_refused_before_anything_is_asked(monkeypatch, address):
    monkeypatch.setattr(ray_engine, "import_ray", lambda: SimpleNamespace(is_initialized=lambda: False))
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(WorkError, match="no address of a Ray cluster: give HOST:PORT"):
        ray_engine.connect(None)


def test_who_listens_for_sigterm_still_does_after_ray_has_come(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    asked = []

    def init(**settings):
        asked.append(settings["address"])
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    monkeypatch.setattr(ray_engine, "import_ray", lambda: SimpleNamespace(is_initialized=lambda: False, init=init))
    heard, before = [], signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *_: heard.append("saved"))
    try:
        assert ray_engine.connect(None)
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == ["saved"] and asked == ["local"]


# --- on a real Ray ---------------------------------------------------------------------------------------------------
@pytest.mark.ray
@on_ray
def test_jobs_outlive_their_process_their_worker_and_their_machine(tmp_path):
    said = in_namespace(
        """
import threading
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from cluster import done, ends, job, starts, step, until
from runs import ending, refuse_difference
from worlds import saved, world
from offline_marl.launch.jobs import executors
from offline_marl.launch.jobs.job import perform, read_starts
from offline_marl.launch.jobs.profile import Profile
from offline_marl.launch.jobs.states import state_of

out = Path(sys.argv[1])
long = {"steps": 4_000, "log_every": 10, "checkpoint_every": 500}
data = saved(out, world("continuous"))
straight = job(data, out / "straight", **long)
perform(straight)
some = [job(data, out / f"run{n}", **long) for n in range(2)]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
first = cluster.add_node(num_cpus=2)

def parent(process):
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])

def disturb():
    until(lambda: all(step(each) > 20 for each in some), 100)
    os.kill(starts(some[0])[-1]["pid"], signal.SIGKILL)
    keeper = parent(parent(starts(some[1])[-1]["pid"]))
    assert "_Keeper" in Path(f"/proc/{keeper}/cmdline").read_text()
    os.kill(keeper, signal.SIGKILL)
    until(lambda: all(len(starts(each)) == 2 for each in some), 60)
    assert state_of(some[0].out).state == "running"
    cluster.remove_node(first, allow_graceful=False)  # at once, while they are still at work
    begun = time.monotonic()
    cluster.add_node(num_cpus=2)
    until(lambda: all(len(starts(each)) == 3 for each in some), 60)
    print(f"on another machine after {time.monotonic() - begun:.1f} s")

profile = Profile(ray_address=cluster.address)
launching = threading.Thread(target=lambda: executors.submit(some, "ray", profile, out / "logs"), daemon=True)
launching.start()
disturb()
launching.join()
for each in some:
    refuse_difference(ending(straight.out), ending(each.out))
print([ends(each) for each in some], [state_of(each.out).requeues for each in some])
assert not ray.is_initialized()
cluster.shutdown()
print("all seen")
""",
        tmp_path,
        str(tmp_path),
    )
    print(said)
    assert "all seen" in said


@pytest.mark.ray
@on_ray
def test_a_sweep_goes_on_after_its_launcher_was_killed_and_can_be_cancelled(tmp_path):
    said = in_namespace(
        """
import json, subprocess
from pathlib import Path
from ray.cluster_utils import Cluster
from cluster import until
from sweeping import TINY, head, written
from worlds import saved, world

out = Path(sys.argv[1])
os.chdir(out)
data = json.dumps(saved(out, world("continuous")))
tiny = TINY.replace("steps = 6", "steps = 10_000_000").replace("checkpoint_every = 2", "checkpoint_every = 0")
file = written(out, f'algorithms = ["bc"]\\ndatasets = [{data}]\\nseeds = [0, 1]\\n{tiny}')
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
command = [sys.executable, "-m", "offline_marl", "sweep"]

def status():
    words = [*command, "status", "sweeps/sweep", "--json"]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)

def rows():
    files = sorted(Path("sweeps").glob("*/runs/*/starts.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]

def at_work(count):
    until(lambda: len(list(Path("sweeps").glob("*/runs/*/metrics.csv"))) == 2 and [
        row["event"] for row in rows()].count("start") == count, 90)
    time.sleep(1)

launcher = subprocess.Popen([*command, str(file), "--executor", "ray", "--ray-address", cluster.address])
at_work(2)
assert status()["running"] == 2, status()
other = subprocess.run([*command, str(file)], capture_output=True, text=True)
assert other.returncode == 2 and "Another process is launching" in other.stderr, other.stderr
launcher.kill()
launcher.wait()
until(lambda: status()["stopped"] == 2, 60)
assert len(list(Path("sweeps").glob("*/runs/*/checkpoints/step_*"))) == 2, "they saved"
launcher = subprocess.Popen([*command, "sweeps/sweep"])
at_work(4)
cancelled = subprocess.run([*command, "cancel", "sweeps/sweep"], check=True, capture_output=True, text=True)
assert "2 jobs cancelled" in cancelled.stdout, cancelled
assert launcher.wait(60) == 130 and status()["stopped"] == 2, status()
assert not list(Path("sweeps").glob("*/runs/*/DONE"))
cluster.shutdown()
print("all seen")
""",
        tmp_path,
        str(tmp_path),
    )
    assert "all seen" in said
