"""Off-policy learners that play: what they draw, how much they play for it, and that a restart changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from live_worlds import LiveWorld
from runs import (
    SMALL,
    Killed,
    checkpoints,
    ending,
    last_state,
    leftovers,
    refuse_difference,
    rows,
    score_in_point_env,
    small_run,
    start_and_kill,
)
from worlds import saved, world

from offline_marl.algorithms.base import algorithms
from offline_marl.core.config import ConfigError
from offline_marl.core.permissions import ImportPath
from offline_marl.core.types import Batch, DataError, Episode, Needs, Spec
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.datasets.episode_ring import EpisodeRing
from offline_marl.environments.guarded import EnvironmentFailedError, Guarded
from offline_marl.runs import stopping
from offline_marl.runs.combinations import learns_alone
from offline_marl.runs.config import RunConfig
from offline_marl.tasks import environment_tasks
from offline_marl.tasks.environment_tasks import find_environment_task, play_uniformly
from offline_marl.training import training_run
from offline_marl.training.loop import SourceStoppedError
from offline_marl.training.models import fit as fitting
from offline_marl.training.run import resume, train
from offline_marl.training.sources import online
from offline_marl.training.sources.episode_files import EpisodeFiles
from offline_marl.training.sources.playing import Player
from offline_marl.training.sources.recorded import DatasetSource
from offline_marl.training.sources.replay import LiveMixture, Pace, ReplaySource
from offline_marl.training.training_run import TrainingSession

PLAYED = "uniform play, which takes no time to make"
TASKS: dict[str, dict[str, Any]] = {
    "alone": {"algorithm": "cql", "environment": "coordination", "warmup_steps": 30},
    "window and copies": {
        "algorithm": "td3-bc",
        "environment": "rendezvous",
        "warmup_steps": 20,
        "window": 2,
        "replay_copies": 3,
        "hidden": [8],
    },
    "a ring that drops": {
        "algorithm": "iql",
        "environment": "coordination",
        "warmup_steps": 30,
        "replay_capacity": 25,
    },
    "recurrent": {"algorithm": "vdn", "environment": "coordination", "warmup_steps": 20, "replay_copies": 2},
    "recurrent segments": {
        "algorithm": "qmix",
        "dataset": "coordination-mix-v0",
        "environment": "coordination",
        "online": True,
        "segment_length": 3,
        "burn_in": 2,
    },
    "half recorded": {
        "algorithm": "ma-iql",
        "dataset": "coordination-mix-v0",
        "environment": "coordination",
        "online": True,
        "updates_per_step": 0.7,
    },
    "a share that moves": {
        "algorithm": "omar",
        "dataset": "rendezvous-mix-v0",
        "environment": "rendezvous",
        "online": True,
        "real_fraction": 1.0,
        "real_fraction_end": 0.1,
        "reward_scale": 3.0,
    },
    "imagined rows too": {
        "algorithm": "td3-bc",
        "dataset": PLAYED,
        "environment": "rendezvous",
        "online": True,
        "world_model": "ensemble",
        "fit": {"steps": 20, "eval_every": 20, "hidden": [8], "members": 2, "elites": 1, "batch_size": 8},
        "real_fraction": 0.5,
        "horizon": 3,
        "rollouts": 8,
        "window": 2,
    },
    "prefilled": {
        "algorithm": "cql",
        "dataset": "coordination-mix-v0",
        "environment": "coordination",
        "online": True,
        "prefill": True,
        "replay_capacity": 40,
    },
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_run, "draw_run", lambda *_: None)
    monkeypatch.setattr(environment_tasks, "UNIFORM_STEPS", 100)


# Before the first checkpoint, and between later ones.
@pytest.mark.parametrize(
    ("name", "steps"),
    [("alone", (3, 17, 24)), *((name, (24,)) for name in list(TASKS)[1:])]
    + [pytest.param(name, (3, 17), marks=pytest.mark.slow) for name in list(TASKS)[1:]],
)
def test_a_run_that_was_killed_in_mid_episode_ends_as_one_that_was_not(
    name: str, steps: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"dataset": None, "checkpoint_every": 5, "steps": 37, **TASKS[name]}
    if fields["dataset"] == PLAYED:
        monkeypatch.setattr(fitting, "draw_report", lambda *_: None)
        fields["dataset"] = saved(tmp_path, play_uniformly(find_environment_task("rendezvous", permit=ImportPath), 100))
    small_run(tmp_path / "straight", **fields)
    for step in steps:
        out = tmp_path / str(step)
        start_and_kill(out, step=step, **fields)
        resume(out)
        refuse_difference(ending(tmp_path / "straight"), ending(out))
        assert not leftovers(out)


def test_more_than_one_episode_is_never_played_ahead_and_counts_stand_in_every_row(tmp_path: Path) -> None:
    small_run(tmp_path / "run", None, "cql", environment="coordination", steps=40, warmup_steps=10, log_every=10)
    assert [(row["step"], row["environment_steps"]) for row in rows(tmp_path / "run") if row["kind"] == "train"] == [
        (10, 20),
        (20, 30),
        (30, 40),
        (40, 50),
    ]
    done = json.loads((tmp_path / "run" / "DONE").read_text())
    assert (done["steps"], done["environment_steps"]) == (40, 50)
    assert done["score"]["online"] is True and done["score"]["environment_steps"] == 50


@pytest.mark.parametrize(
    ("fields", "updates", "played"),
    [
        ({"warmup_steps": 20}, 80, 100),
        ({"warmup_steps": 20, "updates_per_step": 0.5}, 40, 100),
        ({"warmup_steps": 0, "updates_per_step": 2}, 200, 100),
        ({"warmup_steps": 10, "replay_copies": 4}, 90, 100),
    ],
)
def test_environment_steps_are_the_other_budget(
    tmp_path: Path, fields: dict[str, Any], updates: int, played: int
) -> None:
    given = {**SMALL, "algorithm": "iql", "environment": "rendezvous", "environment_steps": 100, **fields}
    given.pop("steps")
    result = train(given.pop("algorithm"), None, out=tmp_path / "run", **given)
    done = json.loads((result.folder / "DONE").read_text())
    assert done["steps"] == updates and played <= done["environment_steps"] < played + 4


def test_an_on_policy_run_ends_before_it_plays_more_than_its_budget(tmp_path: Path) -> None:
    given = {**SMALL, "environment": "rendezvous", "environment_steps": 170, "batch_size": 40}
    given.pop("steps")
    for name in ("straight", "killed"):
        if name == "straight":
            train("ma-ppo", None, out=tmp_path / name, **given)
        else:
            with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
                patch.setattr(TrainingSession, "finish", lambda self: (_ for _ in ()).throw(Killed()))
                train("ma-ppo", None, out=tmp_path / name, **given)
            resume(tmp_path / name)
    done = json.loads((tmp_path / "straight" / "DONE").read_text())
    # Episodes have 8 steps, so that an update plays 5 of them.
    assert (done["steps"], done["environment_steps"]) == (4, 160)
    refuse_difference(ending(tmp_path / "straight")["done"], ending(tmp_path / "killed")["done"])


@pytest.mark.parametrize(
    ("algorithm", "fields", "error", "message"),
    [
        ("bc", {"environment": "rendezvous"}, ConfigError, "bc learns from recorded data: give it --dataset"),
        ("bc", {"dataset": "rendezvous-mix-v0", "online": True}, ConfigError, "bc clones what was recorded"),
        ("ma-ppo", {"environment": "rendezvous", "online": True}, ConfigError, "replays nothing: it takes no --online"),
        (
            "ma-ppo",
            {"environment": "rendezvous", "replay_capacity": 50, "prefill": True},
            ConfigError,
            "ma-ppo learns on-policy.*takes no --replay-capacity and no --prefill",
        ),
        ("moma-ppo", {"dataset": "rendezvous-mix-v0", "online": True}, ConfigError, "takes no --online"),
        ("td3-bc", {"environment": "coordination"}, DataError, "td3-bc needs continuous actions; coordination holds"),
        ("vdn", {"environment": "rendezvous"}, DataError, "vdn needs discrete actions; rendezvous holds continuous"),
        (
            "iql",
            {"dataset": "rendezvous-mix-v0", "environment": "coordination", "online": True},
            DataError,
            r"team with observations of \(2, 2\) and continuous actions of \(1, 1\), the environment's has "
            r"observations of \(9, 9, 9\) and discrete actions of \(3, 3, 3\)",
        ),
        (
            "iql",
            {"environment": "coordination", "replay_capacity": 5},
            DataError,
            "replay of 5 rows cannot hold one whole episode, which may have 6 steps",
        ),
        ("cql", {"dataset": "coordination-mix-v0", "warmup_steps": 3}, ConfigError, "plays nothing: .* --warmup-steps"),
        ("cql", {"dataset": "coordination-mix-v0", "environment_steps": 9}, ConfigError, "no --environment-steps"),
        ("cql", {"environment": "coordination", "environment_steps": 2000, "steps": 7}, ConfigError, "exactly one of"),
        ("cql", {"environment": "coordination", "environment_steps": 900}, ConfigError, "900 pays for no update after"),
        ("cql", {"environment": "coordination", "world_model": "ensemble"}, ConfigError, "fitted to recorded data"),
        ("cql", {"environment": "coordination", "real_fraction": 0.5}, ConfigError, "--real-fraction needs"),
        (
            "cql",
            {"environment": "coordination", "online": True, "real_fraction": 0.5},
            ConfigError,
            "a share of recorded rows, and a run without --dataset has none",
        ),
        (
            "cql",
            {"dataset": "coordination-mix-v0", "online": True, "prefill": True, "real_fraction": 0.5},
            ConfigError,
            "takes no --real-fraction",
        ),
        (
            "vdn",
            {"dataset": "coordination-mix-v0", "online": True, "real_fraction": 0.01},
            ConfigError,
            "--real-fraction 0.01 of a batch of 32 leaves no recorded row: raise --batch-size, or say 0",
        ),
        (
            "vdn",
            {"dataset": "coordination-mix-v0", "online": True, "real_fraction": 0.999, "real_fraction_end": 1.0},
            ConfigError,
            "--real-fraction 0.999 of a batch of 32 leaves no live row: raise --batch-size, or say 1",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_sentence(
    tmp_path: Path, algorithm: str, fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = {"device": "cpu", "steps": 5, **fields}
    if "environment_steps" in given and "steps" not in fields:
        given.pop("steps")
    with pytest.raises(error, match=message):
        train(algorithm, given.pop("dataset", None), out=tmp_path / "run", **given)
    assert not (tmp_path / "run" / "config.json").exists()


# --- environments that give trouble ---------------------------------------------------------------------------------
@pytest.fixture
def one_uniform_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trouble counts the steps of uniform play, too."""
    monkeypatch.setattr(environment_tasks, "UNIFORM_STEPS", 1)
    monkeypatch.setattr(environment_tasks, "COPIES", 1)


