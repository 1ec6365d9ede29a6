"""The answer first: who is best on each task, whether that may be said, and what was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from offline_marl.report.page import figures
from offline_marl.report.page.comparing import told_if_best
from offline_marl.report.page.markup import Markup, number, tag, text
from offline_marl.report.page.sections import (
    Section,
    counted,
    folded,
    is_normalized,
    listed,
    panel,
    panels,
    ranked,
    said,
    shown,
    styles_of,
)
from offline_marl.report.page.tables import told, told_interval
from offline_marl.report.statistics.estimates import FEWEST_TO_CLAIM, Cell, Evidence

MOST_TOLD = 4
"""Tasks up to which each has its sentence at the top; of more it is told who is best on how many."""


def answer_section(evidence: Evidence) -> Section:
    """One sentence and one figure for each task."""
    tasks = [[cell for cell in evidence.cells if cell.task == task] for task in evidence.tasks]
    sentences = [tag("li", sentence(evidence, cells)) for cells in tasks]
    overall = [tag("li", each) for each in (_overall(evidence),) if each]
    if len(tasks) > MOST_TOLD:
        wins = tag("li", _wins(evidence, tasks))
        each = folded("Task by task", tag("ul", sentences, class_="answer small"))
        told_ = text(tag("ul", overall, wins, class_="answer"), each)
    else:
        told_ = tag("ul", overall, sentences, class_="answer")
    drawn = panels([_figure(evidence, cells) for cells in tasks])
    unit = "Normalised returns: 0 is random play, 100 the expert's. " if is_normalized(evidence.cells) else ""
    about = said(
        f"{unit}Interquartile means over runs with 95\u00a0% bootstrap intervals; small dots are runs. "
        f"Scored: {evidence.scored}."
    )
    return Section("answer", "The answer", text(told_, drawn, about, _beside(evidence)))


def sentence(evidence: Evidence, cells: Sequence[Cell]) -> Markup:
    """Who leads on a task, by how much, and whether that may be said.

    Args:
        evidence: Of all tasks.
        cells: Of one task.
    """
    first, *others = ranked(cells)
    normalized = is_normalized(cells)
    start = text(tag("span", f"{first.task}: ", class_="task"), tag("b", first.label))
    score = tag("span", _said(first, normalized), class_="score")
    if not others:
        return text(start, " scores ", score, f" over {counted(first.runs, 'run')}.")
    near = _not_beaten(evidence, first, others)
    level = [each.label for each in others if shown(each, normalized).value == shown(first, normalized).value]
    if level:
        rest = [each for each in others if each.label not in level]
        after = f". Next is {rest[0].label} {_said(rest[0], normalized)}." if rest else "."
        return text(
            start, _beside_it(level), " are level at ", tag("span", _value(first, normalized), class_="score"), after
        )
    second = f"Next is {others[0].label} {_said(others[0], normalized)}."
    if not near:
        clear = "; its interval lies clear of " + ("the other’s" if len(others) == 1 else "every other’s")
        return text(start, " is best, ", score, clear if _clear(first, others, normalized) else "", f". {second}")
    if first.runs < FEWEST_TO_CLAIM:
        few = f", but {counted(first.runs, 'run')} {'is' if first.runs == 1 else 'are'} too few to claim a win. "
        return text(start, " leads with ", score, few, _met(first, others, normalized) or second)
    beaten = len(others) - len(near)
    won = f" and beats {beaten} of {counted(len(others), 'other')}" if beaten else ""
    names = listed([f"{each.label} {_said(each, normalized)}" for each in near])
    return text(start, " leads with ", score, f"{won}. The runs do not tell it from {names}.")


def _said(cell: Cell, normalized: bool) -> str:
    return told(shown(cell, normalized), 1 if normalized else None)


def _beside_it(others: Sequence[str]) -> str:
    return f"{' and' if len(others) == 1 else ','} {listed(others)}"


def _value(cell: Cell, normalized: bool) -> str:
    return number(shown(cell, normalized).value, 1 if normalized else None)


def _met(first: Cell, others: Sequence[Cell], normalized: bool) -> str | None:
    """Whose intervals overlap the first one's; None where it has none."""
    if shown(first, normalized).low is None:
        return None
    bare = [each.label for each in others if shown(each, normalized).high is None]
    if bare:
        return f"Next is {others[0].label} {_said(others[0], normalized)}; of one run no interval can be given."
    meets = [f"{each.label} {_said(each, normalized)}" for each in others if not _clear(first, [each], normalized)]
    if meets:
        return f"Its interval meets that of {listed(meets)}."
    return f"Its interval lies clear of every other’s; next is {others[0].label} {_said(others[0], normalized)}."


