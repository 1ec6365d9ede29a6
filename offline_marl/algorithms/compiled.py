"""Updates whose losses and gradients are compiled code, made by `torch.compile` from one traced update.

Losses and their gradients are traced once for each form of an update, as operations on parameters, rows and draws; an
operation that would wait for the host cannot be traced. Draws are made before, by the learner's own generator, so that
they are those of an update that is not compiled. Clipping, Adam and targets stay as they are. Nothing differs but
rounding: compiled sums are taken in another order.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from offline_marl.algorithms.base import Algorithm
from offline_marl.algorithms.descent import DescentAlgorithm, Terms
from offline_marl.core.errors import BadInputError, WorkError
from offline_marl.core.types import Batch, Metrics
from offline_marl.networks.blocks import all_rows_at_once

DRAWS = ("normal", "normal_like", "uniform")
"""Methods by which learners draw within their losses."""


class NotCompiledError(BadInputError, RuntimeError):
    """An update that cannot be compiled; the message is one sentence."""


class CompilerError(WorkError, RuntimeError):
    """The compiler failed here; the message is one sentence."""


def compilable(name: str, learner: Algorithm, graphs: bool = False) -> DescentAlgorithm:
    """The learner as one whose update can be compiled on its device.

    Args:
        name: Registry name, for the sentence.
        learner: On the device where it learns.
        graphs: Whether compiled code is to be replayed as CUDA graphs.

    Raises:
        NotCompiledError: It cannot; one sentence says why.
    """
    if not isinstance(learner, DescentAlgorithm):
        raise NotCompiledError(
            f"--compile needs updates whose losses are all taken at the same parameters, and {name} steps in between: "
            "leave it out."
        )
    device, compiler = learner.best.device.type, os.environ.get("CXX", "g++")
    if graphs and device != "cuda":
        raise NotCompiledError(f"--cuda-graphs needs a GPU, and this run computes on {device}: leave it out.")
    if device == "cpu" and shutil.which(compiler) is None:
        raise NotCompiledError(
            f"--compile needs a C++ compiler, and {compiler} is not installed here: install it, or leave it out."
        )
    return learner


def compile_module(module: nn.Module, graphs: bool) -> Callable[..., Any]:
    """Fast code of a traced module, which is compiled when first called; as CUDA graphs if asked for."""
    compiled: Callable[..., Any] = torch.compile(
        module, fullgraph=True, dynamic=False, mode="reduce-overhead" if graphs else None
    )
    return compiled


class CompiledUpdate:
    """The update of a learner, its losses and gradients compiled; to be called in place of `learner.update`.

    Args:
        learner: Where it learns; see `compilable`.
        graphs: Whether to replay compiled code as CUDA graphs.
    """

    def __init__(self, learner: DescentAlgorithm, graphs: bool = False) -> None:
        self.learner, self.graphs = learner, graphs
        self._forms: dict[Any, _Form] = {}

    def __call__(self, batch: Batch) -> Metrics:
        """One update.

        Raises:
            CompilerError: The code of a form that comes for the first time cannot be compiled.
        """
        learner, rows = self.learner, _rows(batch)
        if self.graphs:
            # What the last update answered is not needed any more.
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        key = (learner.form(), *((name, value.shape, value.dtype) for name, value in rows.items()))
        if key in self._forms:
            form = self._forms[key]
            gradients, metrics = form.run(learner, rows)
        else:
            with _compiler_errors():
                traced = trace(learner, batch)
                form = _Form(traced, compile_module(traced.module, self.graphs))
                gradients, metrics = form.run(learner, rows)
            self._forms[key] = form
        for name in form.traced.stepped:
            for group in learner.optimizers[name].param_groups:
                for parameter in group["params"]:
                    parameter.grad = gradients.get(parameter)
                learner.clip_gradients(group["params"])
            learner.step_optimizer(name)
        return learner.conclude(metrics)


@dataclass(frozen=True, slots=True)
class Draw:
    """One draw of an update: which method of the learner makes it, and of what."""

    method: str
    arguments: tuple[Any, ...]

    def made_by(self, learner: Algorithm) -> Tensor:
        """The numbers, drawn by the learner's generator."""
        drawn: Tensor = getattr(learner, self.method)(*self.arguments)
        return drawn


@dataclass(frozen=True, slots=True)
class Traced:
    """One form of an update as a module of tensors: parameters, buffers, rows and draws to gradients and metrics."""

    module: torch.fx.GraphModule
    draws: tuple[Draw, ...]
    reached: tuple[str, ...]
    """Parameters that have a gradient, by name."""
    metrics: tuple[str, ...]
    stepped: tuple[str, ...]
    """Optimisers that step, in this order."""


@dataclass(frozen=True, slots=True)
class _Form:
    traced: Traced
    compiled: Callable[..., Any]

    @torch.no_grad()
    def run(self, learner: Algorithm, rows: dict[str, Tensor]) -> tuple[dict[nn.Parameter, Tensor], Metrics]:
        """Gradients by parameter, and metrics, of these rows."""
        drawn = [draw.made_by(learner) for draw in self.traced.draws]
        out = self.compiled(*_state(learner).values(), *rows.values(), *drawn)
        parameters, reached = dict(learner.named_parameters()), self.traced.reached
        gradients = {parameters[name]: value for name, value in zip(reached, out, strict=False)}
        metrics = zip(self.traced.metrics, out[len(reached) :], strict=True)
        # Copied: where graphs are replayed, the next update writes into the same memory.
        return gradients, {name: value.clone() for name, value in metrics}


