from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch

from offline_marl.core.adam import FusedAdam


def make(kind: type[torch.optim.Adam], **settings: Any) -> tuple[list[torch.nn.Parameter], torch.optim.Adam]:
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(n, 5, generator=generator)) for n in (1, 3, 40, 2)]
    groups: list[dict[str, Any]] = [
        {"params": params[:3], "name": "wide"},
        {"params": params[3:], "name": "last", "lr": 0.5},
    ]
    return params, kind(groups, lr=1e-2, **settings)


def drive(params: list[torch.nn.Parameter], optimizer: torch.optim.Adam, steps: range) -> None:
    """Steps along noise; the first parameter has no gradient at every third."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for parameter in params:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        if step % 3 == 1:
            params[0].grad = None
        optimizer.step()


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, torch.Tensor):
        return torch.equal(ours, theirs) and ours.dtype == theirs.dtype
    if isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], value) for key, value in theirs.items())
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return bool(ours == theirs)


@pytest.mark.parametrize(
    "settings", [{}, {"weight_decay": 0.1}, {"amsgrad": True}, {"maximize": True}, {"betas": (0.5, 0.9), "eps": 1e-3}]
)
def test_numbers_and_state_are_those_of_torch_to_the_bit(settings: dict[str, Any]) -> None:
    params, ours = make(FusedAdam, **settings)
    others, theirs = make(torch.optim.Adam, fused=True, **settings)
    drive(params, ours, range(5))
    drive(others, theirs, range(5))
    assert all(map(torch.equal, params, others))
    assert same(ours.state_dict(), theirs.state_dict())


def test_states_pass_from_torch_to_ours_and_back() -> None:
    others, theirs = make(torch.optim.Adam, fused=True)
    drive(others, theirs, range(4))
    params, ours = make(FusedAdam)
    for parameter, other in zip(params, others, strict=True):
        parameter.data.copy_(other)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    again, back = make(torch.optim.Adam, fused=True)
    for parameter, other in zip(again, others, strict=True):
        parameter.data.copy_(other)
    back.load_state_dict(copy.deepcopy(ours.state_dict()))
    for pair in ((others, theirs), (params, ours), (again, back)):
        drive(*pair, range(4, 8))
    assert all(map(torch.equal, params, others)) and all(map(torch.equal, again, others))
    assert same(ours.state_dict(), theirs.state_dict()) and same(back.state_dict(), theirs.state_dict())


def test_hooks_closures_and_learning_rates_are_heeded() -> None:
    params, ours = make(FusedAdam)
    calls = []
    ours.register_step_pre_hook(lambda *_: calls.append("before"))
    ours.register_step_post_hook(lambda *_: calls.append("after"))

    def closure() -> torch.Tensor:
        ours.zero_grad()
        loss = torch.stack([parameter.sum() for parameter in params]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    before = [parameter.detach().clone() for parameter in params]
    loss = ours.step(closure)
    assert loss is not None and calls == ["before", "after"]
    # Adam's first step is its step size along the sign of the gradient, which is 1 everywhere.
    steps = [float((old - new.detach()).mean()) for old, new in zip(before, params, strict=True)]
    assert steps == pytest.approx([1e-2, 1e-2, 1e-2, 0.5], rel=1e-4)


def test_a_copy_goes_on_by_itself() -> None:
    params, ours = make(FusedAdam)
    drive(params, ours, range(2))
    twins, other = copy.deepcopy((params, ours))
    drive(params, ours, range(2, 4))
    drive(twins, other, range(2, 4))
    assert all(map(torch.equal, params, twins))


@pytest.mark.slow
def test_learning_does_not_import_dynamo() -> None:
    code = """
import sys, torch
from offline_marl.core.adam import FusedAdam
parameter = torch.nn.Parameter(torch.zeros(2))
optimizer = FusedAdam([parameter], lr=0.1)
optimizer.zero_grad()
parameter.sum().backward()
optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
optimizer.step()
assert parameter.tolist() != [0.0, 0.0]
sys.exit("torch._dynamo" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
