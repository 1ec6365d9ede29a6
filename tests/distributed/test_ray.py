"""Learners as Ray actors: a real Ray, in a network namespace of its own, since it listens on all addresses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec

import pytest

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: the extra 'ray'"),
]
PRELUDE = """
import os, signal, sys, time
import numpy as np
from offline_marl.distributed.engine import *
from offline_marl.distributed.ray import RayEngine

def times_learner():
    return lambda learner, payload: Message(payload["x"].astype(np.float64) * (learner + 1), b"layout")

def events_of(engine, count, timeout_s=60.0):
    deadline, events = time.monotonic() + timeout_s, []
    while len(events) < count and time.monotonic() < deadline:
        event = engine.wait_any(0.1)
        if event is not None:
            events.append(event)
    return events

def ask(engine, version, learners, delays=()):
    engine.publish(version, {"x": np.arange(3.0) + version, "flag": np.array(True)})
    for learner in learners:
        engine.submit(Task(learner, version, dict(delays).get(learner, 0.0)))
"""


def namespace() -> list[str]:
    """The words that run a command where only its own loopback is; empty where this machine allows none."""
    if not shutil.which("unshare"):
        return []
    for flags in (["-n"], ["-rn"]):
        words = ["unshare", *flags, "bash", "-c", 'ip link set lo up && exec "$@"', "bash"]
        if subprocess.run([*words, "true"], capture_output=True).returncode == 0:
            return words
    return []


def in_namespace(script: str, tmp_path, *args: str, timeout_s: float = 240.0) -> str:
    words = namespace()
    if not words:
        pytest.skip("no network namespace can be made here, and Ray would listen on the machine's own addresses")
    path = os.pathsep.join(folder for folder in sys.path if folder)
    file = tmp_path / "script.py"
    file.write_text(PRELUDE + script)
    # Short, since the names of Ray's sockets must be.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as place:
        home = {"RAY_AUTH_MODE": "disabled", "HOME": str(tmp_path), "RAY_TMPDIR": place, "PYTHONPATH": path}
        done = subprocess.run(
            [*words, sys.executable, str(file), *args],
            capture_output=True, text=True, timeout=timeout_s, env={**os.environ, **home},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_actors_answer_are_passed_by_and_come_back(tmp_path):
    said = in_namespace(
        """
with RayEngine(3, times_learner) as engine:
    assert sorted(e.learner for e in events_of(engine, 3) if isinstance(e, Ready)) == [0, 1, 2]
    ask(engine, 1, range(3), {1: 30.0})
    first = events_of(engine, 2)
    assert sorted(e.learner for e in first) == [0, 2], first
    assert {e.learner: e.message.numbers.tolist() for e in first}[2] == [3, 6, 9]
    assert first[0].message.note == b"layout"
    ask(engine, 2, [0, 2])
    second = events_of(engine, 3)
    assert sorted((e.learner, e.version, e.message is None) for e in second) == [
        (0, 2, False), (1, 1, True), (2, 2, False)], second
    os.kill(engine.process_of(0), signal.SIGKILL)
    ask(engine, 3, [0, 1])
    third = events_of(engine, 2)
    assert any(isinstance(e, Lost) and e.learner == 0 for e in third), third
    engine.restart(0)
    assert events_of(engine, 1) == [Ready(0)]
    ask(engine, 4, [0])
    assert events_of(engine, 1)[0].message.numbers.tolist() == [4, 5, 6]

    def cannot():
        raise ValueError("the data have changed")
    other = RayEngine(1, cannot)
    other.start()
    assert events_of(other, 1) == [Lost(0, "ValueError: the data have changed.")]
    other.stop()
    assert engine.process_of(1), "they lived on"
import ray
assert not ray.is_initialized()
print("all seen")
""",
        tmp_path,
    )
    assert "all seen" in said


def test_a_machine_that_dies_is_a_loss_of_its_learners(tmp_path):
    said = in_namespace(
        """
import ray
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
other = cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, namespace="offline_marl", log_to_driver=False)
engine = RayEngine(1, times_learner, address=cluster.address, cpus=1)
engine.start()
assert events_of(engine, 1) == [Ready(0)]
ask(engine, 1, [0], {0: 60.0})
cluster.remove_node(other, allow_graceful=False)
lost = events_of(engine, 1, 120.0)  # Ray asks for some time before it takes a machine for dead
assert isinstance(lost[0], Lost), lost
cluster.add_node(num_cpus=1)
engine.restart(0)
assert events_of(engine, 1) == [Ready(0)]
ask(engine, 2, [0])
assert events_of(engine, 1)[0].message.numbers.tolist() == [2, 3, 4]
engine.stop()
assert ray.is_initialized()
cluster.add_node(num_cpus=1)
machine = lambda actor: ray.get(actor.__ray_call__.remote(lambda self: ray.get_runtime_context().get_node_id()))
for _ in range(3):  # at random each machine would have two of four in three cases of eight
    with RayEngine(4, times_learner, address=cluster.address) as engine:
        assert len(events_of(engine, 4)) == 4
        machines = [machine(actor) for actor in engine._actors.values()]
        assert sorted(machines.count(one) for one in set(machines)) == [2, 2], machines
ray.shutdown()
cluster.shutdown()
print("all seen")
""",
        tmp_path,
    )
    assert "all seen" in said


def test_no_ray_at_an_address_is_one_sentence(tmp_path):
    said = in_namespace(
        """
from offline_marl.distributed.engine import EngineError
try:
    RayEngine(1, times_learner, address="127.0.0.1:1").start()
except EngineError as error:
    print("said:", error)
""",
        tmp_path,
    )
    assert "said: There is no Ray at 127.0.0.1:1" in said


def test_without_ray_the_extra_is_named(monkeypatch):
    from offline_marl.distributed.engine import EngineError
    from offline_marl.distributed.ray import RayEngine

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EngineError, match=r"offline-marl\[ray\]"):
        RayEngine(1, lambda: None).start()
