"""Numbers that no learner could use are refused where they enter: one sentence with field, agent, step and episode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pettingzoo")
from gymnasium.spaces import Box, Discrete

from offline_marl.collection import recorder
from offline_marl.collection.collect import collect
from offline_marl.collection.config import CollectConfig
from offline_marl.core.permissions import ImportPath
from offline_marl.core.seeding import derive
from offline_marl.core.types import DataError
from offline_marl.datasets.files import load_data
from offline_marl.environments.episodes import Memoryless, run_episodes
from offline_marl.environments.parallel.team import PettingZooTeam

WORLD = "odd_worlds:make"


def run(**settings: Any) -> list[Any]:
    env = PettingZooTeam(ImportPath(WORLD), 2, settings)
    shape = (2, 2) if env.spec.discrete else (2, 2, env.spec.act_dim)
    kind = np.int64 if env.spec.discrete else np.float32
    return list(run_episodes(env, [7, 8], Memoryless(lambda seen, step: np.zeros(shape, kind))))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"odd": "nan obs"}, r"observation of agent 1 is not finite \(nan\) after 3 steps of the episode with seed 7"),
        ({"odd": "inf obs"}, r"observation of agent 0 is not finite \(inf\)"),
        ({"odd": "nan obs", "last": 5}, "after 5 steps"),
        ({"odd": "nan reward"}, r"reward of agent 1 is not finite \(nan\) after 3 steps"),
        (
            {"odd": "None reward"},
            "the reward of a_0 is None, which are no numbers, after 3 steps of the episode with seed 7",
        ),
        ({"odd": "two rewards"}, "the reward of a_0 has 2 numbers instead of 1"),
        ({"odd": "short obs"}, "the observation of a_0 has 2 numbers instead of 3"),
        ({"odd": "None obs"}, "the observation of a_0 is None"),
        ({"odd": "no choice", "choices": 3}, "mask of actions of agent 1 allows nothing after 3 steps"),
        ({"odd": "other choices", "choices": 3}, "the action_mask of a_1 has 4 numbers instead of 3"),
    ],
)
def test_odd_numbers_are_refused_by_the_acting_loop(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said) as refusal:
        run(**settings)
    assert "\n" not in str(refusal.value)


def test_lists_and_rewards_of_one_number_are_taken_as_they_are_meant() -> None:
    assert run(odd="list obs")[2].next_seen.obs[0, 0].tolist() == [1, 2, 3]
    assert run(odd="reward of shape (1,)")[2].rewards[0].tolist() == [4, 1]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"space": Box(0, 255, (45, 12, 3), np.uint8)}, r"sees pictures \(45 x 12 x 3, 1,620 numbers each\)"),
        ({"space": Box(0, 1, (30_000,), np.float32)}, "sees 30,000 numbers, more than the 20,000"),
        ({"space": Box(0, 1, (0,), np.float32)}, "Agent a_0 of .* sees nothing"),
        ({"acts": Box(-1, 1, (0,), np.float32)}, "Agent a_0 of .* does nothing"),
    ],
)
def test_what_no_vector_can_be_made_of_is_refused_at_once(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        PettingZooTeam(ImportPath(WORLD), 1, settings)
    assert PettingZooTeam(ImportPath(WORLD), 1, {"acts": Discrete(4)}).spec.act_dims == (4, 4)


def settings(tmp_path: Path, **changed: Any) -> CollectConfig:
    known = {"environment": WORLD, "who": ("random",), "max_steps": 5, "score_episodes": 0, "copies": 2}
    return CollectConfig(**{**known, "out": tmp_path / "odd.safetensors", **changed})


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_collect_names_the_episode_and_keeps_good_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(recorder, "CHUNK", 2)
    monkeypatch.setenv("ODD_SEEDS", " ".join(str(derive(0, "collect", number) % 2**31) for number in (4, 5)))
    given = settings(tmp_path, episodes=6, workers=workers, environment="odd_worlds:odd_later")
    with pytest.raises(DataError, match=r"agent 1 is not finite \(nan\) after 3 steps of episode [45]: .* are kept"):
        collect(given)
    stored = [path.name for path in (tmp_path / "odd.safetensors.parts").glob("*.safetensors")]
    assert len(stored) == 2 if workers == 1 else stored  # what the other worker was at is not whole
    monkeypatch.delenv("ODD_SEEDS")
    assert len(load_data(collect(given)).lengths) == 6
