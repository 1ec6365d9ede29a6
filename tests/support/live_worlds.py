"""A PettingZoo environment to learn in, which may die, hang, never repeat itself, or be left by an agent."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv


class LiveWorld(ParallelEnv):  # type: ignore[misc]
    """Two agents on a line are paid for nearing the origin; episodes have 4 to 6 steps, by their seed.

    Args:
        trouble: raises, hangs, dies (with its process), shows nan, drifts (never repeats), is left (by agent 0).
        after: Steps of the process before trouble begins.
        choices: Discrete actions in place of continuous ones.
    """

    metadata = {"name": "live"}  # noqa: RUF012
    possible_agents = ["a_0", "a_1"]  # noqa: RUF012
    max_steps = 6
    steps = 0
    born = 0

    def __init__(self, trouble: str = "", after: int = 0, choices: int = 0) -> None:
        self.trouble, self.after, self.choices = trouble, after, choices
        LiveWorld.born += 1

    def observation_space(self, agent: str) -> Any:
        return Box(-9, 9, (2,), np.float32)

    def action_space(self, agent: str) -> Any:
        return Discrete(self.choices) if self.choices else Box(-1, 1, (1,), np.float32)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents, self.t = list(self.possible_agents), 0
        self.dice = np.random.default_rng(seed)
        self.last = 4 + (seed or 0) % 3
        self.places = {agent: float(self.dice.normal()) for agent in self.agents}
        return self._show(), {agent: {} for agent in self.agents}

    def _show(self) -> dict[str, Any]:
        drift = LiveWorld.born if self.trouble == "drifts" else 0
        return {
            agent: np.array([self.places[agent], self.t + 0.01 * drift], np.float32) for agent in self.possible_agents
        }

    def _trouble(self) -> None:
        LiveWorld.steps += 1
        if LiveWorld.steps <= self.after:
            return
        if self.trouble == "raises":
            raise OSError("the simulator lost its licence")
        if self.trouble == "hangs":
            time.sleep(60)
        if self.trouble == "dies":
            os._exit(3)

    def step(self, actions: Mapping[str, Any]) -> Any:
        self._trouble()
        self.t += 1
        acting = list(self.agents)
        for agent in acting:
            push = float(actions[agent]) - 1 if self.choices else float(actions[agent][0])
            self.places[agent] += 0.3 * push + 0.05 * float(self.dice.normal())
        paid = {agent: -abs(self.places[agent]) for agent in acting}
        if self.trouble == "shows nan" and LiveWorld.steps > self.after:
            paid["a_1"] = float("nan")
        ends = self.t >= self.last
        over = dict.fromkeys(acting, ends and self.last == 4)
        cut = dict.fromkeys(acting, ends and self.last != 4)
        if self.trouble == "is left" and self.t == 2:
            over["a_0"] = True
        self.agents = [agent for agent in acting if not (over[agent] or cut[agent])]
        shown = self._show()
        return {agent: shown[agent] for agent in acting}, paid, over, cut, {agent: {} for agent in acting}


def make(**settings: Any) -> LiveWorld:
    return LiveWorld(**settings)
