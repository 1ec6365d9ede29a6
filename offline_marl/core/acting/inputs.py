"""The border of `act`: what callers give is converted and compared with the Spec, once, and not again in loops."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from offline_marl.core.types import DataError, Policy, Spec


class _Team(Policy, Protocol):
    """The part of an algorithm that the border asks."""

    spec: Spec
    best: Tensor


def checked(act: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make an `act` that takes tensors, arrays and lists, and refuses what is not of the team's shapes.

    An `act` that is called by a subclass's own is not asked: what it is given may be of another shape.
    """

    @functools.wraps(act)
    def outer(self: _Team, obs: Any, **given: Any) -> Tensor:
        if getattr(type(self), "act", None) is outer:
            obs, given = _accept(self, obs, given)
        return act(self, obs, **given)

    outer.inner = act  # type: ignore[attr-defined]
    return outer


def unchecked(policy: Policy) -> Callable[..., Tensor]:
    """The `act` of a policy for loops whose inputs are of the right shapes: not looked at, not read on the host."""
    inner = getattr(type(policy).act, "inner", None) if "act" not in vars(policy) else None
    return policy.act if inner is None else functools.partial(inner, policy)


def _accept(team: _Team, obs: Any, given: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    spec, like = team.spec, team.best
    seen = _floats("obs", obs, like, f"[..., agent, obs] = [..., {spec.n_agents}, {spec.obs_dim}]")
    _refuse_shape("obs", seen, (spec.n_agents, spec.obs_dim), "[..., agent, obs]")
    lead, accepted = seen.shape[:-2], dict(given)
    if given.get("history") is not None:
        sizes = (spec.n_agents, team.window, spec.step_dim)
        history = _floats("history", given["history"], like, "[..., agent, window, step]")
        _refuse_shape("history", history, sizes, "[..., agent, window, step]")
        _refuse_lead("history", history.shape[:-3], lead)
        accepted["history"] = history
    if given.get("avail_actions") is not None and spec.discrete:
        accepted["avail_actions"] = _masks(given["avail_actions"], spec, lead, like.device)
    return seen, accepted


def _floats(name: str, value: Any, like: Tensor, wanted: str) -> Tensor:
    if isinstance(value, Tensor):
        tensor = value if value.dtype == like.dtype else value.to(like.dtype)
    else:
        tensor = tensor_of(name, value, wanted).to(like.device, like.dtype)
    # On an accelerator the answer would have to be waited for.
    if tensor.device.type == "cpu" and not bool(tensor.isfinite().all()):
        raise DataError(f"{name} holds numbers that are not finite: NaN or infinity.")
    return tensor


def tensor_of(name: str, value: Any, wanted: str) -> Tensor:
    """A tensor of what a caller gave: an array, numbers, or nested lists of them.

    Raises:
        DataError: It is none of these, or its rows are of different lengths.
    """
    try:
        return torch.as_tensor(_stacked(value))
    except (TypeError, ValueError, RuntimeError):
        raise DataError(
            f"{name} should be numbers {wanted}, and is {type(value).__name__} that no tensor can be made of; rows of "
            "different lengths, and dicts by agent, are what `actor()` takes."
        ) from None


def _stacked(value: Any) -> Any:
    """Nested lists with arrays or tensors in them as one thing; torch reads lists of arrays badly or not at all."""
    if isinstance(value, list | tuple) and value and not isinstance(value[0], int | float | bool):
        return torch.stack([torch.as_tensor(_stacked(row)) for row in value])
    return value


def _masks(value: Any, spec: Spec, lead: torch.Size, device: torch.device) -> Tensor:
    masks = value if isinstance(value, Tensor) else tensor_of("avail_actions", value, "[..., agent, choice]").to(device)
    masks = masks if masks.dtype == torch.bool else masks != 0
    _refuse_shape("avail_actions", masks, (spec.n_agents, spec.act_dim), "[..., agent, choice]")
    _refuse_lead("avail_actions", masks.shape[:-2], lead)
    if masks.device.type == "cpu":
        usable = masks & spec.present("act")
        if not bool(usable.any(-1).all()):
            agent = int((~usable.any(-1)).reshape(-1, spec.n_agents).any(0).nonzero()[0])
            raise DataError(f"avail_actions allows agent_{agent} nothing.")
    return masks


def _refuse_shape(name: str, value: Tensor, sizes: tuple[int, ...], axes: str) -> None:
    if value.shape[-len(sizes) :] != sizes:
        wanted = ", ".join(str(size) for size in sizes)
        raise DataError(f"{name} of shape {tuple(value.shape)} should be {axes}, here [..., {wanted}].")


def _refuse_lead(name: str, lead: torch.Size, wanted: torch.Size) -> None:
    if lead != wanted:
        raise DataError(f"{name} has the leading axes {tuple(lead)}, and obs {tuple(wanted)}: they should be the same.")
