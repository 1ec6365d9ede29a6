from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from offline_marl.networks.recurrent import StackedGRU

MEMBERS, ROWS, TIME, FEATURES, WIDTH = 3, 4, 6, 5, 7


def stacked(members: int = MEMBERS, fan_in: list[int] | None = None) -> StackedGRU:
    torch.manual_seed(0)
    return StackedGRU(members, FEATURES, WIDTH, fan_in)


def cell(gru: StackedGRU, member: int) -> nn.GRUCell:
    """The ordinary cell with one member's weights."""
    plain = nn.GRUCell(FEATURES, WIDTH)
    with torch.no_grad():
        plain.weight_ih.copy_(gru.read.weight[member].t())
        plain.weight_hh.copy_(gru.recall.weight[member].t())
        plain.bias_ih.copy_(gru.read.bias[member, 0])
        plain.bias_hh.copy_(gru.recall.bias[member, 0])
    return plain


def unrolled(plain: nn.GRUCell, x: Tensor, state: Tensor) -> Tensor:
    """`row time width` of a loop over time."""
    states = []
    for step in range(x.shape[1]):
        state = plain(x[:, step], state)
        states.append(state)
    return torch.stack(states, 1)


def some_steps(members: int = MEMBERS, time: int = TIME) -> Tensor:
    return torch.randn(members, ROWS, time, FEATURES, generator=torch.Generator().manual_seed(1))


