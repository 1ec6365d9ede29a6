"""Sweep folders: the manifest of their jobs, and the merging of a sweep file into it without doing a job twice."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_marl.core.config import Config, ConfigError, build
from offline_marl.core.errors import BadInputError
from offline_marl.core.locks import BusyError, LinkError, locked, refuse_links
from offline_marl.core.small_files import read_table
from offline_marl.launch.jobs.job import Executor, Job
from offline_marl.launch.sweeps.names import digest
from offline_marl.launch.sweeps.plan import Planned
from offline_marl.launch.sweeps.studies import Study
from offline_marl.runs.folder import TUNED, write_json


class SweepError(BadInputError, RuntimeError):
    """Sweep folder that cannot be used; the message is one sentence."""


class Manifest(Config):
    """Manifest of a sweep, as `sweep.json` stores it."""

    source: str
    """The file, or the sweep, that the jobs come from."""
    executor: Executor = "local"
    """Who carried the jobs out last."""
    profile: str | None = None
    """The profile file that was named last."""
    ray_address: str | None = None
    """The Ray cluster that was named last."""
    jobs: tuple[Planned, ...] = ()
    """Every job that was ever added, in that order."""
    studies: tuple[Study, ...] = ()
    """What Optuna tunes: its trials are among the jobs."""


@dataclass(frozen=True)
class MergedJobs:
    """Result of merging a file's jobs into those of a sweep."""

    every: list[Planned]
    """All jobs of the sweep, the old ones first."""
    named: list[Planned]
    """Those that the file names."""
    new: list[Planned]
    """Those that were not there."""
    moved: dict[str, str] = dataclasses.field(default_factory=dict)
    """Folders of the jobs, by those that were proposed."""


class Sweep:
    """Sweep folder with `sweep.json`, `runs/`, `models/` and `logs/`: reads and writes the manifest, holds the lock.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()
        self.file = self.path / "sweep.json"
        self.logs = self.path / "logs"

    def manifest(self) -> Manifest:
        """Read the manifest.

        Raises:
            SweepError: It holds no sweep, or its sweep.json was damaged.
        """
        if not self.file.is_file():
            raise SweepError(f"{self.path} holds no sweep (there is no sweep.json in it): start one with a sweep file.")
        try:
            manifest: Manifest = build(Manifest, read_table(self.file))
        except (ValueError, ConfigError) as error:
            raise SweepError(f"{self.file} was damaged or edited: {' '.join(str(error).split())}") from None
        return manifest

    def current_jobs(self) -> Sequence[Planned]:
        """Read the sweep's jobs; none where it has yet to begin.

        Raises:
            SweepError: There is something else in the folder, or see `manifest`.
        """
        if self.file.exists():
            return self.manifest().jobs
        if self.path.is_dir() and any(entry.name != "lock" for entry in self.path.iterdir()):
            raise SweepError(f"{self.path} holds no sweep and is not empty: choose another --out.")
        return ()

    def refuse_outdated(self, jobs: Sequence[Planned]) -> None:
        """Make sure that these jobs, which were planned without the lock, hold all of the sweep's.

        Raises:
            SweepError: Another launcher added some meanwhile: they would be lost.
        """
        known = {job.folder: job for job in jobs}
        if any(known.get(job.folder) != job for job in self.current_jobs()):
            raise SweepError(f"Another process changed the jobs of {self.path} meanwhile: the same command goes on.")

    def write_manifest(
        self,
        source: str,
        executor: Executor,
        profile: Path | None,
        jobs: Sequence[Planned],
        studies: Sequence[Study] = (),
        ray_address: str | None = None,
    ) -> None:
        """Write the manifest; studies are added to those in it."""
        named = None if profile is None else str(profile.absolute())
        former = self.manifest().studies if self.file.exists() else ()
        by_key = {study.key: study for study in (*former, *studies)}
        manifest = Manifest(
            source=source,
            executor=executor,
            profile=named,
            ray_address=ray_address,
            jobs=tuple(jobs),
            studies=tuple(by_key.values()),
        )
        write_json(self.file, manifest.model_dump(mode="json"))
        for job in jobs:
            mark = self.folder(job) / TUNED
            if job.tuned_on is not None and not job.fits_model and not mark.exists():
                write_json(mark, job.tuned_on)  # for whoever reads the run without the sweep

    def add(self, jobs: Sequence[Planned]) -> list[Planned]:
        """Append jobs to the manifest, each in a folder of its own.

        Returns:
            The jobs with their folders.
        """
        manifest = self.manifest()
        taken, added = {job.folder for job in manifest.jobs}, list[Planned]()
        for job in jobs:
            added.append(job.model_copy(update={"folder": distinct_folder(job.folder, taken, _key(job))}))
            taken.add(added[-1].folder)
        if added:
            more = manifest.model_copy(update={"jobs": (*manifest.jobs, *added)})
            write_json(self.file, more.model_dump(mode="json"))
        return added

    def job(self, planned: Planned) -> Job:
        """Convert a planned job for executors."""
        fields, model = dict(planned.fields), None
        if planned.model is not None:
            model = self.path / planned.model
            fields["world_model"] = str(model)
        return Job(command=planned.command, name=planned.name, fields=fields, out=self.folder(planned), after=model)

    def folder(self, planned: Planned) -> Path:
        """Locate a job's folder."""
        return self.path / planned.folder

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the sweep against a second launcher; the lock goes with the process, however it ends.

        Raises:
            SweepError: Another launcher is at work on it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            try:
                stream = stack.enter_context(locked(self.path / "lock"))
            except BusyError:
                raise SweepError(
                    f"Another process is launching jobs of {self.path}: see `offline-marl sweep status {self.path}`."
                ) from None
            refuse_links(self.path, ["logs"])
            # Only by who holds it: it says who does.
            stream.truncate(0)
            stream.write(json.dumps([socket.gethostname(), os.getpid()]).encode())
            stream.flush()
            yield

    def launcher(self) -> tuple[str, int] | None:
        """Read machine and process of the launcher that holds the lock; None if there is none."""
        try:
            with locked(self.path / "lock"):
                return None
        except BusyError:
            with contextlib.suppress(OSError, ValueError, TypeError):
                host, process = json.loads((self.path / "lock").read_text(encoding="utf-8"))
                return str(host), int(process)
        except (OSError, LinkError):
            pass
        return None


