"""Base of all learners: optimisers, a generator and a count of updates that are saved with the parameters."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from offline_marl.core.adam import FusedAdam
from offline_marl.core.types import Batch, Metrics, Needs


class Learner(nn.Module, ABC):
    """A module that learns from batches.

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
        self.optimizers: dict[str, torch.optim.Adam] = {}
        self._schedules: dict[str, Schedule] = {}

    @abstractmethod
    def update(self, batch: Batch) -> Metrics:
        """Learn from one batch.

        Returns:
            Detached scalars such as `loss/critic`; nothing is copied to the host here.
        """

    def optimize(self, *modules: str, lr: float, name: str = "", cosine_steps: int | None = None) -> None:
        """One fused Adam over the named modules, each a parameter group; those without parameters are left out.

        Args:
            modules: Attributes of this learner.
            lr: Step size.
            name: Of the optimiser, for learners that descend several losses apart.
            cosine_steps: Steps of this optimiser over which its step size falls to 0; the learner's unless said.

        Raises:
            ValueError: There is an optimiser of that name.
        """
        if name in self.optimizers:
            raise ValueError(f"There are two optimisers called '{name}': give each call of `optimize` a name.")
        groups = [{"params": list(getattr(self, module).parameters()), "name": module} for module in modules]
        groups = [group for group in groups if group["params"]]
        # Fused: one kernel steps all parameters of a group, which at these widths costs less than a launch for each.
        self.optimizers[name] = FusedAdam(groups, lr=lr)
        self._schedules[name] = Schedule(lr, self.cosine_steps if cosine_steps is None else cosine_steps)

    @property
    def optimizer(self) -> torch.optim.Adam:
        """The optimiser without a name."""
        return self.optimizers[""]

    def descend(self, loss: Tensor, name: str = "") -> None:
        """One step of every module of an optimiser down `loss`, each module's gradient clipped by its own norm.

        Args:
            loss: A scalar.
            name: Of the optimiser. `updates` counts the steps of the first one.
        """
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.grad_clip:
            for group in optimizer.param_groups:
                self.clip_gradients(group["params"])
        self.step_optimizer(name)

    def clip_gradients(self, module: Sequence[nn.Parameter]) -> None:
        """Shrink the gradients of one module to a norm of at most `grad_clip`, if there is such a limit."""
        if self.grad_clip:
            nn.utils.clip_grad_norm_(module, self.grad_clip, foreach=True)

    def step_optimizer(self, name: str = "") -> None:
        """One step of an optimiser along the gradients that its parameters hold, at its schedule's step size."""
        optimizer, schedule = self.optimizers[name], self._schedules[name]
        first = name == next(iter(self.optimizers))
        schedule.apply(optimizer, self.updates if first else schedule.taken)
        if first:
            self.updates += 1
        else:
            schedule.taken += 1
        optimizer.step()

    def place(self, device: torch.device | str, seed: int) -> None:
        """Move to a device and seed the generator that the learner's own draws come from."""
        self.to(device)
        self.generator = torch.Generator(device).manual_seed(seed)

    def get_extra_state(self) -> dict[str, Any]:
        """Optimisers, generator and counts of steps: they travel with `state_dict`."""
        state: dict[str, Any] = {"generator": self.generator.get_state(), "updates": self.updates}
        named = {name: optimizer for name, optimizer in self.optimizers.items() if name}
        if named:
            state["optimizers"] = {name: optimizer.state_dict() for name, optimizer in named.items()}
            state["taken"] = {name: schedule.taken for name, schedule in self._schedules.items() if name}
        # First, as in files of learners that have no other.
        return {"optimizer": self.optimizer.state_dict(), **state} if "" in self.optimizers else state

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` gave."""
        if "" in self.optimizers:
            self.optimizer.load_state_dict(state["optimizer"])
        for name, optimizer_state in state.get("optimizers", {}).items():
            self.optimizers[name].load_state_dict(optimizer_state)
            self._schedules[name].taken = state["taken"][name]
        # The CPU cannot take up a GPU's generator: a policy loaded elsewhere explores from a seed of its own.
        if state["generator"].shape == self.generator.get_state().shape:
            self.generator.set_state(state["generator"].cpu())
        self.updates = state["updates"]


@dataclass(slots=True)
class Schedule:
    """The step size of one optimiser: constant, or falling to 0 along half a cosine."""

    lr: float
    cosine_steps: int
    taken: int = 0
    """Steps so far, of an optimiser that is not the learner's first."""

    def apply(self, optimizer: torch.optim.Adam, taken: int) -> None:
        """Set the step size after so many steps."""
        if self.cosine_steps:
            share = min(taken / self.cosine_steps, 1.0)
            for group in optimizer.param_groups:
                group["lr"] = self.lr * 0.5 * (1.0 + math.cos(math.pi * share))


@torch.no_grad()
def clip_each(modules: Sequence[Sequence[Tensor]], limit: float) -> None:
    """Shrink the gradients of each module, in place, to a norm of at most `limit`; all norms in one fused call.

    Args:
        modules: Gradients of each module's parameters.
        limit: Largest norm, above 0.
    """
    squares = torch.stack(torch._foreach_norm([gradient for module in modules for gradient in module])).square_()
    for gradients, squared_norms in zip(
        modules, torch.split(squares, [len(module) for module in modules]), strict=True
    ):
        torch._foreach_mul_(list(gradients), (squared_norms.sum() / limit**2).clamp(min=1.0).rsqrt())


@torch.no_grad()
def clip_by_member(parameters: Iterable[nn.Parameter], limit: float) -> None:
    """Shrink each member's gradient, in place, to a norm of at most `limit`: one norm would couple members.

    Args:
        parameters: Their first axis is the member; those without a gradient are left out.
        limit: Largest norm, above 0.
    """
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch.stack([torch.linalg.vector_norm(grad.flatten(1), dim=1) for grad in grads])
    shares = (limit / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(grads, [shares.view(-1, *[1] * (grad.dim() - 1)) for grad in grads])
