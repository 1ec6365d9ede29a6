"""Report of a reward model on episodes that it did not learn from, in numbers and a verdict; it ends every fit.

It depends on nothing but the weights, the labels and the data; the environment's rewards stand beside what was learnt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor

from offline_marl.datasets.base import Dataset
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.losses.preferences import binary_entropy, bradley_terry, compared_scores, smoothness
from offline_marl.preferences import teachers
from offline_marl.preferences.reward_model import CREDITED, RATED, RewardModel, mean_and_spread
from offline_marl.training.models.foresight import evenly
from offline_marl.training.models.report import plain, spearman
from offline_marl.training.preferences.answering import teacher_of
from offline_marl.training.preferences.folders import key_of
from offline_marl.training.preferences.labelled import Judged, Labelled
from offline_marl.training.preferences.splits import Split

MOST_EPISODES = 1_000
"""Episodes that returns are compared over."""
BINS = 10
"""Of predicted probabilities, and of the way through an episode."""
TAIL = 1.96
"""Of a normal distribution: half of a 95 % interval in deviations."""
EXAMPLES = 5


def measure_reward_model(
    model: RewardModel, split: Split, data: Dataset, facts: Mapping[str, Any], stays: bool = False
) -> dict[str, Any]:
    """The content of `report.json`, of plain finite numbers and None."""
    held_out = split.held_out
    margins = held_out.margins(model)
    likely = torch.sigmoid(margins).mean(0)
    report: dict[str, Any] = {
        "labels": _labels(split),
        "accuracy": _accuracy(held_out, likely, facts),
        "loss": _losses(held_out, margins, facts),
        "calibration": _calibration(held_out, likely),
        **_beside_the_true(model, split, data, stays),
        **_judged_told(model, split),
    }
    report["unsure"]["rank_correlation_of_spread_and_error"] = spearman(
        torch.sigmoid(margins).std(0, correction=0), (likely - held_out.values).abs()
    )
    reasons = _reasons(report)
    return {"trusted": not reasons, "reasons": reasons, **plain(report)}


def _labels(split: Split) -> dict[str, Any]:
    targets = split.train.targets
    judged = {} if split.judged is None and split.judged_held_out is None else {"judged": _counts_of_judged(split)}
    return judged | {
        "train": len(split.train),
        "held_out": len(split.held_out),
        "left_away": split.between,
        "contradictions": split.contradictions,
        "train_counts": split.train.counts(),
        "held_out_counts": split.held_out.counts(),
        "of_team": int((targets < 0).sum()),
        "of_agents": int((targets >= 0).sum()),
        # The sum over agents is all that labels and ratings of the team speak of; credit is about agents.
        "agents_told_apart": bool((targets >= 0).any()) or _judged_apart(split.judged),
    }


def _judged_apart(judged: Judged | None) -> bool:
    return judged is not None and bool(((judged.targets >= 0) | (judged.kinds == CREDITED)).any())


def _counts_of_judged(split: Split) -> dict[str, Any]:
    """Ratings and credit that were learnt from, and held out."""
    parts = {"train": split.judged, "held_out": split.judged_held_out}
    kinds = {"ratings": RATED, "credit": CREDITED}
    return {
        name: {part: 0 if judged is None else len(judged.of(kind)) for part, judged in parts.items()}
        for name, kind in kinds.items()
    }


def _judged_told(model: RewardModel, split: Split) -> dict[str, Any]:
    """How held-out ratings rank with scores, and how often the agent said to do best scores highest."""
    judged = split.judged_held_out
    if judged is None:
        return {}
    scores = model.scores(split.train.segments).mean(0)
    rated, credited = judged.of(RATED), judged.of(CREDITED)
    credited = Judged(*(part[credited.values >= 0] for part in vars(credited).values()))
    told = compared_scores(scores[rated.rows], rated.targets)
    assert split.train.segments.mask is not None
    there = split.train.segments.mask.any(1)[credited.rows]
    best = scores[credited.rows].masked_fill(~there, -torch.inf).argmax(-1) == credited.values.long()
    return {
        "judged": {
            "rank_of_ratings": spearman(told, rated.values) if len(rated) > 1 else None,
            "credit_accuracy": float(best.float().mean()) if len(credited) else None,
        }
    }


def _likelihoods(held_out: Labelled, facts: Mapping[str, Any]) -> Tensor | None:
    """Probability, for each label, that its simulated teacher says first; None where one is a person's."""
    known = [teacher_of(facts, label) for label in held_out.labels]
    if "scale" not in facts or not known or any(config is None for config in known):
        return None
    scale = float(facts["scale"]["scale"])
    segments = held_out.segments
    assert segments.mask is not None
    made = torch.zeros(len(known), dtype=torch.float64)
    for config in {one for one in known if one is not None}:
        index = torch.tensor([place for place, one in enumerate(known) if one == config])
        sides = held_out.sides[index.to(held_out.sides.device)]
        rewards, mask = segments.rewards[sides].cpu(), segments.mask[sides].cpu()
        returns = teachers.segment_returns(rewards, mask, held_out.targets.cpu()[index], config.discount)
        made[index] = teachers.preference(returns, config, scale)
    return made