def merge(old: Sequence[Planned], asked: Sequence[Planned], source: str) -> MergedJobs:
    """Merge a file's jobs into those of a sweep.

    A job is known by its combination (algorithm, task, seed, varied fields). Where a combination has gone from the
    file, a new one of the same settings takes its place: a field added to the grid with the value that it had before
    adds nothing.

    Raises:
        ConfigError: The file changes a setting of a job that is there.
    """
    by_key = {_key(job): job for job in old}
    kept = {_key(job) for job in asked}
    by_settings = {_settings(job): job for job in old if _key(job) not in kept}
    taken, moved = {job.folder for job in old}, dict[str, str]()
    every, named, new = list(old), dict[str, Planned](), list[Planned]()
    # First by combination; then, among the old jobs whose combination the file no longer names, by settings. A match
    # is used up (popped), so that two combinations never share a folder. World models come first in `asked`: by the
    # time a run is compared, `moved` knows in which folder its model really lies.
    for proposed in asked:
        job = proposed.model_copy(update={"model": moved.get(str(proposed.model), proposed.model)})
        match = by_key.get(_key(job))
        if match is not None:
            _refuse_change(match, job, source)
        elif by_settings:
            match = by_settings.pop(_settings(job), None)
        if match is None:
            match = job.model_copy(update={"folder": distinct_folder(job.folder, taken, _key(job))})
            taken.add(match.folder)
            new.append(match)
            every.append(match)
            by_key[_key(match)] = match
        moved[proposed.folder] = match.folder
        named[match.folder] = match
    return MergedJobs(every, list(named.values()), new, moved)


def distinct_folder(folder: str, taken: set[str], key: str) -> str:
    """Append a hash to a folder's name if another job has that name."""
    return folder if folder not in taken else f"{folder}-{key}"


def settings_of(job: Planned) -> dict[str, Any]:
    """Resolve all settings of a job, those of the algorithm among the others.

    Raises:
        BadInputError: See `Planned.settled`.
    """
    settled = job.settled()
    nested: Mapping[str, Any] = settled.pop("settings", {})
    return {**settled, **nested, "world_model": job.model or settled.get("world_model")}


def _key(job: Planned) -> str:
    return digest([job.command, job.about])


def _settings(job: Planned) -> str:
    try:
        return digest([job.command, settings_of(job)])
    except BadInputError:  # of an algorithm, say, that is not installed any more
        return digest(job.model_dump(mode="json"))


def _refuse_change(stored: Planned, job: Planned, source: str) -> None:
    before, now = settings_of(stored), settings_of(job)
    for field in now:
        if now[field] != before.get(field):
            raise ConfigError(
                f"{source} changes {field} of {Path(stored.folder).name} from {before.get(field)!r} to {now[field]!r}, "
                "but a job keeps its settings: put it back, or give the changed sweep another --out."
            )
