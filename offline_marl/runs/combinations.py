"""Checks that a run's settings are compatible with each other and with the algorithm. Imports no torch."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from offline_marl.core.config import ConfigError
from offline_marl.runs.config import LearnFlags, RunConfig
from offline_marl.runs.online_model_flags import ROUND_FIELDS
from offline_marl.runs.teacher_combinations import refuse_teacher
from offline_marl.runs.unused_flags import refuse_unused

if TYPE_CHECKING:
    from offline_marl.core.types import Needs

BUDGETS = {"steps", "environment_steps"}
"""Lengths of a run, of which one is given."""
REPLAY_FIELDS = ("updates_per_step", "warmup_steps", "replay_capacity", "replay_copies", "prefill")
"""Settings of runs that replay."""
ENGINE_FIELDS = ("learners", "code", "patience", "stragglers", "straggler_delay", "ray_address")
"""Settings of runs whose gradients other processes compute."""
ASKING_FIELDS = ("engine", "patience", "stragglers", "straggler_delay", "ray_address")
"""Those of engines and of how learners are asked, whom a replay of a log does not ask."""
ALPHA = 2.5
"""Default of `alpha`, which policies that climb Q as it is have, too, and never read."""


def refuse_mixtures(config: RunConfig, needs: Needs) -> None:
    """Refuse settings of where rows come from that contradict each other or the algorithm.

    Raises:
        ConfigError: Says which, and what would be right.
    """
    name, share = config.algorithm, config.real_fraction
    _refuse_engine(config)
    _refuse_compiling(config)
    shares = (share, config.real_fraction_end)
    if config.dataset is None and not learns_alone(needs):
        raise ConfigError(f"{name} learns from recorded data: give it --dataset; acting alone demonstrates nothing.")
    if config.dataset is None and config.settings.get("clip_target"):
        raise ConfigError("--clip-target needs recorded data, whose best return is the bound: leave it away.")
    if needs.view == "pairs" and config.reward_model is not None:
        raise ConfigError(f"{name} learns from comparisons themselves: it takes no --reward-model.")
    if config.reference_policy is not None and config.reward_model is None:
        raise ConfigError("--reference-policy adds to a learned reward: it needs a --reward-model.")
    if not config.reference_clip[0] <= 0.0 <= config.reference_clip[1]:
        raise ConfigError("--reference-clip holds the least of a bonus, at most 0, and the most, at least 0.")
    if needs.view == "pairs" and config.preferences is None:
        raise ConfigError(f"{name} learns from comparisons: give it --preferences, the folder of labelled pairs.")
    if needs.view != "pairs" and config.preferences is not None:
        raise ConfigError(
            f"{name} learns from rewards, not from comparisons: o-mapl is the one that takes --preferences."
        )
    refuse_teacher(config, needs, plays(config, needs))
    _refuse_online(config, needs)
    _refuse_rounds(config, needs)
    if needs.origin != "data" and shares != (None, None):
        raise ConfigError(f"{name} learns from its own episodes alone: it takes no --real-fraction.")
    if needs.origin == "environment" and config.world_model is not None:
        raise ConfigError(f"{name} learns in the environment itself: moma-ppo is the one that takes --world-model.")
    if needs.origin == "data" and config.world_model is None and not config.online and shares != (None, None):
        raise ConfigError(
            "--real-fraction needs a --world-model, or data and --online: without them all rows are of one kind."
        )
    if config.settings.get("conservative_rows") == "combo" and config.world_model is None:
        raise ConfigError("conservative_rows = combo holds Q down on imagined rows: it needs a --world-model.")
    if share == "auto" and config.real_fraction_end is not None:
        raise ConfigError("--real-fraction auto follows the number of imagined rows: it takes no --real-fraction-end.")


def replays(config: RunConfig, needs: Needs) -> bool:
    """Whether a run plays its environment and learns off-policy from what it keeps."""
    return needs.origin == "data" and needs.view != "pairs" and (config.dataset is None or config.online)


def imagines_live(config: RunConfig, needs: Needs) -> bool:
    """Whether a run plays its environment and learns in a world model that is fitted to what it plays."""
    return needs.origin == "model" and config.dataset is None


def learns_alone(needs: Needs) -> bool:
    """Whether a learner can do without recorded data, in an environment."""
    if needs.origin == "data":
        return needs.recorded != "only" and needs.view != "pairs"
    return True


def plays(config: RunConfig, needs: Needs) -> bool:
    """Whether a run acts in its environment to learn."""
    return needs.origin == "environment" or replays(config, needs) or imagines_live(config, needs)


def _refuse_online(config: RunConfig, needs: Needs) -> None:
    name = config.algorithm
    if not replays(config, needs) and not imagines_live(config, needs):
        _refuse_replay_fields(config, needs)
        return
    if needs.recorded == "only":
        raise ConfigError(f"{name} clones what was recorded, and acting demonstrates nothing: it takes no --online.")
    if config.dataset is None and config.world_model is not None and needs.origin == "data":
        raise ConfigError("A --world-model is fitted to recorded data: give --dataset too, and --online.")
    if config.dataset is None and config.prefill:
        raise ConfigError("--prefill fills the replay with recorded episodes: give --dataset and --online.")
    shares = (config.real_fraction, config.real_fraction_end)
    if config.prefill and config.world_model is None and shares != (None, None):
        raise ConfigError(
            "--prefill puts the data into the replay, from which all rows are drawn: it takes no --real-fraction."
        )


def _refuse_rounds(config: RunConfig, needs: Needs) -> None:
    """Refuse a schedule of rounds where there are none, and what has no place in them."""
    name = config.algorithm
    if not imagines_live(config, needs):
        if given := _given(config, ROUND_FIELDS):
            raise ConfigError(
                f"--{given[0].replace('_', '-')} is for runs that play and learn in a world model of that: marie or "
                "moma-ppo with --environment and without --dataset."
            )
        return
    if _given(config, ("updates_per_step",)):
        raise ConfigError(f"{name} plays in rounds: give --round-steps and --imagined-updates, no --updates-per-step.")
    if config.teacher is not None or config.explore_steps:
        what = "--teacher" if config.teacher is not None else "--explore-steps"
        raise ConfigError(f"{name} learns from imagined episodes, which nobody compares or counts: leave {what} away.")


def _given(config: RunConfig, names: Iterable[str]) -> list[str]:
    """Those of the fields that are not what they are by default."""
    return [name for name in names if getattr(config, name) != RunConfig.model_fields[name].default]


def _refuse_replay_fields(config: RunConfig, needs: Needs) -> None:
    """Refuse settings of a replay where there is none."""
    given = list(REPLAY_FIELDS)
    if needs.view == "pairs":
        why = f"{config.algorithm} learns from comparisons of what was recorded, and plays nothing"
        given += ["online", "environment_steps"]
    elif needs.origin == "data":
        why = "Without --online a run on data plays nothing"
        given.append("environment_steps")
    elif needs.origin == "model":
        why = f"{config.algorithm} with --dataset learns in a world model of that alone, and plays nothing"
        given += ["online", "environment_steps"]
    else:
        why = f"{config.algorithm} learns on-policy, from fresh episodes alone, and replays nothing"
        given += ["online"]
    if given := _given(config, given):
        raise ConfigError(f"{why}: it takes no {' and no '.join('--' + field.replace('_', '-') for field in given)}.")


def layered(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of several layers, the strongest last; of the two budgets that of the strongest layer with either."""
    merged: dict[str, Any] = {}
    for layer in layers:
        if layer.keys() & BUDGETS:
            merged = {name: value for name, value in merged.items() if name not in BUDGETS}
        merged |= layer
    return merged


