"""Minari's folders: one body's steps, or a team's in Dict or Tuple spaces with rewards per agent among the infos.

Read with h5py alone, so that minari itself is not needed.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from offline_marl.core.types import DataError
from offline_marl.datasets.base import Dataset, Recording
from offline_marl.datasets.readers import hdf5
from offline_marl.datasets.readers.bodies import known_columns, scenario_of

SCHEME = "minari://"
Parts = list[npt.NDArray[Any]]


def folder_of(place: str) -> Path:
    """The local folder of `minari://ID`, under `MINARI_DATASETS_PATH` or Minari's own default.

    Raises:
        DataError: It is not there, or the id leaves the folder.
    """
    name = place.removeprefix(SCHEME)
    root = os.environ.get("MINARI_DATASETS_PATH") or str(Path("~/.minari/datasets").expanduser())
    if not name or ".." in name.split("/") or name.startswith("/"):
        raise DataError(f"'{place}' should be {SCHEME}ID, such as {SCHEME}mujoco/hopper/medium-v0.")
    folder = Path(root) / name
    if not is_minari(folder):
        raise DataError(f"{place} is not in {root}: fetch it by `minari download {name}`.")
    return folder


def is_minari(folder: Path) -> bool:
    """Whether a folder is one of Minari's."""
    return (folder / "data" / "metadata.json").is_file()


def read(folder: Path) -> Recording | Dataset:
    """The recording of a single-agent set, or the data set of a team.

    Raises:
        DataError: The folder is of another storage than HDF5, lacks a part, or its episodes do not fit together.
    """
    try:
        about = json.loads((folder / "data" / "metadata.json").read_text(encoding="utf-8"))
        kind = about.get("data_format", "hdf5")
    except (OSError, ValueError, AttributeError):
        raise DataError(f"{folder}/data/metadata.json cannot be read.") from None
    if kind != "hdf5":
        raise DataError(f"{folder} is stored as {kind}; only Minari's HDF5 storage is read.")
    with hdf5.opened(folder / "data" / "main_data.hdf5") as file:
        names = sorted((name for name in file if re.fullmatch(r"episode_\d+", name)), key=_number)
        if not names:
            raise DataError(f"{folder} holds no episode.")
        episodes = [_Episode(file[name]) for name in names]
    dataset_id = str(about.get("dataset_id", folder.name))
    metadata = {"format": "minari", "name": dataset_id, "minari_version": str(about.get("minari_version", ""))}
    try:
        if len(episodes[0].obs) == 1 and not episodes[0].is_team:
            return _recording(episodes, [*_env_names(about), dataset_id], metadata)
        return _team(episodes, metadata)
    except DataError as error:
        raise DataError(f"{folder.name}: {error}") from None


class _Episode:
    """One group of the file: what each agent saw and did, and the ends."""

    def __init__(self, group: Any) -> None:
        self.is_team = "actions" in group and not _is_array(group, "actions")
        self.obs, self.actions = _agents(group, "observations"), _agents(group, "actions", None)
        self.rewards = hdf5.array(group, "rewards")
        self.terminations, self.truncations = (hdf5.array(group, n, np.bool_) for n in ("terminations", "truncations"))
        infos = group.get("infos", {})
        self.state = hdf5.array(infos, "state") if "state" in infos else None
        if "rewards" in infos:
            parts = _agents(infos, "rewards")
            own = parts[0] if len(parts) == 1 else np.stack([part.reshape(len(part)) for part in parts], axis=1)
            # Infos begin with the reset, before any reward.
            self.rewards = own[1:] if len(own) == len(self.rewards) + 1 else own

    def __len__(self) -> int:
        return len(self.actions[0])


def _is_array(group: Any, name: str) -> bool:
    return name in hdf5.names(group)


def _agents(group: Any, name: str, dtype: npt.DTypeLike | None = np.float32) -> Parts:
    """The one array called `name`, or those of all agents in the order of their numbers."""
    if name not in group or _is_array(group, name):
        return [hdf5.array(group, name, dtype)]
    return [hdf5.array(group[name], agent, dtype) for agent in sorted(hdf5.names(group[name]), key=_number)]


def _number(name: str) -> tuple[Any, ...]:
    return tuple(
        (not part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"(\d+)", name) if part
    )


def _env_names(about: dict[str, Any]) -> list[str]:
    try:
        return [str(json.loads(about["env_spec"])["id"])]
    except (KeyError, ValueError, TypeError):
        return []


def _recording(episodes: list[_Episode], names: list[str], metadata: dict[str, Any]) -> Recording:
    def joined(name: str) -> Any:
        values = [getattr(each, name) for each in episodes]
        return torch.from_numpy(np.concatenate([each[0] if isinstance(each, list) else each for each in values]))

    state, actions = joined("obs"), joined("actions")
    if state.dim() != 2 or actions.dim() != 2:
        raise DataError("One body's set should hold flat observations and continuous actions.")
    scenario = scenario_of(names, state.shape[1], actions.shape[1])
    ends = {name: joined(name) for name in ("terminations", "truncations")}
    lengths = torch.tensor([len(each) for each in episodes])
    last = torch.cumsum(lengths, 0) - 1
    ends["truncations"][last] |= ~ends["terminations"][last]
    return Recording(
        torch.from_numpy(known_columns(scenario, state.numpy())),
        actions.float(),
        joined("rewards"),
        **ends,
        lengths=lengths,
        metadata={**metadata, **({} if scenario is None else {"scenario": scenario})},
    )


def _team(episodes: list[_Episode], metadata: dict[str, Any]) -> Dataset:
    count = len(episodes[0].actions)
    if any(len(each.obs) != count or len(each.actions) != count for each in episodes):
        raise DataError(f"Its episodes are not all of {count} agents that each see and act.")
    state = [each.state for each in episodes]

    def joined(name: str) -> Any:
        return np.concatenate([getattr(each, name) for each in episodes])

    return Dataset.from_arrays(
        [np.concatenate([each.obs[agent] for each in episodes]) for agent in range(count)],
        [np.concatenate([each.actions[agent] for each in episodes]) for agent in range(count)],
        joined("rewards"),
        lengths=[len(each) for each in episodes],
        terminations=joined("terminations"),
        truncations=joined("truncations"),
        state=None if any(each is None for each in state) else joined("state"),
        metadata=metadata,
        clip_actions=False,
    )
