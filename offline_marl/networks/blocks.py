"""Stacked perceptrons over many rows, member by member in blocks of rows that fit a processor's cache.

All members at once stream every layer's activations through memory. Here a block of rows passes through all layers
while it is hot, forwards and backwards, and gradients of weights are summed in place. The function is that of
`ensembles.StackedMLP`; sums are taken in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

MemberRows = Annotated[Tensor, "member row feature"]

ROWS = 512
"""Rows of a block for each thread: 256 columns of them, before and after a layer, take 1 MB beside the weights."""
WORTHWHILE = 2_048
"""Rows from which on blocks are quicker than all members at once."""
EPSILON = 1e-5
"""Of layer normalisation, as `torch.nn.functional.layer_norm` has it."""
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_,
    "silu": torch.nn.functional.silu,
    "tanh": torch.tanh_,
}


@dataclass(slots=True)
class Layer:
    """Parameters of one layer, or their gradients, `member ...`; scale and shift where it normalises."""

    weight: Any = None
    bias: Any = None
    scale: Any = None
    shift: Any = None

    def of(self, member: int) -> Layer:
        """Those of one member."""
        return Layer(
            *(None if tensor is None else tensor[member] for tensor in (self.weight, self.bias, self.scale, self.shift))
        )


class Kept(NamedTuple):
    """Activations that a block keeps of one layer for its backward pass."""

    read: Tensor
    """What the product read."""
    activation: Tensor | None = None
    """What the slope of the activation is taken of."""
    normal: Tensor | None = None
    """Normalised rows before scale and shift."""
    rate: Tensor | None = None
    """1 over each row's deviation."""


class Piece(NamedTuple):
    """One block of one member."""

    member: int
    rows: slice
    shared: slice
    """Its rows of `x`, which serve several blocks where `extra` has more."""


@dataclass(slots=True)
class Work:
    """How the rows are worked through, and what the way back needs of each piece."""

    activation: str
    size: int
    """Rows of a block."""
    keep: bool
    kept: list[list[Kept]] = field(default_factory=list)


_unbroken: ContextVar[bool] = ContextVar("unbroken", default=False)


@contextmanager
def all_rows_at_once() -> Iterator[None]:
    """Make no blocks within, such as where code is traced to be compiled, which lays out its own loops."""
    token = _unbroken.set(True)
    try:
        yield
    finally:
        _unbroken.reset(token)


def pays(x: MemberRows, rows: int) -> bool:
    """Whether blocks are quicker: on a processor with a cache, of many rows, outside of compiled code and autocast."""
    return (
        rows >= WORTHWHILE
        and not _unbroken.get()
        and x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
    )


