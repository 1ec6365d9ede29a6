"""One agent against frozen others: what it sees and earns, and that the others do what they always do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from worlds import SPECS, PointEnv

from offline_marl.collection.recordable import Recordable
from offline_marl.core.permissions import ImportPath
from offline_marl.core.types import DataError
from offline_marl.environments.base import Seen, environments
from offline_marl.environments.best_response import OneAgainstFrozen
from offline_marl.environments.episodes import Memoryless, PolicyController, run_episodes
from offline_marl.environments.parallel.entry import environment_of

SEEDS = [3, 5, 8]


class Wanderer:
    """Chooses by the step, and by how often its own agent chose 1 before: a policy that remembers."""

    window = 0

    def begin(self, copies: int, history: Any = None) -> Counts:
        return Counts(copies)

    def act(self, obs: Tensor, *, counts: Tensor, avail_actions: Any = None, explore: bool = False, **_: Any) -> Tensor:
        step = obs[..., 3:].argmax(-1)
        return (step + counts + torch.arange(3)) % 3


class Counts:
    def __init__(self, copies: int) -> None:
        self.counts = torch.zeros(copies, 3, dtype=torch.int64)

    def read(self) -> Mapping[str, Any]:
        return {"counts": self.counts}

    def remember(self, obs: Tensor, actions: Tensor, rewards: Tensor) -> None:
        self.counts = self.counts + (actions == 1)


class Leaning:
    """Continuous actions: each agent leans where its first observation says."""

    window = 0

    def act(self, obs: Tensor, **_: Any) -> Tensor:
        return obs[..., :1].tanh()


def rewards_of(env: Any, controller: Any) -> list[np.ndarray]:
    return [step.rewards for step in run_episodes(env, SEEDS, controller)]


@pytest.mark.parametrize("agent", [0, 1, 2])
def test_who_does_what_the_policy_says_earns_what_it_earned_in_the_team(agent):
    team, policy = environments.get("coordination").make(None, 4), Wanderer()
    played = list(run_episodes(team, SEEDS, PolicyController(policy, team.spec, len(SEEDS))))
    one = OneAgainstFrozen(environments.get("coordination").make(None, 4), policy, agent)
    told = Memoryless(lambda seen, step: played[step].actions[:, [agent]])
    again = list(run_episodes(one, SEEDS, told))
    assert len(again) == len(played) == 6
    for then, now in zip(played, again, strict=True):
        np.testing.assert_array_equal(now.rewards, then.rewards[:, [agent]])
        np.testing.assert_array_equal(now.seen.obs, then.seen.obs[:, [agent]])
        np.testing.assert_array_equal(now.next_seen.state, then.next_seen.state)


def test_the_others_remember_what_the_free_agent_did_and_stay_as_they_are():
    one = OneAgainstFrozen(environments.get("coordination").make(None, 4), Wanderer(), 1)
    first = rewards_of(one, Memoryless(lambda seen, step: np.ones((len(SEEDS), 1), np.int64)))
    assert one._memory.counts[0].tolist() == [3, 6, 2]
    assert first[0].shape == (3, 1)


def test_continuous_actions_reach_the_free_agent_alone():
    kind = environments.get("rendezvous")
    team, policy = kind.make(None, 4), Leaning()
    played = list(run_episodes(team, SEEDS, PolicyController(policy, team.spec, len(SEEDS))))
    one = OneAgainstFrozen(kind.make(None, 4), policy, 1)
    again = list(run_episodes(one, SEEDS, Memoryless(lambda seen, step: played[step].actions[:, [1]])))
    for then, now in zip(played, again, strict=True):
        np.testing.assert_array_equal(now.rewards, then.rewards[:, [1]])
    other = list(run_episodes(one, SEEDS, Memoryless(lambda seen, step: -played[step].actions[:, [1]])))
    assert not all(np.array_equal(one.rewards, two.rewards) for one, two in zip(other, again, strict=True))
    # The frozen one sees the same at first, and does the same.
    np.testing.assert_array_equal(other[0].seen.obs, again[0].seen.obs)


def test_nobody_is_free_who_is_not_there():
    with pytest.raises(DataError, match="no agent 3"):
        OneAgainstFrozen(environments.get("coordination").make(None, 1), Wanderer(), 3)


class Idle:
    window = 0

    def act(self, obs: Tensor, **_: Any) -> Tensor:
        return torch.zeros(obs.shape[:2], dtype=torch.int64)


@pytest.mark.parametrize(("agent", "lengths"), [(0, [2, 2, 2]), (1, [4, 5, 6])])
def test_an_episode_ends_when_the_free_agent_leaves_by_its_own_flags(agent, lengths):
    kind = environment_of(ImportPath("live_worlds:make"), {"trouble": "is left", "choices": 3})
    still = Memoryless(lambda seen, step: np.zeros((3, 2), np.int64))
    team = list(run_episodes(kind.make(None, 3), [0, 1, 2], still))
    assert [sum(int(step.running[copy]) for step in team) for copy in range(3)] == [4, 5, 6]
    one = OneAgainstFrozen(kind.make(None, 3), Idle(), agent)
    steps = list(run_episodes(one, [0, 1, 2], Memoryless(lambda seen, step: np.zeros((3, 1), np.int64))))
    assert [sum(int(step.running[copy]) for step in steps) for copy in range(3)] == lengths
    flags = steps[-1].terminations.tolist(), steps[-1].truncations.tolist()
    assert flags == (([True] * 3, [False] * 3) if agent == 0 else ([True, False, False], [False, True, True]))
    for then, now in zip(team, steps, strict=False):
        own = now.running
        np.testing.assert_array_equal(now.rewards[own], then.rewards[own][:, [agent]])
        np.testing.assert_array_equal(now.next_seen.obs[own], then.next_seen.obs[own][:, [agent]])
        assert not now.rewards[~own].any()
    data = Recordable.of_team(one).record([0, 1, 2], Memoryless(lambda seen, step: np.zeros((3, 1), np.int64)))
    assert data.check().lengths.tolist() == lengths


def test_what_follows_its_own_end_neither_shows_nor_pays():
    class Paying(PointEnv):
        """Agent 0 has left after a step; its place goes on showing and paying."""

        def step(self, actions: Any) -> Any:
            seen, rewards, over, cut = super().step(actions)
            there = np.ones((len(over), 3), np.bool_)
            there[:, 0] = False
            return Seen(seen.obs, seen.obs.sum(1), None, there, ~there), rewards + 1, over, cut

        def reset(self, seeds: Any) -> Any:
            obs = super().reset(seeds).obs
            return Seen(obs, obs.sum(1), None, np.ones((len(obs), 3), np.bool_), np.zeros((len(obs), 3), np.bool_))

    one = OneAgainstFrozen(Paying(SPECS["discrete"], 2), Idle(), 0)
    one.reset([2, 5])
    first = one.step(np.ones((2, 1), np.int64))
    second = one.step(np.ones((2, 1), np.int64))
    assert first[2].tolist() == second[2].tolist() == [True, True] and not second[3].any()
    assert first[1].tolist() == [[1], [1]] and second[1].tolist() == [[0], [0]]
    np.testing.assert_array_equal(first[0].obs, second[0].obs)
    np.testing.assert_array_equal(first[0].state, second[0].state)
