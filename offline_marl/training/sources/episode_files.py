"""Files of a replay's episodes beside the checkpoints: each episode is written once, with the checkpoint after it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offline_marl.core.files import load_tree, save_tree, stated_checksum
from offline_marl.core.small_files import read_table
from offline_marl.core.types import Episode, Spec
from offline_marl.datasets.episode_ring import SEEN_ROWS
from offline_marl.runs.folder import RunFolderError, write_json

KIND = "replay"
NEEDED = "needed.json"
NAME = re.compile(r"episodes_(\d+)-(\d+)\.safetensors")


class EpisodeFiles:
    """Episodes of a folder by their numbers, in files that hold those between two checkpoints.

    Files behind a checkpoint's count, which a killed run left, are overwritten as the run goes on.

    Args:
        folder: Where they lie.
        spec: The team.
    """

    def __init__(self, folder: Path, spec: Spec) -> None:
        self.folder, self.spec = folder, spec

    def write(self, first: int, episodes: Sequence[Episode]) -> None:
        """Write the episodes from number `first` on into a file of their own, whole or not at all."""
        for begin, stop, path in self._found():
            if stop > first and begin >= first:
                path.unlink(missing_ok=True)
        if episodes:
            path = self.folder / f"episodes_{first:09d}-{first + len(episodes):09d}.safetensors"
            save_tree(path, flatten_episodes(episodes, self.spec), KIND)

    def read(self, first: int, stop: int) -> Iterator[list[Episode]]:
        """The episodes of these numbers, a file at a time.

        Raises:
            RunFolderError: Some are not there any more.
            DamagedFileError: A file is damaged.
        """
        at = first
        for begin, end, path in self._found():
            if begin <= at < min(end, stop):
                episodes = unflatten_episodes(load_tree(path, KIND)[0])
                yield episodes[at - begin : stop - begin]
                at = min(end, stop)
        if at < stop:
            raise RunFolderError(f"{self.folder} lacks episodes {at:,} to {stop - 1:,} of the replay.")

    def refuse_lacking(self, first: int, stop: int) -> None:
        """Make sure that the files of these episodes are there and not cut short; their content is not read.

        Raises:
            RunFolderError: Some are not there any more.
            DamagedFileError: A file is cut short.
        """
        at = first
        for begin, end, path in self._found():
            if begin <= at < min(end, stop):
                stated_checksum(path, KIND)
                at = min(end, stop)
        if at < stop:
            raise RunFolderError(f"{self.folder} lacks episodes {at:,} to {stop - 1:,} of the replay.")

    def drop_before(self, oldest: int) -> None:
        """Delete the files whose episodes all come before this number."""
        for _, stop, path in self._found():
            if stop <= oldest:
                path.unlink(missing_ok=True)

    def write_needed(self, marks: Iterable[tuple[int, int]]) -> None:
        """Write down, of each checkpoint that stays, its count of episodes and the oldest that it needs."""
        write_json(self.folder / NEEDED, {"checkpoints": [list(mark) for mark in marks]})

    def read_needed(self) -> list[tuple[int, int]]:
        """What `write_needed` wrote; nothing where that was lost."""
        try:
            marks = read_table(self.folder / NEEDED)["checkpoints"]
            return [(int(count), int(oldest)) for count, oldest in marks]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def _found(self) -> list[tuple[int, int, Path]]:
        matches = ((NAME.fullmatch(path.name), path) for path in self.folder.glob("episodes_*.safetensors"))
        return sorted((int(match[1]), int(match[2]), path) for match, path in matches if match)


def flatten_episodes(episodes: Sequence[Episode], spec: Spec) -> dict[str, Any]:
    """Fields of the episodes one after another, and their lengths."""
    every = spec.present("act")
    tensors: dict[str, Any] = {
        "lengths": torch.tensor([len(episode) for episode in episodes]),
        "ends_seen": torch.tensor([episode.end_seen is None or bool(episode.end_seen) for episode in episodes]),
    }
    for item in fields(Episode):
        values = [getattr(episode, item.name) for episode in episodes]
        if item.name == "end_seen" or all(value is None for value in values):
            continue
        if item.name == "mask":
            values = [torch.ones_like(e.terminations) if e.mask is None else e.mask for e in episodes]
        if item.name == "avail_actions":
            values = [
                every.expand(len(e) + 1, -1, -1) if e.avail_actions is None else e.avail_actions for e in episodes
            ]
        tensors[item.name] = torch.cat(values)
    return tensors


def unflatten_episodes(tensors: Mapping[str, Tensor]) -> list[Episode]:
    """The episodes whose fields were laid one after another."""
    lengths = tensors["lengths"].tolist()
    columns: dict[str, Sequence[Any]] = {
        name: torch.split(value, [length + (name in SEEN_ROWS) for length in lengths])
        for name, value in tensors.items()
        if name not in {"lengths", "ends_seen"}
    }
    return [
        Episode(
            **{name: column[number] for name, column in columns.items()},
            end_seen=None if bool(seen) else seen,
        )
        for number, seen in enumerate(tensors["ends_seen"])
    ]
