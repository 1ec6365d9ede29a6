from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from worlds import SPECS, PointEnv

from offline_marl.core.types import DataError
from offline_marl.environments.episodes import PolicyController, play, run_episodes


class Echo:
    """Acts on what it sees and on its memory: a running mean of observations, actions and rewards."""

    window = 0

    def begin(self, copies, history=None):
        return Mean(copies)

    def act(self, obs, *, mean, avail_actions=None, explore=False):
        return torch.tanh(obs[..., :2] + mean)


class Mean:
    def __init__(self, copies):
        self.mean = torch.zeros(copies, 3, 2)

    def read(self):
        return {"mean": self.mean}

    def remember(self, obs, actions, rewards):
        self.mean = 0.5 * self.mean + 0.1 * (obs[..., :2] + actions + rewards.unsqueeze(-1))


def test_the_loops_steps_are_those_of_a_loop_written_out():
    seeds, env = [3, 4, 5, 6], PointEnv(SPECS["continuous"], 4)
    seen, mean, running, written = env.reset(seeds), torch.zeros(4, 3, 2), np.ones(4, bool), []
    while running.any():
        obs = torch.from_numpy(seen.obs)
        actions = torch.tanh(obs[..., :2] + mean)
        then, rewards, terminations, truncations = env.step(actions.numpy())
        mean = 0.5 * mean + 0.1 * (obs[..., :2] + actions + torch.from_numpy(rewards).unsqueeze(-1))
        written.append((seen.obs, actions.numpy(), rewards, terminations, truncations, running, then.obs))
        seen, running = then, running & ~terminations & ~truncations
    controller = PolicyController(Echo(), env.spec, 4)
    looped = list(run_episodes(PointEnv(SPECS["continuous"], 4), seeds, controller))
    assert len(looped) == len(written) == 4
    for step, expected in zip(looped, written, strict=True):
        flags = (step.terminations, step.truncations, step.running)
        row = (step.seen.obs, step.actions, step.rewards, *flags, step.next_seen.obs)
        assert all(map(np.array_equal, row, expected))


@pytest.mark.parametrize("copies", [1, 3, 8])
def test_a_policys_memory_begins_anew_with_every_episode(copies):
    seeds = [3, 4, 5, 6, 7]
    found = play(Echo(), PointEnv(SPECS["continuous"], copies), seeds).returns
    alone = [play(Echo(), PointEnv(SPECS["continuous"], 1), [seed]).returns[0] for seed in seeds]
    np.testing.assert_allclose(found, alone, rtol=1e-6)


class FirstAlone(Echo):
    """Answers the first agent's action alone."""

    def act(self, obs, *, mean, avail_actions=None, explore=False):
        return super().act(obs, mean=mean)[..., :1, :]


def test_actions_of_another_shape_are_refused_also_where_agents_come_and_go():
    """Where somebody may be away, one agent's action would spread over the team."""
    controller = PolicyController(FirstAlone(), SPECS["continuous"], 2)
    seen = replace(PointEnv(SPECS["continuous"], 2).reset([1, 2]), present=np.ones((2, 3), bool))
    with pytest.raises(DataError, match=r"FirstAlone.act answered actions of shape \(2, 1, 2\).*\(2, 3, 2\)"):
        controller.act(seen, 0)
