"""The wrappers of examples/wrappers, around modules that answer as those of SMAC and of football do."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from offline_marl.core.permissions import ImportPath
from offline_marl.environments.parallel.team import PettingZooTeam

WRAPPERS = Path(__file__).resolve().parents[1] / "examples" / "wrappers"
made: list[Any] = []


class Game:
    """What `smac.env.StarCraft2Env` answers: two units; the second dies in step 2; won in step 3, or late in step 4."""

    def __init__(self, map_name: str, seed: int | None = None, **settings: Any) -> None:
        self.map_name, self.seed, self.settings, self.closed = map_name, seed, settings, False
        made.append(self)

    def get_env_info(self) -> dict[str, int]:
        return {"n_agents": 2, "obs_shape": 2, "state_shape": 3, "n_actions": 4, "episode_limit": 4}

    def reset(self) -> None:
        self.time, self.done = 0, [0, 0]

    def get_obs(self) -> list[Any]:
        return [
            np.array([self.seed or 0, self.time]),
            np.array([0, 0] if self.time >= 2 else [self.seed or 0, self.time]),
        ]

    def get_state(self) -> Any:
        return np.full(3, self.time)

    def get_avail_actions(self) -> list[list[int]]:
        return [[0, 1, 1, 1], [1, 0, 0, 0] if self.time >= 2 else [0, 1, 1, 0]]

    def step(self, actions: list[int]) -> tuple[float, bool, dict[str, Any]]:
        assert all(row[choice] for row, choice in zip(self.get_avail_actions(), actions, strict=True))
        self.time, self.done = self.time + 1, actions
        if self.time == 3 and self.map_name == "3m":
            return 10.0, True, {"battle_won": True}
        return 1.0, self.time == 4, {"battle_won": False, **({"episode_limit": True} if self.time == 4 else {})}

    def close(self) -> None:
        self.closed = True


class Match:
    """What `gfootball.env.create_environment` answers, in the older API: a goal in step 2 ends it."""

    def __init__(self, **settings: Any) -> None:
        self.settings, self.closed = settings, False
        self.players = settings["number_of_left_players_agent_controls"]
        made.append(self)

    def reset(self) -> Any:
        self.time = 0
        return self.obs()

    def obs(self) -> Any:
        rows = np.full((self.players, 115), self.time, np.float64)
        return rows[0] if self.players == 1 else rows

    def step(self, actions: list[int]) -> tuple[Any, Any, bool, dict[str, Any]]:
        assert len(actions) == self.players
        self.time += 1
        goal = float(self.time == 2)
        paid = goal if self.players == 1 else np.full(self.players, goal)
        return self.obs(), paid, bool(goal), {"score_reward": goal}

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def wrapper(monkeypatch: pytest.MonkeyPatch) -> Callable[..., PettingZooTeam]:
    made.clear()
    smac, football, env = ModuleType("smac.env"), ModuleType("gfootball.env"), SimpleNamespace(create_environment=Match)
    smac.StarCraft2Env = Game  # type: ignore[attr-defined]
    football.create_environment = env.create_environment  # type: ignore[attr-defined]
    for name, module in (("smac", ModuleType("smac")), ("smac.env", smac), ("gfootball", ModuleType("gfootball"))):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "gfootball.env", football)
    sys.modules["gfootball"].env = football  # type: ignore[attr-defined]
    monkeypatch.syspath_prepend(str(WRAPPERS))
    for name in ("smac_parallel", "football_parallel"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    def make(name: str, **settings: Any) -> PettingZooTeam:
        importlib.import_module(name)
        return PettingZooTeam(ImportPath(f"{name}:make"), 2, settings)

    return make


def test_a_game_of_smac_is_played_to_its_end(wrapper: Callable[..., PettingZooTeam]) -> None:
    team = wrapper("smac_parallel", map_name="3m", difficulty="7")
    assert (team.max_steps, team.spec.obs_dims, team.spec.act_dims, team.spec.state_dim) == (4, (2, 2), (4, 4), 3)
    seen = team.reset([5, 6])
    assert seen.obs[:, 0, 0].tolist() == [5, 6], "each follows its own seed"
    assert seen.avail_actions is not None and seen.avail_actions[0].tolist() == [
        [False, True, True, True],
        [False, True, True, False],
    ]
    team.step(np.array([[1, 1], [3, 3]]))
    seen, rewards, ended, cut = team.step(np.array([[1, 1], [1, 1]]))
    assert seen.avail_actions is not None and seen.avail_actions[:, 1].tolist() == [[True, False, False, False]] * 2
    assert rewards.tolist() == [[1, 1], [1, 1]] and not ended.any()
    seen, rewards, ended, cut = team.step(np.array([[1, 0], [1, 0]]))
    assert rewards[0].tolist() == [10, 10] and ended.all() and not cut.any()
    assert team.infos()[0]["agent_0"]["won"] == 1.0
    games = len(made)
    team.reset([7, 8])
    assert len(made) == games + 2 and all(game.settings == {"difficulty": "7"} for game in made)
    assert all(game.closed for game in made[:games])


def test_the_limit_of_smac_truncates_and_games_need_not_be_launched_anew(
    wrapper: Callable[..., PettingZooTeam],
) -> None:
    team = wrapper("smac_parallel", map_name="other", relaunch=False)
    team.reset([1, 2])
    for _ in range(3):
        team.step(np.array([[1, 1], [1, 1]]))
    assert [flags.all() for flags in team.step(np.array([[1, 1], [1, 1]]))[2:]] == [False, True]
    games = len(made)
    team.reset([3, 4])
    assert len(made) == games


@pytest.mark.parametrize("players", [1, 3])
def test_a_match_of_football_is_played_to_its_end(wrapper: Callable[..., PettingZooTeam], players: int) -> None:
    team = wrapper("football_parallel", players=players)
    assert team.spec.obs_dims == (115,) * players and team.spec.act_dims == (19,) * players and team.max_steps == 400
    seen = team.reset([4, 5])
    assert seen.obs.shape == (2, players, 115) and seen.avail_actions is None
    assert [game.settings["other_config_options"]["game_engine_random_seed"] for game in made[-2:]] == [4, 5]
    actions = np.zeros((2, players), np.int64)
    assert not team.step(actions)[1].any()
    seen, rewards, ended, cut = team.step(actions)
    assert (seen.obs == 2).all() and (rewards == 1).all() and ended.all() and not cut.any()


def test_the_clock_of_football_truncates(wrapper: Callable[..., PettingZooTeam]) -> None:
    team = wrapper("football_parallel", max_steps=1)
    team.reset([0])
    assert [flags.tolist() for flags in team.step(np.zeros((1, 3), np.int64))[2:]] == [[False], [True]]
