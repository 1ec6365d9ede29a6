"""Pictures of MuJoCo's bodies, drawn off screen: by EGL, else by OSMesa, where there is no display.

Owns the choice of MUJOCO_GL, which is made when something is first drawn: a broken graphics library should not keep
anybody from simulating. Who sets MUJOCO_GL is obeyed.
"""

from __future__ import annotations

import os
from ctypes.util import find_library
from typing import Any

import numpy as np

from offline_marl.core.types import DataError
from offline_marl.environments.base import Frame, MissingSimulatorError

LIBRARIES = {"egl": "EGL", "osmesa": "OSMesa"}
"""Values of MUJOCO_GL that need no display, and the shared library of each."""
ADVICE = "apt-get install libegl1 libgl1-mesa-dri, or libosmesa6 and MUJOCO_GL=osmesa"


def choose_library() -> str | None:
    """Set MUJOCO_GL where nobody has and there is no display.

    Returns:
        Its value; None where it is left to MuJoCo.
    """
    if "MUJOCO_GL" not in os.environ and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        here = [name for name, library in LIBRARIES.items() if find_library(library)]
        if here:
            os.environ["MUJOCO_GL"] = here[0]
    return os.environ.get("MUJOCO_GL")


def draw_body(name: str, env: Any) -> Frame:
    """What a Gymnasium environment over MuJoCo looks like now.

    Raises:
        DataError: The environment is none over MuJoCo.
        MissingSimulatorError: No library that draws off screen works here; says which Debian packages would.
    """
    renderer = getattr(env.unwrapped, "mujoco_renderer", None)
    if renderer is None:
        raise DataError(f"{name} has no picture: only bodies of MuJoCo are drawn.")
    chosen = choose_library()
    try:
        frame = np.asarray(renderer.render("rgb_array"), np.uint8)
    except Exception as error:  # each library fails in its own way
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise MissingSimulatorError(
            f"{name} cannot be drawn here with MUJOCO_GL={chosen or 'unset'} ({reason}): {ADVICE} (Debian)."
        ) from error
    return np.ascontiguousarray(frame)
