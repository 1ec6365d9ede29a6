"""Heat map of a cross-play matrix: numbers in cells, groups in frames, a colour map for colour-blind eyes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from offline_marl.datasets.figures import draw_figure
from offline_marl.report.crossplay.crossplay import Crossplay

COLORS = "cividis"
MOST_NUMBERS = 16
"""Rows up to which cells show their numbers; ends of intervals up to half of it."""


def draw_matrix(result: Crossplay, form: str) -> bytes | None:
    """Draw the heat map as svg or png; equal matrices give equal bytes.

    Returns:
        Its bytes; None where matplotlib (extra `report`) is not installed.
    """
    panels = 1 if result.agreement is None else 2
    side = min(3.0 + 0.62 * len(result.players), 14.0)

    def paint(figure: Any) -> None:
        axes = figure.subplots(1, panels, squeeze=False)[0]
        _draw_returns(axes[0], result)
        if result.agreement is not None:
            order = result.order
            _draw_panel(axes[1], result, result.agreement[np.ix_(order, order)], None, "{:.2f}", (0.0, 1.0))
            axes[1].set_title("agreement: share of episodes in one convention")
            axes[1].set_yticks(range(len(order)), [str(number + 1) for number in range(len(order))])

    return draw_figure(
        paint,
        (side * panels + 1.0, 0.86 * side + 0.4),
        form=form,
        dpi=130 if side < 8 else 90,
        layout="constrained",
        metadata={"Date": None} if form == "svg" else None,
        settings={"svg.hashsalt": "crossplay", "svg.fonttype": "none"},
    )


def _draw_returns(axes: Any, result: Crossplay) -> None:
    order = np.ix_(result.order, result.order)
    means, low, high = (result.scaled(matrix)[order] for matrix in (result.means, result.low, result.high))
    digits = "{:.0f}" if result.reference is not None else "{:.2f}"
    _draw_panel(axes, result, means, (low, high), digits, None)
    axes.set_title(f"mean {result.unit}, {result.episodes} starts")


def _draw_panel(
    axes: Any,
    result: Crossplay,
    values: npt.NDArray[np.float64],
    ends: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None,
    digits: str,
    limits: tuple[float, float] | None,
) -> None:
    low, high = limits or (float(values.min()), float(values.max()))
    image = axes.imshow(values, cmap=COLORS, vmin=low, vmax=high)
    axes.figure.colorbar(image, ax=axes, shrink=0.7)
    count = len(values)
    ends = ends if count <= MOST_NUMBERS // 2 else None
    for i, j in np.ndindex(values.shape) if count <= MOST_NUMBERS else ():
        light = (values[i, j] - low) > 0.55 * max(high - low, 1e-12)
        color = "black" if light else "white"
        axes.text(j, i - (0.12 if ends else 0), digits.format(values[i, j]), ha="center", va="center", color=color)
        if ends is not None:
            text = f"{digits.format(ends[0][i, j])} to {digits.format(ends[1][i, j])}"
            axes.text(j, i + 0.24, text, ha="center", va="center", color=color, fontsize=6.5)
    _frame_groups(axes, result)
    names = [f"{number + 1} {result.players[row].name}" for number, row in enumerate(result.order)]
    axes.set_yticks(range(count), names, parse_math=False)
    axes.set_xticks(range(count), [str(number + 1) for number in range(count)])
    two = result.agents == 2
    axes.set_xlabel("run of agent_1" if two else "run of the one guest")
    axes.set_ylabel("run of agent_0" if two else "run of the team")


def _frame_groups(axes: Any, result: Crossplay) -> None:
    from matplotlib.patches import Rectangle

    first = 0
    for group in result.groups:
        size = len(group.members)
        frame = Rectangle((first - 0.5, first - 0.5), size, size, fill=False, linewidth=2.5, edgecolor="#d1495b")
        frame.set_clip_on(False)
        axes.add_patch(frame)
        first += size
