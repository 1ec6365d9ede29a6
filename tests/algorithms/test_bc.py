from __future__ import annotations

import pytest
import torch
from naive import before_and_after, gradients, learner_and_batch, log_probs, taken

from offline_marl.algorithms.base import algorithms
from offline_marl.core.config import build
from offline_marl.core.seeding import seeded_globally
from offline_marl.core.types import Batch, Spec


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_the_loss_is_the_mean_negative_log_likelihood_of_every_agents_action(kind):
    learner, batch = learner_and_batch("bc", kind)
    before, metrics = before_and_after(learner, batch)
    loss = -torch.stack(log_probs(before.actor, before.spec, batch)).mean()
    torch.testing.assert_close(metrics["loss/actor"], loss.detach())
    torch.testing.assert_close(taken(learner.actor), gradients(loss, before.actor))


def test_masked_entries_do_not_count():
    learner, batch = learner_and_batch("bc", "continuous")
    mask = torch.zeros_like(batch.terminations)
    mask[2, 1] = mask[5, 0] = True
    masked = Batch(**{name: getattr(batch, name) for name in batch.__dataclass_fields__} | {"mask": mask})
    before, metrics = before_and_after(learner, masked)
    found = log_probs(before.actor, before.spec, batch)
    torch.testing.assert_close(metrics["loss/actor"], -(found[1][2] + found[0][5]).detach() / 2)


def test_it_recovers_a_linear_policy_of_each_agent():
    spec = Spec(obs_dims=(3, 2), act_dims=(1, 2))
    generator = torch.Generator().manual_seed(0)
    gains = torch.randn(2, 3, 2, generator=generator) * 0.5

    def sample(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        obs = torch.randn(rows, 2, 3, generator=generator) * spec.present("obs")
        return obs, torch.tanh(torch.einsum("rao,aoc->rac", obs, gains)) * spec.present("act")

    kind = algorithms.get("bc")
    with seeded_globally(0, "initialisation"):
        learner = kind(build(kind.Config, {"hidden": [64], "lr": 3e-3}), spec)
    nothing = torch.zeros(128, 2, dtype=torch.bool)
    for _ in range(600):
        obs, actions = sample(128)
        learner.update(Batch(obs, actions, torch.zeros(128, 2), obs, nothing, nothing))
    obs, actions = sample(500)
    errors = (learner.act(obs) - actions).square().mean((0, 2)).sqrt()
    assert bool((errors < 0.05).all()), errors
