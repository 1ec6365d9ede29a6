"""Value decomposition networks, VDN (Sunehag et al., 2018): a recurrent Q for each agent, whose sum is the team's.

Q_tot = sum_i Q_i(o_i^1..o_i^t, a_i) is fitted to TD(lambda) targets of double Q-learning; each agent's best choice is
then part of the team's best, so agents act alone. Each carries a recurrent state through its episode.
From recorded data, where choices that it lacks are overestimated, `conservative = cql` holds the soft maximum of Q_tot
over drawn joint choices near Q_tot of the recorded one (Kumar et al., 2020), and `bcq` lets only choices compete that a
cloned policy finds likely (Fujimoto et al., 2019), both with the numbers of OG-MARL's baselines.
Departs from published code: no recorded previous action among the inputs unless `window` is above 0; targets follow by
`tau` unless `target_every` copies them; rewards are the team's sum over the number of agents; drawn joint choices are
legal ones, each as likely, where published code draws illegal ones nearly as often; the value after a step is made of
the state and the observation that this very step left, also where a segment ends.
Papers: arXiv 1706.05296 (VDN), arXiv 1509.06461 (double Q-learning), arXiv 2006.04779 (CQL), arXiv 1910.01708 (BCQ).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from offline_marl.algorithms.base import (
    Algorithm,
    AlgorithmConfig,
    algorithms,
    cleared,
    masked_mean,
    over_recorded,
    present_next,
    present_now,
    present_rows,
    team_ended,
    team_rewards,
)
from offline_marl.core.acting.carried import CarriedMemory, Carry
from offline_marl.core.acting.history import WindowMemory
from offline_marl.core.axes import PerAgent, PerTeam
from offline_marl.core.fields import Count, CountOrZero, NotNegative, Share
from offline_marl.core.types import AvailActions, Batch, History, Memory, Metrics, Needs, Obs, Spec
from offline_marl.losses import advantages, conservative
from offline_marl.networks.choices import ChoiceValues
from offline_marl.networks.exploration import epsilon_greedy, linear, uniform_choices
from offline_marl.networks.mixers import Mixer
from offline_marl.networks.targets import frozen_copy

Values = Annotated[Tensor, "*lead agent choice"]
States = Annotated[Tensor, "*lead agent width"]


class VDNConfig(AlgorithmConfig):
    """Common fields, some with other defaults, and those of value decomposition.

    Minimises (Q_tot(a_t) - G_t)^2 / 2 over the steps that count, G_t = r_t + `gamma` (1 - terminated_t)
    ((1 - `td_lambda`) Q'_tot(a*_t+1) + `td_lambda` G_t+1), r the sum of rewards over the number of agents, and a* each
    agent's best allowed choice by Q while Q', the target network, says its worth. Without `bootstrap_truncated` steps
    behind which an episode was cut are terminated ones, too.
    `conservative = cql` adds `cql_alpha` (log sum_a exp(Q_tot(a) / T) T - Q_tot(a_t)), T = `cql_temperature`, over
    `cql_samples` joint choices drawn uniformly and the recorded one. `bcq` fits mu_i by -log mu_i(a_t), and a choice is
    allowed in targets and in acting where mu_i(a) / max mu_i >= `bcq_threshold`.
    """

    batch_size: Count = 32
    """Segments in one update: whole episodes unless `segment_length` cuts them."""
    hidden: Annotated[tuple[Count, ...], Field(min_length=1)] = (64, 64)
    """Widths of the hidden layers of each agent's Q; the last one is the recurrent unit's."""
    grad_clip: NotNegative = 10.0
    """Largest gradient norm of each module; 0 leaves gradients alone."""
    share_parameters: bool = True
    """One set of weights for all agents, who then read a one-hot of their index."""
    recurrent: bool = True
    """Carry a recurrent state through each episode; without it agents act on what they see now and on the window."""
    segment_length: CountOrZero = 0
    """Counted steps of a segment that an update reads; 0 for whole episodes."""
    burn_in: CountOrZero = 0
    """Steps before each segment in which the recurrent state warms up, uncounted; for segments of a fixed length."""
    td_lambda: Share = 0.0
    """Share of later targets in each target, TD(lambda); 0 is the one-step target, 1 sums a segment's rewards."""
    bootstrap_truncated: bool = True
    """Let targets go on where an episode was cut, as by a time limit; without it such an end is one of the task."""
    target_every: CountOrZero = 0
    """Updates between copies of the networks to the targets; 0 moves targets by `tau` at every update instead."""
    epsilon_start: Share = 1.0
    """Chance of a uniform choice when exploring, at the first environment step."""
    epsilon_end: Share = 0.05
    """That chance from `epsilon_steps` on, and where nothing is played, as in a world model of recorded data."""
    epsilon_steps: CountOrZero = 50_000
    """Environment steps over which the chance goes from its start to its end."""
    conservative: Literal["none", "cql", "bcq"] = "none"
    """What keeps choices from being overestimated that data lacks: nothing, a gap (CQL) or a cloned policy (BCQ)."""
    cql_alpha: NotNegative = 3.0
    """Weight of the gap in the loss; for `conservative = cql`."""
    cql_samples: Count = 20
    """Joint choices drawn at each step for the gap."""
    cql_temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """T of the soft maximum in the gap."""
    bcq_threshold: Share = 0.4
    """Least likelihood of a choice over that of the likeliest; 0 allows all, 1 clones; for `conservative = bcq`."""

    @model_validator(mode="after")
    def _burn_in_fits_segments(self) -> VDNConfig:
        if self.burn_in and not self.segment_length:
            raise ValueError("burn_in warms up before segments of a fixed length: set segment_length, too")
        return self


@algorithms.register("vdn")
class VDN(Algorithm):
    """Double Q-learning of the sum of the agents' own values, from whole episodes or segments of them."""

    Config = VDNConfig
    needs = Needs(view="segments", length=0, actions=frozenset({"discrete"}), joint=True)
    config: VDNConfig
    present: Tensor

    def __init__(self, config: VDNConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.recurrent = config.recurrent
        recorded: Literal["none", "some"] = "none" if config.conservative == "none" else "some"
        length, burn_in = config.segment_length, config.burn_in
        self.needs = replace(self.needs, length=length, burn_in=burn_in, recorded=recorded)
        self.critic = ChoiceValues(act_dims=spec.act_dims, recurrent=config.recurrent, **self.shape)
        self.mixer = self.make_mixer()
        self.behaviour: ChoiceValues | None = None
        if config.conservative == "bcq":
            self.behaviour = ChoiceValues(act_dims=spec.act_dims, recurrent=config.recurrent, **self.shape)
        self.target_critic, self.target_mixer = frozen_copy(self.critic), frozen_copy(self.mixer)
        self.target_inputs = frozen_copy(self.inputs)
        self.register_buffer("present", spec.present("act"), persistent=False)
        self.optimize("critic", "mixer", *(("behaviour",) if self.behaviour is not None else ()), lr=config.lr)

    def make_mixer(self) -> nn.Module:
        """A sum, which has no parameters."""
        return Mixer("vdn", self.spec.n_agents, 0, ())

    def states(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The joint states that mixers read, at each step and after it."""
        # Agents' own networks read zeros instead, as when acting: a late-comer's recurrent state goes on from there.
        shown = cleared(batch, self.inputs.mean)
        return self.joint(shown.obs), self.joint(shown.next_obs)

    def update(self, batch: Batch) -> Metrics:
        """One step of the agents' values, the mixer and a cloned policy if there is one, then of the targets."""
        batch = self.readable(batch)
        rows, reset = present_rows(batch), begins(batch)
        features = self.inputs(batch.obs, batch.history)
        state, next_state = self.states(batch)
        q, after = self.critic(features, reset)
        q_tot = self.mixer(taken(q, batch.actions), state, batch.mask)
        likely, behaviour_loss = self.clone(batch, features, reset)
        target = self.target(batch, features, next_state, reset, after, likely)
        critic_loss = masked_mean((q_tot - target).square(), rows) / 2
        metrics = {"loss/critic": critic_loss.detach(), "q/mean": masked_mean(q_tot.detach(), rows)}
        loss = critic_loss
        if self.config.conservative == "cql":
            gap = self.gap(batch, q, q_tot, state)
            loss, metrics["loss/gap"] = loss + self.config.cql_alpha * gap, gap.detach()
        if behaviour_loss is not None:
            loss, metrics["loss/behaviour"] = loss + behaviour_loss, behaviour_loss.detach()
        self.descend(loss)
        self.follow_networks()
        return metrics

    def readable(self, batch: Batch) -> Batch:
        """The batch with zeros where agents are absent; steps that are burnt in are read, but do not count."""
        if batch.mask is None or not self.config.burn_in:
            return self._cleared(batch)
        before = ~batch.mask.any(-1).cummax(1).values.unsqueeze(-1)
        shown: dict[str, Any] = {name: getattr(batch, name) for name in ("mask", "present", "next_present")}
        widened = {name: value | before for name, value in shown.items() if value is not None}
        return replace(self._cleared(replace(batch, **widened)), **shown)

    def _cleared(self, batch: Batch) -> Batch:
        now, after = present_now(batch), present_next(batch)
        if batch.history is None or batch.next_history is None or now is None or after is None:
            return cleared(batch)
        windows = self._idle(batch.history, now), self._idle(batch.next_history, after)
        return replace(cleared(batch), history=windows[0], next_history=windows[1])

    def _idle(self, history: History, present: PerAgent) -> History:
        """Windows in which whoever is absent has seen and done nothing, as in acting: states go on from there."""
        nothing = torch.zeros_like(history[..., :1, :1, :])
        nothing[..., self.spec.obs_dim] = 1.0  # its choice is the first one
        here = present.unsqueeze(-1).unsqueeze(-1)
        # Before an episode nobody has done anything, so that those who are there tell which steps there were.
        were = (history[..., self.spec.obs_dim :].ne(0).any(-1, keepdim=True) & here).any(-3, keepdim=True)
        return torch.where(here, history, nothing * were)

    @torch.no_grad()
    def target(
        self,
        batch: Batch,
        features: Tensor,
        next_state: Tensor,
        reset: Tensor,
        after: States,
        likely: Tensor | None,
    ) -> PerTeam:
        """TD(lambda) of the target network's value of what is best for the network that learns."""
        next_features = self.inputs(batch.next_obs, batch.next_history)
        next_q, _ = self.critic.step(next_features, after.detach())
        greedy = self.allowed(next_q, batch.next_avail_actions, likely).argmax(-1)
        past, next_past = features.detach(), next_features
        if self.window:
            past = self.target_inputs(batch.obs, batch.history)
            next_past = self.target_inputs(batch.next_obs, batch.next_history)
        _, target_after = self.target_critic(past, reset)
        target_q, _ = self.target_critic.step(next_past, target_after)
        next_v = self.target_mixer(taken(target_q, greedy), next_state, present_next(batch))
        over = ended(batch)
        return advantages.lambda_returns(
            team_rewards(batch),
            team_ended(batch) if self.config.bootstrap_truncated else over,
            over,
            next_v,
            self.config.gamma,
            self.config.td_lambda,
            present_rows(batch),
        ).clamp(max=self.best_team)

    def gap(self, batch: Batch, q: Values, q_tot: PerTeam, state: Tensor) -> Tensor:
        """The soft maximum of Q_tot over drawn joint choices and the recorded one, less that of the recorded one."""
        lead = (self.config.cql_samples, *batch.actions.shape)
        draws = uniform_choices(lead, batch.avail_actions, self.present, self.generator)
        drawn = self.mixer(taken(q.expand(*lead, -1), draws), state, batch.mask)
        every = torch.cat([drawn, q_tot.unsqueeze(0)]).movedim(0, -1)
        gaps = conservative.soft_maximum(every, self.config.cql_temperature) - q_tot
        return masked_mean(over_recorded(gaps, batch), present_rows(batch))

    def clone(self, batch: Batch, features: Tensor, reset: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Where the cloned policy finds choices of the next step likely enough, and its loss; None without one."""
        if self.behaviour is None:
            return None, None
        logits, after = self.behaviour(features.detach(), reset)
        log_probs = torch.log_softmax(self.allowed(logits, batch.avail_actions), dim=-1)
        losses = -taken(log_probs, batch.actions)
        with torch.no_grad():
            next_logits, _ = self.behaviour.step(self.inputs(batch.next_obs, batch.next_history), after)
            likely = self.likely(next_logits, batch.next_avail_actions)
        return likely, masked_mean(over_recorded(losses, batch), batch.mask)

    def likely(self, logits: Values, avail_actions: AvailActions | None) -> Annotated[Tensor, "*lead agent choice"]:
        """Whether choices are at least `bcq_threshold` times as likely as the likeliest one that can be made."""
        can = self.allowed(logits, avail_actions)
        least = math.log(self.config.bcq_threshold) if self.config.bcq_threshold else -math.inf
        return can >= can.amax(-1, keepdim=True) + least

    def allowed(self, q: Values, avail_actions: AvailActions | None, likely: Tensor | None = None) -> Values:
        """Values with choices that cannot be made, or that are not likely enough, at minus infinity."""
        can = self.present if avail_actions is None else avail_actions & self.present
        return q.masked_fill(~(can if likely is None else can & likely), -torch.inf)

    def follow_networks(self) -> None:
        """Move the targets by `tau`, or copy the networks to them every `target_every` updates."""
        if not self.config.target_every:
            self.update_targets(self.config.tau)
        elif self.updates % self.config.target_every == 0:
            self.update_targets(1.0)

    @property
    def epsilon(self) -> float:
        """Chance of a uniform choice when exploring."""
        config = self.config
        steps = self.environment_steps if self.plays else None
        return linear(config.epsilon_start, config.epsilon_end, config.epsilon_steps, steps)

    def begin(self, copies: int, history: History | None = None) -> Memory:
        """States of the recurrent units, zeros at the beginning of episodes, and the window if there is one.

        Args:
            copies: How many episodes.
            history: Pairs of the steps before, in episodes that are under way: the window, and no more, knows them.
        """
        window = WindowMemory(self.spec, self.window, copies, self.best.device, history)
        if not self.recurrent:
            return window
        return CarriedMemory(window, self.best.new_zeros(copies, self.spec.n_agents, self.state_width), self.advance)

    @property
    def state_width(self) -> int:
        """Width of an agent's state: that of its values, and of the cloned policy if there is one."""
        return self.critic.width + (self.behaviour.width if self.behaviour is not None else 0)

    @torch.no_grad()
    def advance(self, obs: Obs, history: History | None, states: States) -> States:
        """The recurrent states one step on."""
        return self.values(obs, history, states)[2]

    def values(self, obs: Obs, history: History | None, states: States | None) -> tuple[Values, Values | None, States]:
        """Each agent's Q, the cloned policy's logits if there is one, and the states after the step."""
        features = self.inputs(obs, history)
        own = None if states is None else states[..., : self.critic.width]
        q, after = self.critic.step(features, own)
        if self.behaviour is None:
            return q, None, after
        logits, cloned = self.behaviour.step(features, None if states is None else states[..., self.critic.width :])
        return q, logits, torch.cat([after, cloned], dim=-1)

    @torch.no_grad()
    def act(
        self,
        obs: Obs,
        *,
        history: History | None = None,
        avail_actions: AvailActions | None = None,
        explore: bool = False,
        carry: Carry | None = None,
    ) -> Tensor:
        """Each agent's best choice of those allowed; with the chance `epsilon` a uniform one if `explore`.

        Args:
            obs: What agents see.
            history: The window before it, if there is one.
            avail_actions: Allowed choices.
            explore: Whether to explore.
            carry: States of an episode under way, from its memory; without them this is an episode's first step.
        """
        q, logits, after = self.values(obs, history, None if carry is None else carry.states)
        if carry is not None:
            carry.after, carry.obs = after, obs
        likely = None if logits is None else self.likely(logits, avail_actions)
        greedy = self.allowed(q, avail_actions, likely).argmax(-1)
        if not explore:
            return greedy
        return epsilon_greedy(greedy, avail_actions, self.present, self.epsilon, self.generator)


def taken(values: Values, choices: Annotated[Tensor, "*lead agent"]) -> Annotated[Tensor, "*lead agent"]:
    """Values of the choices that were made."""
    return values.gather(-1, choices.unsqueeze(-1)).squeeze(-1)


def ended(batch: Batch) -> Annotated[Tensor, "row time"]:
    """Steps after which the episode is over for all who are there, however it ends; none of those that do not count."""
    over = batch.terminations | batch.truncations
    if batch.mask is None:
        return over.all(-1)
    return (over | ~batch.mask).all(-1) & batch.mask.any(-1)


def begins(batch: Batch) -> Annotated[Tensor, "row time"]:
    """Steps of a segment with which another episode begins: those behind an end that were not seen after it."""
    # A truncated step that its own successor stands behind is one of an episode that goes on in this row.
    successor = (batch.next_obs[:, :-1] == batch.obs[:, 1:]).flatten(2).all(-1)
    over = ended(batch)[:, :-1] & (team_ended(batch)[:, :-1] | ~successor)
    return nn.functional.pad(over, (1, 0))
