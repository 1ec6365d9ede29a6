"""Rewards that change while a run plays: novelty first, then those of a model that comparisons teach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from offline_marl.core.axes import PerAgent
from offline_marl.core.types import Batch, Episode
from offline_marl.losses.novelty import kth_distance, novelty, whitening
from offline_marl.preferences.reward_model import RewardModel, mean_and_spread

Source = Literal["nothing", "novelty", "learned", "environment"]
Points = Annotated[Tensor, "point feature"]

MOST_VISITED = 20_000
"""Newest steps, of whole episodes, among which neighbours are looked for."""
MEASURED = 1_000
"""Of these, how many the deviation of novelty is taken over."""
LEAST_SCALE = 1e-6


class StateEntropy:
    """Novelty of what all agents see together after a step, by its distance to the k-th nearest step that was visited.

    In units of its deviation over the visited steps. Nothing is new before anything was visited.

    Args:
        neighbours: k.
        device: Where distances are computed.
    """

    def __init__(self, neighbours: int, device: torch.device | str) -> None:
        self.neighbours, self.device = neighbours, torch.device(device)
        self.points: Points = torch.zeros(0, 0)
        self.first = self.stop = 0
        """Numbers of the episodes whose steps are the visited ones."""
        self._measure()

    def visit(self, points: Points, first: int, stop: int) -> None:
        """Make these steps the visited ones, which are of the episodes from one number to before another."""
        self.points, self.first, self.stop = points.cpu(), first, stop
        self._measure()

    def _measure(self) -> None:
        self.scale = 1.0
        if not len(self.points):
            return
        points = self.points.to(self.device)
        self.mean, self.shrink = whitening(points)
        self.white = (points - self.mean) * self.shrink
        some = self.white[torch.linspace(0, len(points) - 1, min(MEASURED, len(points))).long()]
        spread = float(self._of(some, True).std(correction=0))
        self.scale = spread if spread > LEAST_SCALE else 1.0

    def _of(self, white: Points, visited: bool) -> Annotated[Tensor, "point"]:
        return novelty(kth_distance(white, self.white, self.neighbours, visited))

    def __call__(self, batch: Batch, visited: bool) -> PerAgent:
        """Novelty of steps `[row, time]`, the same for all agents.

        Args:
            batch: The steps.
            visited: Whether they are among the visited ones.
        """
        if not len(self.points):
            return torch.zeros_like(batch.rewards)
        points = features_of(batch.next_obs, batch.mask).to(self.device)
        told = self._of((points.flatten(0, 1) - self.mean) * self.shrink, visited) / self.scale
        return told.view(*points.shape[:2], 1).expand(batch.rewards.shape).to(batch.rewards)

    def state_dict(self) -> dict[str, Any]:
        """The visited steps."""
        return {"points": self.points, "first": self.first, "stop": self.stop}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the visited steps that were saved."""
        self.visit(state["points"], state["first"], state["stop"])


def features_of(next_obs: Tensor, mask: Tensor | None) -> Annotated[Tensor, "*lead feature"]:
    """What all agents see together; who is away shows nothing."""
    seen = next_obs if mask is None else next_obs.masked_fill(~mask.unsqueeze(-1), 0.0)
    return seen.flatten(-2)


def visited_steps(episode: Episode) -> Points:
    """The features of an episode's steps."""
    return features_of(episode.obs[1:], episode.mask)


class LiveReward:
    """A `Replacement` of the environment's rewards, whose source changes as the run goes on.

        learned: (mean - caution spread) / scale, over the members' r(o_i, a_i, i) or, for `team`, mean_i r(o_i, a_i, i)
                 over the agents i of whom anything was said

    Args:
        source: What is paid for to begin with.
        model: Learns from comparisons; None where nobody compares.
        entropy: Says what is new.
        credit: Whether all agents are paid the mean over those that labels speak of, or each its own part.
        caution: Taken per unit of the members' deviation.
    """

    def __init__(
        self,
        source: Source,
        model: RewardModel | None,
        entropy: StateEntropy,
        credit: Literal["team", "own"] = "team",
        caution: float = 0.0,
    ) -> None:
        self.source, self.model, self.entropy = source, model, entropy
        self.credit, self.caution = credit, caution
        self.version, self.scale = 0, 1.0
        self.agents: tuple[int, ...] | None = None
        """Those that labels speak of; None where these are all."""
        self.visited = False
        """Whether the steps that are asked about next are among those that `entropy` has visited."""

    def about(self, number: int) -> None:
        """Say of which episode the steps are that are asked about next."""
        self.visited = self.entropy.first <= number < self.entropy.stop

    def __call__(self, batch: Batch) -> PerAgent:
        """Rewards of whole episodes `[row, time]`; see `Replacement`."""
        if self.source == "environment":
            return batch.rewards
        if self.source == "nothing":
            return torch.zeros_like(batch.rewards)
        if self.source == "novelty":
            return self.entropy(batch, self.visited)
        mean, spread = self.told(batch)
        return (mean - self.caution * spread) / self.scale

    def told(self, batch: Batch) -> tuple[PerAgent, PerAgent]:
        """Mean and deviation over members, of what each agent is paid, before it is scaled."""
        assert self.model is not None
        members = self.model.predict(batch)
        if self.credit == "team":
            told_of = members if self.agents is None else members[..., list(self.agents)]
            members = told_of.mean(-1, keepdim=True).expand(members.shape)
        mean, spread = mean_and_spread(members)
        return mean, spread

    def doubt(self, batch: Batch) -> PerAgent:
        """Deviation over members of rows, or of segments, in the units of the learned reward."""
        rows = batch if batch.rewards.dim() == 3 else batch.map(lambda value: value.unsqueeze(1))
        _, spread = self.told(rows)
        return (spread / self.scale).view(batch.rewards.shape)

    def measure(self, batches: list[Batch]) -> None:
        """Measure the deviation by which the learned reward is divided, over these steps."""
        values = []
        for batch in batches:
            mean, _ = self.told(batch)
            values.append(mean.flatten() if batch.mask is None else mean[batch.mask])
        spread = float(torch.cat(values).double().std(correction=0)) if values else 0.0
        self.scale = spread if spread > LEAST_SCALE else 1.0

    def state_dict(self) -> dict[str, Any]:
        """What is paid for, and by what."""
        state: dict[str, Any] = {"source": self.source, "version": self.version, "scale": self.scale}
        if self.agents is not None:
            state["agents"] = list(self.agents)
        if self.source == "novelty":
            state["entropy"] = self.entropy.state_dict()
        if self.model is not None:
            state["model"] = self.model.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Pay as the saved one did."""
        self.source, self.version, self.scale = state["source"], state["version"], state["scale"]
        self.agents = tuple(state["agents"]) if "agents" in state else None
        if "entropy" in state:
            self.entropy.load_state_dict(state["entropy"])
        if self.model is not None:
            self.model.load_state_dict(state["model"])
