"""Minari's folders, in the layout that survives all its storages: team reward, and agents' own among the infos."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from offline_marl.core.types import DataError, Episode
from offline_marl.datasets.base import Dataset, Recording
from offline_marl.datasets.episode_index import starts
from offline_marl.datasets.metadata import reference_of
from offline_marl.datasets.readers.embedded_metadata import OURS, packed
from offline_marl.datasets.readers.minari.remote import datasets_in
from offline_marl.datasets.readers.minari.storages import STORAGES
from offline_marl.datasets.writers.hdf5_file import GuardedFile, writing_hdf5

SETTINGS: Mapping[str, Mapping[str, Any]] = {"Ant-v5": {"include_cfrc_ext_in_observation": False}}
"""What the bodies recorded here are made with beside their defaults."""
_ID = re.compile(r"(?:[-\w]+/)*[-\w]+-v\d+")


def write(folder: Path, data: Recording | Dataset, storage: str = "hdf5", dataset_id: str | None = None) -> str:
    """Write a set as a new folder, whole or not at all; minari itself does.

    Args:
        folder: Must not exist. Minari finds it by its id where it is `MINARI_DATASETS_PATH/ID`.
        data: Of one body, or of a team: Dict spaces, with the mean of the agents' rewards as reward, and among the
            infos `rewards` and, where they differ, `terminations` and `truncations` per agent, `mask` (who is there),
            `state` and `avail_actions`.
        storage: `hdf5`, `arrow` or `parquet`.
        dataset_id: Minari's id, `[namespace/]name-vN`; by default see `id_of`.

    Returns:
        The id.

    Raises:
        DataError: minari or its storage's package is missing, the folder exists, or the id has another form.
        OSError: The disk is full.
    """
    name = dataset_id or id_of(folder)
    if storage not in STORAGES:
        raise DataError(f"Minari stores as {', '.join(STORAGES)}, not as '{storage}'.")
    if _ID.fullmatch(name) is None:
        raise DataError(f"'{name}' should be an id of Minari's, such as mujoco/hopper/medium-v0.")
    if folder.exists():
        raise DataError(f"{folder} exists; a Minari folder is written as a new one.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        _create(beside, name, data, storage)
        os.replace(beside / name, folder)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(folder)) from error
    except ImportError:  # that of the storage's package
        raise DataError(f"Writing {storage} needs another package: pip install 'offline-marl[data,arrow]'.") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return name


def id_of(folder: Path) -> str:
    """Minari's id of a folder: below Minari's root its place, elsewhere its name, with `-v0` if it has no version.

    Raises:
        DataError: It lies below the root, where a name without version is none of Minari's.
    """
    root = Path(os.environ.get("MINARI_DATASETS_PATH") or Path("~/.minari/datasets").expanduser()).resolve()
    place = folder.parent.resolve() / folder.name
    if not place.is_relative_to(root) or place == root:
        return folder.name if re.search(r"-v\d+$", folder.name) else f"{folder.name}-v0"
    name = place.relative_to(root).as_posix()
    if _ID.fullmatch(name) is None and _ID.fullmatch(f"{name}-v0") is not None:
        raise DataError(f"{folder} lies among Minari's own, which are called [NAMESPACE/]NAME-vN: {name}-v0, for one.")
    return name


def _create(root: Path, name: str, data: Recording | Dataset, storage: str) -> None:
    try:
        import minari
    except ImportError:
        raise DataError(f"Writing {name} needs minari: pip install 'offline-marl[data]'.") from None
    seen, moved = _spaces(data)
    metadata = data.metadata
    with datasets_in(root), _sized_once(), _guarded(storage) as guards, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it recommends to tell, some of which a set may not know
        made = minari.create_dataset_from_buffers(
            name,
            _checked(_episodes(data), guards),
            observation_space=seen,
            action_space=moved,
            data_format=storage,
            algorithm_name=_algorithm(metadata)[:500],
            author=_authors(metadata.get("author")),
            description=f"{metadata.get('how', metadata.get('name', name))}. Written by offline-marl; its own metadata "
            f"are under '{OURS}'.",
        )
    kept: dict[str, Any] = {OURS: packed(metadata, data.ends_seen), "dataset_size": made.storage.get_size()}
    reference = reference_of(metadata)
    if reference is not None:
        kept |= {"ref_min_score": float(reference.random), "ref_max_score": float(reference.expert)}
    if metadata.get("actors"):
        kept["actors"] = _plain(metadata["actors"])
    made.storage.update_metadata(kept)
    spec = _env_spec(metadata)
    if spec is not None:  # minari itself would build the environment to note it
        file = Path(made.storage.data_path) / "metadata.json"
        file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), "env_spec": spec}), "utf-8")


def _algorithm(metadata: Mapping[str, Any]) -> str:
    """Names of those who acted, else how it was made."""
    actors = metadata.get("actors")
    names = [str(actor.get("name")) for actor in _listed(actors) if isinstance(actor, Mapping)]
    return ", ".join(names) or str(metadata.get("how", "unknown"))


def _authors(author: Any) -> set[str] | None:
    return {str(name) for name in _listed(author)} if author else None


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _env_spec(metadata: Mapping[str, Any]) -> str | None:
    """The environment it was recorded in, as Gymnasium writes one, where it is registered there under its id."""
    from gymnasium.envs.registration import registry

    versions = metadata.get("versions")
    env_id = versions.get("env_id") if isinstance(versions, Mapping) else None
    if not isinstance(env_id, str) or env_id not in registry:
        return None
    spec = deepcopy(registry[env_id])
    if isinstance(spec.entry_point, str):
        spec.kwargs |= SETTINGS.get(env_id, {})
        return str(spec.to_json())
    return None


@contextmanager
def _sized_once() -> Iterator[None]:
    """Minari measures all files after each episode, which takes hours for many episodes; here once, at the end."""
    from minari.dataset.minari_storage import MinariStorage

    whole = MinariStorage.get_size
    MinariStorage.get_size = lambda storage: 0.0
    try:
        yield
    finally:
        MinariStorage.get_size = whole


@contextmanager
def _guarded(storage: str) -> Iterator[list[GuardedFile]]:
    """Let minari write HDF5 through guards; gives those of the files that were opened."""
    guards: list[GuardedFile] = []
    if storage != "hdf5":
        yield guards
        return
    try:
        from minari.dataset._storages import hdf5_storage
    except ImportError:  # h5py is missing, which minari says
        yield guards
        return

    @contextmanager
    def opened(path: Path, mode: str, **settings: Any) -> Iterator[Any]:
        with writing_hdf5(Path(path), mode, **settings) as (file, guard):
            guards.append(guard)
            yield file

    whole = hdf5_storage.h5py
    hdf5_storage.h5py = _GuardedHDF5(whole, opened)
    try:
        yield guards
    finally:
        hdf5_storage.h5py = whole


class _GuardedHDF5:
    """`h5py` whose files are opened by another function where they are written to."""

    def __init__(self, whole: Any, opened: Any) -> None:
        self._whole, self._opened = whole, opened

    def File(self, path: Path, mode: str = "r", **settings: Any) -> Any:
        """Open a file."""
        return self._whole.File(path, mode, **settings) if mode == "r" else self._opened(path, mode, **settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)


def _checked(episodes: Iterator[Any], guards: Sequence[GuardedFile]) -> Iterator[Any]:
    """The episodes, as long as what was written of them is on the disk."""
    for episode in episodes:
        for guard in guards:
            guard.refuse_failure()
        yield episode


def _spaces(data: Recording | Dataset) -> tuple[Any, Any]:
    from gymnasium import spaces

    def box(width: int, bound: float) -> Any:
        return spaces.Box(-bound, bound, (width,), np.float32)

    if isinstance(data, Recording):
        return box(data.state.shape[1], np.inf), box(data.actions.shape[1], 1.0)
    spec = data.spec
    seen = {agent: box(width, np.inf) for agent, width in zip(spec.agents, spec.obs_dims, strict=True)}
    moved = {
        agent: spaces.Discrete(width) if spec.discrete else box(width, 1.0)
        for agent, width in zip(spec.agents, spec.act_dims, strict=True)
    }
    return spaces.Dict(seen), spaces.Dict(moved)


def _episodes(data: Recording | Dataset) -> Iterator[Any]:
    """One episode after another, so that none but the one that is written is in memory."""
    from minari.data_collector.episode_buffer import EpisodeBuffer

    apart = isinstance(data, Dataset) and _ends_apart(data)
    for number in range(len(data.lengths)):
        content = _body(data, number) if isinstance(data, Recording) else _team(data.episode(number), data, apart)
        yield EpisodeBuffer(id=number, **content)


def _body(data: Recording, number: int) -> dict[str, Any]:
    first, length = int(starts(data.lengths)[number]), int(data.lengths[number])
    done = slice(first, first + length)
    return {
        "observations": data.state[first + number : first + number + length + 1].numpy(),
        "actions": data.actions[done].numpy(),
        "rewards": data.rewards[done].numpy(),
        "terminations": data.terminations[done].numpy(),
        "truncations": data.truncations[done].numpy(),
    }


def _ends_apart(data: Dataset) -> bool:
    """Whether some agent's flags are not those of the team."""
    flags = (data.terminations, data.truncations)
    return any(bool((values != values[:, :1]).any()) for values in flags)


