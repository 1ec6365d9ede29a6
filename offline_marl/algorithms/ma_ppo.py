"""Multi-agent PPO as in MOMA-PPO (Barde et al., 2024): one clipped ratio of the joint action, one team value.

Of the team's steps: V = mix(s)(V_1..V_n), s = all observations side by side; A from generalised advantage
estimation, normalised over the update. In minibatches, several times over the same steps, up
min(r A, clip(r) A) + w H - sum_i |mean_i outside [-1, 1]|^2, r = exp(sum_i log pi_i - sum_i log pi_i^old), and down
the squared error of V, held near its old value. w rises by `entropy_step` (target - H) and is never below 0.
Departs from the published code: V aims at lambda-returns, A + V_old; a minibatch has one backward; advantages and
returns are taken once per update; an action on the border has the likelihood of all draws beyond it; log-std outside
its bounds can come back.
`policy = tanh` (the policy of `bc`), `state_std` and `activation` are common practice elsewhere.
Papers: arXiv 2305.17198 (MOMA-PPO), arXiv 1707.06347 (PPO), arXiv 1506.02438 (advantages), arXiv 1802.07564 (borders).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Annotated, Literal

import torch
from torch import Tensor

from offline_marl.algorithms.base import (
    Algorithm,
    AlgorithmConfig,
    algorithms,
    cleared,
    present_next,
    team_ended,
    team_rewards,
)
from offline_marl.core.axes import Features, PerAgent
from offline_marl.core.fields import Count, InnerShare, NotNegative, Positive, Share
from offline_marl.core.learner import clip_each
from offline_marl.core.types import Batch, Metrics, Needs, Spec
from offline_marl.losses import advantages, policy
from offline_marl.networks.actors import Actor, GaussianActor
from offline_marl.networks.critics import Value
from offline_marl.networks.distributions import ClippedNormal
from offline_marl.networks.mixers import Mixer, MixerKind

PerEntry = Annotated[Tensor, "entry"]
Kept = Annotated[Tensor, "kind entry"]
"""What a minibatch leaves behind for the metrics, without gradient."""


class MAPPOConfig(AlgorithmConfig):
    """Common fields, some with other defaults, and those of PPO; `cosine_steps` counts updates, not minibatches.

    A_t = delta_t + `gamma` `gae_lambda` A_t+1, delta_t = r_t + `gamma` V(s_t+1) - V(s_t), then (A - mean) / deviation.
    Each minibatch, in `epochs` rounds, descends -min(r A, clip(r, 1 - `clip`, 1 + `clip`) A) + `critic_weight` L - w H
    + `bound_weight` sum_i |mean_i outside [-1, 1]|^2, where r = exp(sum_i log pi_i - sum_i log pi_i^old),
    L = max((V - R)^2, (V_old + clip(V - V_old, -`value_clip`, `value_clip`) - R)^2) and R = A_t + V_old, A_t before it
    is normalised. w begins as `entropy_weight` and gains `entropy_step` (`entropy_target` - H), never below 0.
    """

    batch_size: Count = 2_000
    """Steps of the team in one update."""
    lr: Positive = 5e-5
    """Step size of Adam."""
    grad_clip: NotNegative = 1.0
    """Largest gradient norm of each module; 0 leaves gradients alone."""
    epochs: Count = 5
    """How often each update goes over its steps."""
    minibatch_size: Count = 64
    """Steps of the team in one descent."""
    clip: InnerShare = 0.2
    """How far from 1 the joint ratio is still worth moving."""
    gae_lambda: Share = 0.98
    """Share of later errors in an advantage; 0 is the one-step error, 1 the whole return."""
    value_clip: NotNegative = 0.2
    """Largest change of V that an update rewards, in units of the rewards; 0 for any."""
    critic_weight: NotNegative = 0.5
    """Weight of the squared error of V beside the policy's loss."""
    bound_weight: NotNegative = 1.0
    """Weight of the squared distance of means from [-1, 1]; for the gaussian policy."""
    entropy_weight: NotNegative = 0.0
    """Weight of the team's entropy, to begin with."""
    entropy_step: NotNegative = 1e-3
    """What that weight gains at each descent for each nat that the entropy lies below its target; 0 fixes it, and so
    does a target below 0 where actions are choices, whose entropy is never less."""
    entropy_target: float = -2.0
    """Entropy of the team's joint action, in nats, that its weight aims at."""
    policy: Literal["gaussian", "tanh"] = "gaussian"
    """A normal clipped to [-1, 1], or the tanh-squashed one of `bc`; for continuous actions."""
    state_std: bool = True
    """Whether the gaussian policy's deviation depends on what an agent sees."""
    mixer: MixerKind = "unconstrained"
    """Weights of any sign as published, `monotonic` (absolute weights) or `vdn` (a sum)."""
    activation: Literal["relu", "silu", "tanh"] = "relu"
    """What follows each hidden layer; tanh is common with PPO."""


