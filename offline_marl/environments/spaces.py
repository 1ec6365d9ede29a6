"""Specs of PettingZoo environments: widths, episode lengths and states read from their spaces."""

from __future__ import annotations

from typing import Any

import numpy as np

from offline_marl.core.types import DataError
from offline_marl.environments.base import Floats

MASK = "action_mask"
"""Key, in an agent's info or in its observation, of the choices that it has."""


def is_flat(space: Any) -> bool:
    """Whether what is seen is a row of numbers as it comes."""
    from gymnasium.spaces import Box

    return isinstance(space, Box) and len(space.shape) == 1


def flattened(space: Any, shown: Any) -> Any:
    """What is seen as a row of numbers."""
    from gymnasium.spaces import flatten

    return flatten(space, shown)


def own_limit(env: Any, name: str) -> int:
    """Steps of an episode, as the environment says itself.

    Raises:
        DataError: It does not.
    """
    for place in (env, getattr(env, "unwrapped", env), getattr(env, "aec_env", env)):
        inner = getattr(place, "unwrapped", place)
        for word in ("max_cycles", "max_steps"):
            limit = getattr(inner, word, None)
            if isinstance(limit, int) and limit > 0:
                return limit
    raise DataError(f"{name} does not say how long an episode lasts: give max_steps.")


def shown_space(space: Any) -> Any:
    """The space of an agent's observation without the mask of its actions."""
    from gymnasium.spaces import Dict

    return space["observation"] if isinstance(space, Dict) and MASK in space.spaces else space


def state_of(env: Any) -> Floats | None:
    """The global state as a row of numbers; None where there is none."""
    try:
        return np.asarray(env.state(), np.float32).ravel()
    except (NotImplementedError, AttributeError):
        return None
