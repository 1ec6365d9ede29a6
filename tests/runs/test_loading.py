from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from runs import small_run
from worlds import saved, world

from offline_marl.core.permissions import ImportPath
from offline_marl.core.types import DataError
from offline_marl.runs.loading import ActingPrey
from offline_marl.runs.pins import version_of
from offline_marl.tasks import environment_tasks
from offline_marl.tasks.environment_tasks import find_environment_task
from offline_marl.training import training_run
from offline_marl.training.run import load

TAG = {"algorithm": "ma-ppo", "environment": "simple-tag", "steps": 1, "batch_size": 8, "final_episodes": 1}


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(training_run, "draw_run", lambda *_: None)
    monkeypatch.setattr(environment_tasks, "UNIFORM_STEPS", 25)


def test_the_prey_of_a_run_on_tag_flees_from_other_hunters(tmp_path, monkeypatch):
    pytest.importorskip("mpe2")
    monkeypatch.chdir(tmp_path)
    small_run("tag", None, **TAG, seed=3)
    hunting = {**TAG, "environment": "simple-tag-prey", "env_settings": {"prey": "tag"}}
    hunters = small_run("hunters", None, **hunting)
    config = (tmp_path / "hunters" / "config.json").read_text()
    assert str(tmp_path / "tag") in config and hunters.score.random_return is not None
    team, prey = load("tag"), ActingPrey("tag")
    whole, own = (
        find_environment_task("simple-tag", permit=ImportPath).make(1),
        find_environment_task("simple-tag-prey", {"prey": "tag"}, permit=ImportPath).make(1),
    )
    pinned = json.loads((tmp_path / "hunters" / "pinned.json").read_text())
    assert pinned == {f"prey of the run {tmp_path / 'tag'}": version_of(team)}
    seen, short = whole.reset([5]), own.reset([5])
    for _ in range(10):
        assert np.array_equal(seen.obs[:, :3], short.obs)
        actions = team.act(torch.from_numpy(seen.obs)).numpy()
        assert prey(seen.obs[0, 3, :14]) == actions[0, 3]
        seen, short = whole.step(actions)[0], own.step(actions[:, :3])[0]
    with pytest.raises(DataError, match="sees 14 numbers, not the prey's 9"):
        prey(np.zeros(9, np.float32))


def test_a_prey_that_reads_its_past_is_refused(tmp_path):
    small_run(tmp_path / "run", saved(tmp_path, world("continuous")), steps=1, window=2)
    with pytest.raises(DataError, match="reads its past"):
        ActingPrey(tmp_path / "run")
    small_run(tmp_path / "own", saved(tmp_path, world("continuous")), steps=1)
    actions = ActingPrey(tmp_path / "own")(np.zeros(3, np.float32))
    assert actions.shape == (2,) and (actions >= 0).all() and (actions <= 1).all()
