"""MPE's tasks with two sides, and one side alone in them: the other acts at random, in an always equal way.

A policy of both sides is scored one side at a time: with the setting `random_side`, the agents of that side do not what
the policy says but a uniform action or choice, which depends on the episode's seed and the step alone. What they earn
reads as the mean of the side that is scored, so that the return, a mean over agents, is that side's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from offline_marl.core.permissions import ImportPath
from offline_marl.core.types import DataError
from offline_marl.environments.parallel.factories import factory_of
from offline_marl.environments.parallel.particles import lightened

SIDES = ("adversaries", "good")
STREAM = 20_211
"""Keeps the draws apart from those of the world, which begins from the same seed."""


class OneSided:
    """A parallel environment of PettingZoo in which one side's agents act uniformly, whatever they are told.

    Args:
        world: Of MPE, with all its agents.
        random_side: `adversaries` or `good`.
    """

    def __init__(self, world: Any, random_side: str) -> None:
        self.world, self.unwrapped, self.metadata = world, world.unwrapped, world.metadata
        self.possible_agents: list[str] = list(world.possible_agents)
        adversaries = {body.name for body in self.unwrapped.world.agents if getattr(body, "adversary", False)}
        wanted = random_side == "adversaries"
        self.random = [name for name in self.possible_agents if (name in adversaries) == wanted]
        """Who acts at random."""
        self.scored = [name for name in self.possible_agents if name not in self.random]
        """Whose return is told."""
        self._draws = np.random.default_rng(0)

    @property
    def agents(self) -> list[str]:
        """Who is there."""
        there: list[str] = self.world.agents
        return there

    def observation_space(self, agent: str) -> Any:
        """An agent's observation space."""
        return self.world.observation_space(agent)

    def action_space(self, agent: str) -> Any:
        """An agent's action space."""
        return self.world.action_space(agent)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        """Begin an episode."""
        self._draws = np.random.default_rng(None if seed is None else [seed, STREAM])
        seen: tuple[Any, Any] = self.world.reset(seed=seed, options=options)
        return seen

    def step(self, actions: Mapping[str, Any]) -> tuple[Any, ...]:
        """Let the scored side do what it is told, and the other anything."""
        drawn = {name: self._uniform(name) for name in self.random}
        obs, rewards, over, cut, infos = self.world.step({**actions, **drawn})
        mean = float(np.mean([rewards[name] for name in self.scored]))
        return obs, {**rewards, **dict.fromkeys(self.random, mean)}, over, cut, infos

    def state(self) -> Any:
        """Everything that anybody sees."""
        return self.world.state()

    def render(self) -> Any:
        """The world as it stands."""
        return self.world.render()

    def close(self) -> None:
        """Let go of the world."""
        self.world.close()

    def _uniform(self, name: str) -> Any:
        space = self.action_space(name)
        if not hasattr(space, "low"):
            return int(self._draws.integers(space.n))
        return self._draws.uniform(space.low, space.high).astype(np.float32)


def _made(module: str, random_side: str | None, settings: Mapping[str, Any]) -> Any:
    world = factory_of(ImportPath(module))(**settings)
    if random_side is None:
        return world
    if random_side not in SIDES:
        raise DataError(f"random_side should be {' or '.join(SIDES)}, not {random_side!r}.")
    return OneSided(lightened(world), random_side)


def simple_adversary(random_side: str | None = None, **settings: Any) -> Any:
    """MPE's Adversary.

    Args:
        random_side: Who acts uniformly, `adversaries` or `good`; without it nobody does.
        settings: What mpe2's own function is told.
    """
    return _made("mpe2.simple_adversary_v3", random_side, settings)


def simple_crypto(random_side: str | None = None, **settings: Any) -> Any:
    """MPE's Crypto; see `simple_adversary`."""
    return _made("mpe2.simple_crypto_v3", random_side, settings)


def simple_push(random_side: str | None = None, **settings: Any) -> Any:
    """MPE's Push; see `simple_adversary`."""
    return _made("mpe2.simple_push_v3", random_side, settings)


def simple_tag(random_side: str | None = None, **settings: Any) -> Any:
    """MPE's Tag; see `simple_adversary`."""
    return _made("mpe2.simple_tag_v3", random_side, settings)


def simple_world_comm(random_side: str | None = None, **settings: Any) -> Any:
    """MPE's World Comm; see `simple_adversary`."""
    return _made("mpe2.simple_world_comm_v3", random_side, settings)
