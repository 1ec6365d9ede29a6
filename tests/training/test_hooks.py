"""Callbacks of one's own in a run: when they are called, what is saved of them, what becomes of a run without them."""

from __future__ import annotations

import pytest
import torch
from runs import (
    SMALL,
    Killed,
    checkpoints,
    ending,
    kill_at,
    last_state,
    refuse_difference,
    score_in_point_env,
    small_run,
)
from worlds import saved, world

from offline_marl import resume, train
from offline_marl.core.config import ConfigError
from offline_marl.runs import checkpoint
from offline_marl.runs.stopping import asked


class Average:
    """A moving average of the first weight, that can be saved."""

    def __init__(self, name: str | None = None) -> None:
        self.value = torch.zeros(())
        self.steps: list[int] = []
        if name is not None:
            self.name = name

    def __call__(self, step, learner, metrics):
        self.steps.append(step)
        self.value = 0.9 * self.value + 0.1 * next(learner.parameters()).detach().flatten()[0]

    def state_dict(self):
        return {"value": self.value, "steps": list(self.steps)}

    def load_state_dict(self, state):
        self.value, self.steps = state["value"], list(state["steps"])


@pytest.fixture
def data(tmp_path):
    return saved(tmp_path, world("continuous"))


def killed_at_30(out, data, *hooks):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 30)
        small_run(out, data, hooks=hooks)


def test_a_hook_is_called_after_every_update_with_the_learner_and_its_metrics(tmp_path, data):
    heard = []
    result = small_run(tmp_path / "run", data, hooks=[lambda *told: heard.append(told)])
    assert [step for step, _, _ in heard] == list(range(1, 61))
    assert all(learner is result.algorithm and "loss/actor" in metrics for _, learner, metrics in heard)


def test_a_run_with_hooks_learns_and_saves_what_it_does_without(tmp_path, data, monkeypatch):
    score_in_point_env(monkeypatch)
    small_run(tmp_path / "without", data)
    small_run(tmp_path / "with", data, hooks=[lambda *told: None])
    refuse_difference(ending(tmp_path / "without"), ending(tmp_path / "with"))


def test_hooks_come_after_the_row_and_the_evaluation_of_a_step_in_their_order_and_before_its_checkpoint(
    tmp_path, data, monkeypatch
):
    score_in_point_env(monkeypatch)
    heard = []

    def look(name):
        def hook(step, learner, metrics):
            if step == 40:
                rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
                scores = (tmp_path / "run" / "eval.csv").read_text().splitlines()
                heard.append((name, rows[-1].split(",")[0], scores[-1].split(",")[0], checkpoints(tmp_path / "run")))

        return hook

    small_run(tmp_path / "run", data, eval_every=40, log_every=20, hooks=[look("first"), look("second")])
    assert heard == [("first", "40", "40", [20]), ("second", "40", "40", [20])]


def test_a_hook_with_a_state_goes_on_as_if_the_run_had_never_stopped(tmp_path, data):
    straight, killed, again = Average(), Average(), Average()
    small_run(tmp_path / "straight", data, hooks=[straight])
    killed_at_30(tmp_path / "killed", data, killed)
    resume(tmp_path / "killed", hooks=[again])
    assert again.steps == straight.steps == list(range(1, 61)) and torch.equal(again.value, straight.value)
    refuse_difference(last_state(tmp_path / "straight"), last_state(tmp_path / "killed"))


def test_states_are_kept_by_name_and_else_by_class(tmp_path, data):
    small_run(tmp_path / "run", data, hooks=[Average("slow"), Average()])
    assert set(last_state(tmp_path / "run")["hooks"]) == {"slow", "Average"}
    slow, other = Average("slow"), Average()
    resume(tmp_path / "run", hooks=[other, slow])
    assert len(slow.steps) == len(other.steps) == 60, "the hooks of a finished run can be read again"


def test_going_on_without_a_hook_that_was_saved_warns_in_one_line(tmp_path, data, capsys):
    killed_at_30(tmp_path / "run", data, Average("slow"))
    capsys.readouterr()
    resume(tmp_path / "run")
    said = [line for line in capsys.readouterr().err.splitlines() if "the hook " in line]
    assert said == [
        "warning: the run was begun with the hook slow, which is not given now: it goes on without, and without what "
        "was saved of it."
    ]
    resume(tmp_path / "run")
    assert "the hook " not in capsys.readouterr().err, "a finished run goes on with nothing"


def test_a_hook_that_is_new_to_a_run_begins_where_the_run_goes_on(tmp_path, data):
    killed_at_30(tmp_path / "run", data)
    late = Average()
    resume(tmp_path / "run", hooks=[late])
    assert late.steps == list(range(21, 61))


def test_a_hook_that_raises_ends_the_run_and_the_last_checkpoint_stays(tmp_path, data):
    def broken(step, learner, metrics):
        if step == 45:
            raise RuntimeError("no more room for what I count")

    with pytest.raises(RuntimeError, match="no more room for what I count"):
        small_run(tmp_path / "run", data, hooks=[broken])
    assert checkpoints(tmp_path / "run") == [40, 20] and not (tmp_path / "run" / "DONE").exists()
    resume(tmp_path / "run")
    small_run(tmp_path / "straight", data)
    refuse_difference(last_state(tmp_path / "straight"), last_state(tmp_path / "run"))


def test_a_run_that_is_stopped_where_its_budget_ends_makes_no_update_more(tmp_path, data, monkeypatch):
    score_in_point_env(monkeypatch)
    fields = {**SMALL, "environment_steps": 60, "epochs": 1, "final_episodes": 2}
    del fields["steps"]
    steps = []
    train("ma-ppo", data, out=tmp_path / "straight", hooks=[lambda step, *_: steps.append(step)], **fields)

    def stop(step, *_):
        if step == steps[-1]:
            asked.set()

    try:
        train("ma-ppo", data, out=tmp_path / "stopped", hooks=[stop], **fields)
    finally:
        asked.clear()
    refuse_difference(ending(tmp_path / "straight"), ending(tmp_path / "stopped"))
    assert last_state(tmp_path / "stopped")["ended"]


@pytest.mark.parametrize(
    ("hooks", "sentence"),
    [([Average(), Average()], "Two hooks with a state are called Average"), (["log"], "The hook str cannot be called")],
    ids=["two of one name", "no function"],
)
def test_hooks_that_cannot_be_used_are_refused_before_the_folder_is_taken(tmp_path, data, hooks, sentence):
    with pytest.raises(ConfigError, match=sentence):
        small_run(tmp_path / "run", data, hooks=hooks)
    assert not (tmp_path / "run" / "config.json").exists()
    assert checkpoint.found(tmp_path / "run" / "checkpoints") == []
