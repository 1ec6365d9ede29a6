"""What the library is for: agents that interact in a world model of mixed conventions agree, those that copy do not."""

from __future__ import annotations

import pytest

from offline_marl.environments.episodes import episode_seeds, play
from offline_marl.tasks.data_tasks import open_task
from offline_marl.training.models.fit import fit_model
from offline_marl.training.run import train

pytestmark = pytest.mark.slow

GAME = "coordination-mix-v0"
SMALL = {"device": "cpu", "hidden": [64, 64], "checkpoint_every": 0, "eval_every": 0}
DREAM = {
    "steps": 30,
    "activation": "tanh",
    "lr": 3e-3,
    "value_clip": 0.0,
    "batch_size": 384,
    "minibatch_size": 128,
    "horizon": 6,
    "start_share": 1.0,
    "entropy_weight": 0.01,
    "entropy_step": 0.0,
    "spread": "standardized_variance",
    "reward_spread_weight": 0.0,
    "cutoff": 0.0,
}


def test_the_coordination_game_is_agreed_upon_in_imagination_and_not_by_cloning(tmp_path):
    task = open_task(GAME)
    fit = fit_model(
        "ensemble", GAME, out=tmp_path / "model", steps=600, members=3, elites=3, hidden=[64, 64], eval_every=200
    )
    assert fit.report is not None and fit.report["trusted"]
    for seed in (0, 1):
        made = train(
            "moma-ppo", GAME, out=tmp_path / f"{seed}", world_model=str(fit.folder), seed=seed, **SMALL, **DREAM
        )
        # Playing as they learnt, by chance: greedy play can agree by luck.
        played = play(made.algorithm, task.make_env(400), episode_seeds(1, 400), explore=True)
        assert played.returns.mean() > 5.7
        assert task.conventions(played.ends).agreed.mean() > 0.95

    cloned = train("bc", GAME, out=tmp_path / "bc", steps=1_000, lr=3e-3, **SMALL).algorithm
    played = play(cloned, task.make_env(2_000), episode_seeds(1, 2_000), explore=True)
    # Three agents who each draw one of two conventions agree in a quarter of all episodes, and keep to it.
    assert played.returns.mean() == pytest.approx(6 / 4, abs=0.3)
    assert task.conventions(played.ends).agreed.mean() == pytest.approx(1 / 4, abs=0.05)