def live(**settings: Any) -> dict[str, Any]:
    LiveWorld.steps = LiveWorld.born = 0
    return {"dataset": None, "environment": "live_worlds:make", "env_settings": settings, "warmup_steps": 10}


@pytest.mark.long
@pytest.mark.parametrize(
    ("trouble", "fields", "message"),
    [
        ("raises", {}, "environment live_worlds:make failed in a step: OSError: the simulator lost its licence"),
        ("raises", {"workers": 2, "replay_copies": 2}, "live_worlds:make failed in a step: OSError: the simulator"),
        ("hangs", {"environment_timeout": 0.2}, r"environment live_worlds:make hangs: a step .* more than 0.2 seconds"),
        ("dies", {"workers": 2, "replay_copies": 2}, "live_worlds:make failed in a step: A process .* ended by itself"),
        ("shows nan", {}, r"the reward of agent 1 is not finite \(nan\) after"),
    ],
)
@pytest.mark.parametrize("algorithm", ["td3-bc", "ma-ppo"])
@pytest.mark.usefixtures("one_uniform_episode")
def test_an_environment_that_fails_is_named_and_the_run_stops_with_what_it_has(
    tmp_path: Path, trouble: str, fields: dict[str, Any], message: str, algorithm: str
) -> None:
    if algorithm == "ma-ppo":
        fields = {key: value for key, value in fields.items() if not key.startswith("replay")}
        given = {**live(trouble=trouble, after=150 if "workers" in fields else 200), **fields}
        given.pop("warmup_steps")
    else:
        given = {**live(trouble=trouble, after=15 if "workers" in fields else 31), **fields}
    with pytest.raises(SourceStoppedError, match=message) as caught:
        small_run(tmp_path / "run", algorithm=algorithm, checkpoint_every=1000, steps=10_000, **given)
    reached = checkpoints(tmp_path / "run")
    assert len(reached) == 1 and f"saved as it stands, after update {reached[0]:,}" in str(caught.value)
    assert algorithm == "ma-ppo" or reached[0] > 3


