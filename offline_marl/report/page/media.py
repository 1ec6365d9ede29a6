"""Section of videos and contact sheets, embedded in the page as data."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from offline_marl.report.page.markup import Markup, tag, text, void
from offline_marl.report.page.sections import Section, panel, panels, paragraph

KINDS = {".mp4": "video/mp4", ".webm": "video/webm", ".gif": "image/gif", ".png": "image/png"}
LARGEST = 20_000_000
"""Bytes of one file that are still put into a page."""


def media_section(files: Sequence[Path]) -> Section | None:
    """Embed every video and contact sheet, unless it is too large."""
    if not files:
        return None
    drawn, left = [], []
    for file in files:
        if file.stat().st_size > LARGEST:
            left.append(
                paragraph(
                    f"{file.name} of {file.parent.name} is larger than {LARGEST // 1_000_000} MB and was left out."
                )
            )
        else:
            drawn.append(_shown(file))
    return Section("videos", "Episodes", text(panels(drawn), left))


def _shown(file: Path) -> Markup:
    kind, name = KINDS[file.suffix], f"{file.parent.name}: {file.stem}"
    source = f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
    if kind.startswith("video"):
        shown = tag(
            "video", controls=True, muted=True, preload="metadata", src=source, aria_label=f"Episodes of {name}"
        )
    else:
        shown = void("img", src=source, alt=f"Frames of episodes of {name}")
    return panel(name, shown)
