"""Table of the commands of `offline-marl prefs`."""

from __future__ import annotations

from offline_marl.launch.cli.command import Command, run_lazily

COMMANDS = {
    "pairs": Command(
        "FOLDER --dataset ID ...", "choose pairs of segments to ask about, and copy them", run_lazily("prefs.pairs")
    ),
    "simulate": Command("FOLDER [--steepness X ...]", "let a teacher answer", run_lazily("prefs.simulate")),
    "import": Command("FOLDER FILE.csv", "store the labels of a CSV file", run_lazily("prefs.take_in")),
    "export": Command("FOLDER FILE.csv", "write labels, and pairs without, as CSV", run_lazily("prefs.export")),
    "exchange": Command(
        "FOLDER --label-server URL", "send pairs to a labelling server, fetch answers", run_lazily("prefs.exchange")
    ),
    "report": Command("FOLDER", "count labels, agreement and contradictions", run_lazily("prefs.report")),
}
