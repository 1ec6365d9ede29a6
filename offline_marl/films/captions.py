"""Captions on frames (score, step, agents' names in their colours) and contact sheets of several frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from offline_marl.core.errors import BadInputError
from offline_marl.environments.base import Frame
from offline_marl.environments.painting import Color

COLORS: tuple[Color, ...] = (
    (46, 134, 222),
    (240, 160, 20),
    (238, 0, 102),
    (136, 0, 255),
    (255, 204, 255),
    (170, 238, 153),
    (170, 68, 0),
    (153, 51, 136),
)
"""Colours of agents, distinct for colour-blind eyes too, on white and on dark; reused in turn for more agents."""
WHITE, DARK = (255, 255, 255), (24, 26, 32)
MOST_NAMES = 12
GAP = 8
"""Between the pictures of a sheet, in pixels."""


class MissingEncoderError(BadInputError, ImportError):
    """Missing package for videos; the message says what to install."""


def import_pillow() -> tuple[Any, Any, Any]:
    """Import Pillow's Image, ImageDraw and ImageFont.

    Raises:
        MissingEncoderError: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise MissingEncoderError("Nothing can be written on pictures: pip install 'offline-marl[video]'.") from None
    return Image, ImageDraw, ImageFont


def colors_of(agents: int) -> list[Color]:
    """Assign a colour to each agent."""
    return [COLORS[agent % len(COLORS)] for agent in range(agents)]


def add_caption(picture: Frame, lines: Sequence[str], names: Sequence[str]) -> Frame:
    """Draw a caption in a dark box in the upper left corner; a row or a column is added for even sides.

    Args:
        picture: Any size; words are as tall as a 24th of it, 12 pixels at least.
        lines: White.
        names: Those of the agents, each beside its colour.
    """
    image_of, draw_of, fonts = import_pillow()
    image = image_of.fromarray(_even(picture))
    size = max(12, min(image.size) // 24)
    font, row = fonts.load_default(size), round(size * 1.35)
    shown = [*names[:MOST_NAMES], *(["..."] if len(names) > MOST_NAMES else [])]
    widths = [font.getlength(line) for line in lines] + [font.getlength(name) + 1.4 * size for name in shown]
    width, height = round(max(widths) + size), round(row * (len(lines) + len(shown)) + size * 0.7)
    box = image_of.new("RGBA", (width, height), (*DARK, 190))
    draw = draw_of.Draw(box)
    top = size * 0.3
    for line in lines:
        draw.text((size / 2, top), line, WHITE, font)
        top += row
    for name, color in zip(shown, colors_of(len(shown)), strict=True):
        middle = top + row / 2
        if name != "...":
            draw.rectangle((size / 2, middle - size * 0.4, size * 1.3, middle + size * 0.4), color)
        draw.text((size * 1.8, top), name, WHITE, font)
        top += row
    image.paste(box, (0, 0), box)
    return np.asarray(image)


def make_sheet(pictures: Sequence[Frame], labels: Sequence[str], columns: int, width: int) -> Any:
    """Lay out pictures in rows, a label beneath each, as a Pillow image on white.

    Args:
        pictures: Of one size.
        labels: One for each.
        columns: How many stand side by side.
        width: Of each picture, in pixels.
    """
    image_of, draw_of, fonts = import_pillow()
    high = round(width * pictures[0].shape[0] / pictures[0].shape[1])
    font, below = fonts.load_default(max(12, width // 14)), max(12, width // 14) * 3 // 2
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = image_of.new("RGB", (columns * (width + GAP) + GAP, rows * (high + below + GAP) + GAP), WHITE)
    draw = draw_of.Draw(sheet)
    for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        left, top = GAP + number % columns * (width + GAP), GAP + number // columns * (high + below + GAP)
        sheet.paste(image_of.fromarray(picture).resize((width, high), image_of.Resampling.LANCZOS), (left, top))
        draw.text((left + 2, top + high + 1), label, DARK, font)
    return sheet


def _even(picture: Frame) -> Frame:
    """Repeat the last row and column where their number is odd: video encoders need even sides."""
    high, wide = picture.shape[:2]
    return np.pad(picture, ((0, high % 2), (0, wide % 2), (0, 0)), mode="edge")
