from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from worlds import reacher_recording

from offline_marl.datasets.episodes import join_episodes, select_episodes, stale

ABOUT: dict[str, Any] = {
    "name": "six",
    "sha256": "0" * 64,
    "actors": [{"name": "a", "episodes": 2}, {"name": "b", "episodes": 3}, {"name": "c", "episodes": 1}],
    "who": [0, 1, 2, 1, 0, 1],
    "noise_levels": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5],
    "deviators": [-1, 0, 1, -1, 0, 1],
    "action_noise": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5],
}


def six(**about: Any) -> Any:
    return replace(reacher_recording(6), metadata={**ABOUT, **about})


def test_what_is_said_of_each_episode_follows_it() -> None:
    chosen = select_episodes(six(), torch.tensor([5, 3, 4]))
    about = chosen.metadata
    assert torch.equal(chosen.rewards[:8], six().rewards[40:48])
    assert [about["actors"][actor]["name"] for actor in about["who"]] == ["b", "b", "a"]
    assert {actor["name"]: actor["episodes"] for actor in about["actors"]} == {"b": 2, "a": 1}
    assert about["noise_levels"] == [0.5, 0.3, 0.4] and about["deviators"] == [1, -1, 0]
    assert about["action_noise"] == ABOUT["action_noise"], "levels to draw from, not one an episode"
    assert about["name"] == "six" and "sha256" not in about


def test_joined_actors_are_counted_once() -> None:
    other = six(actors=[{"name": "c"}, {"name": "d"}], who=[1, 1, 0, 1, 1, 1])
    about = join_episodes([six(), other], ["one", "two"], {"name": "both"}).metadata
    assert [about["actors"][actor]["name"] for actor in about["who"]] == [*"abcbab", *"ddcddd"]
    assert [actor["episodes"] for actor in about["actors"]] == [2, 3, 2, 5]
    assert about["noise_levels"] == ABOUT["noise_levels"] * 2


def test_parts_that_do_not_say_who_acted_are_actors_themselves() -> None:
    silent = replace(reacher_recording(6), metadata={})
    about = join_episodes([silent, six()], ["quiet", "loud"], {}).metadata
    assert about["actors"][0] == {"kind": "data", "name": "quiet", "episodes": 6}
    assert about["who"][:6] == [0] * 6
    assert about["noise_levels"][:6] == [None] * 6 and about["deviators"][:6] == [-1] * 6
    assert "who" not in join_episodes([silent, silent], ["a", "b"], {}).metadata


@pytest.mark.parametrize("name", ["who", "noise_levels", "deviators"])
def test_lists_of_another_length_are_told_and_left_alone(name: str) -> None:
    bad = six(**{name: [0, 0]})
    assert stale(bad.metadata, 6) == [name]
    assert select_episodes(bad, torch.tensor([1])).metadata[name] == [0, 0]
    assert stale(six().metadata, 6) == []


@pytest.mark.parametrize(
    "about", [{"who": [9] * 6}, {"who": "abcdef"}, {"actors": 3}, {"actors": ["a", "b", "c"]}, {"who": [None] * 6}]
)
def test_metadata_of_anybody_break_nothing(about: dict[str, Any]) -> None:
    bad = six(**about)
    select_episodes(bad, torch.tensor([1, 2]))
    joined = join_episodes([bad, six()], ["bad", "good"], {}).metadata
    assert len(joined["who"]) == 12 and joined["actors"][joined["who"][0]]["name"] == "bad"
