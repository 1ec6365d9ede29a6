"""Conversion of user-supplied arrays, per agent or for all, into the flat fields of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offline_marl.core.types import DataError, Spec
from offline_marl.datasets.arrays.episode_batches import EpisodeBatch, flat_fields_of
from offline_marl.datasets.arrays.mistakes import (
    refuse_agents_first,
    refuse_lacking_choices,
    refuse_masked,
    refuse_mixed_kinds,
    refuse_no_end,
    refuse_no_mask,
    refuse_no_width,
    refuse_one_hot,
    refuse_other_rows,
    refuse_reset_rows,
    refuse_step_lists,
)
from offline_marl.datasets.arrays.presence import Ends, find_ends, with_presence
from offline_marl.datasets.episode_index import Lengths, add_final_rows, last_steps

Arrays = Any
"""One array with an agent axis, or a list with one array for each agent; numpy or torch."""


@dataclass(frozen=True)
class Given:
    """Arguments of a call of `Dataset.from_arrays`."""

    obs: Arrays
    actions: Arrays
    rewards: Arrays
    next_obs: Arrays | None = None
    lengths: Any = None
    terminations: Arrays | None = None
    truncations: Arrays | None = None
    state: Any = None
    next_state: Any = None
    avail_actions: Arrays | None = None
    choices: int | Sequence[int] | None = None
    filled: Any = None
    mask: Arrays | None = None
    next_avail_actions: Arrays | None = None


def flat_fields(given: Given) -> dict[str, Any]:
    """Fields of the data set, its spec included, by name; not yet checked for numbers and bounds.

    Raises:
        DataError: Shapes, rows or ends that do not fit together; names the argument.
    """
    if given.filled is not None:
        if given.mask is not None:
            raise DataError("'filled' says which steps there are, of all agents: leave 'mask' away.")
        fields = flat_fields_of(_padded(given))
        return with_presence(fields, find_ends(fields["terminations"], fields["truncations"], fields["lengths"]))
    obs, obs_dims = _stacked(given.obs, "obs")
    actions, act_dims = _actions(given)
    steps, n_agents = len(actions), len(act_dims)
    refuse_no_width(obs_dims, "obs", "sees")
    refuse_no_width(act_dims, "actions", "does")
    refuse_one_hot(actions, act_dims)
    if len(obs_dims) != n_agents:
        raise DataError(f"'obs' is of {len(obs_dims)} agents and 'actions' of {n_agents}.")
    if steps == 0:
        raise DataError("A data set needs at least one episode, and each episode at least one step.")
    if given.lengths is None and not _is_list(given.actions):
        # Lengths that sum to the steps say which axis these are on; flags have as many rows either way.
        refuse_agents_first(steps, n_agents)
    ends = _ends(given, steps, n_agents)
    done = {"actions": actions, "rewards": _per_agent(given.rewards, "rewards", steps, n_agents).float()}
    state = None if given.state is None else _table(given.state, "state")
    seen = {"obs": obs, "state": state, "avail_actions": _avail(given, act_dims)}
    after = {"next_obs": _next(given.next_obs, "next_obs", obs), "next_state": _next(given.next_state, "", state)}
    after["next_avail_actions"] = _avail_after(given, act_dims)
    kind: Any = "continuous" if actions.is_floating_point() else "discrete"
    spec = Spec(obs_dims, act_dims, 0 if state is None else state.shape[1], kind)
    present = {name: value for name, value in seen.items() if value is not None}
    whole = _complete(steps, present, after, ends.lengths)
    for name, told in after.items():
        if told is not None and len(told) == steps:
            refuse_other_rows(present[name.removeprefix("next_")], told, name, ends)
    flagged = given.terminations is not None or given.truncations is not None
    if after["next_obs"] is not None and len(obs) == steps and flagged:  # without flags it may be one stream in pieces
        refuse_reset_rows(obs, after["next_obs"], ends)
    return with_presence({**done, **whole, "spec": spec}, ends)


def _padded(given: Given) -> EpisodeBatch:
    """What was given with `filled`: padded episodes.

    Raises:
        DataError: There is a list among them, or what padded episodes need not say.
    """
    for name in ("next_obs", "next_state", "next_avail_actions", "lengths"):
        if getattr(given, name) is not None:
            raise DataError(f"'filled' says where episodes end and what followed their steps: leave '{name}' away.")
    arrays: dict[str, Any] = {}
    for name in ("obs", "actions", "rewards", "filled", "terminations", "truncations", "state", "avail_actions"):
        value = getattr(given, name)
        if value is not None:
            refuse_masked(value, name)
            arrays[name] = _tensor(value, name).numpy() if isinstance(value, Tensor) else np.asarray(value)
            if arrays[name].dtype.kind not in "biuf":
                raise DataError(f"'{name}' should be one array of numbers with axes [episode, time + 1, ...].")
    if "avail_actions" in arrays:
        refuse_no_mask(arrays["avail_actions"], "avail_actions")
    if given.choices is not None and not isinstance(given.choices, int | np.integer):
        raise DataError("'choices' of padded episodes should be one number for all agents.")
    return EpisodeBatch(**arrays, choices=int(given.choices or 0))


def _complete(
    steps: int, seen: dict[str, Tensor], after: dict[str, Tensor | None], lengths: Lengths
) -> dict[str, Tensor]:
    """What is seen with one row more an episode, and `ends_seen` where nobody knows these rows."""
    episodes = len(lengths)
    rows = {name: len(value) for name, value in seen.items()}
    if set(rows.values()) == {steps + episodes}:
        return dict(seen)
    for name, count in rows.items():
        if count != steps:
            raise DataError(
                f"'{name}' has {count} rows; {steps} steps in {episodes} episodes need {steps}, or all of what is seen "
                f"{steps + episodes}: one more after the last step of each episode."
            )
    last = last_steps(lengths)
    if after["next_obs"] is None:
        # The last row repeats, and is marked: rewards and ends of last steps are known, what followed is not.
        whole = {name: add_final_rows(value, value[last], lengths) for name, value in seen.items()}
        return {**whole, "ends_seen": torch.zeros(episodes, dtype=torch.bool)}
    if "state" in seen and after["next_state"] is None:
        raise DataError("'next_obs' is given and 'next_state' is not: nobody knows how each episode's state ended.")
    finals = {"obs": after["next_obs"][last]}
    if after["next_state"] is not None:
        finals["state"] = after["next_state"][last]
    if "avail_actions" in seen:
        told = after["next_avail_actions"]
        if told is None:
            raise DataError(
                "'next_obs' is given and 'next_avail_actions' is not: nobody knows what is allowed after each "
                "episode's last step."
            )
        finals["avail_actions"] = told[last]
    return {name: add_final_rows(value, finals[name], lengths) for name, value in seen.items()}


def owned(value: Any) -> Tensor:
    """A copy of an array, a tensor or nested lists, on the CPU: nobody else writes into it, nor is written into.

    Raises:
        TypeError: It holds something else than numbers.
        ValueError: It has no shape.
    """
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True).contiguous()
    # Read-only and mapped arrays and those of the other byte order, none of which torch takes, end here too.
    array = np.array(value, order="C", subok=False)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


def _tensor(value: Any, name: str) -> Tensor:
    refuse_masked(value, name)
    try:
        tensor = owned(value)
    except (TypeError, ValueError):
        raise DataError(f"'{name}' should be an array of numbers, or a list with one for each agent.") from None
    if tensor.is_complex():
        raise DataError(f"'{name}' holds complex numbers: give real ones.")
    return tensor


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and not np.isscalar(value[0])


def _table(value: Any, name: str) -> Tensor:
    tensor = _tensor(value, name)
    if tensor.dim() == 1:
        tensor = tensor.unsqueeze(-1)
    if tensor.dim() != 2:
        raise DataError(f"'{name}' should have axes [step, width], it has shape {tuple(tensor.shape)}.")
    return tensor.float()


def _stacked(value: Arrays, name: str) -> tuple[Tensor, tuple[int, ...]]:
    """[step, agent, width], zero-padded to the widest agent, and each agent's true width."""
    if not _is_list(value):
        tensor = _tensor(value, name)
        if tensor.dim() != 3:
            raise DataError(
                f"'{name}' should have axes [step, agent, width], or be a list with one array [step, width] for each "
                f"agent; it has shape {tuple(tensor.shape)}."
            )
        return tensor.float(), (tensor.shape[2],) * tensor.shape[1]
    parts = [_table(part, f"{name}[{agent}]") for agent, part in enumerate(value)]
    _same_rows(parts, name)
    dims = tuple(part.shape[1] for part in parts)
    padded = [torch.nn.functional.pad(part, (0, max(dims) - part.shape[1])) for part in parts]
    return torch.stack(padded, dim=1), dims


