"""Learners whose networks answer known numbers, for losses that are worked out on paper.

Two agents, two rows. Agents are of unequal widths: the first moves two entries, or has three choices; the second moves
one, or has two.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from worlds import SPECS, random_batch_index, world

from offline_marl.algorithms.base import Algorithm, algorithms
from offline_marl.core.config import build
from offline_marl.core.seeding import seeded_globally
from offline_marl.core.types import Batch, Spec
from offline_marl.datasets.buffer import TransitionBuffer

CONTINUOUS = Spec(obs_dims=(2, 1), act_dims=(2, 1))
DISCRETE = Spec(obs_dims=(2, 1), act_dims=(3, 2), action_kind="discrete")
SHIFT = 8.0
"""Keeps the one unit that a linear network uses in the linear part of its ReLU."""


# --- networks that answer known numbers -------------------------------------------------------------------------------
def learner_of(name: str, spec: Spec, **settings) -> Algorithm:
    """A learner with one hidden layer, whose step is so small that several losses see the same parameters."""
    kind = algorithms.get(name)
    made = kind(build(kind.Config, {"hidden": [4], "gamma": 0.5, "lr": 1e-12, "grad_clip": 0, **settings}), spec)
    made.place("cpu", 0)
    return made


@torch.no_grad()
def answer(network: nn.Module, outputs: list[list[float]]) -> None:
    """Let a network answer the same whatever it reads: a row of outputs for each of its members."""
    layers = stack_of(network).layers
    for layer in layers:
        for parameter in layer.parameters():
            parameter.zero_()
    layers[-1].bias.copy_(torch.tensor(outputs).unsqueeze(1))


@torch.no_grad()
def answer_linearly(network: nn.Module, weights: list[list[float]], biases: list[float]) -> None:
    """Let each member answer weights * input + bias; weights are those of the last inputs, the first count nothing."""
    layers = stack_of(network).layers
    answer(network, [[bias - SHIFT] for bias in biases])
    rows = torch.tensor(weights)
    layers[0].weight[:, -rows.shape[1] :, 0] = rows
    layers[0].bias[:, 0, 0] = SHIFT
    layers[-1].weight[:, 0, 0] = 1.0


def stack_of(network: nn.Module):
    return network.net.stack if hasattr(network.net, "stack") else network.net


def batch_of(spec: Spec, actions: Tensor, **fields) -> Batch:
    """Two rows with rewards (1, 2) and (0, -1); in the first the second agent is over by termination."""
    obs = torch.zeros(2, 2, 2)
    ended = torch.tensor([[False, True], [False, False]])
    none = torch.zeros_like(ended)
    return Batch(obs, actions, torch.tensor([[1.0, 2.0], [0.0, -1.0]]), obs, ended, none, **fields)


def without_the_ended(batch: Batch) -> Batch:
    """The batch in which the one entry that terminates does not count."""
    return replace(batch, mask=~batch.terminations)


ACTIONS = torch.tensor([[[0.0, 0.5], [-0.8, 0.0]]] * 2)
"""What was recorded; the policy of `climber` does (.5, -.5) and .2 instead."""
DISTANCES = ((0.25 + 1) / 2, 1.0)
"""Mean squares of (.5 - 0, -.5 - .5) and of .2 + .8, over the entries that an agent has."""


def climber(name: str = "td3-bc", *, critic: str = "independent", **settings) -> Algorithm:
    """Q_1 = a_1 - a_2 + 2 of the first agent and 2 a - 1.4 of the second, by their own actions; Q_2 answers (2, -1).

    Target Q answers (3, 0) and (2, 1); so the policies' Q_1 is 3 and -1. A centralised critic adds a quarter of the
    other's actions.
    """
    fields = {"critic": critic, "policy_every": 1, "target_noise": 0.0, **settings}
    learner = learner_of(name, CONTINUOUS, **fields)
    for policy in (learner.policy, learner.target_policy):
        answer(policy, [[math.atanh(0.5), math.atanh(-0.5)], [math.atanh(0.2), 9.0]])
    answer(learner.target_critic, [[3.0], [0.0], [2.0], [1.0]])
    own = [[1.0, -1.0], [2.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    others = [[0.25, 0.25], [0.25, 0.25], [0.0, 0.0], [0.0, 0.0]] if critic == "centralised" else [[]] * 4
    weights = [[*other, *mine] for other, mine in zip(others, own, strict=True)]
    answer_linearly(learner.critic, weights, [2.0, -1.4, 2.0, -1.0])
    return learner


# --- learners in the middle of training -------------------------------------------------------------------------------
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


def same_draws(learner: Algorithm) -> torch.Generator:
    """A generator that draws what the learner is about to draw."""
    generator = torch.Generator()
    generator.set_state(learner.generator.get_state())
    return generator


def frozen(module):
    """A copy whose weights take no gradient."""
    return copy.deepcopy(module).requires_grad_(False)


def taken(module) -> list[Tensor]:
    """The gradients that an update left on a module."""
    return [parameter.grad for parameter in module.parameters()]