def run(
    layers: Sequence[Layer],
    activation: str,
    x: MemberRows,
    extra: Annotated[Tensor, "member more*row extra"] | None = None,
) -> MemberRows:
    """Map `member row in` to `member row out`.

    Args:
        layers: The last one has no activation behind it.
        activation: `relu`, `silu` or `tanh`.
        x: The input of the first members, all of them or fewer.
        extra: Its last columns, if they come in several blocks for the same rows of `x`.
    """
    inputs = [x, extra, *(p for layer in layers for p in (layer.weight, layer.bias, layer.scale, layer.shift))]
    keep = torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in inputs)
    out: Tensor = _Blocks.apply(Work(activation, ROWS * torch.get_num_threads(), keep), *inputs)  # type: ignore[no-untyped-call]
    return out


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, work: Work, x: Tensor, extra: Tensor | None, *parameters: Tensor | None) -> Tensor:
        *hidden, last = _layers(parameters)
        members, shared = x.shape[:2]
        rows = shared if extra is None else extra.shape[1]
        out = x.new_empty(members, rows, last.weight.shape[-1])
        for piece in _pieces(members, shared, rows, work.size):
            read = x[piece.member, piece.shared]
            if extra is not None:
                read = torch.cat([read, extra[piece.member, piece.rows]], dim=-1)
            block = []
            for layer in hidden:
                read, kept = _forward(layer.of(piece.member), read, work.activation)
                block.append(kept)
            own = last.of(piece.member)
            torch.addmm(own.bias, read, own.weight, out=out[piece.member, piece.rows])
            if work.keep:
                work.kept.append([*block, Kept(read)])
        ctx.work, ctx.counts, ctx.width = work, (members, shared, rows), x.shape[-1]
        ctx.save_for_backward(*parameters)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        work: Work = ctx.work
        if not work.kept:
            raise RuntimeError("Blocks are let go on their way back: a second backward needs another forward.")
        blocks, work.kept = work.kept[::-1], []
        parameters, (_, of_x, of_extra, *wanted) = ctx.saved_tensors, ctx.needs_input_grad
        layers = _layers(parameters)
        slopes = [torch.zeros_like(p) if needed else None for p, needed in zip(parameters, wanted, strict=True)]
        members, shared, rows = ctx.counts
        grad_x = grad.new_zeros(members, shared, ctx.width) if of_x else None
        grad_extra = grad.new_empty(members, rows, layers[0].weight.shape[1] - ctx.width) if of_extra else None
        for piece in _pieces(members, shared, rows, work.size):
            g = grad[piece.member, piece.rows]
            own = [
                (layer.of(piece.member), slope.of(piece.member))
                for layer, slope in zip(layers, _layers(slopes), strict=True)
            ]
            # What a block kept is let go as soon as its gradient is known.
            for depth, kept in reversed(list(enumerate(blocks.pop()))):
                layer, slope = own[depth]
                if depth < len(layers) - 1:
                    g = _before_activation(g @ own[depth + 1][0].weight.t(), kept, layer, slope, work.activation)
                _add_product(slope, kept.read, g)
            if grad_x is not None:
                grad_x[piece.member, piece.shared].addmm_(g, own[0][0].weight[: ctx.width].t())
            if grad_extra is not None:
                grad_extra[piece.member, piece.rows] = g @ own[0][0].weight[ctx.width :].t()
        return None, grad_x, grad_extra, *slopes


def _layers(parameters: Sequence[Tensor | None]) -> list[Layer]:
    return [Layer(*parameters[index : index + 4]) for index in range(0, len(parameters), 4)]


def _pieces(members: int, shared: int, rows: int, size: int) -> Iterator[Piece]:
    for member in range(members):
        for first in range(0, rows, shared):
            for begin in range(0, shared, size):
                end = min(begin + size, shared)
                yield Piece(member, slice(first + begin, first + end), slice(begin, end))


def _forward(layer: Layer, read: Tensor, activation: str) -> tuple[Tensor, Kept]:
    out = torch.addmm(layer.bias, read, layer.weight)
    normal = rate = None
    if layer.scale is not None:
        normal, _, rate = torch.native_layer_norm(out, out.shape[-1:], None, None, EPSILON)
        out = torch.addcmul(layer.shift, normal, layer.scale)
    after = ACTIVATIONS[activation](out)  # in place, but for silu, whose slope is that of its input
    return after, Kept(read, out, normal, rate)


def _before_activation(g: Tensor, kept: Kept, layer: Layer, slope: Layer, activation: str) -> Tensor:
    """The gradient of a layer's product from that of what its activation answered."""
    aten = torch.ops.aten
    if activation == "relu":
        g = aten.threshold_backward(g, kept.activation, 0)
    else:
        g = (aten.tanh_backward if activation == "tanh" else aten.silu_backward)(g, kept.activation)
    if kept.normal is None or kept.rate is None:
        return g
    if slope.scale is not None:
        slope.scale.add_((g * kept.normal).sum(0))
    if slope.shift is not None:
        slope.shift.add_(g.sum(0))
    g = g * layer.scale
    centred = g - g.mean(-1, keepdim=True) - kept.normal * (g * kept.normal).mean(-1, keepdim=True)
    return centred * kept.rate


def _add_product(slope: Layer, read: Tensor, g: Tensor) -> None:
    if slope.weight is not None:
        slope.weight.addmm_(read.t(), g)
    if slope.bias is not None:
        slope.bias.add_(g.sum(0))
