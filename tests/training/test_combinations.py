"""Any learner, world model, reward and engine together: each trains, and resumes as if it had never died."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from compared import compare, small_reward
from runs import ending, refuse_difference, small_fit, small_run, start_and_kill

from offline_marl.algorithms.base import algorithms
from offline_marl.core.errors import BadInputError
from offline_marl.training import run, training_run
from offline_marl.training.models import fit as fitting

pytestmark = pytest.mark.slow

GAMES = {"continuous": "rendezvous", "discrete": "coordination"}
"""A game of the library's own for each kind of actions; its data needs no file, and its score no simulator."""
STEPS = {"steps": 30, "hidden": [8], "batch_size": 8, "checkpoint_every": 7, "log_every": 5, "final_episodes": 2}
KILLED_AT = 17
MARIE: dict[str, Any] = {
    **{"tokenizer_steps": 30, "steps": 40, "hidden": [8], "tokens": 2, "vocabulary": 4, "width": 8, "length": 3},
    **{"window": 1, "action_bins": 4, "reward_bins": 8, "batch_size": 4, "holdout": 0.3, "eval_every": 20},
    **{"checkpoint_every": 10, "log_every": 6, "device": "cpu"},
}
TEACHER: dict[str, Any] = {
    **{"teacher": "simulated", "queries": 20, "queries_per_round": 5, "query_length": 3, "reward_updates": 5},
    "reward_fit": {"hidden": [8], "members": 2},
}
REPLAY = {"replay_capacity": 400, "warmup_steps": 20, "replay_copies": 3}
ENGINE = {"engine": "local", "code": "uncoded"}
AGENTS = {"continuous": 2, "discrete": 3}
"""Of the games, and learners of an engine: with more, which answers come first decides over the last bits."""
LATE = {"coded/wait_s", "coded/late"}
"""Metrics of who was late, which differ from run to run."""

DATA = ("bias", "reward", "recurrent-reward reference", "window recurrent-reward")
MODELS = ("ensemble reward", "marie recurrent-reward", "oracle", "window ensemble recurrent-reward")
MIXED = tuple(f"half {model}" for model in MODELS)
PLAYS = ("alone", "alone reward", "alone teacher", "alone explore")
BESIDE = ("online", "online half", "online prefill", "online reward", "online recurrent-reward")
BESIDE_MODELS = (
    "online half ensemble",
    "online half ensemble recurrent-reward",
    "online half marie",
    "online window half ensemble",
)
ENGINES = ("engine", "engine reward", "engine half ensemble", "engine online", "engine alone")
WHOLE = (*DATA, *MIXED, *PLAYS, *BESIDE, *BESIDE_MODELS)
LEARNERS: dict[str, tuple[str, ...]] = {
    "bc": ("", "window", "engine"),
    "o-mapl": ("preferences", "preferences window"),
    "ma-ppo": DATA,
    "moma-ppo": MODELS,
    "marie": MODELS,
    **dict.fromkeys(("iql", "td3-bc", "cql", "omar", "maddpg"), (*WHOLE, *ENGINES)),
    **dict.fromkeys(("ma-iql", "omiga", "masac", "vdn", "qmix"), WHOLE),
}


def cases() -> list[tuple[str, str, str]]:
    """Kinds of actions, learners and what they are combined with."""
    return [
        (kind, name, words)
        for kind in GAMES
        for name, combinations in LEARNERS.items()
        if kind in algorithms.get(name).needs.actions
        for words in combinations
    ]


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict[str, Any]]]:
    """For each kind of actions the flags that every word stands for, with what they name."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_run, "draw_run", lambda *_: None)
        patch.setattr(fitting, "draw_report", lambda *_: None)
        for kind, game in GAMES.items():
            place, data = tmp_path_factory.mktemp(kind), f"{game}-mix-v0"
            compared = compare(place / "compared", data, budget=40, length=3, steepness="perfect")
            small_reward(place / "reward", data, compared)
            small_reward(place / "recurrent", data, compared, recurrent=True)
            small_run(place / "bc", data, "bc")
            ensemble = small_fit(place / "ensemble", data).folder
            marie = fitting.fit_model("marie", data, out=place / "marie", **MARIE).folder
            made[kind] = {
                "bias": {"reward_bias": 0.3, "reward_scale": "range"},
                "window": {"window": 2, "share_parameters": True},
                "reward": {"reward_model": str(place / "reward"), "reward_caution": 0.5},
                "recurrent-reward": {"reward_model": str(place / "recurrent")},
                "reference": {"reference_policy": str(place / "bc"), "reference_weight": 0.5},
                "preferences": {"preferences": str(compared)},
                "ensemble": {"world_model": str(ensemble), "horizon": 3},
                "marie": {"world_model": str(marie), "horizon": 3},
                "oracle": {"world_model": "oracle", "horizon": 3},
                "half": {"real_fraction": 0.5},
                "online": {"online": True, "environment": game, **REPLAY},
                "alone": {"environment": game, **REPLAY},
                "prefill": {"prefill": True},
                "teacher": TEACHER,
                "explore": {"explore_steps": 60, "explore_neighbours": 2},
                "engine": {**ENGINE, "learners": AGENTS[kind]},
            }
    return made


def settled(folder: Path) -> dict[str, Any]:
    """How a run ended, without who was late in it."""
    end = ending(folder)
    for table in ("rows", "metrics"):
        end[table] = [{name: value for name, value in row.items() if name not in LATE} for row in end[table]]
    return end


@pytest.mark.parametrize(("kind", "name", "words"), cases())
def test_a_combination_that_died_ends_as_if_it_had_not(parts, monkeypatch, tmp_path, kind, name, words) -> None:
    monkeypatch.setattr(training_run, "draw_run", lambda *_: None)
    fields = {**STEPS}
    for word in words.split():
        fields |= parts[kind][word]
    data = None if "alone" in words.split() else f"{GAMES[kind]}-mix-v0"
    small_run(tmp_path / "whole", data, name, **fields)
    start_and_kill(tmp_path / "killed", data, KILLED_AT, algorithm=name, **fields)
    run.resume(tmp_path / "killed")
    refuse_difference(settled(tmp_path / "whole"), settled(tmp_path / "killed"))


def test_every_learner_is_combined() -> None:
    built_in = {each.name for each in algorithms.listings() if each.origin == "built-in"}
    assert set(LEARNERS) == built_in


@pytest.mark.parametrize("name", [name for name in LEARNERS if not algorithms.get(name).splits_by_agent])
def test_who_cannot_be_split_takes_no_engine(parts, tmp_path, name) -> None:
    kind = "discrete" if "discrete" in algorithms.get(name).needs.actions else "continuous"
    needed = {"o-mapl": "preferences", "moma-ppo": "oracle", "marie": "oracle"}.get(name)
    fields = {**STEPS, **parts[kind]["engine"], **(parts[kind][needed] if needed else {})}
    with pytest.raises(BadInputError, match="cannot be split by agent"):
        small_run(tmp_path / "run", f"{GAMES[kind]}-mix-v0", name, **fields)
