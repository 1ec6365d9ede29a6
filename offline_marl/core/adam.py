"""Adam by its fused kernel, without `torch._dynamo`, whose import takes as long as that of torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

ONE = torch.ones((), dtype=torch.float32)


def _undecorated(name: str) -> Any:
    """A method of torch's optimisers without what imports `torch._dynamo` around it."""
    method = getattr(Optimizer, name)
    return getattr(method, "__wrapped__", method)


class FusedAdam(torch.optim.Adam):
    """`torch.optim.Adam(..., fused=True)`: the same numbers, the same `state_dict`, hooks and groups.

    What torch's own class does around the kernel imports `torch._dynamo` and sorts tensors by device and type at every
    step. Here all parameters of a group share one device and one type, and have real, dense gradients.

    Args:
        params: Parameters, or groups of them.
        settings: Of `torch.optim.Adam`, such as `lr`.
    """

    add_param_group = _undecorated("add_param_group")
    state_dict = _undecorated("state_dict")
    load_state_dict = _undecorated("load_state_dict")

    def __init__(self, params: Iterable[Any], **settings: Any) -> None:
        super().__init__(params, **settings)
        # Said afterwards: torch 2.4 refuses it of parameters without memory, by which sizes are estimated.
        for kept in (self.defaults, *self.param_groups):
            kept["fused"] = True
        self._step_supports_amp_scaling = True

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients.

        Args:
            set_to_none: Let go of their memory, or fill it with zeros.
        """
        for group in self.param_groups:
            for parameter in group["params"]:
                if set_to_none:
                    parameter.grad = None
                elif parameter.grad is not None:
                    parameter.grad = torch.zeros_like(parameter.grad)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step along the gradients that there are.

        Args:
            closure: Computes the loss and its gradients first; its result comes back.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        params = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not params:
            return
        states = [self.state[parameter] or self._begin(parameter, group["amsgrad"]) for parameter in params]
        steps = [state["step"] for state in states]
        if steps[0].device.type == "cpu":  # a tensor with a factor; a number would become a tensor for each of them
            torch._foreach_add_(steps, ONE, alpha=1.0)
        else:
            torch._foreach_add_(steps, 1)
        self._call_kernel(group, params, [parameter.grad for parameter in params], states)

    def _call_kernel(self, group: dict[str, Any], params: Any, grads: Any, states: list[dict[str, Tensor]]) -> None:
        """Move tensors along their gradients; the counts of steps in their states are those after this one."""
        beta1, beta2 = group["betas"]
        kernel = torch._fused_adamw_ if group.get("decoupled_weight_decay") else torch._fused_adam_
        kernel(
            params,
            grads,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [state["max_exp_avg_sq"] for state in states] if group["amsgrad"] else [],
            [state["step"] for state in states],
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=group["amsgrad"],
            maximize=group["maximize"],
        )

    def _begin(self, parameter: Tensor, amsgrad: bool) -> dict[str, Tensor]:
        """The state of a parameter before its first step."""
        state: dict[str, Tensor] = self.state[parameter]
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        for name in ("exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if amsgrad else [])):
            state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state
