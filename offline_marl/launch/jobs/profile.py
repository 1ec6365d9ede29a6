"""Profiles: a site's resources of a job, in one file that commands and sweeps read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from platformdirs import user_config_path
from pydantic import Field

from offline_marl.core.config import Config, ConfigError, build, load_settings
from offline_marl.core.fields import Count, CountOrZero, Positive, RayAddress

PROFILE_VARIABLE = "OFFLINE_MARL_PROFILE"


class Profile(Config):
    """Resources of a job; None leaves a value to the site."""

    account: str | None = None
    """Whom the time is charged to."""
    partition: str | None = None
    """Partition, or several with commas."""
    qos: str | None = None
    """Quality of service."""
    minutes: Count = 720
    """Time limit of a turn; a job that needs longer saves and takes another one."""
    cpus: Count = 1
    """Cores of a job."""
    memory_gb: Positive | None = None
    """Memory of a job."""
    gpus: CountOrZero = 0
    """GPUs of a job."""
    constraint: str | None = None
    """Features that its node should have."""
    setup: tuple[str, ...] = ()
    """Shell lines before the job: `module load ...`, `export ...`."""
    container: str | None = None
    """Words before `python`, such as `apptainer exec --nv /images/torch.sif`; python is then the container's."""
    array_parallelism: Count = 64
    """Jobs of one submission that run at once; with the local executor, processes at once."""
    requeues: CountOrZero = 20
    """Turns after the first that a job may take when its time is over."""
    signal_delay_s: Count = 120
    """Seconds before the end at which a job is told to save."""
    ray_address: RayAddress | None = None
    """Address of a running Ray cluster, such as auto or 10.0.0.1:6379; without it the ray executor starts one here."""
    nodes: Count | None = None
    """Nodes of a job on Slurm whose learners work on Ray, which is started on all of them and ends with it."""
    sbatch: dict[str, str | int | bool] = Field(default_factory=dict)
    """Other parameters of sbatch, such as {"mail-type" = "FAIL"}; false leaves one away, or says --no-requeue."""


def read_profile(file: Path | None = None) -> Profile:
    """Read a profile: a file, else the one that $OFFLINE_MARL_PROFILE names, else the user's, else defaults.

    Raises:
        ConfigError: The file is missing or unreadable, or a key is unknown or has a bad value.
    """
    path = find_profile(file)
    if path is None:
        return Profile()
    try:
        settings: dict[str, Any] = {name.replace("-", "_"): value for name, value in load_settings(path).items()}
        profile: Profile = build(Profile, settings)
    except ConfigError as error:
        if str(path) in str(error):
            raise
        raise ConfigError(f"In the profile {path}: {error}") from None
    return profile


def find_profile(file: Path | None = None) -> Path | None:
    """Find the file that `read_profile` reads; None where there is none."""
    named = file if file is not None else os.environ.get(PROFILE_VARIABLE)
    if named:
        return Path(named)
    user_file = user_config_path("offline_marl", appauthor=False) / "profile.toml"
    return user_file if user_file.is_file() else None
