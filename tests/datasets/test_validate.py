from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from worlds import reacher_recording, world

from offline_marl.core.types import DataError
from offline_marl.datasets import validate
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.validate import check, problems

KINDS = ("continuous", "discrete")


def edited(data: Dataset, name: str, edit: Any) -> Dataset:
    value = getattr(data, name).clone()
    edit(value)
    return replace(data, **{name: value})


def spoilt() -> Dataset:
    """Eight things are wrong with it."""
    data = world("continuous")  # lengths 4, 5, 6, 7, 8, 4, ...
    data = edited(data, "obs", lambda v: (v[0, 0, 0].fill_(math.nan), v[7].fill_(math.nan), v[9, 1, 3].fill_(1.0)))
    data = edited(data, "rewards", lambda v: v[5].fill_(math.inf))
    data = edited(data, "actions", lambda v: (v[2, 1, 0].fill_(1.5), v[3, 0, 1].fill_(0.25)))
    data = edited(data, "truncations", lambda v: (v[3].fill_(False), v[1].fill_(True)))
    data = edited(data, "terminations", lambda v: v[3].fill_(False))
    return replace(data, metadata={"reward": "team"})


def test_all_that_is_wrong_is_listed_not_the_first_thing() -> None:
    found = problems(spoilt())
    assert [problem.sentence for problem in found] == [
        "Field 'obs' is not finite in episode 0, step 0 (2 rows in all).",
        "Field 'rewards' is not finite in episode 1, step 1 (1 rows in all).",
        f"1 of {world('continuous').actions.numel():,} action entries lie outside [-1, 1]: scale them by "
        "action_scale = (their bound), or clip them by clip_actions = true.",
        "Episode 0 ends without termination or truncation.",
        "Episode 0 goes on after a termination or truncation.",
        "Field 'obs' is not zero where the spec says an agent's row is padded.",
        "Field 'actions' is not zero where the spec says an agent's row is padded.",
        "The metadata claim a team reward, but the agents' rewards differ in episode 0, step 0 "
        f"({len(world('continuous')) - 1} steps in all).",
    ]
    assert [(p.field, p.where, p.count) for p in found[:2]] == [
        ("obs", "episode 0, step 0", 2),
        ("rewards", "episode 1, step 1", 1),
    ]


def test_a_refusal_tells_the_first_and_how_many_more() -> None:
    with pytest.raises(DataError, match=r"^Field 'obs' is not finite .* \(and 7 more: `offline-marl data verify`"):
        spoilt().check()
    with pytest.raises(DataError, match=r"\(and 7 more: `offline-marl data verify` lists them\)\.$"):
        check(spoilt())
    one = edited(world("continuous"), "rewards", lambda v: v[5].fill_(math.inf))
    with pytest.raises(DataError, match=r"\(1 rows in all\)\.$"):
        check(one)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", [1, 7, 64, validate.CHUNK])
def test_chunks_change_nothing(kind: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data, bad = world(kind), spoilt()
    whole = problems(bad)
    monkeypatch.setattr(validate, "CHUNK", chunk)
    assert problems(data) == []
    assert problems(bad) == whole


def test_choices_that_do_not_exist_and_that_are_forbidden_are_told_apart() -> None:
    data = world("discrete")
    data = edited(data, "actions", lambda v: (v[0, 1].fill_(3), v[6, 0].fill_(-1)))
    # Row 13 is what was seen before step 11 of the data, the third of episode 2.
    chosen = data.actions[11, 2]
    data = edited(data, "avail_actions", lambda v: v[13, 2, chosen].fill_(False))
    said = [problem.sentence for problem in problems(data)]
    assert said == [
        "2 actions are choices that their agent does not have.",
        "1 actions are choices that avail_actions forbids.",
    ]


def test_widths_of_states_and_choices_are_compared_with_the_spec() -> None:
    data = world("discrete")
    assert data.state is not None and data.avail_actions is not None
    bad = replace(data, state=data.state[:, 1:], avail_actions=data.avail_actions[..., 1:])
    fields = [problem.field for problem in problems(bad)]
    assert fields == ["avail_actions", "state"]


def test_a_team_reward_is_held_to_its_claim() -> None:
    data = world("continuous")
    assert [p.field for p in problems(replace(data, metadata={"reward": "team"}))] == ["rewards"]
    assert problems(replace(data, metadata={"reward": "own"})) == []
    shared = replace(data, rewards=data.rewards[:, :1].expand(-1, 3).contiguous(), metadata={"reward": "team"})
    assert problems(shared) == []
    assert [p.field for p in problems(replace(data, metadata={"reward": "theirs"}))] == ["metadata"]


@pytest.mark.parametrize("lengths", [torch.tensor([], dtype=torch.int64), torch.tensor([0, 5]), torch.tensor([[4]])])
def test_where_lengths_are_unusable_that_is_all_that_is_said(lengths: torch.Tensor) -> None:
    assert [problem.field for problem in problems(replace(world("continuous"), lengths=lengths))] == ["lengths"]


def test_every_field_of_wrong_rows_and_kinds_is_named() -> None:
    data = world("continuous")
    bad = replace(data, rewards=data.rewards[1:], obs=data.obs.double(), terminations=data.terminations.float())
    assert [problem.field for problem in problems(bad)] == ["obs", "rewards", "terminations"]


def test_a_body_is_not_moved_by_choices() -> None:
    recording = reacher_recording()
    found = problems(replace(recording, actions=recording.actions.long()))
    assert [problem.sentence for problem in found] == [
        "Field 'actions' holds torch.int64, it should hold torch.float32."
    ]