def with_budget(config: RunConfig, needs: Needs, given: Iterable[str]) -> RunConfig:
    """The settings with as many updates as `environment_steps` pay for, where these are given.

    Args:
        config: The settings.
        needs: The algorithm's.
        given: Names of the fields that were given.

    Raises:
        ConfigError: Both are given and disagree, or nothing is left for an update.
    """
    steps = config.environment_steps
    if steps is None or not plays(config, needs):
        return config
    if imagines_live(config, needs):
        updates = max(steps - config.first_steps, 0) // config.round_steps * config.imagined_updates
        before = f": the first comes after {config.first_steps + config.round_steps:,}"
    elif replays(config, needs):
        updates = int((steps - config.first_steps) * config.updates_per_step + 1e-9)
        before = f" after {config.first_steps:,} of --warmup-steps" if config.first_steps else ""
    else:
        batch_size = config.settings.get("batch_size", 1)
        updates, before = steps // batch_size, f" of {batch_size:,} steps"
    if "steps" in given and config.steps != updates:
        raise ConfigError("--steps counts updates and --environment-steps what is played: give exactly one of both.")
    if updates < 1:
        raise ConfigError(f"--environment-steps {steps:,} pays for no update{before}: give more.")
    return config.model_copy(update={"steps": updates})


def _refuse_engine(config: RunConfig) -> None:
    """Refuse settings of an engine where there is none, or of another one."""
    if config.engine is None and config.answers_of is None:
        given = [name for name in ENGINE_FIELDS if getattr(config, name) != RunConfig.model_fields[name].default]
        if given:
            raise ConfigError(f"--{given[0].replace('_', '-')} is for runs with an --engine: local or ray.")
    if config.engine != "ray" and config.ray_address is not None:
        raise ConfigError("--ray-address is for --engine ray.")


