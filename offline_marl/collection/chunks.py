"""Chunks of recorded episodes in a folder, from which a collection that was stopped goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from offline_marl.collection import recorder as recording
from offline_marl.collection.processes import record_side_by_side
from offline_marl.collection.recorder import Recorder, RecordingPlan
from offline_marl.core.locks import BusyError, locked, refuse_links
from offline_marl.core.progress import progress_bar
from offline_marl.core.small_files import read_table
from offline_marl.core.types import DataError
from offline_marl.runs.folder import write_json


def chunks_of(episodes: int, first: int = 0) -> list[range]:
    """Episodes from `first` on, cut into chunks."""
    last = first + episodes
    return [range(start, min(start + recording.CHUNK, last)) for start in range(first, last, recording.CHUNK)]


def record_missing(plan: RecordingPlan, chunks: Sequence[range], recorder: Recorder, workers: int, what: str) -> None:
    """Record the chunks that are not stored yet.

    Args:
        plan: What is recorded.
        chunks: Episodes of each chunk.
        recorder: Records in this process, where one is enough.
        workers: How many processes may record.
        what: What the progress bar says.

    Raises:
        WorkerError: A worker died or could not go on; chunks that are whole stay.
    """
    missing = [numbers for numbers in chunks if plan.stored(numbers) is None]
    whole, left = (sum(map(len, ranges)) for ranges in (chunks, missing))
    with progress_bar(whole, what, "episode", initial=whole - left, leave=left > 0) as bar:
        if workers > 1 and len(missing) > 1:
            record_side_by_side(plan, missing, workers, bar.update)
            return
        for numbers in missing:
            recorder.record(plan, numbers)
            bar.update(len(numbers))


@contextlib.contextmanager
def holding(folder: Path, recipe: Mapping[str, Any]) -> Iterator[None]:
    """Hold the folder of an unfinished collection against a second process, and make sure that it is of this very one.

    Raises:
        DataError: Another process works on it, or its chunks are of another one.
    """
    refuse_links(folder.parent, [folder.name])
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / "lock"))
        except BusyError:
            raise DataError(f"Another process is collecting into {folder}.") from None
        _keep_recipe(folder / "recipe.json", recipe)
        yield


def _keep_recipe(path: Path, recipe: Mapping[str, Any]) -> None:
    if not path.exists():
        write_json(path, recipe)
        return
    try:
        then = read_table(path)
    except ValueError:
        then = {}
    changed = [name for name in recipe if then.get(name) != recipe[name]]
    if changed:
        raise DataError(
            f"{path.parent} holds chunks of another collection (other {' and '.join(changed)}): "
            "delete it, or choose another --out."
        )
