"""A game of choices that are not always allowed, in PettingZoo's parallel API: `benchmarks.ladder:parallel_env`.

Three agents on a line of five rungs; each step 25 times. Choices: down, up, stay, call. Walls forbid steps beyond the
ends, and a call needs two of at most three breaths, of which a step that is no call gives back one, half of the time.
A fifth of the moves slip: nothing moves. The team is paid 1 a step where all stand on one rung, 1 more for each that
calls there. Everybody sees all rungs and breaths, its own first.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Discrete

AGENTS, RUNGS, BREATHS, STEPS = 3, 5, 3, 25
DOWN, UP, STAY, CALL = range(4)
SLIP, REST = 0.2, 0.5


class Ladder:
    """The game, one copy."""

    metadata: ClassVar[dict[str, Any]] = {"name": "ladder"}
    render_mode = None
    max_cycles = STEPS

    def __init__(self) -> None:
        self.possible_agents = [f"agent_{number}" for number in range(AGENTS)]
        self.agents: list[str] = []
        self._seen, self._choices = Box(0.0, 1.0, (2 * AGENTS,), np.float32), Discrete(4)

    @property
    def unwrapped(self) -> Ladder:
        return self

    def observation_space(self, agent: str) -> Box:
        return self._seen

    def action_space(self, agent: str) -> Discrete:
        return self._choices

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        self._chance = np.random.default_rng(seed)
        self.agents, self._time = list(self.possible_agents), 0
        self._rungs = self._chance.integers(0, RUNGS, AGENTS)
        self._breaths = np.full(AGENTS, BREATHS)
        return self._obs(), self._masks()

    def step(self, actions: dict[str, int]) -> tuple[dict[str, Any], ...]:
        done = np.array([actions[agent] for agent in self.possible_agents])
        calls = (done == CALL) & (self._breaths >= 2)
        moves = np.where(done == UP, 1, np.where(done == DOWN, -1, 0)) * (self._chance.random(AGENTS) >= SLIP)
        rests = self._chance.random(AGENTS) < REST
        self._rungs = (self._rungs + moves).clip(0, RUNGS - 1)
        self._breaths = np.where(calls, self._breaths - 2, (self._breaths + rests).clip(max=BREATHS))
        together = bool((self._rungs == self._rungs[0]).all())
        paid = float(together) * (1.0 + float(calls.sum()))
        self._time += 1
        over = self._time >= STEPS
        names = self.possible_agents
        told = (
            self._obs(),
            dict.fromkeys(names, paid),
            dict.fromkeys(names, False),
            dict.fromkeys(names, over),
            self._masks(),
        )
        self.agents = [] if over else list(names)
        return told

    def close(self) -> None:
        """Nothing is open."""

    def _obs(self) -> dict[str, npt.NDArray[np.float32]]:
        both = np.stack([self._rungs / (RUNGS - 1), self._breaths / BREATHS], 1).astype(np.float32)
        return {agent: np.roll(both, -number, 0).ravel() for number, agent in enumerate(self.possible_agents)}

    def _masks(self) -> dict[str, Any]:
        allowed = np.ones((AGENTS, 4), np.int8)
        allowed[:, DOWN], allowed[:, UP] = self._rungs > 0, self._rungs < RUNGS - 1
        allowed[:, CALL] = self._breaths >= 2
        return {agent: {"action_mask": allowed[number]} for number, agent in enumerate(self.possible_agents)}


def parallel_env() -> Ladder:
    """The game."""
    return Ladder()
