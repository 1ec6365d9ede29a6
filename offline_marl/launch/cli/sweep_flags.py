"""Flags of `offline-marl sweep` and its subcommands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from offline_marl.core.config import Config
from offline_marl.core.fields import RayAddress

Executor = Literal["debug", "local", "slurm", "ray"]


class ExecutionFlags(Config):
    """Flags that choose executor and profile."""

    executor: Executor | None = None
    """local (processes of this machine), slurm, ray, debug (this process); without it as last time, at first local."""
    ray_address: RayAddress | None = None
    """Cluster for --executor ray, such as auto or 10.0.0.1:6379; without it the profile's, else Ray starts here."""
    profile: Path | None = None
    """TOML file of what a job asks for; without it $OFFLINE_MARL_PROFILE, else the user's profile.toml."""
    parallel: Annotated[int, Field(ge=1)] | None = None
    """Jobs at once at most; without it the profile's array_parallelism, and here as many as there are cores."""
    dry_run: bool = False
    """Print the jobs, and for Slurm the scripts; start and write nothing."""


class StartFlags(ExecutionFlags):
    """Flags of `sweep FILE`."""

    file: CliPositionalArg[Path]
    """Sweep file, or the folder of a sweep to go on with."""
    out: Path | None = None
    """Folder of the sweep; without it sweeps/<name of the file>."""


class FolderFlags(Config):
    """Flag of the commands on a sweep's folder."""

    dir: CliPositionalArg[Path]
    """Folder of the sweep."""


class StatusFlags(FolderFlags):
    """Flags of `sweep status`."""

    # A field called json would hide a method of pydantic's models.
    as_json: Annotated[bool, Field(validation_alias="json")] = False
    """Print JSON for machines."""


class RetryFlags(ExecutionFlags, FolderFlags):
    """Flags of `sweep retry`."""


class CollectFlags(FolderFlags):
    """Flags of `sweep collect`."""

    out: Path | None = None
    """CSV file; without it table.csv in the sweep's folder."""


class BestFlags(ExecutionFlags, FolderFlags):
    """Flags of `sweep best`."""

    metric: str = "normalized_return"
    """What chooses: return, normalized_return, return_low, normalized_low or agreement; more is better."""
    seeds: tuple[int, ...] = ()
    """New seeds for the chosen settings, such as 10,11,12; without them the choice is shown and nothing is started."""
    out: Path | None = None
    """Folder of the new sweep; without it <DIR>-best."""
