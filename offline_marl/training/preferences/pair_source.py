"""Source of compared segments: pairs cut from a data set, with what was said of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from offline_marl.algorithms.base import Algorithm
from offline_marl.core.files import DamagedFileError, load_tree, save_tree
from offline_marl.core.seeding import Generators
from offline_marl.core.types import Batch, DataError, Needs, Source
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.preferences.labels import index_of
from offline_marl.runs.config import RunConfig
from offline_marl.runs.folder import RunFolder
from offline_marl.tasks.data_tasks import Task
from offline_marl.training.preferences.folders import ComparisonFolder, key_of

KIND = "labelled pairs"
FILE = "pairs.safetensors"
"""In a run folder: the pairs that the run began with, so that later labels change nothing."""

Sides = Annotated[Tensor, "pair side"]


@dataclass(frozen=True, slots=True)
class LabelledPairs:
    """Labels and the segments of a data set that they are about, a row for each label."""

    episodes: Sides
    """Int64 numbers of episodes."""
    starts: Sides
    """First steps in their episodes."""
    lengths: Sides
    labels: Annotated[Tensor, "pair"]
    """1 where the first is preferred, 0 where the second is, 1/2 where neither."""
    targets: Annotated[Tensor, "pair"]
    """Int64: the agent that a label speaks of, or -1 for the team."""

    def __len__(self) -> int:
        return len(self.labels)

    def save(self, path: Path) -> None:
        """Write to a file, whole or not at all."""
        save_tree(path, asdict(self), KIND)

    @classmethod
    def load(cls, path: Path) -> LabelledPairs:
        """Read what was saved.

        Raises:
            DataError: It is damaged or of another kind.
        """
        try:
            return cls(**load_tree(path, KIND)[0])
        except (DamagedFileError, TypeError) as error:
            raise DataError(f"The labelled pairs of this run cannot be read: {error}") from None


def plan_pairs(config: RunConfig, folder: RunFolder, task: Task, learner: Algorithm) -> Callable[[], Source]:
    """Gives the source of a run that learns from comparisons, once it has begun; what can be refused is refused before.

    The run's folder keeps the labelled pairs as they were then: labels that come later change nothing.

    Raises:
        BadInputError: There are no such comparisons, or none of this data.
    """
    assert config.preferences is not None
    kept = folder.path / FILE
    pairs = LabelledPairs.load(kept) if kept.is_file() else read_labelled(Path(config.preferences), task)

    def make() -> Source:
        if not kept.is_file():
            pairs.save(kept)
        device = torch.device(config.device)
        buffer = TransitionBuffer(task.data, learner.window, device, state=learner.needs.state, stays=task.mapped)
        return PairSource(buffer, pairs, learner.batch_size, Generators(config.seed, buffer.device).get("batches"))

    return make


def read_labelled(place: Path, task: Task) -> LabelledPairs:
    """The labelled pairs of a folder that are to be learnt from; those that are held out are left for judging.

    Args:
        place: The folder of comparisons.
        task: Whose data was compared.

    Raises:
        StoreError: There is no store there, or it cannot be read.
        DataError: It compares other data, or holds no label.
    """
    data = task.data
    with ComparisonFolder(place) as folder:
        folder.refuse_other_data(key_of(data), data.spec, task.id)
        asked = {each.pair.id: each for each in folder.store.pairs()}
        labels = [label for label in folder.store.labels() if label.value is not None]
    learnt = [label for label in labels if asked[label.pair_id].split != "held-out"]
    if not learnt:
        why = "only of pairs that are held out" if labels else "of no pair"
        raise DataError(f"{place} holds a label {why}: there is nothing to learn from.")
    pairs = [asked[label.pair_id].pair for label in learnt]
    keys = [(pair.first, pair.second) for pair in pairs]
    for key in (key for both in keys for key in both):
        if not 0 <= key.episode < len(data.lengths) or key.start + key.length > int(data.lengths[key.episode]):
            raise DataError(f"{place} compares the segment {key.text}, which is not in {task.id}.")

    def table(name: str) -> Sides:
        return torch.tensor([[getattr(key, name) for key in both] for both in keys])

    return LabelledPairs(
        episodes=table("episode"),
        starts=table("start"),
        lengths=table("length"),
        labels=torch.tensor([label.value for label in learnt]),
        targets=torch.tensor([index_of(label.target, data.spec.n_agents) for label in learnt]),
    )


class PairSource:
    """Labelled pairs drawn uniformly with replacement, `[pair, side, time]`; all are padded to the longest segment.

    Args:
        buffer: The transitions of the data that was compared, on the training device.
        pairs: Whose segments these are.
        batch_size: Pairs of a batch.
        generator: Draws them; on the buffer's device.
    """

    def __init__(
        self, buffer: TransitionBuffer, pairs: LabelledPairs, batch_size: int, generator: torch.Generator
    ) -> None:
        self.buffer, self.batch_size, self.generator = buffer, batch_size, generator
        home = buffer.device
        self.positions = buffer.first[pairs.episodes.to(home)] + pairs.starts.to(home)
        self.lengths, self.labels, self.targets = (
            each.to(home) for each in (pairs.lengths, pairs.labels, pairs.targets)
        )
        self.longest = int(pairs.lengths.max())

    def sample(self, needs: Needs) -> Batch:
        """The next batch."""
        rows = torch.randint(len(self.labels), (self.batch_size,), generator=self.generator, device=self.buffer.device)
        return self.view(rows, needs)

    def view(self, rows: Annotated[Tensor, "pair"], needs: Needs) -> Batch:
        """The pairs of these numbers; `mask` is false behind the end of each segment."""
        cuts = self.buffer.view(
            self.positions[rows].flatten(), replace(needs, view="segments", length=self.longest, burn_in=0)
        )
        device = cuts.rewards.device
        sides = cuts.map(lambda value: value.unflatten(0, (len(rows), 2)))
        inside = torch.arange(self.longest, device=device) < self.lengths[rows].to(device).unsqueeze(-1)
        assert sides.mask is not None
        return replace(
            sides,
            mask=sides.mask & inside.unsqueeze(-1),
            preference=self.labels[rows].to(device),
            subject=self.targets[rows].to(device),
        )

    def state_dict(self) -> dict[str, Any]:
        """The generator's state is the whole cursor."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where the saved source stood."""
        self.generator.set_state(state["generator"].cpu())
