"""Report of a world model's accuracy on held-out episodes, in numbers and a verdict; it ends every fit.

It depends on nothing but the weights and the held-out episodes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from offline_marl.core.seeding import seeded_globally
from offline_marl.core.small_files import read_table
from offline_marl.datasets.buffer import Rows, TransitionBuffer
from offline_marl.runs.config import RunFlags
from offline_marl.runs.folder import write_json
from offline_marl.training.models.foresight import Foreseen, PerStep, evenly, look_far, look_near, rank_draws
from offline_marl.worldmodels.base import WorldModel
from offline_marl.worldmodels.facts import LEAST_STD, Facts, Joint

MOST_ROWS = 4_096
"""Held-out transitions of which one step is foreseen."""
MOST_STARTS, MOST_STEPS = 256, 50
"""Held-out rows from which the model runs on its own predictions, and for how long."""
EARLY = 10
"""Steps over which the model must err less than "nothing changes" does; the default horizon of training."""
LEAST_CORRELATION = 0.1
"""Rank correlation of spread and error below which the spread says nothing."""
RANKED_ROWS, DRAWS = 512, 19
"""Held-out transitions of which one step is drawn many times, of models that draw and tell no deviation."""
COVERAGES = tuple(tenth / 10 for tenth in range(1, 10))
QUANTILES = (0.5, 0.9, 0.95, 0.99, 1.0)
SPREAD, CUTOFF = (RunFlags.model_fields[name].default for name in ("spread", "cutoff"))
"""Default measure of spread and default cut-off of training."""


@dataclass(frozen=True, slots=True)
class Cloud:
    """Projection of held-out observations onto their first two principal components."""

    points: Annotated[Tensor, "row 2"]
    """Along the first two principal components of the standardised joint coordinates."""
    shares: list[float]
    """Share of the variance along each."""
    spread: Rows | None


def write_report(folder: Path, model: WorldModel, held_out: TransitionBuffer) -> tuple[dict[str, Any], Cloud]:
    """Write `report.json` into a model's folder.

    Args:
        folder: Where to.
        model: Its random numbers go on afterwards as if it had never been asked.
        held_out: Episodes that it did not learn from; the window is the model's.

    Returns:
        The content of the file, and what a picture shows beside it.
    """
    report, cloud = measure_model(model, held_out)
    write_json(folder / "report.json", report)
    return report, cloud


def read_report(folder: Path) -> dict[str, Any] | None:
    """The report in a model's folder; None if there is none that can be read."""
    try:
        report = read_table(folder / "report.json", finite=False)
    except (OSError, ValueError):
        return None
    return report if {"trusted", "reasons"} <= report.keys() else None


def verdict(report: Mapping[str, Any] | None) -> str:
    """Whether a model is to be trusted, and why not, as the end of a sentence."""
    if report is None:
        return "not to be trusted: it has no report, so that nobody knows how it does on held-out episodes"
    trusted, reasons = report["trusted"], report["reasons"]
    if not isinstance(trusted, bool) or not isinstance(reasons, list) or any(type(each) is not str for each in reasons):
        return "not to be trusted: its report was damaged or edited"
    return "to be trusted" if trusted else f"not to be trusted: {'; '.join(reasons)}"


@torch.no_grad()
def measure_model(model: WorldModel, held_out: TransitionBuffer) -> tuple[dict[str, Any], Cloud]:
    """The content of a report, of plain finite numbers and None, and the cloud that its picture shows."""
    index = evenly(torch.arange(len(held_out), device=held_out.device), MOST_ROWS)
    state = model.generator.get_state()
    with seeded_globally(0, "report"):
        model.generator.manual_seed(0)
        near = look_near(model, held_out, index)
        far = look_far(model, held_out, MOST_STARTS, MOST_STEPS)
        draws = "token_surprisal" in near.spreads
        ranks = rank_draws(model, held_out, evenly(index, RANKED_ROWS), DRAWS) if draws else None
    model.generator.set_state(state)
    facts = model.facts
    report: dict[str, Any] = {
        "rows": {"one_step": len(near.counted), "open_loop": len(far.counted), "episodes": len(held_out.first)},
        "open_loop": _open_loop(far),
        "rewards": _rewards(near, far, facts),
        "calibration": _calibration(near, ranks, facts),
        "terminations": _terminations(near) if facts.terminates else None,
        "spread": {name: _spread(name, near, far) for name in near.spreads},
        "cutoff": _cutoff(near),
    }
    if far.allowed is not None:
        report["choices"] = {"right": _shares(far.allowed, far.counted)}
    of_kind = model.describe(held_out.transitions(index))
    report |= {"of_kind": of_kind} if of_kind else {}
    reasons = _reasons(report, near, facts)
    spread = near.spreads[SPREAD].flatten() if SPREAD in near.spreads else None
    cloud = _cloud(facts.join(held_out.transitions(index).obs), facts, spread)
    return {"trusted": not reasons, "reasons": reasons, **plain(report)}, cloud


