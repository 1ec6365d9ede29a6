"""Refusal of data that could be read, but as something else than was meant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offline_marl.core.types import DataError
from offline_marl.datasets.arrays.presence import Ends
from offline_marl.datasets.episode_index import AT_ONCE, last_steps

CLOSE = 1e-5
"""Difference of two rows that is rounding: absolute, and relative to the row."""
FEW = 8
"""Agents of which it is no wonder that there are more than steps."""


def refuse_one_hot(actions: Tensor, act_dims: Sequence[int]) -> None:
    """Refuse choices that are written as one-hot rows of floats, `step agent act`.

    Raises:
        DataError: All rows of all agents are a one among zeros.
    """
    if not actions.is_floating_point() or min(act_dims) < 2 or not len(actions):
        return
    if bool(((actions == 0) | (actions == 1)).all()) and bool((actions.sum(-1) == 1).all()):
        raise DataError(
            "'actions' holds one-hot rows of floats: give the choices themselves, whole numbers, as actions.argmax(-1)."
        )


def refuse_mixed_kinds(parts: Sequence[Tensor]) -> None:
    """Refuse actions, an array for each agent, that are floats of some agents and whole numbers of others.

    Raises:
        DataError: They are; names two of these agents.
    """
    floats = [part.is_floating_point() for part in parts]
    if any(floats) and not all(floats):
        raise DataError(
            f"'actions' holds floats for agent {floats.index(True)} and whole numbers for agent {floats.index(False)}: "
            "a team acts by numbers in [-1, 1] or by choices, all agents alike."
        )


def refuse_step_lists(parts: Sequence[Any], name: str) -> None:
    """Refuse a list of arrays that would make more agents than steps: one array for each step, not for each agent.

    Raises:
        DataError: It is such a list.
    """
    if len(parts) > max(FEW, len(parts[0])):
        raise DataError(
            f"'{name}' is a list of {len(parts)} arrays with {len(parts[0])} rows each, which would be {len(parts)} "
            "agents: a list holds one array for each agent, those of steps are stacked by numpy.stack."
        )


def refuse_masked(value: Any, name: str) -> None:
    """Refuse a numpy array whose mask hides entries, or a list with one in it: what lies under the mask would be read.

    Raises:
        DataError: It is one.
    """
    if any(np.ma.is_masked(part) for part in (value, *(value if isinstance(value, list | tuple) else ()))):
        raise DataError(
            f"'{name}' is a numpy masked array with masked entries, which are no numbers: fill them or leave their "
            "steps away."
        )


def refuse_agents_first(steps: int, agents: int) -> None:
    """Refuse arrays that would make more agents than steps: the axis of agents comes before that of steps.

    Raises:
        DataError: They are such arrays.
    """
    if agents > max(FEW, steps):
        raise DataError(
            f"'actions' would be {steps} steps of {agents} agents: steps come first, then agents, as by "
            "numpy.swapaxes(array, 0, 1); if there are so many agents, say by 'lengths' where episodes end."
        )


def refuse_no_end(terminations: Any, truncations: Any, names: str) -> None:
    """Refuse flags that are never true, which would make one episode of all.

    Raises:
        DataError: They are.
    """
    if not bool(terminations.any()) and not bool(truncations.any()):
        raise DataError(
            f"{names} are false in all {len(terminations):,} rows, so that no episode ends: they were not filled in."
        )


def refuse_no_mask(values: Any, name: str) -> None:
    """Refuse numbers that are neither true nor false, such as what is added to logits or multiplied with them.

    Raises:
        DataError: They are.
    """
    if not bool(((values == 0) | (values == 1)).all()):
        raise DataError(f"'{name}' should hold true where a choice is allowed and false elsewhere, or 1 and 0.")


def refuse_lacking_choices(allowed: Tensor, act_dims: Sequence[int]) -> None:
    """Refuse masks `row agent choice` that allow what an agent does not have.

    Raises:
        DataError: They do.
    """
    lacking = torch.arange(allowed.shape[-1]) >= torch.tensor(list(act_dims)).unsqueeze(-1)
    wrong = (allowed & lacking).any(0).nonzero()
    if len(wrong):
        agent, choice = wrong[0].tolist()
        raise DataError(
            f"'avail_actions' allows agent {agent} choice {choice}, but 'choices' says that it has {act_dims[agent]}."
        )


def refuse_other_rows(seen: Tensor, after: Tensor, name: str, ends: Ends) -> None:
    """Refuse what followed a step where it is not the next row of the same episode.

    Args:
        seen: What was seen before each step, `step ...`.
        after: What is said to have followed it, of the same shape.
        name: Of `after`; without its `next_`, of `seen`.
        ends: Ends of episodes; whoever is away in one of two steps is left out of their comparison.

    Raises:
        DataError: It is not; names the first such step.
    """
    inside = torch.ones(len(seen), dtype=torch.bool)
    inside[last_steps(ends.lengths)] = False
    wrong, count = -1, 0
    for steps in torch.split(inside.nonzero().flatten(), max(1, AT_ONCE // seen[0].numel())):
        ahead = seen[steps + 1].float()
        apart = ((after[steps].float() - ahead).abs() > CLOSE + CLOSE * ahead.abs()).any(-1)
        if ends.mask is not None and apart.dim() > 1:
            apart &= ends.mask[steps] & ends.mask[steps + 1]
        found = steps[apart.flatten(1).any(-1) if apart.dim() > 1 else apart]
        wrong = int(found[0]) if wrong < 0 and len(found) else wrong
        count += len(found)
    if count:
        raise DataError(
            f"'{name}' of step {wrong} is not '{name.removeprefix('next_')}' of step {wrong + 1}, which is of the same "
            f"episode ({count} steps in all): say by 'truncations' or 'lengths' where episodes end (steps that stand "
            f"alone are episodes of length 1), or leave '{name}' away."
        )


def refuse_reset_rows(obs: Tensor, after: Tensor, ends: Ends) -> None:
    """Refuse what followed the last steps where it is what the next episodes begin with, as of vector environments.

    The last episode of all is left out, as its reset is no row; so are ends at which nothing that is seen changes, of
    which nobody can tell.

    Args:
        obs: What was seen before each step, `step agent obs`.
        after: What is said to have followed it, of the same shape.
        ends: Ends of episodes; whoever is away before or after one is left out of the comparison.

    Raises:
        DataError: It is so at all ends, and there are at least two.
    """
    last = last_steps(ends.lengths)[:-1]
    if len(last) < 2:
        return
    there = torch.ones_like(obs[last, :, 0], dtype=torch.bool)
    if ends.mask is not None:
        there = ends.mask[last] & ends.mask[last + 1]
    alike = ((after[last] == obs[last + 1]).all(-1) | ~there).all(-1)
    changes = ((after[last] != obs[last]).any(-1) & there).any(-1)
    if bool(alike.all()) and int(changes.sum()) > 1:
        raise DataError(
            "'next_obs' of the last step of each episode is what the next episode begins with (at all "
            f"{len(last)} ends but the last), as where environments reset themselves: leave 'next_obs' "
            "away, or give what was seen last."
        )


def refuse_no_width(dims: Sequence[int], name: str, does: str) -> None:
    """Refuse agents who see or can do nothing.

    Raises:
        DataError: There is one.
    """
    for agent, width in enumerate(dims):
        if width < 1:
            raise DataError(f"'{name}' has no numbers for agent {agent}: an agent that {does} nothing cannot learn.")
