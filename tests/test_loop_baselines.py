"""The yardsticks of benchmarks/speed.py compute what the learners compute: the same losses, the same gradients."""

from __future__ import annotations

import importlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from pathlib import Path

import naive
import pytest
import torch
from torch import Tensor, nn

from offline_marl.algorithms.base import Algorithm, algorithms
from offline_marl.core.config import build
from offline_marl.core.types import Batch, Spec

SPEC = Spec((3,) * 3, (2,) * 3)
ROWS, AGENTS, ACT = 6, SPEC.n_agents, SPEC.act_dim
LEARNERS = [
    "bc",
    "iql",
    "ma-iql",
    "td3-bc",
    "td3-bc-centralised",
    "cql",
    "cql-centralised",
    "omar",
    "omar-centralised",
]
TWINS = {"critic", "target_critic"}

Pick = Callable[[Tensor], Tensor]
Pair = tuple[nn.Parameter, nn.Parameter, Pick]


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
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))  # targets differ from their sources
    loop = speed.LOOPS[name](speed.Setup(SPEC, window, "critic" in settings, hidden=8, lr=0.0))
    loop.clip = 0.0
    with torch.no_grad():
        for mine, theirs, pick in pairs(loop, ours):
            mine.copy_(pick(theirs))
    return ours, loop


def pairs(loop, ours: Algorithm) -> Iterator[Pair]:
    """Each parameter of the loop, ours that holds it, and how to find it there."""
    for name in ("actor", "value", "policy", "target_policy", "critic", "target_critic"):
        for copy_, agents in enumerate(getattr(loop, name, []) if name in TWINS else [getattr(loop, name, [])]):
            for agent, network in enumerate(agents):
                yield from layers(network, getattr(ours, name).net.stack, copy_ * AGENTS + agent)
    for name in ("q_mixer", "target_q_mixer"):
        for copy_, network in enumerate(getattr(loop, name, [])):
            yield from layers(network, getattr(ours, name).net, copy_)
    if hasattr(loop, "v_mixer"):
        yield from layers(loop.v_mixer, ours.v_mixer.net, 0)
    for mine, theirs in (("encoder", "inputs"), ("target_encoder", "target_inputs")):
        for agent, encoder in enumerate(getattr(loop, mine, [])):
            yield from encoders(encoder, getattr(ours, theirs).encoder, agent)


def layers(network: nn.Sequential, stack, member: int) -> Iterator[Pair]:
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    stacked = [layer for layer in stack.layers if hasattr(layer, "weight")]
    for mine, theirs in zip(linear, stacked, strict=True):
        yield mine.weight, theirs.weight, lambda x: x[member].T
        yield mine.bias, theirs.bias, lambda x: x[member, 0]


def encoders(mine, theirs, member: int) -> Iterator[Pair]:
    yield mine.norm.weight, theirs.scale, lambda x: x[member, 0]
    yield mine.norm.bias, theirs.shift, lambda x: x[member, 0]
    yield mine.seeker.weight, theirs.seeker, lambda x: x[member].T
    for linear, stacked in ((mine.embed, theirs.embed), (mine.score, theirs.score)):
        yield linear.weight, stacked.weight, lambda x: x[member].T
        yield linear.bias, stacked.bias, lambda x: x[member, 0]
    for third, linear in enumerate((mine.query, mine.key, mine.value)):
        yield linear.weight, theirs.query_key_value.weight, lambda x, third=third: x[member].chunk(3, -1)[third].T
        yield linear.bias, theirs.query_key_value.bias, lambda x, third=third: x[member, 0].chunk(3, -1)[third]


def share_draws(loop, ours: Algorithm, learner: str, monkeypatch) -> tuple[deque[Tensor], deque[Tensor]]:
    """The loop's next draws are those that ours is about to make; returns what it has not yet taken."""
    generator = naive.same_draws(ours)
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


def gradients(loop) -> dict[nn.Parameter, Tensor]:
    """What the loop's steps will have followed, summed over its steps."""
    found: dict[nn.Parameter, Tensor] = defaultdict(lambda: torch.zeros(()))

    def keep(optimizer: torch.optim.Optimizer, *_: object) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                found[parameter] = found[parameter] + parameter.grad

    for optimizer in loop.optimizers.values():
        optimizer.register_step_pre_hook(keep)
    return found


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
    scale = 1 if learner == "ma-iql" else AGENTS
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


def test_every_learner_has_a_row_and_a_row_can_be_asked_for(speed, capsys) -> None:
    assert list(speed.LEARNERS) == LEARNERS
    built_in = {entry.name for entry in algorithms.listings() if entry.origin == "built-in"}
    assert built_in == {name for name, _ in speed.LEARNERS.values()} == set(speed.LOOPS)
    torch.set_default_dtype(torch.float32)
    speed.main(["--only", "bc", "--size", "reacher", "--window", "0", "--rounds", "3", "--seconds", "0"])
    _, row = capsys.readouterr().out.strip().split("\n")
    assert row.startswith("bc ") and "loop over ours" in row
