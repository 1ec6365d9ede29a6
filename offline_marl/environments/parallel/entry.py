"""Teams of PettingZoo's parallel environments as entries of the registry, by import path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from offline_marl.core.partition import Partition
from offline_marl.core.permissions import ImportPath
from offline_marl.core.small_files import shown
from offline_marl.core.types import DataError
from offline_marl.environments.base import (
    Environment,
    JointEnv,
)
from offline_marl.environments.clocked import refuse_partition
from offline_marl.environments.parallel.team import PettingZooTeam

CLOCK = "max_cycles"
"""Setting of MPE's tasks: steps of an episode."""
LONGEST = 1_000_000
"""Steps of an episode that settings may ask for where their numbers are bounded."""


def environment_of(
    path: ImportPath,
    settings: Mapping[str, Any] | None = None,
    max_steps: int | None = None,
    name: str | None = None,
    most: int | None = None,
    scored_by: str = "",
) -> type[Environment]:
    """An entry for the registry, made of a PettingZoo environment; nothing is imported before it is built.

    Args:
        path: See `factory_of`.
        settings: What the function is told.
        max_steps: See `PettingZooTeam`.
        name: What errors call the task; without it, its path.
        most: Largest whole number among `settings`, but for the length of episodes; None for any.
        scored_by: Setting with which it is for scores alone; see `Environment.for_scores`.
    """
    title, base_settings, limit = name or path.text, dict(settings or {}), max_steps

    class PettingZoo(Environment):
        """A task made for a team, from PettingZoo."""

        for_scores = scored_by if base_settings.get(scored_by) is not None else ""

        @classmethod
        def make(cls, partition: Partition | None, copies: int) -> JointEnv:
            """The task in many copies.

            Raises:
                DataError: There is a partition, though there is no body to share out.
            """
            refuse_partition(title, partition)
            return PettingZooTeam(path, copies, base_settings, limit, title)

        @classmethod
        def told(cls, settings: Mapping[str, Any], max_steps: int | None = None) -> type[Environment]:
            """The task made with these settings over its own; a clock of its own runs as long as is asked for."""
            _refuse_large(title, settings, most)
            if not settings and not max_steps:
                return cls
            changed, length = {**base_settings, **settings}, max_steps or limit
            if CLOCK in base_settings and CLOCK in settings:
                length = min(_clock_of(title, settings), max_steps or LONGEST)
            elif CLOCK in base_settings and max_steps:
                changed[CLOCK] = max_steps
            return environment_of(path, changed, length, title, most, scored_by)

    PettingZoo.__qualname__ = PettingZoo.__name__ = "".join(part.capitalize() for part in title.split("-"))
    return PettingZoo


def _refuse_large(name: str, settings: Mapping[str, Any], most: int | None) -> None:
    """Refuse a world that nobody can wait for, before it is built.

    Raises:
        DataError: A whole number among the settings is above the bound.
    """
    if most is None:
        return
    for setting, value in settings.items():
        bound = LONGEST if setting == CLOCK else most
        if isinstance(value, int | float) and not isinstance(value, bool) and not -bound <= value <= bound:
            raise DataError(f"{name} cannot be made with {setting} = {shown(value)}: {bound:,} is the most.")


def _clock_of(name: str, settings: Mapping[str, Any]) -> int:
    """Steps of an episode that settings ask for.

    Raises:
        DataError: They are no whole number above 0.
    """
    steps = settings[CLOCK]
    if type(steps) is not int or steps < 1:
        raise DataError(f"{name} cannot be made with {CLOCK} = {shown(steps)}: it should be a whole number above 0.")
    return steps
