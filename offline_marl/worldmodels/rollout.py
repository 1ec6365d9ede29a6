"""Rollouts of a policy in a world model from many starts, all rows as one batch.

A row ends where the model foresees a termination, where its members disagree too much, or at the horizon;
only the first stops the bootstrap. What comes after is masked; the model's carry is told, and may drop the row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Protocol

import torch
from torch import Tensor

from offline_marl.core.acting.history import begin_memory, newest
from offline_marl.core.acting.inputs import unchecked
from offline_marl.core.axes import PerAgent, PerTeam
from offline_marl.core.fields import SpreadName
from offline_marl.core.types import AvailActions, Batch, Obs, Policy, Spec
from offline_marl.worldmodels.base import Carry, Prediction, Rows, Spread
from offline_marl.worldmodels.facts import Facts
from offline_marl.worldmodels.uncertainty import (
    UNCERTAINTIES,
    Measured,
    exceeds,
    penalty,
    reward_variance,
)


class Dynamics(Protocol):
    """The part of a world model that a rollout needs."""

    spec: Spec

    @property
    def facts(self) -> Facts:
        """The bounding box of the data, among others."""
        ...

    def begin(self, starts: Batch) -> Carry:
        """The carry of episodes that begin in these rows."""
        ...

    def step(self, carry: Any, actions: Tensor) -> tuple[Prediction, Carry]:
        """The next step when the team acts, and the carry after it."""
        ...


@dataclass(frozen=True, slots=True)
class Caution:
    """How much disagreement costs, and where it ends a row; of the published code unless prediction."""

    spread: SpreadName = "covariance_norm"
    """What measures disagreement."""
    weight: float = 0.1
    """Taken from every agent's reward per unit of it."""
    reward_weight: float = 0.05
    """Taken from every agent's reward per unit of the variance of the predicted team reward."""
    cutoff: float = 2.0
    """A row ends with the step whose disagreement exceeds this; infinite for never."""
    clip: bool = True
    """Keep imagined observations and rewards inside the bounding box of the data."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """Imagined rows with their disagreement, cuts and breaks."""

    batch: Batch
    """Lead axes [row, time]; `mask` is false after a row's end, `synthetic` true throughout; rewards as foreseen."""
    penalty: Annotated[Tensor, "row time"]
    """What doubt takes from every agent's reward, in the units of the rewards that the model was fitted to."""
    spread: Annotated[Tensor, "row time"]
    """Disagreement at each step before anything was clamped; 0 where the model has none."""
    cut: Rows
    """Bool: ended by disagreement."""
    broken: Rows
    """Bool: dropped from where a prediction was not finite."""


@torch.no_grad()
def rollout(
    model: Dynamics, policy: Policy, starts: Batch, horizon: int, caution: Caution, next_actions: bool = False
) -> Rollout:
    """Let `policy` act in `model` for up to `horizon` steps from every row of `starts`.

    Args:
        model: Predicts each step from its carry.
        policy: Acts with `explore`, from its memory, which begins with the last `policy.window` pairs.
        starts: Rows [row]; their `obs`, and `history`, `state` and `avail_actions` where model or policy need them.
        horizon: Steps after which a row is truncated.
        caution: Penalties and the cut-off.
        next_actions: Whether rows hold what the policy does next, also where doubt or the horizon ends them.
    """
    episodes = _Episodes(model, policy, starts, caution)
    steps, penalties, spreads = zip(*(episodes.step(time == horizon - 1) for time in range(horizon)), strict=True)
    joined = Batch.stack(steps, dim=1)
    if next_actions:
        assert joined.mask is not None
        following = episodes.act(episodes.obs, avail_actions=episodes.avail, explore=True, **episodes.memory.read())
        joined = joined.with_next_actions(following, joined.mask & ~joined.terminations)
    return Rollout(joined, torch.stack(penalties, dim=1), torch.stack(spreads, dim=1), episodes.cut, episodes.broken)


