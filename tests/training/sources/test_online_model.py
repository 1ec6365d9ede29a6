"""Learners of imagined episodes that play: rounds of play, fit and imagination, and that a restart changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from every_work import TOKENS
from runs import ending, last_state, leftovers, refuse_difference, rows, small_run, start_and_kill

from offline_marl.core.config import ConfigError
from offline_marl.core.types import Batch, DataError, Episode, Spec
from offline_marl.datasets.episode_ring import EpisodeRing
from offline_marl.runs import stopping
from offline_marl.tasks import environment_tasks
from offline_marl.training import training_run
from offline_marl.training.models import cost
from offline_marl.training.models.rows import Visits
from offline_marl.training.run import evaluate, resume, train
from offline_marl.training.sources.online_model import GrowingFit, OnlineModelSource, RoundPace
from offline_marl.worldmodels.facts import measure
from offline_marl.worldmodels.marie import Marie

NORMALS = {"hidden": [8], "members": 3, "elites": 2, "batch_size": 8}
ROUNDS: dict[str, Any] = {
    "dataset": None,
    "environment": "coordination",
    "steps": 11,
    "warmup_steps": 20,
    "round_steps": 10,
    "tokenizer_updates": 2,
    "model_updates": 3,
    "imagined_updates": 4,
    "first_rounds": 2,
    "horizon": 3,
    "checkpoint_every": 3,
    "log_every": 1,
    "final_episodes": 2,
}
RUNS: dict[str, dict[str, Any]] = {
    "tokens of choices": {"algorithm": "marie", "fit": TOKENS, "balanced_sampling": 2.0, "behaviour_temperature": 2.0},
    "tokens of bodies": {
        "algorithm": "marie",
        "environment": "rendezvous",
        "fit": {**TOKENS, "tokenizer": "vq", "vocabulary": 4, "dropout": 0.1},
        "window": 2,
        "replay_copies": 2,
        "cutoff_quantile": 0.9,
        "reward_scale": 3.0,
    },
    "an ensemble": {
        "algorithm": "moma-ppo",
        "fit": NORMALS,
        "replay_capacity": 25,
        "balanced_sampling": 1.0,
        "start_share": 0.5,
    },
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_run, "draw_run", lambda *_: None)
    monkeypatch.setattr(environment_tasks, "UNIFORM_STEPS", 60)


@pytest.mark.parametrize(
    "name", ["an ensemble", *(pytest.param(name, marks=pytest.mark.slow) for name in RUNS if name != "an ensemble")]
)
def test_a_run_that_was_killed_in_mid_round_ends_as_one_that_was_not(name: str, tmp_path: Path) -> None:
    fields = {**ROUNDS, **RUNS[name]}
    small_run(tmp_path / "straight", **fields)
    for step in (1, 7):  # before the first checkpoint, and where the one before lies within a round
        out = tmp_path / str(step)
        start_and_kill(out, step=step, **fields)
        resume(out)
        refuse_difference(ending(tmp_path / "straight"), ending(out))
        assert not leftovers(out)


def test_a_run_of_tokens_goes_on_within_a_round_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    fields = {**ROUNDS, **RUNS["tokens of choices"], "steps": 6, "fit": {**TOKENS, "members": 1, "layers": 1}}
    small_run(tmp_path / "straight", **fields)
    start_and_kill(tmp_path / "killed", step=4, **fields)
    resume(tmp_path / "killed")
    refuse_difference(ending(tmp_path / "straight"), ending(tmp_path / "killed"))


@pytest.mark.parametrize("at", [0, 3, 7])  # in the tokenizer's updates, in the model's, in the second round's
def test_a_run_that_is_asked_to_stop_answers_in_the_middle_of_a_fit_and_goes_on_from_there(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {**ROUNDS, **RUNS["tokens of choices"], "steps": 6, "fit": {**TOKENS, "members": 1, "layers": 1}}
    fields |= {"first_rounds": 1}
    learn, learnt = Marie.learn, 0

    def counted(self: Marie, phase: Any, batch: Batch) -> Any:
        nonlocal learnt
        learnt += 1
        if learnt == at + 1:
            stopping.asked.set()
        return learn(self, phase, batch)

    small_run(tmp_path / "straight", **fields)
    monkeypatch.setattr(Marie, "learn", counted)
    try:
        with pytest.raises(stopping.StoppedEarly):
            small_run(tmp_path / "stopped", **fields)
    finally:
        stopping.asked.clear()
    assert learnt == at + 1, "no update more"
    resume(tmp_path / "stopped")
    assert learnt == 10, "none twice"
    refuse_difference(ending(tmp_path / "straight"), ending(tmp_path / "stopped"))


def test_the_cost_of_all_rounds_is_told_before_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("SHORT", 0.0), ("LONG", 0.0), ("products_a_second", lambda: 1e12)):
        monkeypatch.setattr(cost, name, value)
    fields = {**ROUNDS, "steps": 5, "batch_size": 12, "fit": {**TOKENS, "members": 1, "layers": 1, "commitment": 1.0}}
    small_run(tmp_path / "run", **fields, algorithm="marie")
    told = capsys.readouterr().err
    # Two rounds, the first with two rounds' updates: 3 times 2 + 3. Eight of the learner's, of 4 starts and 3 steps.
    assert "about 0 hours on this CPU for 15 updates of the model and 96 imagined steps" in told and "marie of" in told
    assert "warning: marie with these settings reads no commitment." in told


def test_the_replay_has_room_for_all_of_a_last_round_that_makes_few_updates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rings: list[EpisodeRing] = []
    sample = OnlineModelSource.sample

    def noted(self: OnlineModelSource, needs: Any) -> Batch:
        rings.append(self.replay.ring)
        return sample(self, needs)

    monkeypatch.setattr(OnlineModelSource, "sample", noted)
    small_run(
        tmp_path / "run", **{**ROUNDS, **RUNS["an ensemble"], "steps": 5, "round_steps": 90, "replay_capacity": 999}
    )
    assert len(rings[0]) >= 180 and rings[0].oldest == 0


def test_rounds_play_fit_and_imagine_as_often_as_they_are_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt: list[str] = []
    learn = Marie.learn

    def noted(self: Marie, phase: Any, batch: Batch) -> Any:
        learnt.append(phase)
        return learn(self, phase, batch)

    monkeypatch.setattr(Marie, "learn", noted)
    small_run(tmp_path / "run", **ROUNDS, algorithm="marie", fit=TOKENS)
    later = ["tokenizer"] * 2 + ["model"] * 3
    assert learnt == ["tokenizer"] * 4 + ["model"] * 6 + later * 2, "the first round has those of two"
    told = [row for row in rows(tmp_path / "run") if row["kind"] == "train"]
    assert [row["environment_steps"] for row in told] == [30] * 4 + [40] * 4 + [50] * 3
    assert len({row["model/loss"] for row in told[:4]}) == 1 < len({row["model/loss"] for row in told})
    assert all(row["model/error"] > 0 for row in told)
    assert all(0 < row["model/tokenizer/in_use"] <= 1 and row["model/tokenizer/error"] > 0 for row in told)
    done = json.loads((tmp_path / "run" / "DONE").read_text())
    assert done["score"]["online"] is True and done["score"]["environment_steps"] == 50
    assert evaluate(tmp_path / "run", 2).environment_steps == 50


@pytest.mark.parametrize(("steps", "updates"), [(30, 4), (49, 8), (50, 12)])
def test_environment_steps_pay_for_whole_rounds(tmp_path: Path, steps: int, updates: int) -> None:
    given = {"device": "cpu", **ROUNDS, "environment_steps": steps, "fit": NORMALS, "hidden": [8], "batch_size": 16}
    for name in ("steps", "dataset"):
        given.pop(name)
    train("moma-ppo", None, out=tmp_path / "run", eval_every=0, **given)
    done = json.loads((tmp_path / "run" / "DONE").read_text())
    assert (done["steps"], done["environment_steps"]) == (updates, 20 + updates // 4 * 10)


def test_the_temperature_is_of_the_environment_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, set[float]] = {"play": set(), "imagine": set()}
    sample = OnlineModelSource.sample

    def watched(self: OnlineModelSource, needs: Any) -> Batch:
        play, imagine = self.replay.play, self.imagination.imagine

        def noted(name: str, call: Any) -> Any:
            def run(*given: Any) -> Any:
                found[name].add(self.learner.behaviour_temperature)
                return call(*given)

            return run

        monkeypatch.setattr(self.replay, "play", noted("play", play))
        monkeypatch.setattr(self.imagination, "imagine", noted("imagine", imagine))
        return sample(self, needs)

    monkeypatch.setattr(OnlineModelSource, "sample", watched)
    small_run(tmp_path / "run", **{**ROUNDS, "steps": 2}, algorithm="marie", fit=TOKENS, behaviour_temperature=0.25)
    assert found == {"play": {0.25}, "imagine": {1.0}}


def test_the_model_learns_what_the_environment_pays_and_the_learner_what_it_is_to_learn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources: list[OnlineModelSource] = []
    sample = OnlineModelSource.sample

    def kept(self: OnlineModelSource, needs: Any) -> Batch:
        sources.append(self)
        return sample(self, needs)

    monkeypatch.setattr(OnlineModelSource, "sample", kept)
    for scale in (1.0, 100.0):
        small_run(
            tmp_path / str(scale),
            **{**ROUNDS, "steps": 1, "imagined_updates": 1},
            algorithm="moma-ppo",
            fit=NORMALS,
            reward_scale=scale,
        )
    plain, scaled = sources
    every = torch.arange(20)
    assert torch.equal(plain.replay.ring.transitions(every).rewards, scaled.replay.ring.transitions(every).rewards)
    refuse_difference(plain.fit.model.state_dict(), scaled.fit.model.state_dict())
    assert scaled.imagination.rewards.factor == 100.0


def test_played_rows_widen_the_borders_that_imagination_is_clipped_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[GrowingFit] = []
    proceed = GrowingFit.proceed

    def kept(self: GrowingFit) -> None:
        self.model.facts_low.fill_(1e6)
        self.model.facts_reward_high.fill_(-1e6)
        proceed(self)
        fits.append(self)

    monkeypatch.setattr(GrowingFit, "proceed", kept)
    small_run(tmp_path / "run", **{**ROUNDS, "steps": 1}, algorithm="moma-ppo", fit=NORMALS)
    ring, facts = fits[0].ring, fits[0].model.facts
    held = ring.transitions(torch.arange(len(ring)))
    seen = torch.minimum(facts.join(held.obs).amin(0), facts.join(held.next_obs).amin(0))
    assert torch.equal(facts.low, seen) and torch.equal(facts.reward_high, held.rewards.amax(0))


def test_the_pace_of_rounds_by_hand() -> None:
    pace = RoundPace(100, 3 / 70, 3)
    assert [pace.due(update) for update in range(7)] == [170, 170, 170, 240, 240, 240, 310]


def test_what_uniform_play_never_moved_is_nothing_small_and_nothing_shared() -> None:
    spec = Spec((3, 3), (2, 2), action_kind="discrete")
    obs = torch.randn(50, 2, 3)
    obs[:, :, 2] = 0.0  # never moves, of neither agent
    obs[:, 1, 0] = obs[:, 0, 0]  # seen by both
    after = obs.roll(-1, 0)
    nothing = torch.zeros(50, 2)
    plain = measure(spec, obs, after, nothing, nothing.bool())
    growing = measure(spec, obs, after, nothing, nothing.bool(), growing=True)
    assert (plain.coordinates, growing.coordinates) == (4, 5)
    assert growing.place.tolist() == [0, 1, 2, 0, 3, 4]
    assert growing.obs_std[2] == growing.change_std[4] == growing.reward_std[0] == 1.0
    assert plain.obs_std[2] == plain.reward_std[0] == torch.tensor(1e-3)
    assert growing.terminates and not plain.terminates
    assert plain.team_rewards and not growing.team_rewards
    assert torch.equal(growing.obs_std[:2], plain.obs_std[:2])


# --- balanced sampling ----------------------------------------------------------------------------------------------
def ring_of(*lengths: int, capacity: int = 10) -> EpisodeRing:
    ring = EpisodeRing(Spec((1,), (2,), action_kind="discrete"), capacity, 5)
    ring.extend(episode(length) for length in lengths)
    return ring


def episode(length: int) -> Episode:
    return Episode(
        obs=torch.zeros(length + 1, 1, 1),
        actions=torch.zeros(length, 1, dtype=torch.int64),
        rewards=torch.zeros(length, 1),
        terminations=torch.zeros(length, 1, dtype=torch.bool),
        truncations=torch.zeros(length, 1, dtype=torch.bool),
    )


def test_steps_that_were_drawn_often_come_seldom() -> None:
    visits = Visits(1.0, torch.device("cpu"))
    visits.follow(ring_of(2, 2))
    visits.times += torch.tensor([0.0, 1.0, 50.0, 50.0])
    drawn = visits.draw(4_000, torch.Generator().manual_seed(0)).bincount(minlength=4)
    share = 1 / (1 + torch.tensor(-1.0).exp())  # e^0 beside e^-1
    assert drawn[2:].sum() == 0 and abs(drawn[0] / 4_000 - share) < 0.03
    assert visits.times.tolist() == [float(drawn[0]), 1.0 + float(drawn[1]), 50.0, 50.0]


def test_counts_of_draws_stay_with_their_steps_as_the_replay_moves_on() -> None:
    visits, ring = Visits(1.0, torch.device("cpu")), ring_of(3, 4)
    visits.follow(ring)
    visits.times += torch.arange(1.0, 8.0)
    ring.extend([episode(5)])  # the first one leaves
    visits.follow(ring)
    assert visits.times.tolist() == [4, 5, 6, 7, 0, 0, 0, 0, 0]
    visits.follow(ring)
    assert visits.times.tolist() == [4, 5, 6, 7, 0, 0, 0, 0, 0]
    ring.extend([episode(5), episode(5), episode(5)])  # all leave, one that was never counted among them
    visits.follow(ring)
    assert visits.times.tolist() == [0] * 10


# --- refusals -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("algorithm", "fields", "error", "message"),
    [
        ("marie", {"world_model": "oracle"}, ConfigError, "names a kind that learns, .* not oracle"),
        ("moma-ppo", {"world_model": "models/mine"}, ConfigError, "not .*models/mine"),
        ("marie", {"fit": {"tokenizer_steps": 5}}, ConfigError, "--fit tokenizer_steps is of a fit that ends"),
        ("marie", {"fit": {"tokens_of": "observations"}}, ConfigError, "takes tokens of residuals"),
        ("moma-ppo", {"fit": {"sampling": "bootstrap"}}, ConfigError, "a replay grows"),
        ("moma-ppo", {"fit": {"sise": 3}}, ConfigError, "sise"),
        ("moma-ppo", {"spread": "token_entropy"}, DataError, "token_entropy needs a world model that tells tokens"),
        ("marie", {"spread": "max_aleatoric"}, DataError, "max_aleatoric needs members that tell a deviation"),
        ("marie", {"updates_per_step": 2.0}, ConfigError, "give --round-steps and --imagined-updates"),
        ("marie", {"explore_steps": 10}, ConfigError, "leave --explore-steps away"),
        ("marie", {"teacher": "simulated"}, ConfigError, "leave --teacher away"),
        ("marie", {"real_fraction": 0.5}, ConfigError, "takes no --real-fraction"),
        ("marie", {"prefill": True}, ConfigError, "--prefill fills the replay with recorded episodes"),
        ("marie", {"environment_steps": 25}, ConfigError, "25 pays for no update: the first comes after 30"),
        ("marie", {"replay_capacity": 5}, DataError, "cannot hold one whole episode"),
        ("vdn", {"round_steps": 50}, ConfigError, "--round-steps is for runs that play and learn in a world model"),
        (
            "marie",
            {"environment": None, "dataset": "coordination-mix-v0", "balanced_sampling": 3.0},
            ConfigError,
            "--balanced-sampling is for runs that play",
        ),
        (
            "marie",
            {"dataset": "coordination-mix-v0", "online": True},
            ConfigError,
            "marie with --dataset learns in a world model of that alone, and plays nothing: it takes no --online",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_sentence(
    tmp_path: Path, algorithm: str, fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = {"environment": "coordination", "device": "cpu", "warmup_steps": 20, "round_steps": 10, **fields}
    if "round_steps" not in fields and ("dataset" in fields):
        for name in ("round_steps", "warmup_steps"):
            given.pop(name)
    if algorithm == "vdn":
        given.pop("warmup_steps")
    with pytest.raises(error, match=message):
        train(algorithm, given.pop("dataset", None), out=tmp_path / "run", **given)
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["marie", "moma-ppo"])
def test_agents_near_what_they_are_paid_for_nearing(tmp_path: Path, algorithm: str) -> None:
    """Untrained networks return -3.7 here."""
    tokens = {"tokens": 1, "levels": [8], "guess": [32], "length": 5, "width": 16, "layers": 1, "heads": 1}
    fits = {
        "marie": {**tokens, "decoding": "parallel", "members": 1, "batch_size": 16, "hidden": [32]},
        "moma-ppo": {**NORMALS, "hidden": [32], "batch_size": 64},
    }
    result = train(
        algorithm,
        None,
        environment="live_worlds:make",
        env_settings={"choices": 3},
        environment_steps=900,
        warmup_steps=300,
        round_steps=100,
        first_rounds=5,
        tokenizer_updates=30,
        model_updates=15,
        imagined_updates=8,
        horizon=5,
        batch_size=300,
        minibatch_size=100,
        lr=2e-3,
        hidden=[32],
        fit=fits[algorithm],
        eval_every=0,
        out=tmp_path / "run",
        device="cpu",
    )
    assert result.score is not None and result.score.mean > -3.2


@pytest.mark.parametrize(
    "name",
    [
        "simple-spread",
        pytest.param("simple-reference", marks=pytest.mark.long),
        pytest.param("simple-tag-prey", marks=pytest.mark.long),
        pytest.param("halfcheetah_2x3_full", marks=pytest.mark.long),
    ],
)
def test_tasks_of_others_are_played_and_imagined(tmp_path: Path, name: str) -> None:
    fields = {**ROUNDS, "environment": name, "max_steps": 25, "steps": 2, "round_steps": 25, "warmup_steps": 25}
    small_run(tmp_path / "run", **fields, algorithm="marie", fit=TOKENS)
    state = last_state(tmp_path / "run")["source"]
    assert state["environment_steps"] == 50 and state["fit"]["counts"][0] == 1
