"""Flags that all commands have which give jobs to an executor."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from offline_marl.core.config import Config


class SubmitFlags(Config):
    """To whom jobs are given, and how."""

    executor: Literal["debug", "local", "slurm"] = "slurm"
    """slurm, local (processes of this machine) or debug (this process)."""
    profile: Path | None = None
    """TOML file of what a job asks for; without it $OFFLINE_MARL_PROFILE, else the user's profile.toml."""
    dry_run: bool = False
    """Print the scripts and submit nothing."""
