from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import torch
from torch import Tensor

from offline_marl.core.axes import AxisError, PerAgent, axes_of, axes_of_fields, bind, check_fields, checked


@dataclass
class Pair:
    left: Annotated[Tensor, "*lead agent obs"]
    right: PerAgent
    extra: Annotated[Tensor, "*lead"] | None = None
    free: Tensor | None = None


@checked
def scaled(values: PerAgent, weights: PerAgent, factor: float = 1.0) -> PerAgent:
    return values * weights * factor


@checked
def summed(values: PerAgent) -> PerAgent:
    return values.sum(-1)


def test_axes_are_read_from_the_type_also_where_it_is_optional() -> None:
    assert axes_of(Annotated[Tensor, "batch agent"]) == ("batch", "agent")
    assert axes_of(Annotated[Tensor, "batch agent"] | None) == ("batch", "agent")
    assert axes_of(Tensor) is None
    assert axes_of(Annotated[float, "a note"]) is None
    assert set(axes_of_fields(Pair)) == {"left", "right", "extra"}


def test_a_record_that_agrees_teaches_the_length_of_each_axis() -> None:
    record = Pair(torch.zeros(5, 7, 2, 3), torch.zeros(5, 7, 2), torch.zeros(5, 7), torch.zeros(99))
    assert check_fields(record) == {"*lead": (5, 7), "agent": 2, "obs": 3}


@pytest.mark.parametrize(
    ("right", "extra", "named"),
    [
        (torch.zeros(5, 3), None, "right .*'agent' should have length 2"),
        (torch.zeros(4, 2), None, r"right .*leading axes should be \(5,\)"),
        (torch.zeros(5, 2, 1), None, "right"),
        (torch.zeros(5, 2), torch.zeros(5, 1), "extra"),
    ],
)
def test_a_field_that_disagrees_is_named(right: Tensor, extra: Tensor | None, named: str) -> None:
    with pytest.raises(AxisError, match=named):
        check_fields(Pair(torch.zeros(5, 2, 3), right, extra))


def test_too_few_axes_and_too_many_are_refused() -> None:
    with pytest.raises(AxisError, match=r"x has shape \(2,\), but its axes are 'batch agent'"):
        bind("x", (2,), ("batch", "agent"), {})
    with pytest.raises(AxisError, match="x has shape"):
        bind("x", (2, 3, 4), ("batch", "agent"), {})
    with pytest.raises(AxisError, match="x has shape"):
        bind("x", (2,), ("*lead", "agent", "obs"), {})


def test_a_name_used_twice_in_one_tensor_means_one_length() -> None:
    bind("square", (3, 3), ("agent", "agent"), {})
    with pytest.raises(AxisError, match="square"):
        bind("square", (3, 4), ("agent", "agent"), {})


def test_a_checked_function_computes_what_it_did() -> None:
    result = scaled(torch.tensor([[1.0, 2.0]]), weights=torch.tensor([[3.0, 4.0]]), factor=2.0)
    assert result.tolist() == [[6.0, 16.0]]
    assert scaled.__name__ == "scaled"


def test_a_checked_function_refuses_what_would_broadcast() -> None:
    with pytest.raises(AxisError, match=r"scaled\(weights\)"):
        scaled(torch.zeros(5, 2), torch.zeros(5, 1))
    with pytest.raises(AxisError, match=r"scaled\(weights\)"):
        scaled(torch.zeros(5, 2), weights=torch.zeros(5, 2, 1))


def test_a_checked_function_answers_for_its_result() -> None:
    with pytest.raises(AxisError, match="the result of summed"):
        summed(torch.zeros(5, 2))
