"""The folder of comparisons: the store of pairs and labels, and copies of the segments, one file a round."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from offline_marl.core.types import Batch, DataError, Spec
from offline_marl.datasets.base import ROWS_AT_ONCE, Dataset
from offline_marl.preferences.answers import AnswerStore
from offline_marl.preferences.label_store import NAME, Journal
from offline_marl.preferences.labels import AskedPair
from offline_marl.preferences.pairs import Copies, SegmentKey
from offline_marl.preferences.teachers import TaskScale
from offline_marl.training.sources.recorded import lengthened


class ComparisonFolder:
    """Paths and content of one set of comparisons.

    Args:
        path: The folder.
        make: Make it if it is not there.
        journal: How the store writes, see `LabelStore`.

    Raises:
        StoreError: It holds no store that can be used.
    """

    def __init__(self, path: Path | str, make: bool = False, journal: Journal | None = None) -> None:
        self.path = Path(path)
        self.store = AnswerStore(self.path / NAME, make, journal)
        self.segments = self.path / "segments"

    def __enter__(self) -> ComparisonFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()

    def file_of(self, session: int) -> Path:
        """Where the segments of an annotation round lie."""
        return self.segments / f"round_{session:04d}.safetensors"

    def copies(self, asked: Sequence[AskedPair]) -> Copies:
        """Copies of the segments of these pairs, padded to the longest.

        Raises:
            DataError: A file is missing or damaged, or lacks a segment.
        """
        parts = [Copies.load(self.file_of(session)) for session in sorted({one.session for one in asked})]
        if not parts:
            raise DataError(f"{self.path} holds no pairs yet: `offline-marl prefs pairs` asks about some.")
        longest = max(part.segments.rewards.shape[1] for part in parts)
        keys = tuple(key for part in parts for key in part.keys)
        held = [part.segments for part in parts]
        if any(segments.state is None for segments in held):  # rounds of earlier versions of ma-ppo hold none
            held = [replace(segments, state=None) for segments in held]
        segments = Batch.cat([lengthened(segments, longest) for segments in held])
        known = set(keys)
        missing = [key.text for one in asked for key in (one.pair.first, one.pair.second) if key not in known]
        if missing:
            raise DataError(f"{self.segments} lacks the segment {missing[0]}, which pairs of {self.path} name.")
        return Copies(parts[0].spec, keys, segments)

    def copy_to(self, path: Path) -> None:
        """Copy pairs, answers and segments into a new folder, while a server may write into this one.

        What a server has beside them stays here: its token and lock, its leases, and clips.
        """
        self.store.copy_to(path / NAME)
        with ComparisonFolder(path) as copy:
            for session in sorted({one.session for one in copy.store.pairs()}):
                copy.segments.mkdir(exist_ok=True)
                shutil.copyfile(self.file_of(session), copy.file_of(session))

    @property
    def scale(self) -> TaskScale:
        """What returns are measured by.

        Raises:
            DataError: Nothing was asked about yet.
        """
        stated = self.store.facts().get("scale")
        if stated is None:
            raise DataError(f"{self.path} holds no pairs yet: `offline-marl prefs pairs` asks about some.")
        return TaskScale(**stated)

    def refuse_other_data(self, key: str, spec: Spec, task: str) -> None:
        """Refuse data that the pairs are not of.

        Raises:
            DataError: Says what they are of.
        """
        facts = self.store.facts()
        about: dict[str, Any] = facts.get("data") or {}
        if about.get("key") != key:
            raise DataError(
                f"The pairs in {self.path} are of {facts.get('task', 'nothing yet')} ({str(about.get('key'))[:12]}), "
                f"not of {task} ({key[:12]}): pairs of two data sets are not learnt from together."
            )
        if about.get("spec") != plain_spec(spec):
            raise DataError(f"The pairs in {self.path} are of another team than {task}.")
        sources = {side.source for one in self.store.pairs() for side in (one.pair.first, one.pair.second)}
        others = sorted(source for source in sources - {key} if not source.startswith("run:"))
        if others:
            raise DataError(f"{self.path} holds pairs of two data sets: of {others[0][:12]} beside {key[:12]}.")


def plain_spec(spec: Spec) -> dict[str, Any]:
    """A spec as it comes back from JSON, without what says nothing of segments."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(spec).items()
        if name not in {"window", "state_dim"}
    }


def key_of(data: Dataset) -> str:
    """Checksum of a data set as segments show it: who sees what, and what actions were made of, are part of it."""
    metadata = data.metadata
    words = [str(metadata.get("sha256") or _digest(data))]
    if "conf" in metadata:
        words.append(f"{metadata['conf']}_{metadata.get('view')}")
    words += [f"{name}={metadata[name]}" for name in ("action_scale", "clipped_actions") if metadata.get(name)]
    return ":".join(words)


def _digest(data: Dataset) -> str:
    digest = hashlib.sha256()
    for table in (data.lengths, data.obs, data.actions, data.rewards):
        for first in range(0, len(table), ROWS_AT_ONCE):
            digest.update(table[first : first + ROWS_AT_ONCE].contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def numbers_of(copies: Copies) -> dict[SegmentKey, int]:
    """The row of each segment."""
    return {key: row for row, key in enumerate(copies.keys)}


def masked(batch: Batch) -> Batch:
    """The batch with a mask, where it had none because everything counts."""
    return batch if batch.mask is not None else replace(batch, mask=torch.ones_like(batch.rewards, dtype=torch.bool))