def some_state(members: int = MEMBERS) -> Tensor:
    return torch.randn(members, ROWS, WIDTH, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("members", [1, MEMBERS])
def test_each_member_equals_torchs_cell_forward_and_backward(members: int, begun: bool) -> None:
    gru, x = stacked(members), some_steps(members).requires_grad_()
    state = some_state(members).requires_grad_() if begun else None
    weight = torch.randn(members, ROWS, TIME, WIDTH)
    outputs, last = gru(x, state)
    (outputs * weight).sum().backward()
    assert outputs.shape == weight.shape and torch.equal(last, outputs[:, :, -1])
    for member in range(members):
        plain = cell(gru, member)
        row = x[member].detach().clone().requires_grad_()
        first = torch.zeros(ROWS, WIDTH) if state is None else state[member].detach().clone().requires_grad_()
        expected = unrolled(plain, row, first)
        (expected * weight[member]).sum().backward()
        torch.testing.assert_close(outputs[member], expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(x.grad[member], row.grad, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(gru.read.weight.grad[member].t(), plain.weight_ih.grad, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(gru.recall.weight.grad[member].t(), plain.weight_hh.grad, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(gru.read.bias.grad[member, 0], plain.bias_ih.grad, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(gru.recall.bias.grad[member, 0], plain.bias_hh.grad, atol=1e-5, rtol=1e-4)
        if state is not None:
            torch.testing.assert_close(state.grad[member], first.grad, atol=1e-5, rtol=1e-4)


def test_equals_torchs_gru_over_a_sequence() -> None:
    gru, x = stacked(1), some_steps(1)
    plain = nn.GRU(FEATURES, WIDTH, batch_first=True)
    with torch.no_grad():
        for name, value in cell(gru, 0).named_parameters():
            getattr(plain, f"{name}_l0").copy_(value)
    expected, last = plain(x[0], some_state(1))
    outputs, state = gru(x, some_state(1))
    torch.testing.assert_close(outputs[0], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(state, last, atol=1e-6, rtol=0)


def test_the_last_state_and_single_steps_are_those_of_the_whole_sequence() -> None:
    gru, x = stacked(), some_steps()
    outputs, last = gru(x)
    assert torch.equal(gru.last(x), last)
    state = None
    for step in range(TIME):
        state = gru.step(x[:, :, step], state)
        torch.testing.assert_close(state, outputs[:, :, step], atol=1e-6, rtol=0)
    half, middle = gru(x[:, :, :2])
    rest, end = gru(x[:, :, 2:], middle)
    torch.testing.assert_close(torch.cat([half, rest], 2), outputs, atol=1e-6, rtol=0)
    torch.testing.assert_close(end, last, atol=1e-6, rtol=0)


def test_an_episode_is_the_same_alone_and_inside_a_longer_segment() -> None:
    gru, x = stacked(), some_steps(time=12)
    begins = [0, 3, 5, 9]  # per row, where the second episode begins in the segment
    reset = torch.zeros(ROWS, 12, dtype=torch.bool)
    for row, begin in enumerate(begins):
        reset[row, begin] = True
    outputs, _ = gru(x, some_state(), reset=reset)
    for row, begin in enumerate(begins):
        alone, _ = gru(x[:, row : row + 1, begin:])
        torch.testing.assert_close(outputs[:, row : row + 1, begin:], alone, atol=1e-6, rtol=0)
        if begin:
            before, _ = gru(x[:, row : row + 1, :begin], some_state()[:, row : row + 1])
            torch.testing.assert_close(outputs[:, row : row + 1, :begin], before, atol=1e-6, rtol=0)


def test_no_gradient_crosses_a_reset() -> None:
    gru, x = stacked(), some_steps().requires_grad_()
    reset = torch.zeros(ROWS, TIME, dtype=torch.bool)
    reset[:, 3] = True
    gru.last(x, reset=reset).sum().backward()
    assert bool(x.grad[:, :, :3].eq(0).all()) and bool(x.grad[:, :, 3:].ne(0).any(-1).all())


@pytest.mark.parametrize("per_member", [False, True])
def test_masks_may_differ_between_members(per_member: bool) -> None:
    gru, x = stacked(), some_steps()
    draws = torch.Generator().manual_seed(3)
    shape = (MEMBERS, ROWS, TIME) if per_member else (ROWS, TIME)
    reset, skip = (torch.rand(shape, generator=draws) < 0.4 for _ in range(2))
    outputs, _ = gru(x, some_state(), reset=reset, skip=skip)
    for member in range(MEMBERS):
        for row in range(ROWS):
            state = some_state()[member, row]
            for step in range(TIME):
                at = (member, row, step) if per_member else (row, step)
                state = torch.zeros_like(state) if reset[at] else state
                state = state if skip[at] else cell(gru, member)(x[member, row, step], state)
                torch.testing.assert_close(outputs[member, row, step], state, atol=1e-6, rtol=0)


def test_skipped_steps_leave_the_state_to_the_bit_and_take_no_gradient() -> None:
    gru, x, state = stacked(), (some_steps() * 100).requires_grad_(), some_state()
    skip = torch.ones(ROWS, TIME, dtype=torch.bool)
    outputs, last = gru(x, state, skip=skip)
    assert torch.equal(last, state) and torch.equal(outputs, state.unsqueeze(2).expand_as(outputs))
    assert bool(gru.last(x, skip=skip).eq(0).all()), "from zeros it stays zero"
    outputs.sum().backward()
    assert bool(x.grad.eq(0).all()) and bool(gru.recall.weight.grad.eq(0).all())


def test_padded_inputs_change_nothing_and_get_no_gradient() -> None:
    widths = [5, 2, 3]
    gru, x = stacked(fan_in=widths), some_steps()
    for member, width in enumerate(widths):
        x[member, ..., width:] = 0.0
    before, last = gru(x)
    last.sum().backward()
    with torch.no_grad():
        for member, width in enumerate(widths):
            assert bool(gru.read.weight.grad[member, width:].eq(0).all())
            assert bool(gru.read.weight.grad[member, :width].ne(0).any())
            gru.read.weight[member, width:] = 1e6
    assert torch.equal(gru(x)[0], before)


def test_the_initial_spread_is_that_of_the_true_fan_in() -> None:
    torch.manual_seed(0)
    gru = StackedGRU(2, 100, 64, fan_in=[100, 4])
    for member, bound in enumerate((0.1, 0.5)):
        assert 0.95 * bound < float(gru.read.weight[member].detach().abs().max()) <= bound
        # Of a recurrent product the inputs are the state's 64 numbers.
        assert 0.95 / 8 < float(gru.recall.weight[member].detach().abs().max()) <= 1 / 8


def test_of_fewer_rows_of_members_the_first_serve() -> None:
    gru, x = stacked(), some_steps()
    torch.testing.assert_close(gru(x[:2])[0], gru(x)[0][:2], atol=1e-6, rtol=0)
