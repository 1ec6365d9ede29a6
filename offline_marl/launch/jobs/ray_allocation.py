"""Ray inside a job of Slurm: shell lines that start its head and workers on the job's nodes, and end with the job."""

from __future__ import annotations

from collections.abc import Sequence

from offline_marl.core.config import ConfigError
from offline_marl.distributed.ray import MACHINES_VARIABLE
from offline_marl.launch.jobs.job import Job
from offline_marl.launch.jobs.profile import Profile

HEAD_STEP = ("--overlap", "--nodes=1", "--ntasks=1", "--relative=0")
"""Flags of srun that put a step onto the first node, beside the others."""
FIRST_PORT, PORTS = 20_000, 10_000
"""Of heads, by the number of their job: above the ports of Ray's workers, below those that systems hand out."""
START_S = 120
"""Seconds that the head may take to answer."""


def refuse_without_ray(job: Job) -> None:
    """Make sure that a job can use more nodes than one.

    Raises:
        ConfigError: Its gradients are not computed by learners on Ray, or on another cluster's.
    """
    if job.fields.get("engine") != "ray":
        raise ConfigError("--nodes is for runs whose learners work on Ray: give the run --engine ray too.")
    if job.fields.get("ray_address") is not None:
        raise ConfigError("--nodes starts a Ray of its own on the job's nodes: leave out --ray-address.")


def with_nodes_for_ray(profile: Profile, jobs: Sequence[Job]) -> Profile:
    """Leave the profile's `nodes` to jobs that can use them.

    Raises:
        ConfigError: Jobs of one array differ in that.
    """
    users = [job.fields.get("engine") == "ray" and job.fields.get("ray_address") is None for job in jobs]
    if profile.nodes is None or all(users):
        return profile
    if any(users):
        raise ConfigError("Jobs with --engine ray and jobs without share an array: leave `nodes` out of the profile.")
    return profile.model_copy(update={"nodes": None})


def ray_lines(profile: Profile, python: str) -> list[str]:
    """Lines for the job's script, before the run is started on the first node with `HEAD_STEP`.

    The token is drawn anew for each start, so that nobody else who reaches Ray's ports can use it. $RAY_ADDRESS tells
    the run where Ray is. All steps end with the script, by Slurm if not by the trap.
    """
    assert profile.nodes is not None
    ray = f"""bash -c 'trap "" USR2; exec "$@"' ray {python} -m ray.scripts.scripts start --block"""
    # On nodes that others use too, ports and folders of its own.
    common = f"--num-cpus={profile.cpus} --num-gpus={profile.gpus} --min-worker-port=0 --max-worker-port=0"
    others = profile.nodes - 1
    workers = [
        f"srun --overlap --nodes={others} --ntasks={others} --ntasks-per-node=1 --relative=1 {ray} "
        f'--address="$ray_head" {common} &'
    ]
    return [
        "trap 'kill $(jobs -p) 2>/dev/null' EXIT",
        "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \\n')",
        "ray_ip=$(hostname -I | awk '{print $1}')",
        f'ray_port=$(({FIRST_PORT} + SLURM_JOB_ID % {PORTS})) ray_ip="${{ray_ip:-127.0.0.1}}"',
        'ray_head="$ray_ip:$ray_port"',
        f'srun {" ".join(HEAD_STEP)} {ray} --head --node-ip-address="$ray_ip" --port="$ray_port" '
        f'--temp-dir="/tmp/ray_$SLURM_JOB_ID" --include-dashboard=false {common} &',
        f'for _ in $(seq {START_S}); do (: <"/dev/tcp/$ray_ip/$ray_port") 2>/dev/null && break; sleep 1; done',
        *(workers if others else []),
        f'export RAY_ADDRESS="$ray_head" {MACHINES_VARIABLE}={profile.nodes}',
    ]
