from __future__ import annotations

import sys
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from offline_marl.core.partition import partition
from offline_marl.core.types import DataError
from offline_marl.environments import drawing
from offline_marl.environments.base import MissingSimulatorError, environments
from offline_marl.environments.painting import NOBODYS, paint_body

BODY = SimpleNamespace(
    unwrapped=SimpleNamespace(
        mujoco_renderer=SimpleNamespace(render=lambda mode: np.ones((2, 3, 3))),
        model=SimpleNamespace(vis=SimpleNamespace(headlight=SimpleNamespace(ambient=np.zeros(3)))),
    )
)


@pytest.fixture(autouse=True)
def _own_choice(monkeypatch):
    for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    drawing._refuse_broken.cache_clear()
    yield
    drawing._refuse_broken.cache_clear()


def refuse_sameness(first, last):
    """Neither black, nor of one colour, nor alike."""
    for frame in (first, last):
        assert frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3 and frame.flags.c_contiguous
        assert frame.mean() > 5 and frame.std() > 2
    assert (first != last).any()


@pytest.mark.mujoco
def test_bodies_are_drawn_off_screen():
    pytest.importorskip("mujoco")
    env = environments.get("reacher").make(partition("reacher", "2x1", "full"), 2)
    env.reset([1, 2])
    try:
        first = env.render(1)
    except MissingSimulatorError as error:
        env.close()
        pytest.skip(str(error))
    for _ in range(3):
        env.step(np.ones((2, 2, 1), np.float32))
    refuse_sameness(first, env.render(1))
    with pytest.raises(DataError, match="Reacher-v5 has 2 copies, but copy 2 was to be drawn"):
        env.render(2)
    env.close()


@pytest.fixture
def hoppers():
    gymnasium = pytest.importorskip("gymnasium")
    pytest.importorskip("mujoco")
    made = [gymnasium.make("Hopper-v5", render_mode="rgb_array", width=120, height=120) for _ in range(2)]
    yield made
    for env in made:
        env.close()


def drawn_at(env, place):
    """The picture of a hopper that stands somewhere on its way."""
    env.reset(seed=0)
    body = env.unwrapped
    qpos = body.init_qpos.copy()
    qpos[0] = place
    body.set_state(qpos, np.zeros_like(body.init_qvel))
    try:
        return drawing.draw_body("Hopper-v5", env).astype(int)
    except MissingSimulatorError as error:
        pytest.skip(str(error))


@pytest.mark.mujoco
def test_the_camera_follows_a_body_that_walks_away(hoppers):
    first, other = hoppers
    pictures = [drawn_at(first, place) for place in (0.0, 2.0, 30.0)]
    leg = [(picture[..., 0] - picture[..., 2] > 40) for picture in pictures]  # orange; the floor has no colour
    assert min(each.sum() for each in leg) > 100
    columns = [np.flatnonzero(each.any(0)).mean() for each in leg]
    assert max(columns) - min(columns) < 3
    assert min(picture[100:].std() for picture in pictures) > 60, "there is a floor of light and dark squares"
    drawn_at(other, 7.0)
    assert (drawn_at(other, 0.0) == pictures[0]).all(), "whatever was drawn before"


@pytest.mark.mujoco
def test_the_limb_that_others_hang_on_has_no_agents_colour(hoppers):
    body, colors = hoppers[0].unwrapped, [(0, 0, 255), (0, 255, 0), (255, 0, 0)]
    paint_body(hoppers[0], colors)
    shades = {name: tuple(np.round(body.model.geom(f"{name}_geom").rgba[:3] * 255)) for name in ("torso", "foot")}
    assert shades == {"torso": NOBODYS, "foot": colors[2]}


@pytest.mark.mujoco
def test_warnings_of_the_simulator_leave_no_file(tmp_path, monkeypatch, capfd):
    pytest.importorskip("mujoco")
    monkeypatch.chdir(tmp_path)
    environments.get("halfcheetah").make(partition("halfcheetah", "2x3", "full"), 1).close()
    assert not list(tmp_path.iterdir()) and "deprecated" not in capfd.readouterr().err
    drawing._warn("Nan, Inf or huge value in QACC at DOF 0.")
    assert capfd.readouterr().err == "warning: MuJoCo: Nan, Inf or huge value in QACC at DOF 0.\n"


@pytest.mark.mujoco
def test_cameras_of_bodies_that_are_held_stay():
    gymnasium = pytest.importorskip("gymnasium")
    for name, roams in (("InvertedPendulum", False), ("Reacher", False), ("Ant", True), ("Swimmer", True)):
        env = gymnasium.make(f"{name}-v5")
        assert drawing._roams(env.unwrapped.model) == roams
        env.close()


