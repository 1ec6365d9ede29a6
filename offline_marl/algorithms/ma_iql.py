"""Multi-agent implicit Q-learning, MAIQL (Barde et al., 2024): implicit Q-learning on mixed team values.

Q_tot = mix_Q(s, a)(Q_1..Q_n), V_tot = mix_V(s)(V_1..V_n), s = all observations side by side. Expectile,
temporal difference and advantage are taken on the team's values; one team weight multiplies
sum_i log pi_i, so agents learn from the same joint actions.
Departs from the published code: all losses are taken at the same parameters, so that one backward
serves and a history is encoded once; there is no history by default; of two target critics the lesser *mixed* value
counts (each agent's lesser one under `weighting = agent`), which is not the mixture of the agents' lesser values.
Where the clock alone ends episodes, values look beyond their end; with a horizon 1 / (1 - gamma) longer than an episode
they fall for tens of thousands of updates, and what was learned falls with them: such data asks for a smaller gamma,
and a run that is long enough for that is warned.
Paper: arXiv 2305.17198.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from offline_marl.algorithms.base import (
    algorithms,
    cleared,
    masked_mean,
    over_recorded,
    present_next,
    present_rows,
    team_ended,
    team_rewards,
)
from offline_marl.algorithms.descent import DescentAlgorithm, Terms
from offline_marl.algorithms.iql import IQLConfig
from offline_marl.core.fields import NotNegative
from offline_marl.core.types import Batch, Needs, Spec
from offline_marl.losses import bellman, policy
from offline_marl.networks.actors import Actor
from offline_marl.networks.choices import one_hot
from offline_marl.networks.critics import Critic, Value
from offline_marl.networks.mixers import Mixer, MixerKind
from offline_marl.networks.targets import frozen_copy


class MAIQLConfig(IQLConfig):
    """Fields of implicit Q-learning and those of the mixers.

    With u = min_k Q'_tot,k(s, a) - V_tot(s), the team minimises |`expectile` - 1(u < 0)| u^2 for V_tot,
    -min(exp(`temperature` u), `max_weight`) sum_i log pi_i(a_i | o_i) for the policies, and
    sum_k (Q_tot,k(s, a) - mean_i r_i - `gamma` (1 - terminated) V_tot(s'))^2 for critic and mixers.
    `weighting = agent` takes u_i = min_k Q'_i,k - V_i in agent i's weight; `normalize_values` divides errors by
    mean |Q_tot - mean Q_tot|.
    """

    grad_clip: NotNegative = 1.0
    """Largest gradient norm of each module; 0 leaves gradients alone."""
    mixer: MixerKind = "unconstrained"
    """Weights of any sign as published (they can diverge), `monotonic` (absolute weights) or `vdn` (a sum)."""
    normalize_values: bool = False
    """Divide errors of mixed values by the values' mean deviation (SVN), the cure for mixers that diverge."""
    weighting: Literal["team", "agent"] = "team"
    """One weight for the team's joint action, or one for each agent from its own unmixed advantage."""


@algorithms.register("ma-iql")
class MAIQL(DescentAlgorithm):
    """Implicit Q-learning on team values, which mixers make of the agents' and the joint state in training alone."""

    Config = MAIQLConfig
    needs = Needs(recorded="some", joint=True)
    config: MAIQLConfig

    def __init__(self, config: MAIQLConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.behaviour_temperature = config.behaviour_temperature if spec.discrete else 1.0
        self.actor = Actor(act_dims=spec.act_dims, discrete=spec.discrete, **self.shape)
        self.critic = Critic(act_dims=spec.act_dims, discrete=spec.discrete, **self.shape)
        self.value = Value(spec.n_agents, **self.shape)
        joint_obs, joint_act = spec.n_agents * spec.obs_dim, spec.n_agents * spec.act_dim
        self.q_mixer = Mixer(config.mixer, spec.n_agents, joint_obs + joint_act, config.hidden, copies=2)
        self.v_mixer = Mixer(config.mixer, spec.n_agents, joint_obs, config.hidden)
        self.target_critic = frozen_copy(self.critic)
        self.target_q_mixer = frozen_copy(self.q_mixer)
        self.target_inputs = frozen_copy(self.inputs)
        self.optimize("actor", "critic", "value", "q_mixer", "v_mixer", lr=config.lr)

    def losses(self, batch: Batch) -> Terms:
        """The losses of value, policy and critic on team values, at the same parameters."""
        config, batch = self.config, cleared(batch, self.inputs.mean)
        mask, rows = batch.mask, present_rows(batch)
        features = self.inputs(batch.obs, batch.history)
        state = self.joint(batch.obs)
        pair = torch.cat([state, self.joint_actions(batch.actions)], dim=-1)
        with torch.no_grad():
            past = self.target_inputs(batch.obs, batch.history) if self.window else features
            target_qs = self.target_critic(past, batch.actions)
            q = self.target_q_mixer(target_qs, pair, mask).amin(0)
            target = self.td_targets(batch)

        values = self.value(features)
        advantages = q - self.v_mixer(values.unsqueeze(0), state, mask)[0]
        scale = bellman.mean_deviation(q, rows) if config.normalize_values else 1.0
        value_loss = masked_mean(bellman.expectile(advantages / scale, config.expectile), rows)

        log_probs = self.actor(features, batch.avail_actions).log_prob(batch.actions)
        team = advantages.unsqueeze(-1).expand_as(values)
        shares = team if config.weighting == "team" else target_qs.amin(0) - values
        weights = policy.advantage_weights(shares.detach(), config.temperature, config.max_weight)
        if mask is not None:
            weights = weights * mask
        cloned = over_recorded(policy.weighted_bc(log_probs, weights).sum(-1), batch)
        actor_loss = masked_mean(cloned, rows)

        qs = self.q_mixer(self.critic(features, batch.actions), pair, mask)
        scale = bellman.mean_deviation(qs, rows) if config.normalize_values else 1.0
        critic_loss = masked_mean(((qs - target) / scale).square().sum(0), rows)

        metrics = {
            "loss/value": value_loss.detach(),
            "loss/actor": actor_loss.detach(),
            "loss/critic": critic_loss.detach(),
            "q/mean": masked_mean(q, rows),
            "advantage/mean": masked_mean(advantages.detach(), rows),
        }
        return Terms({"": value_loss + actor_loss + critic_loss}, metrics)

    def td_targets(self, batch: Batch) -> Annotated[Tensor, "batch"]:
        """The team's mean reward plus the discounted V_tot of the next observations, at most what the data returns."""
        next_values = self.value(self.inputs(batch.next_obs, batch.next_history))
        next_v = self.v_mixer(next_values.unsqueeze(0), self.joint(batch.next_obs), present_next(batch))[0]
        target = bellman.td_target(team_rewards(batch), team_ended(batch), next_v, self.config.gamma)
        return target.clamp(max=self.best_team)

    def joint_actions(self, actions: Tensor) -> Annotated[Tensor, "batch joint"]:
        """All agents' actions side by side; choices one-hot."""
        if self.spec.discrete:
            return one_hot(actions, self.spec.act_dim, torch.get_default_dtype()).flatten(1)
        return actions.flatten(1)

    def cautions(self, clock: float | None, updates: int) -> list[str]:
        """Of values that look beyond the clock's end of episodes long enough to fall there.

        What is bootstrapped falls by `tau` (1 - `gamma`) in an update.
        """
        gamma, tau = self.config.gamma, self.config.tau
        ahead = 1 / max(1 - gamma, 1e-9)
        if clock is None or gamma == 1.0 or ahead <= clock or updates <= round(ahead / tau):
            return []
        return [
            f"the clock ends episodes after {clock:.0f} steps, and --gamma {gamma:g} looks {ahead:.0f} ahead: in "
            f"{ahead / tau:,.0f} updates values fall towards what lies beyond. In episodes of 50 steps scores fell "
            "with them, and did not with --gamma 0.9, which looks a fifth of an episode ahead; here that is "
            f"--gamma {max(1 - 5 / clock, 0.0):.2g}."
        ]