def _accuracy(held_out: Labelled, likely: Tensor, facts: Mapping[str, Any]) -> dict[str, Any]:
    """How often the model prefers what labels prefer; what is expected is over the teacher's chance.

    Ties are left out, and labels about an agent that is away in both segments, which a teacher draws by lot.
    """
    decided = ((held_out.values != 0.5) & held_out.there).cpu()
    first, likely = (held_out.values == 1.0).cpu()[decided], likely.cpu()[decided]
    right = ((likely > 0.5) == first) & (likely != 0.5)
    count, hits = len(right), int(right.sum())
    said: dict[str, Any] = {"labels": count, "accuracy": hits / count, "interval": list(wilson(hits, count))}
    said |= {"expected": None, "bayes": None, "share_of_bayes": None}
    chance = _likelihoods(held_out, facts)
    if chance is not None:
        chance = chance[decided]
        said["expected"] = float(torch.where(likely > 0.5, chance, 1 - chance).mean())
        said["bayes"] = float(torch.maximum(chance, 1 - chance).mean())
        if said["bayes"] > 0.5:
            said["share_of_bayes"] = (said["expected"] - 0.5) / (said["bayes"] - 0.5)
    return said


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, 1927)."""
    share, room = hits / count, TAIL**2 / count
    middle = (share + room / 2) / (1 + room)
    half = TAIL / (1 + room) * math.sqrt(share * (1 - share) / count + room / (4 * count))
    return middle - half, middle + half


def _losses(held_out: Labelled, margins: Annotated[Tensor, "member label"], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Mean -log likelihood in nats: of the members' mean probability, of each member, of chance, and the least."""
    likely = torch.sigmoid(margins).mean(0).clamp(1e-7, 1 - 1e-7)
    values = held_out.values
    whole = -(values * likely.log() + (1 - values) * (1 - likely).log())
    each = bradley_terry(margins, values.expand_as(margins)).mean(-1)
    chance = _likelihoods(held_out, facts)
    least = None
    if chance is not None:
        # Ties are no matter of chance: the teacher calls what is near enough equal, at which one half loses least.
        chance = chance.masked_fill((values == 0.5).cpu(), 0.5)
        least = float(binary_entropy(chance).mean())
    return {"held_out": float(whole.mean()), "members": each.tolist(), "chance": math.log(2), "bayes": least}


def _calibration(held_out: Labelled, likely: Tensor) -> dict[str, Any]:
    """How often labels say what is foretold, by how surely it is; each label is read in both orders of its pair."""
    both = torch.cat([likely, 1 - likely]).double().cpu()
    values = torch.cat([held_out.values, 1 - held_out.values]).double().cpu()
    place = (both * BINS).long().clamp(max=BINS - 1)
    counts = torch.zeros(BINS, dtype=torch.float64).index_add_(0, place, torch.ones_like(both))
    said = torch.zeros_like(counts).index_add_(0, place, both) / counts
    seen = torch.zeros_like(counts).index_add_(0, place, values) / counts
    error = ((said - seen).abs() * counts).nansum() / counts.sum()
    return {
        "counts": (counts / 2).tolist(),
        "predicted": said.tolist(),
        "observed": seen.tolist(),
        "expected_calibration_error": float(error),
    }


