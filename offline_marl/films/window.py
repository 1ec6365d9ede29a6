"""A window that shows episodes of a run while they are played; owns the import of pygame for it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from offline_marl.core.attempts import said
from offline_marl.core.errors import BadInputError
from offline_marl.environments.base import Frame, JointEnv
from offline_marl.environments.episodes import episode_seeds
from offline_marl.environments.painting import FPS
from offline_marl.films.captions import COLORS
from offline_marl.films.frames import episode_frames, open_for_rendering
from offline_marl.runs.config import NO_CHOICE, EnvironmentChoice
from offline_marl.runs.folder import RunFolder

MOST_FPS = 60.0
"""Pictures in a second at most; of faster worlds not every step is shown."""
INSTEAD = "--video FILE.mp4 needs none"


class NoDisplayError(BadInputError, RuntimeError):
    """There is no display to open a window on, or no package that opens one."""


def show(run: str | Path, episodes: int = 1, seed: int = 0, choice: EnvironmentChoice = NO_CHOICE) -> int:
    """Show episodes of a run's newest checkpoint in a window, one after another, until it is closed.

    Time passes as in the simulated world. Escape, q and the window's own button close it.

    Args:
        run: The run folder.
        episodes: How many to show at most: the first ones of `evaluate` with this seed.
        seed: Decides their starts.
        choice: Another environment than the run's, or permission to import its own.

    Returns:
        How many were shown to their end.

    Raises:
        NoDisplayError: There is no display, or pygame is not installed.
        RunFolderError: The folder holds no run or no readable checkpoint.
        DataError: There is nothing to act in, or it has no picture.
    """
    refuse_no_display()
    policy, env = open_for_rendering(run, COLORS, choice)
    try:
        return _show(policy, env, RunFolder(run).path.name, episode_seeds(seed, episodes))
    finally:
        env.close()


def _show(policy: Any, env: JointEnv, title: str, seeds: list[int]) -> int:
    speed = float(getattr(env, "fps", FPS))
    every = max(1, round(speed / MOST_FPS))
    shown, window = 0, None
    try:
        for frame in episode_frames(policy, env, seeds, every):
            window = window or Window(frame.picture, speed / every)
            words = (
                f"{title}, episode {frame.episode + 1} of {len(seeds)}, step {frame.step}, return {frame.earned:.2f}"
            )
            if not window.draw(frame.picture, words):
                break
            shown += frame.last
    finally:
        if window is not None:
            window.close()
    return shown


def refuse_no_display() -> None:
    """Make sure that a window can be opened, before anything is played.

    Raises:
        NoDisplayError: There is no display, or pygame is not installed.
    """
    pygame = _import_pygame()
    # Of X and Wayland alone: without them SDL would draw where nobody sees it.
    wanted = {"DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"}
    if sys.platform.startswith("linux") and not wanted & {name for name, value in os.environ.items() if value}:
        raise NoDisplayError(f"--show needs a display, and there is none (DISPLAY is not set): {INSTEAD}.")
    try:
        pygame.display.init()
    except pygame.error as error:
        raise NoDisplayError(f"--show cannot open the display ({said(error)}): {INSTEAD}.") from None


def _import_pygame() -> Any:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        import pygame
    except ImportError:
        raise NoDisplayError(f"--show needs pygame: pip install 'offline-marl[video]'; {INSTEAD}.") from None
    return pygame


class Window:
    """A window of the size of a picture, which keeps a pace.

    Args:
        picture: The first one.
        fps: Pictures in a second.

    Raises:
        NoDisplayError: It cannot be opened.
    """

    def __init__(self, picture: Frame, fps: float) -> None:
        self._pygame, self._pause = _import_pygame(), 1 / fps
        high, wide = picture.shape[:2]
        try:
            self._surface = self._pygame.display.set_mode((wide, high))
        except self._pygame.error as error:
            raise NoDisplayError(f"--show cannot open a window ({said(error)}): {INSTEAD}.") from None
        self._next = time.monotonic()

    def draw(self, picture: Frame, words: str) -> bool:
        """Show a picture at its time, with words in the window's title; whether the window is still open."""
        pygame = self._pygame
        time.sleep(max(0.0, self._next - time.monotonic()))
        self._next = max(self._next, time.monotonic() - self._pause) + self._pause
        high, wide = picture.shape[:2]
        self._surface.blit(pygame.image.frombuffer(picture.tobytes(), (wide, high), "RGB"), (0, 0))
        pygame.display.set_caption(words)
        pygame.display.flip()
        closing = (pygame.K_ESCAPE, pygame.K_q)
        return not any(
            event.type == pygame.QUIT or (event.type == pygame.KEYDOWN and event.key in closing)
            for event in pygame.event.get()
        )

    def close(self) -> None:
        """Close the window."""
        self._pygame.display.quit()
