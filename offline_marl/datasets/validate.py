"""What is refused at the border of every data set, in one sentence that says where."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from offline_marl.core.axes import check_fields
from offline_marl.core.types import DataError
from offline_marl.datasets.flat import episode_numbers, starts

SEEN = frozenset({"obs", "state", "avail_actions"})
"""Fields with time+1 rows an episode; the others have time."""
DTYPES = {
    **dict.fromkeys(("obs", "state", "rewards"), (torch.float32,)),
    **dict.fromkeys(("terminations", "truncations", "avail_actions"), (torch.bool,)),
    "actions": (torch.float32, torch.int64),
}
OUTSIDE = 1.0 + 1e-6


def check_flat(data: Any) -> None:
    """What recordings and data sets have in common: rows, dtypes, axes, numbers, actions, episode borders.

    Raises:
        DataError: The first thing that is wrong.
    """
    if data.lengths.numel() == 0 or bool((data.lengths < 1).any()):
        raise DataError("A data set needs at least one episode, and each episode at least one step.")
    steps, rows = int(data.lengths.sum()), int((data.lengths + 1).sum())
    held = {name: getattr(data, name) for name in DTYPES if getattr(data, name, None) is not None}
    for name, value in held.items():
        found, expected = (value.shape[0] if value.dim() else 0), (rows if name in SEEN else steps)
        if found != expected:
            raise DataError(f"Field '{name}' has {found} rows, the episode lengths make {expected}.")
        if value.dtype not in DTYPES[name]:
            wanted = " or ".join(str(dtype) for dtype in DTYPES[name])
            raise DataError(f"Field '{name}' holds {value.dtype}, it should hold {wanted}.")
    try:
        check_fields(data)
    except ValueError as error:
        raise DataError(f"The data's shapes disagree: {error}") from None
    for name, value in held.items():
        if value.is_floating_point() and not bool(torch.isfinite(value.sum())):
            _refuse_unfinite(name, value, data.lengths + (1 if name in SEEN else 0))
    if data.actions.is_floating_point() and bool(data.actions.abs().amax() > OUTSIDE):
        outside = int((data.actions.abs() > OUTSIDE).sum())
        raise DataError(
            f"{outside:,} of {data.actions.numel():,} action entries lie outside [-1, 1]: "
            "scale them, or clip them by clip_actions = true."
        )
    _check_borders(data)


def _refuse_unfinite(name: str, value: Tensor, lengths: Tensor) -> None:
    bad = (~torch.isfinite(value.flatten(1) if value.dim() > 1 else value.unsqueeze(-1))).any(-1).nonzero()
    if len(bad):
        row = int(bad[0])
        episode = int(torch.searchsorted(torch.cumsum(lengths, 0), row, right=True))
        step = row - int(starts(lengths)[episode])
        raise DataError(f"Field '{name}' is not finite in episode {episode}, step {step} ({len(bad)} rows in all).")


def _check_borders(data: Any) -> None:
    ended = data.terminations | data.truncations
    ended = ended.all(-1) if ended.dim() > 1 else ended
    last = torch.cumsum(data.lengths, 0) - 1
    if not bool(ended[last].all()):
        episode = int((~ended[last]).nonzero()[0])
        raise DataError(f"Episode {episode} ends without termination or truncation.")
    if int(ended.sum()) != len(last):
        early = ended.clone()
        early[last] = False
        episode = int(episode_numbers(data.lengths)[int(early.nonzero()[0])])
        raise DataError(f"Episode {episode} goes on after a termination or truncation.")


def check_team(data: Any) -> None:
    """What a data set has beyond a recording: widths as its spec says, choices that exist and are allowed.

    Raises:
        DataError: The first thing that is wrong.
    """
    expected = (data.spec.n_agents, data.spec.obs_dim)
    if tuple(data.obs.shape[1:]) != expected:
        raise DataError(f"Observations have axes {tuple(data.obs.shape[1:])}, the spec says {expected}.")
    discrete = not data.actions.is_floating_point()
    if discrete != data.spec.discrete:
        raise DataError(f"The spec says {data.spec.action_kind} actions, the data holds {data.actions.dtype}.")
    wide = (data.spec.n_agents,) if discrete else (data.spec.n_agents, data.spec.act_dim)
    if tuple(data.actions.shape[1:]) != wide:
        raise DataError(f"Actions have axes {tuple(data.actions.shape[1:])}, the spec says {wide}.")
    for name, what in (("obs", "obs"), ("actions", "act")):
        value = getattr(data, name)
        if value.is_floating_point() and bool(value.masked_fill(data.spec.present(what), 0.0).any()):
            raise DataError(f"Field '{name}' is not zero where the spec says an agent's row is padded.")
    if discrete:
        unknown = int(((data.actions < 0) | (data.actions >= torch.tensor(data.spec.act_dims))).sum())
        if unknown:
            raise DataError(f"{unknown} actions are choices that their agent does not have.")
        if data.avail_actions is not None:
            rows = torch.arange(len(data.actions)) + episode_numbers(data.lengths)
            allowed = data.avail_actions[rows].gather(-1, data.actions.unsqueeze(-1))
            if not bool(allowed.all()):
                raise DataError(f"{int((~allowed).sum())} actions are choices that avail_actions forbids.")
