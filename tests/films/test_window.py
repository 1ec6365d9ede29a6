"""Windows are opened on SDL's dummy display, which draws nowhere and tells the pictures."""

from __future__ import annotations

import builtins
import re

import numpy as np
import pytest
from worlds import CONTINUOUS, PointEnv

from offline_marl.films import window
from offline_marl.films.window import NoDisplayError, Window, refuse_no_display

pygame = pytest.importorskip("pygame")


@pytest.fixture
def dummy(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    yield
    pygame.display.quit()


@pytest.fixture
def coloured(monkeypatch, dummy):
    """An environment whose pictures tell the step by their brightness, and what a window showed of it."""

    class Drawn(PointEnv):
        fps = 1000.0
        drawn = 0

        def render(self, copy=0):
            self.drawn += 1
            return np.full((40, 60, 3), self.drawn, np.uint8)

    env, seen = Drawn(CONTINUOUS, 1), []
    monkeypatch.setattr(window, "MOST_FPS", 1000.0)
    monkeypatch.setattr(window, "open_for_rendering", lambda run, colors, choice: (Still(), env))
    draw = Window.draw

    def drawing(self, picture, words):
        going = draw(self, picture, words)
        seen.append((pygame.surfarray.array3d(pygame.display.get_surface()), words))
        return going

    monkeypatch.setattr(Window, "draw", drawing)
    return seen


class Still:
    """A policy that stands still."""

    window = 0

    def act(self, obs, history=None, avail_actions=None, explore=False):
        return obs.new_zeros(*obs.shape[:-1], CONTINUOUS.act_dim)


def test_a_window_shows_every_step_of_the_episodes_with_step_and_return(coloured):
    assert window.show("runs/x", episodes=2) == 2
    assert [picture.mean() for picture, _ in coloured] == list(range(1, len(coloured) + 1))
    assert coloured[0][0].shape == (60, 40, 3)
    told = [re.fullmatch(r"x, episode (\d) of 2, step (\d+), return -?\d+\.\d\d", words) for _, words in coloured]
    places = [(int(words[1]), int(words[2])) for words in told]
    ends = [max(step for episode, step in places if episode == number) for number in (1, 2)]
    assert places == [(number, step) for number in (1, 2) for step in range(ends[number - 1] + 1)] and min(ends) > 1
    assert not pygame.display.get_init()


@pytest.mark.parametrize(
    "event",
    [
        {"type": pygame.QUIT},
        {"type": pygame.KEYDOWN, "key": pygame.K_ESCAPE},
        {"type": pygame.KEYDOWN, "key": pygame.K_q},
    ],
)
def test_a_window_that_is_closed_ends_the_show(coloured, event):
    pygame.display.init()
    pygame.event.post(pygame.event.Event(event.pop("type"), event))
    assert window.show("runs/x", episodes=2) == 0
    assert len(coloured) == 1


def test_pictures_keep_the_pace_of_the_world(monkeypatch, dummy):
    slept, now = [], [0.0]
    monkeypatch.setattr(window.time, "monotonic", lambda: now[0])

    def sleep(seconds):
        slept.append(round(seconds, 6))
        now[0] += seconds

    monkeypatch.setattr(window.time, "sleep", sleep)
    shown = Window(np.zeros((4, 4, 3), np.uint8), fps=10)
    for took in (0.0, 0.02, 0.5, 0.0):
        shown.draw(np.zeros((4, 4, 3), np.uint8), "")
        now[0] += took
    shown.close()
    assert slept == [0, 0.1, 0.08, 0], "a picture that took long is not caught up with in a rush"


def test_without_a_display_a_sentence_says_what_needs_none(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(window.sys, "platform", "linux")
    with pytest.raises(NoDisplayError, match=r"^--show needs a display.* --video FILE.mp4 needs none\.$"):
        refuse_no_display()
    monkeypatch.setenv("SDL_VIDEODRIVER", "nonsense")
    with pytest.raises(NoDisplayError, match=r"^--show cannot open the display .* --video FILE.mp4 needs none\.$"):
        refuse_no_display()


def test_without_pygame_a_sentence_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def lacking(name, *rest, **more):
        if name == "pygame":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(NoDisplayError, match=r"needs pygame: pip install 'offline-marl\[video\]'"):
        refuse_no_display()
