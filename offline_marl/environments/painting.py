"""Rendering with agents in colours of their own; observations, actions and rewards stay as they are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

Color = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""
BRIGHTNESS = 200
"""MPE multiplies its colours by it."""


FPS = 10.0
"""Pictures in a second where an environment does not say how long its steps are."""


def unwrapped(env: Any) -> Any:
    """The environment within all wrappers; itself where it tells none, as one of PettingZoo's methods alone."""
    return getattr(env, "unwrapped", env)


class Painted:
    """A wrapper whose frames can show agents in colours, and that tells the frame rate."""

    colors: Sequence[Color] = ()
    _envs: list[Any]

    def paint(self, colors: Sequence[Color]) -> None:
        """Show each agent in its colour from now on, where the picture tells agents apart."""
        self.colors = tuple(colors)

    @property
    def fps(self) -> float:
        """Steps in a second of the simulated world."""
        metadata = getattr(unwrapped(self._envs[0]), "metadata", None) or {}
        return float(metadata.get("render_fps") or FPS)


def paint_body(env: Any, colors: Sequence[Color]) -> None:
    """Colour the limb that each actuator of a MuJoCo model turns.

    Args:
        env: A Gymnasium environment over MuJoCo.
        colors: One for each column of the joint action.
    """
    model = env.unwrapped.model
    for actuator, color in enumerate(colors):
        limb = model.jnt_bodyid[model.actuator_trnid[actuator, 0]]
        shapes = model.geom_bodyid == limb
        model.geom_matid[shapes] = -1  # a material would tint it
        model.geom_rgba[shapes, :3] = np.array(color) / 255


@contextlib.contextmanager
def painted_world(env: Any, colors: Sequence[Color]) -> Iterator[None]:
    """While a particle world is drawn, its agents wear these colours; some of them can see each other's own."""
    bodies = getattr(getattr(unwrapped(env), "world", None), "agents", ()) if colors else ()
    worn = [(body, body.color) for body in bodies if hasattr(body, "color")]
    try:
        for (body, _), color in zip(worn, colors, strict=False):
            body.color = np.array(color) / BRIGHTNESS
        yield
    finally:
        for body, color in worn:
            body.color = color
