"""From nothing to tiers and back: a team trained online, its checkpoints recorded, a clone of the best as good."""

from __future__ import annotations

import pytest

from offline_marl.collection.config import CollectConfig
from offline_marl.collection.tiers import collect_tiers
from offline_marl.core.config import build
from offline_marl.training.run import train

ONLINE = {
    "steps": 32,
    "batch_size": 1_000,
    "minibatch_size": 250,
    "hidden": [32, 32],
    "lr": 1e-3,
    "state_std": False,
    "entropy_weight": 0.01,
    "entropy_step": 0.0,
    "checkpoint_every": 1,
    "keep_checkpoints": 0,
}
COMMON = {"device": "cpu", "eval_every": 0, "log_every": 10}


@pytest.mark.slow
def test_a_run_makes_tiers_and_a_clone_of_the_best_is_as_good_as_it(tmp_path):
    run = train("ma-ppo", environment="rendezvous", out=tmp_path / "online", **ONLINE, **COMMON)
    settings = {"environment": "rendezvous", "tiers": run.folder, "out": tmp_path / "meet", "episodes": 100}
    tiers = collect_tiers(build(CollectConfig, {**settings, "score_episodes": 100, "noise": (0.05,)}))
    means = [tier.score.mean for tier in tiers]
    assert [tier.name for tier in tiers] == ["poor", "medium", "good", "expert"]
    assert means == sorted(means) and means[-1] > 5.5 and len(list(tmp_path.glob("meet-*.safetensors"))) == 4
    best = tiers[-1]
    clone = train(
        "bc", str(best.path), out=tmp_path / "clone", steps=2_000, hidden=[32, 32], batch_size=128, **COMMON
    ).score
    assert clone is not None and clone.normalized is not None
    # Both are measured on starts of the same distribution: their intervals meet, and 100 is the best checkpoint.
    assert clone.high > best.score.low and clone.low < best.score.high
    assert clone.normalized[0] == pytest.approx(100, abs=6)
