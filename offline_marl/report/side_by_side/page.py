"""The page of a comparison: it holds all it shows, and opens from disk."""

from __future__ import annotations

import base64
import csv
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from offline_marl.core.files import write_atomically
from offline_marl.report.page import figures
from offline_marl.report.page.assemble import head
from offline_marl.report.page.markup import NOTHING, Markup, finite, number, tag, text, void
from offline_marl.report.page.media import KINDS, LARGEST
from offline_marl.report.page.origin import UNCOMPARED_SETTINGS, plain_setting
from offline_marl.report.page.sections import Section, count_of, fold, panel, panels, paragraph
from offline_marl.report.page.tables import Cells, Column, Value, figure, numeric, table
from offline_marl.report.page.training import NON_METRIC_COLUMNS, sample_rows
from offline_marl.report.side_by_side.labels import Asked, Browser
from offline_marl.report.side_by_side.sides import Side, drop_unlike_scales
from offline_marl.training.preferences.report import wilson

TITLE = "Runs side by side"
COMPARED = {"algorithm", "dataset", "environment", "workers", "threads", "device"}
"""Settings that a report tells elsewhere or passes over; of the table of scores the names alone may be the same."""
MOST_METRICS = 24
AGREES = {"first": 1.0, "second": 0.0}


def write_comparison(
    sides: Sequence[Side], browsers: Sequence[Browser], out: Path, *, title: str = TITLE, notes: Sequence[str] = ()
) -> Path:
    """Write the page of some runs; replaced whole or not at all.

    Args:
        sides: The runs.
        browsers: Their labels.
        out: The HTML file.
        title: Of the page.
        notes: What could not be shown, and why.
    """
    write_atomically(out, render(sides, browsers, title=title, notes=notes).encode(errors="replace"))
    return out


def render(
    sides: Sequence[Side], browsers: Sequence[Browser] = (), *, title: str = TITLE, notes: Sequence[str] = ()
) -> str:
    """Render the page as text."""
    sides, unlike = drop_unlike_scales(sides)
    found = [
        _scores(sides, [*notes, *unlike]),
        _films(sides),
        _curves(sides),
        _metrics(sides),
        _settings(sides),
        *(_labels(browser, place) for place, browser in enumerate(browsers)),
    ]
    sections = [part for part in found if part is not None]
    links = tag("ul", [tag("li", tag("a", section.title, href=f"#{section.name}")) for section in sections])
    script = _script()
    body = tag(
        "body",
        tag("a", "Skip to the scores", href="#scores", class_="skip"),
        tag("header", tag("h1", title), tag("p", " · ".join(side.name for side in sides))),
        tag("nav", links, aria_label="Contents"),
        tag("main", [section.drawn() for section in sections]),
        tag("footer", tag("p", "Made by offline-marl report --compare. This file is complete: it fetches nothing.")),
        tag("script", script),
    )
    return f"<!doctype html>\n{tag('html', head(title, script, _file('films.css')), body, lang='en')}\n"


def _script() -> Markup:
    """Sorting and copying of tables, and films that play together, as one script."""
    return Markup(_file("page.js", "offline_marl.report.page") + _file("films.js"))


def _file(name: str, room: str = "offline_marl.report.side_by_side") -> str:
    return files(room).joinpath(name).read_text(encoding="utf-8")


def _key(sides: Sequence[Side]) -> Markup:
    return tag("ul", [figures.legend_item(side.name, style) for style, side in enumerate(sides)], class_="key")


def _scores(sides: Sequence[Side], notes: Sequence[str]) -> Section:
    rows: list[Cells] = []
    for side in sides:
        score = side.score or {}
        numbers = [figure(score.get("return"), 2), figure(score.get("normalized_return"), 1)]
        agreement = figure(score.get("agreement"), 2)
        rows.append([side.name, side.algorithm, side.task, figure(side.seed, 0), *numbers, agreement, side.note])
    columns = [
        Column("run"),
        Column("algorithm"),
        Column("task"),
        *numeric("seed", "return", "normalised", "agreement"),
    ]
    drawn = table("score-table", "Scores of the last checkpoints", [*columns, Column("state")], rows)
    told = tag("ul", [tag("li", note) for note in notes], class_="notes") if notes else None
    return Section("scores", "Scores", text(drawn, told))


def _films(sides: Sequence[Side]) -> Section | None:
    drawn, left = [], []
    for side in sides:
        for file in side.films[:1]:
            if file.stat().st_size > LARGEST:
                left.append(paragraph(f"The film of {side.name} is larger than {LARGEST // 1_000_000} MB."))
                continue
            source = f"data:{KINDS[file.suffix]};base64,{base64.b64encode(file.read_bytes()).decode()}"
            film = tag(
                "video", muted=True, playsinline=True, preload="auto", src=source, aria_label=f"Episodes of {side.name}"
            )
            drawn.append(panel(side.name, film))
    if not drawn:
        return None
    speeds = [tag("option", name, value=value, selected=value == "1") for value, name in _SPEEDS]
    controls = tag(
        "div",
        tag("button", "Play", type="button", id="films-play", class_="copy"),
        tag("label", "Time ", void("input", type="range", min="0", max="1000", value="0", id="films-time")),
        tag("label", "Speed ", tag("select", speeds, id="films-speed")),
        tag("label", void("input", type="checkbox", id="films-loop", checked=True), " Loop"),
        class_="films",
        role="group",
        aria_label="All films together",
    )
    note = paragraph("One clock for all: the films begin together, and each waits at its end for the longest.")
    return Section("films", "Films", text(note, controls, panels(drawn), left))


