"""Updates split by agent: gradients of chosen agents at a frozen snapshot, applied by the owner of the optimisers.

update(batch) = apply_gradients(gradients(batch)): a holder of a `snapshot` and the batch computes the gradients of any
agents, each at the cost of its own networks; the owner of optimisers and targets joins and applies them. `flat` lays
gradients out as rows, one an agent, so that coded sums of rows can be sent and decoded.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from offline_marl.algorithms.base import Algorithm, masked_mean, over_rows
from offline_marl.algorithms.descent import DescentAlgorithm
from offline_marl.algorithms.descent import Terms as Terms
from offline_marl.core.axes import PerTeam
from offline_marl.core.types import Batch, DataError, Metrics, Spec

Snapshot = dict[str, Tensor]
"""All that gradients depend on beside the batch, by name: parameters, targets, statistics, count and generator."""
OF_TEAM = frozenset({"state", "next_state", "synthetic"})
"""Fields of a batch without an agent axis."""
BY_AGENT = frozenset({"mean", "scale", "present", "best", "turns", "identity", "heard"})
"""Names of buffers whose first axis is the agents."""
UPDATES, GENERATOR = "updates", "generator"
"""Names in a snapshot that are no parameter's or buffer's."""

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class AgentGradients:
    """Gradients of some agents' parameters, with what these agents add to the update's metrics."""

    agents: tuple[int, ...]
    values: dict[str, Annotated[Tensor, "agent ..."]]
    """By parameter, a row for each of `agents`; parameters that this update leaves alone are missing."""
    metrics: Metrics
    """What the agents add, together, to the metrics of the whole team."""
    generator: Tensor | None = None
    """State of the learner's generator after the update's draws; None where the update does not move it."""

    def flat(self) -> Annotated[Tensor, "agent number"]:
        """A row of numbers for each agent, all of one length."""
        return torch.cat([value.flatten(1) for value in self.values.values()], dim=1)

    def unflat(self, rows: Annotated[Tensor, "agent number"], agents: Sequence[int]) -> AgentGradients:
        """Gradients of these agents from rows of the same layout, such as decoded sums; metrics stay as they are."""
        shapes = {name: value.shape[1:] for name, value in self.values.items()}
        parts = torch.split(rows, [shape.numel() for shape in shapes.values()], dim=1)
        values = {name: part.view(-1, *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        return replace(self, agents=tuple(agents), values=values)

    @staticmethod
    def join(parts: Sequence[AgentGradients]) -> AgentGradients:
        """Gradients of the agents of all parts; their metrics are summed.

        Raises:
            DataError: The parts are of different updates, or two hold the same agent.
        """
        agents = tuple(agent for part in parts for agent in part.agents)
        if len(set(agents)) < len(agents):
            raise DataError(f"Gradients of agents {list(agents)} cannot be joined: one of them comes twice.")
        if any(part.values.keys() != parts[0].values.keys() for part in parts):
            raise DataError("Gradients of different updates cannot be joined: they are of different parameters.")
        return AgentGradients(
            agents,
            {name: torch.cat([part.values[name] for part in parts]) for name in parts[0].values},
            {name: torch.stack([part.metrics[name] for part in parts]).sum(0) for name in parts[0].metrics},
            parts[0].generator,
        )


@runtime_checkable
class SplitLearner(Protocol):
    """A learner whose update is `apply_gradients(gradients(batch))`, the gradients of any agents computed anywhere."""

    spec: Spec

    def refuse_split(self) -> None:
        """Make sure that this learner's settings allow the split.

        Raises:
            DataError: They do not; one sentence says why.
        """
        ...

    def snapshot(self) -> Snapshot:
        """A copy of all that `gradients` depends on beside the batch; no optimiser's state is in it."""
        ...

    def load_snapshot(self, snapshot: Mapping[str, Tensor], *, lent: bool = False) -> None:
        """Stand where the snapshot was taken; optimisers stay as they are.

        Args:
            snapshot: Of this learner or a copy.
            lent: Whether to compute with the snapshot's own tensors instead of copies: for gradients alone, since
                a step would change the snapshot.
        """
        ...

    def prepare(self, batch: Batch) -> Snapshot:
        """What the gradients of all agents read beside snapshot and batch, so that one place computes it for all."""
        ...

    def gradients(
        self, batch: Batch, agents: Sequence[int] | None = None, prepared: Mapping[str, Tensor] | None = None
    ) -> AgentGradients:
        """Gradients of these agents, of all unless said: a function of the snapshot and the batch that changes nothing.

        Args:
            batch: The minibatch of the whole team.
            agents: Which agents', in the order of the rows that come back.
            prepared: What `prepare` gave for this batch at this snapshot; computed here unless given.
        """
        ...

    def apply_gradients(self, gradients: AgentGradients) -> Metrics:
        """Step optimisers and targets along the gradients of all agents, in any order; returns the update's metrics."""
        ...


