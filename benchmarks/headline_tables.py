"""Tables and curves of the headline, from the committed rows alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import headline_plan as plan
import numpy as np
from headline_plan import PROTOCOL, RESULTS, TUNED_ON, WITH_HISTORY, Row, chosen, learners, settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cell = tuple[str, str, float]
"""Learner, data set, budget."""
COLORS = dict(zip(("moma-ppo", "bc", "iql", "ma-iql", "td3-bc", "cql", "omar"), ("black", *"rbgmcy"), strict=True))
LINES = {"": "-", "with model": "--", "oracle": "--", "centralised": ":", "unconstrained": ":"}
"""Of a learner's variants."""
RULES = {"agreement": ("full", "nearer pose"), "agreement_strict": ("none", "within a third")}
"""Columns of the rules of agreement, with their marks and names."""


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over seeds, by percentiles."""
    draws = np.random.default_rng(0).integers(len(values), size=(10_000, len(values)))
    low, high = np.percentile(values[draws].mean(1), [2.5, 97.5])
    return float(low), float(high)


def refuse_other_commits(rows: list[Row]) -> None:
    """Make sure that all rows are of one commit."""
    commits = {row["commit"] for row in rows}
    assert len(commits) <= 1, f"rows come from several commits: {sorted(commits)}"


def cells(rows: list[Row]) -> dict[Cell, list[Row]]:
    """Rows of the scores, by learner, data set and budget."""
    found: dict[Cell, list[Row]] = {}
    for row in rows:
        if row["stage"] == "final":
            found.setdefault((row["learner"], row["dataset"], float(row["factor"])), []).append(row)
    return found


def values(rows: list[Row], name: str) -> np.ndarray:
    """A column as numbers."""
    return np.array([float(row[name]) for row in rows])


def tables(rows: list[Row]) -> Iterator[str]:
    """Lines of all tables: scores by data set and budget, then what was tried."""
    refuse_other_commits(rows)
    if not rows:
        yield "No run has ended yet."
        return
    found = cells(rows)
    for dataset, factor in dict.fromkeys((dataset, factor) for _, dataset, factor in found):
        shown = {name: held for (name, *rest), held in found.items() if rest == [dataset, factor]}
        yield from _scores(dataset, factor, shown)
        yield ""
    yield from _tried(rows)


def _scores(dataset: str, factor: float, shown: dict[str, list[Row]]) -> Iterator[str]:
    seeds, starts = PROTOCOL["seeds"]["final"], PROTOCOL["starts"]["final"]
    yield (
        f"`{dataset}`, {factor:g} of the budget; seeds {seeds[0]} to {seeds[-1]}, "
        f"{PROTOCOL['episodes']['score']} episodes of starts {starts:,}:"
    )
    yield ""
    yield "| learner | setting | updates | processor time | normalised return | agree: nearer | within a third |"
    yield "|---|---|---|---|---|---|---|"
    for name, held in sorted(shown.items(), key=lambda item: -values(item[1], "normalized_return").mean()):
        score = values(held, "normalized_return")
        low, high = interval(score)
        few = "" if len(held) == len(seeds) else f" ({len(held)} of {len(seeds)} seeds)"
        agreed = [f"{values(held, rule).mean():.2f}" for rule in ("agreement", "agreement_strict")]
        yield (
            f"| `{name}` | `{held[0]['setting']}` | {int(held[0]['updates']):,} | {values(held, 'cpu_s').mean():.0f} s "
            f"| {score.mean():.1f} [{low:.1f}, {high:.1f}]{few} | {agreed[0]} | {agreed[1]} |"
        )


def _tried(rows: list[Row]) -> Iterator[str]:
    """What was tried of each learner, and what was chosen."""
    tried = [row for row in rows if row["stage"] == "tune"]
    if not tried:
        return
    seeds = " and ".join(map(str, PROTOCOL["seeds"]["tune"]))
    yield f"Tried on `{TUNED_ON}`, seeds {seeds}, starts {PROTOCOL['starts']['tune']:,}; the best mean is chosen:"
    yield ""
    yield "| learner | setting | updates | normalised return, by seed | agree: nearer | |"
    yield "|---|---|---|---|---|---|"
    for name in learners():
        best = chosen(name, rows)
        for setting in (each for each in settings() if each.learner == name):
            held = [row for row in tried if (row["learner"], row["setting"]) == (name, setting.label)]
            if held:
                scores = ", ".join(f"{score:.1f}" for score in values(held, "normalized_return"))
                agreed = f"{values(held, 'agreement').mean():.2f}"
                mark = "chosen" if best == setting else ""
                yield f"| `{name}` | `{setting.label}` | {int(held[0]['updates']):,} | {scores} | {agreed} | {mark} |"


def draw(rows: list[Row], curves: list[Row]) -> Iterator[Path]:
    """Pictures for each data set and budget: scores, and what they were on the way."""
    yield from (_draw_scores(*group, shown) for group, shown in _by_group(rows).items())
    yield from (_draw_curves(*group, shown) for group, shown in _by_group(curves).items())


def _by_group(rows: list[Row]) -> dict[tuple[str, float], dict[str, list[Row]]]:
    """Rows of the scores, by data set and budget, then by learner."""
    groups: dict[tuple[str, float], dict[str, list[Row]]] = {}
    for (name, dataset, factor), held in cells(rows).items():
        groups.setdefault((dataset, factor), {})[name] = held
    return groups


def _draw_scores(dataset: str, factor: float, shown: dict[str, list[Row]]) -> Path:
    """Normalised return with its interval, and agreement by both rules; a line for each learner, the best first."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.2 + 0.3 * len(shown)), layout="constrained")
    score, agreed = figure.subplots(1, 2, sharey=True)
    ranked = sorted(shown.items(), key=lambda item: values(item[1], "normalized_return").mean())
    for place, (name, held) in enumerate(ranked):
        color, returns = _style(name)["color"], values(held, "normalized_return")
        score.hlines(place, *interval(returns), color=color, linewidth=3, alpha=0.4)
        score.plot(returns, np.full(len(returns), place), ".", color=color, alpha=0.5)
        score.plot(returns.mean(), place, "|", color=color, markersize=14)
        for rule, (fill, _) in RULES.items():
            agreed.plot(values(held, rule).mean(), place, "o", color=color, fillstyle=fill)
    for fill, label in RULES.values():
        agreed.plot([], "o", color="gray", fillstyle=fill, label=label)
    score.set_yticks(range(len(ranked)), [f"{name} ({len(held)})" for name, held in ranked], fontsize=8)
    score.set_xlabel("normalised return: seeds, mean, 95 % interval", fontsize=8)
    agreed.set_xlabel("share of episodes in which the agents agree", fontsize=8)
    agreed.axvline(0.5, color="gray", linestyle=":", linewidth=1)
    agreed.set_xlim(0, 1.03)
    agreed.legend(fontsize=7, loc="lower right")
    figure.suptitle(f"{dataset}, {factor:g} of the budget", fontsize=10)
    return _saved(figure, f"scores_{dataset}_x{factor:g}")


