"""Refusals and warnings of settings that nothing of a run reads, so that none has no effect in silence. No torch."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from offline_marl.core.config import ConfigError
from offline_marl.runs.config import RunConfig

if TYPE_CHECKING:
    from offline_marl.core.types import Needs

IMAGINED_FIELDS = (
    "fit",
    "horizon",
    "rollouts",
    "refill_every",
    "retain",
    "start_share",
    "spread",
    "spread_weight",
    "reward_spread_weight",
    "cutoff",
    "cutoff_quantile",
    "clip_imagined",
)
"""Settings of world models and of what is imagined in them."""
MIXED_FIELDS = ("rollouts", "refill_every", "retain")
"""Those of imagined rows that are kept, to be mixed with recorded ones."""
OF_REWARDS: Mapping[str, Any] = {"clip_target": False, "reward_scale": 1.0, "reward_bias": 0.0}
"""Settings of learners about what they are paid, as they are unless given."""
OF_CHOICES: Mapping[str, Any] = {"epsilon_start": 0.0, "epsilon_end": 0.0, "epsilon_steps": 50_000}
"""Settings of epsilon-greedy exploration that `omar` inherits, as they are unless given."""
OF_VALUES: Mapping[str, Any] = {"gamma": 0.99, "tau": 0.005}
"""Settings of learners about values, which sweeps share between all of them, as they are unless given."""
OF_CONSERVATISM: Mapping[str, Mapping[str, Any]] = {
    "cql": {"cql_alpha": 3.0, "cql_samples": 20, "cql_temperature": 1.0},
    "bcq": {"bcq_threshold": 0.4},
}
"""Settings of `vdn` and `qmix` that one value of `conservative` alone reads, as they are unless given."""
OF_REWARD_FITS = ("holdout", "patience", "min_improvement", "min_labels")
"""Settings of a reward model's fit that ends by itself."""


def refuse_unused(config: RunConfig, needs: Needs) -> None:
    """Refuse settings that nothing of this run reads, so that nobody believes in an effect that they cannot have.

    Raises:
        ConfigError: Names the flag, and what it needs.
    """
    imagines = config.world_model is not None or needs.origin == "model"
    learned = config.reward_model is not None or config.teacher is not None
    parts: list[tuple[bool, tuple[str, ...], str]] = [
        (imagines, IMAGINED_FIELDS, "is of imagined episodes: it needs a --world-model"),
        (learned, ("reward_caution",), "is of a learned reward: it needs a --reward-model or a --teacher"),
        (learned, ("reward_offset",), "is of a learned reward: it needs a --reward-model"),
        (
            config.reference_policy is not None,
            ("reference_weight", "reference_clip"),
            "is of a bonus for what a policy holds likely: it needs a --reference-policy",
        ),
        (
            config.dataset is not None,
            ("action_scale", "clip_actions"),
            "is of recorded actions, and a run without --dataset has none: leave it away",
        ),
        (
            config.query_schedule == "exponential",
            ("query_rate",),
            "is of rounds that come ever more seldom: it needs --query-schedule exponential",
        ),
        (
            bool(config.explore_steps),
            ("explore_neighbours",),
            "measures what --explore-steps pay for: give these too",
        ),
    ]
    for has_part, names, needed in parts:
        for field in () if has_part else names:
            if _given(config, field):
                raise ConfigError(f"--{field.replace('_', '-')} {needed}.")
    _look_at_learner(config, needs)
    if "dataset" in config.fit:
        raise ConfigError("--fit takes no dataset: a world model is fitted to what its run learns from.")
    if needs.recorded == "only" and config.reward_model is not None:
        raise ConfigError(
            f"{config.algorithm} clones what was recorded and reads no rewards: it takes no --reward-model."
        )
    if found := [name for name in OF_REWARD_FITS if name in config.reward_fit]:
        raise ConfigError(
            f"--reward-fit {found[0]} is of a fit that ends; with a --teacher rounds end by --reward-updates and "
            "--reward-accuracy."
        )


def warn_unread(name: str, fields: Sequence[str]) -> None:
    """Warn of settings of a world model that its other settings keep from being read; sweeps share them between kinds.

    Args:
        name: Kind of the model.
        fields: Their names.
    """
    if fields:
        print(f"warning: {name} with these settings reads no {' and no '.join(fields)}.", file=sys.stderr)


def _look_at_learner(config: RunConfig, needs: Needs) -> None:
    """Refuse settings that this learner does not read, and warn of those that sweeps share between learners."""
    name, settings = config.algorithm, config.settings
    kept = [f"--{field.replace('_', '-')}" for field in MIXED_FIELDS if _given(config, field)]
    if kept and needs.origin == "model":
        print(
            f"warning: {name} imagines --batch-size steps anew for each update and keeps none to mix with others: it "
            f"reads no {' and no '.join(kept)}.",
            file=sys.stderr,
        )
    if name == "bc":
        _refuse_settings(settings, OF_REWARDS, "is of rewards, and bc reads none: leave it away")
        if unread := [f"--{field}" for field, usual in OF_VALUES.items() if settings.get(field, usual) != usual]:
            _warn_once(f"bc learns no values: it reads no {' and no '.join(unread)}.")
    if name in {"vdn", "qmix"}:
        for kind, fields in OF_CONSERVATISM.items():
            if settings.get("conservative", "none") != kind:
                _refuse_settings(settings, fields, f"is read with --conservative {kind} alone: give that too")
    if name == "omar":
        _refuse_settings(settings, OF_CHOICES, "is of choices, and omar learns in boxes alone: leave it away")


@cache
def _warn_once(text: str) -> None:
    """Warn of what all runs of a process share, which a sweep would say of each."""
    print(f"warning: {text}", file=sys.stderr)


def _given(config: RunConfig, field: str) -> bool:
    """Whether a field is another than by default."""
    return bool(getattr(config, field) != RunConfig.model_fields[field].get_default(call_default_factory=True))


def _refuse_settings(settings: Mapping[str, Any], unread: Mapping[str, Any], why: str) -> None:
    """Refuse settings of a learner that it does not read."""
    for field, default in unread.items():
        if settings.get(field, default) != default:
            raise ConfigError(f"--{field.replace('_', '-')} {why}.")
