"""Behaviours that record: a run acts as it does where it is scored."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from offline_marl.algorithms.base import algorithms
from offline_marl.collection.behaviours import BLOCK, _BlockController, refuse_another_team
from offline_marl.core.partition import partition
from offline_marl.core.types import DataError, Spec
from offline_marl.environments.base import Seen
from offline_marl.environments.episodes import PolicyController

SPECS = {"continuous": Spec((3, 3), (2, 2)), "discrete": Spec((3, 3), (4, 4), 0, "discrete")}
STEPS, EPISODES = 5, 2


@pytest.mark.parametrize("kind", SPECS)
def test_who_is_away_does_nothing_and_remembers_that_as_where_runs_are_scored(kind: str) -> None:
    torch.manual_seed(0)
    spec, maker = SPECS[kind], algorithms.get("bc")
    policy = maker(maker.Config(window=3, hidden=(16,)), spec).requires_grad_(False)
    recorded, scored = _BlockController(policy, None, [3, BLOCK + 1]), PolicyController(policy, spec, EPISODES)
    draw = np.random.default_rng(0)
    for step in range(STEPS):
        # Agent 1 of the first episode comes at step 2, agent 0 of the second has left before step 3.
        present = np.array([[True, step >= 2], [step < 3, True]])
        obs = draw.normal(size=(EPISODES, 2, 3)).astype(np.float32) * present[..., None]
        avail = None if kind == "continuous" else np.ones((EPISODES, 2, 4), np.bool_)
        seen = Seen(obs, None, avail, present)
        done = recorded.act(seen, step)
        np.testing.assert_allclose(done, scored.act(seen, step), atol=1e-6)
        assert not done[~present].any()
        for controller in (recorded, scored):
            controller.remember(np.zeros((EPISODES, 2), np.float32))


@pytest.mark.parametrize("kind", SPECS)
def test_a_policy_of_another_kind_of_actions_is_refused(kind: str) -> None:
    spec, other, maker = Spec((3, 3), (5, 5), 0, "discrete"), Spec((3, 3), (5, 5)), algorithms.get("bc")
    if kind == "continuous":
        spec, other = other, spec
    policy, task = maker(maker.Config(hidden=(16,)), spec), SimpleNamespace(name="the pit")
    refuse_another_team(policy, spec, "The run a", task)
    with pytest.raises(
        DataError, match=f"The run a was trained for {kind} actions, but the pit's are {other.action_kind}"
    ):
        refuse_another_team(policy, other, "The run a", task)
    body = partition("reacher", "2x1", "0")
    alike = maker(maker.Config(hidden=(16,)), Spec(body.obs_dims, body.act_dims, 0, kind))
    if kind == "discrete":
        with pytest.raises(DataError, match="discrete actions, but the pit's are continuous"):
            refuse_another_team(alike, body, "The run a", task)
    else:
        refuse_another_team(alike, body, "The run a", task)
