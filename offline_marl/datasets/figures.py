"""Figures by matplotlib, whose import this file owns: no pyplot, no global backend, no settings of the user's."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, Literal

ROUNDING = 1e-9
"""Relative difference of numbers that is nothing but rounding."""


def draw_figure(
    paint: Callable[[Any], None],
    size: tuple[float, float],
    *,
    form: str = "png",
    dpi: int = 110,
    layout: Literal["constrained"] | None = None,
    metadata: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> bytes | None:
    """Draw a figure in matplotlib's own style; equal calls give equal bytes.

    Args:
        paint: Puts everything on the figure.
        size: Inches.
        form: `png` or `svg`.
        dpi: Pixels of an inch.
        layout: What arranges the panels.
        metadata: What the file says of itself.
        settings: Over matplotlib's own.

    Returns:
        The content of the file; None where matplotlib (extra `report`) is not installed.
    """
    if find_spec("matplotlib") is None:
        return None
    mpl = _matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    image = io.BytesIO()
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as of a letter that the font lacks
        mpl.rcdefaults()
        mpl.rcParams.update(settings or {})
        figure = Figure(figsize=size, layout=layout)
        FigureCanvasAgg(figure)
        paint(figure)
        figure.savefig(image, dpi=dpi, format=form, metadata=dict(metadata or {}))
    return image.getvalue()


def room_for_bins(values: Any) -> tuple[float, float] | None:
    """Borders of a histogram of an array that is equal but for rounding; None for others, whose own borders will do."""
    low, high = float(values.min()), float(values.max())
    size = max(abs(low), abs(high))
    if high - low > ROUNDING * size:
        return None
    half = max(0.5, 1e-6 * size)
    return low - half, high + half


def _matplotlib() -> Any:
    """The package, also where MPLBACKEND names a backend that is not installed, as what a notebook exports does."""
    if "matplotlib" in sys.modules:
        return sys.modules["matplotlib"]
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend:
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = backend
    return matplotlib