class SplitAlgorithm(Algorithm):
    """Base of algorithms whose agents have parameters of their own, stacked; subclasses write `gradients`."""

    splits_by_agent = True

    def prepare(self, batch: Batch) -> Snapshot:
        """See `SplitLearner`; nothing unless a subclass says so."""
        return {}

    @abstractmethod
    def gradients(
        self, batch: Batch, agents: Sequence[int] | None = None, prepared: Mapping[str, Tensor] | None = None
    ) -> AgentGradients:
        """See `SplitLearner`."""

    def conclude(self, metrics: Metrics) -> Metrics:
        """Move targets after the optimisers' step; returns the metrics of the update."""
        self.update_targets(self.config.tau)
        return metrics

    def refuse_split(self) -> None:
        """See `SplitLearner`; subclasses add what couples their agents."""
        if self.config.share_parameters:
            raise DataError(
                "With share_parameters all agents have one set of weights: such an update cannot be split by agent."
            )

    def snapshot(self) -> Snapshot:
        """See `SplitLearner`."""
        return snapshot_of(self)

    def load_snapshot(self, snapshot: Mapping[str, Tensor], *, lent: bool = False) -> None:
        """See `SplitLearner`."""
        load_snapshot(self, snapshot, lent)

    def apply_gradients(self, gradients: AgentGradients) -> Metrics:
        """See `SplitLearner`."""
        self.refuse_split()
        take_gradients(self, gradients)
        for name, optimizer in self.optimizers.items():
            modules = [[p for p in group["params"] if p.grad is not None] for group in optimizer.param_groups]
            for module in filter(None, modules):
                self.clip_gradients(module)
            if any(modules):
                self.step_optimizer(name)
        if gradients.generator is not None and gradients.generator.shape == self.generator.get_state().shape:
            self.generator.set_state(gradients.generator)
        return self.conclude(dict(gradients.metrics))


