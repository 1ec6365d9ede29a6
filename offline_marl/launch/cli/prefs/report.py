"""Command `offline-marl prefs report`: labels counted, and how far annotators agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic_settings import CliPositionalArg

from offline_marl.core.config import Config, build
from offline_marl.launch.cli.flags import read
from offline_marl.launch.cli.text import print_lines, printable, table

ABOUT = (
    "Counts pairs and labels, by answer, annotator and target; how often annotators agree with themselves on pairs "
    "that were asked twice, and with each other (Cohen's kappa); and shows labels that contradict themselves."
)
SHOWN = 10
"""Contradictions that are shown one by one."""


class ReportFlags(Config):
    """Flags of `prefs report`."""

    folder: CliPositionalArg[Path]
    """Folder of comparisons."""
    json_file: Path | None = None
    """Write all of it into this file, too."""


def run(args: Sequence[str]) -> None:
    """Report on the labels of a folder.

    Raises:
        BadInputError: There is no such folder.
    """
    flags: ReportFlags = build(ReportFlags, read(ReportFlags, "prefs report", "FOLDER [--json-file FILE]", ABOUT, args))

    from offline_marl.runs.folder import write_json
    from offline_marl.training.preferences.answering import summarize
    from offline_marl.training.preferences.folders import ComparisonFolder

    with ComparisonFolder(flags.folder) as folder:
        summary = summarize(folder)
    if flags.json_file is not None:
        write_json(flags.json_file, summary)
    print_lines(map(printable, _lines(summary)))


def _lines(summary: Mapping[str, Any]) -> list[str]:
    answers = ", ".join(f"{count:,} {answer}" for answer, count in summary["answers"].items())
    lines = [
        f"{'data':<12}{summary['data']}",
        f"{'pairs':<12}{summary['pairs']:,}, of which {summary['held_out_pairs']:,} are held out and "
        f"{summary['answered_pairs']:,} answered",
        f"{'labels':<12}{summary['labels']:,}: {answers}",
    ]
    if summary["targets"]:
        lines.append(f"{'about':<12}" + ", ".join(f"{n:,} {name}" for name, n in sorted(summary["targets"].items())))
    if summary["repeated"]:
        lines.append(f"{'repeats':<12}{summary['self_agreement']:.3f} of {summary['repeated']:,} answered as before")
    for name in ("ratings", "credit"):
        if summary[name]:
            counts = ", ".join(f"{count:,} {answer}" for answer, count in summary[name].items())
            lines.append(f"{name:<12}{sum(summary[name].values()):,}: {counts}")
    if summary["skip_reasons"]:
        lines.append(f"{'skipped':<12}" + ", ".join(f"{n:,} {why}" for why, n in summary["skip_reasons"].items()))
    if summary["median_response_ms"] is not None:
        lines.append(f"{'time':<12}{summary['median_response_ms'] / 1000:.1f} s for an answer, in the median")
    rows = [(name, *map(str, counts.values())) for name, counts in sorted(summary["annotators"].items())]
    if rows:
        lines += ["", *table([("annotator", "first", "second", "equal", "skip"), *rows])]
    pairs = [
        (" and ".join(one["annotators"]), "-" if one["kappa"] is None else f"{one['kappa']:.3f}", str(one["questions"]))
        for one in summary["kappa"]
    ]
    if pairs:
        lines += ["", *table([("annotators", "kappa", "questions"), *pairs])]
    opposed = summary["contradictions"]
    if opposed:
        lines += ["", f"{len(opposed):,} questions were answered in two ways by one annotator:"]
        lines += table([tuple(one) for one in opposed[:SHOWN]])
    return lines
