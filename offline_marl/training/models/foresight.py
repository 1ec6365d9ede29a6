"""Predictions of recorded steps beside what was recorded: one step from each row, or open loop from a few.

Errors are those of the predictions that a policy meets, an ensemble's from one elite at each step; surprise is that
of all elites together.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any

import torch
from torch import Tensor

from offline_marl.core.axes import PerAgent
from offline_marl.core.types import Batch
from offline_marl.datasets.buffer import Rows, TransitionBuffer
from offline_marl.worldmodels.base import Prediction, Spread, WorldModel
from offline_marl.worldmodels.facts import Facts, Joint
from offline_marl.worldmodels.uncertainty import UNCERTAINTIES

ROWS_AT_ONCE = 1_024

PerStep = Annotated[Tensor, "row time"]
Coordinates = Annotated[Tensor, "row time coordinate"]
Agents = Annotated[Tensor, "row time agent"]


@dataclass(frozen=True, slots=True)
class Foreseen:
    """Errors of a model's open-loop predictions, its own fed back; an error is predicted minus recorded."""

    obs_error: Coordinates
    """In deviations of the data's observations."""
    still_error: Coordinates
    """The same of the prediction that nothing changes from the start."""
    reward_error: Agents
    """In deviations of the data's rewards."""
    mean_error: Agents
    """The same of always predicting the mean reward."""
    obs_surprise: Coordinates | None
    """In deviations that the model itself predicts; None for kinds that predict none."""
    reward_surprise: Agents | None
    spreads: Mapping[str, PerStep]
    """By name of the measure, those that the kind offers."""
    ended: PerStep
    """Bool: predicted that the team's episode terminates."""
    terminations: PerStep
    counted: PerStep
    """Bool: the recorded episode was not over yet, all agents were there, and what they saw next was recorded."""
    paid: PerStep
    """Bool: the same, but whatever followed: rewards are known."""
    lived: PerStep
    """Bool: the recorded episode was not over yet: its ends are known."""
    allowed: PerStep | None = None
    """Bool: every agent's choices are allowed next as predicted; None where data or model tell of none."""

    def distance(self) -> PerStep:
        """Root mean square of a step's errors, over coordinates and rewards alike."""
        return torch.cat([self.obs_error, self.reward_error], dim=-1).square().mean(-1).sqrt()


def look_near(model: WorldModel, buffer: TransitionBuffer, index: Rows) -> Foreseen:
    """One step from each of these rows, time axis of 1."""
    parts = [foresee(model, buffer.segments(part, 1)) for part in torch.split(index, ROWS_AT_ONCE)]
    return _joined(parts, torch.cat)