def _draw_curves(dataset: str, factor: float, shown: dict[str, list[Row]]) -> Path:
    """Score and agreement on the way, over updates at the left, over processor time at the right: means over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), layout="constrained")
    figure.suptitle(f"{dataset}, {factor:g} of the budget")
    panels = figure.subplots(2, 2, sharey="row")
    for name, held in shown.items():
        points = list(_points(held))
        for column, x in enumerate(("updates", "cpu_s")):
            for line, y in enumerate(("normalized_return", "agreement")):
                xs, ys = ([point[what] for point in points] for what in (x, y))
                panels[line, column].plot(xs, ys, label=name, **_style(name))
    for column, label in enumerate(("updates", "processor time in seconds, the model's fit included")):
        panels[1, column].set_xlabel(label)
        panels[1, column].set_ylim(0, 1.02)
    panels[0, 0].set_xscale("log")
    panels[1, 0].set_xscale("log")
    panels[0, 0].set_ylabel("normalised return")
    panels[1, 0].set_ylabel("agreement, nearer pose")
    panels[0, 1].legend(fontsize=7)
    return _saved(figure, f"curves_{dataset}_x{factor:g}")


def _style(name: str) -> dict[str, Any]:
    base, _, variant = name.removesuffix(WITH_HISTORY).partition(" ")
    return {"color": COLORS[base], "linestyle": LINES[variant], "alpha": 0.5 if name.endswith(WITH_HISTORY) else 1.0}


def _saved(figure: Figure, name: str) -> Path:
    import matplotlib as mpl

    path = RESULTS / f"{name}.svg"
    with mpl.rc_context({"svg.hashsalt": "headline"}):
        figure.savefig(path, metadata={"Date": None})
    return path


def _points(rows: list[Row]) -> Iterator[dict[str, Any]]:
    for updates in sorted({int(row["updates"]) for row in rows}):
        held = [row for row in rows if int(row["updates"]) == updates]
        names = ("normalized_return", "agreement", "cpu_s")
        yield {"updates": updates, **{name: values(held, name).mean() for name in names}}


def show() -> None:
    """Print all tables."""
    print("\n".join(tables(plan.read("rows"))))
