"""Carry of a token world model between imagined steps, the chance of each step, and predictions in parts."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

import torch
from torch import Tensor

from offline_marl.core.types import History, Obs, Spec
from offline_marl.networks.transformer import Cache
from offline_marl.worldmodels.base import Carry, Prediction, Rows, TokenSpread


@dataclass(frozen=True, slots=True)
class TokenCarry(Carry):
    """Tokens of each row that still goes on, and the transformers' cache of them."""

    obs: Annotated[Tensor, "going time agent token"]
    """Of the steps so far and of now."""
    actions: Annotated[Tensor, "going time agent token"]
    blank: Annotated[Tensor, "going"] | None
    """Steps at the front that never were; None where all were."""
    present: Annotated[Tensor, "going agent"]
    """Bool, who is there now and stays."""
    places: Annotated[Tensor, "going"]
    """Which row each is."""
    rows: int
    cache: Cache | None = None
    """Shared with the carry before, behind whose places it goes on; None where it is made anew."""
    filled: int = 0
    """Places of the cache that belong to this carry."""
    now: Annotated[Tensor, "going agent obs"] | None = None
    """Raw observations of now, where tokens are of residuals."""
    exact: Annotated[Tensor, "going time number"] | None = None
    """What was seen and done in the steps before, as it is read beside tokens of residuals."""
    still: Annotated[Tensor, "agent token"] | None = None
    """Tokens of a first step, where tokens are of residuals."""
    there: Annotated[Tensor, "going time agent"] | None = None
    """Bool, who was there in the steps before; None where those were who are there now."""

    @property
    def known(self) -> Annotated[Tensor, "going time agent"]:
        """Bool, who was there in the steps before."""
        shape = self.actions.shape[:3]
        return self.present.unsqueeze(1).expand(shape) if self.there is None else self.there

    @property
    def unread(self) -> Annotated[Tensor, "going agent"] | None:
        """Steps before an agent came, which its sequence does not read; None where none is known of."""
        return None if self.there is None else (~self.there).int().cumprod(1).sum(1)

    def where(self, alive: Rows) -> TokenCarry:
        """Those rows alone."""
        keep = alive[self.places].nonzero().squeeze(-1)
        return self if len(keep) == len(self.places) else self.only(keep)

    def only(self, index: Annotated[Tensor, "kept"]) -> TokenCarry:
        """Some of its rows."""
        cache = self.cache
        if cache is not None:
            agents = torch.arange(self.obs.shape[2], device=index.device)
            cache = cache.select((index.unsqueeze(-1) * len(agents) + agents).flatten())
        return replace(
            self,
            obs=self.obs[index],
            actions=self.actions[index],
            blank=None if self.blank is None else self.blank[index],
            present=self.present[index],
            places=self.places[index],
            cache=cache,
            now=None if self.now is None else self.now[index],
            exact=None if self.exact is None else self.exact[index],
            there=None if self.there is None else self.there[index],
        )

    def correct(self, obs: Obs) -> TokenCarry:
        """Itself where tokens are what moves; with tokens of residuals the next one starts from what was corrected."""
        return self if self.now is None else replace(self, now=obs[self.places])

    def after(self, tokens: Tensor, actions: Tensor, cache: Cache | None, exact: Tensor | None, obs: Obs) -> TokenCarry:
        """The carry of the next step, in which these rows see `obs`."""
        return replace(
            self,
            obs=torch.cat([self.obs, tokens.unsqueeze(1)], dim=1),
            actions=torch.cat([self.actions, actions.unsqueeze(1)], dim=1),
            cache=cache,
            filled=0 if cache is None else cache.length,
            now=None if self.now is None else obs,
            exact=None if self.exact is None or exact is None else torch.cat([self.exact, exact.unsqueeze(1)], dim=1),
            there=None if self.there is None else torch.cat([self.there, self.present.unsqueeze(1)], dim=1),
        )

    def slid(self, steps: int) -> TokenCarry:
        """The same if one more step fits into a sequence of so many, else its newer half."""
        known = self.actions.shape[1]
        if known < steps:
            return self
        kept = steps // 2
        blank = None if self.blank is None else (self.blank - (known - kept)).clamp(min=0)
        obs = self.obs[:, -kept - 1 :]
        if self.still is not None:
            first = torch.arange(kept + 1, device=obs.device) <= (0 if blank is None else blank.unsqueeze(-1))
            obs = torch.where(first[..., None, None], self.still, obs)
        exact, there = (None if each is None else each[:, -kept:] for each in (self.exact, self.there))
        actions = self.actions[:, -kept:]
        return replace(self, obs=obs, actions=actions, blank=blank, cache=None, exact=exact, there=there)


@dataclass(frozen=True, slots=True)
class Draws:
    """Chance of a step of every row, drawn for all of them so that none depends on which others go on."""

    uniform: Annotated[Tensor, "row agent token"] | None
    """Picks tokens; None for the likeliest of all members."""
    speaker: Annotated[Tensor, "row"]
    """The member that tells each row's tokens and rewards."""
    ends: Annotated[Tensor, "row"] | None = None
    """Ends each row whose odds of an end are higher; None where it does if that is likelier than not."""

    def of(self, rows: Annotated[Tensor, "some"]) -> Draws:
        """Those of some rows."""
        uniform, ends = (None if each is None else each[rows] for each in (self.uniform, self.ends))
        return Draws(uniform, self.speaker[rows], ends)


def joined(parts: list[Prediction]) -> Prediction:
    """Predictions of rows one after another."""

    def along(items: list[Any], axes: dict[str, int]) -> dict[str, Tensor]:
        every = {name: [getattr(item, name) for item in items] for name in axes}
        return {name: torch.cat(every[name], axes[name]) for name in axes if every[name][0] is not None}

    rows = ("next_obs", "rewards", "terminations", "next_avail_actions")
    whole: dict[str, Any] = dict(along(parts, dict.fromkeys(rows, 0)))
    spreads = [part.spread for part in parts if part.spread is not None]
    told = [spread.tokens for spread in spreads]
    doubts: dict[str, Any] = {"reward_deviation": None, **along(told, {item.name: 0 for item in fields(TokenSpread)})}
    whole["spread"] = replace(spreads[0], tokens=TokenSpread(**doubts), **along(spreads, {"next_obs": 1, "rewards": 1}))
    return replace(parts[0], **whole)


def recorded_steps(history: History | None, now: Obs, spec: Spec) -> tuple[Tensor, Tensor, Tensor | None]:
    """What was seen and done in recorded steps, `[row, time, ...]`, and how many at the front never were."""
    if history is None:
        shape = (len(now), 0, spec.n_agents)
        done = torch.zeros(shape, dtype=torch.int64) if spec.discrete else torch.zeros(*shape, spec.act_dim)
        return now.unsqueeze(1)[:, :0], done.to(now.device), None
    seen, done = torch.split(history.transpose(1, 2), [spec.obs_dim, spec.act_dim], dim=-1)
    blank = (~history.ne(0).any(-1).any(1)).int().cumprod(-1).sum(-1)
    return seen, (done * spec.present("act").to(done.device)).argmax(-1) if spec.discrete else done, blank