def _not_beaten(evidence: Evidence, first: Cell, others: Sequence[Cell]) -> list[Cell]:
    """What the first may not be called better than: no comparison says so, or, without one, intervals meet."""
    asked = first.label, (first.task,)
    held = {each.other: each.wins for each in evidence.comparisons if (each.label, each.tasks) == asked}
    normalized = is_normalized([first, *others])
    return [each for each in others if not held.get(each.label, _clear(first, [each], normalized))]


def _clear(first: Cell, others: Sequence[Cell], normalized: bool) -> bool:
    low = shown(first, normalized).low
    highs = [shown(each, normalized).high for each in others]
    return low is not None and all(high is not None and high < low for high in highs)


def _overall(evidence: Evidence) -> Markup | None:
    """Who is best over all tasks, where that can be told."""
    held = sorted(evidence.aggregates, key=lambda each: (-each.iqm.value, each.label))
    if len(held) < 2 or len(held[0].tasks) < 2:
        return None
    first, second = held[:2]
    wins = {
        each.other: each.wins for each in evidence.comparisons if (each.label, each.tasks) == (first.label, first.tasks)
    }
    near = [each.label for each in held[1:] if not wins.get(each.label, False)]
    verdict = f"leads, but the runs do not tell it from {listed(near)}" if near else "is best"
    level = [each.label for each in held[1:] if each.iqm.value == first.iqm.value]
    where = tag("span", f"Over all {len(first.tasks)} tasks: ", class_="task")
    score = tag("span", told(first.iqm, 1), class_="score")
    if level:
        return text(
            where,
            tag("b", first.label),
            _beside_it(level),
            " are level at ",
            tag("span", number(first.iqm.value, 1), class_="score"),
            ".",
        )
    return text(
        where, tag("b", first.label), f" {verdict}, ", score, f". Next is {second.label} {told(second.iqm, 1)}."
    )


def _wins(evidence: Evidence, tasks: Sequence[Sequence[Cell]]) -> Markup:
    """On how many tasks each label is best, and on how many nobody is."""
    counts: Counter[str] = Counter()
    for cells in tasks:
        first, *others = ranked(cells)
        counts["" if not others or _not_beaten(evidence, first, others) else first.label] += 1
    best = [f"{label} on {count}" for label, count in counts.most_common() if label]
    open_ = f"On {counts['']} no winner can be named." if counts[""] else ""
    names = f"Best are {listed(best)}. " if best else ""
    return text(tag("span", f"Of {counted(len(tasks), 'task')}: ", class_="task"), names, open_)


def _beside(evidence: Evidence) -> Markup | None:
    """What a reader must know beside the answer: what was left out, and all notes."""
    lines: list[Markup] = []
    if evidence.gathered.left_out:
        count = counted(len(evidence.gathered.left_out), "run")
        verb = "is" if len(evidence.gathered.left_out) == 1 else "are"
        lines.append(
            text(f"{count} {verb} in no average: ", tag("a", "what was left out, and why", href="#left-out"), ".")
        )
    if any(cell.tuned_on for cell in evidence.cells):
        names = sorted({cell.label for cell in evidence.cells if cell.tuned_on})
        lines.append(text(f"Settings of {listed(names)} were tuned; the table says how."))
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
    for cell in ranked(cells):
        held = shown(cell, normalized)
        low, high = held.low, held.high
        rows.append(
            figures.Interval(
                cell.label,
                styles[cell.label],
                held.value,
                low,
                high,
                parts.get(cell.label, ()),
                told(held, 1 if normalized else None),
            )
        )
    own = next((cell.data_normalized if normalized else cell.data_return for cell in cells), None)
    digits = 1 if normalized else None
    marks = {} if own is None else {f"the data’s own mean, {number(own, digits)}": own}
    alt = f"Interquartile mean {name.replace('_', ' ')} on {cells[0].task}, best first. {_in_words(cells, normalized)}"
    alt += f" The data’s own mean is {number(own, digits)}." if own is not None else ""
    drawn = figures.intervals(rows, alt, name.replace("_", " ").replace("normalized", "normalised"), marks=marks)
    return panel(cells[0].task, drawn, f"{_counts(cells)}{told_if_best(evidence)}")


def _in_words(cells: Sequence[Cell], normalized: bool) -> str:
    told_ = []
    for cell in ranked(cells):
        held = shown(cell, normalized)
        interval = told_interval(held).strip("[]").replace(", ", " to ")
        told_.append(f"{cell.label} {number(held.value)}" + (f", interval {interval}" if interval else ""))
    return "; ".join(told_) + "."


def _counts(cells: Sequence[Cell]) -> str:
    fewest, most = min(cell.runs for cell in cells), max(cell.runs for cell in cells)
    each = counted(most, "run") if fewest == most else f"{fewest} to {most} runs"
    return f"{each} each" if len(cells) > 1 else each