class IndependentAlgorithm(DescentAlgorithm, SplitAlgorithm):
    """Base of algorithms whose agents' losses read no other agent.

    Subclasses write `losses`, draw by `normal` and `uniform`, and take means over the team by `mean`, so that the same
    code computes the losses of a part of the team.
    """

    _agents: tuple[int, ...] | None = None
    """Of a part of the team: which agents it has."""
    _whole: Batch
    """Of a part of the team: the batch of the whole, whose masks say over how many entries means are taken."""

    @property
    def judged(self) -> int:
        """Actions that a critic judges at once for each row of a batch."""
        return 1

    @classmethod
    def couples_agents(cls, config: Any) -> str:
        """The setting, if any, by which agents' losses read each other's values; critics that read all are none."""
        return ""

    def gradients(
        self, batch: Batch, agents: Sequence[int] | None = None, prepared: Mapping[str, Tensor] | None = None
    ) -> AgentGradients:
        """See `SplitLearner`; nothing is clipped yet: `apply_gradients` does it by module, as `update`."""
        self.refuse_split()
        chosen = chosen_agents(agents, self.spec)
        part = sliced(self, chosen, self.spec.n_agents)
        if chosen != tuple(range(self.spec.n_agents)):
            part._agents, part._whole = chosen, batch
        part.generator = torch.Generator(self.generator.device)
        part.generator.set_state(self.generator.get_state())
        terms = part.losses(batch if part._agents is None else of_agents(batch, chosen))
        values = gradients_of(part, torch.stack(list(terms.losses.values())).sum(), len(chosen))
        return AgentGradients(chosen, values, terms.metrics, part.generator.get_state())

    def normal(self, shape: Sequence[int], std: float = 1.0) -> Tensor:
        """Normal numbers `... agent width`, drawn for the whole team whichever agents this part of it has."""
        drawn = torch.empty(self._of_team(shape), device=self.best.device)
        return self._own(drawn.normal_(std=std, generator=self.generator))

    def normal_like(self, means: Annotated[Tensor, "*lead agent act"]) -> Tensor:
        """Standard normal numbers, as `normal`, for what a policy network answered."""
        if self._agents is None:
            return torch.empty_like(means).normal_(generator=self.generator)
        # Numbers are drawn in the order of memory, and networks lay one agent's rows behind another's.
        strides = list(means.stride())
        strides[-2] = means.shape[-3] * means.stride(-3)
        layout = torch.empty_like(torch.empty_strided(self._of_team(means.shape), strides, device="meta"))
        drawn = torch.empty_strided(layout.shape, layout.stride(), dtype=means.dtype, device=means.device)
        return self._own(drawn.normal_(generator=self.generator))

    def uniform(self, shape: Sequence[int], low: float, high: float) -> Tensor:
        """Uniform numbers, as `normal`."""
        drawn = torch.empty(self._of_team(shape), device=self.best.device)
        return self._own(drawn.uniform_(low, high, generator=self.generator))

    def _of_team(self, shape: Sequence[int]) -> tuple[int, ...]:
        return (*shape[:-2], self.spec.n_agents, shape[-1])

    def _own(self, drawn: Tensor) -> Tensor:
        return drawn if self._agents is None else drawn[..., list(self._agents), :]

    def mean(self, values: PerTeam, batch: Batch) -> Tensor:
        """Mean over the entries of the team that count; of a part of the team, what it adds to that."""
        if self._agents is None:
            return masked_mean(values, batch.mask)
        if batch.mask is None or self._whole.mask is None:
            return values.sum() / (values.numel() // len(self._agents) * self.spec.n_agents)
        kept = values.masked_fill(~batch.mask.expand_as(values), 0.0)
        copies = values.numel() // batch.mask.numel()
        return kept.sum() / (copies * self._whole.mask.sum()).clamp(min=1)

    def over_rows(self, values: PerTeam, batch: Batch, rows: Annotated[Tensor, "batch"]) -> PerTeam:
        """`base.over_rows` of the whole team's entries."""
        return over_rows(values, batch, rows, None if self._agents is None else self._whole)

    def over_recorded(self, values: PerTeam, batch: Batch) -> PerTeam:
        """`base.over_recorded` of the whole team's entries."""
        return values if batch.synthetic is None else self.over_rows(values, batch, ~batch.synthetic)


def gradients_of(part: nn.Module, loss: Tensor, n_agents: int) -> dict[str, Tensor]:
    """Gradients of a part's parameters, by name, a row for each agent; without those that the loss leaves alone."""
    named = {name: p for name, p in part.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: by_agent(g, n_agents) for name, g in zip(named, found, strict=True) if g is not None}


def chosen_agents(agents: Sequence[int] | None, spec: Spec) -> tuple[int, ...]:
    """The agents asked for; all of them unless said.

    Raises:
        DataError: There is none, one twice, or one that the team does not have.
    """
    if agents is None:
        return tuple(range(spec.n_agents))
    chosen = tuple(int(agent) for agent in agents)
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(spec.n_agents)):
        raise DataError(
            f"Gradients of agents {list(chosen)} were asked for: name some of 0 to {spec.n_agents - 1}, each once."
        )
    return chosen


def of_agents(batch: Batch, agents: Sequence[int]) -> Batch:
    """The batch of some agents, in this order."""
    index, axis = torch.as_tensor(agents, device=batch.obs.device), batch.rewards.dim() - 1
    names = [f.name for f in fields(batch) if f.name not in OF_TEAM and getattr(batch, f.name) is not None]
    return replace(batch, **{name: getattr(batch, name).index_select(axis, index) for name in names})


