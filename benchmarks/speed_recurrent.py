"""Rows of speed.py for recurrent learners: an update of 32 episodes of 25 steps, agents with weights of their own.

And what acting costs: a step of 16 copies of simple-spread with VDN, over the bare simulator and the bare policy.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from loop_recurrent import LoopVDN
from timing import SIZES, Patience, medians, print_ratios

from offline_marl.algorithms.base import Algorithm, algorithms
from offline_marl.core.config import build
from offline_marl.core.types import Batch, Spec
from offline_marl.environments.base import environments
from offline_marl.environments.episodes import PolicyController, run_episodes

EPISODES, LENGTH, CHOICES, COPIES = 32, 25, 5, 16


def make(name: str, spec: Spec, **settings: object) -> Algorithm:
    kind = algorithms.get(name)
    return kind(build(kind.Config, settings), spec)


def choices_of(size: str) -> Spec:
    """A team of that size that has choices."""
    obs_dims = SIZES[size].obs_dims
    return Spec(obs_dims, (CHOICES,) * len(obs_dims), action_kind="discrete")


def make_episodes(spec: Spec) -> Batch:
    """Noise in episodes of equal length, each ended by the clock."""
    generator = torch.Generator().manual_seed(0)
    obs = torch.randn(EPISODES, LENGTH + 1, spec.n_agents, spec.obs_dim, generator=generator)
    lead = (EPISODES, LENGTH, spec.n_agents)
    never = torch.zeros(lead, dtype=torch.bool)
    cut = never.clone()
    cut[:, -1] = True
    actions = torch.randint(CHOICES, lead, generator=generator)
    rewards = torch.randn(lead, generator=generator)
    return Batch(obs[:, :-1], actions, rewards, obs[:, 1:], never, cut, mask=~never)


def compare_update(name: str, size: str, patience: Patience) -> None:
    """A row: over bare products, and the loop over ours; QMIX is timed over VDN instead."""
    spec = choices_of(size)
    batch, ours = make_episodes(spec), make(name, spec, share_parameters=False)
    vdn = make("vdn", spec, share_parameters=False)
    others: dict[str, Callable[[], object]] = {} if name == "vdn" else {"vdn": lambda: vdn.update(batch)}
    loop = LoopVDN(spec)
    title = f"{name:18}  {size:8} {EPISODES} episodes"
    print_ratios(title, lambda: ours.update(batch), lambda: loop.update(batch), patience, others=others)


def compare_acting(patience: Patience) -> None:
    """A row: episodes with the policy over those of the simulator alone and the policy alone."""
    env = environments.get("simple-spread").make(None, COPIES)
    policy, seeds = make("vdn", env.spec), list(range(COPIES))
    seen = env.reset(seeds)
    none = np.zeros((COPIES, env.spec.n_agents), np.int64)

    def played() -> None:
        for _ in run_episodes(env, seeds, PolicyController(policy, env.spec, COPIES, explore=True)):
            pass

    def simulated() -> None:
        env.reset(seeds)
        for _ in range(env.max_steps):
            env.step(none)

    def acted() -> None:
        controller = PolicyController(policy, env.spec, COPIES, explore=True)
        for step in range(env.max_steps):
            controller.act(seen, step)
            controller.remember(none.astype(np.float32))

    found = medians({"played": played, "simulated": simulated, "acted": acted}, *patience)
    both = found["simulated"] + found["acted"]
    print(
        f"{'vdn plays':18}  simple-spread, {COPIES} copies   {COPIES * env.max_steps / found['played']:6.0f} steps/s   "
        f"over the bare simulator and the bare policy {found['played'] / both:.2f}",
        flush=True,
    )
    env.close()


RECURRENT: dict[str, Callable[[str, Patience], None]] = {
    "vdn": lambda size, patience: compare_update("vdn", size, patience),
    "qmix": lambda size, patience: compare_update("qmix", size, patience),
}
