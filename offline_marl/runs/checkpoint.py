"""Checkpoints: everything that influences the future of a run, in files that cannot execute code."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from offline_marl.core.errors import BadInputError
from offline_marl.core.files import DamagedFileError, load_tree, save_tree

KIND = "checkpoint"
SCHEMA = 1
"""Version of what a checkpoint holds; those that do not say were written before it was noted, as version 0."""
NAME = re.compile(r"step_(\d{9,})\.safetensors")


class NewerFileError(BadInputError, RuntimeError):
    """A file that a newer version of this library wrote; the message is one sentence."""


Migration = Callable[[dict[str, Any]], dict[str, Any]]
MIGRATIONS: Mapping[int, Migration] = {0: dict}
"""From each earlier version to the next one. Between 0 and 1 only the version itself was added."""


def path_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of this step lies."""
    return folder / f"step_{step:09d}.safetensors"


def found(folder: Path) -> list[tuple[int, Path]]:
    """All checkpoints of a folder as (step, file), newest first; not checked."""
    matches = ((NAME.fullmatch(path.name), path) for path in folder.glob("step_*.safetensors"))
    return sorted(((int(match[1]), path) for match, path in matches if match), reverse=True)


def save(folder: Path, step: int, state: Mapping[str, Any], keep: int) -> None:
    """Write the checkpoint of this step, then let go of all but the `keep` newest ones (0: of none).

    The state of torch's own generators is added, for algorithms that draw from them.

    Raises:
        OSError: It could not be written (a full or read-only disk); the older ones stay.
    """
    save_tree(path_of(folder, step), {"step": step, "schema": SCHEMA, **state, "torch": _torch_generators()}, KIND)
    for _, old in found(folder)[keep:] if keep else ():
        old.unlink(missing_ok=True)


def read(folder: Path, step: int) -> dict[str, Any]:
    """The state saved at this step.

    Raises:
        FileNotFoundError: There is none.
        DamagedFileError: It is damaged.
        NewerFileError: A newer version of this library wrote it.
    """
    return _load(path_of(folder, step))


def candidates(folder: Path) -> Iterator[tuple[Path, dict[str, Any] | DamagedFileError]]:
    """Each checkpoint, newest first: its state, or what is wrong with it.

    Raises:
        NewerFileError: A newer version of this library wrote one; an older one in its place would take back its work.
    """
    for _, path in found(folder):
        try:
            yield path, _load(path)
        except FileNotFoundError:
            continue  # let go of by the process that trains, while we looked
        except DamagedFileError as error:
            yield path, error


def _load(path: Path) -> dict[str, Any]:
    state, _ = load_tree(path, KIND)
    schema = state.pop("schema", 0)
    if not isinstance(schema, int) or schema < 0:
        raise DamagedFileError(f"{path} is damaged: its version is {schema!r}.")
    if schema > SCHEMA:
        raise NewerFileError(
            f"{path} was written by a newer version of this library (version {schema} of checkpoints, this one knows "
            f"{SCHEMA}): update the library."
        )
    for version in range(schema, SCHEMA):
        state = MIGRATIONS[version](state)
    return state


def restore_torch(state: Mapping[str, Any]) -> None:
    """Set torch's own generators to a checkpoint's."""
    torch.set_rng_state(state["torch"]["cpu"])
    if torch.cuda.is_available() and state["torch"]["cuda"]:
        torch.cuda.set_rng_state_all(state["torch"]["cuda"])


def _torch_generators() -> dict[str, Any]:
    on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if on_gpu else []}
