"""Runs that learn their reward while acting: rounds, versions, restarts, and people who take their time."""

from __future__ import annotations

import json
import re
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from runs import SMALL, ending, leftovers, refuse_difference, rows, small_run, start_and_kill

from offline_marl.algorithms.base import algorithms
from offline_marl.core.config import ConfigError
from offline_marl.core.errors import BadInputError
from offline_marl.core.types import Batch, DataError, Spec
from offline_marl.labelling.desk import Desk
from offline_marl.labelling.leases import Leases
from offline_marl.labelling.places import find_folder, scene_of
from offline_marl.labelling.questions import Asking
from offline_marl.launch.cli.terminal import Canvas, draw_run
from offline_marl.preferences.answers import Judgement
from offline_marl.preferences.label_store import LabelStore
from offline_marl.preferences.labels import Label
from offline_marl.runs import checkpoint
from offline_marl.runs.combinations import learns_alone
from offline_marl.runs.config import RunConfig
from offline_marl.runs.folder import RunFolder
from offline_marl.runs.live import RunWatcher, held_files
from offline_marl.runs.loading import load, make_algorithm
from offline_marl.runs.stopping import StoppedEarly, asked
from offline_marl.tasks import environment_tasks
from offline_marl.training import training_run
from offline_marl.training.preferences import course, paid_sources, questions
from offline_marl.training.preferences.folders import ComparisonFolder
from offline_marl.training.preferences.labelled import Labelled
from offline_marl.training.preferences.paid_sources import PaidReplay, begin_critics_anew
from offline_marl.training.preferences.questions import Questions, marks, run_id
from offline_marl.training.run import prepare, resume, train
from offline_marl.training.sources import recorded
from offline_marl.training.training_run import TrainingSession

QUICK: dict[str, Any] = {
    "dataset": None,
    "steps": 37,
    "checkpoint_every": 5,
    "queries": 12,
    "queries_per_round": 4,
    "query_length": 6,
    "query_recent": 20,
    "reward_fit": {"hidden": [8], "batch_size": 8, "members": 2},
    "reward_updates": 20,
}
REPLAY = {"algorithm": "masac", "environment": "rendezvous", "warmup_steps": 20}
TASKS: dict[str, dict[str, Any]] = {
    "all of pebble": {
        **REPLAY,
        "explore_steps": 10,
        "reward_fit": {**QUICK["reward_fit"], "surf_weight": 1.0, "surf_threshold": 0.5},
        "reward_bonus": 1.0,
        "reward_bonus_decay": 0.01,
    },
    "discrete and recurrent, a ring that drops": {
        "algorithm": "vdn",
        "environment": "coordination",
        "warmup_steps": 20,
        "query_target": "agents",
        "reward_credit": "own",
        "replay_capacity": 24,
        "query_length": 3,
    },
    "on-policy": {
        "algorithm": "ma-ppo",
        "environment": "rendezvous",
        "batch_size": 16,
        "explore_steps": 60,
        "query_every": 80,
    },
    "exploration alone": {**REPLAY, "explore_steps": 20, "queries": 1400, "queries_per_round": 20, "query_length": 50,
                          "query_recent": 100, "reward_updates": 200, "reward_fit": {}},
}  # fmt: skip


