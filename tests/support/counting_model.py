"""Made-up world models whose episodes hide something that observations do not tell: the number of steps so far."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor, nn

from offline_marl.core.types import Batch, Metrics, Obs
from offline_marl.worldmodels.base import Carry, PerMember, Prediction, WorldModel, WorldModelConfig
from offline_marl.worldmodels.facts import Facts

Places = Annotated[Tensor, "going"]


@dataclass(frozen=True)
class CountingCarry(Carry):
    """Rows that still go on, and nothing of the others."""

    obs: Annotated[Tensor, "going agent obs"]
    count: int
    places: Places
    rows: int

    def where(self, alive: Tensor) -> CountingCarry:
        keep = alive[self.places]
        return replace(self, obs=self.obs[keep], places=self.places[keep])

    def correct(self, obs: Obs) -> CountingCarry:
        return replace(self, obs=obs[self.places])


class Counting(WorldModel):
    """Linear changes and rewards, fitted by an optimiser each; every step of an episode earns one more than the last.

    An episode terminates where the first coordinate rises above its mean.
    """

    Config = WorldModelConfig

    def __init__(self, config: WorldModelConfig, facts: Facts) -> None:
        super().__init__(config, facts)
        self.register_buffer("present", facts.spec.present("act").flatten(), persistent=False)
        width = facts.coordinates + int(facts.spec.present("act").sum())
        self.changes, self.payoffs = nn.Linear(width, facts.coordinates), nn.Linear(width, facts.spec.n_agents)
        self.remember("changes", "payoffs")
        self.optimize("changes", lr=config.lr, name="changes")
        self.optimize("payoffs", lr=config.lr / 2, name="payoffs", cosine_steps=50)
        self.predicted: list[int] = []

    def begin(self, starts: Batch) -> CountingCarry:
        return CountingCarry(starts.obs, 0, torch.arange(len(starts)), len(starts))

    @torch.no_grad()
    def step(self, carry: CountingCarry, actions: Tensor) -> tuple[Prediction, CountingCarry]:
        self.predicted.append(len(carry.places))
        joint, x = self.inputs(carry.obs, actions[carry.places])
        after = joint + self.changes(x)
        over = after[:, :1] > self.facts.obs_mean[0]
        rewards = self.payoffs(x) + carry.count
        next_obs = self.facts.spread_out(after)
        some = Prediction(next_obs, rewards, over.expand(rewards.shape), None)
        return some.scatter(carry.places, carry.rows), replace(carry, obs=next_obs, count=carry.count + 1)

    def update(self, batch: Batch) -> Metrics:
        changes, payoffs = self.losses(batch)
        self.descend(changes, "changes")
        self.descend(payoffs, "payoffs")
        return {"loss/model": (changes + payoffs).detach()}

    @torch.no_grad()
    def errors(self, batch: Batch) -> PerMember:
        return torch.stack(self.losses(batch)).mean().sqrt().unsqueeze(0)

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        joint, x = self.inputs(batch.obs, batch.actions)
        counted = torch.ones(len(batch)) if batch.mask is None else batch.mask.any(-1).float()
        change = (self.facts.join(batch.next_obs) - joint - self.changes(x)) / self.facts.change_std
        payoff = (batch.rewards - self.payoffs(x)) / self.facts.reward_std
        means = [(error.square().mean(-1) * counted).sum() / counted.sum() for error in (change, payoff)]
        return means[0], means[1]

    def inputs(self, obs: Obs, actions: Tensor) -> tuple[Tensor, Tensor]:
        joint = self.facts.join(obs)
        chosen = nn.functional.one_hot(actions, self.spec.act_dim) if self.spec.discrete else actions.clamp(-1.0, 1.0)
        return joint, torch.cat([joint, chosen.to(joint.dtype).flatten(-2)[:, self.present]], dim=-1)


class Masking(Counting):
    """The same, but rows that are over are kept and predicted."""

    def begin(self, starts: Batch) -> CountingCarry:
        return Kept(starts.obs, 0, torch.arange(len(starts)), len(starts))


class Kept(CountingCarry):
    def where(self, alive: Tensor) -> CountingCarry:
        return self


class Given(Counting):
    """A model that is not fitted and needs neither states nor an environment; it foresees that all may be chosen."""

    fitted = False
    foresees = frozenset({"avail_actions"})

    def step(self, carry: CountingCarry, actions: Tensor) -> tuple[Prediction, CountingCarry]:
        prediction, after = super().step(carry, actions)
        # The choice of now is not allowed again, unless it is the first.
        avail = None
        if self.spec.discrete:
            avail = self.spec.present("act").expand(len(actions), -1, -1).scatter(-1, actions.unsqueeze(-1), False)
            avail[..., 0] = True
        return replace(prediction, next_avail_actions=avail), after
