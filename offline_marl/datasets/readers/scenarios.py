"""Recognition of the simulated body that flat steps were recorded from, by names and widths."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from offline_marl.core.types import DataError
from offline_marl.datasets.readers.steps import Altered, Table

WIDTHS = {
    "halfcheetah": ((17,), 6),
    "walker2d": ((17,), 6),
    "hopper": ((11,), 3),
    "ant": ((27, 105, 111), 8),
    "reacher": ((10, 11), 2),
}
"""Numbers seen, in the versions of each body that exist, and actions."""
NAMED = {
    "humanoidstandup": ((348,), 17),
    "humanoid": ((348,), 17),
    "inverteddoublependulum": ((9,), 1),
    "invertedpendulum": ((4,), 1),
    "pusher": ((23,), 7),
    "swimmer": ((8,), 2),
}
"""The same of bodies that need a name: other tasks have these widths or names, too."""
KEPT = {"ant": 27, "reacher": 10}
"""Columns that partitions know; behind them the ant's contact forces, and the height of reacher's tip: always 0."""

_SILENT = re.compile(
    r"[a-z]"
    r"|all|arrays|batch|bc|buffer|data|dataset|datasets|ddpg|demo|demos|download|downloads|episodes"
    r"|experience|expert|export|file|files|final|full|good|gym|gymnasium|hdf|human|iql|made|mamujoco|medium"
    r"|mid|minari|mine|mix|mixed|moma|mujoco|my|new|noisy|offline|old|optimal|out|output|part|partial"
    r"|pickle|pkl|poor|ppo|pt|random|recorded|recording|replay|replays|rl|rlpd|rollout|rollouts|run|sac"
    r"|samples|save|saved|set|simple|steps|suboptimal|td|team|test|tests|tmp|train|training|trajectories"
    r"|transitions"
)
"""Words that a file of any environment may be called, and single letters; any other word may be the name of one."""

# A version or digits may follow at once: `hopperv2`, `ant8x1`; but `reacher3d` is another body.
_WORDS = {
    body: re.compile(rf"(?<![a-z]){pattern}(?![a-uw-z]|v(?!\d)|\d+d(?![a-z]))")
    for body, pattern in {
        **{body: body for body in (*WIDTHS, *NAMED)},
        "halfcheetah": "half[-_ ]?cheetah",
        "walker2d": "walker[-_ ]?2[-_ ]?d",
        "humanoidstandup": "humanoid[-_ ]?stand[-_ ]?up",
        "invertedpendulum": "inverted[-_ ]?pendulum",
        "inverteddoublependulum": "inverted[-_ ]?double[-_ ]?pendulum",
    }.items()
}


def scenario_of(
    names: Iterable[str], obs_dim: int, act_dim: int, usual: str | None = None, guess: bool = True
) -> str | None:
    """The body that one of the names names, else the only one of these widths; None if that leaves doubt.

    By widths alone it is a guess, which a warning tells: none is made where a name says something that may be another
    environment's, nor where columns would be left out by it.

    Args:
        names: What may name the body, such as the file's name.
        obs_dim: Numbers seen.
        act_dim: Numbers of an action.
        usual: The body that the file's format is used for, if any.
        guess: Whether to guess.

    Raises:
        DataError: A name names a body of other widths.
    """
    names = list(names)
    fits = [body for body, (seen, moved) in WIDTHS.items() if obs_dim in seen and act_dim == moved]
    named_fits = [body for body, (seen, moved) in NAMED.items() if obs_dim in seen and act_dim == moved]
    for name in names:
        named = body_in(name)
        if named in NAMED:
            if named in named_fits:
                return named
            continue
        if named is not None and named not in fits:
            raise DataError(
                f"'{name}' names {named}, which shows {' or '.join(map(str, WIDTHS[named][0]))} numbers and takes "
                f"{WIDTHS[named][1]}; the data holds {obs_dim} and {act_dim}."
            )
        if named is not None:
            return named
    if len(fits) != 1 or not guess or any(_says_something(name) for name in names):
        return None
    if fits[0] == usual:
        return usual
    if obs_dim != KEPT.get(fits[0], obs_dim):
        return None
    called = ", ".join(repr(name[:80]) for name in names) or "the data"
    print(
        f"warning: {called} does not say which body it is of: taken as {fits[0]}'s, by its {obs_dim} numbers seen and "
        f"{act_dim} of an action alone; if it is another's, name that one in the file's name.",
        file=sys.stderr,
    )
    return fits[0]


def _says_something(name: str) -> bool:
    """Whether a name holds a word that may be an environment's."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return any(_SILENT.fullmatch(word) is None for word in re.findall(r"[^\W\d_]+", apart))


def body_in(name: str) -> str | None:
    """The body that stands in a name as a word, such as in `HalfCheetah-v5`, `2ant` or `walker2d_medium`."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return next((body for body, word in _WORDS.items() if word.search(apart)), None)


def known_columns(scenario: str | None, obs: Table) -> Table:
    """The observation without columns that no partition shows and no agent could need.

    Reading it raises a DataError where a column that should always be 0 is not.
    """
    kept = KEPT.get(scenario or "", obs.shape[1])
    if kept == obs.shape[1]:
        return obs

    def cut(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if scenario == "reacher" and np.abs(rows[:, kept:]).max(initial=0.0) > 1e-3:
            raise DataError(
                "The eleventh number of this Reacher is not 0: it is not the height of the tip over the target."
            )
        return rows[:, :kept]

    return Altered(obs, cut, (kept,))
