"""Section of cross-play: the matrix as a table with tinted cells, its groups and its summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from offline_marl.report.page.axes import value_range
from offline_marl.report.page.markup import Markup, finite, number, tag, text
from offline_marl.report.page.sections import Section, count_of, fold, paragraph
from offline_marl.report.page.tables import Cells, Column, Value, estimate, figure, numeric, table
from offline_marl.report.statistics.estimates import Estimate

Table = Sequence[Sequence[float | None]]
TINTS = 5


def crossplay_section(matrix: Mapping[str, Any], count: int = 1) -> Section | None:
    """Draw a cross-play matrix.

    Args:
        matrix: The content of a crossplay.json.
        count: Which one of the page it is, from 1.
    """
    runs = [str(run.get("name", "")) for run in matrix["runs"]]
    scale = "normalized" if matrix.get("normalized_return") else "return"
    values = matrix.get("normalized_return") or matrix.get("return")
    if not values or not runs:
        return None
    unit = "normalised return" if scale == "normalized" else "return"
    digits = 1 if scale == "normalized" else None
    name, which = f"crossplay-{count}", "" if count == 1 else f" {count}"
    task = f"{which} on {matrix.get('task', '')}"
    ends = value_range([value for row in values for value in row], margin=0)
    bounds = matrix.get(f"{scale}_low"), matrix.get(f"{scale}_high")
    drawn = [_table(name, f"Cross-play{task}, {unit}", matrix, values, bounds, ends, digits)]
    if matrix.get("agreement"):
        caption = f"Cross-play{task}, agreement"
        shares = _table(f"{name}-agreement", caption, matrix, matrix["agreement"], (None, None), (0.0, 1.0), 2)
        drawn.append(fold("Agreement of each pairing", shares))
    explanation = paragraph(
        f"Agents of different runs play together; the diagonal is each run with itself. {matrix.get('entry', '')} "
        f"Mean {unit} over {matrix.get('episodes', '')} starts; a stronger tint is higher."
    )
    notes = [paragraph(str(note)) for note in matrix.get("notes") or ()]
    shown = text(_groups(matrix, runs), explanation, drawn, _sums(matrix, scale, name, task), notes)
    return Section(name, f"Cross-play{which}", shown)


def _table(
    name: str,
    caption: str,
    matrix: Mapping[str, Any],
    values: Table,
    bounds: tuple[Table | None, Table | None],
    ends: tuple[float, float],
    digits: int | None,
) -> Markup:
    """Draw the matrix in the order of its groups; tints divide the range between the ends evenly."""
    runs = [str(run.get("name", "")) for run in matrix["runs"]]
    order = matrix.get("order") or list(range(len(runs)))
    low, high = bounds
    rows: list[Cells] = []
    for i in order:
        cells = [
            _cell(Estimate(value, *((low[i][j], high[i][j]) if low and high else ())), ends, digits)
            if (value := values[i][j]) is not None and finite(value)
            else number(None)
            for j in order
        ]
        rows.append([runs[i], *cells])
    columns = [Column("run"), *numeric(*(runs[j] for j in order))]
    return table(name, caption, columns, rows, stacked=True)


def _cell(score: Estimate, ends: tuple[float, float], digits: int | None) -> Value:
    share = (score.value - ends[0]) / (ends[1] - ends[0])
    return Value(estimate(score, digits).shown, score.value, max(0, min(TINTS - 1, int(TINTS * share))))


def _groups(matrix: Mapping[str, Any], runs: Sequence[str]) -> Markup | None:
    groups = matrix.get("groups") or []
    if not groups:
        return None
    if len(groups) == 1:
        return paragraph(tag("b", "No two runs are apart"), ": playing together costs none of them much.")
    items = []
    for group in groups:
        names = ", ".join(runs[row] for row in group["members"])
        way = f" ({group['convention']})" if group.get("convention") else ""
        items.append(tag("li", names, way))
    count = count_of(len(groups), "group")
    return text(
        paragraph(tag("b", f"The runs fall into {count}"), " that share a convention within and not across:"),
        tag("ul", items),
    )


def _sums(matrix: Mapping[str, Any], prefix: str, name: str, task: str) -> Markup | None:
    """Draw the means of self-play, cross-play, within and across groups."""
    value = "normalized_return" if prefix == "normalized" else "return"
    rows: list[Cells] = []
    for pairings, interval in (matrix.get("summary") or {}).items():
        if interval:
            low, high = number(interval.get(f"{prefix}_low"), 2), number(interval.get(f"{prefix}_high"), 2)
            rows.append([str(pairings).replace("_", "-"), figure(interval.get(value), 2), f"[{low}, {high}]"])
    if not rows:
        return None
    columns = [Column("pairings"), *numeric("mean", "95 % interval")]
    return table(f"{name}-sums", f"Means of the pairings{task}", columns, rows)