class _Episodes:
    """Imagined episodes under way, one a row; arguments as of `rollout`."""

    def __init__(self, model: Dynamics, policy: Policy, starts: Batch, caution: Caution) -> None:
        self.model, self.caution, self.act = model, caution, unchecked(policy)
        self.obs, self.state, self.avail = starts.obs, starts.state, starts.avail_actions
        past = newest(starts.history, policy.window)
        self.memory = begin_memory(policy, model.spec, len(self.obs), self.obs.device, past)
        self.carry = model.begin(starts)
        self.alive = torch.ones(len(self.obs), dtype=torch.bool, device=self.obs.device)
        self.cut, self.broken = torch.zeros_like(self.alive), torch.zeros_like(self.alive)
        # None while all agents are there, as in most data.
        self.present = starts.mask

    def step(self, at_horizon: bool) -> tuple[Batch, PerTeam, PerTeam]:
        """Rows [row] of the next step, what doubt takes from their rewards, and their disagreement."""
        read = self.memory.read()
        actions = self.act(self.obs, avail_actions=self.avail, explore=True, **read)
        if self.present is not None:  # who is away does nothing, as in recorded data
            actions = blanked(actions, self.present)
        prediction, self.carry = self.model.step(self.carry, actions)
        if self.present is not None:
            prediction = _of_present(prediction, self.present, self.model.facts)
        next_obs, rewards, lost, value, finite = _tidy(self.model, prediction, self.obs, self.caution)
        if self.present is not None:  # the box of the data need not hold the zeros of who is away
            next_obs, rewards = blanked(next_obs, self.present), blanked(rewards, self.present)
        self.broken = self.broken | (self.alive & ~finite)
        self.alive = self.alive & finite
        doubted = exceeds(value, self.caution.cutoff)
        self.cut = self.cut | (self.alive & doubted)
        self.memory.remember(self.obs, actions, rewards)
        there = self.alive.unsqueeze(-1).expand_as(prediction.terminations)
        there = there if self.present is None else there & self.present
        terminations = prediction.terminations & there
        over = (terminations | ~there).all(-1)
        last = (doubted | at_horizon) & ~over & self.alive
        row = Batch(
            obs=self.obs,
            actions=actions,
            rewards=rewards,
            next_obs=next_obs,
            terminations=terminations,
            truncations=last.unsqueeze(-1) & there & ~terminations,
            history=read.get("history"),
            next_history=self.memory.read().get("history"),
            mask=there,
            synthetic=torch.ones_like(self.alive),
            **self._foreseen(prediction),
        )
        self._go_on(row, over | last)
        return row, lost, value

    def _foreseen(self, prediction: Prediction) -> dict[str, Any]:
        """State and available actions; what the model does not foresee, rows do not hold from their start."""
        next_state = None if self.state is None else prediction.next_state
        next_avail = None if self.avail is None else prediction.next_avail_actions
        return {
            "state": None if next_state is None else self.state,
            "next_state": next_state,
            "avail_actions": None if next_avail is None else self.avail,
            "next_avail_actions": next_avail,
        }

    def _go_on(self, row: Batch, ended: Rows) -> None:
        """Stand at the end of these rows; episodes that ended in them are alive no longer."""
        self.alive = self.alive & ~ended
        obs, avail = row.next_obs, row.next_avail_actions
        if self.present is not None:
            self.present = self.present & ~row.terminations
            obs = blanked(obs, self.present)
            avail = None if avail is None else freed(avail, self.present, self.model.spec)
        self.obs, self.state, self.avail = obs, row.next_state, avail
        self.carry = self.carry.correct(obs).where(self.alive)


def _of_present(prediction: Prediction, present: PerAgent, facts: Facts) -> Prediction:
    """The prediction without the disagreement about agents that are away, whom no member was fitted to."""
    if prediction.spread is None:
        return prediction
    spread, seen = prediction.spread, facts.counts(present)
    told = {"next_obs": seen, "next_obs_std": seen, "rewards": present, "rewards_std": present}
    values = {name: getattr(spread, name) for name in told}
    still: dict[str, Any] = {
        name: value.masked_fill(~told[name], 0.0) for name, value in values.items() if value is not None
    }
    if spread.tokens is not None:
        still["tokens"] = spread.tokens.map(lambda doubt: doubt.masked_fill(~present, 0.0))
    return replace(prediction, spread=replace(spread, **still))


def blanked(values: Tensor, present: PerAgent) -> Tensor:
    """Values that are 0 where an agent is away."""
    return values.masked_fill(~present.view(*present.shape, *[1] * (values.dim() - present.dim())), 0)


def freed(avail: AvailActions, present: PerAgent, spec: Spec) -> AvailActions:
    """Available actions, all of them where an agent is away, as in recorded data."""
    return avail | (spec.present("act").to(avail.device) & ~present.unsqueeze(-1))


def _tidy(
    model: Dynamics, prediction: Prediction, obs: Obs, caution: Caution
) -> tuple[Obs, PerAgent, PerTeam, Measured, Rows]:
    """Next obs and rewards that are finite and in the box, their penalty, disagreement, and which rows were finite."""
    value, lost = _price(prediction.spread, prediction.rewards, caution)
    numbers = [prediction.next_obs.flatten(1), prediction.rewards, lost.unsqueeze(-1)]
    finite = torch.cat(numbers, dim=1).isfinite().all(1)
    next_obs = torch.where(finite[:, None, None], prediction.next_obs, obs)
    rewards = torch.where(finite[:, None], prediction.rewards, torch.zeros_like(prediction.rewards))
    if caution.clip:
        facts = model.facts
        next_obs = next_obs.clamp(facts.spread_out(facts.low), facts.spread_out(facts.high))
        rewards = rewards.clamp(facts.reward_low, facts.reward_high)
    return next_obs, rewards, torch.where(finite, lost, 0.0), Measured(torch.where(finite, value, 0.0)), finite


def _price(spread: Spread | None, rewards: PerAgent, caution: Caution) -> tuple[Measured, PerTeam]:
    """Disagreement, and what it takes from the reward: no more than it does at the cut-off."""
    if spread is None:
        nothing = rewards.new_zeros(len(rewards))
        return Measured(nothing), nothing
    value = UNCERTAINTIES[caution.spread](spread)
    lost = caution.weight * penalty(value, caution.cutoff)
    if caution.reward_weight:
        lost = lost + caution.reward_weight * reward_variance(spread)
    return value, lost
