"""Short texts and small tables of things that people print."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from torch import Tensor


def tensors_line(held: Mapping[str, Any]) -> str:
    """Names and shapes of tensors, those that are None left out."""
    return ", ".join(
        f"{name} {'x'.join(map(str, value.shape)) or 'scalar'}"
        for name, value in held.items()
        if isinstance(value, Tensor)
    )


def widths(dims: tuple[int, ...]) -> str:
    """Widths of all agents as one number, or each where they differ."""
    return str(dims[0]) if len(set(dims)) == 1 else "/".join(map(str, dims))


def html_table(title: str, rows: Mapping[str, object]) -> str:
    """A table of two columns for notebooks; whatever stands in it is text."""
    cells = "".join(
        f"<tr><th style='text-align:left'>{html.escape(name)}</th><td style='text-align:left'>"
        f"{html.escape(str(value))}</td></tr>"
        for name, value in rows.items()
    )
    return f"<table><caption>{html.escape(title)}</caption>{cells}</table>"
