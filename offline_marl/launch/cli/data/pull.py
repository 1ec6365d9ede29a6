"""Command `offline-marl data pull`: download from the hub, or copy from the catalogue."""

from __future__ import annotations

import filecmp
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from pydantic_settings import CliPositionalArg

from offline_marl.core.config import Config, ConfigError, build
from offline_marl.launch.cli.command import PROGRAM
from offline_marl.launch.cli.flags import read

ABOUT = (
    "Fetches data through the hub's own cache, compares it with the checksums that the hub tells and with its own, "
    "and copies it to OUT: whole or not at all."
)
USAGE = "PLACE [OUT] [--overwrite]"


class PullFlags(Config):
    """Flags of `data pull`."""

    place: CliPositionalArg[str]
    """hf://owner/repo/path, if need be with @revision; or a name of the catalogue."""
    out: CliPositionalArg[Path | None] = None
    """File or folder to write; without it, the last part of PLACE's path, here."""
    overwrite: bool = False
    """Replace OUT if it exists."""


def run(args: Sequence[str]) -> None:
    """Fetch a data set.

    Raises:
        BadInputError: It is not there, arrives damaged, or `OUT` exists.
    """
    flags: PullFlags = build(PullFlags, read(PullFlags, "data pull", USAGE, ABOUT, args))

    from offline_marl.datasets.catalog import SUFFIX
    from offline_marl.datasets.files import load_data
    from offline_marl.datasets.staging import staged
    from offline_marl.launch.cli.data.growth_bar import growth_bar

    source, name = _found(flags.place)
    out = flags.out or Path(name)
    if source.is_file() and out.is_file() and filecmp.cmp(source, out, shallow=False):
        print(f"{'file':<12}{out}, which was the same already")
        return
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"{out} is a folder with something in it: choose another OUT.")
    with staged(out, flags.overwrite) as place:
        files = [source] if source.is_file() else [file for file in source.rglob("*") if file.is_file()]
        with growth_bar(place.parent, sum(file.stat().st_size for file in files), f"copying {name}"):
            shutil.copytree(source, place) if source.is_dir() else shutil.copyfile(source, place)
        if source.suffix == SUFFIX:
            load_data(place)
    print(f"{'file' if out.is_file() else 'folder':<12}{out}")
    print(f"{'look at it':<12}{PROGRAM} data info {shlex.quote(str(out))}")


def _found(place: str) -> tuple[Path, str]:
    """Fetch a place into the cache; gives its path there and its name."""
    from offline_marl.datasets.catalog import CATALOG, find, path_of
    from offline_marl.datasets.places import HUB
    from offline_marl.datasets.readers.storage.huggingface import HubPlace, fetch
    from offline_marl.tasks.data_tasks import load_recording

    if place.startswith(HUB):
        return fetch(place), Path(HubPlace.parse(place).path).name
    if place not in CATALOG and ("://" in place or Path(place).suffix):
        raise ConfigError(f"PLACE is {place}: it should be {HUB}owner/repo/path, or a name of the catalogue.")
    load_recording(find(place).name)
    return path_of(place), path_of(place).name