def test_an_environment_that_fails_before_anything_was_learnt_is_named_too(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailedError, match="environment live_worlds:make failed in a step: OSError"):
        small_run(tmp_path / "run", algorithm="td3-bc", **live(trouble="raises"))


@pytest.mark.usefixtures("one_uniform_episode")
def test_a_run_whose_environment_recovered_goes_on(tmp_path: Path) -> None:
    given = live(trouble="raises", after=41)
    with pytest.raises(SourceStoppedError):
        small_run(tmp_path / "run", algorithm="td3-bc", steps=60, **given)
    LiveWorld.steps = -10_000  # trouble is over
    result = resume(tmp_path / "run")
    done = json.loads((result.folder / "DONE").read_text())
    assert (done["steps"], done["environment_steps"]) == (60, 70)


@pytest.mark.usefixtures("one_uniform_episode")
@pytest.mark.parametrize("after", [9, 33], ids=["in the warm-up", "behind it"])
def test_a_run_whose_environment_failed_once_ends_as_one_whose_environment_did_not(tmp_path: Path, after: int) -> None:
    fields = {"algorithm": "td3-bc", "steps": 40, "explore_noise": 0.5}
    small_run(tmp_path / "straight", **fields, **live(trouble="raises", after=10_000))
    with pytest.raises(SourceStoppedError):
        small_run(tmp_path / "failed", **fields, **live(trouble="raises", after=after))
    LiveWorld.steps = -10_000  # trouble is over
    resume(tmp_path / "failed")
    refuse_difference(ending(tmp_path / "straight"), ending(tmp_path / "failed"))


