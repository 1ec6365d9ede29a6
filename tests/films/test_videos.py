from __future__ import annotations

import importlib
import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from runs import small_run
from worlds import saved, world

from offline_marl.core.config import ConfigError
from offline_marl.core.types import DataError
from offline_marl.environments.base import MissingSimulatorError
from offline_marl.films import videos
from offline_marl.films.captions import COLORS, DARK, WHITE, MissingEncoderError, add_caption, make_sheet
from offline_marl.films.frames import EpisodeFrame
from offline_marl.films.videos import SheetFrames, film, refuse_video
from offline_marl.tasks import environment_tasks
from offline_marl.training import training_run
from offline_marl.training.run import evaluate

pytest.importorskip("imageio_ffmpeg")
pytest.importorskip("PIL")


def seen(path, high, wide):
    """All pictures of a video, as ffmpeg decodes it."""
    from imageio_ffmpeg import get_ffmpeg_exe

    command = [get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    told = subprocess.run(command, capture_output=True, check=True)
    return np.frombuffer(told.stdout, np.uint8).reshape(-1, high, wide, 3)


def near(picture, color):
    """Pixels of a colour, as exactly as a codec keeps it."""
    return int((np.abs(picture.astype(int) - np.array(color)).max(-1) < 40).sum())


@pytest.fixture(scope="module")
def particles(tmp_path_factory):
    """A run of two agents, seven pictures an episode."""
    pytest.importorskip("mpe2")
    out = tmp_path_factory.mktemp("particles") / "run"
    short = {"env_settings": {"N": 2}, "max_steps": 6, "steps": 1, "batch_size": 8, "final_episodes": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_run, "draw_run", lambda *_: None)
        patch.setattr(environment_tasks, "UNIFORM_STEPS", 50)
        small_run(out, None, "ma-ppo", environment="simple-spread", **short)
        yield out


@pytest.mark.long
@pytest.mark.parametrize("ending", ["mp4", "gif"])
def test_a_video_shows_the_episodes_that_are_evaluated(particles, tmp_path, ending):
    made = film(particles, tmp_path / f"two.{ending}", episodes=2, seed=1)
    shown = seen(made.path, 700, 700)
    assert len(shown) == 14 and (made.frames, made.fps) == (14, 10)
    assert made.returns == pytest.approx(evaluate(particles, episodes=2, seed=1).returns)
    assert all(picture.mean() > 20 and picture.std() > 20 for picture in shown), "neither black nor white"
    assert all((one != other).any() for one, other in pairwise(shown))
    beyond = shown.copy()
    beyond[:, :200, :250] = 0
    assert (beyond[0] != beyond[6]).sum() > 100, "not the words alone change"
    for color in COLORS[:2]:
        # In the corner a square of some 20 pixels, and the agent itself.
        assert near(shown[3], color) > 500 and near(shown[3][:200, :250], color) > 200
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["two.png", f"two.{ending}"])
    from PIL import Image

    with Image.open(made.sheet) as image:
        sheet = np.asarray(image)
    assert sheet.shape[1] == 4 * 248 + 8 and near(sheet, COLORS[0]) > 100


def test_a_faster_world_keeps_its_pace(particles, tmp_path, monkeypatch):
    from offline_marl.environments.painting import Painted

    monkeypatch.setattr(Painted, "fps", 125.0)
    made = film(particles, tmp_path / "fast.mp4")
    assert made.frames == 3 and made.fps == pytest.approx(125 / 3)  # steps 0, 3 and 6


@pytest.mark.long
@pytest.mark.mujoco
def test_an_arm_is_filmed_off_screen(tmp_path, monkeypatch):
    pytest.importorskip("mujoco")
    monkeypatch.setattr(training_run, "draw_run", lambda *_: None)
    monkeypatch.setattr(environment_tasks, "UNIFORM_STEPS", 50)
    once = {"steps": 1, "batch_size": 8, "final_episodes": 1}
    small_run(tmp_path / "run", None, "ma-ppo", environment="reacher_2x1notip_0", **once)
    monkeypatch.setitem(videos.MOST_FPS, ".mp4", 5.0)
    try:
        made = film(tmp_path / "run", tmp_path / "arm.mp4")
    except MissingSimulatorError as error:
        pytest.skip(str(error))
    shown = seen(made.path, 480, 480)
    assert len(shown) == 6 and made.fps == 5
    assert all(picture[160:].mean() > 50 and (one != picture).any() for one, picture in pairwise(shown))
    # Its links are lit so well that they look like the squares beside the agents' names.
    assert all(near(picture[160:], color) > 50 for picture in shown for color in COLORS[:2])
    assert made.returns == pytest.approx(evaluate(tmp_path / "run", episodes=1).returns), "paint weighs nothing"


@pytest.mark.parametrize("death", [KeyboardInterrupt, OSError])
def test_what_is_not_finished_leaves_no_file(particles, tmp_path, monkeypatch, death):
    film(particles, tmp_path / "one.mp4")
    before = (tmp_path / "one.mp4").read_bytes()
    calls = []

    def dying(*given):
        calls.append(given)
        if len(calls) == 4:
            raise death
        return add_caption(*given)

    monkeypatch.setattr(videos, "add_caption", dying)
    for name in ("one.mp4", "two.mp4"):
        calls.clear()
        with pytest.raises(death):
            film(particles, tmp_path / name)
    assert (tmp_path / "one.mp4").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.mp4", "one.png"]


