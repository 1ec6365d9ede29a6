"""The world model's own tests: numbers by hand, and a fit of dynamics that are known."""

from __future__ import annotations

import torch
from marl_example.worldmodel import Residual, ResidualConfig

from offline_marl import Batch, Spec
from offline_marl.worldmodels.base import worldmodels
from offline_marl.worldmodels.facts import measure

SPEC = Spec(obs_dims=(1, 1), act_dims=(1, 1))


def rows(count: int) -> Batch:
    """Each agent's number moves by half of its action, and it earns its number."""
    draw = torch.Generator().manual_seed(0)
    obs, actions = torch.randn(count, 2, 1, generator=draw), torch.rand(count, 2, 1, generator=draw) * 2 - 1
    flags = torch.zeros(count, 2, dtype=torch.bool)
    return Batch(obs, actions, obs[..., 0].clone(), obs + 0.5 * actions, flags, flags).check()


def model(batch: Batch) -> Residual:
    torch.manual_seed(0)
    facts = measure(SPEC, batch.obs, batch.next_obs, batch.rewards, batch.terminations)
    return Residual(ResidualConfig(hidden=(32,), lr=1e-2), facts)


def test_the_registry_finds_the_plugin():
    assert worldmodels.get("residual") is Residual


def test_a_network_of_zeros_predicts_the_mean_change_and_the_mean_reward():
    batch = rows(50)
    made = model(batch)
    with torch.no_grad():
        for parameter in made.net.parameters():
            parameter.zero_()
    prediction, carry = made.step(made.begin(batch), batch.actions)
    change = (batch.next_obs - batch.obs).mean(0)
    torch.testing.assert_close(prediction.next_obs, batch.obs + change, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prediction.rewards, batch.rewards.mean(0).expand(50, -1), rtol=1e-4, atol=1e-5)
    assert torch.equal(carry.obs, prediction.next_obs) and not prediction.terminations.any()
    # Deviations are 1 in their own units, so that the error of knowing the means alone is 1.
    torch.testing.assert_close(made.errors(batch), torch.ones(1), rtol=2e-2, atol=0)


def test_it_learns_dynamics_that_are_linear():
    batch = rows(400)
    made = model(batch)
    for _ in range(400):
        made.update(batch)
    assert float(made.errors(batch)) < 0.1