def test_seeds_of_episodes_that_did_not_begin_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    env = Guarded(find_environment_task("coordination", permit=ImportPath).make(2), "coordination")
    learner = algorithms.get("vdn")(algorithms.get("vdn").Config(), env.spec)
    draws = [torch.Generator().manual_seed(number) for number in range(2)]
    player = Player(learner, env, 2, *draws, torch.device("cpu"), 0)
    with monkeypatch.context() as patch, pytest.raises(EnvironmentFailedError):
        patch.setattr(env.env, "reset", lambda seeds: 1 / 0)
        player.advance()
    assert player.round is None and torch.equal(draws[0].get_state(), torch.Generator().manual_seed(0).get_state())


@pytest.mark.parametrize("at", [3, 47], ids=["in the warm-up", "between updates"])
def test_a_run_that_is_asked_to_stop_while_it_plays_saves_there_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    fields = {"environment": "coordination", "warmup_steps": 30, "updates_per_step": 0.1, "steps": 6}
    small_run(tmp_path / "straight", None, "vdn", **fields)
    advance = Player.advance

    def asking(self: Player) -> list[Episode]:
        finished = advance(self)
        if self.steps == at:
            stopping.asked.set()
        return finished

    with monkeypatch.context() as patch, pytest.raises(stopping.StoppedEarly):
        patch.setattr(Player, "advance", asking)
        try:
            small_run(tmp_path / "stopped", None, "vdn", **fields)
        finally:
            stopping.asked.clear()
    assert last_state(tmp_path / "stopped")["source"]["environment_steps"] == at
    resume(tmp_path / "stopped")
    refuse_difference(ending(tmp_path / "straight"), ending(tmp_path / "stopped"))