_SPEEDS = (("0.5", "½"), ("1", "1"), ("1.5", "1½"), ("2", "2"))


def _curves(sides: Sequence[Side]) -> Section | None:
    drawn = []
    for name, unit in (("normalized_return", "normalised return"), ("return", "return")):
        lines = []
        for style, side in enumerate(sides):
            points = [
                figures.Point(float(row["step"] or 0), row[name])
                for row in side.curve
                if finite(row.get("step")) and finite(row.get(name))
            ]
            if len(points) > 1:
                lines.append(figures.Line(side.name, style, points))
        if lines:
            ends = "; ".join(
                f"{line.name} from {number(line.points[0].y)} to {number(line.points[-1].y)}" for line in lines
            )
            chart = figures.line_chart(lines, f"{unit} over updates: {ends}.", "updates", unit)
            drawn.append(panel(unit.capitalize(), chart, ends))
    return Section("curves", "Learning curves", text(_key(sides), panels(drawn))) if drawn else None


def _metrics(sides: Sequence[Side]) -> Section | None:
    lines: dict[str, list[figures.Line]] = {}
    for style, side in enumerate(sides):
        for name, points in _logged(side.folder / "metrics.csv").items():
            if len(points) > 1:
                lines.setdefault(name, []).append(figures.Line(side.name, style, points))
    drawn = [
        panel(
            name, figures.line_chart(those, f"{name} over updates, of {count_of(len(those), 'run')}.", "updates", name)
        )
        for name, those in list(lines.items())[:MOST_METRICS]
    ]
    if not drawn:
        return None
    note = paragraph("What each run logged while it learned. Losses of different algorithms do not compare.")
    shown = fold(f"{count_of(len(drawn), 'metric')}", _key(sides), panels(drawn))
    return Section("metrics", "Training metrics", text(note, shown))


def _logged(path: Path) -> dict[str, list[figures.Point]]:
    made: dict[str, list[figures.Point]] = {}
    try:
        rows = sample_rows(path)
    except csv.Error:
        return made
    for row in rows:
        for name, value in row.items():
            if name not in NON_METRIC_COLUMNS and finite(value):
                made.setdefault(name, []).append(figures.Point(row["step"], value))
    return made


def _settings(sides: Sequence[Side]) -> Section:
    names = dict.fromkeys(name for side in sides for name in side.settings)
    skipped = UNCOMPARED_SETTINGS - COMPARED
    rows: list[Cells] = []
    for name in names:
        values = [plain_setting(side.settings[name]) if name in side.settings else NOTHING for side in sides]
        if name not in skipped and len(set(values)) > 1:
            rows.append([name, *values])
    if not rows:
        return Section("settings", "Settings that differ", paragraph("All settings but the seed are the same."))
    columns = [Column("setting"), *(Column(side.name) for side in sides)]
    return Section("settings", "Settings that differ", table("setting-table", "Settings by run", columns, rows))


def _labels(browser: Browser, place: int) -> Section:
    columns = [Column("pair"), Column("about"), Column("first"), Column("second"), Column("part"), Column("answers")]
    for model in browser.models:
        columns += numeric(f"P(first), {model}", f"disagreement, {model}")
    rows = [_row(asked, browser) for asked in browser.asked]
    note = paragraph(
        "Of each question what people or teachers answered, and what the runs’ reward models say: the probability that "
        "the first is preferred, a mean over members, and the deviation of the members’ probabilities. Tinted is "
        "a probability on the other side of ½ than most answers. Segments are episode:first step+steps.",
        f" {browser.left_out:,} more questions are not shown." if browser.left_out else None,
    )
    shown = table(f"labels-{place}", f"Labels in {browser.folder.name}", columns, rows)
    title = "Labels" if not place else f"Labels in {browser.folder.name}"
    return Section(f"label-browser-{place}", title, text(note, _agreements(browser), shown))


def _agreements(browser: Browser) -> Markup:
    """How often each model tells decided answers, held-out ones and those that it learnt from, and its verdict."""
    lines = []
    for model, found in browser.agreements.items():
        if found is None or not found.held_out[1] or not found.train[1]:
            lines.append(f"{model}: which answers it learnt from is not known, and so not how often it agrees.")
            continue
        hits, count = found.held_out
        low, high = wilson(hits, count)
        learnt, of = found.train
        lines.append(
            f"{model}: agrees with {hits / count:.3f} of {count:,} held-out answers for one of the two (95 % interval "
            f"{low:.3f} to {high:.3f}), and with {learnt / of:.3f} of the {of:,} that it learnt from. By its report it "
            f"is {found.verdict}."
        )
    return tag("ul", [tag("li", line) for line in lines], class_="notes")


def _row(asked: Asked, browser: Browser) -> list[Value | str]:
    pair = asked.pair.pair
    sides = [f"{key.episode}:{key.start}+{key.length}" for key in (pair.first, pair.second)]
    answers = ", ".join(f"{label.annotator}: {label.answer}" for label in asked.labels) or NOTHING
    row: list[Value | str] = [pair.id[:8], asked.target, *sides, asked.pair.split, answers]
    decided = [AGREES[label.answer] for label in asked.labels if label.answer in AGREES]
    wanted = sum(decided) / len(decided) if decided else 0.5
    for model in browser.models:
        told = asked.told[model]
        opposed = (told.probability - 0.5) * (wanted - 0.5) < 0
        row += [Value(number(told.probability, 3), told.probability, 2 if opposed else 0), figure(told.disagreement, 3)]
    return row
