"""The run folder: all there is to a run, held by one process at a time."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Generic

from pydantic import ConfigDict, Field

from offline_marl.core.config import Config, ConfigError, build
from offline_marl.core.errors import BadInputError, WorkError
from offline_marl.core.fields import CountOrZero
from offline_marl.core.files import DamagedFileError, write_atomically
from offline_marl.core.locks import BusyError, locked, refuse_links
from offline_marl.core.plugin_files import loaded_plugins
from offline_marl.core.registry import RegistryError
from offline_marl.core.small_files import read_table, shown
from offline_marl.runs import checkpoint
from offline_marl.runs.config import EDITABLE_FIELDS, FitConfig, RewardFitConfig, RunConfig
from offline_marl.runs.kinds import FIT, FIT_REWARD, TRAIN, RunKind, Settings, recognize
from offline_marl.runs.live import QUESTIONS

TASK = "task.json"
"""All of the run's task but the rows of its data, which is not needed any more once the run has ended."""
TUNED = "tuned.json"
"""Of a run whose settings were chosen by other runs: their seeds, and by what."""
PINNED = "pinned.json"
"""Checksums of networks from elsewhere that the run goes by."""
ALLOWED_BEFORE_START = {
    "lock",
    "versions.json",
    "dataset.safetensors",
    "uniform.safetensors",
    "job.json",
    "starts.jsonl",
    "logs",
    TASK,
    TUNED,
    PINNED,
}
"""What may lie in a folder before its run begins: whoever submitted it, or a run killed early, left it there."""
REPLAY = "replay"
"""Name, inside the run folder, of the folder that holds the episodes of a run that replays."""
FOLDERS = ("checkpoints", "world_model", "tensorboard", "wandb", "logs", REPLAY, QUESTIONS)
"""Folders of a run folder that are written into."""


