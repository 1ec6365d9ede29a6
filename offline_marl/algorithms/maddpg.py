"""MADDPG (Lowe et al., 2017): deterministic policies, each with a critic that reads what all agents see and do.

Critic of agent i: (Q_i(o, a) - r_i - gamma (1 - terminated) Q'_i(o', pi'(o')))^2, o and a those of all agents.
Policy of agent i: max Q_i(o, a) with a_i replaced by pi_i(o_i), the others' as recorded. `good_policy` and
`adversary_policy` = `ddpg` let the critics of one side read their own agent alone (Lillicrap et al., 2015).
update = apply_gradients(gradients(all agents)): the gradients of every agent are taken at one frozen snapshot, from one
minibatch, with noise from a generator seeded by (seed, update, agent), and clipped by agent. What all target
policies do next is computed once for all; then those of one of M agents cost 1/M, so that any place can compute them.
Choices are relaxed by Gumbel-softmax (Jang et al., 2017). `relaxation = straight-through` asks critics about the choice
itself, as data and environments hold choices and nothing between, and lets the slope through the soft one;
`soft` asks about the soft vector, as the published code, whose environment takes it too.
It has nothing that holds it near recorded data: without an environment its critics overrate what the data does not
show, as those of `td3-bc` with little cloning; `omar` and `cql` are for that.
Departs from the paper: critic and policies step at the same parameters (the published code steps the critic first); the
environment is given a drawn choice, not a soft one; continuous policies are tanh-squashed without noise of their own;
`grad_clip` bounds the norm of an agent's policy and that of its critic, each as a whole (the published code's bounds
every variable by itself); all agents learn from one minibatch (the published code draws one for each agent).
Papers: arXiv 1706.02275 (MADDPG), arXiv 1509.02971 (DDPG), arXiv 1611.01144 (Gumbel-softmax).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from offline_marl.algorithms.base import AlgorithmConfig, algorithms, cleared, masked_mean, present_next, present_now
from offline_marl.algorithms.split import (
    AgentGradients,
    Snapshot,
    SplitAlgorithm,
    Terms,
    chosen_agents,
    gradients_of,
    sliced,
)
from offline_marl.core.axes import Features, PerAgent
from offline_marl.core.fields import CountOrZero, NotNegative, Positive
from offline_marl.core.seeding import derive
from offline_marl.core.types import AvailActions, Batch, DataError, History, Metrics, Needs, Obs, Spec
from offline_marl.losses import bellman
from offline_marl.networks.actors import AgentPolicy
from offline_marl.networks.choices import one_hot
from offline_marl.networks.critics import JointCritic
from offline_marl.networks.distributions import Categorical, gumbel
from offline_marl.networks.targets import frozen_copy

Acts = Annotated[Tensor, "*lead agent act"]
Critics = Literal["maddpg", "ddpg"]
NEXT_ACTIONS = "next_actions"
"""Name of what is prepared for all agents."""


class MADDPGConfig(AlgorithmConfig):
    """Common fields and those of MADDPG.

    Critic i: (Q_i(o, a) - r_i - `gamma` (1 - terminated) Q'_i(o', pi'(o')))^2.
    Policy i: -Q_i(o, a) with a_i = pi_i(o_i), + `output_penalty` |f_i(o_i)|^2, the mean square of what the network
    answers before tanh or softmax.
    Choices: softmax((f + g) / `relaxation_temperature`), g Gumbel noise.
    """

    adversaries: CountOrZero = 0
    """Agents of the adversaries' side, the first ones, as in MPE's tasks."""
    good_policy: Critics = "maddpg"
    """Critics of the other agents: of all agents, or of their own alone (`ddpg`)."""
    adversary_policy: Critics = "maddpg"
    """Critics of the adversaries."""
    grad_clip: NotNegative = 0.5
    """Largest gradient norm of each agent's critic, and of its policy; 0 leaves gradients alone."""
    relaxation: Literal["straight-through", "soft"] = "straight-through"
    """What critics are asked about where actions are choices: the choice drawn, or the soft vector."""
    relaxation_temperature: Positive = 1.0
    """Of the Gumbel-softmax; near 0 it is as hard as a choice."""
    output_penalty: NotNegative = 1e-3
    """Weight of the mean square of the policies' outputs before tanh or softmax."""
    explore_noise: NotNegative = 0.1
    """Deviation of the noise on continuous actions when exploring."""
    behaviour_temperature: Positive = 1.0
    """Divides the logits of choices when exploring: above 1 it tries more."""


