"""Reward models find the reward that a noisy teacher prefers by."""

from __future__ import annotations

import pytest
import torch

from offline_marl.collection.collect import collect
from offline_marl.collection.config import CollectConfig
from offline_marl.preferences.teachers import TeacherConfig
from offline_marl.tasks.data_tasks import open_task
from offline_marl.training.kinds import fit_reward
from offline_marl.training.preferences.answering import simulate
from offline_marl.training.preferences.asking import Plan, ask
from offline_marl.training.preferences.folders import ComparisonFolder


@pytest.mark.slow
def test_a_noisy_teachers_reward_is_found_on_held_out_episodes(tmp_path) -> None:
    # Two who must meet at one of two posts: what one earns depends on where the other is.
    who = ("left=.35", "right=.35", "random=.3")
    noise = (0.0, 0.3, 0.8, 1.5)
    place = tmp_path / "mine.safetensors"
    config = CollectConfig(environment="rendezvous", out=place, who=who, noise=noise, episodes=1000)
    data = str(collect(config))
    with ComparisonFolder(tmp_path / "pairs", make=True) as folder:
        ask(folder, open_task(data), Plan(budget=2500))
        simulate(folder, TeacherConfig())
    torch.set_num_threads(1)
    fit = fit_reward(data, tmp_path / "pairs", out=tmp_path / "r", joint=True, steps=1500, device="cpu")
    assert fit.report is not None and fit.report["trusted"]
    # .9 of what the teacher's own noise leaves to be told, and returns that rise with the true ones.
    assert fit.report["accuracy"]["share_of_bayes"] >= 0.9, fit.report["accuracy"]
    assert fit.report["true_returns"]["team"]["rank"] >= 0.9, fit.report["true_returns"]
    assert fit.report["true_returns"]["episodes"] >= 200