def trace(learner: DescentAlgorithm, batch: Batch) -> Traced:
    """Trace losses and gradients of the learner's next update; the learner stays as it is.

    Args:
        learner: Its parameters are given to the module at each call.
        batch: Rows of the shape that the module will be given.

    Raises:
        torch._subclasses.fake_tensor.DataDependentOutputException: An operation waits for the host.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    state, rows = _state(learner), _rows(batch)
    holder, told = _Losses(learner), dict[str, Any]()

    def compute(*tensors: Tensor) -> list[Tensor]:
        values = dict(zip(state, tensors, strict=False))
        given = dict(zip(rows, tensors[len(state) :], strict=False))
        drawn = tensors[len(state) + len(rows) :]
        with _drawing(learner, _Given(drawn)), all_rows_at_once():
            terms = holder.call(values, Batch(**given))
        gradients = _gradients(learner, values, terms)
        told.update(reached=tuple(gradients), metrics=tuple(terms.metrics), stepped=tuple(terms.losses))
        return [*gradients.values(), *(value.detach() for value in terms.metrics.values())]

    noted = _Noted(learner)
    before = learner.generator.get_state()
    with _drawing(learner, noted), torch.enable_grad(), all_rows_at_once():
        holder.call({name: value.clone() for name, value in state.items()}, batch)
    learner.generator.set_state(before)
    learning = {name for name, parameter in learner.named_parameters() if parameter.requires_grad}
    examples = [value.detach().clone().requires_grad_(name in learning) for name, value in state.items()]
    with torch.enable_grad():
        module = make_fx(compute, tracing_mode="fake")(*examples, *rows.values(), *noted.drawn)
    return Traced(module, tuple(noted.draws), **told)


def _gradients(learner: DescentAlgorithm, values: dict[str, Tensor], terms: Terms) -> dict[str, Tensor]:
    """Gradients by the parameters' names, each of the loss that its optimiser descends."""
    names = {parameter: name for name, parameter in learner.named_parameters()}
    found: dict[str, Tensor] = {}
    for name, loss in terms.losses.items():
        mine = [names[p] for group in learner.optimizers[name].param_groups for p in group["params"]]
        slopes = torch.autograd.grad(loss, [values[one] for one in mine], retain_graph=True, allow_unused=True)
        # As the parameters lie in memory: Adam's kernel reads it as it lies.
        found |= {one: slope.contiguous() for one, slope in zip(mine, slopes, strict=True) if slope is not None}
    return found


class _Losses(nn.Module):
    """A learner's losses as a module's call, so that they can be asked at other parameters."""

    def __init__(self, learner: DescentAlgorithm) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, batch: Batch) -> Terms:
        return self.learner.losses(batch)

    def call(self, values: dict[str, Tensor], batch: Batch) -> Terms:
        """The losses at these parameters and buffers."""
        named = {f"learner.{name}": value for name, value in values.items()}
        terms: Terms = torch.func.functional_call(self, named, (batch,))
        return terms


class _Noted:
    """Draws that are made, and noted."""

    def __init__(self, learner: Algorithm) -> None:
        self.draws: list[Draw] = []
        self.drawn: list[Tensor] = []
        self._methods = {name: getattr(learner, name, None) for name in DRAWS}

    def __call__(self, method: str, *arguments: Any) -> Tensor:
        if method == "normal_like":
            # Only how it lies matters, not what it holds.
            like = arguments[0]
            arguments = (torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=like.device),)
        draw = self._methods[method]
        assert draw is not None
        self.draws.append(Draw(method, arguments))
        self.drawn.append(draw(*arguments))
        return self.drawn[-1]


class _Given:
    """Draws that were made before, in the same order."""

    def __init__(self, drawn: Sequence[Tensor]) -> None:
        self._left = iter(drawn)

    def __call__(self, method: str, *arguments: Any) -> Tensor:
        return next(self._left)


@contextlib.contextmanager
def _drawing(learner: Algorithm, draw: Callable[..., Tensor]) -> Iterator[None]:
    """Let the learner's draws be made by `draw`, which is told the method."""

    def drawer(method: str) -> Callable[..., Tensor]:
        def made(*arguments: Any, **named: Any) -> Tensor:
            return draw(method, *arguments, *named.values())

        return made

    for name in DRAWS:
        learner.__dict__[name] = drawer(name)
    try:
        yield
    finally:
        for name in DRAWS:
            learner.__dict__.pop(name, None)


@contextlib.contextmanager
def _compiler_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("torch."):
            raise
        what = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise CompilerError(f"torch.compile cannot make code for this update here: {what}.") from error


def _state(learner: Algorithm) -> dict[str, Tensor]:
    return {**dict(learner.named_parameters()), **dict(learner.named_buffers())}


def _rows(batch: Batch) -> dict[str, Tensor]:
    named = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return {name: value for name, value in named.items() if value is not None}
