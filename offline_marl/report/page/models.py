"""Section of world models: their errors, calibration and verdicts on held-out episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from offline_marl.report.page import figures
from offline_marl.report.page.markup import Markup, number, tag, text
from offline_marl.report.page.material import Model
from offline_marl.report.page.sections import Section, count_of, fold, panel, panels, paragraph
from offline_marl.report.page.tables import Cells, Column, Value, figure, numeric, table
from offline_marl.training.models.report import verdict

STEPS_AHEAD = 10
"""Steps ahead at which the table compares models."""
MOST_DRAWN = 12
"""Models with figures; the table holds all."""


def models_section(models: Sequence[Model]) -> Section | None:
    """Draw a row for each model, and figures of each."""
    if not models:
        return None
    columns = [Column("world model"), Column("verdict")]
    columns += numeric(
        f"error {STEPS_AHEAD} steps ahead", "if nothing changed", "reward bias a step", "rank correlation", "cut off"
    )
    trusted = sum(bool(model.report["trusted"]) for model in models)
    note = paragraph(
        f"{trusted} of {count_of(len(models), 'model')} can be trusted on held-out episodes. Errors are in deviations "
        "of the data; the rank correlation is that of a model’s spread with its error: 1 doubts exactly where it errs."
    )
    drawn = [fold(f"{model.name}: figures", _figures(model)) for model in models[:MOST_DRAWN]]
    parts = text(
        note, table("models", "World models on held-out episodes", columns, [_row(entry) for entry in models]), drawn
    )
    return Section("models", "World models", parts)


def _row(model: Model) -> Cells:
    report = model.report
    ahead = _error_ahead(report.get("open_loop"), "error"), _error_ahead(report.get("open_loop"), "nothing_changes")
    rewards, cutoff = report.get("rewards") or {}, report.get("cutoff") or {}
    spread = (report.get("spread") or {}).get(cutoff.get("spread")) or {}
    share = cutoff.get("share_above")
    return [
        model.name,
        Value(tag("span", verdict(report), class_="long"), float(bool(report["trusted"]))),
        figure(ahead[0]),
        figure(ahead[1]),
        figure(rewards.get("bias_open_loop")),
        figure(spread.get("correlation_open_loop"), 2),
        Value("" if share is None else f"{100 * share:.1f} %", share),
    ]


def _error_ahead(curves: Mapping[str, Any] | None, name: str) -> float | None:
    values: Sequence[float | None] = (curves or {}).get(name) or []
    return values[STEPS_AHEAD - 1] if len(values) >= STEPS_AHEAD else None  # where no episode is as long there is none


def _figures(model: Model) -> Markup:
    report = model.report
    drawn: list[Markup] = []
    loop, rewards = report.get("open_loop") or {}, report.get("rewards") or {}
    steps = loop.get("steps") or []
    pairs = (
        ("Observations, on its own predictions", loop.get("error"), loop.get("nothing_changes"), "if nothing changed"),
        ("Sum of rewards", rewards.get("sum_error"), rewards.get("sum_mean_reward"), "always the mean reward"),
    )
    for title, ours, naive, name in pairs:
        if steps and ours and naive:
            curves = [("the model", ours), (name, naive)]
            ends = "; ".join(f"{who} {number(values[-1])}" for who, values in curves)
            alt = f"{title} of {model.name}, error in deviations after {steps[-1]} steps: {ends}."
            drawn.append(
                panel(
                    title,
                    _lines(curves, steps, alt, "steps ahead", "error / deviation"),
                    f"Solid: model; dashed: {name}.",
                )
            )
    return panels([*drawn, *_calibration(model)])


def _calibration(model: Model) -> list[Markup]:
    calibration = model.report.get("calibration") or {}
    nominal = calibration.get("nominal") or []
    curves = [
        (name, calibration[key])
        for name, key in (("next observations", "next_obs"), ("rewards", "rewards"))
        if calibration.get(key)
    ]
    if not nominal or not curves:
        return []
    middle = len(nominal) // 2
    ends = "; ".join(f"of {name} {number(values[middle])} do" for name, values in curves)
    alt = f"Calibration of {model.name}: where {number(nominal[middle])} should lie inside, {ends}."
    drawn = _lines(
        [*curves, ("as it should be", nominal)], nominal, alt, "share said to lie inside", "share that does", (0.0, 1.0)
    )
    return [
        panel("Is it as sure as it is right?", drawn, "Solid: observations; dashed: rewards; dotted: as it should be.")
    ]


def _lines(
    named: Sequence[tuple[str, Sequence[float | None]]],
    steps: Sequence[float],
    alt: str,
    x_label: str,
    y_label: str,
    limits: tuple[float, float] | None = None,
) -> Markup:
    curves = [
        figures.Line(name, style, [figures.Point(*point) for point in zip(steps, values)])  # noqa: B905 - may be cut
        for style, (name, values) in enumerate(named)
    ]
    return figures.line_chart(curves, alt, x_label, y_label, limits=limits)
