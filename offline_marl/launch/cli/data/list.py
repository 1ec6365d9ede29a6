"""Command `offline-marl data list`: the catalogue, and how to name tasks. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from offline_marl.launch.cli.command import read_words
from offline_marl.launch.cli.list import dataset_rows, partition_lines
from offline_marl.launch.cli.text import print_lines, table


def run(args: Sequence[str]) -> None:
    """List the catalogue.

    Raises:
        ConfigError: There are words behind the command.
    """
    wanted = read_words("data list", args, "", "Data sets of the catalogue.", most=0)
    if wanted is None:
        return
    print_lines(table(dataset_rows()))
    print("\nTrain on NAME_CONF_VIEW, who moves what and who sees what (or NAME --conf CONF --view VIEW):")
    print_lines(f"  {line}" for line in partition_lines())
    print("or on a file, with _CONF_VIEW if it is not split among agents: FILE.safetensors, D4RL's FILE.hdf5, hf://...")
