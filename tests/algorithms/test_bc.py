from __future__ import annotations

import math
from dataclasses import replace

import hand
import pytest
import torch

from offline_marl.algorithms.base import algorithms
from offline_marl.core.config import build
from offline_marl.core.seeding import seeded_globally
from offline_marl.core.types import Batch, Spec

NORMAL = -0.5 * math.log(2 * math.pi)
"""Log density of a standard normal at 0."""
ACTIONS = torch.tensor([[[0.0, 0.0], [math.tanh(1.0), 0.0]]] * 2)
"""The first agent's two entries at 0, the second's one at tanh 1."""


def cloner(discrete: bool, **settings):
    """Continuous: mean 0 and log-std -1 of both entries; mean 0.5 and log-std 0. Discrete: odds 1 : 3 : 4 and 1 : 1."""
    learner = hand.learner_of("bc", hand.DISCRETE if discrete else hand.CONTINUOUS, **settings)
    choices = [[0.0, math.log(3.0), math.log(4.0)], [0.0, 0.0, 9.0]]
    hand.answer(learner.actor, choices if discrete else [[0.0, 0.0, -1.0, -1.0], [0.5, 9.0, 0.0, 9.0]])
    return learner


def test_the_loss_of_continuous_actions_by_hand():
    """z = 0, twice at deviation 1 / e; z = (atanh a - 0.5) / 1 = 0.5, and d tanh / dx = 1 - tanh(1)^2."""
    found = cloner(False).update(hand.batch_of(hand.CONTINUOUS, ACTIONS))["loss/actor"]
    first = 2 * (NORMAL + 1)
    second = NORMAL - 0.125 - math.log(1 - math.tanh(1.0) ** 2)
    assert float(found) == pytest.approx(-(first + second) / 2, abs=1e-5)


def test_the_loss_of_choices_by_hand():
    """Of the first agent's choices the third is not available: log 3/4; the second agent's padding counts nothing."""
    actions = torch.tensor([[1, 0]] * 2)
    avail = torch.tensor([[[True, True, False], [True, True, False]]] * 2)
    batch = hand.batch_of(hand.DISCRETE, actions, avail_actions=avail)
    found = cloner(True).update(batch)["loss/actor"]
    assert float(found) == pytest.approx(-(math.log(0.75) + math.log(0.5)) / 2, abs=1e-6)


def test_imagined_rows_are_not_cloned():
    """Choice 1 of the recorded row alone: log 3/8 and log 1/2; without a recorded row there is nothing to clone."""
    batch = hand.batch_of(hand.DISCRETE, torch.tensor([[1, 0], [0, 1]]))
    found = cloner(True).update(replace(batch, synthetic=torch.tensor([False, True])))["loss/actor"]
    assert float(found) == pytest.approx(-(math.log(3 / 8) + math.log(0.5)) / 2, abs=1e-6)
    assert float(cloner(True).update(replace(batch, synthetic=torch.ones(2, dtype=torch.bool)))["loss/actor"]) == 0.0


def test_imagined_rows_and_masked_agents_do_not_count():
    """Of the recorded row only the second agent is there."""
    batch = hand.batch_of(hand.DISCRETE, torch.tensor([[1, 0], [0, 1]]))
    batch = replace(batch, synthetic=torch.tensor([False, True]), mask=torch.tensor([[False, True], [True, True]]))
    assert float(cloner(True).update(batch)["loss/actor"]) == pytest.approx(-math.log(0.5), abs=1e-6)


def test_masked_entries_do_not_count():
    """Three of four entries are left: the first agent's twice and the second's once."""
    batch = hand.without_the_ended(hand.batch_of(hand.DISCRETE, torch.tensor([[1, 0]] * 2)))
    found = cloner(True).update(batch)["loss/actor"]
    assert float(found) == pytest.approx(-(2 * math.log(3 / 8) + math.log(0.5)) / 3, abs=1e-6)


def test_gradients_by_hand():
    """By the logits: (softmax - one-hot) over the two agents of the mean, and zero on what is not there."""
    learner = cloner(True)
    learner.update(hand.batch_of(hand.DISCRETE, torch.tensor([[1, 0]] * 2)))
    slopes = learner.actor.net.stack.layers[-1].bias.grad[:, 0]
    expected = [[0.125 / 2, (0.375 - 1) / 2, 0.5 / 2], [(0.5 - 1) / 2, 0.5 / 2, 0.0]]
    torch.testing.assert_close(slopes, torch.tensor(expected), rtol=0, atol=1e-6)


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
