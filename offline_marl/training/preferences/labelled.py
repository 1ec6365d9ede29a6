"""Labelled pairs as tensors: what members of a reward model draw their rows from, and what they are judged by."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

import torch
from torch import Tensor

from offline_marl.core.types import Batch, Needs
from offline_marl.losses.preferences import bradley_terry, compared_scores
from offline_marl.preferences.labels import Label
from offline_marl.preferences.reward_model import COMPARED, CREDITED, RATED, Comparisons, RewardModel

PerLabel = Annotated[Tensor, "label"]


@dataclass(frozen=True)
class Labelled:
    """Labels of pairs of segments that lie in one table."""

    segments: Batch
    """`[segment, time]`, with the environment's rewards, which no reward model reads."""
    sides: Annotated[Tensor, "label side"]
    """Rows of the first and the second segment."""
    values: PerLabel
    """1, 0 or 1/2."""
    targets: PerLabel
    """Int64: the agent, or -1 for the team."""
    labels: tuple[Label, ...]
    judged: Judged | None = None
    """Ratings and credit that were given to segments of the table."""

    def __len__(self) -> int:
        return len(self.labels)

    def since(self, number: int) -> Labelled:
        """The labels from this one on."""
        part = slice(number, None)
        return Labelled(self.segments, self.sides[part], self.values[part], self.targets[part], self.labels[part])

    @property
    def agents(self) -> tuple[int, ...] | None:
        """The agents that labels, ratings and credit speak of; None where these are all, as of the team."""
        targets = self.targets if self.judged is None else torch.cat([self.targets, self.judged.targets])
        named = sorted(set(targets.tolist()))
        return None if named[0] < 0 or len(named) == self.segments.rewards.shape[-1] else tuple(named)

    @property
    def there(self) -> PerLabel:
        """Bool: whether the agent that a label speaks of is there in one of its segments; of others nothing is told."""
        assert self.segments.mask is not None
        present = self.segments.mask.any(1)[self.sides].any(1)
        return (self.targets < 0) | present.gather(1, self.targets.clamp(min=0).unsqueeze(1)).squeeze(1)

    def counts(self) -> dict[str, int]:
        """How many say first, second and equal."""
        said = {"first": 1.0, "second": 0.0, "equal": 0.5}
        return {name: int((self.values == value).sum()) for name, value in said.items()}

    def margins(self, model: RewardModel) -> Annotated[Tensor, "member label"]:
        """Score of the first less that of the second, of whom each label speaks, as every member says."""
        scores = model.scores(self.segments)[:, self.sides]
        compared = compared_scores(scores, self.targets.view(1, -1, 1).expand(scores.shape[:-1]))
        return compared[..., 0] - compared[..., 1]

    def errors(self, model: RewardModel) -> Annotated[Tensor, "member"]:
        """Mean -log likelihood of the labels, as every member says."""
        margins = self.margins(model)
        return bradley_terry(margins, self.values.expand_as(margins)).mean(-1)


@dataclass(frozen=True)
class Judged:
    """Ratings of single segments, and credit to agents, as rows of the table of labelled segments."""

    rows: PerLabel
    """Of the segments."""
    values: PerLabel
    """The rating, or the agent who did best and -1 for equal."""
    targets: PerLabel
    """Int64: the agent that is rated, or -1 for the team."""
    kinds: PerLabel
    """Int64, `RATED` or `CREDITED`."""

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, kind: int) -> Judged:
        """Those of one kind."""
        here = self.kinds == kind
        return Judged(self.rows[here], self.values[here], self.targets[here], self.kinds[here])


class ComparisonSource:
    """Labelled pairs for the members of an ensemble, drawn uniformly with replacement, each its own.

    Args:
        labelled: What is learnt from.
        members: Members of the ensemble.
        batch_size: Pairs of each member.
        generator: Draws the pairs; on their device.
        sampling: As for world models: from all labels, or for each member from a fixed resample.
        unlabelled: Segments from which as many pairs are drawn that nobody labelled; the same for all members.
        judged: Ratings and credit, of each of which as many are drawn for each member.
    """

    def __init__(
        self,
        labelled: Labelled,
        members: int,
        batch_size: int,
        generator: torch.Generator,
        sampling: str = "uniform",
        unlabelled: Batch | None = None,
        judged: Judged | None = None,
    ) -> None:
        every = () if judged is None else (judged.of(RATED), judged.of(CREDITED))
        self.judged = tuple(one for one in every if len(one))
        self.labelled, self.members, self.batch_size = labelled, members, batch_size
        self.generator = generator
        self._of_agents = bool((labelled.targets >= 0).all())
        self.table, self.known = _bare(labelled.segments), len(labelled.segments)
        if unlabelled is not None:
            self.table = Batch.cat([self.table, _bare(unlabelled)])
        self.others = len(self.table) - self.known
        shape = (members, len(labelled))
        self._resample = self._draw(len(labelled), shape) if sampling == "bootstrap" else None

    def _draw(self, size: int, shape: tuple[int, ...]) -> Tensor:
        return torch.randint(size, shape, generator=self.generator, device=self.labelled.sides.device)

    def sample(self, needs: Needs) -> Comparisons:
        """The next batch: labelled pairs, and behind them those without a label."""
        index = self._draw(len(self.labelled), (self.members, self.batch_size))
        if self._resample is not None:
            index = self._resample.gather(1, index)
        told = self.labelled
        sides, values, targets = (part[index] for part in (told.sides, told.values, told.targets))
        labelled = torch.ones_like(values, dtype=torch.bool)
        if self.others:
            pairs = self._draw(self.others, (self.batch_size, 2)) + self.known
            sides = torch.cat([sides, pairs.expand(self.members, -1, -1)], dim=1)
            values = torch.cat([values, torch.full_like(values, 0.5)], dim=1)
            targets = torch.cat([targets, targets[:1].expand_as(targets)], dim=1)
            labelled = torch.cat([labelled, torch.zeros_like(labelled)], dim=1)
        kinds = torch.full_like(targets, COMPARED) if self.judged else None
        for one in self.judged:
            index = self._draw(len(one), (self.members, self.batch_size))
            sides = torch.cat([sides, one.rows[index].unsqueeze(-1).expand(-1, -1, 2)], dim=1)
            values = torch.cat([values, one.values[index]], dim=1)
            targets = torch.cat([targets, one.targets[index]], dim=1)
            labelled = torch.cat([labelled, torch.zeros_like(index, dtype=torch.bool)], dim=1)
            kinds = one.kinds[index] if kinds is None else torch.cat([kinds, one.kinds[index]], dim=1)
        rows = self.table.map(lambda value: value[sides])
        held: dict[str, Any] = {item.name: getattr(rows, item.name) for item in fields(Batch)}
        # What the environment paid is nobody's business here.
        held["rewards"] = torch.zeros_like(rows.rewards)
        agents = targets if self._of_agents else None
        return Comparisons(**held, labels=values, targets=targets, agents=agents, labelled=labelled, kinds=kinds)

    def state_dict(self) -> dict[str, Any]:
        """The generator's state is the whole cursor: a resample is drawn again from the same seed."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where the saved source stood."""
        self.generator.set_state(state["generator"].cpu())


def _bare(batch: Batch) -> Batch:
    """What reward models read; the copies of data with a state and those without can then be joined."""
    return replace(
        batch, next_obs=batch.obs, state=None, next_state=None, avail_actions=None, next_avail_actions=None,
        next_seen=None, next_present=None,
    )  # fmt: skip
