"""Refusals of settings of learned rewards and of exploration that contradict each other. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from offline_marl.core.config import ConfigError
from offline_marl.runs.config import RunConfig
from offline_marl.runs.teacher_flags import TeacherFlags

if TYPE_CHECKING:
    from offline_marl.core.types import Needs

NEED_TEACHER = tuple(name for name in TeacherFlags.model_fields if not name.startswith(("explore_", "teacher")))
"""Settings that mean nothing without a teacher."""


def refuse_teacher(config: RunConfig, needs: Needs, plays: bool) -> None:
    """Refuse settings of a learned reward and of exploration that contradict each other or the rest.

    Raises:
        ConfigError: Says which, and what would be right.
    """
    if config.teacher is None:
        _refuse_without_teacher(config)
    if config.teacher is None and not config.explore_steps:
        return
    what = "--teacher asks about what a run plays" if config.teacher else "--explore-steps pays for what a run sees new"
    name = config.algorithm
    if config.dataset is not None:
        advice = "label it first (prefs pairs), and give --reward-model" if config.teacher else "leave one of both away"
        raise ConfigError(f"{what}, and --dataset is recorded already: {advice}.")
    if not plays:
        raise ConfigError(f"{what}: {name} does not learn in an --environment.")
    if config.engine is not None or config.answers_of is not None:
        which = "--engine" if config.engine is not None else "--answers-of"
        raise ConfigError(f"{what}, and {which} learns from what its own learners draw: leave one of both away.")
    if config.reward_model is not None:
        raise ConfigError(f"{what}, and --reward-model pays for it already: leave one of both away.")
    if config.settings.get("reward_scale") == "range":
        raise ConfigError(
            "--reward-scale range measures recorded returns, which no reward has that is yet to be learnt."
        )
    if config.teacher is not None:
        _refuse_questions(config)


def _refuse_without_teacher(config: RunConfig) -> None:
    fields = type(config).model_fields
    given = [name for name in (*NEED_TEACHER, "teacher_settings") if getattr(config, name) != _default(fields, name)]
    if config.explore_steps:
        given = [name for name in given if name != "reset_critic"]
    if given:
        raise ConfigError(f"--{given[0].replace('_', '-')} is for runs with a --teacher: simulated or human.")
    if config.explore_neighbours != fields["explore_neighbours"].default and not config.explore_steps:
        raise ConfigError("--explore-neighbours measures what --explore-steps pay for: give these too.")


def _refuse_questions(config: RunConfig) -> None:
    if config.reward_offset != type(config).model_fields["reward_offset"].default:
        raise ConfigError("--reward-offset is for a --reward-model; labels of episodes that end tell where 0 is.")
    if config.teacher == "human" and config.teacher_settings:
        raise ConfigError("--teacher-settings make up a simulated teacher; people are as they are.")
    if config.teacher == "human" and config.query_target != "team":
        raise ConfigError("--query-target is the simulated teacher's: people say themselves of whom they speak.")
    if config.teacher == "simulated" and not config.query_wait:
        raise ConfigError("A simulated teacher answers at once: --no-query-wait is for --teacher human.")
    if config.reward_bonus and config.reward_fit.get("recurrent"):
        raise ConfigError("--reward-bonus asks the reward model about single steps, which a recurrent one cannot tell.")
    if config.query_every and config.query_schedule != "linear":
        raise ConfigError("--query-every stands in place of a schedule: leave --query-schedule away.")


def _default(fields: Any, name: str) -> Any:
    return fields[name].get_default(call_default_factory=True)
