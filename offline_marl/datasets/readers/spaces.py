"""Action spaces as Minari writes them in JSON, and their scaling into [-1, 1]."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from offline_marl.core.types import DataError

MOST_NUMBERS = 100_000
"""Bounds of one space."""


@dataclass(frozen=True)
class Moves:
    """The action space of one agent."""

    choices: int = 0
    """How many choices there are; 0 for continuous actions."""
    start: int = 0
    """The first choice."""
    low: npt.NDArray[np.float64] | None = None
    """Bounds of continuous actions; None where they are -1 and 1, or not told."""
    high: npt.NDArray[np.float64] | None = None
    told: bool = True

    def ours(self, actions: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Rows of actions with choices from 0, or in [-1, 1]."""
        if self.choices:
            return actions.astype(np.int64) - self.start
        if self.low is None or self.high is None:
            return actions
        if actions.shape[1:] != self.low.shape:
            raise DataError(f"Actions of {actions.shape[1]} numbers have bounds for {len(self.low)}.")
        span = self.high - self.low
        return (2 * ((actions.astype(np.float64) - self.low) / span) - 1).astype(np.float32)

    @property
    def bounds(self) -> list[list[float]] | None:
        """Bounds that were rescaled, for the metadata."""
        return None if self.low is None or self.high is None else [self.low.tolist(), self.high.tolist()]


def moves_of(space: object, agents: Sequence[str]) -> list[Moves]:
    """What each agent can do, by the space in a Minari set's metadata; nothing is told where there is none.

    Args:
        space: JSON, as Minari writes spaces.
        agents: Names of the agents' arrays; empty for one body.

    Raises:
        DataError: The space is damaged, of another kind, or without bounds.
    """
    if space is None:
        return [Moves(told=False) for _ in agents or [""]]
    try:
        plain = json.loads(space) if isinstance(space, str) else space
        parts = [_part(plain, agent, number) for number, agent in enumerate(agents)] if agents else [plain]
        return [_moves(part) for part in parts]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError("its metadata's 'action_space' cannot be read, or is not of its agents.") from None


def is_picture(space: object) -> bool:
    """Whether an observation space, in JSON, is one of pictures."""
    try:
        plain = json.loads(space) if isinstance(space, str) else {}
        return plain.get("type") == "Box" and plain.get("dtype") == "uint8" and len(plain.get("shape", ())) == 3
    except (ValueError, TypeError, AttributeError, RecursionError):
        return False


def _part(space: Any, agent: str, number: int) -> Any:
    parts = space["subspaces"]
    return parts[number] if isinstance(parts, list) else parts[agent]


def _moves(space: Any) -> Moves:
    kind = space["type"]
    if kind == "Discrete":
        count, start = space["n"], space.get("start", 0)
        if type(count) is not int or type(start) is not int or not 0 < count < 1 << 31:
            raise DataError(f"its actions are choices out of {count!r:.40}.")
        return Moves(choices=count, start=start)
    if kind != "Box":
        raise DataError(f"its actions are of a {kind!r:.40} space; Box and Discrete are read, one for each agent.")
    low, high = (np.asarray(space[name], np.float64).reshape(-1) for name in ("low", "high"))
    if low.shape != high.shape or not 0 < low.size < MOST_NUMBERS or len(low) != math.prod(space["shape"]):
        raise DataError("its action space has bounds that are not of its shape.")
    if not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
        raise DataError("its actions have no bounds, or empty ones, so that they cannot be brought into [-1, 1].")
    if (low == -1).all() and (high == 1).all():
        return Moves()
    return Moves(low=low, high=high)
