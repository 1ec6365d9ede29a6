"""Reward models that are fitted to comparisons: an ensemble of Bradley-Terry models, one network for all agents.

Departs from MARLHF (Zhang et al., 2024): scores sum over the team where labels speak of it, agents may be told apart,
inputs are standardised, members are several, and the fit ends when held-out episodes are told no better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from offline_marl.core.axes import PerAgent
from offline_marl.core.config import Config
from offline_marl.core.fields import Count, CountOrZero, InnerShare, NotNegative, Positive
from offline_marl.core.learner import Learner
from offline_marl.core.types import Batch, Metrics, Needs, Spec
from offline_marl.losses import preferences as losses
from offline_marl.networks.rewards import RewardNetwork
from offline_marl.networks.targets import frozen_copy
from offline_marl.preferences import registry
from offline_marl.preferences.answers import RATINGS

PerMember = Annotated[Tensor, "member"]
Before = Annotated[Tensor, "row agent window step"]
"""(obs, action) pairs of the steps before, zeros where there are none."""
COMPARED, RATED, CREDITED = range(3)
ROWS_AT_ONCE = 1 << 15
"""Steps of agents that all members read together."""


@dataclass(frozen=True, slots=True)
class Comparisons(Batch):
    """Segments `[member, pair, side, time]`, with what was said of each pair; `next_obs` is not read."""

    labels: Annotated[Tensor, "member pair"] | None = None
    """1, 0 or 1/2."""
    targets: Annotated[Tensor, "member pair"] | None = None
    """Int64: the agent that the label speaks of, or -1 for the team."""
    agents: Annotated[Tensor, "member pair"] | None = None
    """`targets` where none is -1, as their source knows; else None. To ask them would wait for the device."""
    labelled: Annotated[Tensor, "member pair"] | None = None
    """Bool, false for pairs that nobody labelled; they are the same for all members."""
    kinds: Annotated[Tensor, "member pair"] | None = None
    """Int64, `COMPARED`, `RATED` or `CREDITED`; None where all are compared.

    Of the others both sides are the one segment, `labelled` is false, and `labels` is the rating, or the agent who did
    best and -1 for equal.
    """


class RewardModelConfig(Config):
    """P(first) = sigmoid(S_1 - S_2), S = sum_t sum_i r(o_i, a_i, i), or an agent's own sum (Christiano et al., 2017).

    loss = -log P of the labels + alpha mean sum_t (r_(t+1) - r_t)^2 + surf_weight (-log P of pseudo-labels)
        + rating_weight (-log P of ratings) + credit_weight (-log P of who did best)
    """

    lr: Positive = 1e-3
    """Step size of Adam."""
    cosine_steps: CountOrZero = 0
    """Updates over which the step size falls to 0 along half a cosine; 0 keeps it constant."""
    batch_size: Count = 64
    """Labelled pairs in one update of each member."""
    hidden: Annotated[tuple[Count, ...], Field(min_length=1)] = (64, 64)
    """Widths of the hidden layers; where recurrent, the last one is that of the state."""
    layer_norm: bool = False
    """Normalise the hidden layers, but not a recurrent state: much is then learnt from fewer updates."""
    recurrent: bool = False
    """Let a gated recurrent unit carry what happened from step to step."""
    burn_in: CountOrZero = 64
    """Past steps that a recurrent model reads where a segment begins within an episode, at most."""
    members: Count = 3
    """Networks that are fitted side by side; their disagreement says where the reward is unsure."""
    agent_id: bool = True
    """Tell the network whose reward it is, so that agents of different roles may be paid differently."""
    joint: bool = False
    """Let the network read what all agents see and do, for rewards that depend on where the others are."""
    alpha: NotNegative = 1.0
    """Weight of MARLHF's smoothness along time; 0 for none."""
    weight_decay: NotNegative = 1e-4
    """Pull of every parameter towards 0, added to its gradient."""
    grad_clip: NotNegative = 1.0
    """Largest gradient norm of all members together; 0 leaves gradients alone."""
    sampling: Literal["uniform", "bootstrap"] = "uniform"
    """Each batch of a member is its own draw from all training labels, or from a fixed resample of them of its own."""
    surf_weight: NotNegative = 0.0
    """Weight of pseudo-labels on pairs that nobody labelled, as many as labelled ones (SURF); 0 for none, uncropped."""
    surf_threshold: Annotated[float, Field(ge=0.5, lt=1.0)] = 0.95
    """How sure the members' mean must be of a pseudo-label."""
    surf_crop: Annotated[float, Field(gt=0.0, le=1.0)] = 0.85
    """Least share of a segment that a crop keeps; the shorter of a pair loses the rest, the other as many steps."""
    rating_weight: NotNegative = 1.0
    """Weight of people's ratings of single segments, where there are any; 0 learns nothing from them."""
    credit_weight: NotNegative = 1.0
    """Weight of people's answers to which agent did best, where there are any; 0 learns nothing from them."""
    holdout: InnerShare = 0.1
    """Share of the pairs to hold out, by episodes, where those who asked did not say which."""
    patience: Count = 10
    """Looks at held-out pairs without improvement of any member after which the fit stops."""
    min_improvement: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.001
    """Share by which a held-out loss must fall to count as an improvement."""
    min_labels: Count = 10
    """Labels for the first and for the second segment that there must be, each."""


