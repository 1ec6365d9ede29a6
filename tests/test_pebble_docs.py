"""docs/pebble.md: every flag that it names exists, every setting is told of, its defaults are the code's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from offline_marl.algorithms.base import algorithms
from offline_marl.algorithms.presets import preset_names, read_preset
from offline_marl.core.config import build
from offline_marl.launch.cli.evaluate import EvaluateFlags
from offline_marl.preferences.reward_model import RewardModelConfig
from offline_marl.preferences.teachers import TeacherConfig
from offline_marl.runs.config import RunFlags
from offline_marl.runs.teacher_flags import TeacherFlags
from offline_marl.tasks.environment_tasks import find_environment_task
from offline_marl.training.preferences.course import REFRESH_EVERY
from offline_marl.training.preferences.live_reward import MOST_VISITED

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "pebble.md").read_text()
KNOWN = {*RunFlags.model_fields, *EvaluateFlags.model_fields, "out", "preset", "once", "parallel", "video"}
KNOWN |= {field for name in ("masac", "ma-ppo") for field in algorithms.get(name).Config.model_fields}


def test_every_flag_that_is_named_exists() -> None:
    named = {flag.replace("-", "_") for flag in re.findall(r"--([a-z][a-z-]+)", PAGE)}
    unknown = {flag for flag in named if flag not in KNOWN and flag.removeprefix("no_") not in KNOWN}
    assert not unknown


def test_every_setting_of_a_teacher_is_told_of() -> None:
    flags = {name for name in TeacherFlags.model_fields if f"--{name.replace('_', '-')}" not in PAGE}
    assert flags <= {"query_wait", "reset_critic"}
    assert "--no-query-wait" in PAGE and "--no-reset-critic" in PAGE
    settings = {f for group in re.findall(r"--(?:teacher-settings|reward-fit) ([a-z_=.,0-9e-]+)", PAGE)
                for f in re.findall(r"([a-z_]+)=", group)}  # fmt: skip
    assert settings <= set(RewardModelConfig.model_fields) | set(TeacherConfig.model_fields)


def test_numbers_of_the_page_are_the_defaults() -> None:
    fields = TeacherFlags.model_fields
    for name in ("queries", "queries_per_round", "query_recent", "query_length", "reward_updates", "explore_steps"):
        assert re.search(rf"`--{name.replace('_', '-')}`[^.;]*?\({fields[name].default:,}\)", PAGE), name
    assert f"`--reward-accuracy` ({str(fields['reward_accuracy'].default).lstrip('0')})" in PAGE
    assert f"`--explore-neighbours` ({fields['explore_neighbours'].default})" in PAGE
    assert f"Every {REFRESH_EVERY:,} steps" in PAGE and f"more than {MOST_VISITED:,} steps" in PAGE


@pytest.mark.parametrize("name", [name for name in preset_names("masac") if name.startswith(("cleanrlhf", "pebble"))])
def test_presets_of_learned_rewards_are_whole_and_named(name: str) -> None:
    settings = read_preset("masac", name)
    build(RewardModelConfig, settings["reward_fit"])
    build(TeacherConfig, settings.get("teacher_settings", {}))
    short = name.removeprefix("cleanrlhf-synthetic-").removeprefix("cleanrlhf-human-")
    assert f"`{short}`" in PAGE or f"--preset {name}" in PAGE


def test_environments_of_the_presets_exist() -> None:
    for path in (ROOT / "offline_marl" / "presets" / "masac").glob("cleanrlhf-*.toml"):
        named = re.search(r"--environment (\w+)", path.read_text())
        assert named is not None and find_environment_task(named[1], permit=str).name == named[1]