def _same_rows(parts: Sequence[Tensor], name: str) -> None:
    if parts:
        refuse_step_lists(parts, name)
    for agent, part in enumerate(parts):
        if len(part) != len(parts[0]):
            raise DataError(f"'{name}' has {len(parts[0])} rows for agent 0 and {len(part)} for agent {agent}.")


def _actions(given: Given) -> tuple[Tensor, tuple[int, ...]]:
    value = given.actions
    parts = [_tensor(part, f"actions[{agent}]") for agent, part in enumerate(value)] if _is_list(value) else []
    _same_rows(parts, "actions")
    held = parts or [_tensor(value, "actions")]
    for part in held:
        if part.dtype == torch.bool:
            raise DataError(f"'actions' should hold floats in [-1, 1] or integer choices, it holds {part.dtype}.")
    refuse_mixed_kinds(held)
    if held[0].is_floating_point():
        if given.choices is not None:
            raise DataError("'choices' counts what discrete actions can be, but 'actions' holds floats.")
        return _stacked(value, "actions")
    chosen = torch.stack([part.long().reshape(len(part), -1) for part in parts], dim=1) if parts else held[0].long()
    if chosen.dim() == 3 and chosen.shape[2] == 1:
        chosen = chosen.squeeze(-1)
    if chosen.dim() != 2:
        raise DataError(
            "'actions' of whole numbers should have axes [step, agent], or be a list with one array [step] for each "
            f"agent; they make shape {tuple(chosen.shape)}."
        )
    return chosen, _choices(given, chosen)


