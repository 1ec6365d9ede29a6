"""Play of a run that replays over a bare loop of policy and simulator, and steps of bodies over MuJoCo's own.

Bare is what any loop does: the policy acts on what the simulator shows, and the simulator steps. Ours also follows
memories, checks numbers, keeps what happened, makes episodes of it and puts them into the replay.
"""

from __future__ import annotations

import numpy as np
import torch
from timing import Patience, medians

from offline_marl.algorithms.base import algorithms
from offline_marl.core.acting.inputs import unchecked
from offline_marl.core.config import build
from offline_marl.core.permissions import ImportPath
from offline_marl.datasets.episode_ring import EpisodeRing
from offline_marl.environments.episodes import seen_tensors
from offline_marl.environments.guarded import Guarded
from offline_marl.environments.mamujoco import Ant, HalfCheetah, Hopper, Swimmer, Walker2d
from offline_marl.environments.reacher import Reacher
from offline_marl.tasks.environment_tasks import find_environment_task
from offline_marl.training.sources.playing import Player

PLAYS = (
    ("rendezvous", "td3-bc"),
    ("reacher_2x1_full", "td3-bc"),
    ("simple-spread", "cql"),
    ("simple-spread", "vdn"),
)
"""Environments, and who plays them."""


BODIES = {body.name: body for body in (Reacher, HalfCheetah, Hopper, Walker2d, Swimmer, Ant)}
FALLING = ("hopper", "walker2d", "ant")
"""Whose episodes would end sooner than MuJoCo's steps."""
COPIES = 16


def compare_body(name: str, patience: Patience) -> None:
    """Print a row: microseconds of a copy's step of ours, and over those of MuJoCo's alone, with the same torques."""
    import mujoco

    falls = {"terminate_when_unhealthy": False} if name in FALLING else {}
    env = BODIES[name].told(falls).simulator(COPIES)
    steps = min(env.max_steps, 50)
    acts = np.random.default_rng(0).uniform(-1, 1, (steps, COPIES, env.action_dim)).astype(np.float32)

    def ours() -> None:
        env.reset(range(COPIES))
        for torques in acts:
            env.step(torques)

    def bare() -> None:
        env.reset(range(COPIES))
        inner = [copy.unwrapped for copy in env._envs]
        for torques in acts:
            for copy, ctrl in zip(inner, torques, strict=True):
                copy.data.ctrl[:] = ctrl
                mujoco.mj_step(copy.model, copy.data, nstep=copy.frame_skip)

    found = medians({"ours": ours, "bare": bare}, *patience)
    each = found["ours"] / steps / COPIES * 1e6
    print(f"body {name:12} {each:6.0f} us a step   over mj_step {found['ours'] / found['bare']:.2f}", flush=True)


def compare_play(name: str, algorithm: str, patience: Patience) -> None:
    """Print a row: microseconds a step of ours, and over those of the bare loop."""
    task, kind = find_environment_task(name, permit=ImportPath), algorithms.get(algorithm)
    env = task.make(1)
    learner = kind(build(kind.Config, {}), env.spec)
    generators = [torch.Generator().manual_seed(number) for number in range(2)]
    player = Player(learner, Guarded(task.make(1), name, 600.0), 1, *generators, torch.device("cpu"), 0)
    ring = EpisodeRing(env.spec, 100_000, env.max_steps)
    steps = 400 // env.max_steps * env.max_steps

    def ours() -> None:
        for _ in range(steps):
            if finished := player.advance():
                ring.extend(finished)

    @torch.no_grad()
    def bare() -> None:
        for episode in range(steps // env.max_steps):
            seen, over = env.reset([episode]), False
            memory = learner.begin(1)
            while not over:
                obs, avail = seen_tensors(seen, "cpu")
                actions = unchecked(learner)(obs, **memory.read(), avail_actions=avail, explore=True)
                seen, _, terminations, truncations = env.step(actions.numpy())
                over = bool(terminations[0] or truncations[0])

    found = medians({"ours": ours, "bare": bare}, *patience)
    title = f"play {algorithm:8} {name:18}"
    print(
        f"{title} {found['ours'] / steps * 1e6:6.0f} us a step   over bare {found['ours'] / found['bare']:.2f}",
        flush=True,
    )
