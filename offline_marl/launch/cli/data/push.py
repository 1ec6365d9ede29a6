"""Command `offline-marl data push`: upload to the Hugging Face hub, with a card made from the metadata."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from pydantic_settings import CliPositionalArg

from offline_marl.core.config import Config, ConfigError, build
from offline_marl.launch.cli.command import PROGRAM
from offline_marl.launch.cli.flags import read

ABOUT = (
    "Uploads a file of our layout to the Hugging Face hub, with a README.md and a picture made from it, in one commit; "
    "then compares what the hub holds with the file. Log in by `hf auth login` or HF_TOKEN; HF_ENDPOINT is honoured."
)
USAGE = "FILE hf://owner/repo[/path] [--licence L] [--private] [--overwrite]"


class PushFlags(Config):
    """Flags of `data push`."""

    file: CliPositionalArg[str]
    """File of our layout, or a name of the catalogue; `data convert` makes one of anything else."""
    place: CliPositionalArg[str]
    """Where to: hf://owner/repo keeps the file's name, hf://owner/repo/folder/ too, hf://owner/repo/new.safetensors."""
    licence: str | None = None
    """Under which others may use the data, such as apache-2.0 or cc-by-4.0; needed if the metadata name none."""
    private: bool = False
    """Make the repository private, if it is not there yet."""
    overwrite: bool = False
    """Replace another file of the same name, and a README.md that was not made by this command."""


def run(args: Sequence[str]) -> None:
    """Upload a data set.

    Raises:
        BadInputError: The file cannot be used, names no licence, or the hub refuses.
    """
    flags: PushFlags = build(PushFlags, read(PushFlags, "data push", USAGE, ABOUT, args))

    from pathlib import Path

    from offline_marl.datasets.catalog import SUFFIX
    from offline_marl.datasets.writers.hub import Target, Upload, push
    from offline_marl.launch.cli.data.describe import describe_data
    from offline_marl.launch.cli.data.loading import load_named

    target = Target.parse(flags.place, Path(flags.file).name if flags.file.endswith(SUFFIX) else flags.file + SUFFIX)
    data, kept = load_named(flags.file)
    file = Path(kept)
    if file.suffix != SUFFIX or not file.is_file():
        raise ConfigError(f"{flags.file} is no file of our layout: `{PROGRAM} data convert` makes one.")
    description = describe_data(data)
    licence = _licence(description["licence"] if isinstance(description["licence"], str) else None, flags)
    picture = _picture(data, file.name)
    card: dict[str, Any] = {**description, "name": data.metadata.get("name"), "licence": licence}
    done = push(Upload(file, card, picture, flags.private, flags.overwrite), target)
    print(f"{'pushed':<12}{done.uri}")
    print(f"{'sha256':<12}{done.sha256}, the hub's is the same")
    print(f"{'commit':<12}{done.commit}")
    if done.left_readme:
        print(f"{'card':<12}the README.md there is not of this command and was left as it is: --overwrite replaces it")
    print(f"{'get it':<12}{PROGRAM} data pull {shlex.quote(done.uri)}")


def _licence(known: str | None, flags: PushFlags) -> str:
    if known and flags.licence and known.lower() != flags.licence.lower():
        raise ConfigError(f"{flags.file} says that its licence is {known}, not {flags.licence}: leave --licence away.")
    if not (known or flags.licence):
        raise ConfigError(f"{flags.file} names no licence: say --licence, such as --licence apache-2.0 or cc-by-4.0.")
    return known or str(flags.licence)


def _picture(data: Any, title: str) -> bytes | None:
    from offline_marl.core.types import DataError
    from offline_marl.datasets.picture import draw_data

    try:
        return draw_data(data, title)
    except DataError as error:
        print(f"{'picture':<12}none: {error}")
        return None
