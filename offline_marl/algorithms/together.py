"""Several learners of one kind as one whose agents are all of theirs, side by side in the same products.

Their runs differ by the seed alone. No loss reads another learner's agents, draws come from each learner's own
generator, means are each learner's own, Adam works entry by entry and gradients are clipped learner by learner: so
each learns what it would have learnt alone. It is so to the bit but where a kernel rounds by where an entry lies: last
entries of a tensor that fill no vector register (tanh, exp), and sums over the actions of a team of one agent.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from offline_marl.algorithms.base import Algorithm, AlgorithmConfig
from offline_marl.algorithms.split import BY_AGENT, OF_TEAM, IndependentAlgorithm
from offline_marl.core.adam import FusedAdam
from offline_marl.core.axes import PerTeam
from offline_marl.core.types import Batch, DataError, Metrics
from offline_marl.networks.ensembles import MemberRows, StackedLinear, StackedMLP

M = TypeVar("M", bound=nn.Module)


LANES = 16
"""Entries that vector instructions take at a time, at most; Adam's kernel rounds what is left over differently."""


def refuse_together(name: str, kind: type[Algorithm], config: AlgorithmConfig) -> None:
    """Make sure that learners of this kind and these settings can learn side by side.

    Args:
        name: Registry name, for the sentence.
        kind: Their class.
        config: Their settings.

    Raises:
        DataError: They cannot; one sentence says why.
    """
    advice = "give each --seed a run of its own."
    if not issubclass(kind, IndependentAlgorithm):
        raise DataError(
            f"{name} computes losses of the whole team, and --seeds lays agents of several teams side by side: {advice}"
        )
    if config.share_parameters:
        raise DataError(f"With share_parameters {name} has no members to lay side by side for --seeds: {advice}")
    coupling = kind.couples_agents(config)
    if coupling:
        raise DataError(
            f"With {coupling} {name} weighs its agents against each other, which --seeds cannot do: {advice}"
        )


class Together(IndependentAlgorithm):
    """Mixin of the joined learner's class: each learner's draws, means and clipping are its own."""

    _learners: tuple[IndependentAlgorithm, ...]

    @property
    def team(self) -> int:
        """Agents of one learner."""
        return self.spec.n_agents

    def normal(self, shape: Sequence[int], std: float = 1.0) -> Tensor:
        """Normal numbers `... agent width`, those of each learner's agents from its own generator."""
        return self._drawn(lambda part: part.normal(self._of_one(shape), std))

    def normal_like(self, means: Tensor) -> Tensor:
        """Standard normal numbers for what a policy network answered."""
        parts = torch.unflatten(means, -2, (-1, self.team)).unbind(-3)
        drawn = [one.normal_like(part) for one, part in zip(self._learners, parts, strict=True)]
        return torch.cat(drawn, dim=-2)

    def uniform(self, shape: Sequence[int], low: float, high: float) -> Tensor:
        """Uniform numbers, as `normal`."""
        return self._drawn(lambda part: part.uniform(self._of_one(shape), low, high))

    def mean(self, values: PerTeam, batch: Batch) -> Tensor:
        """Mean over each learner's entries that count, `learner`."""
        if batch.mask is None:
            return self._flat(values).mean(1)
        weights = batch.mask.expand_as(values)
        return self._flat(values.masked_fill(~weights, 0.0)).sum(1) / self._flat(weights).sum(1).clamp(min=1)

    def descend(self, loss: Tensor, name: str = "") -> None:
        """One step of all learners' modules down their losses."""
        super().descend(loss.sum(), name)

    @torch.no_grad()
    def clip_gradients(self, module: Sequence[nn.Parameter]) -> None:
        """Shrink each learner's gradient of one module to a norm of at most `grad_clip`."""
        grads = [self._apart(parameter.grad) for parameter in module if parameter.grad is not None]
        if not (self.grad_clip and grads):
            return
        rows = [row for grad in grads for row in grad.movedim(1, 0).reshape(len(self._learners), -1).unbind(0)]
        norms = torch.stack(torch._foreach_norm(rows)).view(len(grads), -1).t().contiguous()
        shares = (self.grad_clip / (torch.linalg.vector_norm(norms, dim=1) + 1e-6)).clamp(max=1.0)
        for grad in grads:
            grad.mul_(shares.view(1, -1, *[1] * (grad.dim() - 2)))

    def _drawn(self, draw: Callable[[IndependentAlgorithm], Tensor]) -> Tensor:
        return torch.cat([draw(one) for one in self._learners], dim=-2)

    def _of_one(self, shape: Sequence[int]) -> tuple[int, ...]:
        return (*shape[:-2], self.team, shape[-1])

    def _flat(self, values: Tensor) -> Tensor:
        """A row for each learner, its entries in the order in which they would lie in memory if it were alone."""
        apart = torch.unflatten(values, -1, (-1, self.team)).movedim(-2, 0)
        strides = apart.stride()
        order = sorted(range(1, apart.dim()), key=lambda axis: -strides[axis])
        return apart.permute(0, *order).flatten(1)

    def _apart(self, members: Tensor) -> Tensor:
        """What is stacked member by member, `copy learner agent ...`."""
        return torch.unflatten(members, 0, (-1, len(self._learners), self.team))


