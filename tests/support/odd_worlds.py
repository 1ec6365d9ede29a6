"""A PettingZoo environment of five steps that shows, pays or allows something odd."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv


class OddWorld(ParallelEnv):  # type: ignore[misc]
    """Two agents; `odd` changes what the third step gives, `{what: (obs, paid, infos) -> None}` in place."""

    metadata = {"name": "odd"}  # noqa: RUF012
    possible_agents = ["a_0", "a_1"]  # noqa: RUF012
    max_steps = 5

    def __init__(self, odd: str = "none", choices: int = 0, space: Any = None, acts: Any = None, last: int = 3) -> None:
        self.odd, self.choices, self.last = odd, choices, last
        self.space = Box(-9, 9, (3,), np.float32) if space is None else space
        self.acts = acts

    def observation_space(self, agent: str) -> Any:
        return self.space

    def action_space(self, agent: str) -> Any:
        return self.acts or (Discrete(self.choices) if self.choices else Box(-1, 1, (1,), np.float32))

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents, self.t, self.seed = list(self.possible_agents), 0, seed or 0
        return {agent: self.space.sample() * 0 for agent in self.agents}, self._infos()

    def _infos(self) -> dict[str, Any]:
        masks = {"action_mask": np.ones(self.choices, np.int8)} if self.choices else {}
        return {agent: dict(masks) for agent in self.possible_agents}

    def step(self, actions: Mapping[str, Any]) -> Any:
        self.t += 1
        obs: dict[str, Any] = {agent: self.space.sample() * 0 for agent in self.agents}
        paid: dict[str, Any] = dict.fromkeys(self.agents, 1.0)
        infos = self._infos()
        if self.t == self.last:
            ODD[self.odd](obs, paid, infos)
        cut = dict.fromkeys(self.agents, self.t >= self.max_steps)
        over = dict.fromkeys(self.agents, False)
        if self.t >= self.max_steps:
            self.agents = []
        return obs, paid, over, cut, infos


def _set(where: int, agent: str, value: Any) -> Callable[..., None]:
    def change(*given: dict[str, Any]) -> None:
        given[where][agent] = value

    return change


ODD: Mapping[str, Callable[..., None]] = {
    "none": lambda *_: None,
    "nan obs": _set(0, "a_1", np.array([0, np.nan, 0], np.float32)),
    "inf obs": _set(0, "a_0", np.array([0, np.inf, 0], np.float32)),
    "list obs": _set(0, "a_0", [1.0, 2.0, 3.0]),
    "short obs": _set(0, "a_0", np.zeros(2, np.float32)),
    "None obs": _set(0, "a_0", None),
    "nan reward": _set(1, "a_1", float("nan")),
    "None reward": _set(1, "a_0", None),
    "reward of shape (1,)": _set(1, "a_0", np.array([4.0])),
    "two rewards": _set(1, "a_0", np.array([4.0, 1.0])),
    "no choice": _set(2, "a_1", {"action_mask": np.zeros(3, np.int8)}),
    "other choices": _set(2, "a_1", {"action_mask": np.ones(4, np.int8)}),
}


def make(**settings: Any) -> OddWorld:
    return OddWorld(**settings)


class OddLater(OddWorld):
    """Shows NaN in the episodes whose seeds the variable ODD_SEEDS lists."""

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.odd = "nan obs" if str(seed) in os.environ.get("ODD_SEEDS", "").split() else "none"
        return super().reset(seed)


def odd_later(**settings: Any) -> OddWorld:
    return OddLater(**settings)
