"""Picture of a world model's report: its errors over the horizon, its calibration and its spread."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from offline_marl.core.files import write_atomically
from offline_marl.datasets.figures import draw_figure
from offline_marl.training.models.report import Cloud, verdict
from offline_marl.training.run_picture import BLUE, GREY

ORANGE = "#d9822b"
DIVERGED = 30.0
"""Ratio to the naive error beyond which the axis is logarithmic, or nothing else could be seen."""
COLUMNS = 150
"""Letters in a line above the picture."""


def draw_report(folder: Path, title: str, report: Mapping[str, Any], cloud: Cloud) -> Path | None:
    """Draw `report.png` into a model's folder.

    Returns:
        Where it is, or None where matplotlib (extra `report`) is not installed.
    """
    heading = textwrap.fill(f"{title}: {verdict(report)}", COLUMNS)

    def paint(figure: Any) -> None:
        panels = figure.subplots(2, 3)
        _draw_open_loop(panels[0, 0], report["open_loop"])
        _draw_rewards(panels[0, 1], report["open_loop"]["steps"], report["rewards"])
        _draw_calibration(panels[0, 2], report["calibration"])
        _draw_correlations(panels[1, 0], report["spread"])
        _draw_quantiles(panels[1, 1], report["spread"], report["cutoff"])
        _draw_cloud(figure, panels[1, 2], cloud, report["cutoff"]["spread"])
        figure.suptitle(heading, fontsize=12, parse_math=False)

    image = draw_figure(paint, (14, 7.6 + 0.2 * heading.count("\n")), layout="constrained")
    if image is None:
        return None
    path = folder / "report.png"
    write_atomically(path, image)
    return path


def _draw_open_loop(axes: Any, curves: Mapping[str, Any]) -> None:
    axes.set(title="Observations, on its own predictions", xlabel="steps ahead", ylabel="error / deviation of data")
    _draw_pair(axes, curves["steps"], curves["error"], curves["nothing_changes"], "nothing changes")


def _draw_rewards(axes: Any, steps: list[int], rewards: Mapping[str, Any]) -> None:
    bias = rewards["bias_open_loop"]
    promised = "" if bias is None else f"\n{abs(bias):.2g} too {'much' if bias > 0 else 'little'} a step"
    axes.set(
        title=f"Sum of rewards, on its own predictions{promised}",
        xlabel="steps ahead",
        ylabel="error / deviation of rewards",
    )
    _draw_pair(axes, steps, rewards["sum_error"], rewards["sum_mean_reward"], "always the mean reward")


def _draw_pair(axes: Any, steps: list[int], model: list[float | None], naive: list[float | None], label: str) -> None:
    ours, other = _numbers(model), _numbers(naive)
    axes.plot(steps, ours, color=BLUE, label="model")
    axes.plot(steps, other, color=GREY, linestyle="--", label=label)
    if (ours > DIVERGED * other.max()).any():
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def _draw_calibration(axes: Any, coverage: Mapping[str, Any]) -> None:
    axes.set(title="Is it as sure as it is right?\nabove the line too timid, below it too sure")
    if coverage["withheld"] is not None:
        return _say(axes, coverage["withheld"])
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", label="as it should be")
    for name, label, colour in (("next_obs", "next observations", BLUE), ("rewards", "rewards", ORANGE)):
        if coverage[name] is not None:
            axes.plot(coverage["nominal"], coverage[name], color=colour, marker="o", markersize=3, label=label)
    axes.set(
        xlabel="share that it says lies inside, one step ahead", ylabel="share that does", xlim=(0, 1), ylim=(0, 1)
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="best")


def _draw_correlations(axes: Any, spreads: Mapping[str, Any]) -> None:
    axes.set(title="Does it doubt where it errs?", xlabel="rank correlation of spread and error")
    if not spreads:
        return _say(axes, "this kind of model tells no spread")
    # In the title, because bars may fill every corner where a legend could be.
    axes.set_title("Does it doubt where it errs?\nblue: one step, orange: on its own predictions")
    rows = np.arange(len(spreads))
    least = -0.2
    for shift, where, colour in ((-0.2, "one_step", BLUE), (0.2, "open_loop", ORANGE)):
        values = np.nan_to_num(_numbers([spread[f"correlation_{where}"] for spread in spreads.values()]))
        axes.barh(rows + shift, values, height=0.36, color=colour)
        least = min(least, values.min() - 0.1)
    axes.set_yticks(rows, [name.replace("_", "\n") for name in spreads])
    axes.set_xlim(least, 1)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.grid(alpha=0.3, axis="x")


def _draw_quantiles(axes: Any, spreads: Mapping[str, Any], cutoff: Mapping[str, Any]) -> None:
    name = cutoff["spread"]
    axes.set(title="Spread, and where training cuts", ylabel=name.replace("_", " "))
    if name not in spreads:
        return _say(axes, "this kind of model tells no spread")
    quantiles = spreads[name]["quantiles"]
    values = _numbers(list(quantiles.values()))
    axes.bar(range(len(values)), values, color=BLUE, alpha=0.8)
    axes.axhline(cutoff["cutoff"], color="black", linestyle="--", label=f"--cutoff {cutoff['cutoff']:g}")
    if (values > 0).any():
        axes.set_yscale("log")
    axes.set_xticks(range(len(values)), [f"{float(share):.0%}" for share in quantiles])
    axes.set(xlabel=f"share of held-out steps below; {cutoff['share_above'] or 0:.1%} above the cut-off")
    axes.grid(alpha=0.3, axis="y")
    axes.legend(frameon=False, loc="best")


def _draw_cloud(figure: Any, axes: Any, cloud: Cloud, name: str) -> None:
    points = cloud.points.cpu().numpy()
    first, second = (f"component {number} ({share:.0%} of variance)" for number, share in enumerate(cloud.shares, 1))
    axes.set(title="Where it is unsure: held-out observations", xlabel=first, ylabel=second)
    spread = np.zeros(len(points)) if cloud.spread is None else cloud.spread.double().cpu().numpy()
    seen = np.isfinite(spread) & (spread > 0)
    axes.scatter(*points[~seen].T, s=4, color=GREY, linewidths=0)
    if not seen.any():
        return
    # The surest last few and the most unsure would take all colours for themselves.
    low, high = np.quantile(spread[seen], [0.01, 0.99])
    # The most unsure on top of the others.
    order = np.flatnonzero(seen)[np.argsort(spread[seen], kind="stable")]
    drawn = axes.scatter(*points[order].T, s=5, c=np.log10(spread[order]), cmap="viridis", linewidths=0)
    drawn.set_clim(np.log10(low), np.log10(high) + 1e-9)
    figure.colorbar(drawn, ax=axes, label=f"log10 of {name.replace('_', ' ')}")


def _say(axes: Any, text: str) -> None:
    axes.text(0.5, 0.5, textwrap.fill(text, 34), transform=axes.transAxes, ha="center", va="center", color=GREY)
    axes.set(xticks=[], yticks=[], xlabel="", ylabel="")


def _numbers(values: list[float | None]) -> Any:
    return np.array([np.nan if value is None else value for value in values], dtype=float)
