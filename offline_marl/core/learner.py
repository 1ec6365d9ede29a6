"""What everything that learns shares: one optimiser, one generator, one count of updates, saved together."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from offline_marl.core.types import Batch, Metrics, Needs


class Learner(nn.Module, ABC):
    """A module that eats batches.

    Subclasses build networks in `__init__`, name them to `optimize`, and write `update`.

    Args:
        lr: Step size of Adam.
        cosine_steps: Updates over which it falls to 0 along half a cosine; 0 keeps it constant.
        grad_clip: Largest gradient norm of each module; 0 leaves gradients alone.
    """

    needs: Needs = Needs()
    generator: torch.Generator

    def __init__(self, lr: float, cosine_steps: int = 0, grad_clip: float = 0.0) -> None:
        super().__init__()
        self.lr, self.cosine_steps, self.grad_clip = lr, cosine_steps, grad_clip
        self.updates = 0
        self.generator = torch.Generator().manual_seed(torch.initial_seed())

    @abstractmethod
    def update(self, batch: Batch) -> Metrics:
        """Learn from one batch.

        Returns:
            Detached scalars such as `loss/critic`; nothing is copied to the host here.
        """

    def optimize(self, *modules: str, lr: float) -> None:
        """One fused Adam over the named modules, each a parameter group; those without parameters are left out."""
        groups = [{"params": list(getattr(self, name).parameters()), "name": name} for name in modules]
        groups = [group for group in groups if group["params"]]
        self.optimizer = torch.optim.Adam(groups, lr=lr, fused=True)

    def descend(self, loss: Tensor) -> None:
        """One step of every optimised module down `loss`, each module's gradient clipped by its own norm."""
        if self.cosine_steps:
            share = min(self.updates / self.cosine_steps, 1.0)
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr * 0.5 * (1.0 + math.cos(math.pi * share))
        self.updates += 1
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.grad_clip:
            for group in self.optimizer.param_groups:
                nn.utils.clip_grad_norm_(group["params"], self.grad_clip, foreach=True)
        self.optimizer.step()

    def place(self, device: torch.device | str, seed: int) -> None:
        """Move to a device and seed the generator that the learner's own draws come from."""
        self.to(device)
        self.generator = torch.Generator(device).manual_seed(seed)

    def get_extra_state(self) -> dict[str, Any]:
        """Optimiser, generator and count of updates: they travel with `state_dict`."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "updates": self.updates,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` gave."""
        self.optimizer.load_state_dict(state["optimizer"])
        # The CPU cannot take up a GPU's generator: a policy loaded elsewhere explores from a seed of its own.
        if state["generator"].shape == self.generator.get_state().shape:
            self.generator.set_state(state["generator"].cpu())
        self.updates = state["updates"]


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