def test_particle_worlds_are_drawn_without_a_display():
    pytest.importorskip("mpe2")
    env = environments.get("simple-spread").make(None, 1)
    env.reset([3])
    first = env.render()
    for _ in range(3):
        env.step(np.full((1, 3), 2))
    refuse_sameness(first, env.render())
    world = env._envs[0].unwrapped.world
    sizes = []
    for far in (0.5, 1.9, 2.5):
        for index, entity in enumerate(world.entities):
            entity.state.p_pos = np.array([0.0, -0.4 * index])
        world.agents[0].state.p_pos = np.array([far, 1.0])
        sizes.append(int((env.render() < 250).any(-1).sum()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02), "who runs away leaves the scale as it is"
    assert sizes[2] < 0.5 * sizes[0], "until the picture shows twice as much"
    assert len(world.landmarks) == 3
    with pytest.raises(DataError, match="simple-spread has 1 copies, but copy 1 was to be drawn"):
        env.render(1)
    env.close()


def test_toys_say_that_they_have_no_picture():
    with pytest.raises(DataError, match="coordination has no picture"):
        environments.get("coordination").make(None, 1).render()


def test_a_library_is_chosen_where_nobody_has_and_there_is_no_display(monkeypatch):
    monkeypatch.setattr(drawing, "find_library", lambda name: f"lib{name}.so" if name == "OSMesa" else None)
    assert drawing.choose_library() == "osmesa"
    monkeypatch.setenv("MUJOCO_GL", "egl")
    assert drawing.choose_library() == "egl"
    monkeypatch.delenv("MUJOCO_GL")
    monkeypatch.setenv("DISPLAY", ":0")
    assert drawing.choose_library() == "glfw"


def test_what_is_missing_is_named_in_a_sentence(monkeypatch):
    monkeypatch.setattr(drawing, "_aim", lambda *_: None)
    monkeypatch.setattr(drawing, "_floor_below", nullcontext)
    monkeypatch.setattr(drawing, "find_library", lambda name: None)
    with pytest.raises(MissingSimulatorError, match=r"neither EGL nor OSMesa is installed: apt-get install libegl1"):
        drawing.draw_body("arm", BODY)
    monkeypatch.setenv("MUJOCO_GL", "vulkan")
    with pytest.raises(MissingSimulatorError, match="MUJOCO_GL=vulkan is unknown: it should be egl, osmesa or glfw"):
        drawing.draw_body("arm", BODY)
    broken = ModuleType("mujoco.egl")
    monkeypatch.setitem(sys.modules, "mujoco", ModuleType("mujoco"))
    monkeypatch.setitem(sys.modules, "mujoco.egl", broken)
    monkeypatch.setenv("MUJOCO_GL", "egl")
    with pytest.raises(MissingSimulatorError, match=r"with MUJOCO_GL=egl \(module .*GLContext.*\): apt-get install"):
        drawing.draw_body("arm", BODY)
    broken.GLContext = lambda *size: SimpleNamespace(free=lambda: None)
    assert drawing.draw_body("arm", BODY).shape == (2, 3, 3)
    with pytest.raises(DataError, match="walker has no picture"):
        drawing.draw_body("walker", SimpleNamespace(unwrapped=SimpleNamespace()))


def test_a_wrong_or_broken_library_keeps_nobody_from_simulating(monkeypatch):
    """MuJoCo itself does not even import then."""
    asked = []

    def imported(name):
        asked.append(drawing.os.environ["MUJOCO_GL"])
        if asked[-1] != "disabled":
            raise RuntimeError("invalid value for environment variable MUJOCO_GL")

    monkeypatch.delitem(sys.modules, "mujoco", raising=False)
    monkeypatch.setattr(drawing.importlib, "import_module", imported)
    drawing.import_mujoco()
    assert asked == [], "nothing was asked for"
    monkeypatch.setenv("MUJOCO_GL", "wrong")
    drawing.import_mujoco()
    assert asked == ["wrong", "disabled"] and drawing.os.environ["MUJOCO_GL"] == "wrong"


def test_glfw_without_a_display_is_told(monkeypatch):
    context = SimpleNamespace(GLContext=lambda *size: SimpleNamespace(free=lambda: None))
    modules = {"mujoco": ModuleType("mujoco"), "mujoco.glfw": context, "glfw": SimpleNamespace(init=lambda: False)}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    with pytest.raises(MissingSimulatorError, match=r"MUJOCO_GL=glfw \(there is no display\)"):
        drawing.draw_body("arm", BODY)