def _refuse_compiling(config: RunConfig) -> None:
    """Refuse compiled code where nothing is compiled, or other processes compute."""
    if config.cuda_graphs and not config.compile:
        raise ConfigError("--cuda-graphs replays compiled code: give it --compile, too.")
    if config.compile and (config.engine is not None or config.answers_of is not None):
        raise ConfigError(
            "--compile is for updates of this process: with --engine or --answers-of others compute them."
        )


def refuse_beginning(config: RunConfig, needs: Needs) -> None:
    """Refuse to begin a run that could learn nothing sound, or whose scores would mean nothing.

    One that began before these were refused still opens.

    Raises:
        ConfigError: Says what would be right.
    """
    name, rows = config.algorithm, config.settings.get("batch_size", 1)
    if config.reference is not None and not config.reference[0] < config.reference[1]:
        random, expert = config.reference
        raise ConfigError(f"--reference {random:g},{expert:g} should be random,expert, the expert above random play.")
    refuse_unused(config, needs)
    if config.answers_of is not None and (asking := _given(config, ASKING_FIELDS)):
        flags = ", ".join("--" + field.replace("_", "-") for field in asking)
        raise ConfigError(f"--answers-of replays a log and asks no learner: leave {flags} away.")
    if config.dataset is None and (config.real_fraction, config.real_fraction_end) != (None, None):
        raise ConfigError(
            "--real-fraction is a share of recorded rows, and a run without --dataset has none: leave it away."
        )
    if needs.recorded == "only" and config.world_model is not None:
        raise ConfigError(
            f"{name} clones what was recorded, and imagined actions are no demonstrations: it takes no --world-model."
        )
    shares = [share for share in (config.real_fraction, config.real_fraction_end) if isinstance(share, float)]
    _refuse_lost_share(config, needs, shares, rows)
    beside_live = replays(config, needs)  # live rows show what was done as well
    if needs.recorded != "none" and not beside_live and any(round(share * rows) < 1 for share in shares):
        raise ConfigError(
            f"{name} learns what was done from recorded rows, of which batches must hold some: "
            "raise --real-fraction (and --real-fraction-end) above 0, or --batch-size where that is small."
        )
    if config.settings.get("weighting") == "agent" and config.settings.get("mixer") == "unconstrained":
        raise ConfigError(
            "weighting = agent weighs by each agent's own value, which an unconstrained mixer may take with either "
            "sign or not at all: it needs mixer = monotonic or vdn."
        )
    undivided = name if name == "omar" else "policy = sac" if config.settings.get("policy") == "sac" else None
    if undivided and config.settings.get("alpha", ALPHA) != ALPHA:
        raise ConfigError(
            f"--alpha weighs Q that is divided by its size; {undivided} climbs Q as it is: leave it away."
        )


def _refuse_lost_share(config: RunConfig, needs: Needs, shares: list[float], rows: int) -> None:
    """Refuse a share of recorded rows beside others that no batch comes to: the whole run would have none, or all.

    Beside imagined rows the share is of real ones, recorded or live; learners that clone are given one in any case.

    Raises:
        ConfigError: Says what would be right.
    """
    imagines, beside_live = config.world_model is not None, replays(config, needs)
    if not (imagines or beside_live) or config.real_fraction is None:
        return
    few, many = ("recorded" if not beside_live else "real", "imagined") if imagines else ("recorded", "live")
    counts = {round(share * rows) for share in shares}
    given = imagines and needs.recorded != "none"
    lost = few if counts == {0} and any(shares) and not given else None
    lost = many if counts == {rows} and min(shares) < 1 else lost
    if lost is not None:
        raise ConfigError(
            f"--real-fraction {config.real_fraction:g} of a batch of {rows:,} leaves no {lost} row: raise "
            f"--batch-size, or say {0 if lost == few else 1} where that is meant."
        )


def refuse_other_scale(what: str, then: LearnFlags, dataset: str | None, action_scale: float) -> None:
    """Refuse what learnt from the same data with its actions on another scale; of other data, only warn.

    Args:
        what: What is taken, in words.
        then: The settings that it learnt with.
        dataset: What is learnt from now; None, here and in `then`, where episodes are played, which need no scale.
        action_scale: What recorded actions are divided by now.

    Raises:
        ConfigError: Says both scales.
    """
    if None in (dataset, then.dataset) or then.action_scale == action_scale:
        return
    if then.dataset == dataset:
        raise ConfigError(
            f"The {what} learnt with --action-scale {then.action_scale:g}, which the run should have too, not "
            f"{action_scale:g}: its actions would mean something else."
        )
    print(
        f"warning: the {what} learnt from other data with --action-scale {then.action_scale:g}, and here it is "
        f"{action_scale:g}: the actions should mean the same.",
        file=sys.stderr,
    )