def by_agent(members: Annotated[Tensor, "copies*agent ..."], n_agents: int) -> Annotated[Tensor, "agent copy ..."]:
    """A row for each agent of what is stacked copy by copy."""
    return members.reshape(-1, n_agents, *members.shape[1:]).transpose(0, 1)


def stacked(rows: Annotated[Tensor, "agent copy ..."]) -> Annotated[Tensor, "copies*agent ..."]:
    """What `by_agent` took apart."""
    return rows.transpose(0, 1).flatten(0, 1)


def sliced(module: M, agents: Sequence[int] | Tensor, n_agents: int) -> M:
    """The module with copies of these agents' parameters and buffers; its code is the same."""
    index = agents if isinstance(agents, Tensor) else torch.tensor(list(agents))
    part: M = object.__new__(type(module))
    values: dict[str, Any] = dict(vars(module))
    values["_parameters"] = {
        name: None if p is None else nn.Parameter(stacked(by_agent(p.detach(), n_agents)[index]), p.requires_grad)
        for name, p in module._parameters.items()
    }
    values["_buffers"] = {
        name: b[index] if b is not None and name in BY_AGENT else b for name, b in module._buffers.items()
    }
    values["_modules"] = {
        name: None if child is None else sliced(child, index, n_agents) for name, child in module._modules.items()
    }
    part.__dict__.update(values)
    if isinstance(part, Algorithm) and "actor" in part._modules:
        part._open_door(part.actor)
    return part


def snapshot_of(learner: Algorithm) -> Snapshot:
    """Copies of parameters and buffers, the count of updates and the generator's state."""
    state = {name: value.detach().clone() for name, value in _tensors(learner).items()}
    return {**state, UPDATES: torch.tensor(learner.updates), GENERATOR: learner.generator.get_state()}


@torch.no_grad()
def load_snapshot(learner: Algorithm, snapshot: Mapping[str, Tensor], lent: bool = False) -> None:
    """Take in what `snapshot_of` gave, or stand on it.

    Raises:
        DataError: It is of another learner.
    """
    mine = _tensors(learner)
    if {*mine, UPDATES, GENERATOR} != {*snapshot}:
        odd = sorted({*mine, UPDATES, GENERATOR} ^ {*snapshot})
        raise DataError(f"The snapshot is of another learner: it differs in {', '.join(odd[:3])}.")
    for name, tensor in mine.items():
        if lent and snapshot[name].shape == tensor.shape and snapshot[name].dtype == tensor.dtype:
            tensor.data = snapshot[name]
        else:
            tensor.copy_(snapshot[name])
    learner.updates = int(snapshot[UPDATES])
    learner.generator.set_state(snapshot[GENERATOR].cpu())


def _tensors(learner: Algorithm) -> dict[str, Tensor]:
    return {**dict(learner.named_parameters()), **dict(learner.named_buffers())}


def take_gradients(learner: Algorithm, gradients: AgentGradients) -> None:
    """Give every parameter its gradient, the agents' rows put in order; None where there is none.

    Raises:
        DataError: Some agents' gradients are missing.
    """
    agents, n_agents = gradients.agents, learner.spec.n_agents
    if sorted(agents) != list(range(n_agents)):
        raise DataError(f"Gradients of agents {list(agents)} alone cannot be applied: the team has {n_agents}.")
    order = [agents.index(agent) for agent in range(n_agents)]
    for name, parameter in learner.named_parameters():
        rows = gradients.values.get(name)
        parameter.grad = None if rows is None else stacked(rows[order]).contiguous()


def splitting(learner: Algorithm) -> SplitLearner:
    """The learner as one whose update is split by agent.

    Raises:
        DataError: It is none, or its settings couple the agents.
    """
    if not learner.splits_by_agent or not isinstance(learner, SplitLearner):
        raise DataError("This algorithm computes its update for the whole team: it cannot be split by agent.")
    learner.refuse_split()
    return learner
