"""The yardsticks of benchmarks/speed.py compute what the learners compute: the same losses, the same gradients."""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import hand
import pytest
import torch
from loops import gradients, lend_weights, pairs
from torch import Tensor

from offline_marl.algorithms.base import Algorithm, algorithms
from offline_marl.core.config import build
from offline_marl.core.types import Batch, Spec

SPEC = Spec((3,) * 3, (2,) * 3)
ROWS, AGENTS, ACT = 6, SPEC.n_agents, SPEC.act_dim
LEARNERS = [
    "bc",
    "iql",
    "ma-iql",
    "omiga",
    "td3-bc",
    "td3-bc-centralised",
    "cql",
    "cql-centralised",
    "omar",
    "omar-centralised",
]


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


def random_batch(window: int) -> Batch:
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.randn(ROWS, AGENTS, *shape, generator=generator)

    return Batch(
        obs=noise(SPEC.obs_dim),
        actions=torch.tanh(noise(ACT)),
        rewards=noise(),
        next_obs=noise(SPEC.obs_dim),
        terminations=noise() > -0.5,
        truncations=torch.zeros(ROWS, AGENTS, dtype=torch.bool),
        history=noise(window, SPEC.step_dim) if window else None,
        next_history=noise(window, SPEC.step_dim) if window else None,
    )


def both(speed, learner: str, window: int):
    """Our learner and the loop with its weights, whose steps have size 0: all its losses are taken at these weights."""
    name, settings = speed.LEARNERS[learner]
    kind = algorithms.get(name)
    torch.manual_seed(0)
    ours = kind(build(kind.Config, {"hidden": [8, 8], "window": window, "grad_clip": 0, **settings}), SPEC)
    loop = speed.LOOPS[name](speed.Setup(SPEC, window, "critic" in settings, hidden=8, lr=0.0))
    loop.clip = 0.0
    lend_weights(ours, loop)
    return ours, loop


def share_draws(loop, ours: Algorithm, learner: str, monkeypatch) -> tuple[deque[Tensor], deque[Tensor]]:
    """The loop's next draws are those that ours is about to make; returns what it has not yet taken."""
    generator = hand.same_draws(ours)
    normal, uniform = deque[Tensor](), deque[Tensor]()

    def of_agent(noise: Tensor, agent: int) -> Tensor:
        return noise[..., agent, :].transpose(0, 1)

    smoothing = torch.empty(ROWS, AGENTS, ACT).normal_(std=0.2, generator=generator) / 0.2
    flat = torch.empty(10, ROWS, AGENTS, ACT).uniform_(-1, 1, generator=generator)
    bell = torch.empty(2, 10, ROWS, AGENTS, ACT).normal_(generator=generator)
    rounds = [torch.empty(20, ROWS, AGENTS, ACT).normal_(generator=generator) for _ in range(2)]
    for team in loop.teams:
        normal += [smoothing[:, i] for i in team]
        if not learner.startswith("td3-bc"):
            uniform += [of_agent(flat, i) for i in team]
            normal += [of_agent(kind, i) for i in team for kind in bell]
        if learner.startswith("omar"):
            normal += [of_agent(noise, i) for i in team for noise in rounds]
    monkeypatch.setattr(loop, "normal", lambda *shape: normal.popleft().reshape(shape))
    monkeypatch.setattr(loop, "uniform", lambda *shape: uniform.popleft().reshape(shape))
    return normal, uniform


@pytest.mark.parametrize("window", [0, 4])
@pytest.mark.parametrize("learner", LEARNERS)
def test_the_loop_has_our_losses_and_gradients(speed, monkeypatch, learner: str, window: int) -> None:
    ours, loop = both(speed, learner, window)
    batch = random_batch(window)
    drawn = share_draws(loop, ours, learner, monkeypatch) if hasattr(loop, "teams") else ()
    followed = gradients(loop)

    losses, reported = loop.update(batch), ours.update(batch)

    assert not any(drawn), "draws that only ours makes"
    critic = reported.get("loss/critic", 0) + reported.get("loss/gap", 0)
    for name, loss in losses.items():
        torch.testing.assert_close(loss, critic if name == "loss/critic" else reported[name])
    # A loop of independent learners sums over agents where ours takes the mean.
    scale = 1 if learner in ("ma-iql", "omiga") else AGENTS
    trained = [(mine, theirs, pick) for mine, theirs, pick in pairs(loop, ours) if theirs.requires_grad]
    assert {mine for mine, _, _ in trained} == set(followed)
    for mine, theirs, pick in trained:
        assert theirs.grad is not None
        torch.testing.assert_close(followed[mine], scale * pick(theirs.grad), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("learner", [learner for learner in LEARNERS if learner.startswith(("td3", "cql", "omar"))])
def test_the_loop_improves_its_policies_at_every_second_update_as_ours(speed, learner: str) -> None:
    ours, loop = both(speed, learner, 0)
    batch = random_batch(0)
    improved = []
    for _ in range(4):
        ours.update(batch)
        stepped = ours.policy.net.stack.layers[0].weight.grad is not None
        improved.append((stepped, "loss/actor" in loop.update(batch)))
    assert improved == [(True, True), (False, False)] * 2


def test_the_loop_moves_its_targets_as_ours(speed) -> None:
    ours, loop = both(speed, "iql", 4)
    batch = random_batch(4)
    for group in ours.optimizer.param_groups:
        group["lr"] = 0.0
    ours.update(batch)
    loop.update(batch)
    for mine, theirs, pick in pairs(loop, ours):
        torch.testing.assert_close(mine.data, pick(theirs.data))


def test_every_loop_has_a_row_and_a_row_can_be_asked_for(speed, capsys) -> None:
    assert list(speed.LEARNERS) == [*LEARNERS, "ma-ppo"]
    assert {name for name, _ in speed.LEARNERS.values()} == set(speed.LOOPS) <= set(algorithms.names())
    torch.set_default_dtype(torch.float32)
    speed.main(["--only", "bc", "--size", "reacher", "--window", "0", "--rounds", "3", "--seconds", "0"])
    _, row = capsys.readouterr().out.strip().split("\n")
    assert row.startswith("bc ") and "loop over ours" in row