@dataclass(frozen=True, slots=True)
class Entries:
    """Steps of an update that minibatches are cut from, rows and time merged into one axis."""

    obs: Annotated[Tensor, "entry agent obs"]
    actions: Tensor
    state: Annotated[Tensor, "entry state"]
    log_probs: PerEntry
    """Of the joint action, under the policy that chose it."""
    v: PerEntry
    """The team's value before the update."""
    advantages: PerEntry
    target: PerEntry
    counted: Annotated[Tensor, "entry agent"] | None = None
    """1, or 0 for agents that are absent."""
    weights: PerEntry | None = None
    """0 on padding, else such that their mean is 1."""
    history: Annotated[Tensor, "entry agent window step"] | None = None
    avail_actions: Annotated[Tensor, "entry agent choice"] | None = None

    def parts(self, order: Tensor | None, size: int) -> Iterator[Entries]:
        """Pieces of `size` entries in this order, the last one maybe smaller."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        if order is not None:
            # One gather for the whole epoch: minibatches are then views of what it laid out in order.
            tensors = {name: value.index_select(0, order) for name, value in tensors.items()}
        for piece in zip(*(value.split(size) for value in tensors.values()), strict=True):
            yield Entries(**dict(zip(tensors, piece, strict=True)))


@algorithms.register("ma-ppo")
class MAPPO(Algorithm):
    """On-policy actor-critic of the team: one clipped ratio of the joint action, one mixed value, GAE."""

    Config = MAPPOConfig
    needs = Needs(view="segments", origin="environment")
    config: MAPPOConfig
    entropy_weight: Tensor

    def __init__(self, config: MAPPOConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.shape["activation"] = config.activation
        if spec.discrete or config.policy == "tanh":
            self.actor = Actor(act_dims=spec.act_dims, discrete=spec.discrete, **self.shape)
        else:
            self.actor = GaussianActor(act_dims=spec.act_dims, state_std=config.state_std, **self.shape)
        self.value = Value(spec.n_agents, **self.shape)
        joint_obs = spec.n_agents * spec.obs_dim
        self.v_mixer = Mixer(config.mixer, spec.n_agents, joint_obs, config.hidden, activation=config.activation)
        self.register_buffer("entropy_weight", torch.tensor(config.entropy_weight))
        # The default target is a density's; of choices the weight would be 0 after an update or two.
        self.entropy_step = 0.0 if spec.discrete and config.entropy_target < 0 else config.entropy_step
        self.optimize("actor", "value", "v_mixer", lr=config.lr)

    def update(self, batch: Batch) -> Metrics:
        """Several rounds of minibatches over the segments that the current policy has just made."""
        entries, metrics = self.prepare(batch)
        self.set_step_size()
        kept, weights = [], []
        for part in self.minibatches(entries):
            kept.append(self.minibatch_step(part))
            weights.append(part.weights)
        self.updates += 1
        return {**self.report(torch.cat(kept, dim=1), joined(weights)), **metrics}

    def minibatches(self, entries: Entries) -> Iterator[Entries]:
        """All entries once an epoch, in an order of its own; what fits into one minibatch needs none."""
        count, size = len(entries.v), self.config.minibatch_size
        for _ in range(self.config.epochs):
            order = torch.randperm(count, generator=self.generator, device=entries.v.device) if count > size else None
            yield from entries.parts(order, size)

    @torch.no_grad()
    def prepare(self, batch: Batch) -> tuple[Entries, Metrics]:
        """The steps with all that minibatches compare with, taken before anything moves."""
        batch = cleared(batch, self.inputs.mean)
        flat = batch.flatten()
        counted, weights = weigh(flat.mask, flat.rewards.dtype)
        features, state = self.inputs(flat.obs, flat.history), self.joint(flat.obs)
        log_probs = self.actor(features, flat.avail_actions).log_prob(flat.actions)
        v = self.team_value(features, state, flat.mask)
        next_features = self.inputs(flat.next_obs, flat.next_history)
        next_v = self.team_value(next_features, self.joint(flat.next_obs), present_next(flat))
        gained = self.advantages(batch, v, next_v)
        centred = gained - mean(gained, weights)
        deviation = mean(centred.square(), weights).sqrt()
        entries = Entries(
            obs=flat.obs,
            actions=flat.actions,
            state=state,
            log_probs=total(log_probs, counted),
            v=v,
            advantages=centred / (deviation + 1e-3),
            target=(gained + v).clamp(max=self.best_team),
            counted=counted,
            weights=weights,
            history=flat.history,
            avail_actions=flat.avail_actions,
        )
        return entries, {"advantage/std": deviation, "v/mean": mean(v, weights)}

    def advantages(self, batch: Batch, v: PerEntry, next_v: PerEntry) -> PerEntry:
        """Advantages of the team, on which absent agents have no say.

        Its episode is over once every agent's is, and has a future unless every agent's was terminated.
        """
        mask = torch.ones_like(batch.terminations) if batch.mask is None else batch.mask
        config, lead = self.config, batch.rewards.shape[:2]
        return advantages.gae(
            team_rewards(batch),
            team_ended(batch),
            (batch.terminations | batch.truncations | ~mask).all(-1),
            v.view(lead),
            next_v.view(lead),
            config.gamma,
            config.gae_lambda,
            mask.any(-1),
        ).flatten()

    def minibatch_step(self, part: Entries) -> Kept:
        """One descent on a minibatch."""
        config = self.config
        features = self.inputs(part.obs, part.history)
        choice = self.actor(features, part.avail_actions)
        log_probs = total(choice.log_prob(part.actions), part.counted)
        entropies = total(choice.entropy(), part.counted)
        v = self.team_value(features, part.state, part.counted)
        with torch.no_grad():
            # Slopes in closed form: torch's own way through these losses takes as long as that through the networks.
            share = torch.full_like(v, 1 / len(v)) if part.weights is None else part.weights * (1 / len(v))
            log_ratios = log_probs - part.log_probs
            actor_losses, by_ratios = policy.ppo_clip(log_ratios, part.advantages, config.clip, share)
            value_share = share * config.critic_weight
            critic_losses, by_v = policy.clipped_value(v, part.v, part.target, config.value_clip, value_share)
            slopes = [by_ratios, by_v, -self.entropy_weight * share]
        terms = [log_probs, v, entropies]
        if isinstance(choice, ClippedNormal):
            terms.append(total(choice.excess(), part.counted))
            slopes.append(share * config.bound_weight)
        self.descend_along(terms, slopes)
        with torch.no_grad():
            if self.entropy_step:
                lacking = mean(config.entropy_target - entropies, part.weights)
                self.entropy_weight.add_(lacking, alpha=self.entropy_step).clamp_(min=0)
            return torch.stack([actor_losses, critic_losses, entropies, log_ratios])

    def descend_along(self, terms: list[Tensor], slopes: list[Tensor]) -> None:
        """One minibatch's step; `updates` and the step size stay what they are until the update ends.

        Args:
            terms: What the loss is made of.
            slopes: Its derivatives by them.
        """
        optimizer = self.optimizer
        modules = [group["params"] for group in optimizer.param_groups]
        for parameters in modules:
            for parameter in parameters:
                parameter.grad = None
        torch.autograd.backward(terms, slopes)
        if self.grad_clip:
            clip_each([[parameter.grad for parameter in parameters] for parameters in modules], self.grad_clip)
        optimizer.step()

    def set_step_size(self) -> None:
        """Of the cosine schedule, which counts updates and not their minibatches."""
        if self.cosine_steps:
            share = min(self.updates / self.cosine_steps, 1.0)
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr * 0.5 * (1.0 + math.cos(math.pi * share))

    def report(self, kept: Kept, weights: PerEntry | None) -> Metrics:
        """Means over the steps of all minibatches, at the parameters that each minibatch met."""
        actor_losses, critic_losses, entropies, log_ratios = kept
        ratios = torch.exp(log_ratios.clamp(max=policy.LARGEST_EXPONENT))
        values_by_name = {
            "loss/actor": actor_losses,
            "loss/critic": critic_losses,
            "entropy": entropies,
            "kl": ratios - 1 - log_ratios,  # unbiased for KL(old, new), and never negative (Schulman, 2020)
            "clip/fraction": ((ratios - 1).abs() > self.config.clip).to(ratios.dtype),
        }
        means = {name: mean(values, weights) for name, values in values_by_name.items()}
        return {**means, "entropy/weight": self.entropy_weight.clone()}

    def team_value(
        self, features: Features, state: Annotated[Tensor, "entry state"], present: PerAgent | None
    ) -> PerEntry:
        """V of the agents that are there."""
        v: Tensor = self.v_mixer(self.value(features).unsqueeze(0), state, present).squeeze(0)
        return v


def weigh(mask: PerAgent | None, dtype: torch.dtype) -> tuple[Tensor | None, PerEntry | None]:
    """1 for agents that are there, else 0; and for each step a weight, 0 on padding, whose mean is 1."""
    if mask is None:
        return None, None
    counted = mask.to(dtype)
    present = counted.amax(-1)
    # With weights of mean 1 a plain mean of (values * weights) is the mean over the steps that count; a minibatch's is
    # its share in that mean, so that none has to count its own padding. The clamp is for a batch of padding alone.
    return counted, present / present.mean().clamp(min=1 / len(present))


def total(values: PerAgent, counted: PerAgent | None) -> PerEntry:
    """Sum over the agents that are there."""
    return (values if counted is None else values * counted).sum(-1)


def mean(values: PerEntry, weights: PerEntry | None) -> Tensor:
    """Mean over the steps that count; of a minibatch, its share in the mean of all."""
    return (values if weights is None else values * weights).mean()


def joined(parts: list[Tensor | None]) -> Tensor | None:
    """Weights of all minibatches, or None if they have none."""
    weights = [part for part in parts if part is not None]
    return torch.cat(weights) if weights else None
