"""The loops of one's own that the page on training shows."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from runs import small_run

import offline_marl
from offline_marl.datasets.base import Dataset
from offline_marl.environments.base import environments
from offline_marl.environments.episodes import PolicyController
from offline_marl.tasks import environment_tasks
from offline_marl.training import training_run

PAGE = Path(__file__).parents[1] / "docs" / "training.md"


def block(word: str) -> str:
    """The one Python block of the page that holds a word."""
    (found,) = [code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if word in code]
    return found


@pytest.fixture(autouse=True)
def _short(monkeypatch, tmp_path):
    monkeypatch.setattr(training_run, "draw_run", lambda *_: None)
    monkeypatch.setattr(environment_tasks, "UNIFORM_STEPS", 25)
    monkeypatch.chdir(tmp_path)


def test_a_pettingzoo_loop_runs_and_acts_as_evaluation_does():
    pytest.importorskip("mpe2")
    fields = {"steps": 1, "batch_size": 8, "final_episodes": 1, "window": 3}
    small_run("runs/spread", None, "ma-ppo", environment="simple-spread-continuous", **fields)
    names: dict = {}
    exec(block("simple_spread_v3"), names)
    assert not names["env"].agents and all(names["truncations"].values())
    team, env = offline_marl.load("runs/spread"), names["env"]
    ours = environments.get("simple-spread-continuous").make(None, 1)
    controller, seen = PolicyController(team, team.spec, 1), ours.reset([7])
    actor = team.actor(agents=env.possible_agents, action_spaces=env.action_space)
    obs, _ = env.reset(seed=7)
    for step in range(25):
        assert np.array_equal(np.stack(list(obs.values())), seen.obs[0]), step
        obs, rewards, *_ = env.step(actor(obs))
        seen, earned, *_ = ours.step(controller.act(seen, step))
        controller.remember(earned)
        assert list(rewards.values()) == pytest.approx(earned[0].tolist())


def test_a_gymnasium_loop_runs_to_the_end():
    pytest.importorskip("gymnasium")
    rng = np.random.default_rng(0)
    obs, actions = rng.normal(size=(60, 1, 3)), rng.uniform(-1, 1, (60, 1, 1))
    small_run("runs/pendulum", Dataset.from_arrays(obs, actions, np.ones(60), lengths=[20] * 3), steps=1)
    names: dict = {}
    exec(block("Pendulum-v1"), names)
    assert names["over"] and names["obs"].shape == (3,)
