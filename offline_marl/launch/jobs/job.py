"""Jobs: the settings of a run or fit and its folder; performed again, a job resumes in its folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic_core import to_jsonable_python

from offline_marl.core.config import Config, ConfigError, build
from offline_marl.core.errors import BadInputError
from offline_marl.core.files import write_atomically
from offline_marl.core.locks import open_own
from offline_marl.core.small_files import read_table
from offline_marl.datasets.places import place_of
from offline_marl.launch.jobs import disk
from offline_marl.runs.config import MACHINE_FIELDS, LearnFlags, import_paths
from offline_marl.runs.folder import Folder, HeldFolderError
from offline_marl.runs.kinds import TRAIN, kinds
from offline_marl.runs.live import plain_lines
from offline_marl.runs.permissions import remember
from offline_marl.runs.stopping import StoppedEarly, asked
from offline_marl.training.kinds import procedure_of

JOB_FILE = "job.json"
STARTS_FILE = "starts.jsonl"
PATIENCE_S = 900.0
"""How long a job waits for its folder's lock: the process of a lost node may still hold it."""
Executor = Literal["debug", "local", "slurm", "ray"]


class JobError(BadInputError):
    """Conflict between a job and its folder; the message is one sentence."""


class Job(Config):
    """One run or fit."""

    command: str = TRAIN.command
    """Command of the kind of run that is done in the folder."""
    name: str
    """Registry name of what is learnt: of the algorithm, or of the kind of model."""
    fields: dict[str, Any] = Field(default_factory=dict)
    """Fields of the run and of what is learnt; `dataset` or `environment` among them."""
    out: Path
    """The run folder, by its whole path."""
    after: Path | None = None
    """Folder of a fit that is over before: its DONE is waited for, as a shared disk may show it late."""


class Submitted(Config):
    """Content of `job.json`: the job and its last submission."""

    job: Job
    executor: Executor
    id: str
    """The executor's name of it: `123` or `123_4` for Slurm, a process id for local."""
    launcher: dict[str, Any] | None = None
    """Process that it ends with, on Ray: its machine, number and birth."""
    logs: Path
    """Folder of what it prints."""
    when: str
    """When it was submitted, in UTC."""


def checked(job: Job) -> Job:
    """The same job with whole paths, so that it means the same wherever it is performed.

    Raises:
        ConfigError: A field is unknown or has a bad value.
        RegistryError: The algorithm or the kind of model is unknown.
    """
    fields = procedure_of(job.command).resolve(job.name, job.fields)
    whole = job.model_copy(update={"fields": fields, "out": job.out.absolute()})
    settings_of(whole)
    return whole


def settings_of(job: Job) -> LearnFlags:
    """The full settings of the run; raises what `checked` does."""
    fields = dict(job.fields)
    dataset = fields.pop("dataset", None)
    settings: LearnFlags = procedure_of(job.command).prepare(job.name, dataset, fields)
    return settings


def perform(job: Job, patience_s: float = PATIENCE_S) -> dict[str, Any]:
    """Begin, or go on with, what stands in the job's folder; what is finished returns at once.

    Args:
        job: A checked one.
        patience_s: How long to wait while another process works in the folder.

    Returns:
        What the run or the fit wrote into its DONE.

    Raises:
        JobError: The folder holds another run than the job's.
        StoppedEarly: It was asked to stop, and has saved.
        LateFileError: The fit that it needs has left no DONE.
        OSError: The disk stayed full, or is broken.
        BadInputError: The run's or the fit's own.
    """
    folder = Folder(job.out, kinds.get(job.command))
    if job.after is not None and not folder.done:
        disk.wait_for(job.after / "DONE")
    backoff = disk.Backoff()
    until = time.monotonic() + patience_s
    while not folder.done:
        try:
            with folder.locked():
                pass
            _go(job, folder)
        except HeldFolderError:
            if asked.is_set():
                raise StoppedEarly(0) from None
            if time.monotonic() > until:
                raise
            time.sleep(0.5)
        except OSError as error:
            backoff.wait(error, str(job.out))
            if asked.is_set():
                raise StoppedEarly(0) from None
    refuse_another(job)
    return folder.summary()


def refuse_another(job: Job) -> None:
    """Make sure that the job's folder holds the job's own run, or none.

    Raises:
        JobError: It holds another one.
        RunFolderError: It holds something of another kind.
    """
    folder = Folder(job.out, kinds.get(job.command))
    if folder.config_file.exists():
        _refuse_another(job, folder)


