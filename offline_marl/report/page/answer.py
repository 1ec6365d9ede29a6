"""Section of the answer: the best label on each task, the strength of that claim, and notes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from offline_marl.report.page import figures
from offline_marl.report.page.comparing import scored_suffix
from offline_marl.report.page.markup import Markup, number, tag, text
from offline_marl.report.page.sections import (
    Section,
    count_of,
    fold,
    is_normalized,
    join_names,
    panel,
    panels,
    paragraph,
    rank,
    score_of,
    styles_of,
)
from offline_marl.report.page.tables import format_estimate, format_interval
from offline_marl.report.statistics.estimates import FEWEST_TO_CLAIM, Cell, Evidence

MOST_TOLD = 4
"""Tasks up to which each has its sentence at the top; of more, wins are counted."""


def answer_section(evidence: Evidence) -> Section:
    """Draw one sentence and one figure for each task."""
    tasks = [[cell for cell in evidence.cells if cell.task == task] for task in evidence.tasks]
    sentences = [tag("li", sentence(evidence, cells)) for cells in tasks]
    overall = [tag("li", details) for details in (_overall(evidence),) if details]
    if len(tasks) > MOST_TOLD:
        wins = tag("li", _wins(evidence, tasks))
        details = fold("Task by task", tag("ul", sentences, class_="answer small"))
        items = text(tag("ul", overall, wins, class_="answer"), details)
    else:
        items = tag("ul", overall, sentences, class_="answer")
    drawn = panels([_figure(evidence, cells) for cells in tasks])
    unit = "Normalised returns: 0 is random play, 100 the expert's. " if is_normalized(evidence.cells) else ""
    note = paragraph(
        f"{unit}Interquartile means over runs with 95\u00a0% bootstrap intervals; small dots are runs. "
        f"Scored: {evidence.scored}."
    )
    return Section("answer", "The answer", text(items, drawn, note, _notes(evidence)))


def sentence(evidence: Evidence, cells: Sequence[Cell]) -> Markup:
    """Compose the sentence on the leader of a task, its lead, and whether that is a win.

    Args:
        evidence: Of all tasks.
        cells: Of one task.
    """
    first, *others = rank(cells)
    normalized = is_normalized(cells)
    start = text(tag("span", f"{first.task}: ", class_="task"), tag("b", first.label))
    score = tag("span", _format_score(first, normalized), class_="score")
    if not others:
        return text(start, " scores ", score, f" over {count_of(first.runs, 'run')}.")
    near = _not_beaten(evidence, first, others)
    level = [cell.label for cell in others if score_of(cell, normalized).value == score_of(first, normalized).value]
    if level:
        rest = [cell for cell in others if cell.label not in level]
        after = f". Next is {rest[0].label} {_format_score(rest[0], normalized)}." if rest else "."
        return text(
            start,
            _join_level(level),
            " are level at ",
            tag("span", _format_value(first, normalized), class_="score"),
            after,
        )
    second = f"Next is {others[0].label} {_format_score(others[0], normalized)}."
    if not near:
        clear = "; its interval lies clear of " + ("the other’s" if len(others) == 1 else "every other’s")
        return text(start, " is best, ", score, clear if _is_clear(first, others, normalized) else "", f". {second}")
    if first.runs < FEWEST_TO_CLAIM:
        few = f", but {count_of(first.runs, 'run')} {'is' if first.runs == 1 else 'are'} too few to claim a win. "
        return text(start, " leads with ", score, few, _describe_overlap(first, others, normalized) or second)
    beaten = len(others) - len(near)
    won = f" and beats {beaten} of {count_of(len(others), 'other')}" if beaten else ""
    unsure = [cell for cell in near if cell.runs < FEWEST_TO_CLAIM]
    close = [cell for cell in near if cell.runs >= FEWEST_TO_CLAIM]
    untold = f" The runs do not tell it from {_join_scores(close, normalized)}." if close else ""
    lacking = f" There are too few runs to claim a win over {_join_scores(unsure, normalized)}." if unsure else ""
    return text(start, " leads with ", score, f"{won}.{untold}{lacking}")


def _join_scores(cells: Sequence[Cell], normalized: bool) -> str:
    return join_names([f"{cell.label} {_format_score(cell, normalized)}" for cell in cells])


def _format_score(cell: Cell, normalized: bool) -> str:
    return format_estimate(score_of(cell, normalized), 1 if normalized else None)


def _join_level(others: Sequence[str]) -> str:
    return f"{' and' if len(others) == 1 else ','} {join_names(others)}"


def _format_value(cell: Cell, normalized: bool) -> str:
    return number(score_of(cell, normalized).value, 1 if normalized else None)


def _describe_overlap(first: Cell, others: Sequence[Cell], normalized: bool) -> str | None:
    """Describe which intervals overlap the first one's; None where it has none."""
    if score_of(first, normalized).low is None:
        return None
    bare = [cell.label for cell in others if score_of(cell, normalized).high is None]
    if bare:
        return f"Next is {others[0].label} {_format_score(others[0], normalized)}; of one run no interval can be given."
    meets = [
        f"{cell.label} {_format_score(cell, normalized)}" for cell in others if not _is_clear(first, [cell], normalized)
    ]
    if meets:
        return f"Its interval meets that of {join_names(meets)}."
    return (
        f"Its interval lies clear of every other’s; next is {others[0].label} {_format_score(others[0], normalized)}."
    )


