"""Videos and contact sheets of evaluation episodes, whole or absent on the disk."""

from __future__ import annotations

import io
import math
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_marl.core.config import ConfigError
from offline_marl.core.files import refuse_unwritable, write_atomically, writing
from offline_marl.core.progress import progress_bar
from offline_marl.environments.base import Frame, JointEnv
from offline_marl.environments.episodes import episode_seeds
from offline_marl.environments.painting import FPS
from offline_marl.films.captions import COLORS, MissingEncoderError, add_caption, import_pillow, make_sheet
from offline_marl.films.frames import EpisodeFrame, episode_frames, open_for_rendering
from offline_marl.runs.config import NO_CHOICE, EnvironmentChoice
from offline_marl.runs.folder import RunFolder

MOST_FPS = {".mp4": 60.0, ".gif": 25.0}
"""Pictures in a second at most, by the ending of a file; of faster worlds not every step is shown."""
MOST_KEPT = 64
"""Pictures that a sheet is chosen from, at most."""
SHEET_PICTURES, SHEET_COLUMNS, SHEET_WIDTH = 12, 4, 240
"""Pictures of a sheet, how many stand side by side, and how wide each is in pixels."""


@dataclass(frozen=True)
class Film:
    """Video that was written, with its sheet, frame count and returns."""

    path: Path
    sheet: Path
    """The pictures on one sheet, beside the video, as .png."""
    frames: int
    fps: float
    returns: tuple[float, ...]
    """One per episode, averaged over agents."""


def refuse_video(path: Path) -> None:
    """Make sure that a video can be written, before anything is played.

    Raises:
        ConfigError: The file ends in neither .mp4 nor .gif, or its folder cannot be written to.
        MissingEncoderError: imageio, its ffmpeg or Pillow is not installed.
    """
    if path.suffix.lower() not in MOST_FPS:
        raise ConfigError(f"--video {path} should end in .mp4 or .gif.")
    if path.is_dir():
        raise ConfigError(f"--video {path} is a folder: name a file.")
    refuse_unwritable(path.parent, "--video's folder")
    import_pillow()
    try:
        import imageio_ffmpeg
        from imageio import v2  # noqa: F401 - asked for here, used when writing

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        raise MissingEncoderError("Videos need imageio and its ffmpeg: pip install 'offline-marl[video]'.") from None