def _beside_the_true(model: RewardModel, split: Split, data: Dataset, stays: bool) -> dict[str, Any]:
    """Learnt rewards beside the environment's on episodes of which no pair was learnt from, and where members part."""
    key = key_of(data)
    unseen = torch.tensor([n for n in range(len(data.lengths)) if (key, n) not in split.seen], dtype=torch.int64)
    if not len(unseen):
        nothing = {"episodes": 0, "team": None, "agents": None, "steps": None}
        return {"true_returns": nothing, "unsure": {}, "unevenness": None}
    numbers = evenly(unseen, MOST_EPISODES)
    buffer = TransitionBuffer(data, episodes=numbers, state=False, stays=stays)
    longest = int(data.lengths[numbers].max())
    # As many whole episodes at a time as fit beside each other.
    several = max((1 << 18) // longest, 1)
    parts = []
    for first in torch.split(buffer.first, several):
        segments = buffer.segments(first, longest)
        assert segments.mask is not None
        mean, spread = mean_and_spread(model.predict(segments.to(model.mean.device)))
        parts.append((mean.cpu(), spread.cpu(), segments.rewards, segments.mask))
    mean, spread, paid, mask = (torch.cat(part) for part in zip(*parts, strict=True))
    paid = paid.masked_fill(~mask, 0.0)
    return {
        "true_returns": _correlations(mean, paid, mask),
        "unsure": _unsure(mean, spread, mask, numbers),
        "unevenness": float(smoothness(mean, mask).mean()),
    }


def _correlations(mean: Tensor, paid: Tensor, mask: Tensor) -> dict[str, Any]:
    returns, true = mean.sum(1).double(), paid.sum(1).double()
    counted = mask.any(-1)
    return {
        "episodes": len(returns),
        "team": both_correlations(returns.sum(-1), true.sum(-1)),
        "agents": [both_correlations(returns[:, i], true[:, i]) for i in range(returns.shape[-1])],
        "steps": both_correlations(mean.sum(-1)[counted], paid.sum(-1)[counted]),
    }


def both_correlations(one: Annotated[Tensor, "row"], other: Annotated[Tensor, "row"]) -> dict[str, float]:
    """Rank correlation and Pearson's; NaN where either series never changes."""
    one, other = one.double(), other.double()
    straight = torch.corrcoef(torch.stack([one, other]))[0, 1] if len(one) > 1 else torch.tensor(math.nan)
    return {"rank": spearman(one, other), "pearson": float(straight)}


def _unsure(mean: Tensor, spread: Tensor, mask: Tensor, numbers: Tensor) -> dict[str, Any]:
    """The members' deviation in deviations of the learnt reward: of whom, when, and in which episodes."""
    scale = float(mean[mask].std().clamp(min=1e-12))
    spread = spread / scale
    steps = mask.any(-1).sum(-1, keepdim=True)
    part = (torch.arange(mask.shape[1]) * BINS // steps.clamp(min=1)).clamp(max=BINS - 1)
    parts = [spread[mask & (part == number).unsqueeze(-1)] for number in range(BINS)]
    by_episode = (spread * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)
    worst = by_episode.argsort(descending=True)[:EXAMPLES]
    return {
        "spread": float(spread[mask].mean()),
        "reward_deviation": scale,
        "by_agent": [float(spread[..., i][mask[..., i]].mean()) for i in range(mask.shape[-1])],
        "by_tenth_of_the_episode": [float(values.mean()) if len(values) else None for values in parts],
        "episodes": [{"episode": int(numbers[row]), "spread": float(by_episode[row])} for row in worst.tolist()],
    }


def _reasons(report: Mapping[str, Any]) -> list[str]:
    """Why not to trust the model; comparisons are written so that what is not finite counts against it."""
    reasons = []
    accuracy = report["accuracy"]
    low, high = accuracy["interval"]
    if not low > 0.5:
        reasons.append(
            f"it is no better than chance: it tells {accuracy['accuracy']:.3f} of {accuracy['labels']:,} held-out "
            f"labels (95 % interval {low:.3f} to {high:.3f})"
        )
    deviation = report["unsure"].get("reward_deviation")
    if deviation is not None and not deviation > 1e-6:
        reasons.append("it pays every step alike")
    return reasons
