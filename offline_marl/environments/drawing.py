"""Off-screen rendering of MuJoCo bodies: by EGL, else by OSMesa, where there is no display.

Owns the choice of MUJOCO_GL, which is made when something is first drawn: a broken graphics library should not keep
anybody from simulating. Who sets MUJOCO_GL is obeyed.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from ctypes.util import find_library
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from offline_marl.environments.base import Frame, MissingSimulatorError, NoPictureError

LIBRARIES = {"egl": "EGL", "osmesa": "OSMesa"}
"""Values of MUJOCO_GL that need no display, and the shared library of each."""
WITH_DISPLAY = "glfw"
CAMERAS: dict[str, dict[str, Any]] = {
    "Reacher-v5": {"distance": 0.75, "elevation": -90.0, "azimuth": 90.0, "lookat": np.zeros(3)},
    "Pusher-v5": {"distance": 2.2, "lookat": np.array([0.3, -0.2, -0.2])},
    "InvertedDoublePendulum-v5": {"distance": 2.2, "lookat": np.array([0.0, 0.0, 0.6])},
}
"""Where Gymnasium's own camera shows little; Reacher's arm lies in a plane, and is seen best from above."""
TORSO = 1
"""Index of the body that all others hang on; 0 is the world."""
LOOKS: WeakKeyDictionary[Any, npt.NDArray[np.float64]] = WeakKeyDictionary()
"""Of each of Gymnasium's renderers, the point that its camera looks at; of a body that walks, from its torso."""
AMBIENT = 0.45
"""Light from all sides; with MuJoCo's 0.1 the colours of agents can hardly be told apart on the side of a body."""
ADVICE = "apt-get install libegl1 libgl1-mesa-dri (Debian), or libosmesa6 and MUJOCO_GL=osmesa"


def choose_library() -> str:
    """Set MUJOCO_GL where nobody has and there is no display.

    Returns:
        Its value, or what stands in for it.

    Raises:
        MissingSimulatorError: There is no display and no library that does without.
    """
    if "MUJOCO_GL" in os.environ:
        return os.environ["MUJOCO_GL"]
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return WITH_DISPLAY
    here = [name for name, library in LIBRARIES.items() if find_library(library)]
    if not here:
        raise MissingSimulatorError(f"Nothing can be drawn: neither EGL nor OSMesa is installed: {ADVICE}.")
    os.environ["MUJOCO_GL"] = here[0]
    return here[0]


def draw_body(name: str, env: Any) -> Frame:
    """Render a Gymnasium environment over MuJoCo.

    Raises:
        NoPictureError: The environment is none over MuJoCo.
        MissingSimulatorError: No library that draws off screen works here; says which Debian packages would.
    """
    renderer = getattr(env.unwrapped, "mujoco_renderer", None)
    if renderer is None:
        raise NoPictureError(f"{name} has no picture: only bodies of MuJoCo are drawn.")
    _refuse_broken(choose_library())
    _aim(env.unwrapped, renderer, CAMERAS.get(name, {}))
    env.unwrapped.model.vis.headlight.ambient[:] = AMBIENT  # of pictures alone: physics knows no light
    with _floor_below(env.unwrapped):
        return np.ascontiguousarray(renderer.render("rgb_array"), np.uint8)


def _aim(body: Any, renderer: Any, camera: Mapping[str, Any]) -> None:
    """Point the camera at a body where it is; Gymnasium's keeps looking at the place of the first picture.

    What walks would leave that place, and pictures of one state would differ by what was drawn before.

    Args:
        body: Gymnasium's environment.
        renderer: Of its pictures.
        camera: What is set otherwise than in Gymnasium.
    """
    given, roams = {**(renderer.default_cam_config or {}), **camera}, _roams(body.model)
    if renderer not in LOOKS:
        mujoco = importlib.import_module("mujoco")
        rest = mujoco.MjData(body.model)
        rest.qpos[:] = body.init_qpos
        mujoco.mj_kinematics(body.model, rest)
        LOOKS[renderer] = np.array(given.get("lookat", np.median(rest.geom_xpos, axis=0)), np.float64)
        LOOKS[renderer][:2] -= rest.xpos[TORSO, :2] if roams else 0.0
    point = LOOKS[renderer].copy()
    point[:2] += body.data.xpos[TORSO, :2] if roams else 0.0
    if renderer.viewer is None:
        renderer.default_cam_config = {**given, "lookat": point}  # read when the first picture is made
    else:
        renderer.viewer.cam.lookat[:] = point


