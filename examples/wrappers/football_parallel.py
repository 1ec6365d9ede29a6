"""Google Research Football as a parallel environment: `--environment football_parallel:make --env-settings players=3`.

Needs the package `gfootball`, and this folder on PYTHONPATH. Each agent is one player of the left team, sees the 115
numbers of `simple115v2` and has 19 choices; all are paid the goals, and with `rewards=scoring,checkpoints` for bringing
the ball forward. The engine takes its seed when it is made, so that it is made anew for each episode.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gfootball.env as football
import numpy as np
from gymnasium.spaces import Box, Discrete

CHOICES, NUMBERS = 19, 115


class ParallelFootball:
    """One match.

    Args:
        scenario: Of gfootball's.
        players: Of the left team that are agents.
        rewards: `scoring`, or `scoring,checkpoints`.
        max_steps: Length of an episode, the scenario's own clock or less.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "football"}
    render_mode = None

    def __init__(
        self,
        scenario: str = "academy_3_vs_1_with_keeper",
        players: int = 3,
        rewards: str = "scoring",
        max_steps: int = 400,
    ) -> None:
        self._made = {
            "env_name": scenario,
            "representation": "simple115v2",
            "rewards": rewards,
            "number_of_left_players_agent_controls": players,
        }
        self.possible_agents = [f"agent_{number}" for number in range(players)]
        self.agents: list[str] = []
        self.max_cycles = max_steps
        self._env: Any = None
        self._seen, self._choices = Box(-np.inf, np.inf, (NUMBERS,), np.float32), Discrete(CHOICES)

    @property
    def unwrapped(self) -> ParallelFootball:
        return self

    def observation_space(self, agent: str) -> Box:
        return self._seen

    def action_space(self, agent: str) -> Discrete:
        return self._choices

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        self.close()
        chance = {} if seed is None else {"other_config_options": {"game_engine_random_seed": seed % 2**31}}
        self._env = football.create_environment(**self._made, **chance)
        self.agents, self._time = list(self.possible_agents), 0
        return self._rows(self._env.reset()), {name: {} for name in self.agents}

    def step(self, actions: dict[str, int]) -> tuple[dict[str, Any], ...]:
        names = self.possible_agents
        obs, paid, over, info = self._env.step([actions[name] for name in names])
        self._time += 1
        late = self._time >= self.max_cycles
        scored = float(info.get("score_reward", 0.0))
        told = (
            self._rows(obs),
            dict(zip(names, np.broadcast_to(np.asarray(paid, np.float32), len(names)).tolist(), strict=True)),
            dict.fromkeys(names, bool(over) and not late),
            dict.fromkeys(names, late),
            {name: {"scored": scored} for name in names},
        )
        self.agents = [] if over or late else list(names)
        return told

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None

    def _rows(self, obs: Any) -> dict[str, Any]:
        # One player alone is told as a row, several as a table.
        rows = np.asarray(obs, np.float32).reshape(len(self.possible_agents), NUMBERS)
        return dict(zip(self.possible_agents, rows, strict=True))


def make(**settings: Any) -> ParallelFootball:
    """A match by its settings."""
    return ParallelFootball(**settings)