class TogetherAdam(FusedAdam):
    """`FusedAdam` that rounds every entry as the optimiser of its learner alone would.

    The kernel rounds the last entries of a tensor otherwise than those that fill vector registers. So each learner's
    part of a parameter goes to it as a tensor of its own, unless all parts fill registers.

    Args:
        groups: Parameters, stacked `copy learner agent ...`.
        learners: How many there are.
        settings: Of `FusedAdam`.
    """

    def __init__(self, groups: list[dict[str, Any]], learners: int, n_agents: int, **settings: Any) -> None:
        super().__init__(groups, **settings)
        self.learners, self.n_agents = learners, n_agents

    def _call_kernel(self, group: dict[str, Any], params: Any, grads: Any, states: list[dict[str, Tensor]]) -> None:
        rows: list[Tensor] = []
        row_grads: list[Tensor] = []
        row_states: list[dict[str, Tensor]] = []
        moved: list[tuple[Tensor, Tensor]] = []

        def apart(value: Tensor) -> Tensor:
            return torch.unflatten(value, 0, (-1, self.learners, self.n_agents)).movedim(1, 0)

        def flat(view: Tensor) -> Tensor:
            # The kernel reads memory as it lies, whatever the strides.
            return view.reshape(self.learners, -1).contiguous()

        for parameter, grad, state in zip(params, grads, states, strict=True):
            if parameter.numel() // self.learners % LANES == 0:
                rows, row_grads, row_states = [*rows, parameter], [*row_grads, grad], [*row_states, state]
                continue
            views = [apart(value) for value in (parameter, *(state[name] for name in state if name != "step"))]
            flats = [flat(view) for view in views]
            # Copies of networks lie between learners: then `flat` has made a copy, to be written back.
            moved += [(view, own) for view, own in zip(views, flats, strict=True) if view.data_ptr() != own.data_ptr()]
            names = [name for name in state if name != "step"]
            columns = [own.unbind(0) for own in flats]
            rows += columns[0]
            row_grads += flat(apart(grad)).unbind(0)
            for values in zip(*columns[1:], strict=True):
                row_states.append({"step": state["step"], **dict(zip(names, values, strict=True))})
        super()._call_kernel(group, rows, row_grads, row_states)
        for view, own in moved:
            view.copy_(own.view_as(view))


class _OwnBias(StackedLinear):
    """Last layer of joined networks: gradients of biases are summed learner by learner.

    Where one row's answers of all members lie side by side, the order of a sum over rows depends on how many they are.
    """

    learners: int
    n_agents: int

    def forward(self, x: MemberRows) -> MemberRows:
        if len(x) != len(self.weight) or not self.bias.requires_grad:
            return super().forward(x)
        out = torch.baddbmm(self.bias.detach(), x, self.weight)
        summed: MemberRows = _BiasGradient.apply(out, self.bias, self.learners, self.n_agents)  # type: ignore[no-untyped-call]
        return summed


class _BiasGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, out: Tensor, bias: Tensor, learners: int, n_agents: int) -> Tensor:
        ctx.learners, ctx.n_agents = learners, n_agents
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        parts = torch.unflatten(grad, 0, (-1, ctx.learners, ctx.n_agents)).unbind(1)
        sums = torch.stack([part.sum(2, keepdim=True) for part in parts], dim=1)
        return grad, sums.flatten(0, 2), None, None


def join(learners: Sequence[Algorithm]) -> Together:
    """The learner of all these learners' agents, standing where they stand.

    Args:
        learners: Of one class and one config, each after as many updates; see `refuse_together`.
    """
    first = learners[0]
    whole = cast(Together, _joined(list(learners), first.spec.n_agents))
    whole.__class__ = type(f"{type(first).__name__}Together", (Together, type(first)), {})
    whole._learners = tuple(cast(Sequence[IndependentAlgorithm], learners))
    for module in whole.modules():
        if isinstance(module, StackedMLP):
            last = cast(_OwnBias, module.layers[-1])
            last.__class__ = _OwnBias
            last.learners, last.n_agents = len(learners), first.spec.n_agents
    whole._schedules = copy.deepcopy(first._schedules)
    whole.optimizers = {name: _joined_optimizer(whole, name) for name in first.optimizers}
    return whole


