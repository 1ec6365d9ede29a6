"""MPE's Tag for its hunters alone, as OMAR's data has it: the prey is part of the task, and flees by a rule or as told.

The scripted prey weighs the five moves one step ahead: each hunter costs 1 / distance^2 from where the move leads, an
obstacle the same within a quarter, and what lies beyond .9 of the arena's half width costs most. It takes the cheapest.
A prey of your own is a function of the prey's observation that returns a choice, or its five numbers where actions
are continuous; settings name it as `{"prey": "package.module:function"}`. Training also takes the folder of a run on
`simple-tag`, whose last agent was the prey.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from offline_marl.core.permissions import ImportPath, is_import_path
from offline_marl.core.types import DataError
from offline_marl.environments.parallel.factories import factory_of
from offline_marl.environments.parallel.particles import lightened

MOVES = np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]], np.float64)
"""Moves of MPE's choices: stay, left, right, down, up."""
STRIDE = 0.25
"""How far ahead each move is weighed, in units of the arena's half width."""
EDGE, BEYOND = 0.9, 400.0
"""Where the arena ends, and what each unit beyond costs."""
NEAR = 0.25
"""Distance within which an obstacle is in the way."""
LEAST = 1e-4

Prey = Callable[[npt.NDArray[np.float32]], Any]
"""From the prey's observation to its choice, or to its continuous action."""


class Flight:
    """Scripted prey that flees by the cost of its moves.

    Args:
        obstacles: How many the prey sees.
        hunters: How many hunt it.
    """

    def __init__(self, obstacles: int, hunters: int) -> None:
        self.obstacles, self.hunters = obstacles, hunters

    def __call__(self, obs: npt.NDArray[np.float32]) -> int:
        """The cheapest move; the first of those that cost the same."""
        exact, others = obs.astype(np.float64), 4 + 2 * self.obstacles
        velocity, place = exact[:2], exact[2:4]
        steps = STRIDE * MOVES + 0.1 * velocity
        walls = exact[4:others].reshape(-1, 1, 2) - steps
        chased = exact[others : others + 2 * self.hunters].reshape(-1, 1, 2) - steps
        blocked = np.square(walls).sum(-1)
        costs = (1 / (np.square(chased).sum(-1) + LEAST)).sum(0)
        costs += np.where(blocked < NEAR**2, 1 / (blocked + LEAST), 0).sum(0)
        costs += BEYOND * np.maximum(np.abs(place + steps) - EDGE, 0).sum(-1)
        return int(costs.argmin())


class HuntersOnly:
    """A parallel environment of PettingZoo: Tag's hunters, with the prey acting inside.

    Args:
        world: Tag with all its agents.
        prey: Acts for each of the good agents.
    """

    def __init__(self, world: Any, prey: Prey | None) -> None:
        self.world, self.unwrapped, self.metadata = world, world.unwrapped, world.metadata
        self.possible_agents = [name for name in world.possible_agents if name.startswith("adversary")]
        self._preys = [name for name in world.possible_agents if name not in self.possible_agents]
        obstacles = len(self.unwrapped.world.landmarks)
        self._act: Prey = prey or Flight(obstacles, len(self.possible_agents))
        self.agents: list[str] = []
        self._seen: Mapping[str, Any] = {}

    def observation_space(self, agent: str) -> Any:
        """A hunter's observation space; it sees the prey."""
        return self.world.observation_space(agent)

    def action_space(self, agent: str) -> Any:
        """A hunter's action space."""
        return self.world.action_space(agent)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        """Begin an episode."""
        self._seen, infos = self.world.reset(seed=seed, options=options)
        self.agents = list(self.possible_agents)
        return self._own(self._seen), self._own(infos)

    def step(self, actions: Mapping[str, Any]) -> tuple[Any, ...]:
        """Let the hunters act, and the prey."""
        fled = {name: self._native(name, self._act(self._seen[name])) for name in self._preys}
        answers = self.world.step({**actions, **fled})
        self._seen = answers[0]
        self.agents = [name for name in self.world.agents if name in self.possible_agents]
        return tuple(self._own(by_agent) for by_agent in answers)

    def state(self) -> Any:
        """Everything that anybody sees."""
        return self.world.state()

    def render(self) -> Any:
        """The world as it stands."""
        return self.world.render()

    def close(self) -> None:
        """Let go of the world."""
        self.world.close()

    def _own(self, by_agent: Mapping[str, Any]) -> dict[str, Any]:
        return {name: by_agent[name] for name in self.possible_agents if name in by_agent}

    def _native(self, name: str, chosen: Any) -> Any:
        space = self.world.action_space(name)
        whole = np.ndim(chosen) == 0
        if not hasattr(space, "low"):
            if not whole or not 0 <= int(chosen) < space.n:
                raise DataError(f"The prey chose {chosen}, which is none of the choices 0 to {space.n - 1}.")
            return int(chosen)
        action = np.eye(space.shape[0], dtype=np.float32)[int(chosen)] if whole else np.asarray(chosen, np.float32)
        if action.shape != space.shape or not np.isfinite(action).all():
            raise DataError(f"The prey's action should be {space.shape[0]} finite numbers from 0 to 1, not {chosen}.")
        return np.clip(action, space.low, space.high)


def parallel_env(prey: ImportPath | Prey | str | None = None, **settings: Any) -> HuntersOnly:
    """MPE's Tag for its hunters.

    Args:
        prey: A function of the prey's observation, or its import path, which the user named; without it, the scripted
            one. A plain text is refused: it may come from a file.
        settings: What mpe2's `simple_tag_v3` is told.

    Raises:
        MissingSimulatorError: mpe2 is not installed, or the prey's module does not import.
        DataError: The prey's module has no such function.
    """
    if isinstance(prey, str) and not is_import_path(prey):
        raise DataError(f"The prey '{prey}' should be the import path of a function, package.module:function.")
    if isinstance(prey, str):
        raise DataError(f"The prey '{prey}' is code to import that nobody named on this machine.")
    act = factory_of(prey) if isinstance(prey, ImportPath) else prey
    return HuntersOnly(lightened(factory_of(ImportPath("mpe2.simple_tag_v3"))(**settings)), act)
