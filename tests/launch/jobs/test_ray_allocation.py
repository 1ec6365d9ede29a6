"""Ray inside a job of Slurm: what the script starts, what is refused, and a run on two nodes of a real Slurm."""

from __future__ import annotations

import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
from distributed.test_ray import in_namespace
from launch.conftest import cli  # noqa: F401 - a fixture

from offline_marl.core.config import ConfigError
from offline_marl.launch.jobs.executors import dry_run, submit
from offline_marl.launch.jobs.job import Job
from offline_marl.launch.jobs.profile import Profile
from offline_marl.launch.jobs.ray_allocation import refuse_without_ray

SCRIPTS = Path(__file__).parents[2] / "slurm"


RUN = Job(name="td3-bc", fields={"engine": "ray", "steps": 5}, out=Path("/there/run"))


def script(nodes: int | None, job: Job = RUN, **fields) -> str:
    pytest.importorskip("submitit")
    return dry_run([job], Profile(nodes=nodes, cpus=3, gpus=1, **fields), Path("/there/logs"))


def test_the_head_starts_on_the_first_node_and_workers_on_the_others():
    lines = script(4, setup=("module load ray",)).splitlines()
    assert "#SBATCH --nodes=4" in lines and "#SBATCH --ntasks-per-node=1" in lines
    (head,) = [line for line in lines if " --head " in line]
    (workers,) = [line for line in lines if " --address=" in line]
    (run,) = [line for line in lines if "submitit.core._submit" in line]
    for line in (head, run):
        assert line.startswith("srun") and {"--overlap", "--nodes=1", "--ntasks=1", "--relative=0"} <= set(line.split())
    assert {"--nodes=3", "--ntasks=3", "--relative=1"} <= set(workers.split())
    assert all("--num-cpus=3 --num-gpus=1" in line and line.endswith("&") for line in (head, workers))
    order = [lines.index(line) for line in ("module load ray", head, workers, run)]
    assert order == sorted(order)
    assert 'export RAY_ADDRESS="$ray_head" OFFLINE_MARL_RAY_NODES=4' in lines
    assert any("RAY_AUTH_MODE=token" in line for line in lines)


def test_one_node_has_a_head_alone_and_a_container_holds_all_of_it():
    text = script(1, container="apptainer exec x.sif")
    assert " --address=" not in text and "apptainer exec x.sif python -m ray.scripts.scripts start" in text
    assert "ray" not in script(None).partition("# setup")[2]


def test_the_script_is_one_that_bash_reads():
    assert subprocess.run(["bash", "-n"], input=script(3), text=True, capture_output=True).stderr == ""


@pytest.mark.parametrize(
    ("fields", "said"), [({}, "give the run --engine ray too"), ({"engine": "ray", "ray_address": "auto"}, "leave out")]
)
def test_nodes_that_a_run_could_not_use_are_refused(tmp_path, fields, said):
    job = Job(name="td3-bc", fields=fields, out=tmp_path / "run")
    with pytest.raises(ConfigError, match=said):
        refuse_without_ray(job)
    assert "#SBATCH --nodes=1\n" in script(2, job) and "ray.scripts" not in script(2, job)


def test_an_array_of_runs_with_and_without_ray_has_no_nodes(tmp_path):
    pytest.importorskip("submitit")
    some = [Job(name="bc", fields=fields, out=tmp_path / "run") for fields in ({}, {"engine": "ray"})]
    with pytest.raises(ConfigError, match="share an array"):
        submit(some, "slurm", Profile(nodes=2), tmp_path / "logs")


def test_nodes_are_for_slurm(cli):  # noqa: F811
    said = cli("submit", "train", "bc", "--dataset", "x", "--executor", "local", "--nodes", "2")
    assert said.code == 2 and "--nodes is for --executor slurm" in said.err
    said = cli("submit", "train", "bc", "--dataset", "x", "--nodes", "0")
    assert said.code == 2 and "nodes" in said.err


@pytest.mark.ray
@pytest.mark.slurm
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: the extra 'ray'")
def test_a_run_on_two_nodes_ends_as_one_on_none_and_leaves_no_ray(tmp_path):
    pytest.importorskip("submitit")
    said = in_namespace(
        """
import json, shutil, subprocess, torch
from pathlib import Path
from cluster import slurm, until
from worlds import saved, world
from offline_marl import train
from offline_marl.runs.checkpoint import candidates

out, scripts = Path(sys.argv[1]), Path(sys.argv[2])
# Slurm looks its host's name up, which finds nothing where all addresses are loopback's.
subprocess.run(["ip", "addr", "add", "10.99.0.1/32", "dev", "lo"], check=True)
up = subprocess.run([scripts / "up.sh", out / "slurm"], capture_output=True, text=True)
if up.returncode == 77:
    print("skipped:", up.stderr)
    sys.exit()
assert up.returncode == 0, up.stderr
os.environ["SLURM_CONF"] = str(out / "slurm" / "slurm.conf")

def processes(words):
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    return [line for line in listed.splitlines() if words in line and "raylet/raylet" in line]

try:
    data = saved(out, world("continuous"))
    train("td3-bc", data, out=out / "plain", steps=60, device="cpu", hidden=[16], batch_size=16, eval_every=0)
    fields = ["--steps", "60", "--device", "cpu", "--hidden", "[16]", "--batch-size", "16", "--eval-every", "0"]
    words = [*fields, "--engine", "ray", "--learners", "4", "--nodes", "2", "--out", str(out / "coded")]
    command = [sys.executable, "-m", "offline_marl", "submit", "train", "td3-bc", "--dataset", data, *words]
    print(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    name = json.loads((out / "coded" / "job.json").read_text())["id"]
    place = f"/tmp/ray_{name}"
    until(lambda: len(processes(place)) == 2, 90)
    until(lambda: (out / "coded" / "DONE").exists() or not slurm("squeue", "-h"), 120)
    until(lambda: not slurm("squeue", "-h") and not processes(place), 60)
    for log in (out / "coded" / "logs").glob("*_log.*"):
        print(log.name, log.read_text()[-1500:])
    assert (out / "coded" / "DONE").exists()
    ends = [next(iter(candidates(out / name / "checkpoints")))[1]["algorithm"] for name in ("plain", "coded")]
    for name, value in ends[0].items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            assert torch.allclose(value, ends[1][name], atol=1e-5), name
    rows = [json.loads(line) for line in (out / "coded" / "learners.jsonl").read_text().splitlines()]
    assert len(rows) == 60 and any(row["rows"] for row in rows)
    print("all seen")
    shutil.rmtree(place, ignore_errors=True)
finally:
    subprocess.run([scripts / "down.sh", out / "slurm"])
""",
        tmp_path,
        str(tmp_path),
        str(SCRIPTS),
    )
    print(said)
    if "skipped:" in said:
        pytest.skip(said)
    assert "all seen" in said
