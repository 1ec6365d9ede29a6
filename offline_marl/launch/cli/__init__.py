"""Command line: one file a command."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; see `entry.main`."""
    # Only now, so that no module of this package meets the others half imported.
    from offline_marl.launch.cli.entry import main as run

    run(argv)