def _choices(given: Given, chosen: Tensor) -> tuple[int, ...]:
    n_agents = chosen.shape[1]
    if given.choices is not None:
        if isinstance(given.choices, int | np.integer):  # as Gymnasium's spaces count
            return (int(given.choices),) * n_agents
        try:
            known = tuple(map(index, given.choices))
        except TypeError:
            raise DataError("'choices' should be a whole number, or one for each agent.") from None
        if len(known) != n_agents:
            raise DataError(f"'choices' counts {len(known)} agents, 'actions' is of {n_agents}.")
        return known
    if _is_list(given.avail_actions):
        return tuple(_table(part, "avail_actions").shape[1] for part in given.avail_actions or ())
    if given.avail_actions is not None:
        return (_tensor(given.avail_actions, "avail_actions").shape[-1],) * n_agents
    return tuple((chosen.amax(0) + 1).clamp_min(1).tolist()) if len(chosen) else (1,) * n_agents


def _avail(given: Given, act_dims: tuple[int, ...]) -> Tensor | None:
    if given.avail_actions is None:
        return None
    allowed = _allowed(given.avail_actions, "avail_actions", act_dims)
    refuse_lacking_choices(allowed, act_dims)
    return allowed


def _avail_after(given: Given, act_dims: tuple[int, ...]) -> Tensor | None:
    """What is allowed after each step, of ends of the task maybe nothing."""
    if given.next_avail_actions is None or given.avail_actions is None:
        return None
    allowed = _allowed(given.next_avail_actions, "next_avail_actions", act_dims)
    nothing = ~allowed.any(-1, keepdim=True)
    return allowed | (nothing & (torch.arange(allowed.shape[-1]) < torch.tensor(act_dims).unsqueeze(-1)))


def _allowed(value: Arrays, name: str, act_dims: tuple[int, ...]) -> Tensor:
    allowed, dims = _stacked(value, name)
    if len(dims) != len(act_dims) or max(dims) != max(act_dims):
        raise DataError(f"'{name}' makes choices of {dims}, the agents have {act_dims}.")
    refuse_no_mask(allowed, name)
    return allowed.bool()


def _next(value: Any, name: str, seen: Tensor | None) -> Tensor | None:
    if value is None or seen is None:
        return None
    after = _stacked(value, name)[0] if seen.dim() == 3 else _table(value, "next_state")
    if after.shape != seen.shape:
        raise DataError(f"'{name or 'next_state'}' has shape {tuple(after.shape)}, what was seen {tuple(seen.shape)}.")
    return after


def _per_agent(value: Arrays, name: str, steps: int, n_agents: int) -> Tensor:
    """[step, agent] from that, from one column for all, or from a list of agents."""
    parts = [_tensor(part, f"{name}[{i}]").flatten() for i, part in enumerate(value)] if _is_list(value) else []
    _same_rows(parts, name)
    tensor = torch.stack(parts, dim=1) if parts else _tensor(value, name)
    if tensor.dim() == 1:
        tensor = tensor.unsqueeze(-1)
    if tensor.dim() == 2 and len(tensor) == steps and tensor.shape[1] in {1, n_agents}:
        return tensor.expand(steps, n_agents).contiguous()
    raise DataError(
        f"'{name}' should have shape ({steps},) or ({steps}, {n_agents}), as 'actions' has; it has "
        f"{tuple(tensor.shape)}."
    )


def _ends(given: Given, steps: int, n_agents: int) -> Ends:
    if given.lengths is None and given.terminations is None and given.truncations is None:
        raise DataError("Say where episodes end: give 'lengths', or 'terminations' and 'truncations'.")
    if given.mask is not None and given.lengths is None:
        raise DataError("'mask' needs 'lengths': where nobody is there, an episode may have ended or not.")
    terminations, truncations = (
        _flags(getattr(given, name), name, steps, n_agents) for name in ("terminations", "truncations")
    )
    if given.lengths is None:
        refuse_no_end(terminations, truncations, "'terminations' and 'truncations'")
    lengths = mask = None
    if given.lengths is not None:
        counts = _tensor(given.lengths, "lengths").flatten()
        lengths = counts.long()
        if bool((lengths != counts).any()):
            raise DataError("'lengths' should hold whole numbers, the steps of each episode.")
        if bool((lengths < 1).any()) or int(lengths.sum()) != steps:
            raise DataError(f"'lengths' should be at least 1 each and sum to the {steps} steps of 'actions'.")
    if given.mask is not None:
        mask = _flags(given.mask, "mask", steps, n_agents)
    return find_ends(terminations, truncations, lengths, mask)


def _flags(value: Arrays | None, name: str, steps: int, n_agents: int) -> Tensor:
    if value is None:
        return torch.zeros(steps, n_agents, dtype=torch.bool)
    flags = _per_agent(value, name, steps, n_agents)
    if not bool(((flags == 0) | (flags == 1)).all()):
        raise DataError(f"'{name}' should hold true and false, or 1 and 0.")
    return flags.bool()
