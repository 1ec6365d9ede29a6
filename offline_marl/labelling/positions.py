"""Places of agents and landmarks in MPE's particle worlds, as the agents' observations tell them.

The canvas of the page draws them: no simulator is needed, and none is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt

Obs = Annotated[npt.NDArray[np.float32], "time agent obs"]
Places = Annotated[npt.NDArray[np.float32], "time body xy"]


@dataclass(frozen=True)
class View:
    """Columns of an agent's observation."""

    own: int | None = None
    """First column of where it is; None where it sees only what is around it."""
    landmarks: tuple[int, ...] = ()
    """First column of each landmark's place, as seen from the agent."""


@dataclass(frozen=True)
class World:
    """Views of all agents of a world; the last one is that of all further agents."""

    views: tuple[View | None, ...]
    """None for an agent that does not move and sees nothing."""
    landmarks: int

    def view(self, agent: int) -> View | None:
        """What one agent sees."""
        return self.views[min(agent, len(self.views) - 1)]


def _columns(first: int, count: int) -> tuple[int, ...]:
    return tuple(range(first, first + 2 * count, 2))


def world_of(scenario: str, n_agents: int) -> World | None:
    """The layout of a world's observations; None where they tell no places, or it is no such world."""
    name = scenario.removesuffix("-continuous")
    if name == "simple-spread":  # as many landmarks as agents
        return World((View(2, _columns(4, n_agents)),), n_agents)
    if name in {"simple-tag", "simple-tag-prey"}:
        return World((View(2, _columns(4, 2)),), 2)
    if name == "simple":
        return World((View(None, (2,)),), 1)
    if name == "simple-reference":
        return World((View(None, _columns(2, 3)),), 3)
    if name == "simple-speaker-listener":
        return World((None, View(None, _columns(2, 3))), 3)
    if name == "simple-adversary":  # the first agent is the adversary, who is not told the goal
        return World((View(None, _columns(0, n_agents - 1)), View(None, _columns(2, n_agents - 1))), n_agents - 1)
    if name == "simple-push":
        return World((View(None, _columns(2, 2)), View(None, _columns(7, 2))), 2)
    if name == "simple-world-comm":
        return World((View(2, _columns(4, 1)),), 1)
    return None


def places_of(world: World, obs: Obs) -> tuple[Places, Places]:
    """Where agents and landmarks are at each step; NaN of agents that do not move.

    Where nobody sees where it is itself, places are as seen from the middle of the landmarks.
    """
    time, agents = obs.shape[:2]
    views = [world.view(agent) for agent in range(agents)]
    bodies = np.full((time, agents, 2), np.nan, np.float32)
    landmarks = np.full((time, world.landmarks, 2), np.nan, np.float32)
    for agent, view in enumerate(views):
        if view is None:
            continue
        seen = obs[:, agent]
        around = np.stack([seen[:, first : first + 2] for first in view.landmarks], axis=1)
        bodies[:, agent] = -around.mean(axis=1) if view.own is None else seen[:, view.own : view.own + 2]
        found = around + bodies[:, agent, None]
        landmarks = np.where(np.isnan(landmarks), found, landmarks)
    return bodies, landmarks
