"""Residual model: one network tells how joint observations change and what each agent earns.

x' = x + d(x, a) and r(x, a), fitted by squared errors in deviations of the data; nothing terminates by it. One network
has nobody to disagree with, so that its rollouts have no measure of doubt: `ensemble` is the one to train policies in.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from offline_marl import Batch, Metrics
from offline_marl.core.types import Needs, Obs
from offline_marl.worldmodels.base import Carry, PerMember, Prediction, WorldModel, WorldModelConfig, worldmodels
from offline_marl.worldmodels.facts import Facts


class ResidualConfig(WorldModelConfig):
    """The common fields and none of its own."""


@dataclass(frozen=True)
class Here(Carry):
    """What the agents see now: all that this model keeps of a rollout. A recurrent one keeps its hidden state too."""

    obs: Obs

    def where(self, alive: Tensor) -> Here:
        """Keep rows that are over: to predict them as well costs little."""
        return self

    def correct(self, obs: Obs) -> Here:
        """Go on from what the agents see, kept in the range of the data."""
        return replace(self, obs=obs)


@worldmodels.register("residual")
class Residual(WorldModel):
    """One deterministic network of changes and rewards."""

    Config = ResidualConfig
    needs = Needs(next_obs=False)

    def __init__(self, config: ResidualConfig, facts: Facts) -> None:
        super().__init__(config, facts)
        # Action entries that some agent really has: padding is no input.
        self.register_buffer("present", facts.spec.present("act").flatten(), persistent=False)
        widths = [facts.coordinates + int(self.present.sum()), *config.hidden]
        layers = [layer for pair in itertools.pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
        self.net = nn.Sequential(*layers, nn.Linear(widths[-1], facts.coordinates + facts.spec.n_agents))
        self.remember("net")  # its best weights on held-out episodes are put back at the end of a fit
        self.optimize("net", lr=config.lr)

    def begin(self, starts: Batch) -> Here:
        """Imagined episodes begin with what is seen in rows of the data."""
        return Here(starts.obs)

    @torch.no_grad()
    def step(self, carry: Here, actions: Tensor) -> tuple[Prediction, Here]:
        """Predict every row, in raw units."""
        facts = self.facts
        change, payoff = self.outputs(facts, carry.obs, actions)
        after = facts.join(carry.obs) + facts.change_mean + change * facts.change_std
        rewards = facts.reward_mean + payoff * facts.reward_std
        next_obs = facts.spread_out(after)
        return Prediction(next_obs, rewards, torch.zeros_like(rewards, dtype=torch.bool), None), Here(next_obs)

    def update(self, batch: Batch) -> Metrics:
        """Take one step down the mean squared error."""
        loss = self.loss(batch)
        self.descend(loss)
        return {"loss/model": loss.detach()}

    @torch.no_grad()
    def errors(self, batch: Batch) -> PerMember:
        """Measure held-out rows."""
        return self.loss(batch).sqrt().unsqueeze(0)

    def loss(self, batch: Batch) -> Tensor:
        """Mean squared error over changes and rewards, each in its own deviation, of the rows that count."""
        facts = self.facts
        change, payoff = self.outputs(facts, batch.obs, batch.actions)
        moved = facts.join(batch.next_obs) - facts.join(batch.obs)
        wrong = (moved - facts.change_mean) / facts.change_std - change
        missed = (batch.rewards - facts.reward_mean) / facts.reward_std - payoff
        errors = torch.cat([wrong, missed], dim=-1).square()
        there = torch.ones_like(batch.terminations) if batch.mask is None else batch.mask
        seen = there if batch.next_seen is None else there & batch.next_seen
        # Changes count where it is known what an agent saw next, rewards wherever it is there.
        counted = torch.cat([facts.counts(seen), there], dim=-1).to(errors.dtype)
        return (errors * counted).sum() / counted.sum().clamp(min=1)

    def outputs(self, facts: Facts, obs: Obs, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Changes and rewards in deviations, from standardised joint observations and the joint action."""
        x = (facts.join(obs) - facts.obs_mean) / facts.obs_std
        done = nn.functional.one_hot(actions, self.spec.act_dim) if self.spec.discrete else actions.clamp(-1.0, 1.0)
        out = self.net(torch.cat([x, done.to(x.dtype).flatten(-2)[..., self.present]], dim=-1))
        return out[..., : facts.coordinates], out[..., facts.coordinates :]
