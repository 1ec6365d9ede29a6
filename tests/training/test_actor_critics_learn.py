"""MADDPG and MASAC learn while they play."""

from __future__ import annotations

import pytest
from runs import small_run


@pytest.mark.slow
def test_maddpg_covers_landmarks_far_better_than_chance(tmp_path):
    """Spread returns -27 by chance; what is left after little play is a quarter less."""
    pytest.importorskip("mpe2")
    result = small_run(
        tmp_path / "run",
        None,
        "maddpg",
        environment="simple-spread",
        steps=1000,
        updates_per_step=0.05,
        warmup_steps=2_000,
        batch_size=256,
        hidden=[64, 64],
        gamma=0.9,
        tau=0.02,
        lr=5e-3,
        log_every=500,
        final_episodes=50,
        checkpoint_every=0,
    )
    assert result.score.random_return < -24
    assert result.score.low > -22, result.score


@pytest.mark.slow
def test_masac_reaches_in_a_hundred_episodes(tmp_path):
    """Reacher shared by two agents: uniform play returns -44, an expert -4."""
    pytest.importorskip("mujoco")
    result = small_run(
        tmp_path / "run",
        None,
        "masac",
        environment="reacher_2x1_full",
        critic="centralised",
        steps=4000,
        warmup_steps=1_000,
        batch_size=128,
        hidden=[64, 64],
        lr=1e-3,
        critic_lr=3e-3,
        tau=0.01,
        gamma=0.95,
        log_every=1000,
        final_episodes=50,
        checkpoint_every=0,
    )
    assert result.score.random_return < -35
    assert result.score.low > -9, result.score
