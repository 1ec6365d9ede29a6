"""Picture of a data set: returns, lengths of episodes, actions of each agent, what was covered."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from offline_marl.core.types import DataError
from offline_marl.datasets.base import Dataset, Recording
from offline_marl.datasets.figures import draw_figure, room_for_bins
from offline_marl.datasets.statistics import BINS, SPAN, action_counts, coverage, quantiles, returns_of

# Okabe and Ito's colours, which people with any kind of colour vision tell apart; further agents differ by line.
BLUE, BLACK = "#0072B2", "#000000"
COLOURS = (BLUE, "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
LINES = ("-", "--", ":", "-.")
NAMED = 8
"""Agents that the legend names at most."""


def draw_data(data: Recording | Dataset, title: str, form: Literal["png", "svg"] = "png") -> bytes:
    """The picture, as the content of a file; equal data make equal pictures.

    Raises:
        DataError: matplotlib is not installed.
    """

    def paint(figure: Any) -> None:
        # By hand, because a layout that fits itself takes longer than all the drawing.
        figure.subplots_adjust(left=0.08, right=0.96, bottom=0.08, top=0.9, wspace=0.25, hspace=0.35)
        (returns, lengths), (actions, seen) = figure.subplots(2, 2)
        _draw_returns(returns, data)
        _draw_lengths(lengths, data.lengths)
        _draw_actions(actions, data)
        _draw_coverage(figure, seen, data)
        figure.suptitle(title, parse_math=False)

    stamps: dict[str, Any] = {"Date": None} if form == "svg" else {"Software": None}
    image = draw_figure(paint, (10, 7.4), form=form, metadata=stamps, settings={"svg.hashsalt": "offline-marl"})
    if image is None:
        raise DataError("A picture needs matplotlib: pip install 'offline-marl[report]'.")
    return image


def _bins(values: Tensor) -> int:
    return min(40, max(5, math.isqrt(len(values))))


def _draw_returns(axes: Any, data: Recording | Dataset) -> None:
    returns = returns_of(data)
    axes.hist(returns.numpy(), bins=_bins(returns), range=room_for_bins(returns.numpy()), color=BLUE)
    middle = quantiles(returns)["q50"]
    axes.axvline(middle, color=BLACK, linestyle="--", label=f"median {middle:.4g}")
    unit = "sum of rewards" if isinstance(data, Recording) else "sum of rewards, mean over agents"
    axes.set(xlabel=f"return [{unit}]", ylabel="episodes", title="returns")
    axes.legend(frameon=False)


def _draw_lengths(axes: Any, lengths: Tensor) -> None:
    low, high = int(lengths.min()), int(lengths.max())
    width = max(1, -(-(high - low + 1) // 40))
    edges = [edge - 0.5 for edge in range(low, high + width + 1, width)]
    axes.hist(lengths.numpy(), bins=edges, color=BLUE, rwidth=0.9)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="length [steps]", ylabel="episodes", title=f"lengths of {len(lengths):,} episodes")
    if high - low < 8:
        axes.set_xticks(range(low, high + 1))


def _draw_actions(axes: Any, data: Recording | Dataset) -> None:
    counts = action_counts(data)
    discrete = isinstance(data, Dataset) and data.spec.discrete
    for agent, agent_counts in enumerate(counts):
        share = (agent_counts.sum(0) / agent_counts.sum()).numpy()
        style = {"color": COLOURS[agent % len(COLOURS)], "linestyle": LINES[agent // len(COLOURS) % len(LINES)]}
        who = f"agent {agent}" if isinstance(data, Dataset) else "whole body"
        label = who if agent < NAMED else None
        if discrete:
            wide = 0.8 / len(counts)
            places = [choice - 0.4 + (agent + 0.5) * wide for choice in range(len(share))]
            axes.bar(places, share, width=wide, color=style["color"], label=label)
            axes.set_xticks(range(max(len(row[0]) for row in counts)))
        else:
            edges = torch.linspace(-1, 1, BINS + 1).numpy()
            axes.stairs(share, edges, linewidth=1.6, label=label, **style)
            axes.set_xticks((-1, -0.5, 0, 0.5, 1))
    what = "action [number of the choice]" if discrete else "action [scaled to -1 ... 1], all of an agent's together"
    axes.set(xlabel=what, ylabel="share of actions", title="actions")
    axes.legend(frameon=False, fontsize=8)


def _draw_coverage(figure: Any, axes: Any, data: Recording | Dataset) -> None:
    covered = coverage(data)
    counts = torch.where(covered.counts > 0, covered.counts.double(), torch.nan).T.numpy()
    limits = (-SPAN, SPAN, -SPAN, SPAN)
    picture = axes.imshow(counts, origin="lower", extent=limits, cmap="cividis", interpolation="nearest")
    figure.colorbar(picture, ax=axes, label=f"rows of {len(covered.points):,} in a cell")
    what = "states" if isinstance(data, Recording) else "observations"
    axes.set(
        xlabel="first principal component [standard deviations]",
        ylabel="second [standard deviations]",
        title=f"{what}: {covered.share:.0%} of cells, {covered.variance:.0%} of variance",
    )