def test_a_world_that_does_not_repeat_is_named_and_what_was_lived_through_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = live(trouble="drifts")
    start_and_kill(tmp_path / "run", step=23, algorithm="td3-bc", checkpoint_every=23, steps=40, **given)
    state = last_state(tmp_path / "run")["source"]
    under_way = len(state["player"]["round"]["steps"]["rewards"])
    assert under_way and state["environment_steps"] == 33
    capsys.readouterr()
    resume(tmp_path / "run")
    told = capsys.readouterr().err
    assert "warning: live_worlds:make does not repeat an episode from its seed and actions" in told
    assert "not equal bit for bit" in told
    end = last_state(tmp_path / "run")["source"]
    assert end["environment_steps"] == 50
    files = EpisodeFiles(tmp_path / "run" / "replay", Spec((2, 2), (1, 1)))
    episodes = list(chain(*files.read(0, end["ring"]["count"])))
    cut = episodes[state["ring"]["count"]]
    assert len(cut) == under_way and bool(cut.truncations[-1].all()) and not bool(cut.terminations.any())
    assert sum(map(len, episodes)) + len(end["player"].get("round", {}).get("steps", {"rewards": ()})["rewards"]) == 50


@pytest.mark.parametrize("algorithm", ["td3-bc", "ma-iql", "vdn"])
def test_agents_that_leave_are_masked(tmp_path: Path, algorithm: str) -> None:
    given = live(trouble="is left", choices=3 if algorithm == "vdn" else 0)
    fields = {"algorithm": algorithm, "steps": 37, "checkpoint_every": 5, **given}
    small_run(tmp_path / "straight", **fields)
    start_and_kill(tmp_path / "killed", step=17, **fields)
    resume(tmp_path / "killed")
    refuse_difference(ending(tmp_path / "straight"), ending(tmp_path / "killed"))
    state = last_state(tmp_path / "straight")["source"]["ring"]
    assert state["columns"][-1] == "mask"
    for episode in chain(*EpisodeFiles(tmp_path / "straight" / "replay", Spec((2, 2), (1, 1))).read(0, state["count"])):
        assert episode.mask is not None and episode.mask[:, 0].tolist() == [True, True] + [False] * (len(episode) - 2)
        assert episode.terminations[:, 0].nonzero().flatten().tolist() == [1] and not bool(episode.obs[2:, 0].any())


# --- what is drawn --------------------------------------------------------------------------------------------------
@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[ReplaySource], list[Batch], list[int]]]:
    """Sources of runs, their batches, and what had been played before each."""
    sources: list[ReplaySource] = []
    batches: list[Batch] = []
    played: list[int] = []
    sample = ReplaySource.sample

    def spying(self: ReplaySource, needs: Needs) -> Batch:
        batch = sample(self, needs)
        if self not in sources:
            sources.append(self)
        batches.append(batch)
        played.append(self.player.steps)
        return batch

    with monkeypatch.context() as patch:
        patch.setattr(ReplaySource, "sample", spying)
        yield sources, batches, played


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"warmup_steps": 7}, [8, 9, 10, 11, 12, 13]),
        ({"warmup_steps": 3}, [6, 6, 6, 7, 8, 9]),  # episodes have 6 steps, and one must have ended
        ({"warmup_steps": 12, "updates_per_step": 2}, [13, 13, 14, 14, 15, 15]),
        ({"warmup_steps": 12, "updates_per_step": 0.4}, [15, 17, 20, 22, 25, 27]),
        ({"warmup_steps": 8, "replay_copies": 3}, [18, 18, 18, 18, 18, 18]),
    ],
)
def test_updates_come_at_their_pace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], expected: list[int]
) -> None:
    with watched(monkeypatch) as (_, _, played):
        small_run(tmp_path / "run", None, "cql", environment="coordination", steps=6, **fields)
    assert played == expected


def test_a_pace_that_floats_cannot_hold_asks_for_no_step_more() -> None:
    assert 21 / 0.7 > 30
    assert Pace(4, 0.7).due(20) == 34


