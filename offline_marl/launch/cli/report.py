"""Command `offline-marl report`: flags, call and output."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from pydantic_settings import CliPositionalArg

from offline_marl.core.config import Config, ConfigError, build
from offline_marl.launch.cli.flags import read

if TYPE_CHECKING:
    from offline_marl.report.statistics.estimates import Estimate, Evidence

ABOUT = (
    "Statistics of finished runs with 95 % intervals, as tables and a page: run folders, folders of them, sweeps, and "
    "tables as `sweep collect` writes them. What is unfinished or failed is listed and in no average."
)
USAGE = "PATH... --out DIR [--best] [--reps N] [--seed N] [--videos] [--compare] [--title TEXT]"
MOST_WINS = 10
FLAGS_WITH_VALUE = {"--out", "--reps", "--seed", "--title"}
"""Flags whose value is the next word."""


class ReportFlags(Config):
    """Flags of the command `report`."""

    paths: CliPositionalArg[list[Path]]
    """Run folders, folders of them at any depth, sweeps, or tables (CSV)."""
    out: Path | None = None
    """Folder of the report; files of an earlier one in it are replaced."""
    best: bool = False
    """Score each run's best evaluation, which was chosen on the test environment, in place of its last checkpoint."""
    reps: Annotated[int, Field(ge=100, le=50_000)] = 2_000
    """Bootstrap resamples behind each interval."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of the resampling; the same one gives the same intervals."""
    videos: bool = False
    """Film a run of each label and task (12 at most), and put these and other videos that lie in the folders into the
    page, which may become large."""
    compare: bool = False
    """Put two to four runs, finished or not, side by side instead: films on one clock (--videos makes them), curves,
    settings that differ, and labels beside what their reward models say."""
    title: str | None = None
    """Of the page."""


def run(args: Sequence[str]) -> None:
    """Report on runs.

    Raises:
        BadInputError: Of a kind that says what is wrong.
    """
    words, paths = _number_paths(args)
    given = {**read(ReportFlags, "report", USAGE, ABOUT, words), "paths": paths}
    if "out" not in given:
        raise ConfigError("report needs --out DIR, such as --out report.")
    flags: ReportFlags = build(ReportFlags, given)
    out = Path(str(flags.out))
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file: name a folder.")

    if flags.compare:
        return _compare(flags, out)

    from offline_marl.report.gather.gathering import gather
    from offline_marl.report.statistics.summary import summarize

    evidence = summarize(gather(flags.paths), reps=flags.reps, seed=flags.seed, best=flags.best)
    filmed: list[Path] = []
    if flags.videos:
        from offline_marl.report.films import film_runs

        filmed, reasons = film_runs(evidence.gathered.runs, out / "videos")
        evidence = replace(evidence, notes=(*evidence.notes, *reasons))
    files = _write(evidence, out, flags, filmed)
    _print(evidence)
    for file in files:
        print(f"{file.name:<16}{file}")


def _compare(flags: ReportFlags, out: Path) -> None:
    """Write the page of runs side by side."""
    from offline_marl.report.films import film_sides
    from offline_marl.report.side_by_side.labels import browsers_of
    from offline_marl.report.side_by_side.page import TITLE, write_comparison
    from offline_marl.report.side_by_side.sides import read_sides

    sides, notes = read_sides(flags.paths), list[str]()
    if flags.videos:
        sides, notes = film_sides(sides, out / "videos")
    browsers, reasons = browsers_of(sides)
    notes = [*notes, *reasons]
    page = write_comparison(sides, browsers, out / "compare.html", title=flags.title or TITLE, notes=notes)
    for side in sides:
        score = "no score yet" if side.score is None else f"return {side.score['return']:.3f}"
        _print_lines([f"{side.name}: {score}{', ' + side.note if side.note else ''}"])
    _print_lines(f"note: {note}" for note in notes)
    print(f"{page.name:<16}{page}")