def film(
    run: str | Path, path: str | Path, episodes: int = 1, seed: int = 0, choice: EnvironmentChoice = NO_CHOICE
) -> Film:
    """Write a video of a run's newest checkpoint, and beside it a sheet of pictures.

    Agents wear distinct colours where the environment can show them, and are named in a corner with the step and the
    return so far. Time passes as in the simulated world.

    Args:
        run: The run folder.
        path: The video, .mp4 or .gif; replaced if it is there, and not touched before it is whole.
        episodes: How many to show, one after another: the first ones of `evaluate` with this seed.
        seed: Decides their starts.
        choice: Another environment than the run's, or permission to import its own.

    Raises:
        ConfigError: The file ends in neither .mp4 nor .gif, or its folder cannot be written to.
        MissingEncoderError: What writes videos is not installed.
        RunFolderError: The folder holds no run or no readable checkpoint.
        DataError: There is nothing to act in, or it has no picture.
        MissingSimulatorError: The simulator, or a library that draws off screen, is not installed.
    """
    path = Path(path)
    refuse_video(path)
    policy, env = open_for_rendering(run, COLORS, choice)
    try:
        every, fps = _pace(env, path)
        names = env.spec.agents
        title = RunFolder(run).config().algorithm
        chosen, returns, count = SheetFrames(), [0.0] * episodes, 0
        most = episodes * (2 + env.max_steps // every)
        with progress_bar(most, "video", "picture", leave=False) as bar, _encoder(path, fps) as encoder:
            for frame in episode_frames(policy, env, episode_seeds(seed, episodes), every):
                picture = add_caption(frame.picture, caption_of(title, frame, episodes), names)
                encoder.append_data(picture)
                returns[frame.episode] = frame.earned
                chosen.add(frame)
                count += 1
                bar.update()
    finally:
        env.close()
    sheet = path.with_suffix(".png")
    write_atomically(sheet, chosen.sheet(episodes))
    return Film(path, sheet, count, fps, tuple(returns))


def _pace(env: JointEnv, path: Path) -> tuple[int, float]:
    """Compute the steps from one picture to the next and the frame rate, so that time passes as in the environment."""
    speed = float(getattr(env, "fps", FPS))
    every = math.ceil(speed / MOST_FPS[path.suffix.lower()])
    return every, speed / every


def caption_of(title: str, frame: EpisodeFrame, episodes: int = 1) -> list[str]:
    """Compose the lines in the corner of a picture, above the names."""
    which = "" if episodes == 1 else f", episode {frame.episode + 1} of {episodes}"
    return [f"{title}{which}", f"step {frame.step}", f"return {frame.earned:.2f}"]


@contextmanager
def _encoder(path: Path, fps: float) -> Iterator[Any]:
    """Encode pictures into a temporary file, which moves to its place when all are in it.

    Raises:
        OSError: The encoder did not write all of them, of which it says nothing itself: the disk may be full.
    """
    import imageio_ffmpeg
    from imageio import v2

    kind = path.suffix.lower()
    settings: dict[str, Any] = {"codec": "libx264", "pixelformat": "yuv420p", "quality": 7}
    if kind == ".gif":
        colors = "split[a][b];[a]palettegen=max_colors=96:stats_mode=single[p];[b][p]paletteuse=new=1:dither=none"
        settings = {"codec": "gif", "pixelformat": "pal8", "output_params": ["-vf", colors, "-loop", "0", "-f", "gif"]}
    with tempfile.TemporaryDirectory() as folder:
        beside = Path(folder) / "film.mp4"  # imageio chooses its writer by this name, ffmpeg the format by -f
        writer = v2.get_writer(
            beside, format="FFMPEG", fps=fps, macro_block_size=2, ffmpeg_log_level="error", **settings
        )
        shown = CountingWriter(writer)
        try:
            yield shown
        finally:
            writer.close()
        try:
            written = imageio_ffmpeg.count_frames_and_secs(str(beside))[0]
        except RuntimeError:
            written = 0
        if written < shown.count:
            raise OSError(
                f"Only {written} of {shown.count} pictures of {path} could be written in {folder}: is the disk full?"
            )
        with beside.open("rb") as whole, writing(path) as stream:
            shutil.copyfileobj(whole, stream)


class CountingWriter:
    """Video writer that counts its frames, to compare with those in the file: ffmpeg fails silently on a full disk."""

    def __init__(self, writer: Any) -> None:
        self.writer, self.count = writer, 0

    def append_data(self, picture: Frame) -> None:
        """Encode one picture."""
        self.writer.append_data(picture)
        self.count += 1


class SheetFrames:
    """Evenly spaced sample of a stream of frames of unknown length.

    Keeps every n-th frame; when there are too many, every second one is dropped and n doubles.
    """

    def __init__(self) -> None:
        self.kept: list[EpisodeFrame] = []
        self._last: EpisodeFrame | None = None
        self._every, self._seen = 1, 0

    def add(self, frame: EpisodeFrame) -> None:
        """Offer the next frame."""
        if self._seen % self._every == 0:
            self.kept.append(frame)
        self._seen, self._last = self._seen + 1, frame
        if len(self.kept) > MOST_KEPT:
            self.kept, self._every = self.kept[::2], 2 * self._every

    def sheet(self, episodes: int) -> bytes:
        """Draw evenly spaced frames, first and last among them, as a PNG, each with its step and return."""
        frames = [*self.kept, self._last] if self._last and self._last is not self.kept[-1] else self.kept
        count = min(SHEET_PICTURES, len(frames))
        which = [frames[round(number * (len(frames) - 1) / max(count - 1, 1))] for number in range(count)]
        labels = [_label(frame, episodes) for frame in which]
        image, stream = (
            make_sheet([_small(frame.picture) for frame in which], labels, SHEET_COLUMNS, SHEET_WIDTH),
            io.BytesIO(),
        )
        image.save(stream, "PNG", optimize=True)
        return stream.getvalue()


def _label(frame: EpisodeFrame, episodes: int) -> str:
    which = "" if episodes == 1 else f"{frame.episode + 1}: "
    return f"{which}step {frame.step}, return {frame.earned:.2f}"


def _small(picture: Frame) -> Frame:
    return picture[:: max(1, picture.shape[1] // (3 * SHEET_WIDTH)), :: max(1, picture.shape[1] // (3 * SHEET_WIDTH))]
