"""Command `offline-marl prefs exchange`: a folder here and a labelling server elsewhere, kept in step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import CliPositionalArg

from offline_marl.core.config import Config, ConfigError, build
from offline_marl.launch.cli.flags import read

ABOUT = (
    "Sends the pairs of FOLDER to a server that `label OTHER --receive` runs on another machine, with copies of their "
    "segments, and stores the answers that people gave there. Doing it again does what is left to do. The token may "
    "stand in the environment variable OFFLINE_MARL_LABEL_TOKEN instead of the address."
)
USAGE = "FOLDER --label-server URL [--wait ANSWERS]"
PAUSE = 5.0
"""Seconds between two looks for answers."""


class ExchangeFlags(Config):
    """Flags of `prefs exchange`."""

    folder: CliPositionalArg[Path]
    """Folder of comparisons."""
    label_server: str | None = None
    """Address that `label` printed there."""
    wait: Annotated[int, Field(ge=0)] = 0
    """Go on until the folder holds so many answers that nobody took back."""


def run(args: Sequence[str]) -> None:
    """Keep a folder and a server in step.

    Raises:
        BadInputError: There is no such folder, or the server asks about other data.
        LabelServerError: It does not answer.
    """
    flags: ExchangeFlags = build(ExchangeFlags, read(ExchangeFlags, "prefs exchange", USAGE, ABOUT, args))
    if flags.label_server is None:
        raise ConfigError("prefs exchange needs --label-server URL, which `offline-marl label` prints where it runs.")

    from offline_marl.preferences.label_server import LabelServer
    from offline_marl.training.preferences.elsewhere import Reached, exchange
    from offline_marl.training.preferences.folders import ComparisonFolder

    server, reached = LabelServer(flags.label_server), Reached()
    with ComparisonFolder(flags.folder) as folder:
        while True:
            moved = exchange(folder, server, reached)
            held = folder.store.standing()
            print(f"{'sent':<12}{moved.pairs:,} pairs that were not there", flush=True)
            print(f"{'answers':<12}{moved.labels:,} new here, {held:,} in all", flush=True)
            if held >= flags.wait:
                return
            time.sleep(PAUSE)
