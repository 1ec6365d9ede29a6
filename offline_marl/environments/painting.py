"""Rendering with agents in colours of their own; observations, actions and rewards stay as they are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

Color = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""
BRIGHTNESS = 200
"""MPE multiplies its colours by it."""
NOBODYS = (150, 150, 155)
"""Of the limb that all others hang on and no agent moves."""
NEAR = 2.0
"""Distance from the middle that a picture of a particle world shows at least; else it is doubled until all are seen."""


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
    limbs = [model.jnt_bodyid[model.actuator_trnid[actuator, 0]] for actuator in range(len(colors))]
    for limb in {model.body_rootid[limb] for limb in limbs} - set(limbs):
        _paint_limb(model, limb, NOBODYS)  # its own colour may be an agent's
    for limb, color in zip(limbs, colors, strict=True):
        _paint_limb(model, limb, color)


def _paint_limb(model: Any, limb: int, color: Color) -> None:
    shapes = model.geom_bodyid == limb
    model.geom_matid[shapes] = -1  # a material would tint it
    model.geom_rgba[shapes, :3] = np.array(color) / 255


@contextlib.contextmanager
def painted_world(env: Any, colors: Sequence[Color]) -> Iterator[None]:
    """While a particle world is drawn, its agents wear these colours; some of them can see each other's own.

    MPE's pictures reach to whoever is farthest away, so that the scale would change from one to the next: an unseen
    landmark keeps it.
    """
    corner = _corner_of(getattr(unwrapped(env), "world", None))
    bodies = getattr(getattr(unwrapped(env), "world", None), "agents", ()) if colors else ()
    worn = [(body, body.color) for body in bodies if hasattr(body, "color")]
    try:
        for (body, _), color in zip(worn, colors, strict=False):
            body.color = np.array(color) / BRIGHTNESS
        if corner is not None:
            unwrapped(env).world.landmarks.append(corner)
        yield
    finally:
        if corner is not None:
            unwrapped(env).world.landmarks.remove(corner)
        for body, color in worn:
            body.color = color


def _corner_of(world: Any) -> Any:
    """A landmark that nobody sees, as far away as a picture of a particle world shows; None of other worlds."""
    try:
        places = np.array([entity.state.p_pos for entity in world.entities], np.float64)
    except (AttributeError, TypeError, ValueError):
        return None
    if not isinstance(getattr(world, "landmarks", None), list) or not len(places):
        return None
    far = NEAR
    while far < np.abs(places).max() < np.inf:
        far *= 2
    at = SimpleNamespace(p_pos=np.array([far, 0.0]))
    return SimpleNamespace(name="corner", state=at, size=0.0, color=np.zeros(3))
