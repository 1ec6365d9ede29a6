"""Tables and curves of the headline, from the committed rows alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import headline_plan as plan
import numpy as np
from headline_again import of_strangers, unpacked
from headline_plan import PROTOCOL, RESULTS, TUNED_ON, Job, Row, Setting, beyond, chosen, learners, tuning
from rows import put_table, write

from offline_marl.environments.base import Conventions
from offline_marl.environments.reacher import SIDES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = plan.HERE.parent / "docs" / "results.md"
Cell = tuple[str, str, float]
"""Learner, data set, budget."""
COLORS = dict(zip(("moma-ppo", "bc", "iql", "ma-iql", "td3-bc", "cql", "omar"), ("black", *"rbgmcy"), strict=True))
LINES = {"": "-", "with model": "--", "oracle": "--", "centralised": ":", "unconstrained": ":"}
"""Of a learner's variants."""
RULES = {"agreement": ("full", "nearer pose"), "agreement_strict": ("none", "within a third")}
"""Columns of the rules of agreement, with their marks and names."""

DRAWN = ("moma-ppo", "td3-bc", "ma-iql", "bc")
"""Learners of whom a picture shows what they settle on by target."""
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""97.5 % quantiles of Student's t, by the number of runs."""


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean over seeds, by Student's t: percentiles of a bootstrap of five are too narrow."""
    if len(values) < 2:
        return float("nan"), float("nan")
    half = STUDENT[len(values)] * float(values.std(ddof=1)) / len(values) ** 0.5
    return float(values.mean()) - half, float(values.mean()) + half


def refuse_other_commits(rows: list[Row]) -> None:
    """Make sure that all rows are of one commit."""
    commits = {row["commit"] for row in rows}
    assert len(commits) <= 1, f"rows come from several commits: {sorted(commits)}"


def cells(rows: list[Row]) -> dict[Cell, list[Row]]:
    """Rows of the scores, by learner, data set and budget."""
    found: dict[Cell, list[Row]] = {}
    for row in rows:
        if row.get("stage", "final") == "final":
            found.setdefault((row["learner"], row["dataset"], float(row["factor"])), []).append(row)
    return found


def values(rows: list[Row], name: str) -> np.ndarray:
    """A column as numbers."""
    return np.array([float(row[name]) for row in rows])


def tables(rows: list[Row], again: list[Row]) -> Iterator[str]:
    """Lines of all tables: scores by data set and budget, then what was tried.

    Args:
        rows: Of all jobs.
        again: What a second look at the scored ones saw.
    """
    refuse_other_commits(rows)
    if not rows:
        yield "No run has ended yet."
        return
    found, seen = cells(rows), cells(again)
    labels = {(job.dataset, job.setting.label): job.label for job in plan.jobs(rows)}
    groups = dict.fromkeys((dataset, factor) for _, dataset, factor in found)
    for dataset, factor in sorted(groups, key=lambda group: group[0] != TUNED_ON):
        group = [
            (name, labels.get((dataset, held[0]["setting"]), ""), held, seen.get((name, *rest), []))
            for (name, *rest), held in found.items()
            if rest == [dataset, factor]
        ]
        yield from _scores(dataset, factor, group)
        yield ""
    yield from _tried(rows, "tune", f"Tried on `{TUNED_ON}`, {_tuning()}; the best mean is chosen:")
    yield from _tried(rows, "beyond", f"Tried there beyond the grid, when the scores were known, {_tuning()}:")


def _tuning() -> str:
    seeds = " and ".join(map(str, PROTOCOL["seeds"]["tune"]))
    return f"seeds {seeds}, {PROTOCOL['episodes']['score']} episodes of starts {PROTOCOL['starts']['tune']:,}"


def _scores(dataset: str, factor: float, group: list[tuple[str, str, list[Row], list[Row]]]) -> Iterator[str]:
    """Learners, the best first; agreement is one column where both rules are one."""
    seeds, starts, again = PROTOCOL["seeds"]["final"], PROTOCOL["starts"]["final"], PROTOCOL["again"]
    two = any(row["agreement"] != row["agreement_strict"] for _, _, held, _ in group for row in held)
    rules = ("agreement", "agreement_strict") if two else ("agreement",)
    yield (
        f"`{dataset}`, {factor:g} of the budget; seeds {seeds[0]} to {seeds[-1]}, {PROTOCOL['episodes']['score']} "
        f"episodes of starts {starts:,}, and {again['episodes']} of starts {again['starts']:,}:"
    )
    yield ""
    agree = ("agree: nearer", "within a third") if two else ("agree",)
    there = "agree there" + (": nearer, within a third" if two else "")
    columns = ("learner", "setting", "updates", "processor time", "normalised return", *agree)
    columns += (f"on starts {again['starts']:,}", there, "strangers agree")
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for name, label, held, seen in sorted(group, key=lambda each: -values(each[2], "normalized_return").mean()):
        few = "" if len(held) == len(seeds) else f" ({len(held)} of {len(seeds)} seeds)"
        line = [f"`{name}`", f"`{label}`", f"{int(held[0]['updates']):,}", f"{values(held, 'cpu_s').mean():.0f} s"]
        line += [_over(held) + few, *(f"{values(held, rule).mean():.2f}" for rule in rules)]
        line += _second_look(seen, rules)
        yield f"| {' | '.join(line)} |"
    known = [float(row["data"]) for _, _, _, seen in group for row in seen]
    if known:
        yield "| the data itself |" + " |" * 3 + f" {known[0]:.1f} |" + " |" * (len(columns) - 5)


