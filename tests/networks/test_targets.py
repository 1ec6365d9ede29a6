from __future__ import annotations

import pytest
import torch
from torch import nn

from offline_marl.networks.targets import frozen_copy, polyak


def filled(value: float) -> nn.Linear:
    module = nn.Linear(2, 1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(value)
    return module


def test_polyak_by_hand() -> None:
    target, source = frozen_copy(filled(1.0)), filled(5.0)
    polyak(target, source, 0.25)  # 1 + .25 * 4 = 2
    assert target.weight.tolist() == [[2.0, 2.0]] and target.bias.tolist() == [2.0]
    polyak(target, source, 0.25)  # 2 + .25 * 3 = 2.75
    assert target.bias.tolist() == [2.75]
    assert source.bias.tolist() == [5.0]


@pytest.mark.parametrize(("tau", "expected"), [(0.0, 1.0), (1.0, 5.0)])
def test_polyak_at_its_ends(tau: float, expected: float) -> None:
    target = frozen_copy(filled(1.0))
    polyak(target, filled(5.0), tau)
    assert target.bias.item() == expected


def test_polyak_leaves_no_trace_in_gradients() -> None:
    target, source = frozen_copy(filled(1.0)), filled(5.0)
    polyak(target, source, 0.5)
    assert all(not p.requires_grad and p.grad is None and p.grad_fn is None for p in target.parameters())
    assert all(p.requires_grad for p in source.parameters())


def test_modules_without_parameters_have_nothing_to_follow() -> None:
    polyak(nn.ReLU(), nn.ReLU(), 0.5)


def test_a_frozen_copy_is_equal_apart_and_never_asks_for_gradients() -> None:
    source = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    target = frozen_copy(source)
    assert all(torch.equal(a, b) for a, b in zip(target.parameters(), source.parameters(), strict=True))
    x = torch.randn(5, 3)
    (source(x) - target(x)).square().sum().backward()
    assert all(p.grad is None for p in target.parameters())
    assert all(p.grad is not None for p in source.parameters())
    with torch.no_grad():
        source[0].weight.add_(1.0)
    assert not torch.equal(source[0].weight, target[0].weight)