@algorithms.register("maddpg")
class MADDPG(SplitAlgorithm):
    """Deterministic policies and choices by Gumbel-softmax, whose critics read all agents or, by choice, one."""

    Config = MADDPGConfig
    needs = Needs()
    config: MADDPGConfig

    def __init__(self, config: MADDPGConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        if config.adversaries > spec.n_agents:
            raise DataError(f"There are {config.adversaries} adversaries in a team of {spec.n_agents} agents.")
        sides = [config.adversary_policy] * config.adversaries
        sides += [config.good_policy] * (spec.n_agents - config.adversaries)
        if config.share_parameters and len(set(sides)) > 1:
            raise DataError("With share_parameters one critic serves all agents: both sides' policies must be alike.")
        self.policy = AgentPolicy(act_dims=spec.act_dims, **self.shape)
        self.critic = JointCritic(act_dims=spec.act_dims, alone=[side == "ddpg" for side in sides], **self.shape)
        self.target_policy, self.target_critic = frozen_copy(self.policy), frozen_copy(self.critic)
        self.target_inputs = frozen_copy(self.inputs)
        self.optimize("policy", "critic", lr=config.lr)

    def update(self, batch: Batch) -> Metrics:
        """One step of every critic and policy, then of the targets."""
        if not self.config.share_parameters:
            return self.apply_gradients(self.gradients(batch))
        terms = self.losses(batch, self, chosen_agents(None, self.spec), self.prepare(batch))
        self.descend(terms.losses[""])
        return self.conclude(terms.metrics)

    def prepare(self, batch: Batch) -> Snapshot:
        """See `split.SplitLearner`: what all target policies do next."""
        with torch.no_grad():
            return {NEXT_ACTIONS: self.next_actions(cleared(batch, self.inputs.mean))}

    def gradients(
        self, batch: Batch, agents: Sequence[int] | None = None, prepared: Mapping[str, Tensor] | None = None
    ) -> AgentGradients:
        """See `split.SplitLearner`; each agent's critic and policy are clipped by their own norms."""
        self.refuse_split()
        chosen = chosen_agents(agents, self.spec)
        part = sliced(self, chosen, self.spec.n_agents)
        terms = self.losses(batch, part, chosen, self.prepare(batch) if prepared is None else prepared)
        values = gradients_of(part, terms.losses[""], len(chosen))
        return AgentGradients(chosen, clipped(values, self.grad_clip), terms.metrics)

    def clip_gradients(self, module: Sequence[torch.nn.Parameter]) -> None:
        """Nothing where gradients come clipped by agent; networks that all agents share by their common norm."""
        if self.config.share_parameters:
            super().clip_gradients(module)

    def losses(self, batch: Batch, part: MADDPG, agents: tuple[int, ...], prepared: Mapping[str, Tensor]) -> Terms:
        """Losses of some agents, summed.

        Args:
            batch: Of the whole team.
            part: The networks of these agents.
            agents: Which they are.
            prepared: See `prepare`.
        """
        batch = cleared(batch, self.inputs.mean)
        with torch.no_grad():
            features = self.inputs(batch.obs, batch.history)
            actions = self.vectors(batch)
            target = self.target(batch, part, agents, prepared[NEXT_ACTIONS])
        index = list(agents)
        own = part.inputs(batch.obs[:, index], None if batch.history is None else batch.history[:, index])
        mask = None if batch.mask is None else batch.mask[:, index]
        q = part.critic(features, actions, own)[0]
        critic_losses = masked_mean((q - target).square(), mask, dim=0)

        outputs = part.policy.net(own)[0]
        avail = None if batch.avail_actions is None else batch.avail_actions[:, index]
        noise = self.own_noise(len(batch), agents)
        done, slopes_on = self.act_softly(outputs, part.policy.present, avail, noise)
        value, slope = _slope(part.critic, features, actions, done)
        squares = (outputs * part.policy.present).square().sum(-1) / part.policy.present.sum(-1)
        penalty = self.config.output_penalty * squares
        actor_losses = masked_mean(penalty - (slope * slopes_on).sum(-1), mask, dim=0)
        share = 1 / self.spec.n_agents
        metrics = {
            "loss/critic": critic_losses.detach().sum() * share,
            "loss/actor": masked_mean((penalty - value).detach(), mask, dim=0).sum() * share,
            "q/mean": masked_mean(q.detach(), mask, dim=0).sum() * share,
        }
        return Terms({"": (critic_losses + actor_losses).sum()}, metrics)

    def target(self, batch: Batch, part: MADDPG, agents: Sequence[int], next_actions: Acts) -> PerAgent:
        """The critics' targets, at what all target policies do next."""
        features = self.target_inputs(batch.next_obs, batch.next_history)
        next_q = part.target_critic(features, next_actions)[0]
        index = list(agents)
        rewards, ended = batch.rewards[:, index], batch.terminations[:, index]
        return bellman.td_target(rewards, ended, next_q, self.config.gamma).clamp(max=part.best)

    def next_actions(self, batch: Batch) -> Acts:
        """What all target policies do next; zeros of agents that are away then."""
        outputs = self.target_policy.net(self.target_inputs(batch.next_obs, batch.next_history))[0]
        noise = self.next_noise(len(batch))
        actions, _ = self.act_softly(outputs, self.policy.present, batch.next_avail_actions, noise)
        there = present_next(batch)
        return actions if there is None else actions * there.unsqueeze(-1)

    def vectors(self, batch: Batch) -> Acts:
        """Recorded actions as critics read them: choices one-hot; zeros of agents that are away."""
        if not self.spec.discrete:
            return batch.actions
        hot = one_hot(batch.actions, self.spec.act_dim, batch.obs.dtype)
        there = present_now(batch)
        return hot if there is None else hot * there.unsqueeze(-1)

    def act_softly(
        self, outputs: Tensor, present: Tensor, avail: AvailActions | None, noise: Tensor | None
    ) -> tuple[Acts, Acts]:
        """What policies do, as critics read it, and what slopes pass through on their way to the outputs."""
        if noise is None:
            actions = torch.tanh(outputs) * present
            return actions.detach(), actions
        allowed = present.expand_as(outputs) if avail is None else avail & present
        floor = torch.finfo(outputs.dtype).min / 2
        shaken = (outputs + noise.to(outputs.dtype)).masked_fill(~allowed, floor)
        soft = torch.softmax(shaken / self.config.relaxation_temperature, dim=-1)
        if self.config.relaxation == "soft":
            return soft.detach(), soft
        return one_hot(soft.argmax(-1), soft.shape[-1], soft.dtype), soft

    def next_noise(self, rows: int) -> Tensor | None:
        """Gumbel noise of all agents' next choices, `row agent choice`; None for actions that are no choices."""
        if not self.spec.discrete:
            return None
        shape = (rows, self.spec.act_dim)
        return torch.stack([gumbel(shape, self.noise_of(agent)) for agent in range(self.spec.n_agents)], dim=1)

    def own_noise(self, rows: int, agents: Sequence[int]) -> Tensor | None:
        """Gumbel noise of some agents' own choices, `row agent choice`: their generators' draws after `next_noise`."""
        if not self.spec.discrete:
            return None
        shape, drawn = (rows, self.spec.act_dim), []
        for agent in agents:
            generator = self.noise_of(agent)
            torch.rand(shape, generator=generator, device=generator.device)  # those of its next choice
            drawn.append(gumbel(shape, generator))
        return torch.stack(drawn, dim=1)

    def noise_of(self, agent: int) -> torch.Generator:
        """An agent's generator in this update."""
        seed = derive(self.generator.initial_seed(), self.updates, agent)
        return torch.Generator(self.generator.device).manual_seed(seed)

    @torch.no_grad()
    def act(
        self,
        obs: Obs,
        *,
        history: History | None = None,
        avail_actions: AvailActions | None = None,
        explore: bool = False,
    ) -> Tensor:
        """Each agent's action or likeliest choice; with noise, or drawn, if `explore`."""
        outputs = self.policy.net(self.inputs(obs, history))[0]
        present = self.policy.present
        if self.spec.discrete:
            allowed = present.expand_as(outputs) if avail_actions is None else avail_actions & present
            if not explore:
                return Categorical(outputs, allowed).mode()
            return Categorical(outputs / self.config.behaviour_temperature, allowed).sample(self.generator)
        actions = torch.tanh(outputs)
        if explore:
            noise = torch.empty_like(actions).normal_(generator=self.generator)
            actions = (actions + self.config.explore_noise * noise).clamp(-1, 1)
        return actions * present


def _slope(critic: JointCritic, features: Features, actions: Acts, own_actions: Acts) -> tuple[PerAgent, Acts]:
    """Q of each agent's `own_actions` among the others' `actions`, and its gradient by `own_actions`, off the graph."""
    leaf = own_actions.detach().requires_grad_()
    q = critic(features, actions, own_actions=leaf)[0]
    (gradient,) = torch.autograd.grad(q.sum(), leaf)
    return q.detach(), gradient


@torch.no_grad()
def clipped(gradients: dict[str, Tensor], limit: float) -> dict[str, Tensor]:
    """Gradients by parameter, each agent's module shrunk to a norm of at most `limit`; 0 leaves all alone."""
    if not limit:
        return gradients
    squares: dict[str, Tensor] = {}
    for name, value in gradients.items():
        module = name.partition(".")[0]
        squares[module] = squares.get(module, 0.0) + value.flatten(1).square().sum(1)
    factors = {module: (square / limit**2).clamp(min=1.0).rsqrt() for module, square in squares.items()}
    return {
        name: value * factors[name.partition(".")[0]].view(-1, *[1] * (value.dim() - 1))
        for name, value in gradients.items()
    }
