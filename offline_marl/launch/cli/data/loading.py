"""Loading of data by name: of the catalogue, a file or folder, a place on the hub, or a task on one of these."""

from __future__ import annotations

from offline_marl.core.partition import split_task
from offline_marl.datasets.base import Dataset, Recording
from offline_marl.datasets.catalog import CATALOG, find, path_of
from offline_marl.datasets.places import place_of
from offline_marl.tasks.data_tasks import load_recording, open_task


def load_named(name: str, clip_actions: bool = False) -> tuple[Recording | Dataset, str]:
    """Load data, shared among agents if the name says how, and find where it is kept.

    Args:
        name: See above.
        clip_actions: Clip actions outside [-1, 1] instead of refusing them.

    Raises:
        UnknownDatasetError: The catalogue has no such name.
        PartitionError: The conf or the view is unknown.
        DataError: The file is missing, damaged or unusable.
    """
    place = place_of(name)
    whole, shared = (
        (name, name.count("_") >= 2 and name not in CATALOG) if place is None else (place[0], bool(place[1]))
    )
    data = open_task(name, clip_actions).data if shared else load_recording(whole, clip_actions)
    if place is not None:
        return data, whole
    return data, str(path_of(find(split_task(name)[0] if shared else whole).name))
