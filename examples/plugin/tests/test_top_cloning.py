"""The plugin's own tests: what the library's contract cannot know."""

from __future__ import annotations

import pytest
import torch
from marl_example.algorithm import TopCloning, TopCloningConfig, best_rows

import offline_marl
from offline_marl import Batch, Spec

SPEC = Spec(obs_dims=(2, 2), act_dims=(1, 1))


def batch_of(rows: int) -> Batch:
    """Both agents did +1 in one half of the rows, for a reward, and -1 in the other, for a fine."""
    draw = torch.Generator().manual_seed(0)
    did = torch.tensor([1.0, -1.0]).repeat(rows // 2).view(rows, 1).expand(rows, 2)
    flags = torch.zeros(rows, 2, dtype=torch.bool)
    obs = torch.randn(rows, 2, 2, generator=draw)
    return Batch(
        obs=obs,
        actions=0.5 * did.unsqueeze(-1),
        rewards=did.contiguous(),
        next_obs=obs,
        terminations=~flags,
        truncations=flags,
    ).check()


def test_the_best_share_of_a_batch_by_hand():
    advantages = torch.tensor([3.0, -1.0, 0.0, 2.0, -5.0])
    assert best_rows(advantages, 0.5).tolist() == [1.0, 0.0, 1.0, 1.0, 0.0]  # the median itself is kept
    assert best_rows(advantages, 0.25).tolist() == [1.0, 0.0, 0.0, 1.0, 0.0]
    assert best_rows(advantages, 1.0).tolist() == [1.0] * 5


def test_the_registry_finds_the_plugin():
    assert offline_marl.algorithms.get("top-cloning") is TopCloning


@pytest.mark.parametrize(("share", "low", "high"), [(0.4, 0.3, 0.7), (1.0, -0.2, 0.2)])
def test_it_copies_what_was_rewarded_and_all_of_it_where_nothing_is_left_out(share, low, high):
    torch.manual_seed(0)
    learner = TopCloning(TopCloningConfig(hidden=(32,), lr=1e-2, share=share), SPEC)
    batch = batch_of(64)
    for _ in range(200):
        metrics = learner.update(batch)
    assert metrics["kept/share"] == pytest.approx(0.5 if share < 1 else 1.0, abs=0.15)
    assert low < float(learner.act(batch.obs).mean()) < high
