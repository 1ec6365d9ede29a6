from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from runs import small_run
from worlds import saved, world

from offline_marl.core.types import DataError
from offline_marl.environments.guarded import EnvironmentFailedError
from offline_marl.environments.split import SplitEnv
from offline_marl.films.frames import frames
from offline_marl.tasks import environment_tasks
from offline_marl.training import training_run


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(training_run, "draw_run", lambda *_: None)
    monkeypatch.setattr(environment_tasks, "UNIFORM_STEPS", 50)


def test_an_episode_of_a_run_is_shown_from_its_first_state_to_its_last(tmp_path):
    pytest.importorskip("mpe2")
    short = {"env_settings": {"N": 2}, "max_steps": 6, "steps": 1, "batch_size": 8, "final_episodes": 1}
    small_run(tmp_path / "run", None, "ma-ppo", environment="simple-spread", **short)
    shown = frames(tmp_path / "run", seed=1)
    assert shown.shape == (7, 700, 700, 3) and shown.dtype == np.uint8
    # The first step only sets what is at rest in motion.
    assert shown.mean() < 255 and all((one != other).any() for one, other in pairwise(shown[1:]))
    assert np.array_equal(frames(tmp_path / "run", seed=1, every=4), shown[[0, 4, 6]])
    assert (frames(tmp_path / "run", seed=2)[0] != shown[0]).any()


def test_an_environment_that_fails_while_it_is_shown_is_named(tmp_path, monkeypatch):
    small_run(
        tmp_path / "run", None, "ma-ppo", environment="reacher_2x1_full", steps=1, batch_size=50, final_episodes=1
    )

    def failing(self, actions):
        raise OSError("the simulator lost its licence")

    monkeypatch.setattr(SplitEnv, "step", failing)
    with pytest.raises(EnvironmentFailedError, match="reacher_2x1_full failed in a step: OSError: the simulator lost"):
        frames(tmp_path / "run")


def test_what_cannot_be_shown_says_so(tmp_path):
    small_run(tmp_path / "toy", None, "ma-ppo", environment="coordination", steps=1, final_episodes=1)
    with pytest.raises(DataError, match="coordination has no picture"):
        frames(tmp_path / "toy")
    small_run(tmp_path / "data", saved(tmp_path, world("continuous")), steps=1)
    with pytest.raises(DataError, match="cannot be shown: no environment belongs to its data"):
        frames(tmp_path / "data")