def test_the_warm_up_is_uniform_over_what_is_allowed_and_then_the_policy_acts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = live(choices=3)
    given |= {"warmup_steps": 600, "algorithm": "cql", "behaviour_temperature": 0.0, "steps": 60}
    with watched(monkeypatch) as (sources, _, _):
        small_run(tmp_path / "run", lr=1e-9, checkpoint_every=0, **given)
    ring = sources[0].ring
    rows = ring.transitions(torch.arange(len(ring)))
    warm = torch.bincount(rows.actions[:590].flatten(), minlength=3) / 1180
    torch.testing.assert_close(warm, torch.full((3,), 1 / 3), atol=0.06, rtol=0.0)
    learner = sources[0].player.learner
    assert torch.equal(rows.actions[610:], learner.act(rows.obs[610:]))


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ({}, [8] * 5),
        ({"real_fraction": 0.25}, [4] * 5),
        ({"real_fraction": 1.0, "real_fraction_end": 0.0}, [16, 12, 8, 4, 0]),
        ({"real_fraction": 0.0}, [0] * 5),
    ],
)
def test_recorded_rows_come_first_in_the_share_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shares: dict[str, float], expected: list[int]
) -> None:
    recorded = world("continuous")
    marked = replace(recorded, rewards=torch.full_like(recorded.rewards, 77.0))
    score_in_point_env(monkeypatch)
    fields = {"online": True, "algorithm": "td3-bc", "steps": 5, "warmup_steps": 10, **shares}
    with watched(monkeypatch) as (_, batches, _):
        small_run(tmp_path / "run", marked, **fields)
    marks = [batch.rewards.eq(77.0).all(-1) for batch in batches]
    assert [int(mark.sum()) for mark in marks] == expected
    assert all(bool(mark[:count].all()) for mark, count in zip(marks, expected, strict=True))


def test_auto_weighs_every_row_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = world("continuous")  # 60 steps
    marked = replace(recorded, rewards=torch.full_like(recorded.rewards, 77.0))
    score_in_point_env(monkeypatch)
    fields = {"online": True, "algorithm": "td3-bc", "steps": 60, "warmup_steps": 10, "real_fraction": "auto"}
    with watched(monkeypatch) as (sources, batches, _):
        small_run(tmp_path / "run", marked, **fields)
    held = len(sources[0].ring)
    assert int(batches[-1].rewards.eq(77.0).all(-1).sum()) == round(16 * 60 / (60 + held)) < 9


def test_auto_weighs_every_episode_alike_where_rows_are_episodes() -> None:
    long, short = world("continuous"), world("continuous", episodes=30)
    ring = EpisodeRing(short.spec, 300, 8)
    ring.extend(short.episode(number) for number in range(0, 30, 5))  # six of four steps
    sides = [DatasetSource(buffer, 16, torch.Generator()) for buffer in (TransitionBuffer(long), ring)]
    mixture = LiveMixture(sides[0], sides[1], None, 5)
    assert mixture.recorded_share(Needs()) == 60 / (60 + 24)
    assert mixture.recorded_share(Needs(view="segments", length=4)) == 60 / (60 + 24)
    assert mixture.recorded_share(Needs(view="segments", length=0)) == 10 / (10 + 6)


def test_a_prefilled_replay_begins_with_the_newest_of_the_data_and_forgets_it_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = world("continuous")  # ten episodes of 4 to 8 steps
    marked = replace(recorded, rewards=torch.full_like(recorded.rewards, 77.0))
    score_in_point_env(monkeypatch)
    fields = {"online": True, "algorithm": "td3-bc", "prefill": True, "replay_capacity": 30, "reward_scale": 2.0}
    with pytest.raises(DataError, match="replay of 7 rows cannot hold the last recorded episode, which has 8 steps"):
        small_run(tmp_path / "small", marked, **{**fields, "replay_capacity": 7})
    assert int(recorded.lengths[-1]) == 8
    with watched(monkeypatch) as (sources, batches, _):
        small_run(tmp_path / "run", marked, steps=60, **fields)
    assert bool(batches[0].rewards.eq(154.0).all())
    # The last four have 26 steps, five would have 32... of 30 rows.
    assert len(sources[0].given) == next(
        count for count in range(10, 0, -1) if int(recorded.lengths[-count:].sum()) <= 30
    )
    ring = sources[0].ring
    assert not bool(ring.transitions(torch.arange(len(ring))).rewards.eq(154.0).any())
    assert sources[0].files.folder.is_dir() and ring.count > ring.oldest >= len(sources[0].given)
    fit = len(sources[0].given)
    assert f"the last {fit} of 10 recorded episodes fit into a replay of 30 rows" in capsys.readouterr().err