def _number_paths(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Replace each path by its number, and give the paths: flags of lists are split at commas and quotes."""
    words: list[str] = []
    paths: list[str] = []
    for previous, arg in zip(["", *args], args, strict=False):
        if arg.startswith("-") or previous in FLAGS_WITH_VALUE:
            words.append(arg)
        else:
            words.append(str(len(paths)))
            paths.append(arg)
    return words, paths


def _write(evidence: Evidence, out: Path, flags: ReportFlags, filmed: Sequence[Path]) -> list[Path]:
    """Write every file of the report, the page first."""
    from offline_marl.report.export import export
    from offline_marl.report.page.assemble import TITLE, write_page

    page = out / "report.html"
    files = export(evidence, out)
    write_page(evidence, flags.paths, page, title=flags.title or TITLE, videos=flags.videos, filmed=filmed)
    return [page, *files]


def _print(evidence: Evidence) -> None:
    from offline_marl.launch.cli.text import table

    count = len(evidence.gathered.runs)
    print(f"{count} run{'' if count == 1 else 's'}, {evidence.scored}; mean over runs [95 % interval]")
    for task in evidence.tasks:
        _print_lines([task])
        cells = [cell for cell in evidence.cells if cell.task == task]
        known = next((cell for cell in cells if cell.data_return is not None), None)
        if known is not None:
            normalized = "" if known.data_normalized is None else f"{known.data_normalized:.1f}"
            data = [("(the data itself)", "", f"{known.data_return:.3f}", normalized, "")]
        else:
            data = []
        rows = [
            (
                cell.label,
                str(cell.runs),
                _format_estimate(cell.mean, 3),
                _format_estimate(cell.normalized_mean, 1),
                "" if cell.tuned_on is None else cell.tuned_on,
            )
            for cell in cells
        ]
        _print_lines(table([("label", "runs", "return", "normalized", ""), *rows, *data]))
    _print_over_tasks(evidence)
    _print_asides(evidence)


def _print_over_tasks(evidence: Evidence) -> None:
    from offline_marl.launch.cli.text import table

    if evidence.aggregates and len(evidence.tasks) > 1:
        print(f"all {len(evidence.tasks)} tasks, normalised")
        rows = [
            (row.label, *(_format_estimate(value, 1) for value in (row.iqm, row.mean, row.median, row.optimality_gap)))
            for row in evidence.aggregates
        ]
        _print_lines(table([("label", "IQM", "mean", "median", "optimality gap"), *rows]))
    wins = [row for row in evidence.comparisons if row.wins]
    for row in wins[:MOST_WINS]:
        where = row.tasks[0] if len(row.tasks) == 1 else f"{len(row.tasks)} tasks"
        probability = _format_estimate(row.probability, 2)
        _print_lines([f"{row.label} returns more than {row.other} with probability {probability} on {where}"])
    if len(wins) > MOST_WINS:
        print(f"... and {len(wins) - MOST_WINS} more wins")


def _print_asides(evidence: Evidence) -> None:
    if evidence.gathered.left_out:
        print(f"left out: {len(evidence.gathered.left_out)}")
        _print_lines(f"  {entry.name}: {entry.why}" for entry in evidence.gathered.left_out)
    _print_lines(f"note: {note}" for note in evidence.notes)


def _print_lines(lines: Iterable[str]) -> None:
    """Print each on a line of its own, whatever names in it hold."""
    from offline_marl.report.gather.scores import strip_control_characters

    for line in lines:
        print(strip_control_characters(line.replace("\n", " ")))


def _format_estimate(estimate: Estimate | None, digits: int) -> str:
    if estimate is None:
        return ""
    value = _format_number(estimate.value, digits)
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} [{_format_number(estimate.low, digits)}, {_format_number(estimate.high, digits)}]"


def _format_number(value: float, digits: int) -> str:
    """Format with so many digits, or with four significant ones where those would show zero or a long number."""
    return f"{value:.4g}" if 0 < abs(value) < 0.5 * 0.1**digits or abs(value) >= 1e9 else f"{value:.{digits}f}"
