"""Settings of Gymnasium's bodies: arguments of their classes, but for those that change what an observation holds."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from offline_marl.core.config import suggest
from offline_marl.core.types import DataError

ANOTHER_BODY = re.compile(r".*_(in|from)_observation|xml_file|default_camera_config")
"""Arguments that change the columns partitions speak of, or have to do with neither physics nor reward."""
MOST = 1_000
"""Largest whole number of a body's settings, such as the frames of a step."""
KINDS = {bool: "true or false", int: f"a whole number above 0, {MOST:,} at most", float: "a finite number"}


def known_settings(env_id: str) -> dict[str, Any]:
    """Names and defaults of what a body can be made with; imports Gymnasium and the body.

    A default that stands for a float (`forward_reward_weight: float = 1`) is one.

    Raises:
        ImportError: Gymnasium, or the physics behind it, is not installed.
    """
    entry = str(import_module("gymnasium").spec(env_id).entry_point)
    module, _, name = entry.partition(":")
    arguments = inspect.signature(getattr(import_module(module), name).__init__).parameters.values()
    return {
        argument.name: float(argument.default) if _is_whole_float(argument) else argument.default
        for argument in arguments
        if argument.default is not argument.empty and not ANOTHER_BODY.fullmatch(argument.name)
    }


def _is_whole_float(argument: inspect.Parameter) -> bool:
    return type(argument.default) is int and argument.annotation in (float, "float")


def refuse_settings(name: str, known: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuse settings that a body does not take, by their names and kinds.

    Args:
        name: The body.
        known: See `known_settings`.
        settings: What it is to be made with.

    Raises:
        DataError: One is unknown, changes the observation, or is of another kind than its default.
    """
    for setting, value in settings.items():
        if ANOTHER_BODY.fullmatch(setting):
            raise DataError(
                f"{name} cannot be made with {setting}: what its agents see is fixed, so that data and simulator agree."
            )
        if setting not in known:
            raise DataError(f"{name} takes no setting '{setting}': {suggest(setting, known)}.")
        expected = _kind(known[setting], value)
        if expected is not None:
            raise DataError(f"{name} cannot be made with {setting} = {value!r}: it should be {expected}.")


def _kind(default: Any, value: Any) -> str | None:
    """What the value of a setting should be; None where it is."""
    if isinstance(default, tuple):
        fits = isinstance(value, list | tuple) and len(value) == len(default) and all(map(_is_number, value))
        return None if fits else f"a list of {len(default)} finite numbers"
    kind = type(default) if type(default) in KINDS else float
    fits = {
        bool: isinstance(value, bool),
        int: type(value) is int and 0 < value <= MOST,
        float: _is_number(value),
    }[kind]
    return None if fits else KINDS[kind]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