def spearman(one: Annotated[Tensor, "row"], other: Annotated[Tensor, "row"]) -> float:
    """Rank correlation of two series, equal values sharing their mean rank; rows that are not finite are left out.

    Returns:
        From -1 to 1; NaN where either series never changes.
    """
    finite = one.isfinite() & other.isfinite()
    ranks = torch.stack([_ranks(one[finite]), _ranks(other[finite])])
    ranks = ranks - ranks.mean(-1, keepdim=True)
    return float((ranks[0] @ ranks[1]) / (ranks[0].square().sum() * ranks[1].square().sum()).sqrt())


def _ranks(values: Annotated[Tensor, "row"]) -> Annotated[Tensor, "row"]:
    _, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    ranks: Tensor = (last - (counts - 1) / 2)[place]
    return ranks


def _open_loop(far: Foreseen) -> dict[str, Any]:
    """Errors after 1, 2, ... steps, in deviations of the data."""
    return {
        "steps": list(range(1, far.counted.shape[1] + 1)),
        "rows": far.counted.sum(0).tolist(),
        "error": _curve(far.obs_error, far.counted),
        "nothing_changes": _curve(far.still_error, far.counted),
    }


def _rewards(near: Foreseen, far: Foreseen, facts: Facts) -> dict[str, Any]:
    """Errors in deviations of the rewards; `bias` is what is promised too much a step, in their own units."""
    bias = (near.reward_error * facts.reward_std)[near.paid].mean(0)
    far_bias = (far.reward_error * facts.reward_std)[far.paid].mean(0)
    return {
        "error": _rms(near.reward_error, near.paid),
        "mean_reward": _rms(near.mean_error, near.paid),
        "bias": float(bias.mean()),
        "bias_open_loop": float(far_bias.mean()),
        "bias_of_agents": bias.tolist(),
        "sum_error": _curve(far.reward_error.cumsum(1), far.paid),
        "sum_mean_reward": _curve(far.mean_error.cumsum(1), far.paid),
    }


def _calibration(near: Foreseen, ranks: Annotated[Tensor, "moment coordinate"] | None, facts: Facts) -> dict[str, Any]:
    """Share of recorded numbers inside central intervals; what never moves in the data is left out of it.

    Intervals are of predicted deviations; of models that draw instead, of the draws of next observations.
    """
    moving, paid = facts.change_std > LEAST_STD, facts.reward_std > LEAST_STD
    coverage: dict[str, Any] = {"nominal": list(COVERAGES), "next_obs": None, "rewards": None, "withheld": None}
    if ranks is not None:
        far_off = (ranks[:, moving] - DRAWS / 2).abs()
        inside = [far_off <= share * (DRAWS + 1) / 2 + 1e-6 for share in COVERAGES]
        coverage["next_obs"] = [float(each.double().mean()) for each in inside] if far_off.numel() else None
        return coverage
    if near.obs_surprise is None or near.reward_surprise is None:
        return coverage | {"withheld": "this kind of model tells no deviation, so that there is nothing to calibrate"}
    borders = torch.tensor(COVERAGES, dtype=torch.float64).erfinv() * math.sqrt(2)
    for name, surprise, counts in (("next_obs", near.obs_surprise, moving), ("rewards", near.reward_surprise, paid)):
        numbers = surprise[near.counted][:, counts].abs().cpu()
        coverage[name] = [float((numbers <= border).double().mean()) for border in borders] if numbers.numel() else None
    return coverage


def _terminations(near: Foreseen) -> dict[str, Any]:
    predicted, recorded = near.ended[near.lived], near.terminations[near.lived]
    right = int((predicted & recorded).sum())
    return {
        "predicted": float(predicted.double().mean()),
        "recorded": float(recorded.double().mean()),
        "precision": right / int(predicted.sum()) if bool(predicted.any()) else None,
        "recall": right / int(recorded.sum()) if bool(recorded.any()) else None,
    }


