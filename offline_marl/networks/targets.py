"""Target networks: a frozen copy that follows its source slowly."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def frozen_copy(module: M) -> M:
    """A copy that never asks for gradients."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def polyak(target: nn.Module, source: nn.Module, tau: float) -> None:
    """Move every parameter of `target` the fraction `tau` of the way to `source`, in one fused call."""
    ours = [p.data for p in target.parameters()]
    theirs = [p.data for p in source.parameters()]
    if ours:
        torch._foreach_lerp_(ours, theirs, tau)
