"""The learners' mathematics once more, agent by agent and layer by layer, for tests to compare with."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor
from worlds import SPECS, random_batch_index, world

from offline_marl.algorithms.base import Algorithm, algorithms
from offline_marl.core.config import build
from offline_marl.core.seeding import seeded_globally
from offline_marl.core.types import Batch
from offline_marl.datasets.buffer import TransitionBuffer


def learner_and_batch(name: str, kind: str, rows: int = 7, **settings) -> tuple[Algorithm, Batch]:
    """A small learner that has made a few updates, so that targets differ from their sources, and a batch."""
    made = algorithms.get(name)
    with seeded_globally(3, "initialisation"):
        learner = made(build(made.Config, {"hidden": [12], "tau": 0.3, "lr": 3e-2, **settings}), SPECS[kind])
    buffer = TransitionBuffer(world(kind), learner.window, state=False)
    for seed in range(3):
        learner.update(buffer.transitions(random_batch_index(world(kind), rows, seed + 10)))
    return learner, buffer.transitions(random_batch_index(world(kind), rows))


def before_and_after(learner: Algorithm, batch: Batch) -> tuple[Algorithm, dict[str, Tensor]]:
    """A copy from before the update (its gradients cleared), and what the update reports."""
    kept = copy.deepcopy(learner)
    kept.zero_grad(set_to_none=True)
    return kept, learner.update(batch)


def mlp(stack, member: int, x: Tensor) -> Tensor:
    """One member's network on `row feature`."""
    layers = [layer for layer in stack.layers if hasattr(layer, "weight")]
    for depth, layer in enumerate(layers):
        x = x @ layer.weight[member] + layer.bias[member, 0]
        if depth < len(layers) - 1:
            x = x.clamp(min=0)
    return x


def q_values(critic, spec, obs: Tensor, actions: Tensor) -> list[list[Tensor]]:
    """Q[copy][agent] of each row."""
    found = []
    for copy_ in range(2):
        found.append([])
        for i in range(spec.n_agents):
            member = copy_ * spec.n_agents + i
            if spec.discrete:
                table = mlp(critic.net.stack, member, obs[:, i])
                q = torch.stack([table[row, actions[row, i]] for row in range(len(table))])
            else:
                q = mlp(critic.net.stack, member, torch.cat([obs[:, i], actions[:, i]], dim=1))[:, 0]
            found[-1].append(q)
    return found


def values(value, spec, obs: Tensor) -> list[Tensor]:
    """V[agent] of each row."""
    return [mlp(value.net.stack, i, obs[:, i])[:, 0] for i in range(spec.n_agents)]


def log_probs(actor, spec, batch: Batch) -> list[Tensor]:
    """log pi_i(a_i | o_i) of each row, by agent."""
    found = []
    for i, width in enumerate(spec.act_dims):
        out = mlp(actor.net.stack, i, batch.obs[:, i])
        if spec.discrete:
            rows = []
            for row in range(len(out)):
                allowed = [c for c in range(width) if batch.avail_actions[row, i, c]]
                total = sum(out[row, c].exp() for c in allowed)
                rows.append(out[row, batch.actions[row, i]] - total.log())
            found.append(torch.stack(rows))
        else:
            mean, log_std = out[:, : spec.act_dim], out[:, spec.act_dim :].clamp(-6, 0)
            total = torch.zeros(len(out))
            for c in range(width):
                action = batch.actions[:, i, c]
                raw = 0.5 * ((1 + action) / (1 - action)).log()
                z = (raw - mean[:, c]) / log_std[:, c].exp()
                total = total - z**2 / 2 - log_std[:, c] - math.log(math.sqrt(2 * math.pi)) - (1 - action**2).log()
            found.append(total)
    return found


def expectile(error: Tensor, level: float) -> Tensor:
    """|level - 1(error < 0)| error^2, row by row."""
    return torch.stack([(1 - level if e < 0 else level) * e**2 for e in error])


def gradients(loss: Tensor, module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(module.parameters()), retain_graph=True))


def taken(module) -> list[Tensor]:
    """The gradients that an update left on a module."""
    return [parameter.grad for parameter in module.parameters()]