def hurry(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(training_run, "draw_run", lambda *_: None)
    patch.setattr(environment_tasks, "UNIFORM_STEPS", 100)
    patch.setattr(course, "REFRESH_EVERY", 7)
    patch.setattr(course, "POLL_S", 0.01)
    patch.setattr(paid_sources, "POLL_EVERY", 3)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all of pebble, which tests read only."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        small_run(out, **fields_of("all of pebble"))
    return out


def fields_of(name: str, **more: Any) -> dict[str, Any]:
    teacher = {} if name == "exploration alone" else {"teacher": "simulated"}
    return {**QUICK, **teacher, **TASKS[name], **more}


def versions(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]


# --- restarts -------------------------------------------------------------------------------------------------------
def test_a_run_that_was_killed_ends_as_one_that_was_not(undisturbed: Path, tmp_path: Path) -> None:
    refuse_another_end("all of pebble", undisturbed, tmp_path, 24)


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_a_run_of_any_kind_that_was_killed_anywhere_ends_as_one_that_was_not(name: str, tmp_path: Path) -> None:
    small_run(tmp_path / "straight", **fields_of(name))
    for step in (3, 24):  # before the first checkpoint, and between later ones
        refuse_another_end(name, tmp_path / "straight", tmp_path, step)


def refuse_another_end(name: str, straight: Path, folder: Path, step: int) -> None:
    """Fail if a run that is killed right after this step does not end as the straight one."""
    out = folder / str(step)
    start_and_kill(out, step=step, **fields_of(name))
    resume(out)
    refuse_difference(ending(straight), ending(out))
    if name != "exploration alone":
        assert versions(out) == versions(straight) and len(versions(out)) == 3
    assert not leftovers(out)


@pytest.mark.slow
def test_every_step_of_the_replay_is_paid_by_the_newest_version(tmp_path: Path, monkeypatch) -> None:
    kept: list[PaidReplay] = []
    sample = PaidReplay.sample

    def watched(self: PaidReplay, needs: Any) -> Any:
        kept[:] = [self]
        return sample(self, needs)

    monkeypatch.setattr(PaidReplay, "sample", watched)
    small_run(tmp_path / "run", **fields_of("all of pebble", query_every=5, reward_bonus=0.0))
    replay, reward = kept[0].replay, kept[0].course.reward
    assert reward.version == 3 and reward.source == "learned"
    paid = replay.ring.segments(replay.ring._first, 10)
    told = reward(paid)
    assert torch.allclose(paid.rewards, told, atol=1e-6)
    true = torch.cat([episode.rewards for _, episode in replay.played()])
    assert not torch.allclose(paid.rewards.flatten(0, 1), true)


def test_what_a_teacher_says_does_not_depend_on_how_a_run_is_watched(undisturbed: Path, tmp_path: Path) -> None:
    config = RunFolder(undisturbed).config()
    watched = {"log_every": 3, "checkpoint_every": 0, "eval_episodes": 1, "workers": 2, "memory": 9.0, "device": "cuda"}
    assert run_id(config.model_copy(update=watched)) == run_id(config)
    assert run_id(config.model_copy(update={"seed": 9})) != run_id(config)
    fields = {**fields_of("all of pebble"), "checkpoint_every": 9, "log_every": 5, "final_episodes": 1}
    small_run(tmp_path / "run", **fields)
    told = [_labels(out) for out in (undisturbed, tmp_path / "run")]
    assert told[0] and told[0] == told[1]


def test_a_run_keeps_the_name_that_it_had_in_its_store(tmp_path: Path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(questions, "run_id", lambda config: "of_old")
        start_and_kill(tmp_path / "run", step=30, **fields_of("all of pebble"))
    resume(tmp_path / "run")
    with LabelStore(tmp_path / "run" / "preferences" / "labels.sqlite") as store:
        assert {side.source for one in store.pairs() for side in (one.pair.first, one.pair.second)} == {"run:of_old"}


def _labels(out: Path) -> list[tuple[str, str]]:
    with LabelStore(out / "preferences" / "labels.sqlite") as store:
        return [(label.pair_id, label.answer) for label in store.labels()]


def test_the_budget_is_kept_and_rows_say_how_much_was_labelled(tmp_path: Path) -> None:
    small_run(tmp_path / "run", **fields_of("all of pebble", queries=10))
    told = versions(tmp_path / "run")
    assert [one["labels"] for one in told] == [4, 8, 10]
    assert [one["environment_steps"] for one in told] == sorted(one["environment_steps"] for one in told)
    assert told[0]["environment_steps"] == 30, "the first round comes as the exploration ends"
    with LabelStore(tmp_path / "run" / "preferences" / "labels.sqlite") as store:
        assert len(store.pairs()) == len(store.labels()) == 10
    last = [row for row in rows(tmp_path / "run") if row["kind"] == "train"][-1]
    assert (last["labels"], last["reward_version"]) == (10, 3)
    done = json.loads((tmp_path / "run" / "DONE").read_text())
    assert (done["labels"], done["reward_version"]) == (10, 3)


def test_without_queries_the_reward_stays_as_it_was_drawn(tmp_path: Path) -> None:
    small_run(tmp_path / "run", **fields_of("all of pebble", queries=0, explore_steps=0))
    assert [(one["labels"], one["updates"]) for one in versions(tmp_path / "run")] == [(0, 0)]


LEARNERS = [
    name
    for name in algorithms.names()
    if algorithms.get(name).needs.origin == "data" and learns_alone(algorithms.get(name).needs)
]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", LEARNERS)
def test_every_learner_that_plays_learns_from_a_teacher(tmp_path: Path, algorithm: str) -> None:
    discrete = "continuous" not in algorithms.get(algorithm).needs.actions
    task = {"environment": "coordination" if discrete else "rendezvous", "warmup_steps": 20}
    small_run(tmp_path / "run", algorithm=algorithm, teacher="simulated", **{**QUICK, **task, "steps": 12})
    assert versions(tmp_path / "run")[-1]["labels"] > 0


# --- what is begun anew, and what is taken over ---------------------------------------------------------------------
def test_critics_begin_anew_and_policies_stay(undisturbed: Path) -> None:
    learner = load(undisturbed)
    config = RunConfig(**json.loads((undisturbed / "config.json").read_text()))
    actor = {name: value.clone() for name, value in learner.actor.state_dict().items()}
    fresh = make_algorithm(config, learner.spec)
    assert not torch.equal(_first(learner.critic), _first(fresh.critic))
    begin_critics_anew(learner, config)
    for name in ("critic", "target_critic", "temperature"):
        refuse_difference(dict(getattr(learner, name).state_dict()), dict(getattr(fresh, name).state_dict()))
    refuse_difference(dict(learner.actor.state_dict()), actor)
    remembered = {parameter for optimizer in learner.optimizers.values() for parameter in optimizer.state}
    assert remembered == set(learner.actor.parameters())


@pytest.mark.parametrize("algorithm", algorithms.names())
@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_what_acts_stays_whatever_a_learner_calls_it(algorithm: str, kind: Any) -> None:
    entry = algorithms.get(algorithm)
    if kind not in entry.needs.actions or entry.needs.origin != "data" or not learns_alone(entry.needs):
        pytest.skip("does not replay such actions")
    spec = Spec((3, 2), (2, 2), action_kind=kind)
    config = prepare(algorithm, "any", SMALL)
    learner = make_algorithm(config, spec)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(1.0)
    before = {name: value.clone() for name, value in learner.state_dict().items() if isinstance(value, torch.Tensor)}
    begin_critics_anew(learner, config)
    stays = {name for name, _ in learner.named_children() if not name.endswith(("critic", "value", "mixer"))}
    if not {"actor", "policy"} & stays:
        stays = {name for name, _ in learner.named_children()}
    stays -= {"temperature"}
    for name, value in learner.named_parameters():
        assert torch.equal(value, before[name]) == (name.partition(".")[0] in stays), name


def _first(module: torch.nn.Module) -> torch.Tensor:
    return next(iter(module.parameters()))


@pytest.mark.slow
def test_exploration_is_done_once_and_taken_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_run(tmp_path / "explored", **{**fields_of("exploration alone"), "explore_steps": 37})
    fields = {**fields_of("all of pebble"), "explore_steps": 0, "init": str(tmp_path / "explored")}
    fields.pop("warmup_steps")
    small_run(tmp_path / "straight", **fields)
    told = capsys.readouterr().err
    assert "takes over the replay" in told and re.search("begins with .*actor", told)
    first = versions(tmp_path / "straight")[0]
    assert (first["environment_steps"], first["labels"]) == (1, 4), "there is enough to ask about at once"
    start_and_kill(tmp_path / "killed", step=13, **fields)
    resume(tmp_path / "killed")
    refuse_difference(ending(tmp_path / "straight"), ending(tmp_path / "killed"))


@pytest.mark.slow
def test_a_run_that_explores_to_its_end_is_never_paid_otherwise(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(course.RewardCourse, "begin_anew", None, raising=False)
    small_run(tmp_path / "run", **{**fields_of("exploration alone"), "explore_steps": 37})
    _, state = next(iter(_states(tmp_path / "run")))
    assert state["source"]["course"]["reward"]["source"] == "novelty"
    small_run(tmp_path / "paid", **fields_of("exploration alone"))
    _, state = next(iter(_states(tmp_path / "paid")))
    assert state["source"]["course"]["reward"]["source"] == "environment"


def _states(out: Path) -> Any:
    return checkpoint.candidates(out / "checkpoints")


# --- people ---------------------------------------------------------------------------------------------------------
class People(threading.Thread):
    """Answers whatever is open, the first of every pair, until it is told to stop."""

    def __init__(self, run: Path, patience: int | None = None) -> None:
        super().__init__(daemon=True)
        self.file, self.left, self.over = run / "preferences" / "labels.sqlite", patience, threading.Event()

    def run(self) -> None:
        while not self.over.is_set() and self.left != 0:
            if self.file.exists():
                with LabelStore(self.file) as store:
                    known = {label.pair_id for label in store.labels()}
                    for one in store.pairs():
                        if one.pair.id not in known and self.left != 0:
                            store.add([Label(one.pair.id, "first" if len(known) % 2 else "second", "ann")])
                            known.add(one.pair.id)
                            self.left = None if self.left is None else self.left - 1
            time.sleep(0.01)


@pytest.fixture
def people():
    hired: list[People] = []

    def hire(run: Path, patience: int | None = None) -> People:
        hired.append(People(run, patience))
        hired[-1].start()
        return hired[-1]

    yield hire
    for each in hired:
        each.over.set()
        each.join()
    asked.clear()


def test_a_run_waits_for_people_is_stopped_meanwhile_and_loses_no_answer(tmp_path, people, capsys) -> None:
    fields, out = {**fields_of("all of pebble"), "teacher": "human"}, tmp_path / "run"
    impatient = people(out, patience=6)  # of the second round, half

    def stop_once_stuck() -> None:
        impatient.join()
        time.sleep(0.2)
        asked.set()

    threading.Thread(target=stop_once_stuck, daemon=True).start()
    with pytest.raises(StoppedEarly):
        small_run(out, **fields)
    told = capsys.readouterr().err
    assert "4 questions are open, and the run waits for people: `offline-marl label" in told
    with LabelStore(out / "preferences" / "labels.sqlite") as store:
        assert (len(store.labels()), len(store.pairs())) == (6, 8)
    place = find_folder(out)
    assert place == out / "preferences", "the page finds the questions by the run"
    with ComparisonFolder(place) as folder:
        assert scene_of(folder)[1] == "rendezvous"
    status = RunWatcher(out).look(held_files())
    assert status.questions == (2, 8)
    assert "2 of 8 questions wait for an answer" in draw_run(status, Canvas(80, None, True))
    asked.clear()
    people(out)
    resume(out)
    with LabelStore(out / "preferences" / "labels.sqlite") as store:
        labels = store.labels()
    assert len(labels) == 12 and [one["labels"] for one in versions(out)] == [4, 8, 12]


def test_what_is_new_is_told_apart_from_old_answers_that_were_taken_back(tmp_path: Path, monkeypatch) -> None:
    answer, told_right, judged_by = Questions.answer, course._told_right, list[int]()

    def answer_and_take_back(self: Questions) -> None:
        with self.open() as folder:
            before = [label for label in folder.store.labels() if not label.revision][:2]
            for label, said in zip(before, ("withdrawn", "equal"), strict=False):
                folder.store.add([replace(label, answer=said, revision=1)])
        answer(self)

    def watched(labelled: Any, model: Any) -> float | None:
        judged_by.append(len(labelled))
        return told_right(labelled, model)

    monkeypatch.setattr(Questions, "answer", answer_and_take_back)
    monkeypatch.setattr(course, "_told_right", watched)
    small_run(tmp_path / "run", **fields_of("on-policy", **SHORT))
    assert judged_by == [4, 4, 5, 7], "of the second version 4 answers and a revised one are new, of 3 and 4"


@pytest.mark.parametrize(("target", "agents"), [("agent_0", [0]), ("agents", None), ("team", None)])
def test_a_team_is_paid_by_those_that_the_teacher_speaks_of(tmp_path: Path, target: str, agents: list | None) -> None:
    small_run(tmp_path / "run", **fields_of("on-policy", query_target=target, **SHORT))
    _, state = next(iter(_states(tmp_path / "run")))
    assert state["source"]["course"]["reward"].get("agents") == agents


def test_people_may_open_the_page_before_the_first_round(tmp_path: Path) -> None:
    out = tmp_path / "run"
    start_and_kill(out, step=1, **fields_of("all of pebble", teacher="human"))
    place = find_folder(out)
    assert place == out / "preferences"
    with ComparisonFolder(place) as folder:
        assert scene_of(folder)[1] == "rendezvous" and Desk(folder, Asking(), Leases()).lease("ann", 4) == []
    assert RunWatcher(out).look(held_files()).questions == (0, 0)
    (place / "labels.sqlite").unlink()  # as a run of an earlier version has none by then
    with pytest.raises(DataError, match="has asked nothing yet: name it again once it plays"):
        find_folder(out)


def test_ratings_and_credit_are_learnt_from_beside_labels(undisturbed: Path, tmp_path: Path, monkeypatch) -> None:
    answer = Questions.answer

    def answer_and_judge(self: Questions) -> None:
        answer(self)
        with self.open() as folder:
            keys = {key for one in folder.store.pairs() for key in (one.pair.first, one.pair.second)}
            credit = [Judgement("credit", key, "agent_1", "ann") for key in keys]
            folder.store.judge([*credit, *(Judgement("rating", key, "5", "ann") for key in keys)])

    monkeypatch.setattr(Questions, "answer", answer_and_judge)
    small_run(tmp_path / "judged", **fields_of("all of pebble"))
    assert [one["labels"] for one in versions(tmp_path / "judged")] == [one["labels"] for one in versions(undisturbed)]
    assert versions(tmp_path / "judged")[0]["scale"] != versions(undisturbed)[0]["scale"]
    noted = [fact for name, fact in _facts(tmp_path / "judged").items() if name.startswith("fit")]
    assert all(fact["judgements"] for fact in noted)
    start_and_kill(tmp_path / "killed", step=30, **fields_of("all of pebble"))
    resume(tmp_path / "killed")
    refuse_difference(ending(tmp_path / "judged"), ending(tmp_path / "killed"))


def test_episodes_that_wait_for_people_are_learnt_from_after_a_stop(tmp_path, people, monkeypatch) -> None:
    waited = threading.Event()
    wait = SimpleNamespace(sleep=lambda _: asked.set() if waited.is_set() else time.sleep(0.01))
    monkeypatch.setattr(course, "time", wait)
    fields = {**fields_of("on-policy"), "teacher": "human", "steps": 5, "queries": 4, "queries_per_round": 2}
    fields |= {"explore_steps": 0, "query_every": 30, "reward_updates": 5, "final_episodes": 1}
    people(tmp_path / "whole")
    small_run(tmp_path / "whole", **fields)
    waited.set()
    with pytest.raises(StoppedEarly):
        small_run(tmp_path / "cut", **fields)
    asked.clear()
    with pytest.raises(StoppedEarly):
        resume(tmp_path / "cut")
    asked.clear()
    waited.clear()
    people(tmp_path / "cut")
    resume(tmp_path / "cut")
    refuse_difference(ending(tmp_path / "whole"), ending(tmp_path / "cut"))


@pytest.mark.slow
def test_a_killed_run_learns_from_the_answers_that_it_had_learnt_from(tmp_path, people) -> None:
    fields, out = {**fields_of("all of pebble"), "teacher": "human", "checkpoint_every": 0}, tmp_path / "run"
    people(out)
    start_and_kill(out, step=30, **fields)  # no checkpoint: everything is made again
    before = [one for one in _facts(out).items() if one[0].startswith("fit")]
    resume(out)
    assert before and [one for one in _facts(out).items() if one[0].startswith("fit")][: len(before)] == before
    with LabelStore(out / "preferences" / "labels.sqlite") as store:
        assert len(store.pairs()) == len(store.labels()) == 12, "no question was asked twice"


def _facts(out: Path) -> dict[str, Any]:
    with LabelStore(out / "preferences" / "labels.sqlite") as store:
        return store.facts()


@pytest.mark.slow
def test_a_run_that_need_not_wait_goes_on_and_takes_answers_up_as_they_come(tmp_path, people) -> None:
    fields = {**fields_of("all of pebble"), "teacher": "human", "query_wait": False}
    small_run(tmp_path / "alone", **fields)
    with LabelStore(tmp_path / "alone" / "preferences" / "labels.sqlite") as store:
        assert len(store.pairs()) == 12 and not store.labels()
    assert not (tmp_path / "alone" / "rounds.jsonl").exists(), "nothing was learnt from nothing"
    out, long = tmp_path / "answered", {**fields, "steps": 300}
    people(out)
    small_run(out, **long)
    fits = {name: fact for name, fact in _facts(out).items() if name.startswith("fit")}
    assert fits and versions(out)[-1]["labels"] == 12
    # What was learnt when is written down: from no checkpoint at all the same comes of it.
    straight = ending(out)
    for path in (out / "checkpoints").iterdir():
        path.unlink()
    (out / "DONE").unlink()
    resume(out)
    refuse_difference(straight["state"], ending(out)["state"])
    assert {name: fact for name, fact in _facts(out).items() if name.startswith("fit")} == fits


SHORT: dict[str, Any] = {"steps": 3, "explore_steps": 30, "query_every": 20, "queries": 8, "final_episodes": 1}
SHORT |= {"reward_updates": 3, "epochs": 1}
"""Three updates of `ma-ppo`, of which the first explores."""


@pytest.mark.parametrize("answered", [True, False])
def test_an_on_policy_run_looks_for_answers_at_every_update(tmp_path, monkeypatch, capsys, answered: bool) -> None:
    ask = Questions.ask

    def ask_and_answer(self: Questions, *args: Any) -> int:
        count = ask(self, *args)
        with self.open() as folder:
            folder.store.add([Label(one.pair.id, "first", "ann") for one in folder.store.pairs() if answered])
        return count

    monkeypatch.setattr(Questions, "ask", ask_and_answer)
    small_run(tmp_path / "run", **fields_of("on-policy", teacher="human", query_wait=False, **SHORT))
    told = capsys.readouterr().err
    warned = "warning: the run ended before any learned reward paid for a step: it was paid for what is new alone"
    assert (warned in told) != answered
    assert not answered or [one["labels"] for one in versions(tmp_path / "run")] == [4, 8]


def test_people_can_be_shown_what_an_on_policy_run_played(tmp_path: Path) -> None:
    small_run(tmp_path / "run", **fields_of("on-policy", **SHORT))
    shown = _copies(tmp_path / "run")
    assert shown.state is not None and shown.state.shape == (*shown.rewards.shape[:2], 3)
    assert torch.equal(shown.state[..., :2], shown.obs[..., 0]), "where both stand"


@pytest.mark.parametrize("every", [1, 0])
def test_a_run_whose_first_rounds_hold_no_states_goes_on(tmp_path: Path, monkeypatch, every: int) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(recorded, "_rows", lambda *args, rows=recorded._rows: rows(*args[:3]))
        start_and_kill(tmp_path / "run", step=2, **{**fields_of("on-policy", **SHORT), "checkpoint_every": every})
    resume(tmp_path / "run")
    assert [one["labels"] for one in versions(tmp_path / "run")] == [4, 8]
    assert _copies(tmp_path / "run").state is None


def _copies(out: Path) -> Batch:
    with ComparisonFolder(out / "preferences") as folder:
        return folder.copies(folder.store.pairs()).segments


@pytest.mark.slow
def test_a_team_learns_from_comparisons_alone_that_motion_costs(tmp_path: Path) -> None:
    """Nobody finds the posts in so few steps: -0.0005 on the true reward, -0.009 here, -0.043 on one that was drawn."""
    fields = {**REPLAY, "hidden": [32, 32], "batch_size": 64, "lr": 1e-3, "warmup_steps": 200, "explore_steps": 200}
    model = {"hidden": [32, 32], "alpha": 0.0, "joint": True, "batch_size": 32}
    asking = {"queries": 200, "queries_per_round": 50, "query_length": 10, "reward_fit": model}
    given = {**SMALL, **fields, **asking, "environment_steps": 1_700, "final_episodes": 50, "checkpoint_every": 0}
    given |= {"teacher": "simulated", "teacher_settings": {"steepness": "perfect"}}
    given.pop("steps")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(course, "REFRESH_EVERY", 1_000)
        result = train(given.pop("algorithm"), None, out=tmp_path / "run", **given)
    assert result.score is not None and result.score.mean > -0.02
    assert versions(tmp_path / "run")[-1]["labels"] == 200


# --- schedules and refusals -----------------------------------------------------------------------------------------
def test_rounds_come_evenly_or_ever_more_seldom_or_at_a_period() -> None:
    def told(**fields: Any) -> list[float]:
        return list(marks(RunConfig(algorithm="masac", environment="rendezvous", **fields), 10, 110.0, 4))

    assert told() == [10, 35, 60, 85]
    early = told(query_schedule="exponential", query_rate=1.0)
    assert early == [10, 13, 21, 45], "100 (e^i - 1) / (e^4 - 1) = 3.2, 11.9, 35.6"
    assert told(query_every=7) == [10, 17, 24, 31]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"teacher": None}, "--queries is for runs with a --teacher: simulated or human"),
        ({"teacher": "human", "teacher_settings": {"discount": 0.9}}, "people are as they are"),
        ({"teacher": "human", "query_target": "agents"}, "people say themselves of whom they speak"),
        ({"query_wait": False}, "--no-query-wait is for --teacher human"),
        ({"query_target": "agent_7"}, "'agent_7' is no target of a label"),
        ({"teacher_settings": {"patience": 3}}, "Unknown field 'patience'"),
        ({"reward_fit": {"hiden": [8]}}, "Unknown field 'hiden': did you mean 'hidden'"),
        ({"reward_kind": "terry"}, "terry"),
        ({"reward_model": "somewhere"}, "--reward-model pays for it already"),
        ({"reward_scale": "range"}, "--reward-scale range measures recorded returns"),
        ({"reward_offset": 2.0}, "--reward-offset is for a --reward-model"),
        ({"reward_bonus": 1.0, "reward_fit": {"recurrent": True}}, "which a recurrent one cannot tell"),
        ({"query_every": 5, "query_schedule": "exponential"}, "leave --query-schedule away"),
        ({"explore_steps": 60}, "ends after 80 environment steps and the run after 57, before any of its 12 queries"),
        ({"algorithm": "maddpg", "engine": "local"}, "--engine learns from what its own learners draw"),
        ({"algorithm": "maddpg", "answers_of": "x"}, "--answers-of learns from what its own learners draw"),
        ({"dataset": "rendezvous-mix-v0", "online": True}, r"label it first \(prefs pairs\), and give --reward-model"),
        ({"algorithm": "bc"}, "bc learns from recorded data"),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_sentence(tmp_path: Path, fields: dict, message: str) -> None:
    given = {**SMALL, **fields_of("all of pebble", explore_steps=0, reward_bonus=0.0), **fields}
    if given["teacher"] is None:
        given = {**SMALL, **REPLAY, "queries": 3, "dataset": None}
    with pytest.raises((ConfigError, BadInputError), match=message) as caught:
        train(given.pop("algorithm"), given.pop("dataset"), out=tmp_path / "run", **given)
    assert str(caught.value).count("\n") == 0
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_run_that_ends_before_its_rounds_warns_how_many_queries_are_left(tmp_path: Path, capsys) -> None:
    small_run(tmp_path / "run", **fields_of("on-policy", **{**SHORT, "queries": 20, "query_every": 10}))
    warned = "warning: 8 of 20 queries come before the run ends, after 48 steps: rounds of 4 are 10 steps apart"
    assert warned in capsys.readouterr().err
    small_run(tmp_path / "all", **fields_of("on-policy", **{**SHORT, "queries": 8, "query_every": 10}))
    assert "queries come before" not in capsys.readouterr().err


def test_exploration_needs_something_to_play(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--explore-steps pays for what a run sees new, and --dataset is recorded"):
        train("cql", "rendezvous-mix-v0", out=tmp_path / "run", explore_steps=5)
    with pytest.raises(ConfigError, match="--explore-neighbours measures what --explore-steps pay for"):
        train("cql", None, out=tmp_path / "run", environment="rendezvous", explore_neighbours=3)


def test_the_session_tells_of_no_labels_where_nobody_compares(tmp_path: Path) -> None:
    small_run(tmp_path / "run", **fields_of("exploration alone"))
    assert "labels" not in rows(tmp_path / "run")[0]
    assert TrainingSession.at_most is False


def test_labels_about_who_is_away_in_both_segments_are_not_told_wrong() -> None:
    mask = torch.tensor([[[True, False]], [[True, False]]])
    flags, obs = torch.zeros_like(mask), torch.zeros(2, 1, 2, 3)
    segments = Batch(obs, obs, torch.zeros(2, 1, 2), obs, flags, flags, mask=mask)
    model: Any = SimpleNamespace(scores=lambda batch: torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]))
    sides, values = torch.tensor([[0, 1], [0, 1]]), torch.tensor([1.0, 1.0])
    labelled = Labelled(segments, sides, values, torch.tensor([0, 1]), ())
    assert course._told_right(labelled, model) == 1.0
    nobody = replace(labelled, targets=torch.tensor([1, 1]))
    assert course._told_right(nobody, model) is None
