"""Refusal of numbers from an environment that no learner could use, with the field, the agent and the episode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from offline_marl.core.types import DataError
from offline_marl.environments.base import Flags, Floats, Seen

FIELDS = {"obs": "observation", "state": "state", "rewards": "reward"}


class BadNumbersError(DataError):
    """A number of an episode that cannot be used.

    Args:
        what: The fault, such as "the observation of agent 1 is not finite (nan)".
        step: Steps done before it, or with it.
        row: The episode, among those side by side.
        episode: What messages call it.
        more: What is said beside.
    """

    def __init__(self, what: str, step: int, row: int, episode: str, more: str = "") -> None:
        after = f"In this environment {what} after {step} steps of {episode}: no learner could use that"
        super().__init__(f"{after}{'; ' if more else ''}{more}.")
        self.what, self.step, self.row = what, step, row
        self._told = what, step, row, episode, more

    def __reduce__(self) -> tuple[type[BadNumbersError], tuple[str, int, int, str, str]]:
        """Pickled by what it was made of: an exception is else made again of its message alone."""
        return BadNumbersError, self._told

    def of_episode(self, episode: str, more: str = "") -> BadNumbersError:
        """The same fault, of an episode that is called otherwise."""
        return BadNumbersError(self.what, self.step, self.row, episode, more)


def refuse_bad_sight(seen: Seen, going: Flags, step: int, seeds: Sequence[int]) -> None:
    """Refuse what is seen in a running episode where it is not finite.

    Args:
        seen: Before or after a step.
        going: Copies in which it was seen just now.
        step: Steps done.
        seeds: Of the copies' episodes.

    Raises:
        BadNumbersError: See above.
    """
    for name in ("obs", "state"):
        values = getattr(seen, name)
        if values is not None:
            _refuse_infinite(name, values, going, step, seeds)


def refuse_no_choice(seen: Seen, going: Flags, step: int, seeds: Sequence[int]) -> None:
    """Refuse a mask that allows an agent of an episode that goes on nothing.

    Raises:
        BadNumbersError: See above.
    """
    if seen.avail_actions is None:
        return
    none = ~seen.avail_actions.any(-1) & going[:, None]
    if none.any():
        row, agent = (int(place) for place in np.argwhere(none)[0])
        raise BadNumbersError(f"the mask of actions of agent {agent} allows nothing", step, row, _seed(seeds, row))


def refuse_bad_rewards(rewards: Floats, going: Flags, step: int, seeds: Sequence[int]) -> None:
    """Refuse rewards of running episodes that are not finite.

    Raises:
        BadNumbersError: See above.
    """
    _refuse_infinite("rewards", rewards, going, step, seeds)


def _refuse_infinite(name: str, values: Any, going: Flags, step: int, seeds: Sequence[int]) -> None:
    bad = ~np.isfinite(values)
    if not bad.any():
        return
    bad &= going.reshape(-1, *(1,) * (bad.ndim - 1))
    if bad.any():
        place = tuple(int(number) for number in np.argwhere(bad)[0])
        # A state, and what a whole body earns, has no agent.
        whose = f" of agent {place[1]}" if name != "state" and values.ndim > 1 else ""
        what = f"the {FIELDS[name]}{whose} is not finite ({values[place]})"
        raise BadNumbersError(what, step, place[0], _seed(seeds, place[0]))


def _seed(seeds: Sequence[int], row: int) -> str:
    return f"the episode with seed {int(seeds[row])}"
