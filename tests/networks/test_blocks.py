from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from offline_marl.networks import blocks
from offline_marl.networks.critics import Critic
from offline_marl.networks.ensembles import StackedMLP


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Blocks of four rows, worthwhile from six on; what is given counts how many rows went through them."""
    counted: list[int] = []
    run = blocks.run

    def counting(layers: Any, activation: Any, x: Tensor, extra: Tensor | None = None) -> Tensor:
        counted.append((x if extra is None else extra).shape[1])
        return run(layers, activation, x, extra)

    monkeypatch.setattr(blocks, "ROWS", 4)
    monkeypatch.setattr(blocks, "WORTHWHILE", 6)
    monkeypatch.setattr(blocks, "run", counting)
    return counted


def shaken(module: torch.nn.Module) -> Any:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * 0.3)
    return module


def both_ways(call: Any, leaves: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Value and gradients of a call at once and block by block."""
    found = []
    for many in (False, True):
        out = call(many)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=out.dtype)
        grads = torch.autograd.grad((out * weights).sum(), list(leaves.values()))
        found.append({"value": out.detach(), **dict(zip(leaves, grads, strict=True))})
    return found


@pytest.mark.parametrize("fewer", [False, True])
@pytest.mark.parametrize("draws", [0, 3])
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("activation", ["relu", "silu", "tanh"])
def test_blocks_compute_what_all_members_at_once_do(
    small_blocks: list[int], activation: Any, layer_norm: bool, draws: int, fewer: bool
) -> None:
    torch.manual_seed(0)
    stack = shaken(StackedMLP(3, 5, (7, 6), 2, layer_norm=layer_norm, activation=activation).double())
    members = 2 if fewer else 3
    leaves: dict[str, Tensor] = {"x": torch.randn(members, 9, 3 if draws else 5).double().requires_grad_()}
    if draws:
        leaves["extra"] = torch.randn(members, draws * 9, 2).double().requires_grad_()
    parts = tuple(leaves.values())
    whole, blocked = both_ways(
        lambda many: stack(*parts, many=many) if draws else stack(parts[0], None, many),
        {**leaves, **dict(stack.named_parameters())},
    )
    assert small_blocks == [9 * (draws or 1)]
    for name, value in whole.items():
        torch.testing.assert_close(blocked[name], value, rtol=1e-10, atol=1e-12, msg=name)


def test_only_gradients_that_are_asked_for_are_computed(small_blocks: list[int]) -> None:
    stack = StackedMLP(2, 3, (4,), 1).requires_grad_(False)
    x = torch.randn(2, 9, 3).requires_grad_()
    stack(x, None, True).sum().backward()
    expected = x.grad
    assert all(parameter.grad is None for parameter in stack.parameters()) and expected is not None
    x.grad = None
    stack(x).sum().backward()
    assert x.grad is not None and torch.allclose(x.grad, expected)
    with torch.no_grad():
        assert not stack(x, None, True).requires_grad


def test_what_blocks_kept_is_let_go_once(small_blocks: list[int]) -> None:
    stack = StackedMLP(2, 3, (4,), 1)
    out = stack(torch.randn(2, 9, 3), None, True).sum()
    out.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second backward"):
        out.backward()


def test_few_rows_other_devices_and_autocast_go_as_before(small_blocks: list[int]) -> None:
    stack = StackedMLP(2, 3, (4,), 1)
    stack(torch.randn(2, 5, 3), None, True)
    assert not blocks.pays(torch.empty(2, 9, 3, device="meta"), 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        stack(torch.randn(2, 9, 3), None, True)
    assert small_blocks == []


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("centralised", [False, True])
def test_critics_judge_many_draws_of_own_and_joint_actions(
    small_blocks: list[int], centralised: bool, wide: bool, shared: bool, joint: bool
) -> None:
    torch.manual_seed(0)
    width = 130 if wide else 4
    critic = shaken(
        Critic(width, (5,), (2, 2), discrete=False, centralised=centralised, shared=shared, layer_norm=True).double()
    )
    features, recorded = torch.randn(3, 2, width).double().requires_grad_(), torch.randn(3, 2, 2).double()
    drawn = torch.randn(4, 3, 2, 2).double().requires_grad_()
    given = (drawn,) if joint else (recorded, drawn)
    whole = critic(features, *given)
    assert small_blocks == [24 if shared else 12]
    each = torch.stack([critic(features, *given[:-1], drawn[row]) for row in range(4)], dim=1)
    assert len(small_blocks) == 1, "rows of data alone are no draws"
    torch.testing.assert_close(whole, each, rtol=1e-10, atol=1e-12)
    leaves = [features, drawn, *critic.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad(whole.square().sum(), leaves), torch.autograd.grad(each.square().sum(), leaves), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_single_precision_differs_in_the_last_digits_only() -> None:
    """As many draws as conservative Q-learning has: 30 of 128 rows."""
    torch.manual_seed(0)
    stack = StackedMLP(2, 29, (256, 256), 1)
    x = torch.randn(2, 30 * 128, 29)
    found = []
    for many in (False, True):
        out = stack(x, None, many)
        grads = torch.autograd.grad(out.square().mean(), list(stack.parameters()))
        found.append((out.detach(), grads))
    (whole, whole_grads), (blocked, blocked_grads) = found
    assert not torch.equal(whole, blocked), "blocks were used"
    assert (whole - blocked).abs().max() <= 3e-7
    for ours, theirs in zip(blocked_grads, whole_grads, strict=True):
        assert (ours - theirs).abs().max() <= 6e-7


PEAK = """
import resource, sys, torch
from offline_marl.networks.ensembles import StackedMLP
torch.set_num_threads(1)
stack = StackedMLP(8, 29, (256, 256), 1)
x = torch.randn(8, 7680, 29)
for _ in range(2):
    stack(x, None, sys.argv[1] == "blocks").square().mean().backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts kilobytes as Linux does")
def test_blocks_need_less_memory() -> None:
    whole, blocked = (
        int(subprocess.run([sys.executable, "-c", PEAK, way], check=True, capture_output=True, text=True).stdout)
        for way in ("whole", "blocks")
    )
    assert blocked < whole - 60_000
