"""Actions as environments of PettingZoo take them: choices as integers, boxes between bounds of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from offline_marl.core.types import ActionKind, DataError
from offline_marl.environments.base import Floats, TeamActions


class NativeActions:
    """A team's action spaces, and the way from a learner's actions in [-1, 1], or its choices, into them.

    Args:
        name: What errors call the task.
        agents: Who acts.
        spaces: Of Gymnasium, one for each agent.

    Raises:
        DataError: A space is neither a finite box nor choices from 0, or some are the one and some the other.
    """

    def __init__(self, name: str, agents: Sequence[str], spaces: Sequence[Any]) -> None:
        self.name = name
        self.kind: ActionKind = _kind_of(name, agents, spaces)
        self._shapes = [space.shape for space in spaces]
        self.bounds: list[tuple[Floats, Floats]] = []
        """Least and largest entries of each agent's actions, which -1 and 1 stand for; none of choices."""
        if self.kind == "discrete":
            self.widths = tuple(int(space.n) for space in spaces)
            """Choices of each agent, or numbers in its actions."""
            return
        self.widths = tuple(int(np.prod(shape)) for shape in self._shapes)
        self.bounds = [(space.low.ravel(), space.high.ravel()) for space in spaces]
        self._inside = [_inside(low, high) for low, high in self.bounds]
        if not all(np.isfinite(bound).all() for pair in self.bounds for bound in pair):
            raise DataError(f"The actions of {name} have no bounds, so [-1, 1] cannot be stretched to them.")

    def of(self, actions: TeamActions, running: int) -> list[list[Any]]:
        """What each agent does, copy by copy; what stands in the padding of `actions` is ignored.

        Args:
            actions: `[copy, agent]` choices, or `[copy, agent, act]` numbers.
            running: Copies that act.

        Raises:
            DataError: The actions are of another shape, not finite, or choices that there are not.
        """
        shape = (running, len(self.widths)) + (() if self.kind == "discrete" else (max(self.widths),))
        if actions.shape != shape:
            raise DataError(f"{self.name} expects actions of shape {shape}, got {actions.shape}.")
        if self.kind == "discrete":
            if ((actions < 0) | (actions >= np.array(self.widths))).any():
                raise DataError(f"Some actions in {self.name} are choices that their agent does not have.")
            return [[int(choice) for choice in row] for row in actions]
        if not np.isfinite(actions).all():
            raise DataError(f"Some actions in {self.name} are not finite.")
        within = (np.clip(actions, -1, 1).astype(np.float32) + 1) / 2
        return [[self._stretched(agent, row) for agent, row in enumerate(copy)] for copy in within]

    def _stretched(self, agent: int, within: Floats) -> npt.NDArray[np.float32]:
        low, high = self.bounds[agent]
        real = low + within[: low.size] * (high - low)
        exact: Floats = np.clip(real.astype(np.float32), *self._inside[agent])
        shaped: Floats = exact.reshape(self._shapes[agent])
        return shaped


def _kind_of(name: str, agents: Sequence[str], spaces: Sequence[Any]) -> ActionKind:
    from gymnasium.spaces import Box, Discrete

    kinds: set[ActionKind] = set()
    for agent, space in zip(agents, spaces, strict=True):
        if not isinstance(space, Discrete | Box) or (isinstance(space, Discrete) and space.start != 0):
            raise DataError(f"Agent {agent} of {name} acts in {space}: neither a box nor choices from 0.")
        kinds.add("discrete" if isinstance(space, Discrete) else "continuous")
    if len(kinds) > 1:
        raise DataError(f"In {name} some agents make choices and others act in boxes, which no learner knows.")
    return kinds.pop()


def _inside(low: npt.NDArray[Any], high: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    """Bounds in float32 that lie within these, which may be of float64 and lie outside themselves when rounded."""
    least, most = low.astype(np.float32), high.astype(np.float32)
    least = np.where(least < low, np.nextafter(least, np.float32(np.inf)), least)
    return least, np.where(most > high, np.nextafter(most, np.float32(-np.inf)), most)