class Summary(Config):
    """The record in DONE of a finished run, as far as anybody relies on it."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=True)

    steps: CountOrZero | None = None
    """Updates."""
    environment_steps: CountOrZero | None = None
    """Steps that were played."""
    returns: Annotated[list[float], Field(min_length=1)] | None = None
    """Of the episodes of the score."""
    score: dict[str, Any] | None = None
    """Figures of the score by name."""
    versions: dict[str, str] | None = None
    """Of what the episodes depended on."""
    versions_differ: list[str] | None = None
    """What is not as it was when the data was recorded."""
    conventions: dict[str, Any] | None = None
    """What the agents settled on, see `Conventions`."""


class RunFolderError(BadInputError, RuntimeError):
    """A run folder that cannot be used as asked; the message is one sentence."""


class HeldFolderError(RunFolderError):
    """A run folder that another process holds."""


class Folder(Generic[Settings]):
    """Paths and small files of one run.

    Args:
        path: The folder.
        kind: Which kind of run it is for.
    """

    def __init__(self, path: Path | str, kind: RunKind[Settings]) -> None:
        self.path = Path(path)
        self.kind = kind
        self.config_file = self.path / "config.json"
        self.versions_file = self.path / "versions.json"
        self.task_file = self.path / TASK
        self.done_file = self.path / "DONE"
        self.checkpoints = self.path / "checkpoints"

    def __repr__(self) -> str:
        begun = "unfinished" if self.config_file.exists() else "not begun"
        return f"{type(self).__name__}({str(self.path)!r}, {'done' if self.done else begun})"

    @property
    def done(self) -> bool:
        """Whether the run reached its last step and its score."""
        return self.done_file.exists()

    def refuse_strangers(self, config: Settings) -> None:
        """Make sure that a new run may begin here.

        Raises:
            RunFolderError: The folder holds a run already, or anything else.
        """
        if self.config_file.exists():
            same = self.config() == config
            state = "finished" if self.done else "unfinished"
            advice = (
                f"go on with `offline-marl resume {self.path}`" if same and not self.done else "choose another --out"
            )
            raise RunFolderError(f"{self.path} holds {'this very' if same else 'another'} run ({state}): {advice}.")
        strangers = [
            name for name in os.listdir(self.path) if name not in ALLOWED_BEFORE_START and not name.endswith(".part")
        ]
        if strangers:
            raise RunFolderError(f"{self.path} is no run folder and is not empty: choose another --out.")

    def begin(self, config: Settings, versions: Mapping[str, Any], task: Mapping[str, Any] | None = None) -> None:
        """Write down what the run is, and for a training run what it is scored in."""
        settings = config.model_dump(mode="json")
        write_json(self.versions_file, {**versions, "settings": _lasting(settings)})
        if task is not None:
            write_json(self.task_file, task)
        write_json(self.config_file, settings)

    def config(self) -> Settings:
        """The run's settings.

        Raises:
            RunFolderError: The folder holds no run, or its config.json was damaged.
        """
        if not self.config_file.is_file():
            raise RunFolderError(f"{self.path} holds no run (there is no config.json in it).")
        try:
            settings = read_table(self.config_file)
            other = recognize(settings)
            if other is not None and other.mark != self.kind.mark:
                raise RunFolderError(f"{self.path} holds {other.noun}, not {self.kind.noun}.")
            config: Settings = build(self.kind.config, settings)
        except (ValueError, ConfigError) as error:
            raise RunFolderError(f"{self.config_file} was damaged or edited: {error}") from None
        return config

    def unedited_config(self) -> Settings:
        """The run's settings, which are those that it began with; raises what `config` and `refuse_edits` do."""
        config = self.config()
        self.refuse_edits()
        return config

    def refuse_edits(self) -> None:
        """Refuse settings that are not those the run began with; nothing is known of runs of earlier versions.

        Raises:
            RunFolderError: Names the setting.
        """
        kept = self.versions().get("settings")
        if not isinstance(kept, Mapping):
            return
        begun, now = _lasting(kept), _lasting(read_table(self.config_file))
        for name in sorted({*begun, *now}):
            if not _same(begun.get(name), now.get(name)):
                raise RunFolderError(
                    f"{self.config_file} was edited since the run began ({name} was {shown(begun.get(name))}, is "
                    f"{shown(now.get(name))}): put that back, or begin another run in another folder."
                )

    def versions(self) -> dict[str, Any]:
        """What the run was begun with; empty if that was lost."""
        try:
            return read_table(self.versions_file)
        except (OSError, ValueError):
            return {}

    def summary(self) -> dict[str, Any]:
        """What the mark of a finished run says.

        Raises:
            RunFolderError: There is no mark, or it was damaged or edited.
        """
        try:
            content = read_table(self.done_file, finite=False)
            build(Summary, content)
        except (OSError, ValueError, ConfigError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise RunFolderError(
                f"{self.done_file} was damaged or edited: {str(reason).rstrip('.')}. Remove it, and "
                f"`offline-marl resume {self.path}` writes it again."
            ) from None
        return content

    def sweep(self) -> None:
        """Remove what a killed process had half written; only for who holds the folder."""
        for folder in (self.path, self.checkpoints, self.path / REPLAY, self.path / QUESTIONS / "segments"):
            for part in folder.glob(".*.part"):
                part.unlink(missing_ok=True)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Mark the run as done, its score inside the mark."""
        write_json(self.done_file, summary)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder against a second process; the lock goes with the process, however it ends.

        Raises:
            HeldFolderError: Another process holds it.
            RunFolderError: It, or what it should lie in, is a file.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            place = next(place for place in (self.path, *self.path.parents) if place.exists())
            raise RunFolderError(f"{self.path} cannot be a folder: {place} is a file.") from None
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(self.path / "lock"))
            except BusyError:
                raise HeldFolderError(f"Another process is working on {self.path}.") from None
            refuse_links(self.path, FOLDERS)
            yield


def _lasting(settings: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a config.json but those that may be edited, side by side."""
    flat = {**settings, **settings.get("settings", {})}
    return {name: value for name, value in flat.items() if name != "settings" and name not in EDITABLE_FIELDS}


def _same(then: Any, now: Any) -> bool:
    """Whether two values of a setting are equal; what it names may have moved to another folder."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        return then.keys() == now.keys() and all(_same(then[name], now[name]) for name in then)
    if isinstance(then, str) and isinstance(now, str) and os.path.isabs(then) and os.path.isabs(now):
        return Path(then).name == Path(now).name
    return bool(then == now)


class RunFolder(Folder[RunConfig]):
    """The folder of a training run."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(path, TRAIN)


class ModelFolder(Folder[FitConfig]):
    """The folder of a world model: the run that fitted it."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(path, FIT)


class RewardFolder(Folder[RewardFitConfig]):
    """The folder of a reward model: the run that fitted it."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(path, FIT_REWARD)


def kind_of(path: Path | str) -> RunKind[Any] | None:
    """The kind of run that a folder holds; None where it holds none that is known here."""
    try:
        return recognize(read_table(Path(path) / "config.json"))
    except (OSError, ValueError):
        return None


def newest_state(
    folder: Folder[Any], check: Callable[[Mapping[str, Any]], None] | None = None
) -> dict[str, Any] | None:
    """The newest checkpoint that can be read, or None if there never was one; says which could not.

    Args:
        folder: Holds the checkpoints.
        check: Raises RunFolderError or DamagedFileError where files are missing that a checkpoint goes on with.

    Raises:
        RunFolderError: There are checkpoints and none can be read.
    """
    damaged: RunFolderError | DamagedFileError | None = None
    for path, state in checkpoint.candidates(folder.checkpoints):
        if isinstance(state, DamagedFileError):
            damaged = state
            continue
        try:
            if check is not None:
                check(state)
        except (RunFolderError, DamagedFileError) as error:
            damaged = error
            continue
        if damaged is not None:
            print(f"warning: {damaged} Going on from {path.name}.", file=sys.stderr)
        return state
    if damaged is not None:
        raise RunFolderError(f"No checkpoint of {folder.path} can be read: {damaged}")
    return None


def final_state(folder: Folder[Any]) -> dict[str, Any]:
    """The newest checkpoint of a finished run.

    Raises:
        RunFolderError: There is none any more: nobody should take a freshly made learner for one that has learnt.
    """
    state = newest_state(folder)
    if state is None:
        raise RunFolderError(
            f"{folder.path} is finished, but holds no checkpoint any more: what it learnt cannot be read. What it came "
            f"to stands in {folder.done_file}."
        )
    return state


def warn_unfinished(folder: RunFolder, step: int, done_with: str) -> None:
    """Warn where the newest checkpoint of a run is not its last, so that nobody takes it for what the run came to.

    Args:
        folder: Of the run.
        step: Of the checkpoint.
        done_with: What is done with it, such as "scored".
    """
    if not folder.done:
        steps = folder.config().steps
        print(
            f"warning: {folder.path} is unfinished: its checkpoint after {step:,} of {steps:,} updates is {done_with}.",
            file=sys.stderr,
        )


def state_at(folder: Folder[Any], step: int) -> dict[str, Any]:
    """The checkpoint of this step.

    Raises:
        RunFolderError: There is none, or it cannot be read.
    """
    try:
        return checkpoint.read(folder.checkpoints, step)
    except FileNotFoundError:
        steps = ", ".join(str(number) for number, _ in reversed(checkpoint.found(folder.checkpoints))) or "none at all"
        raise RunFolderError(f"{folder.path} holds no checkpoint of step {step}: there are {steps}.") from None
    except DamagedFileError as error:
        raise RunFolderError(str(error)) from None


@contextlib.contextmanager
def restoring(folder: Path) -> Iterator[None]:
    """Say in a sentence that a checkpoint does not hold what the settings beside it make of it.

    Raises:
        RunFolderError: The block failed at the checkpoint's content.
    """
    try:
        yield
    except (BadInputError, WorkError):
        raise
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = lines[1] if len(lines) > 1 and lines[0].endswith(":") else lines[0]
        raise RunFolderError(
            f"The checkpoint in {folder} does not fit the config.json beside it, one of which was damaged or edited: "
            f"{shown(reason)[1:-1].rstrip('.')}."
        ) from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a small JSON file, whole or not at all."""
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


@contextlib.contextmanager
def naming_plugins(folder: Folder[Any]) -> Iterator[None]:
    """Say of a name that is unknown which file brought it when the run began."""
    try:
        yield
    except RegistryError as error:
        files = folder.versions().get("plugins")
        if not isinstance(files, list) or not files or set(map(str, files)) <= set(loaded_plugins()):
            raise
        flags = " ".join(f"--plugin {shlex.quote(str(file))}" for file in files)
        raise RegistryError(f"{error} The run was begun with {flags}: name it again, if you trust it.") from None
