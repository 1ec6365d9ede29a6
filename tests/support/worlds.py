"""Small made-up worlds for tests: data sets and environments whose every number comes from a seed.

Agents are of unequal widths, episodes of unequal lengths; half of them terminate, half are truncated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from offline_marl.core.types import Episode, Spec
from offline_marl.datasets.base import Dataset, Recording
from offline_marl.datasets.files import save_data
from offline_marl.environments.base import Seen

CONTINUOUS = Spec(obs_dims=(4, 2, 3), act_dims=(1, 2, 2), state_dim=5)
DISCRETE = Spec(obs_dims=(4, 2, 3), act_dims=(3, 2, 4), state_dim=5, action_kind="discrete")
SPECS = {"continuous": CONTINUOUS, "discrete": DISCRETE}


def world(kind: str, episodes: int = 10, seed: int = 0) -> Dataset:
    """A data set of either action kind; discrete ones say which choices were available."""
    spec = SPECS[kind]
    generator = torch.Generator().manual_seed(seed)
    return Dataset.from_episodes(
        [_episode(spec, 4 + number % 5, number, generator) for number in range(episodes)], spec
    )


def _episode(spec: Spec, length: int, number: int, generator: torch.Generator) -> Episode:
    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    obs = draw(length + 1, spec.n_agents, spec.obs_dim) * spec.present("obs")
    ending = torch.zeros(length, spec.n_agents, dtype=torch.bool)
    ending[-1] = True
    terminates = number % 2 == 0
    avail = None
    if spec.discrete:
        actions = torch.stack([torch.randint(n, (length,), generator=generator) for n in spec.act_dims], dim=-1)
        avail = torch.rand(length + 1, spec.n_agents, spec.act_dim, generator=generator) < 0.5
        avail[:-1].scatter_(-1, actions.unsqueeze(-1), True)
        avail[-1, :, 0] = True
        avail &= spec.present("act")
        pull = actions.float() - 1
    else:
        actions = torch.tanh(draw(length, spec.n_agents, spec.act_dim)) * spec.present("act")
        pull = actions.sum(-1)
    return Episode(
        obs=obs,
        actions=actions,
        rewards=pull * obs[:-1, :, 0] + 0.1 * draw(length, spec.n_agents),
        terminations=ending & terminates,
        truncations=ending & (not terminates),
        state=draw(length + 1, spec.state_dim),
        avail_actions=avail,
    )


def reacher_recording(episodes: int = 6, length: int = 8, seed: int = 0) -> Recording:
    """Random numbers in the shape of the two-link arm, with the metadata that `--dataset FILE_conf_view` reads."""
    generator = torch.Generator().manual_seed(seed)
    ended = torch.zeros(episodes, length, dtype=torch.bool)
    ended[:, -1] = True
    return Recording(
        state=torch.randn(episodes * (length + 1), 10, generator=generator),
        actions=torch.tanh(torch.randn(episodes * length, 2, generator=generator)),
        rewards=torch.randn(episodes * length, generator=generator),
        terminations=torch.zeros(episodes * length, dtype=torch.bool),
        truncations=ended.flatten(),
        lengths=torch.full((episodes,), length),
        metadata={
            "name": "random-numbers",
            "scenario": "reacher",
            "reference": {"random": -11.0, "expert": -4.0, "note": "made up"},
        },
    ).check()


def saved(folder: Path, data: Dataset | Recording, name: str = "data.safetensors") -> str:
    """The data set in a file of our layout."""
    save_data(folder / name, data)
    return str(folder / name)


def random_batch_index(data: Dataset, rows: int, seed: int = 0) -> Tensor:
    """Positions of transitions, drawn with a seed."""
    return torch.randint(len(data), (rows,), generator=torch.Generator().manual_seed(seed))


class PointEnv:
    """Episodes of 2 to 4 steps; agent i earns the first entry of its observation times its first action.

    An episode depends on its seed alone; finished copies stay as they are, as JointEnv promises.
    """

    def __init__(self, spec: Spec, copies: int) -> None:
        self.spec = spec
        self.copies = copies
        self.max_steps = 4
        self.seen_seeds: list[list[int]] = []

    def reset(self, seeds: Sequence[int]) -> Seen:
        self.seen_seeds.append(list(seeds))
        shape = (self.max_steps + 1, self.spec.n_agents, self.spec.obs_dim)
        obs = np.stack([np.random.default_rng(seed).standard_normal(shape) for seed in seeds])
        self._obs = (obs * self.spec.present("obs").numpy()).astype(np.float32)
        self._lengths = np.array([2 + seed % 3 for seed in seeds])
        self._step = 0
        return self._see()

    def step(self, actions):
        running = self._lengths > self._step
        pull = actions.astype(np.float32) - 1 if self.spec.discrete else actions[..., 0]
        rewards = self._see().obs[..., 0] * pull * running[:, None]
        self._step += 1
        ended = self._lengths <= self._step
        even = self._lengths % 2 == 0
        return self._see(), rewards, ended & even, ended & ~even

    def close(self) -> None:
        pass

    def _see(self) -> Seen:
        at = np.minimum(self._step, self._lengths)
        avail = None
        if self.spec.discrete:
            avail = np.broadcast_to(self.spec.present("act").numpy(), (len(at), self.spec.n_agents, self.spec.act_dim))
            avail = avail.copy()
        return Seen(self._obs[np.arange(len(at)), at], avail_actions=avail)


class ReticentEnv(PointEnv):
    """Forbids the first choice, and tells so in every second round only, from the first step on."""

    def _see(self) -> Seen:
        seen = super()._see()
        if not self._step or len(self.seen_seeds) % 2:
            return replace(seen, avail_actions=None)
        seen.avail_actions[..., 0] = False
        return seen


class RestorableEnv(PointEnv):
    """What agents see is a fixed mixture of a state, which their summed actions push."""

    def __init__(self, spec, copies) -> None:
        super().__init__(spec, copies)
        shape = (spec.state_dim, spec.n_agents, spec.obs_dim)
        self._mixture = np.random.default_rng(0).standard_normal(shape) * spec.present("obs").numpy()

    def restore(self, state) -> Seen:
        assert len(state) <= self.copies
        self._state = np.array(state, np.float64)
        return self._show()

    def step(self, actions):
        if not hasattr(self, "_state"):
            return super().step(actions)
        self._state = 0.9 * self._state + 0.1 * actions.sum((1, 2))[:, None]
        rewards = np.repeat(self._state[:, :1], self.spec.n_agents, axis=1).astype(np.float32)
        never = np.zeros(len(self._state), np.bool_)
        return self._show(), rewards, never, never

    def _show(self) -> Seen:
        obs = np.einsum("rs,sao->rao", self._state, self._mixture)
        return Seen(obs.astype(np.float32), self._state.astype(np.float32))