@torch.no_grad()
def part(whole: Together) -> None:
    """Give every learner what the joined one has learnt: parameters, buffers, optimisers and counts."""
    for index, one in enumerate(whole._learners):
        for mine, its in _pairs(whole, one):
            its.copy_(whole._apart(mine)[:, index].flatten(0, 1))
        for stack, single in zip(whole.buffers(), one.buffers(), strict=True):
            if single.dim() == 0:
                single.copy_(stack[index])
        one.updates, one._schedules = whole.updates, copy.deepcopy(whole._schedules)
        for name, optimizer in whole.optimizers.items():
            for ours, theirs in _groups(optimizer, one.optimizers[name]):
                state = optimizer.state.get(ours)
                if state:
                    one.optimizers[name].state[theirs] = {
                        key: value.clone() if value.dim() == 0 else whole._apart(value)[:, index].flatten(0, 1).clone()
                        for key, value in state.items()
                    }
            for group, of_one in zip(optimizer.param_groups, one.optimizers[name].param_groups, strict=True):
                of_one["lr"] = group["lr"]


def beside(batch: Batch, count: int) -> Batch:
    """The batch of the joined learner from the rows of all learners, one learner's behind another's.

    The global state, which none of these learners reads, is left out.

    Raises:
        DataError: Some rows are imagined.
    """
    if batch.synthetic is not None:
        raise DataError("Rows of which some are imagined cannot be laid side by side for --seeds.")
    named = {field.name: getattr(batch, field.name) for field in fields(batch) if field.name not in OF_TEAM}
    sides: dict[str, Any] = {
        name: torch.unflatten(value, 0, (count, -1)).movedim(0, 1).flatten(1, 2)
        for name, value in named.items()
        if value is not None
    }
    return Batch(**sides)


def apart(metrics: Metrics, count: int) -> list[Metrics]:
    """Each learner's metrics of an update of the joined one."""
    columns = {name: value.unbind(0) for name, value in metrics.items()}
    return [{name: values[index] for name, values in columns.items()} for index in range(count)]


def _joined(modules: Sequence[M], n_agents: int) -> M:
    first = modules[0]
    whole: M = object.__new__(type(first))
    values: dict[str, Any] = dict(vars(first))

    def parameter(name: str) -> nn.Parameter:
        params = [cast(nn.Parameter, module._parameters[name]) for module in modules]
        members = torch.cat([torch.unflatten(p.detach(), 0, (-1, n_agents)) for p in params], dim=1)
        return nn.Parameter(members.flatten(0, 1), params[0].requires_grad)

    def buffer(name: str) -> Tensor | None:
        each = [cast(Tensor, module._buffers[name]) for module in modules]
        if name == "turns":
            each = [one + index * n_agents for index, one in enumerate(each)]
        if each[0] is not None and each[0].dim() == 0:
            return torch.stack(each)
        return torch.cat(each) if name in BY_AGENT else each[0]

    values["_parameters"] = {name: p if p is None else parameter(name) for name, p in first._parameters.items()}
    values["_buffers"] = {name: buffer(name) for name in first._buffers}
    values["_modules"] = {
        name: child if child is None else _joined([cast(nn.Module, m._modules[name]) for m in modules], n_agents)
        for name, child in first._modules.items()
    }
    whole.__dict__.update(values)
    if isinstance(whole, Algorithm) and "actor" in whole._modules:
        whole._open_door(whole.actor)
    return whole


@torch.no_grad()
def _joined_optimizer(whole: Together, name: str) -> TogetherAdam:
    first, n_agents = whole._learners[0], whole.team
    mine = {id(its): ours for ours, its in _pairs(whole, first)}
    original = first.optimizers[name]
    groups = [{**group, "params": [mine[id(p)] for p in group["params"]]} for group in original.param_groups]
    for group in groups:
        group.pop("fused", None)
    optimizer = TogetherAdam(groups, len(whole._learners), n_agents, lr=original.defaults["lr"])
    everybody = [one.optimizers[name] for one in whole._learners]
    for group_index, group in enumerate(original.param_groups):
        for index, parameter in enumerate(group["params"]):
            if not original.state.get(parameter):
                continue
            states = [one.state[one.param_groups[group_index]["params"][index]] for one in everybody]
            optimizer.state[mine[id(parameter)]] = {
                key: value.clone()
                if value.dim() == 0
                else torch.cat([torch.unflatten(state[key], 0, (-1, n_agents)) for state in states], dim=1).flatten(
                    0, 1
                )
                for key, value in states[0].items()
            }
    return optimizer


def _pairs(whole: Together, one: Algorithm) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
    return zip(whole.parameters(), one.parameters(), strict=True)


def _groups(ours: torch.optim.Adam, theirs: torch.optim.Adam) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
    for mine, its in zip(ours.param_groups, theirs.param_groups, strict=True):
        yield from zip(mine["params"], its["params"], strict=True)
