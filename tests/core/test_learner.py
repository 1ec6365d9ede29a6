from __future__ import annotations

import torch
from torch import nn

from offline_marl.core.learner import clip_each


def test_each_module_is_clipped_by_its_own_norm() -> None:
    long = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]  # norm 5
    short = [torch.tensor([0.3, 0.4])]  # norm .5
    clip_each([long, short], 2.0)
    torch.testing.assert_close(long, [torch.tensor([1.2, 0.0]), torch.tensor([[1.6]])])
    assert torch.equal(short[0], torch.tensor([0.3, 0.4])), "what is short enough stays as it is, to the bit"


def test_it_is_what_torch_does_module_by_module() -> None:
    torch.manual_seed(0)
    modules = [nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(1, 1)]
    for module, size in zip(modules, (10.0, 1e-3, 0.0), strict=True):
        for parameter in module.parameters():
            parameter.grad = torch.randn_like(parameter) * size
    ours = [[p.grad.clone() for p in module.parameters() if p.grad is not None] for module in modules]
    clip_each(ours, 0.7)
    for module, found in zip(modules, ours, strict=True):
        nn.utils.clip_grad_norm_(module.parameters(), 0.7)
        torch.testing.assert_close(found, [p.grad for p in module.parameters()])
