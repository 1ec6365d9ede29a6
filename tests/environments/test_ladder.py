"""The game of benchmarks/ladder.py, by hand."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offline_marl.core.permissions import ImportPath
from offline_marl.environments.parallel.team import PettingZooTeam

DOWN, UP, STAY, CALL = range(4)


@pytest.fixture
def ladder(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    return importlib.import_module("ladder")


def placed(ladder: Any, rungs: list[int], breaths: list[int]) -> Any:
    game = ladder.parallel_env()
    game.reset(seed=0)
    game._rungs, game._breaths = np.array(rungs), np.array(breaths)
    return game


def step(game: Any, *choices: int) -> tuple[Any, ...]:
    told: tuple[Any, ...] = game.step(dict(zip(game.possible_agents, choices, strict=True)))
    return told


def test_walls_and_breaths_say_what_is_allowed(ladder: Any) -> None:
    masks = placed(ladder, [0, 2, 4], [3, 1, 2])._masks()
    allowed = [masks[f"agent_{number}"]["action_mask"].tolist() for number in range(3)]
    assert allowed == [[0, 1, 1, 1], [1, 1, 1, 0], [1, 0, 1, 1]]


def test_who_stands_together_is_paid_and_more_for_calls(ladder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "SLIP", 0.0)
    monkeypatch.setattr(ladder, "REST", 0.0)
    game = placed(ladder, [1, 2, 3], [3, 3, 3])
    obs, paid, over, cut, _ = step(game, UP, CALL, DOWN)
    assert paid == {"agent_0": 2.0, "agent_1": 2.0, "agent_2": 2.0} and not any(over.values()) and not any(cut.values())
    assert obs["agent_1"].tolist() == pytest.approx([0.5, 1 / 3, 0.5, 1, 0.5, 1]), "its own first"
    assert step(game, STAY, STAY, UP)[1]["agent_0"] == 0.0


def test_its_clock_ends_it_and_seeds_decide_it(ladder: Any) -> None:
    team = PettingZooTeam(ImportPath("ladder:parallel_env"), 2)
    assert (team.max_steps, team.spec.obs_dims, team.spec.act_dims) == (25, (6,) * 3, (4,) * 3)
    again = PettingZooTeam(ImportPath("ladder:parallel_env"), 1)
    seen, other = team.reset([4, 5]), again.reset([5])
    for _ in range(25):
        assert np.array_equal(seen.obs[1:], other.obs) and seen.avail_actions is not None
        actions = seen.avail_actions.argmax(-1)
        seen, _, ended, cut = team.step(actions)
        other = again.step(actions[1:])[0]
    assert cut.all() and not ended.any()