def _spread(name: str, near: Foreseen, far: Foreseen) -> dict[str, Any]:
    values = near.spreads[name][near.counted].double()
    return {
        "correlation_one_step": _correlation(name, near),
        "correlation_open_loop": _correlation(name, far),
        "quantiles": {str(share): float(torch.quantile(values, share)) if len(values) else None for share in QUANTILES},
    }


def _correlation(name: str, foreseen: Foreseen) -> float:
    return spearman(foreseen.spreads[name][foreseen.counted], foreseen.distance()[foreseen.counted])


def _cutoff(near: Foreseen) -> dict[str, Any]:
    """What the default cut-off of training would do on held-out rows."""
    above = None
    if SPREAD in near.spreads:
        above = float((near.spreads[SPREAD][near.counted] > CUTOFF).double().mean())
    return {"spread": SPREAD, "cutoff": CUTOFF, "share_above": above}


def _reasons(report: Mapping[str, Any], near: Foreseen, facts: Facts) -> list[str]:
    """Why not to trust the model; comparisons are written so that what is not finite counts against it."""
    reasons, rewards, loop = [], report["rewards"], report["open_loop"]
    known = [step for step, rows in enumerate(loop["rows"][:EARLY]) if rows]
    if known:
        error, still = (sum(loop[name][step] for step in known) / len(known) for name in ("error", "nothing_changes"))
        if not error < still and still > 0:
            reasons.append(
                f"its error over {_counted(len(known), 'step')} of its own predictions is {error:.3g} deviations of "
                f"the data, no less than the {still:.3g} of saying that nothing changes"
            )
    else:
        reasons.append("no held-out step shows what all agents see next, so that nothing says how it foresees that")
    if not bool(near.paid.any()):
        reasons.append("no held-out step shows all agents, so that nothing says how it foresees their rewards")
    elif not rewards["error"] < rewards["mean_reward"] and bool((facts.reward_std > LEAST_STD).any()):
        reasons.append(
            f"its rewards err by {rewards['error']:.3g} of their deviations, "
            f"no less than the {rewards['mean_reward']:.3g} of always saying the mean reward"
        )
    measured = report["spread"].get(SPREAD)
    if measured is None:
        return [*reasons, "it tells no spread, so that nothing says where it errs"]
    if not known:
        return reasons
    best = max((measured[f"correlation_{where}"] for where in ("one_step", "open_loop")), key=_or_least)
    if not best >= LEAST_CORRELATION:
        how = "one of the two never changes" if math.isnan(best) else f"their rank correlation is {best:.2f} at best"
        reasons.append(f"its spread says nothing about its error: {how}")
    return reasons


def _or_least(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _rms(errors: Annotated[Tensor, "row time number"], counted: PerStep) -> float:
    return float(errors[counted].square().mean().sqrt())


def _curve(errors: Annotated[Tensor, "row time number"], counted: PerStep) -> list[float]:
    """Root mean square at each step, over the rows whose episode still goes on."""
    squares = errors.square().mean(-1).masked_fill(~counted, 0.0)
    curve: list[float] = (squares.sum(0) / counted.sum(0)).sqrt().tolist()
    return curve


def _shares(right: PerStep, counted: PerStep) -> list[float]:
    """Share of the rows, at each step, in which all agents' choices were foreseen."""
    shares: list[float] = ((right & counted).sum(0) / counted.sum(0)).tolist()
    return shares


def _cloud(joint: Joint, facts: Facts, spread: Rows | None) -> Cloud:
    scaled = ((joint - facts.obs_mean) / facts.obs_std).double()
    scaled = scaled - scaled.mean(0)
    variances, directions = torch.linalg.eigh(scaled.T @ scaled / len(scaled))
    # Largest last; a single coordinate leaves the second axis at 0.
    points = torch.nn.functional.pad(scaled @ directions.flip(1)[:, :2], (0, max(0, 2 - len(variances))))
    shares = (variances / variances.sum().clamp(min=1e-12)).flip(0)[:2].tolist()
    return Cloud(points, [*shares, 0.0][:2], spread)


def plain(value: Any) -> Any:
    """The same for JSON: six digits, and None for what is not finite."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
