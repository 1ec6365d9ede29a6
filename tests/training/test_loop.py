from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tqdm import tqdm
from worlds import SPECS, world

from offline_marl.algorithms.base import Algorithm, AlgorithmConfig
from offline_marl.core.axes import AxisError
from offline_marl.core.types import DataError
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.environments.scores import summarize
from offline_marl.training.loop import CheckpointHook, DivergedError, EvaluateHook, LogHook, train


class Counter(Algorithm):
    """Its one parameter counts updates; its loss is that number, or NaN from a step on."""

    def __init__(self, bad_from: int | None = None) -> None:
        super().__init__(AlgorithmConfig(), SPECS["continuous"])
        self.count = torch.nn.Parameter(torch.zeros(()))
        self.bad_from = bad_from

    def update(self, batch):
        self.count.data += 1
        bad = self.bad_from is not None and self.count >= self.bad_from
        return {"loss/count": torch.tensor(float("nan")) if bad else self.count.detach().clone(), "two": torch.ones(())}


BATCH = TransitionBuffer(world("continuous"), state=False).transitions(torch.arange(4))


class Source:
    def __init__(self, batch=BATCH):
        self.batch = batch

    def sample(self, needs):
        return self.batch


class Keeper:
    """A logger that keeps rows."""

    def __init__(self):
        self.rows = []

    def write(self, kind, row):
        self.rows.append((kind, dict(row)))

    def close(self):
        pass


@pytest.fixture
def keeper():
    return Keeper()


@pytest.fixture
def bar():
    with tqdm(total=100, disable=True) as quiet:
        yield quiet


def test_each_step_is_one_update_and_every_hook_hears_of_it():
    heard = []
    learner = Counter()
    train(learner, Source(), [lambda step, *_: heard.append(step)] * 2, range(3, 6))
    assert heard == [3, 3, 4, 4, 5, 5] and learner.count == 3


def test_a_batch_whose_axes_disagree_is_refused_before_the_update():
    learner = Counter()
    with pytest.raises(AxisError, match="rewards"):
        train(learner, Source(replace(BATCH, rewards=BATCH.rewards[:, :2])), [], range(1, 3))
    assert learner.count == 0


def test_a_row_is_the_mean_over_its_period(keeper, bar):
    train(Counter(), Source(), [LogHook([keeper], 4, bar)], range(1, 11))
    assert [(kind, row["step"], row["loss/count"]) for kind, row in keeper.rows] == [
        ("train", 4, 2.5),
        ("train", 8, 6.5),
    ]
    assert all(row["two"] == 1.0 and row["wall_s"] >= 0 for _, row in keeper.rows)


def test_elapsed_time_counts_earlier_processes(keeper, bar):
    assert LogHook([keeper], 4, bar, elapsed=100.0).elapsed >= 100.0


def test_a_loss_that_is_not_finite_stops_the_run_and_says_which_and_when(keeper, bar):
    learner = Counter(bad_from=7)
    with pytest.raises(DivergedError, match=r"loss/count became nan at step 7;"):
        train(learner, Source(), [LogHook([keeper], 5, bar)], range(1, 101))
    assert learner.count == 10, "found at the end of its period"
    assert [row["step"] for _, row in keeper.rows] == [5]


def test_a_diverged_state_is_never_saved(keeper, bar):
    saved = []
    log = LogHook([keeper], 50, bar)
    with pytest.raises(DivergedError, match="step 7"):
        train(Counter(bad_from=7), Source(), [log, CheckpointHook(saved.append, 4, 100, log)], range(1, 101))
    assert saved == [4]


def test_parameters_that_overflowed_at_a_finite_loss_are_never_saved(keeper, bar):
    class Overflows(Counter):
        def update(self, batch):
            metrics = super().update(batch)
            if self.count == 8:
                self.count.data.fill_(float("inf"))
            return metrics

    saved = []
    log = LogHook([keeper], 50, bar)
    with pytest.raises(DivergedError, match="count is no longer finite at step 8"):
        train(Overflows(), Source(), [log, CheckpointHook(saved.append, 4, 100, log)], range(1, 101))
    assert saved == [4]


def test_checkpoints_come_at_their_period_and_at_the_last_step(keeper, bar):
    for every, expected in ((4, [4, 8, 10]), (0, [10]), (5, [5, 10]), (100, [10])):
        saved = []
        log = LogHook([keeper], 50, bar)
        train(Counter(), Source(), [log, CheckpointHook(saved.append, every, 10, log)], range(1, 11))
        assert saved == expected


def test_what_is_pending_is_written_before_a_checkpoint(keeper, bar):
    at_save = []
    log = LogHook([keeper], 7, bar)
    saving = CheckpointHook(lambda step: at_save.append(keeper.rows[-1][1]["step"]), 10, 20, log)
    train(Counter(), Source(), [log, saving], range(1, 21))
    assert at_save == [10, 20]
    assert [row["step"] for _, row in keeper.rows] == [7, 10, 14, 20]


def test_evaluations_come_at_their_period_but_the_last_step_is_scored_apart(keeper, bar):
    returns = iter([1.0, 5.0, 3.0])
    log = LogHook([keeper], 100, bar)
    hook = EvaluateHook(lambda: summarize(np.array([next(returns)])), 5, 20, log)
    train(Counter(), Source(), [log, hook], range(1, 21))
    scored = [row for kind, row in keeper.rows if kind == "eval"]
    assert [row["step"] for row in scored] == [5, 10, 15]
    assert hook.history["best"]["step"] == 10 and hook.history["last"]["step"] == 15


@pytest.mark.parametrize(("every", "score"), [(0, summarize), (5, None)])
def test_without_a_period_or_an_environment_nothing_is_scored(keeper, bar, every, score):
    hook = EvaluateHook(score, every, 20, LogHook([keeper], 100, bar))
    train(Counter(), Source(), [hook], range(1, 21))
    assert keeper.rows == [] and hook.history == {"best": None, "last": None}


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"loss/a": 0.5}, r"'loss/a' that `update` returned at step 2 is of type float"),
        ({"loss/a": torch.zeros(3)}, r"'loss/a' that `update` returned at step 2 is of shape \(3,\)"),
        ({}, r"At step 2 `update` returned other metrics than at step 1 \(loss/a\)"),
    ],
)
def test_metrics_that_no_row_can_hold_are_refused_by_name(keeper, bar, second, said):
    answers = iter([{"loss/a": torch.ones(())}, second])
    with pytest.raises(DataError, match=said):
        train(Counter(), Source(), [LogHook([keeper], 2, bar)], range(1, 3), lambda batch: next(answers))


def test_a_learner_that_tells_nothing_still_has_rows(keeper, bar):
    train(Counter(), Source(), [LogHook([keeper], 2, bar)], range(1, 3), lambda batch: {})
    assert [row.keys() for _, row in keeper.rows] == [{"step", "wall_s"}]