def test_init_takes_over_networks_and_the_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"environment": "coordination", "warmup_steps": 20, "steps": 20}
    small_run(tmp_path / "first", None, "cql", **given)
    count = last_state(tmp_path / "first")["source"]["ring"]["count"]
    fields = {**given, "algorithm": "cql", "warmup_steps": 0, "init": str(tmp_path / "first"), "checkpoint_every": 5}
    with watched(monkeypatch) as (sources, _, played):
        small_run(tmp_path / "second", None, **fields)
    assert played[0] == 1 and sources[0].ring.oldest == 0 and sources[0].ring.count == count + 3
    # It has them in files of its own: the other run may go.
    start_and_kill(tmp_path / "killed", None, 12, **fields)
    (tmp_path / "first").rename(tmp_path / "gone")
    resume(tmp_path / "killed")
    refuse_difference(ending(tmp_path / "second"), ending(tmp_path / "killed"))
    resumed = EpisodeFiles(tmp_path / "killed" / "replay", Spec((9,) * 3, (3,) * 3, action_kind="discrete"))
    assert len(list(chain(*resumed.read(0, count + 3)))) == count + 3


def test_a_replay_of_another_environment_is_left_where_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small_run(
        tmp_path / "first", None, "td3-bc", steps=5, **{key: value for key, value in live().items() if key != "dataset"}
    )
    given = {key: value for key, value in live(after=3).items() if key != "dataset"}
    with watched(monkeypatch) as (sources, _, _):
        small_run(tmp_path / "second", None, "td3-bc", steps=5, init=str(tmp_path / "first"), **given)
    assert "is of another environment and is not taken over" in capsys.readouterr().err
    assert sources[0].player.steps >= sum(
        len(episode) for episode in chain(*sources[0].files.read(0, sources[0].ring.count))
    )


@pytest.mark.parametrize(
    ("changed", "taken"),
    [({}, True), ({"settings": {"ratio": 0}}, False), ({"max_steps": 9}, False), ({"scenario": "elsewhere"}, False)],
)
def test_the_environments_of_two_data_sets_are_compared_by_what_they_were_made_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], changed: Any, taken: bool
) -> None:
    score_in_point_env(monkeypatch)
    recorded = {"scenario": "here", "settings": {"ratio": 1}}
    first, second = (replace(world("continuous"), metadata={**recorded, **more}) for more in ({}, changed))
    given: dict[str, Any] = {"algorithm": "td3-bc", "online": True, "warmup_steps": 10, "steps": 5}
    small_run(tmp_path / "first", first, **given)
    small_run(tmp_path / "second", second, init=str(tmp_path / "first"), **given)
    said = capsys.readouterr().err
    assert ("takes over the replay" in said, "is of another environment" in said) == (taken, not taken)


def test_an_environment_is_the_same_by_its_name_and_by_the_data_recorded_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"algorithm": "cql", "warmup_steps": 20, "steps": 5}
    small_run(tmp_path / "first", "coordination-mix-v0", online=True, **given)
    small_run(tmp_path / "second", None, environment="coordination", init=str(tmp_path / "first"), **given)
    assert "takes over the replay" in capsys.readouterr().err


def test_over_the_memory_that_it_may_take_the_replay_lies_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {
        "environment": "coordination",
        "warmup_steps": 20,
        "steps": 40,
        "replay_capacity": 40,
        "checkpoint_every": 15,
    }
    found = {}
    for name, memory in (("memory", 4.0), ("disk", 1e-6)):
        with watched(monkeypatch) as (sources, _, _):
            small_run(tmp_path / name, None, "cql", memory=memory, **given)
        found[name] = sources[0].ring._folder
        assert not leftovers(tmp_path / name)
    assert found == {"memory": None, "disk": tmp_path / "disk" / "replay"}
    ends = [ending(tmp_path / name) for name in found]
    for end in ends:
        end["done"].pop("memory", None)
    refuse_difference(*ends)


def test_the_global_state_counts_towards_the_memory_that_a_replay_may_take() -> None:
    spec = Spec((1,), (1,), state_dim=1_000)
    config = RunConfig(algorithm="td3-bc", environment="x", steps=100, warmup_steps=0, memory=1e-4)
    assert online._is_mapped(config, spec, 10, [], True)
    assert not online._is_mapped(config, spec, 10, [], False)


