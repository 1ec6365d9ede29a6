"""MPE's particle worlds (the package mpe2) without their checking layers: the same episodes in half the time.

PettingZoo's conversion to its parallel API shows every agent's observation three times a step, through wrappers that
look for mistakes; `PettingZooTeam` makes none of those.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from offline_marl.environments.infos import particle_infos


class Particles:
    """A parallel environment of PettingZoo over one of mpe2's worlds, without checks of its actions.

    Args:
        raw: The world itself, mpe2's `SimpleEnv`.
    """

    def __init__(self, raw: Any) -> None:
        self.unwrapped = raw
        self.possible_agents: list[str] = list(raw.possible_agents)
        self.agents: list[str] = []
        self.metadata = raw.metadata
        self._joined = type(raw).state is _base().state
        self._seen: dict[str, Any] = {}
        # Two megabytes a copy, and only pictures need it.
        self._screen_size, raw.screen = [raw.width, raw.height], None

    def observation_space(self, agent: str) -> Any:
        """The agent's observation space."""
        return self.unwrapped.observation_space(agent)

    def action_space(self, agent: str) -> Any:
        """The agent's action space."""
        return self.unwrapped.action_space(agent)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        """Begin an episode."""
        self.unwrapped.reset(seed=seed, options=options)
        self.agents = list(self.possible_agents)
        return self._look(), {agent: {} for agent in self.agents}

    def step(self, actions: Mapping[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
        """Let all agents act: the world moves at the last one's turn."""
        raw = self.unwrapped
        for agent in self.possible_agents:
            raw.step(actions[agent])
        over, cut = dict(raw.terminations), dict(raw.truncations)
        if any(over.values()) or any(cut.values()):
            self.agents = []
        return self._look(), dict(raw.rewards), over, cut, dict(raw.infos)

    def state(self) -> Any:
        """All observations side by side, as mpe2 has it."""
        return np.concatenate(list(self._seen.values())) if self._joined else self.unwrapped.state()

    def render(self) -> Any:
        """The world as it stands."""
        if self.unwrapped.screen is None:
            import pygame

            self.unwrapped.screen = pygame.Surface(self._screen_size)
        return self.unwrapped.render()

    def close(self) -> None:
        """Let go of the world."""
        self.unwrapped.close()

    def _look(self) -> dict[str, Any]:
        self._seen = {agent: self.unwrapped.observe(agent) for agent in self.possible_agents}
        return self._seen


def infos_of(env: Any, name: str) -> dict[str, Any]:
    """What an agent of one of mpe2's worlds has to count: collisions, landmarks, and its scenario's own benchmark."""
    raw = getattr(env, "unwrapped", env)
    if not type(raw).__module__.startswith("mpe2."):
        return {}
    agent = next(body for body in raw.world.agents if body.name == name)
    counted = particle_infos(raw.world, agent)
    try:
        return {**counted, "benchmark_data": raw.scenario.benchmark_data(agent, raw.world)}
    except (NotImplementedError, AttributeError):  # not every scenario has one
        return counted


def _base() -> Any:
    from mpe2._mpe_utils.simple_env import SimpleEnv

    return SimpleEnv


def lightened(env: Any) -> Any:
    """The same environment, lighter if it is one of mpe2's."""
    raw = getattr(env, "unwrapped", env)
    if not (type(env).__module__.startswith("pettingzoo.") and type(raw).__module__.startswith("mpe2.")):
        return env
    try:
        return Particles(raw) if isinstance(raw, _base()) and raw.render_mode != "human" else env
    except ImportError:  # another mpe2, whose base lies elsewhere
        return env
