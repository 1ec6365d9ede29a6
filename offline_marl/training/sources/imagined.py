"""Sources of imagined rows: fresh rollouts for on-policy learners, mixtures with recorded rows for the others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from offline_marl.core.errors import WorkError
from offline_marl.core.types import Batch, Needs, Policy
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.datasets.episode_ring import EpisodeRing
from offline_marl.datasets.ring import TransitionRing
from offline_marl.training.rewards import Rewards
from offline_marl.training.sources.recorded import DatasetSource, lengthened
from offline_marl.training.sources.replay import LiveMixture, with_same_fields
from offline_marl.worldmodels.base import WorldModel
from offline_marl.worldmodels.rollout import Caution, Rollout, rollout

MOST_BROKEN = 0.01
"""Share of imagined rows that may stop being finite before a run is stopped."""


class BrokenModelError(WorkError, RuntimeError):
    """Too many imagined rows are not finite; the message says how many."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings of rollouts: starts, horizon and caution."""

    rows: int
    """Starts of one rollout."""
    horizon: int
    start_share: float
    """Share of rows that begin where an episode of the data begins; the others begin anywhere in it."""
    caution: Caution


class Imagination:
    """Generator of rollouts of the current policy in a world model, from states of the data.

    Args:
        model: The world model, on the training device.
        policy: Acts; its weights may change between rollouts.
        buffer: Where rollouts start; its window must serve policy and model.
        plan: How they are made.
        rewards: Converts what the model foresees to what is learnt from.
        generator: Draws the starts.
    """

    def __init__(
        self,
        model: WorldModel,
        policy: Policy,
        buffer: TransitionBuffer,
        plan: Plan,
        rewards: Rewards,
        generator: torch.Generator,
    ) -> None:
        self.live: EpisodeRing | None = None
        """Episodes that were played during the run, where half of the rollouts start once there are some."""
        self.model, self.policy, self.buffer, self.plan = model, policy, buffer, plan
        self.rewards, self.generator = rewards, generator
        self.made = self.broken = self.cut = 0

    def imagine(self, next_actions: bool = False) -> Rollout:
        """One rollout, with the rewards that are learnt from, and with what the policy does next if asked for.

        Raises:
            BrokenModelError: More than 1 % of all rows so far were dropped as not finite.
        """
        plan = self.plan
        half = plan.rows // 2 if self.live is not None and len(self.live) else 0
        starts = self._starts(self.buffer, plan.rows - half)
        if self.live is not None and half:
            parts = [starts, self._starts(self.live.windowed(self.buffer.window), half)]
            starts = Batch.cat(with_same_fields(parts, self.buffer.spec))
        if half or plan.start_share:
            # A ring that is smaller than a rollout keeps its last rows, which should be starts of every kind.
            order = torch.randperm(plan.rows, generator=self.generator, device=self.generator.device)
            starts = starts.map(lambda value: value[order.to(value.device)])
        made = rollout(self.model, self.policy, starts, plan.horizon, plan.caution, next_actions)
        self.made += plan.rows
        broken, cut = torch.stack([made.broken.sum(), made.cut.sum()]).tolist()  # the device is waited for once
        self.broken += broken
        self.cut += cut
        if self.broken > MOST_BROKEN * max(self.made, 100):
            raise BrokenModelError(
                f"{self.broken:,} of {self.made:,} imagined rows stopped being finite: the world model diverges on "
                "this policy (shorten --horizon, lower --cutoff, or fit the model longer)."
            )
        return replace(made, batch=self.rewards.of(made.batch, made.penalty, starts.history))

    def _starts(self, buffer: TransitionBuffer, rows: int) -> Batch:
        """Rows of a buffer to start from, some of them first steps of episodes."""
        at_first = round(self.plan.start_share * rows)
        index = buffer.draw(rows - at_first, self.generator)
        return buffer.transitions(torch.cat([index, buffer.draw_first(at_first, self.generator)]))

    def state_dict(self) -> dict[str, Any]:
        """What decides the next rollout, beside model and policy weights."""
        return {
            "generator": self.generator.get_state(),
            "model": self.model.generator.get_state(),
            "counts": [self.made, self.broken, self.cut],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where the saved one stood."""
        self.generator.set_state(state["generator"].cpu())
        self.model.generator.set_state(state["model"].cpu())
        self.made, self.broken, self.cut = state["counts"]


class RolloutSource:
    """Fresh rollouts of the current policy, one for each update of an on-policy learner.

    Args:
        imagination: Makes it.
    """

    def __init__(self, imagination: Imagination) -> None:
        self.imagination = imagination

    def sample(self, needs: Needs) -> Batch:
        """Segments [row, time]."""
        return self.imagination.imagine(needs.next_actions).batch

    def state_dict(self) -> dict[str, Any]:
        """See `Imagination.state_dict`."""
        return self.imagination.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Imagination.load_state_dict`."""
        self.imagination.load_state_dict(state)


class MixedSource:
    """Mixture of recorded rows and imagined ones, the latter from a ring that rollouts refill.

    Args:
        real: Rows of the data set, live ones beside them or not; its `batch_size` is that of the mixture.
        imagination: Refills the ring.
        ring: Holds imagined rows.
        shares: Share of real rows at the first update and at the last; None weighs every row that there is alike,
            real or imagined, and so every step where rows are segments ("auto").
        refill_every: Updates between refills.
        steps: Updates of the run, over which the share moves.
    """

    def __init__(
        self,
        real: DatasetSource | LiveMixture,
        imagination: Imagination,
        ring: TransitionRing,
        shares: tuple[float, float] | None,
        refill_every: int,
        steps: int,
    ) -> None:
        self.real, self.imagination, self.ring = real, imagination, ring
        self.shares, self.refill_every, self.steps = shares, refill_every, steps
        self.batch_size = real.batch_size
        self.drawn = 0

    def real_fraction(self, needs: Needs) -> float:
        """Share of real rows in the next batch, recorded or live."""
        if self.shares is None:
            held = self.real.held(needs)
            return held / (held + len(self.ring))
        first, last = self.shares
        return first + (last - first) * min(self.drawn / max(self.steps - 1, 1), 1.0)

    def sample(self, needs: Needs) -> Batch:
        """Recorded rows first, then imagined ones; of segments the shorter are padded."""
        if self.drawn % self.refill_every == 0:
            self._refill(needs)
        # Where nothing imagined could be used yet, all rows are recorded.
        count = round(self.real_fraction(needs) * self.batch_size) if len(self.ring) else self.batch_size
        if needs.recorded != "none":
            count = max(count, 1)
        self.drawn += 1
        parts = []
        if count:
            recorded = replace(self.real.draw(count, needs), next_seen=None)
            parts.append(replace(recorded, synthetic=torch.zeros_like(recorded.rewards[..., 0], dtype=torch.bool)))
        if count < self.batch_size:
            parts.append(self.ring.sample(self.batch_size - count, self.real.generator))
        if len(parts) == 1:
            return parts[0]
        if needs.view == "segments":
            longest = max(part.rewards.shape[1] for part in parts)
            parts = [lengthened(part, longest) for part in parts]
        return Batch.cat(with_same_fields(parts, self.real.buffer.spec))

    def _refill(self, needs: Needs) -> None:
        if self.shares == (1.0, 1.0):
            return
        made = self.imagination.imagine(needs.next_actions).batch
        if needs.view == "segments":
            self.ring.push(segments_of(made, needs))
            return
        flat = made.flatten()
        assert flat.mask is not None
        counted = flat.mask.any(-1)
        flat = flat.map(lambda value: value[counted])
        self.ring.push(flat if self.real.masks(needs) else replace(flat, mask=None))

    def state_dict(self) -> dict[str, Any]:
        """Cursor, rollouts and imagined rows."""
        return {
            "real": self.real.state_dict(),
            "imagination": self.imagination.state_dict(),
            "ring": self.ring.state_dict(),
            "drawn": self.drawn,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where the saved source stood."""
        self.real.load_state_dict(state["real"])
        self.imagination.load_state_dict(state["imagination"])
        self.ring.load_state_dict(state["ring"], self.real.buffer.device)
        self.drawn = state["drawn"]


def segments_of(rollouts: Batch, needs: Needs) -> Batch:
    """Rollouts `[row, time]` cut into segments, without those of which nothing counts; whole ones for episodes.

    What comes before a segment in its rollout is burnt in; before a rollout's start there is nothing to burn in.
    """
    rows, horizon = rollouts.rewards.shape[:2]
    length = needs.length or horizon
    start = torch.arange(0, horizon, length, device=rollouts.rewards.device).unsqueeze(-1)
    steps = (start - needs.burn_in).clamp(min=0) + torch.arange(needs.burn_in + length, device=start.device)
    counted = (start <= steps) & (steps < start + length) & (steps < horizon)
    cuts = rollouts.map(lambda value: value[:, steps.clamp(max=horizon - 1)].flatten(0, 1))
    assert cuts.mask is not None
    cuts = replace(cuts, mask=cuts.mask & counted.repeat(rows, 1).unsqueeze(-1))
    assert cuts.mask is not None
    kept = cuts.mask.flatten(1).any(-1)
    return cuts.map(lambda value: value[kept])