def _over(rows: list[Row]) -> str:
    """Mean and interval over seeds of the normalised return."""
    score = values(rows, "normalized_return")
    low, high = interval(score)
    return f"{score.mean():.1f} [{low:.1f}, {high:.1f}]" if len(score) > 1 else f"{score.mean():.1f}"


def _second_look(rows: list[Row], rules: Sequence[str]) -> list[str]:
    """Score, agreement by every rule, and that of strangers."""
    if not rows:
        return ["", "", ""]
    few = "" if len(rows) == len(PROTOCOL["seeds"]["final"]) else f" ({len(rows)} seed{'s' * (len(rows) > 1)})"
    agreed = ", ".join(f"{values(rows, rule).mean():.2f}" for rule in rules)
    strangers = of_strangers([unpacked(row["followed"]) for row in rows])
    return [_over(rows) + few, agreed, "" if np.isnan(strangers) else f"{strangers:.2f}"]


def _tried(rows: list[Row], stage: str, title: str) -> Iterator[str]:
    """What was tried of each learner, and what was chosen."""
    tried = [row for row in rows if row["stage"] == stage]
    if not tried:
        return
    yield title
    yield ""
    columns = ("learner", "setting", "updates", "processor time", "normalised return, by seed")
    yield f"| {' | '.join((*columns, 'agree: nearer', 'within a third'))} | |"
    yield "|---|---|---|---|---|---|---|---|"
    for name in learners():
        best = chosen(name, rows)
        mine = [row for row in tried if row["learner"] == name]
        for label in dict.fromkeys(job.setting.label for job in _planned(name, stage, best)):
            held = [row for row in mine if row["setting"] == label]
            if held:
                scores = ", ".join(f"{score:.1f}" for score in values(held, "normalized_return"))
                agreed = " | ".join(f"{values(held, rule).mean():.2f}" for rule in RULES)
                time = f"{values(held, 'cpu_s').mean():.0f} s"
                mark = "chosen" if best is not None and best.label == label else ""
                yield f"| `{name}` | `{label}` | {int(held[0]['updates']):,} | {time} | {scores} | {agreed} | {mark} |"
    yield ""


def _planned(learner: str, stage: str, best: Setting | None) -> list[Job]:
    if stage == "tune":
        return tuning(learner)
    return beyond(best) if best is not None else []


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


def draw_targets(again: list[Row], targets: list[Row]) -> Path:
    """What agents of the first seed settle on in the own-joint view, by where the target is."""
    from matplotlib.figure import Figure

    from offline_marl.training.run_picture import draw_conventions

    seed, shown = str(PROTOCOL["seeds"]["final"][0]), []
    places = np.stack([values(targets, axis) for axis in ("x", "y")], axis=1)
    for name in DRAWN:
        for row in cells(again).get((name, TUNED_ON, 1.0), []):
            if row["seed"] == seed:
                shown.append((name, Conventions(tuple(SIDES), unpacked(row["followed"]), places)))
    figure = Figure(figsize=(3.2 * len(shown), 3.8), layout="constrained")
    for axes, (name, conventions) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        draw_conventions(axes, conventions)
        axes.get_legend().remove()
        axes.set_title(f"{name}: {conventions.agreed.mean():.0%} agree", fontsize=10)
    handles, labels = axes.get_legend_handles_labels()
    words = [label.rpartition(" ")[0] for label in labels]
    figure.legend(handles, words, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(f"seed {seed}, {PROTOCOL['again']['episodes']} starts", fontsize=10)
    path = RESULTS / f"targets_{TUNED_ON}_x1.png"
    figure.savefig(path, dpi=100)
    return path


def _style(name: str) -> dict[str, Any]:
    base, _, variant = plan.bare(name).partition(" ")
    return {"color": COLORS[base], "linestyle": LINES[variant], "alpha": 1.0 if plan.bare(name) == name else 0.5}


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
    print("\n".join(tables(plan.read("rows"), plan.read("again"))))


FOR_REPORT = {
    **{"algo": "learner", "dataset": "dataset", "seed": "seed", "step": "updates", "return": "return"},
    **{"return_low": "low", "return_high": "high", "normalized_return": "normalized_return", "agreement": "agreement"},
    **{"episodes": "episodes", "commit": "commit", "wall_s": "cpu_s"},
}
"""Columns of a report's rows, and those of ours that they are."""


def write_for_report(file: Path) -> None:
    """The scores of the budget once, as rows that `offline-marl report` reads.

    Of data whose runs had a second look, which says what the data itself returns: a report would ask data that happens
    to be on this machine for what a row lacks, and the page would differ between machines.
    """
    of_data = {
        row["dataset"]: {"data_return": row["data_return"], "data_normalized": row["data"]}
        for row in plan.read("again")
    }
    told = [
        {**{name: row[ours] for name, ours in FOR_REPORT.items()}, **of_data[row["dataset"]]}
        for row in plan.read("rows")
        if row["stage"] == "final" and float(row["factor"]) == 1 and row["dataset"] in of_data
    ]
    write(file, [*FOR_REPORT, "data_return", "data_normalized"], told)


def write_page() -> None:
    """Put the tables where docs/results.md shows them, and draw the pictures."""
    put_table(PAGE, "declared", "\n".join(tables(plan.read("rows"), plan.read("again"))))
    print(
        *draw(plan.read("rows"), plan.read("curves")), draw_targets(plan.read("again"), plan.read("targets")), sep="\n"
    )
