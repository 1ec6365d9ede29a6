"""What happens to gradients between the backward pass and the optimiser's step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def clip_each(modules: Sequence[Sequence[Tensor]], limit: float) -> None:
    """Shrink the gradients of each module, in place, to a norm of at most `limit`; all norms in one fused call.

    Args:
        modules: Gradients of each module's parameters.
        limit: Largest norm, above 0.
    """
    squares = torch.stack(torch._foreach_norm([gradient for module in modules for gradient in module])).square_()
    for gradients, own in zip(modules, torch.split(squares, [len(module) for module in modules]), strict=True):
        torch._foreach_mul_(list(gradients), (own.sum() / limit**2).clamp(min=1.0).rsqrt())