@pytest.mark.long
def test_a_checkpoint_is_as_large_with_a_full_replay_as_with_an_empty_one(tmp_path: Path) -> None:
    given = {"environment": "coordination", "warmup_steps": 12, "checkpoint_every": 30, "keep_checkpoints": 0}
    small_run(tmp_path / "run", None, "cql", steps=300, updates_per_step=0.5, **given)
    sizes = [path.stat().st_size for path in sorted((tmp_path / "run" / "checkpoints").iterdir())]
    assert len(sizes) == 10 and max(sizes[1:]) - min(sizes[1:]) < 3_000  # one more episode under way, or less
    files = sorted((tmp_path / "run" / "replay").glob("episodes_*"))
    assert len(files) == 10 and max(path.stat().st_size for path in files[1:]) < 1.2 * files[1].stat().st_size


@pytest.mark.long
def test_files_of_episodes_that_left_go_when_no_checkpoint_that_stays_needs_them(tmp_path: Path) -> None:
    given = {"environment": "coordination", "warmup_steps": 12, "checkpoint_every": 30, "replay_capacity": 60}
    for keep in (2, 0):
        small_run(tmp_path / str(keep), None, "cql", steps=300, keep_checkpoints=keep, **given)
    spec = Spec((9,) * 3, (3,) * 3, action_kind="discrete")
    few, all_of_them = (sorted((tmp_path / str(keep) / "replay").glob("episodes_*")) for keep in (2, 0))
    assert len(few) <= 5 < len(all_of_them) == 10
    # The older checkpoint that stays can still be gone on from.
    newest = max((tmp_path / "2" / "checkpoints").iterdir())
    held = last_state(tmp_path / "2")["source"]["ring"]
    newest.unlink()
    older = last_state(tmp_path / "2")["source"]["ring"]
    assert older["count"] < held["count"]
    assert list(chain(*EpisodeFiles(tmp_path / "2" / "replay", spec).read(older["oldest"], older["count"])))


@pytest.mark.parametrize("how", ["deleted", "cut short"])
def test_where_the_newest_episodes_are_lost_a_run_goes_on_from_the_checkpoint_before_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    fields = {"environment": "coordination", "warmup_steps": 12, "checkpoint_every": 10, "replay_capacity": 60}
    small_run(tmp_path / "straight", None, "cql", **fields)
    start_and_kill(tmp_path / "hurt", None, 35, **fields, algorithm="cql")
    newest = max((tmp_path / "hurt" / "replay").glob("episodes_*"))
    if how == "deleted":
        newest.unlink()
    else:
        newest.write_bytes(newest.read_bytes()[:-8])
    resume(tmp_path / "hurt")
    assert "Going on from step_000000020.safetensors." in capsys.readouterr().err
    refuse_difference(ending(tmp_path / "straight"), ending(tmp_path / "hurt"))


ALONE = [name for name in algorithms.names() if learns_alone(algorithms.get(name).needs)]


@pytest.mark.parametrize("beside_data", [False, True])
@pytest.mark.parametrize("algorithm", ALONE)
def test_every_learner_of_recorded_rows_plays_and_never_knows_where_its_rows_come_from(
    tmp_path: Path, algorithm: str, beside_data: bool
) -> None:
    needs = algorithms.get(algorithm).needs
    choices = 0 if "continuous" in needs.actions else 3
    given = live(trouble="is left", choices=choices)
    if needs.origin == "environment":
        given.pop("warmup_steps")
    if needs.origin == "model":
        small = {"hidden": [8], "members": 1, "batch_size": 4, **({"elites": 1} if algorithm == "moma-ppo" else {})}
        given |= {"round_steps": 4, "tokenizer_updates": 1, "model_updates": 1, "first_rounds": 1, "fit": small}
    if beside_data and needs.origin == "data":
        task = find_environment_task("live_worlds:make", given["env_settings"], permit=ImportPath)
        given |= {"dataset": saved(tmp_path, play_uniformly(task, 60)), "online": True}
    small_run(tmp_path / "run", algorithm=algorithm, **{"steps": 8, **given})
    done = json.loads((tmp_path / "run" / "DONE").read_text())
    assert done["score"]["online"] is True and done["environment_steps"] >= 8