@contextlib.contextmanager
def _floor_below(body: Any) -> Iterator[None]:
    """While a picture is made, floors lie under a body that has come far: they end some 20 to 40 m from where it began.

    They are moved by whole patterns, so that the ground still passes by as the body walks. Physics does not see it: its
    planes have no end.
    """
    mujoco, model, data = importlib.import_module("mujoco"), body.model, body.data
    floors = np.flatnonzero((model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE) & (model.geom_size[:, :2] > 0).all(1))
    places = data.geom_xpos[floors].copy()
    for floor in floors if _roams(model) else ():
        material, size = model.geom_matid[floor], model.geom_size[floor, :2]
        repeats = model.mat_texrepeat[material] if material >= 0 else np.ones(2)
        pattern = 1 / repeats if material >= 0 and model.mat_texuniform[material] else 2 * size / repeats
        data.geom_xpos[floor, :2] += pattern * np.round((data.xpos[TORSO, :2] - data.geom_xpos[floor, :2]) / pattern)
    try:
        yield
    finally:
        data.geom_xpos[floors] = places


def _roams(model: Any) -> bool:
    """Whether a body can go anywhere: it hangs on nothing, or slides without end."""
    mujoco = importlib.import_module("mujoco")
    own = np.flatnonzero(model.jnt_bodyid == TORSO)
    slides = (model.jnt_type[own] == mujoco.mjtJoint.mjJNT_SLIDE) & (model.jnt_limited[own] == 0)
    return bool(slides.any() or (model.jnt_type[own] == mujoco.mjtJoint.mjJNT_FREE).any())


def keep_warnings_here() -> None:
    """Let MuJoCo, if it is installed, warn on stderr alone: by itself it writes a log where the user stands."""
    try:
        mujoco = importlib.import_module("mujoco")
    except ImportError:  # who needs it is told so
        return
    if hasattr(mujoco, "get_mju_user_warning") and mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(_warn)


def _warn(text: str) -> None:
    """Tell a warning of MuJoCo, but not what Gymnasium's own files of bodies should do otherwise."""
    if "deprecated" not in text:
        print(f"warning: MuJoCo: {text}", file=sys.stderr)


def import_mujoco() -> None:
    """Import MuJoCo, if it is installed, whatever MUJOCO_GL says: it asks for that library as it is imported.

    One that is broken keeps nobody from simulating, and is told when something is drawn.
    """
    asked = os.environ.get("MUJOCO_GL")
    if asked is None or "mujoco" in sys.modules:
        return
    try:
        importlib.import_module("mujoco")
    except ImportError:
        return
    except Exception:  # each library fails in its own way
        os.environ["MUJOCO_GL"] = "disabled"
        try:
            importlib.import_module("mujoco")
        finally:
            os.environ["MUJOCO_GL"] = asked


@lru_cache(maxsize=1)
def _refuse_broken(library: str) -> None:
    """Tried first by itself: a viewer that fails half-way complains once more when it is thrown away."""
    if library not in {*LIBRARIES, WITH_DISPLAY}:
        raise MissingSimulatorError(f"MUJOCO_GL={library} is unknown: it should be egl, osmesa or glfw.")
    try:
        importlib.import_module(f"mujoco.{library}").GLContext(8, 8).free()
        if library == WITH_DISPLAY and not importlib.import_module("glfw").init():
            raise RuntimeError("there is no display")  # its context does not say so
    except Exception as error:  # each library fails in its own way
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise MissingSimulatorError(f"Nothing can be drawn with MUJOCO_GL={library} ({reason}): {ADVICE}.") from error
