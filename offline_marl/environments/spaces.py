"""Specs of PettingZoo environments: widths, episode lengths and states read from their spaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from offline_marl.core.types import DataError
from offline_marl.environments.base import Floats

WIDEST = 20_000
"""Numbers that an agent may see as a vector."""
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


class NotNumbersError(Exception):
    """Something else than the numbers that a space says; the message is part of a sentence."""


def row_of(shown: Any, width: int, what: str) -> Any:
    """What an environment shows, a list of numbers perhaps, as a row.

    Raises:
        NotNumbersError: It is of another width than its space, or holds something else than numbers.
    """
    try:
        row = np.asarray(shown)
        numbers = row.dtype.kind in "biuf"
    except ValueError:  # lists of unequal lengths
        numbers = False
    if not numbers:
        raise NotNumbersError(f"{what} is {_short(shown)}, which are no numbers,")
    if row.size != width:
        raise NotNumbersError(f"{what} has {row.size} numbers instead of {width}")
    return row.reshape(width)


def number_of(value: Any, what: str) -> float:
    """One number, of whatever shape it comes in.

    Raises:
        NotNumbersError: It is none, or several.
    """
    return float(row_of(value, 1, what)[0])


def refuse_widths(name: str, agents: Sequence[str], seen: Sequence[Any], moves: Sequence[Any]) -> None:
    """Refuse agents who see or do nothing, and who see pictures.

    Raises:
        DataError: There is one.
    """
    from gymnasium.spaces import Box, flatdim

    for agent, space, move in zip(agents, seen, moves, strict=True):
        if not space.is_np_flattenable:
            raise DataError(f"Agent {agent} of {name} sees {space}, which is no row of numbers of one length.")
        if isinstance(space, Box) and space.dtype == np.uint8 and len(space.shape) == 3:
            shape = " x ".join(map(str, space.shape))
            raise DataError(
                f"Agent {agent} of {name} sees pictures ({shape}, {flatdim(space):,} numbers each), which no learner "
                "here knows: choose an environment, or settings of it, that shows vectors."
            )
        width = int(flatdim(space))
        if width > WIDEST:
            raise DataError(
                f"Agent {agent} of {name} sees {width:,} numbers, more than the {WIDEST:,} that learners here can take "
                "as a vector: is it a picture?"
            )
        if width == 0 or flatdim(move) == 0:
            raise DataError(f"Agent {agent} of {name} {'sees' if width == 0 else 'does'} nothing: its space is empty.")


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:60]} ..."


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
    """The space of an agent's observation without the mask of its actions.

    Raises:
        DataError: There is a mask, and no observation beside it.
    """
    from gymnasium.spaces import Dict

    if not isinstance(space, Dict) or MASK not in space.spaces:
        return space
    if "observation" not in space.spaces:
        others = ", ".join(f"'{name}'" for name in space.spaces if name != MASK) or "nothing"
        raise DataError(f"Beside '{MASK}' an observation should hold 'observation', as in PettingZoo, not {others}.")
    return space["observation"]


def state_of(env: Any) -> Floats | None:
    """The global state as a row of numbers; None where there is none."""
    try:
        return np.asarray(env.state(), np.float32).ravel()
    except (NotImplementedError, AttributeError):
        return None
    except (TypeError, ValueError) as error:
        raise DataError(f"The state of {env} cannot be read as numbers: {' '.join(str(error).split())}.") from None
