from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from worlds import reacher_recording, world

from offline_marl.core.config import ConfigError, build
from offline_marl.core.types import DataError
from offline_marl.datasets.episode_index import episode_sums
from offline_marl.datasets.files import save_data
from offline_marl.datasets.mixing import MixRecipe, mix

SETS: dict[str, Callable[[], Any]] = {
    "left": lambda: about(reacher_recording(20, seed=1), sha256="1" * 64, licence="MIT", versions={"mujoco": "3.1"}),
    "dir/right": lambda: about(
        reacher_recording(10, seed=2), sha256="2" * 64, licence="MIT", versions={"mujoco": "3.1"}
    ),
    "newer": lambda: about(reacher_recording(10, seed=3), licence="Apache-2.0", versions={"mujoco": "3.2"}),
    "measured": lambda: about(reacher_recording(10), settings={}, reference={"random": 0.0, "expert": 1.0}),
    "odd": lambda: about(reacher_recording(10), licence=[1], versions="new", name=3, actors=[3], who=[1]),
    "ant": lambda: about(reacher_recording(10), scenario="ant"),
    "short": lambda: about(reacher_recording(10), max_steps=8),
    "team": lambda: world("continuous"),
    "other team": lambda: world("discrete"),
}


def about(data: Any, **more: Any) -> Any:
    return replace(data, metadata={**data.metadata, **more})


def mixed(*parts: dict[str, Any], **more: Any) -> Any:
    return mix(build(MixRecipe, {"parts": parts, **more}), lambda name: SETS[name]())


def test_a_mixture_says_where_each_episode_came_from() -> None:
    made = mixed({"data": "left", "episodes": 5}, {"data": "dir/right", "share": 0.5}, seed=3)
    told = made.data.metadata
    assert made.warnings == () and len(made.data.lengths) == 10
    assert sorted(told["origin_parts"]) == [0] * 5 + [1] * 5 != told["origin_parts"]
    sets = [SETS[part["data"]]() for part in ({"data": "left"}, {"data": "dir/right"})]
    for place, (part, episode) in enumerate(zip(told["origin_parts"], told["origin_episodes"], strict=True)):
        assert torch.equal(
            made.data.rewards[8 * place : 8 * place + 8], sets[part].rewards[8 * episode : 8 * episode + 8]
        )
    assert len(set(zip(told["origin_parts"], told["origin_episodes"], strict=True))) == 10, "without replacement"
    assert [part["sha256"][0] for part in told["parts"]] == ["1", "2"]
    assert [part["data"] for part in told["parts"]] == ["left", "right"], "no folder"
    assert told["recipe"]["parts"][1] == {"data": "right", "episodes": None, "share": 0.5, "returns": [0.0, 1.0]}
    assert told["licence"] == "MIT" and told["versions"] == {"mujoco": "3.1"} and told["scenario"] == "reacher"


def test_equal_recipes_make_equal_files(tmp_path: Any) -> None:
    parts = ({"data": "left", "share": 0.3}, {"data": "dir/right"})
    sums = [save_data(tmp_path / "x.safetensors", mixed(*parts, seed=seed).data) for seed in (1, 1, 2)]
    assert sums[0] == sums[1] != sums[2]


def test_only_episodes_between_the_quantiles_of_returns() -> None:
    data = SETS["left"]()
    returns = episode_sums(data.rewards, data.lengths)
    made = mixed({"data": "left", "returns": [0.75, 1.0]}, shuffle=False)
    taken = made.data.metadata["origin_episodes"]
    assert taken == sorted(returns.argsort()[-len(taken) :].tolist()) and 5 <= len(taken) <= 6


def test_other_versions_and_licences_are_warned_of() -> None:
    made = mixed({"data": "left"}, {"data": "newer"})
    assert made.data.metadata["licence"] == "MIT AND Apache-2.0"
    assert made.data.metadata["versions"] == {"mujoco": "3.1, 3.2"}
    assert [warning.partition("(")[0] for warning in made.warnings] == [
        "The parts have different licences ",
        "The parts were recorded with different versions of mujoco: 3.1, 3.2.",
    ]


def test_metadata_of_anybody_break_nothing() -> None:
    told = mixed({"data": "odd"}, {"data": "left"}).data.metadata
    assert told["parts"][0]["name"] == "odd" and "licence" not in told and "who" not in told


def test_other_references_are_warned_of_and_left_out() -> None:
    made = mixed({"data": "measured"}, {"data": "measured"})
    assert made.data.metadata["reference"]["expert"] == 1.0 and made.warnings == ()
    made = mixed({"data": "left"}, {"data": "measured"})
    assert "reference" not in made.data.metadata
    assert "The parts have different reference scores: the mixture has none." in made.warnings


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (["left", "ant"], "left and ant cannot be mixed: their scenario is reacher and ant."),
        (["left", "short"], "left and short cannot be mixed: their max_steps is None and 8."),
        (["left", "team"], "left is of one body and team is split among agents: they cannot be mixed."),
        (["team", "other team"], "team and other team cannot be mixed: they are of different teams."),
    ],
)
def test_what_does_not_go_together_is_refused(parts: list[str], said: str) -> None:
    with pytest.raises(DataError) as caught:
        mixed(*({"data": name} for name in parts))
    assert str(caught.value) == said


def test_too_many_episodes_are_refused() -> None:
    with pytest.raises(DataError, match="left has 20 episodes, the recipe asks for 21"):
        mixed({"data": "left", "episodes": 21})
    with pytest.raises(DataError, match=r"left has \d episodes between the quantiles \[0.9, 1.0\] of its returns, the"):
        mixed({"data": "left", "episodes": 10, "returns": [0.9, 1.0]})


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"parts": []}, "parts"),
        ({}, "'parts' is missing"),
        ({"parts": [{"data": "x", "episodes": 1, "share": 0.5}]}, "says 'episodes' or 'share', not both"),
        ({"parts": [{"data": "x", "share": 0}]}, "parts.0.share"),
        ({"parts": [{"data": "x", "returns": [0.9, 0.1]}]}, "should not fall"),
        ({"parts": [{"data": "x", "returns": [0.9, 2]}]}, "parts.0.returns.1"),
        ({"parts": [{"dat": "x"}]}, "parts.0.dat"),
        ({"parts": [{"data": "x"}], "sed": 1}, "Unknown field 'sed'"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(recipe: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build(MixRecipe, recipe)