def _team(episode: Episode, data: Dataset, apart: bool) -> dict[str, Any]:
    spec, agents = data.spec, list(enumerate(data.spec.agents))
    away = torch.zeros_like(episode.terminations) if episode.mask is None else ~episode.mask
    over = (episode.terminations | away).all(-1)
    ended = (episode.terminations | episode.truncations | away).all(-1)
    flags = {"terminations": over, "truncations": ended & ~over}
    infos = {"rewards": _after_reset(episode.rewards.numpy())}
    if apart:
        infos |= {name: _after_reset(getattr(episode, name).numpy().astype(np.uint8)) for name in flags}
    if episode.mask is not None:
        infos["mask"] = _after_reset(episode.mask.numpy().astype(np.uint8))
    if episode.state is not None:
        infos["state"] = episode.state.numpy()
    if episode.avail_actions is not None:
        infos["avail_actions"] = episode.avail_actions.numpy().astype(np.uint8)
    done = episode.actions.numpy()
    return {
        "observations": {agent: episode.obs[:, i, : spec.obs_dims[i]].numpy() for i, agent in agents},
        "actions": {agent: done[:, i] if spec.discrete else done[:, i, : spec.act_dims[i]] for i, agent in agents},
        "rewards": episode.rewards.mean(-1).numpy(),
        **{name: whole.numpy() for name, whole in flags.items()},
        "infos": infos,
    }


def _after_reset(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Infos begin with the reset, before anything was done."""
    return np.concatenate([np.zeros_like(values[:1]), values])
