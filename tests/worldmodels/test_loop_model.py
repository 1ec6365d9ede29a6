"""The yardstick of benchmarks/speed_models.py computes what ours does: losses, steps of descent and imagined ones."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import hand
import pytest
import torch
from torch import nn

from offline_marl.core.types import Batch, Spec
from offline_marl.worldmodels.ensemble import Ensemble, EnsembleConfig
from offline_marl.worldmodels.facts import measure
from offline_marl.worldmodels.rollout import Caution, rollout
from offline_marl.worldmodels.uncertainty import covariance_norm, reward_variance

SPEC = Spec((3, 3), (1, 1))
MEMBERS, ELITES, ROWS = 3, 2, 16


@pytest.fixture(autouse=True)
def doubles() -> Iterator[None]:
    """Two orders of summation agree to many digits."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def loop_model(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("loop_model")


def rows() -> Batch:
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(MEMBERS, ROWS, 2, *shape, generator=generator)

    ended = (noise()[..., :1] > 0.5).expand(-1, -1, 2)
    return Batch(noise(3), torch.tanh(noise(1)), noise(), noise(3), ended, torch.zeros_like(ended))


def both(loop_model, lr: float):
    """Our ensemble and the loop with its weights."""
    batch = rows()
    flat = batch.flatten()
    facts = measure(SPEC, flat.obs, flat.next_obs, flat.rewards, flat.terminations)
    torch.manual_seed(0)
    ours = Ensemble(EnsembleConfig(members=MEMBERS, elites=ELITES, hidden=(8, 8), lr=lr), facts)
    with torch.no_grad():
        for parameter in ours.nets.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    loop = loop_model.LoopEnsemble(facts, MEMBERS, ELITES, hidden=8, lr=lr)
    for number, member in enumerate(loop.members):
        layers = [layer for layer in member if isinstance(layer, nn.Linear)]
        for layer, stacked in zip(layers, [*ours.nets.hidden_layers(), ours.nets.net.layers[-1]], strict=True):
            layer.weight.data.copy_(stacked.weight[number].t())
            layer.bias.data.copy_(stacked.bias[number, 0])
    return ours, loop, batch


def test_losses_and_several_steps_of_descent_agree(loop_model) -> None:
    ours, loop, batch = both(loop_model, lr=1e-2)
    for _ in range(4):
        torch.testing.assert_close(ours.update(batch)["loss/model"], loop.update(batch))
    for number, member in enumerate(loop.members):
        torch.testing.assert_close(ours.nets.net.layers[0].weight[number].t(), member[0].weight)


def test_imagined_steps_and_their_uncertainty_agree(loop_model) -> None:
    ours, loop, batch = both(loop_model, lr=1e-2)
    obs, actions = batch.obs[0], batch.actions[0]
    found = ours.predict(obs, actions)
    speakers = (ours.facts.join(found.next_obs) == found.spread.next_obs).all(-1).int().argmax(0)
    next_obs, rewards, ended, doubts, variance = loop.step(obs, actions, speakers)
    torch.testing.assert_close(found.next_obs, next_obs)
    torch.testing.assert_close(found.rewards, rewards)
    assert torch.equal(found.terminations[:, 0], ended) and bool(ended.any())
    torch.testing.assert_close(covariance_norm(found.spread), doubts)
    torch.testing.assert_close(reward_variance(found.spread), variance)


def test_whole_rollouts_agree(loop_model) -> None:
    ours, loop, batch = both(loop_model, lr=1e-2)
    starts, horizon = batch.map(lambda value: value[0]), 5
    speed_models = importlib.import_module("speed_models")
    policy, caution = speed_models.Projection(SPEC), Caution(cutoff=150.0)
    generator = hand.same_draws(ours)
    loop.speakers = lambda count: torch.randint(ELITES, (count,), generator=generator)

    told = loop.rollout(policy, starts, horizon, caution)
    found = rollout(ours, policy, starts, horizon, caution)

    assert found.cut.any() and told["alive"][:, -1].any() and told["terminations"].any()
    torch.testing.assert_close(found.spread, told["spread"])
    torch.testing.assert_close(found.batch.rewards - found.penalty.unsqueeze(-1), told["rewards"])
    for name in ("obs", "actions", "next_obs"):
        torch.testing.assert_close(getattr(found.batch, name), told[name])
    assert torch.equal(found.batch.terminations[..., 0], told["terminations"])
    assert torch.equal(found.batch.mask[..., 0], told["alive"])


def test_the_rows_can_be_asked_for(loop_model, capsys) -> None:
    torch.set_default_dtype(torch.float32)
    speed = importlib.import_module("speed")
    speed.main(["--only", "ensemble", "rollout", "--size", "reacher", "--rounds", "3", "--seconds", "0"])
    _, fit, imagined = capsys.readouterr().out.strip().split("\n")
    assert fit.startswith("ensemble ") and imagined.startswith("rollout ") and "loop over ours" in imagined
