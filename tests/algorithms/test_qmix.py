"""QMIX: what its mixer can and cannot tell, and which joint state it reads. The rest is `test_vdn.py`'s."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from games import DATA, SPEC, one_step_game, small, solved, team_values

from offline_marl.algorithms.base import algorithms
from offline_marl.core.config import build
from offline_marl.core.types import DataError
from offline_marl.datasets.buffer import TransitionBuffer


@pytest.mark.slow
def test_qmix_tells_a_monotonic_payoff_that_is_no_sum():
    payoff = torch.tensor([[0.0, 1.0], [1.0, 8.0]])
    spec, batch = one_step_game(payoff)
    learner = solved("qmix", spec, batch, 600, mixer_width=8, hyper_width=16)
    torch.testing.assert_close(team_values(learner, batch.obs[0]), payoff, atol=0.05, rtol=0)
    assert learner.act(batch.obs[0, 0]).tolist() == [1, 1]


@pytest.mark.slow
def test_qmix_cannot_tell_a_payoff_that_is_not_monotonic():
    """Son et al., 2019: what is best for one agent turns with the other's choice.

    The nearest monotonic values are off by 288 / 9 in the mean square: 8 as it is and -6 for all else, the mean of
    four times -12 and four times 0. Other orders of the choices are further off.
    """
    payoff = torch.tensor([[8.0, -12.0, -12.0], [-12.0, 0.0, 0.0], [-12.0, 0.0, 0.0]])
    spec, batch = one_step_game(payoff)
    learner = solved("qmix", spec, batch, 600, mixer_width=8, hyper_width=16)
    values = team_values(learner, batch.obs[0])
    assert float((values - payoff).square().mean()) > 288 / 9 - 0.01
    greedy = learner.act(batch.obs[0, 0]).tolist()
    assert payoff[greedy[0], greedy[1]] == 0.0, "as published, it settles for what is safe"


def test_the_mixer_reads_the_global_state_if_told_to():
    learner = small("qmix", mixer_state="state")
    assert learner.needs.state and not small("qmix").needs.state
    buffer = TransitionBuffer(DATA)
    batch = buffer.view(buffer.first[:4], learner.needs)
    metrics = learner.update(batch)
    other = small("qmix", mixer_state="state").update(replace(batch, state=batch.state + 1))
    assert metrics["q/mean"] != other["q/mean"]
    with pytest.raises(DataError, match="mixer_state = obs"):
        small("qmix", mixer_state="state").update(replace(batch, state=None, next_state=None))


def test_a_team_without_a_global_state_is_refused_one():
    kind = algorithms.get("qmix")
    with pytest.raises(DataError, match="no global state"):
        kind(build(kind.Config, {"mixer_state": "state"}), replace(SPEC, state_dim=0))


def test_agents_act_alone_whatever_the_mixer():
    learner = small("qmix")
    obs = torch.randn(5, 3, 4) * SPEC.present("obs")
    before = learner.act(obs)
    with torch.no_grad():
        for parameter in learner.mixer.parameters():
            parameter.normal_()
    assert torch.equal(learner.act(obs), before)