def look_far(model: WorldModel, buffer: TransitionBuffer, starts: int, steps: int) -> Foreseen:
    """Many steps from a few rows: half of them begin where an episode begins, the others lie anywhere.

    Args:
        model: Runs on its own predictions.
        buffer: Recorded episodes; its window is the model's.
        starts: Rows at most.
        steps: Steps at most; the longest episode may have fewer.
    """
    first = evenly(buffer.first, starts // 2)
    anywhere = evenly(torch.arange(len(buffer), device=buffer.device), starts - len(first))
    longest = int(torch.diff(buffer.first, append=buffer.first.new_tensor([len(buffer)])).max())
    index: Rows = torch.unique(torch.cat([first, anywhere]))
    return foresee(model, buffer.segments(index, min(steps, longest)))


FEW, SEEN = 32, 4
"""Most values of a coordinate that counts as one of few, and how often each is seen on average at least."""


def rank_draws(
    model: WorldModel, buffer: TransitionBuffer, index: Rows, draws: int
) -> Annotated[Tensor, "moment coordinate"]:
    """Rank of each recorded coordinate among as many draws of one step, from 0 to `draws`; equals count half.

    Of a model whose draws are distributed as what is recorded, every rank is as likely. Rows of which something was
    not recorded are left out. Of coordinates that take few values a draw is the value that it is nearest to: else a
    model that is right but for the last digit would have no interval that holds what happens.
    """
    rows = buffer.transitions(index)
    carry, after = model.begin(rows), model.facts.join(rows.next_obs)
    there = torch.ones_like(rows.terminations) if rows.mask is None else rows.mask
    known = (there if rows.next_seen is None else there & rows.next_seen).all(-1)
    after = after[known]
    few = _few_values(after)
    ranks = torch.zeros_like(after)
    for _ in range(draws):
        drawn = model.facts.join(model.step(carry, rows.actions)[0].next_obs)[known]
        for coordinate, values in few.items():
            borders = (values[1:] + values[:-1]) / 2
            drawn[:, coordinate] = values[torch.bucketize(drawn[:, coordinate].contiguous(), borders)]
        ranks += (drawn < after).to(ranks.dtype) + 0.5 * (drawn == after).to(ranks.dtype)
    return ranks


def _few_values(joint: Annotated[Tensor, "moment coordinate"]) -> dict[int, Annotated[Tensor, "value"]]:
    """Values of the coordinates that take at most `FEW`, each seen several times."""
    found = {}
    for coordinate, column in enumerate(joint.unbind(-1)):
        values = torch.unique(column)
        if 0 < len(values) <= min(FEW, len(column) // SEEN):
            found[coordinate] = values
    return found


def foresee(model: WorldModel, cuts: Batch) -> Foreseen:
    """Let the model run on its own predictions, under the recorded actions of segments."""
    steps = []
    carry = model.begin(cuts.map(lambda value: value[:, 0]))
    first = model.facts.join(cuts.obs[:, 0])
    for time in range(cuts.rewards.shape[1]):
        now = cuts.map(lambda value, time=time: value[:, time])
        prediction, carry = model.step(carry, now.actions)
        steps.append(_compare(model.facts, prediction, first, now))
    return _joined(steps, lambda tensors: torch.stack(tensors, dim=1))


def evenly(positions: Rows, most: int) -> Rows:
    """At most so many of them, in order and evenly spaced, the first and the last included."""
    if len(positions) <= most:
        return positions
    chosen = torch.linspace(0, len(positions) - 1, most, dtype=torch.float64, device=positions.device)
    return positions[chosen.round().long()]


def _compare(facts: Facts, prediction: Prediction, first: Joint, now: Batch) -> Foreseen:
    after = facts.join(now.next_obs).double()
    obs_surprise, reward_surprise = _surprise(prediction.spread, after, now.rewards)
    there = torch.ones_like(now.terminations) if now.mask is None else now.mask
    return Foreseen(
        obs_error=(facts.join(prediction.next_obs) - after) / facts.obs_std,
        still_error=(first - after) / facts.obs_std,
        reward_error=(prediction.rewards.double() - now.rewards) / facts.reward_std,
        mean_error=(facts.reward_mean.double() - now.rewards) / facts.reward_std,
        obs_surprise=obs_surprise,
        reward_surprise=reward_surprise,
        spreads=_spreads(prediction.spread),
        ended=prediction.terminations.all(-1),
        terminations=now.team_terminations,
        counted=there.all(-1) if now.next_seen is None else (there & now.next_seen).all(-1),
        paid=there.all(-1),
        lived=there.any(-1),
        allowed=_allowed(prediction, now),
    )


def _allowed(prediction: Prediction, now: Batch) -> PerStep | None:
    told, recorded = prediction.next_avail_actions, now.next_avail_actions
    return None if told is None or recorded is None else (told == recorded).all(-1).all(-1)


def _surprise(spread: Spread | None, after: Joint, rewards: PerAgent) -> tuple[Tensor | None, Tensor | None]:
    """Error of the elites' mean in deviations of their mixture: own noise and disagreement together."""
    if spread is None or spread.next_obs_std is None or spread.rewards_std is None:
        return None, None

    def surprise(means: Tensor, std: Tensor, recorded: Tensor) -> Tensor:
        means, std = means.double(), std.double()
        total = std.square().mean(0) + means.var(0, correction=0)
        return (means.mean(0) - recorded) / total.sqrt()

    return (
        surprise(spread.next_obs, spread.next_obs_std, after),
        surprise(spread.rewards, spread.rewards_std, rewards),
    )


def _spreads(spread: Spread | None) -> dict[str, Tensor]:
    measured: dict[str, Tensor] = {}
    if spread is None:
        return measured
    for name, measure in UNCERTAINTIES.items():
        # A measure of deviations that this kind does not predict refuses.
        with contextlib.suppress(ValueError):
            measured[name] = measure(spread)
    return measured


def _joined(parts: Sequence[Foreseen], join: Callable[[list[Tensor]], Tensor]) -> Foreseen:
    columns: dict[str, Any] = {item.name: [getattr(part, item.name) for part in parts] for item in fields(Foreseen)}
    spreads = columns.pop("spreads")
    tensors: dict[str, Any] = {name: None if values[0] is None else join(values) for name, values in columns.items()}
    return Foreseen(**tensors, spreads={name: join([part[name] for part in spreads]) for name in spreads[0]})