def _not_beaten(evidence: Evidence, first: Cell, others: Sequence[Cell]) -> list[Cell]:
    """Select cells that the first does not beat: by the comparison, or without one by overlapping intervals."""
    wanted = first.label, (first.task,)
    wins = {cell.other: cell.wins for cell in evidence.comparisons if (cell.label, cell.tasks) == wanted}
    normalized = is_normalized([first, *others])
    return [cell for cell in others if not wins.get(cell.label, _is_clear(first, [cell], normalized))]


def _is_clear(first: Cell, others: Sequence[Cell], normalized: bool) -> bool:
    low = score_of(first, normalized).low
    highs = [score_of(cell, normalized).high for cell in others]
    return low is not None and all(high is not None and high < low for high in highs)


def _overall(evidence: Evidence) -> Markup | None:
    """Compose the sentence on the leader over all tasks, where there are aggregates."""
    rows = sorted(evidence.aggregates, key=lambda row: (-row.iqm.value, row.label))
    if len(rows) < 2 or len(rows[0].tasks) < 2:
        return None
    first, second = rows[:2]
    wins = {row.other: row.wins for row in evidence.comparisons if (row.label, row.tasks) == (first.label, first.tasks)}
    near = [row.label for row in rows[1:] if not wins.get(row.label, False)]
    verdict = f"leads, but the runs do not tell it from {join_names(near)}" if near else "is best"
    level = [row.label for row in rows[1:] if row.iqm.value == first.iqm.value]
    where = tag("span", f"Over all {len(first.tasks)} tasks: ", class_="task")
    score = tag("span", format_estimate(first.iqm, 1), class_="score")
    if level:
        return text(
            where,
            tag("b", first.label),
            _join_level(level),
            " are level at ",
            tag("span", number(first.iqm.value, 1), class_="score"),
            ".",
        )
    return text(
        where,
        tag("b", first.label),
        f" {verdict}, ",
        score,
        f". Next is {second.label} {format_estimate(second.iqm, 1)}.",
    )


def _wins(evidence: Evidence, tasks: Sequence[Sequence[Cell]]) -> Markup:
    """Count the tasks on which each label wins, and those without a winner."""
    counts: Counter[str] = Counter()
    for cells in tasks:
        first, *others = rank(cells)
        counts["" if not others or _not_beaten(evidence, first, others) else first.label] += 1
    best = [f"{label} on {count}" for label, count in counts.most_common() if label]
    open_ = f"On {counts['']} no winner can be named." if counts[""] else ""
    names = f"Best are {join_names(best)}. " if best else ""
    return text(tag("span", f"Of {count_of(len(tasks), 'task')}: ", class_="task"), names, open_)


def _notes(evidence: Evidence) -> Markup | None:
    """List the notes: left-out runs, tuned settings, and those of the evidence."""
    lines: list[Markup] = []
    if evidence.gathered.left_out:
        count = count_of(len(evidence.gathered.left_out), "run")
        verb = "is" if len(evidence.gathered.left_out) == 1 else "are"
        lines.append(
            text(f"{count} {verb} in no average: ", tag("a", "what was left out, and why", href="#left-out"), ".")
        )
    if any(cell.tuned_on for cell in evidence.cells):
        names = sorted({cell.label for cell in evidence.cells if cell.tuned_on})
        lines.append(text(f"Settings of {join_names(names)} were tuned; the table says how."))
    lines += [text(note) for note in evidence.notes]
    return tag("ul", [tag("li", line) for line in lines], class_="notes") if lines else None


def _figure(evidence: Evidence, cells: Sequence[Cell]) -> Markup:
    normalized, styles = is_normalized(cells), styles_of(evidence)
    name = "normalized_return" if normalized else "return"
    parts: dict[str, list[float]] = {}
    for run in evidence.gathered.runs:
        value = run.score.get(name)
        if run.task == cells[0].task and value is not None:
            parts.setdefault(run.label, []).append(value)
    rows = []
    for cell in rank(cells):
        score = score_of(cell, normalized)
        low, high = score.low, score.high
        rows.append(
            figures.Interval(
                cell.label,
                styles[cell.label],
                score.value,
                low,
                high,
                parts.get(cell.label, ()),
                format_estimate(score, 1 if normalized else None),
            )
        )
    data_mean = next((cell.data_normalized if normalized else cell.data_return for cell in cells), None)
    digits = 1 if normalized else None
    marks = {} if data_mean is None else {f"the data’s own mean, {number(data_mean, digits)}": data_mean}
    alt = f"Interquartile mean {name.replace('_', ' ')} on {cells[0].task}, best first. {_describe(cells, normalized)}"
    alt += f" The data’s own mean is {number(data_mean, digits)}." if data_mean is not None else ""
    drawn = figures.interval_chart(rows, alt, name.replace("_", " ").replace("normalized", "normalised"), marks=marks)
    return panel(cells[0].task, drawn, f"{_counts(cells)}{scored_suffix(evidence)}")


def _describe(cells: Sequence[Cell], normalized: bool) -> str:
    phrases = []
    for cell in rank(cells):
        score = score_of(cell, normalized)
        interval = format_interval(score).strip("[]").replace(", ", " to ")
        phrases.append(f"{cell.label} {number(score.value)}" + (f", interval {interval}" if interval else ""))
    return "; ".join(phrases) + "."


def _counts(cells: Sequence[Cell]) -> str:
    fewest, most = min(cell.runs for cell in cells), max(cell.runs for cell in cells)
    runs = count_of(most, "run") if fewest == most else f"{fewest} to {most} runs"
    return f"{runs} each" if len(cells) > 1 else runs
