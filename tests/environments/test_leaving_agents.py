"""Agents of PettingZoo environments that leave before the others, or come later: played, recorded, learnt from."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

pettingzoo = pytest.importorskip("pettingzoo")
from gymnasium import spaces  # noqa: E402

from offline_marl.collection.recordable import Recordable  # noqa: E402
from offline_marl.core.permissions import ImportPath  # noqa: E402
from offline_marl.core.types import Needs  # noqa: E402
from offline_marl.environments.episodes import Memoryless, play  # noqa: E402
from offline_marl.environments.parallel.team import PettingZooTeam  # noqa: E402
from offline_marl.environments.workers import SideBySide  # noqa: E402
from offline_marl.training.sources.recorded import EnvironmentSource  # noqa: E402

HERE = "offline_marl_tests_coming_and_going"
PLANS = {
    "leaves": {"a": (0, 3, "over"), "b": (0, 6, "over")},
    "is cut": {"a": (0, 3, "cut"), "b": (0, 6, "over")},
    "vanishes": {"a": (0, 3, ""), "b": (0, 6, "over")},
    "comes later": {"a": (2, 6, "over"), "b": (0, 6, "over")},
    "leaves before the clock": {"a": (0, 3, "over"), "b": (0, 99, "")},
    "leaves and is told of until the end": {"a": (0, 3, "kept"), "b": (0, 6, "over")},
}


class ComingAndGoing(pettingzoo.ParallelEnv):
    """Each agent is there from its first step until after its last one; observations live in one buffer of the env."""

    possible_agents = ["a", "b"]  # noqa: RUF012
    metadata = {}  # noqa: RUF012
    max_steps = 8

    def __init__(self, plan: str = "leaves") -> None:
        self.plan, self.buffer = PLANS[plan], {agent: np.zeros(2, np.float32) for agent in "ab"}

    def observation_space(self, agent: str) -> Any:
        return spaces.Box(-99, 99, (2,), np.float32)

    def action_space(self, agent: str) -> Any:
        return spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.clock = 0
        self.agents = [agent for agent, (first, *_) in self.plan.items() if first == 0]
        return self.look(self.agents), {agent: {} for agent in self.agents}

    def look(self, agents: list[str]) -> dict[str, Any]:
        for agent in agents:
            self.buffer[agent][:] = self.clock + 1
        return {agent: self.buffer[agent] for agent in agents}

    def step(self, actions: dict[str, Any]) -> Any:
        self.clock += 1
        acted = list(self.agents)
        done = [agent for agent in acted if self.clock >= self.plan[agent][1]]
        over = {agent: agent in done and self.plan[agent][2] in {"over", "kept"} for agent in acted}
        cut = {agent: agent in done and self.plan[agent][2] == "cut" for agent in acted}
        kept = [agent for agent in acted if agent not in done or (self.plan[agent][2] == "kept" and self.clock < 6)]
        self.agents = kept + [agent for agent, (first, *_) in self.plan.items() if first == self.clock]
        seen = self.look(sorted({*acted, *self.agents}))
        return seen, dict.fromkeys(acted, 1.0), over, cut, {agent: {} for agent in seen}


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType(HERE)
    module.parallel_env = ComingAndGoing  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, HERE, module)


def team(plan: str, copies: int = 2) -> PettingZooTeam:
    return PettingZooTeam(ImportPath(HERE), copies, {"plan": plan})


def recorded(plan: str) -> Any:
    acts = Memoryless(lambda seen, step: np.full((len(seen.obs), 2, 1), 0.5, np.float32))
    return Recordable.of_team(team(plan)).record([0, 1], acts).check()


RIGHT = {
    # Steps of agent a, its flag, and the flag that ends the episode of b; the length.
    "leaves": (range(3), "terminations", "terminations", 6),
    "is cut": (range(3), "truncations", "terminations", 6),
    "vanishes": (range(3), "terminations", "terminations", 6),
    "comes later": (range(2, 6), "terminations", "terminations", 6),
    "leaves before the clock": (range(3), "terminations", "truncations", 8),
    "leaves and is told of until the end": (range(3), "terminations", "terminations", 6),
}


@pytest.mark.parametrize("plan", PLANS)
def test_what_is_recorded_says_who_was_there(plan: str) -> None:
    steps, own, last, length = RIGHT[plan]
    data = recorded(plan)
    assert data.lengths.tolist() == [length] * 2 and data.ends_seen is None
    for number in range(2):
        episode = data.episode(number)
        assert episode.mask[:, 0].nonzero().flatten().tolist() == list(steps) and bool(episode.mask[:, 1].all())
        assert episode.rewards.tolist() == episode.mask.float().tolist()
        assert (episode.actions[..., 0] == 0.5).tolist() == episode.mask.tolist()
        assert (episode.obs[:-1, :, 0] > 0).tolist() == episode.mask.tolist()
        assert episode.obs[:-1, 1, 0].tolist() == [1.0 + step for step in range(length)]
        for name in ("terminations", "truncations"):
            flags = getattr(episode, name)
            assert flags[:, 0].nonzero().flatten().tolist() == ([steps[-1]] if name == own else [])
            assert flags[:, 1].nonzero().flatten().tolist() == ([length - 1] if name == last else [])


def test_processes_side_by_side_tell_who_is_there() -> None:
    env = SideBySide(lambda copies: team("comes later", copies), 2, 2)
    try:
        assert env.reset([0, 1]).present.tolist() == [[False, True]] * 2  # type: ignore[union-attr]
    finally:
        env.close()


class Still:
    """Always the same."""

    window = 0

    def act(self, obs: Any, *, history: Any = None, avail_actions: Any = None, explore: bool = False) -> Any:
        return torch.full((*obs.shape[:2], 1), 0.5)


class AsPaid:
    def of(self, batch: Any) -> Any:
        return batch


@pytest.mark.parametrize("plan", PLANS)
def test_live_batches_mask_who_is_away(plan: str) -> None:
    steps, own, _, length = RIGHT[plan]
    source = EnvironmentSource(Still(), team(plan), 6, torch.Generator().manual_seed(0), "cpu", AsPaid())  # type: ignore[arg-type]
    batch = source.sample(Needs(view="segments", origin="environment", next_actions=True)).check()
    assert batch.rewards.shape[1] == length and batch.mask is not None and batch.next_mask is not None
    assert batch.mask[0, :, 0].nonzero().flatten().tolist() == list(steps) and bool(batch.mask[..., 1].all())
    assert getattr(batch, own)[0, :, 0].nonzero().flatten().tolist() == [steps[-1]]
    assert not batch.obs[..., 0, :][~batch.mask[..., 0]].any()
    assert not batch.next_mask[0, steps[-1], 0] and batch.next_mask[0, :, 0].sum() == len(steps) - (steps[0] == 0)


def test_returns_of_a_team_leave_out_who_is_away() -> None:
    assert play(Still(), team("leaves"), [0, 1]).returns.tolist() == [4.5, 4.5]  # type: ignore[arg-type]
