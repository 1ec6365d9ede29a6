"""A run on Ray: learners read the run's folder and data, one is killed on the way, and the end is the uncoded one."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from distributed.test_ray import in_namespace

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: the extra 'ray'"),
]


def test_a_run_on_ray_ends_as_one_without_though_a_learner_is_killed(tmp_path):
    said = in_namespace(
        """
import json, subprocess, torch
from pathlib import Path
from offline_marl import train
from offline_marl.runs.checkpoint import candidates
from worlds import saved, world

data = str(saved(Path(sys.argv[1]), world("continuous")))
out = Path(sys.argv[1])
fields = dict(steps=60, device="cpu", hidden=[16], batch_size=16, eval_every=0, final_episodes=1)

def kill_one(step, learner, metrics):
    if step == 20:
        listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True).stdout
        some = [line.split()[0] for line in listed.splitlines() if "ray::_Learner" in line]
        ours = os.readlink("/proc/self/ns/net")  # of another test's Ray nobody is killed
        mine = [process for process in some if os.readlink(f"/proc/{process}/ns/net") == ours]
        os.kill(int(mine[0]), signal.SIGKILL)
    if step > 20:  # the others do all that is left, which should not be over before Ray has told of the death
        time.sleep(0.1)

train("td3-bc", data, out=out / "plain", **fields)
train("td3-bc", data, out=out / "coded", **fields, engine="ray", learners=4, hooks=[kill_one])
ends = [next(iter(candidates(out / name / "checkpoints")))[1]["algorithm"] for name in ("plain", "coded")]
for name, value in ends[0].items():
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        assert torch.allclose(value, ends[1][name], atol=1e-5), name
lines = [json.loads(line) for line in (out / "coded" / "learners.jsonl").read_text().splitlines()]
assert len(lines) == 60 and sum(line["lost"] for line in lines) >= 1, lines
print("all seen")
""",
        tmp_path,
        str(tmp_path),
    )
    assert "all seen" in said


def test_a_delay_costs_nothing_within_the_tolerance_and_its_whole_length_beyond(tmp_path):
    said = in_namespace(
        """
from training.test_coded import assert_late_ones_cost_nothing_up_to_the_tolerance
assert_late_ones_cost_nothing_up_to_the_tolerance(RayEngine)
print("all seen")
""",
        tmp_path,
    )
    assert "all seen" in said


def test_a_run_ends_as_one_without_though_a_whole_machine_is_killed(tmp_path):
    said = in_namespace(
        """
import json, ray, time, torch
from pathlib import Path
from ray.cluster_utils import Cluster
from offline_marl import train
from offline_marl.runs.checkpoint import candidates
from worlds import saved, world

out = Path(sys.argv[1])
data = str(saved(out, world("continuous")))
fields = dict(steps=60, device="cpu", hidden=[16], batch_size=16, eval_every=0, final_episodes=1)
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
other = cluster.add_node(num_cpus=1)

def kill_machine(step, learner, metrics):
    if step == 20:
        cluster.remove_node(other, allow_graceful=False)
    if step == 30:  # Ray itself takes seconds to see it, in which the other learners would do all that is left
        until = time.monotonic() + 90
        while sum(node["Alive"] for node in ray.nodes()) > 1 and time.monotonic() < until:
            time.sleep(0.1)
    if step > 30:  # and tells whoever waits for an actor there later, on a busy machine much later
        log = (out / "coded" / "learners.jsonl").read_text().splitlines()
        time.sleep(0.0 if any(json.loads(line)["lost"] for line in log) else 2.0)

train("td3-bc", data, out=out / "plain", **fields)
coded = dict(engine="ray", learners=5, ray_address=cluster.address, patience=5.0)
# With each checkpoint the log is brought up to date.
train("td3-bc", data, out=out / "coded", **fields, **coded, checkpoint_every=1, hooks=[kill_machine])
ends = [next(iter(candidates(out / name / "checkpoints")))[1]["algorithm"] for name in ("plain", "coded")]
for name, value in ends[0].items():
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        assert torch.allclose(value, ends[1][name], atol=1e-5), name
lines = [json.loads(line) for line in (out / "coded" / "learners.jsonl").read_text().splitlines()]
assert len(lines) == 60
print(sum(line["lost"] for line in lines), "lost", max(line["seconds"] for line in lines), "s")
assert sum(line["lost"] for line in lines) >= 1, lines
cluster.shutdown()
print("all seen")
""",
        tmp_path,
        str(tmp_path),
    )
    print(said)
    assert "all seen" in said
