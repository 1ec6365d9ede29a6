"""The loop that MA-PPO is timed against computes what MA-PPO computes: advantages, losses, gradients and descents.

Actions lie inside (-1, 1), where a clipped normal has the density of a plain one.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import hand
import pytest
import torch
from loops import gradients, lend_weights, pairs
from torch import Tensor

from offline_marl.algorithms.ma_ppo import MAPPO, MAPPOConfig
from offline_marl.core.types import Batch, Spec

SPEC = Spec((3,) * 3, (2,) * 3)
EPISODES, LENGTH = 4, 6


@pytest.fixture
def speed(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module("speed")


@pytest.fixture(autouse=True)
def doubles() -> Iterator[None]:
    """Two orders of summation agree to many digits."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def random_segments(window: int) -> Batch:
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.randn(EPISODES, LENGTH, SPEC.n_agents, *shape, generator=generator)

    histories = noise(window + 1, SPEC.step_dim)
    return Batch(
        obs=noise(SPEC.obs_dim),
        actions=torch.tanh(noise(SPEC.act_dim)),
        rewards=noise(),
        next_obs=noise(SPEC.obs_dim),
        # In some steps every agent is over, some of them by termination; in some, every agent by termination.
        terminations=noise() > -0.5,
        truncations=noise() > 0.0,
        history=histories[..., :-1, :] if window else None,
        next_history=histories[..., 1:, :] if window else None,
    )


def both(speed, window: int, epochs: int, minibatch_size: int):
    """Our learner and the loop with its weights and, in turn, its orders of the steps."""
    torch.manual_seed(0)
    settings = {"epochs": epochs, "minibatch_size": minibatch_size}
    ours = MAPPO(MAPPOConfig(hidden=(8, 8), window=window, lr=1e-2, grad_clip=0, **settings), SPEC)
    loop = speed.LOOPS["ma-ppo"](speed.Setup(SPEC, window, hidden=8, lr=1e-2), **settings)
    loop.clip = 0.0
    lend_weights(ours, loop)
    generator = hand.same_draws(ours)
    loop.order = lambda count: torch.randperm(count, generator=generator)
    return ours, loop


@pytest.mark.parametrize("window", [0, 4])
def test_the_loop_has_our_advantages(speed, window: int) -> None:
    ours, loop = both(speed, window, epochs=1, minibatch_size=64)
    batch = random_segments(window)
    over = (batch.terminations | batch.truncations).all(-1)
    assert over.any() and (over & ~batch.terminations.all(-1)).any() and batch.terminations.all(-1).any()
    entries, _ = ours.prepare(batch)

    flat = batch.flatten()
    with torch.no_grad():
        v = loop.v(loop.encoded(flat.obs, flat.history), flat.obs)
        next_v = loop.v(loop.encoded(flat.next_obs, flat.next_history), flat.next_obs)
    torch.testing.assert_close(entries.v, v)
    torch.testing.assert_close(entries.target, loop.advantages(batch, v, next_v) + v)


@pytest.mark.parametrize("window", [0, 4])
def test_the_loop_has_our_losses_and_gradients(speed, window: int) -> None:
    ours, loop = both(speed, window, epochs=1, minibatch_size=EPISODES * LENGTH)
    ours.entropy_weight.fill_(0.3)
    loop.entropy_weight.fill_(0.3)
    batch = random_segments(window)
    followed = gradients(loop)

    losses, reported = loop.update(batch), ours.update(batch)

    for name, loss in losses.items():
        torch.testing.assert_close(loss, reported[name])
    assert {mine for mine, _, _ in pairs(loop, ours)} == set(followed)
    for mine, theirs, pick in pairs(loop, ours):
        assert theirs.grad is not None
        torch.testing.assert_close(followed[mine], pick(theirs.grad), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("window", [0, 4])
def test_several_rounds_of_minibatches_lead_to_the_same_weights(speed, window: int) -> None:
    ours, loop = both(speed, window, epochs=3, minibatch_size=8)
    batch = random_segments(window)
    losses, reported = loop.update(batch), ours.update(batch)
    assert reported["clip/fraction"] > 0
    for name, loss in losses.items():
        torch.testing.assert_close(loss, reported[name])
    for mine, theirs, pick in pairs(loop, ours):
        torch.testing.assert_close(mine.data, pick(theirs.data), rtol=1e-6, atol=1e-7)


def test_the_row_times_episodes_that_the_clock_ends(speed) -> None:
    batch = speed.make_segments(speed.SIZES["reacher"], 4)
    batch.check()
    assert batch.rewards.shape[0] * batch.rewards.shape[1] == MAPPOConfig().batch_size
    assert batch.truncations[:, -1].all() and batch.truncations.sum() == 2 * len(batch.truncations)
    assert batch.actions.abs().max() < 1