def _go(job: Job, folder: Folder[Any]) -> None:
    fields, procedure = dict(job.fields), procedure_of(job.command)
    dataset = fields.pop("dataset", None)
    if folder.config_file.exists():
        _refuse_another(job, folder)
        # Named by who submitted the job, perhaps on another machine.
        remember(job.out, import_paths(fields.get("environment"), dict(fields.get("env_settings") or {})))
        procedure.resume(job.out)
    else:
        procedure.begin(job.name, dataset, job.out, fields)


def _refuse_another(job: Job, folder: Folder[Any]) -> None:
    stored, wanted = _flat(folder.config().model_dump(mode="json")), _flat(settings_of(job).model_dump(mode="json"))
    # Of an earlier version, whose learners had fewer fields: the others stand at their defaults.
    stored = {**_defaults(procedure_of(job.command).names.get(job.name).Config), **stored}
    places = procedure_of(job.command).places(job.name)
    # A run resolves its device on its machine, and goes on with the memory and the workers that it began with: they say
    # nothing of whether two runs are the same.
    for name in sorted(wanted.keys() - MACHINE_FIELDS):
        there, here = stored.get(name), wanted[name]
        if there != here and not (name in places and _may_be_one(there, here)):
            raise JobError(
                f"{folder.path} holds another run than this job's ({name} is {there!r} there and "
                f"{here!r} here): name another folder, or remove that one."
            )


def _may_be_one(there: Any, here: Any) -> bool:
    """Whether two settings name the same files, as far as can be told on this machine.

    Links and `..` lead to one file under several names; a path of another machine leads to none here.
    """
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        return there.keys() == here.keys() and all(_may_be_one(there[name], here[name]) for name in there)
    if isinstance(there, list | tuple) and isinstance(here, list | tuple):
        return len(there) == len(here) and all(map(_may_be_one, there, here))
    if not (isinstance(there, str) and isinstance(here, str) and os.path.isabs(there) and os.path.isabs(here)):
        return bool(there == here)
    (one, share), (other, its) = (place_of(path) or (path, None) for path in (there, here))
    known = os.path.exists(one) and os.path.exists(other)
    return share == its and (not known or os.path.realpath(one) == os.path.realpath(other))


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {**{name: value for name, value in settings.items() if name != "settings"}, **settings["settings"]}


def _defaults(config_class: type[Config]) -> dict[str, Any]:
    fields = {name: info for name, info in config_class.model_fields.items() if not info.is_required()}
    values = {name: info.get_default(call_default_factory=True) for name, info in fields.items()}
    return {name: to_jsonable_python(value) for name, value in values.items()}


def write_submitted(
    job: Job, executor: Executor, name: str, logs: Path, launcher: dict[str, Any] | None = None
) -> None:
    """Write `job.json`."""
    submitted = Submitted(job=job, executor=executor, id=name, logs=logs, when=_now(), launcher=launcher)
    write_atomically(job.out / JOB_FILE, (submitted.model_dump_json(indent=2) + "\n").encode())


def read_submitted(folder: Path) -> Submitted | None:
    """Read `job.json`; None where there is none.

    Raises:
        JobError: It was damaged or edited.
    """
    try:
        stored = read_table(folder / JOB_FILE)
        submitted: Submitted = build(Submitted, stored)
    except FileNotFoundError:
        return None
    except (ValueError, ConfigError) as error:
        raise JobError(f"{folder / JOB_FILE} was damaged or edited: {error}") from None
    return submitted


def note_start(folder: Path, row: Mapping[str, Any]) -> None:
    """Append to the folder's log of starts and ends; a line that a full disk cut off stays a line of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"when": _now(), **row}).encode() + b"\n"
    with open_own(folder / STARTS_FILE, "ab+") as stream:
        stream.seek(max(0, stream.tell() - 1))
        stream.write(line if stream.read() in {b"", b"\n"} else b"\n" + line)


def read_starts(folder: Path) -> list[dict[str, Any]]:
    """Read every start and end of the job's processes, in order; lines that were cut off are left out."""
    try:
        text = (folder / STARTS_FILE).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return [row for row in plain_lines(text.encode()) if _is_start(row)]


def _is_start(row: Mapping[str, Any]) -> bool:
    """Whether a line is as `note_start` writes them: others were damaged, and are left out."""
    words = all(isinstance(row.get(name, ""), str) for name in ("when", "event", "how", "why", "host", "id"))
    numbers = (row.get("pid", 0), row.get("born") or 0)
    return words and all(type(number) is int and 0 <= number < 1 << 53 for number in numbers)


@contextmanager
def without_stop_request() -> Iterator[None]:
    """Clear requests to stop this process, before and after the block: one for a job does not end the next."""
    asked.clear()
    try:
        yield
    finally:
        asked.clear()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
