"""Raw observations and rewards as what tokens and heads are given, and what these tell in raw units.

Tokens stand for standardised observations; or for residuals, which a guess of the step misses, in deviations of
these: o_t+1 = o_t + guess + residual, and r = guess + residual. Then nothing is lost of what stays as it is or can be
calculated, and an error is a share of what is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from offline_marl.core.axes import PerAgent
from offline_marl.core.types import Obs
from offline_marl.networks.tokenizer import Tokenizer, Tokens
from offline_marl.worldmodels.facts import Facts, Joint
from offline_marl.worldmodels.token_guess import REACH, Guess, Guessed

Course = Annotated[Tensor, "row time agent obs"]
Exact = Annotated[Tensor, "*lead number"]


@dataclass(frozen=True, slots=True)
class Codec:
    """Raw numbers as tokens and what heads of rewards are given, and back."""

    tokenizer: Tokenizer
    facts: Facts
    guess: Guess | None
    """None where tokens stand for observations."""
    shared: Annotated[Tensor, "agent obs"] | None
    """`Facts.shared`; None where no number is."""

    def given(self, obs: Course, exact: Exact | None, blank: Annotated[Tensor, "row"] | None = None) -> Course:
        """What the tokenizer is given of consecutive steps.

        Args:
            obs: Raw.
            exact: Of all steps but the last.
            blank: Steps at each row's front that never were, none unless said.
        """
        if self.guess is None or exact is None:
            return self.standardised(obs)
        facts, present = self.facts, self.tokenizer.present
        expected = facts.spread_out(self.guess(exact).changes.mean(0))
        scale = facts.spread_out(self.guess.of_changes).masked_fill(~present, 1.0)
        missed = (obs.diff(dim=1) - expected) / scale * present
        if blank is not None:  # of the first step there is, the one before is none
            never = torch.arange(missed.shape[1], device=obs.device) < blank.unsqueeze(-1)
            missed = missed.masked_fill(never[..., None, None], 0.0)
        return torch.cat([torch.zeros_like(obs[:, :1]), missed], dim=1)

    def encode(self, obs: Course, exact: Exact | None, blank: Annotated[Tensor, "row"] | None = None) -> Tokens:
        """Tokens of consecutive steps; see `given`."""
        return self.tokenizer.encode(self.given(obs, exact, blank))

    def exact(self, obs: Obs, actions: Tensor) -> Exact | None:
        """What all agents see and do, as it is read beside tokens of residuals; None where tokens are all."""
        if self.guess is None:
            return None
        spec = self.facts.spec
        if spec.discrete:
            done = nn.functional.one_hot(actions, spec.act_dim).to(obs.dtype)
        else:
            done = actions.clamp(-1.0, 1.0)
        return torch.cat([self.standardised(obs), done * spec.present("act").to(obs.device)], dim=-1).flatten(-2)

    @property
    def still(self) -> Annotated[Tensor, "agent token"] | None:
        """Tokens of a first step, where they are of residuals."""
        present = self.tokenizer.present
        return None if self.guess is None else self.tokenizer.encode(torch.zeros_like(present, dtype=torch.float32))

    def settled(self, tokens: Tokens, present: PerAgent) -> Tokens:
        """Tokens written anew of those agents who drew something else for a number that another one tells first.

        So that no agent remembers what did not happen. See `decode`.
        """
        if self.shared is None:
            return tokens
        facts, written = self.facts, self.tokenizer.decode(tokens)
        agreed = torch.where(self.shared, facts.spread_out(facts.first_told(written, present)), written)
        other = (agreed != written).any(-1, keepdim=True) & present.unsqueeze(-1)
        return torch.where(other, self.tokenizer.encode(agreed), tokens)

    def decode(self, tokens: Tokens, now: Obs | None, guessed: Guessed | None, present: PerAgent) -> Joint:
        """Joint coordinates that tokens stand for, after `now`; what several see the first of them who is there tells.

        Their tokens are drawn apart. A mean of draws would be narrower than what each of them expects, and of several
        modes no mode.
        """
        told = self.facts.first_told(self._raw(self.tokenizer.decode(tokens)), present)
        return told if now is None or guessed is None else self.facts.join(now) + guessed.changes.mean(0) + told

    def blend(
        self, odds: Tensor, now: Obs | None, guessed: Guessed | None, present: PerAgent
    ) -> Annotated[Tensor, "member *lead coordinate"]:
        """What each member expects: each token is the mean of what its choices stand for, and so are the viewers'."""
        told = self._mean(self._raw(self.tokenizer.blend(odds)), present)
        return told if now is None or guessed is None else self.facts.join(now) + guessed.changes + told

    def cycled(self, tokens: Tokens) -> Tokens:
        """Tokens of what these stand for."""
        again: Tokens = self.tokenizer.encode(self.tokenizer.decode(tokens))
        return again

    def reward_values(self, rewards: PerAgent, exact: Exact | None) -> PerAgent:
        """Rewards as their head is given them: as they are, or their residuals in deviations of these."""
        if self.guess is None or exact is None:
            return rewards
        missed: PerAgent = (rewards - self.guess(exact).rewards.mean(0)) / self.guess.of_rewards
        return missed

    def rewards(
        self, values: Annotated[Tensor, "member *lead agent"], guessed: Guessed | None
    ) -> Annotated[Tensor, "member *lead agent"]:
        """Rewards of what their head tells; see `reward_values`."""
        if self.guess is None or guessed is None:
            return values
        return guessed.rewards + values * self.guess.of_rewards

    def standardised(self, obs: Obs) -> Obs:
        """Observations in deviations from their means, zero on padding."""
        facts, present = self.facts, self.tokenizer.present
        std = facts.spread_out(facts.obs_std).masked_fill(~present, 1.0)
        return (obs - facts.spread_out(facts.obs_mean)) / std * present

    def _raw(self, written: Obs) -> Obs:
        """In raw units: observations, or residuals of no more than can be told."""
        facts = self.facts
        if self.guess is None:
            mean, std = facts.obs_mean, facts.obs_std
        else:
            mean, std = torch.zeros_like(facts.obs_mean), self.guess.of_changes
            written = written.clamp(-REACH, REACH)
        return written * facts.spread_out(std).masked_fill(~self.tokenizer.present, 1.0) + facts.spread_out(mean)

    def _mean(self, written: Obs, present: PerAgent) -> Joint:
        """Of what several agents see the mean of those who are there."""
        facts = self.facts
        known = facts.place >= 0
        weights = (present.unsqueeze(-1) & self.tokenizer.present).flatten(-2)[..., known].to(written.dtype)
        place, shape = facts.place[known], (*written.shape[:-2], facts.coordinates)
        total = written.new_zeros(shape).index_add_(-1, place, written.flatten(-2)[..., known] * weights)
        count = written.new_zeros(*weights.shape[:-1], facts.coordinates).index_add_(-1, place, weights)
        return total / count.clamp(min=1.0)