@pytest.mark.parametrize("ending", ["mp4", "gif"])
def test_a_video_that_the_encoder_could_not_finish_is_no_video(particles, tmp_path, monkeypatch, ending):
    """As on a full disk, of which the encoder tells nobody."""
    whole = videos.CountingWriter.append_data

    def cut(self, picture):
        whole(self, picture)
        if self.count == 7:
            self.writer.close()
            os.truncate(next(room.glob("*/film.mp4")), 8_000)

    room = tmp_path / "room"
    room.mkdir()
    monkeypatch.setattr(videos.tempfile, "tempdir", str(room))
    monkeypatch.setattr(videos.CountingWriter, "append_data", cut)
    with pytest.raises(OSError, match=r"Only \d of 7 pictures of .*film"):
        film(particles, tmp_path / f"film.{ending}")
    assert [path.name for path in tmp_path.iterdir()] == ["room"] and not list(room.iterdir())


def test_what_cannot_be_filmed_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(training_run, "draw_run", lambda *_: None)
    for name in ("film.avi", "film"):
        with pytest.raises(ConfigError, match=r"--video .*film.* should end in .mp4 or .gif"):
            film(tmp_path / "run", tmp_path / name)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(ConfigError, match=r"cannot be written to: .*file is a file"):
        film(tmp_path / "run", tmp_path / "file" / "film.mp4")
    with pytest.raises(ConfigError, match=r"folder.mp4 is a folder"):
        film(tmp_path / "run", tmp_path / "folder.mp4")
    small_run(tmp_path / "toy", None, "ma-ppo", environment="coordination", steps=1, final_episodes=1)
    with pytest.raises(DataError, match="coordination has no picture"):
        film(tmp_path / "toy", tmp_path / "toy.mp4")
    small_run(tmp_path / "data", saved(tmp_path, world("continuous")), steps=1)
    with pytest.raises(DataError, match="cannot be shown: no environment belongs to its data"):
        film(tmp_path / "data", tmp_path / "toy.mp4")
    assert not list(tmp_path.glob("toy.*"))


@pytest.mark.parametrize("lacking", ["imageio_ffmpeg", "imageio", "PIL"])
def test_a_missing_encoder_is_named(tmp_path, monkeypatch, lacking):
    monkeypatch.setitem(sys.modules, lacking, None)
    with pytest.raises(MissingEncoderError, match=r"pip install 'offline-marl\[video\]'"):
        refuse_video(tmp_path / "film.mp4")


def test_a_package_without_its_program_is_named(tmp_path, monkeypatch):
    def nowhere():
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(importlib.import_module("imageio_ffmpeg"), "get_ffmpeg_exe", nowhere)
    with pytest.raises(MissingEncoderError, match=r"pip install 'offline-marl\[video\]'"):
        refuse_video(tmp_path / "film.mp4")


@pytest.mark.parametrize("size", [(320, 320), (241, 321), (480, 640)])
def test_words_stay_in_the_corner_of_a_picture_with_even_sides(size):
    high, wide = size
    picture = add_caption(
        np.full((high, wide, 3), 255, np.uint8), ["bc", "step 12", "return -3.21"], ["agent_0", "agent_1"]
    )
    assert picture.shape == (high + high % 2, wide + wide % 2, 3)
    written = np.argwhere((picture != 255).any(-1))
    assert written.max(0)[0] < high / 2 and written.max(0)[1] < wide / 2
    box = picture[: written.max(0)[0], : written.max(0)[1]]
    assert (box.min(-1) > 200).sum() > 100, "white words on a dark box"
    assert all(near(box, color) >= 60 for color in COLORS[:2])


# Machado, Oliveira and Fernandes (2009), severity 1: what dichromats see of linear red, green and blue.
EYES = {
    "all cones": np.eye(3),
    "no long ones": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no middle ones": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "no short ones": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def lab(color, eye):
    """CIELAB (D65) of a colour as this eye sees it; 2.3 is a just noticeable difference."""
    part = np.array(color) / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4) @ np.array(eye).T
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = np.clip(linear, 0, 1) @ to_xyz.T / [0.9505, 1, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eye", EYES)
def test_colours_of_agents_are_told_apart_by_every_eye(eye):
    seen_as = [lab(color, EYES[eye]) for color in COLORS]
    pairs = [np.linalg.norm(one - other) for i, one in enumerate(seen_as) for other in seen_as[:i]]
    assert len(pairs) == 28 and min(pairs) > 25
    assert min(np.linalg.norm(each - lab(ground, EYES[eye])) for each in seen_as for ground in (WHITE, DARK)) > 18


def test_many_agents_do_not_fill_the_picture():
    names = [f"agent_{number}" for number in range(30)]
    picture = add_caption(np.full((320, 320, 3), 255, np.uint8), ["bc"], names)
    assert (picture[-40:] == 255).all()


def test_a_sheet_shows_evenly_spaced_steps():
    chosen = SheetFrames()
    for step in range(1001):
        chosen.add(EpisodeFrame(np.full((8, 8, 3), step % 256, np.uint8), 0, step, -step, step == 1000))
    steps = [frame.step for frame in chosen.kept]
    assert len(steps) <= videos.MOST_KEPT and len({b - a for a, b in pairwise(steps)}) == 1
    assert chosen.sheet(1).startswith(b"\x89PNG")
    sheet = make_sheet([np.zeros((50, 100, 3), np.uint8)] * 5, list("abcde"), 4, 100)
    assert sheet.size[0] == 4 * 108 + 8 and sheet.size[1] > 2 * 58
