"""The learners' mathematics once more, agent by agent and layer by layer, for tests to compare with."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

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


def q_values(critic, spec, features: Tensor, actions: Tensor, own: Tensor | None = None) -> list[list[Tensor]]:
    """Q[copy][agent] of each row; `own` is what each agent does instead in its own critic's eyes."""
    mine = actions if own is None else own
    found = []
    for copy_ in range(2):
        found.append([])
        for i in range(spec.n_agents):
            member = copy_ if critic.net.shared else copy_ * spec.n_agents + i
            if spec.discrete:
                table = mlp(critic.net.stack, member, features[:, i])
                q = torch.stack([table[row, mine[row, i]] for row in range(len(table))])
            else:
                others = [(i + k) % spec.n_agents for k in range(1, spec.n_agents)] if critic.centralised else []
                read = [features[:, j] for j in [i, *others]] + [actions[:, j] for j in others] + [mine[:, i]]
                q = mlp(critic.net.stack, member, torch.cat(read, dim=1))[:, 0]
            found[-1].append(q)
    return found


def tanh_actions(policy, spec, features: Tensor) -> Tensor:
    """What a deterministic policy does, `row agent act`; zero on padding."""
    found = []
    for i, width in enumerate(spec.act_dims):
        out = mlp(policy.net.stack, 0 if policy.net.shared else i, features[:, i])
        found.append(torch.stack([out[:, c].tanh() if c < width else 0 * out[:, c] for c in range(spec.act_dim)], 1))
    return torch.stack(found, dim=1)


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


def mean(terms: list[list[Tensor]], mask: Tensor | None = None) -> Tensor:
    """Mean of terms[row][agent] over the entries that count."""
    counted = [
        term for row, agents in enumerate(terms) for i, term in enumerate(agents) if mask is None or mask[row, i]
    ]
    return sum(counted) / len(counted)


def soft_maximum(numbers: list[Tensor], temperature: float) -> Tensor:
    """T log sum exp(number / T), of plain sums of exponentials."""
    return temperature * sum((number / temperature).exp() for number in numbers).log()


def frozen(module):
    """A copy whose weights take no gradient."""
    return copy.deepcopy(module).requires_grad_(False)


def same_draws(learner: Algorithm) -> torch.Generator:
    """A generator that draws what the learner is about to draw."""
    generator = torch.Generator()
    generator.set_state(learner.generator.get_state())
    return generator


def masked(batch: Batch, seed: int = 0) -> Batch:
    """The batch with some entries that do not count."""
    return replace(batch, mask=torch.rand(batch.rewards.shape, generator=torch.Generator().manual_seed(seed)) < 0.7)


def td3_target(before, batch: Batch, generator: torch.Generator) -> Tensor:
    """r + gamma min_k Q'_k(o', clip(pi'(o') + clip(noise))), entry by entry."""
    config, spec = before.config, before.spec
    with torch.no_grad():
        features = before.target_inputs(batch.next_obs, batch.next_history)
        actions = tanh_actions(before.target_policy, spec, features)
        # Draws fill memory in order, so the layout of the network's own output is part of what is drawn.
        alike = torch.empty(before.target_policy(features).shape)
        noise = alike.normal_(std=config.target_noise, generator=generator)
        for row in range(len(batch)):
            for i, width in enumerate(spec.act_dims):
                for c in range(width):
                    shift = max(-config.noise_clip, min(config.noise_clip, float(noise[row, i, c])))
                    actions[row, i, c] = max(-1.0, min(1.0, float(actions[row, i, c]) + shift))
        first, second = q_values(before.target_critic, spec, features, actions)
        target = torch.empty(len(batch), spec.n_agents)
        for row in range(len(batch)):
            for i in range(spec.n_agents):
                future = 0.0 if batch.terminations[row, i] else min(float(first[i][row]), float(second[i][row]))
                target[row, i] = min(float(batch.rewards[row, i]) + config.gamma * future, float(before.best[i]))
    return target


def td_loss(before, batch: Batch, features: Tensor, target: Tensor) -> Tensor:
    """Squared errors of both copies, summed."""
    q = q_values(before.critic, before.spec, features, batch.actions)
    rows, agents = range(len(batch)), range(before.spec.n_agents)
    errors = [[sum((q[k][i][row] - target[row, i]) ** 2 for k in range(2)) for i in agents] for row in rows]
    return mean(errors, batch.mask)


def distances(before, actions: Tensor, others: Tensor) -> list[list[Tensor]]:
    """[row][agent] mean over true entries of (a - a')^2."""
    widths = list(enumerate(before.spec.act_dims))
    return [
        [sum((actions[row, i, c] - others[row, i, c]) ** 2 for c in range(width)) / width for i, width in widths]
        for row in range(len(actions))
    ]


def td3_bc_loss(before, batch: Batch, features: Tensor) -> Tensor:
    """Differentiable by the policy through the critic itself, whose weights and inputs take no gradient."""
    config, spec = before.config, before.spec
    actions = tanh_actions(before.policy, spec, features)
    q = q_values(frozen(before.critic), spec, features.detach(), batch.actions, actions)[0]
    terms = distances(before, actions, batch.actions)
    for i in range(spec.n_agents):
        counted = [row for row in range(len(batch)) if batch.mask is None or batch.mask[row, i]]
        size = sum(abs(float(q[i][row].detach())) for row in counted) / len(counted)
        for row in range(len(batch)):
            terms[row][i] = terms[row][i] - config.alpha / size * q[i][row]
    return mean(terms, batch.mask)


def modules(learner: Algorithm) -> list[str]:
    """Names of what a deterministic learner trains."""
    return [name for name in ("inputs", "policy", "critic") if list(getattr(learner, name).parameters())]


def gradients(loss: Tensor, module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(module.parameters()), retain_graph=True))


def taken(module) -> list[Tensor]:
    """The gradients that an update left on a module."""
    return [parameter.grad for parameter in module.parameters()]
