"""Software that results depend on: versions of packages, and the commit as git tells it. Imports no torch."""

from __future__ import annotations

import contextlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from offline_marl.core.plugin_files import loaded_plugins

PACKAGES = ("offline-marl", "torch", "numpy", "gymnasium", "mujoco")
DIRTY = "-dirty"
"""Behind a commit: the package's code was not quite that commit's."""
GIT_S = 5.0
"""How long git may take to tell."""


def describe_software() -> dict[str, Any]:
    """Versions of the packages that results depend on, and, of a checkout, the commit, marked if changed since."""
    software: dict[str, Any] = {"python": platform.python_version(), "machine": platform.machine()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            software[name] = metadata.version(name)
    if loaded_plugins():  # told, not remembered as a permission: who goes on names them again
        software["plugins"] = list(loaded_plugins())
    if (commit := describe_commit(Path(__file__).resolve().parents[1])) is not None:
        software["commit"] = commit
    return software


def describe_commit(package: Path) -> str | None:
    """The commit of the checkout that a package's folder lies in, marked where its tracked files were changed since.

    Other files of the checkout are not looked at: benchmarks write their tables into it while runs go on.
    """
    if not (package.parent / ".git").exists():
        return None

    def said(*words: str) -> str:
        # Without optional locks, or reading the state would write to an index that somebody works with.
        asked = ["git", "--no-optional-locks", "-C", str(package.parent), *words]
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=GIT_S).stdout.strip()

    commit = None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        commit = said("rev-parse", "HEAD")
        if said("status", "--porcelain", "--untracked-files=no", "--", package.name):
            commit += DIRTY
    return commit


def short_commit(commit: str) -> str:
    """The first letters of a commit, and the mark behind it."""
    name, mark, _ = commit.partition(DIRTY)
    return name[:10] + mark