@registry.register("bradley-terry")
class RewardModel(Learner):
    """Members that each learn from draws of their own which of two segments is preferred.

    Args:
        config: The model's settings.
        spec: Widths and kinds of what the team sees and does.
        obs_mean: Of each agent's observations, over the training data.
        obs_std: Their deviation.
    """

    Config: ClassVar[type[RewardModelConfig]] = RewardModelConfig
    needs = Needs(view="segments", next_obs=False)
    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        config: RewardModelConfig,
        spec: Spec,
        obs_mean: Annotated[Tensor, "agent obs"],
        obs_std: Annotated[Tensor, "agent obs"],
    ) -> None:
        super().__init__(config.lr, config.cosine_steps, config.grad_clip)
        self.config, self.spec, self.members = config, spec, config.members
        self.register_buffer("mean", obs_mean.clone())
        self.register_buffer("scale", obs_std.reciprocal())
        self.network = RewardNetwork(config.members, self._width, config.hidden, config.recurrent, config.layer_norm)
        self.optimize("network", lr=config.lr)
        for group in self.optimizer.param_groups:
            group["weight_decay"] = config.weight_decay
        self.best_network = frozen_copy(self.network)

    @property
    def window(self) -> int:
        """Past pairs that it reads where a segment begins within an episode."""
        return self.config.burn_in if self.config.recurrent else 0

    def update(self, batch: Batch) -> Metrics:
        """One step of every member down the loss of its own pairs."""
        assert isinstance(batch, Comparisons) and batch.labels is not None and batch.mask is not None
        assert batch.targets is not None and batch.labelled is not None
        spoken_of = self._spoken_of(batch)
        rewards, mask = self._own_rows(batch, spoken_of), _of_agent(batch.mask, spoken_of)
        # Crops are of the team's time: an agent that comes late is away where they begin.
        crops = self._crops(batch.mask) if self.config.surf_weight else batch.mask
        scores = losses.segment_scores(rewards, _of_agent(crops, spoken_of))
        targets = batch.targets if spoken_of is None else torch.zeros_like(batch.targets)
        compared = losses.compared_scores(scores, targets.unsqueeze(-1).expand(scores.shape[:-1]))
        margin = compared[..., 0] - compared[..., 1]
        told = batch.labelled
        counted = told.sum(-1).clamp(min=1)
        of_labels = losses.bradley_terry(margin, batch.labels).masked_fill(~told, 0.0).sum(-1) / counted
        uneven = losses.smoothness(rewards, mask).mean((1, 2, 3))
        right = (margin * (batch.labels - 0.5) > 0) & told
        decided = ((batch.labels != 0.5) & told).sum().clamp(min=1)
        loss = of_labels + self.config.alpha * uneven
        open_pairs = ~told if batch.kinds is None else ~told & (batch.kinds == COMPARED)
        metrics: Metrics = {
            "loss/preferences": of_labels.mean().detach(),
            "loss/smoothness": uneven.mean().detach(),
            "accuracy": (right.sum() / decided).detach(),
        }
        if self.config.surf_weight:
            guessed, share = self._pseudo(margin, open_pairs)
            loss = loss + self.config.surf_weight * guessed
            metrics |= {"loss/pseudo": guessed.mean().detach(), "pseudo/share": share}
        if batch.kinds is not None:
            judged, told_of = self._judged(losses.segment_scores(rewards, batch.mask), batch, batch.kinds)
            loss, metrics = loss + judged, metrics | told_of
        self.descend(loss.sum())
        return metrics

    def _judged(
        self, scores: Annotated[Tensor, "member pair side agent"], batch: Comparisons, kinds: Tensor
    ) -> tuple[PerMember, Metrics]:
        """Weighted losses of rated and credited segments, each a mean over its own rows."""
        assert batch.labels is not None and batch.targets is not None and batch.mask is not None
        one, chosen = scores[..., 0, :], kinds == CREDITED
        present = batch.mask[..., 0, :, :].any(-2) | ~chosen.unsqueeze(-1)
        rated = losses.rating_loss(losses.compared_scores(one, batch.targets), batch.labels, RATINGS)
        credited = losses.credit_loss(one, batch.labels.long().masked_fill(~chosen, -1), present)
        total, metrics = torch.zeros_like(rated[:, 0]), Metrics()
        for name, kind, each, weight in (
            ("ratings", RATED, rated, self.config.rating_weight),
            ("credit", CREDITED, credited, self.config.credit_weight),
        ):
            here = kinds == kind
            mean = each.masked_fill(~here, 0.0).sum(-1) / here.sum(-1).clamp(min=1)
            total = total + weight * mean
            metrics[f"loss/{name}"] = mean.mean().detach()
        return total, metrics

    def _pseudo(self, margin: Annotated[Tensor, "member pair"], open_pairs: Tensor) -> tuple[PerMember, Tensor]:
        """Loss of pairs that nobody labelled against what the members say of them, cropped; and how many are sure."""
        with torch.no_grad():
            self.eval()
            likely = torch.sigmoid(margin).mean(0)
            self.train()
            guess, sure = losses.pseudo_labels(likely, self.config.surf_threshold)
        kept = sure & open_pairs
        loss = losses.bradley_terry(margin, guess.expand_as(margin)).masked_fill(~kept, 0.0)
        return loss.sum(-1) / open_pairs.sum(-1).clamp(min=1), kept.sum() / open_pairs.sum().clamp(min=1)

    def _crops(self, mask: Annotated[Tensor, "member pair side time agent"]) -> Tensor:
        """The mask inside crops, drawn for each pair, the same for all members."""
        pairs = mask.shape[1]
        draws = torch.rand(3, pairs, generator=self.generator, device=mask.device)
        shares = 1.0 - (1.0 - self.config.surf_crop) * draws[0]
        inside = losses.crop(
            mask.any(-1).sum(-1), shares.expand(mask.shape[:2]), draws[1:].T.expand(mask.shape[:3]), mask.shape[3]
        )
        return mask & inside.unsqueeze(-1)

    def _spoken_of(self, batch: Comparisons) -> Annotated[Tensor, "member pair 1 1"] | None:
        """The agent that each label speaks of, where no other one's reward has a part in the loss: none is worked out.

        Smoothness that weighs and people's judgements are of all agents.
        """
        if self.config.alpha or batch.kinds is not None or batch.agents is None:
            return None
        return batch.agents[..., None, None]

    def _own_rows(
        self, batch: Batch, spoken_of: Annotated[Tensor, "member pair 1 1"] | None
    ) -> Annotated[Tensor, "member *lead time agent"]:
        """Rewards of each member for rows of its own, `[member, ..., time, agent]`; of one agent, where it is said."""
        assert batch.mask is not None
        features = self._features(batch.obs, batch.actions, batch.mask).movedim(-2, -1)
        steps = _of_agent(features, None if spoken_of is None else spoken_of.unsqueeze(-1)).movedim(-1, -3)
        mask = _of_agent(batch.mask, spoken_of)
        lead = mask.shape
        steps = steps.reshape(lead[0], -1, lead[-2], self._width)
        away = ~mask.movedim(-1, -2).reshape(lead[0], -1, lead[-2])
        rewards: Tensor = self.network(steps, away)
        return rewards.view(*lead[:-2], lead[-1], lead[-2]).movedim(-2, -1)

    @property
    def _width(self) -> int:
        seen = 1 + self.spec.n_agents if self.config.joint else 1
        return seen * self.spec.step_dim + (self.spec.n_agents if self.config.agent_id else 0)

    def _features(self, obs: Tensor, actions: Tensor, mask: Tensor) -> Annotated[Tensor, "*lead agent feature"]:
        if self.spec.discrete:
            actions = nn.functional.one_hot(actions, self.spec.act_dim)
        return self._joined(obs, actions.to(obs.dtype), mask)

    def _joined(self, obs: Tensor, actions: Tensor, mask: PerAgent) -> Annotated[Tensor, "*lead agent feature"]:
        own = torch.cat([(obs - self.mean) * self.scale, actions], dim=-1)
        parts = [own]
        if self.config.joint:  # who is away shows nothing to the others either
            every = own.masked_fill(~mask.unsqueeze(-1), 0.0).flatten(-2)
            parts.append(every.unsqueeze(-2).expand(*own.shape[:-1], -1))
        if self.config.agent_id:
            who = torch.eye(self.spec.n_agents, device=obs.device, dtype=obs.dtype)
            parts.append(who.expand(*obs.shape[:-1], -1))
        return torch.cat(parts, dim=-1)

    @torch.no_grad()
    def predict(self, batch: Batch, before: Before | None = None) -> Annotated[Tensor, "member row time agent"]:
        """Every member's reward of every step of segments `[row, time]`, in eval mode; 0 where nothing counts.

        Args:
            batch: Segments in the order of time.
            before: What came before their first step, of segments that begin within an episode.
        """
        was_training = self.training
        self.eval()
        rows, time, agents = batch.rewards.shape
        several = max(ROWS_AT_ONCE // (time * agents), 1)
        pieces = [
            self._predict(batch.map(lambda value, part=part: value[part]), None if before is None else before[part])
            for part in torch.split(torch.arange(rows, device=batch.obs.device), several)
        ]
        self.train(was_training)
        return torch.cat(pieces, dim=1)

    def _predict(self, batch: Batch, before: Before | None) -> Tensor:
        rows, time, agents = batch.rewards.shape
        mask = torch.ones_like(batch.rewards, dtype=torch.bool) if batch.mask is None else batch.mask
        steps = self._features(batch.obs, batch.actions, mask).transpose(1, 2).flatten(0, 1)
        away = ~mask.transpose(1, 2).flatten(0, 1)
        state = None if before is None or not self.config.recurrent else self._state(before)
        rewards: Tensor = self.network(steps.expand(self.members, -1, -1, -1), away, state)
        return rewards.view(self.members, rows, agents, time).transpose(2, 3).masked_fill(~mask, 0.0)

    def _state(self, before: Before) -> Tensor:
        """The carry after past steps; those of zeros alone were none."""
        obs, actions = torch.split(before, [self.spec.obs_dim, self.spec.act_dim], dim=-1)
        there = before.ne(0).any(-1)
        steps = self._joined(obs.transpose(1, 2), actions.transpose(1, 2), there.transpose(1, 2))
        steps = steps.transpose(1, 2).flatten(0, 1)
        state: Tensor = self.network.warm(steps.expand(self.members, -1, -1, -1), ~there.flatten(0, 1))
        return state

    def scores(self, batch: Batch) -> Annotated[Tensor, "member row agent"]:
        """Every member's score of every agent over segments `[row, time]`."""
        return self.predict(batch).sum(-2)

    @torch.no_grad()
    def snapshot(self, improved: PerMember) -> None:
        """Remember the present weights of those members (bool) that improved."""
        for best, now in self._weights():
            best[improved] = now[improved]

    @torch.no_grad()
    def conclude(self, errors: PerMember) -> None:
        """End a fit: every member's best weights are put back."""
        for best, now in self._weights():
            now.copy_(best)

    def _weights(self) -> list[tuple[Tensor, Tensor]]:
        best, now = (module.state_dict() for module in (self.best_network, self.network))
        return list(zip(best.values(), now.values(), strict=True))


def _of_agent(
    values: Annotated[Tensor, "*lead agent"], which: Annotated[Tensor, "*start"] | None
) -> Annotated[Tensor, "*lead agent"]:
    """The column of one agent, another one for each of the first axes; all columns where none is said."""
    return values if which is None else values.gather(-1, which.expand(*values.shape[:-1]).unsqueeze(-1))


def mean_and_spread(members: Annotated[Tensor, "member *lead agent"]) -> tuple[PerAgent, PerAgent]:
    """Mean over members, and their deviation from it; 0 of a single one."""
    return members.mean(0), members.std(0, correction=0)
