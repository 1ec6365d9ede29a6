from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from compared import compare, small_reward
from worlds import saved, world

from offline_marl.tasks.data_tasks import open_task
from offline_marl.training.preferences import report as room
from offline_marl.training.preferences.folders import ComparisonFolder
from offline_marl.training.preferences.labelled import CREDITED, Judged
from offline_marl.training.preferences.splits import load_split


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def data(place) -> str:
    return saved(place, world("continuous", episodes=40))


@pytest.fixture(scope="module")
def parts(place, data):
    comparisons = compare(place / "c", data, target="agents", budget=200, length=3)
    fit = small_reward(place / "model", data, comparisons)
    with ComparisonFolder(comparisons) as folder:
        split = load_split(folder, 600, 0.1, 0, "cpu")
        return fit, split, folder.store.facts()


class Paying:
    """Pays every agent what the environment pays, or something else."""

    mean = torch.zeros(1)

    def __init__(self, pay) -> None:
        self.pay = pay

    def predict(self, batch):
        rewards = self.pay(batch)
        return torch.stack([rewards, rewards]).masked_fill(~batch.mask, 0.0)

    def scores(self, batch):
        return self.predict(batch).sum(-2)


def measured(parts, data, pay):
    _, split, facts = parts
    return room.measure_reward_model(Paying(pay), split, open_task(data).data, facts)


def test_a_model_that_pays_the_true_reward_reaches_the_bayes_rate(parts, data) -> None:
    report = measured(parts, data, lambda batch: batch.rewards)
    accuracy, truth = report["accuracy"], report["true_returns"]
    assert report["trusted"] and accuracy["share_of_bayes"] == pytest.approx(1.0)
    assert accuracy["expected"] == pytest.approx(accuracy["bayes"]) and accuracy["bayes"] > 0.6
    assert {truth["team"]["rank"], truth["steps"]["rank"], *(one["rank"] for one in truth["agents"])} == {1.0}
    assert truth["episodes"] >= 8 and len(truth["agents"]) == 3


def test_a_model_that_pays_the_opposite_is_no_better_than_chance(parts, data) -> None:
    report = measured(parts, data, lambda batch: -batch.rewards)
    assert not report["trusted"] and report["accuracy"]["share_of_bayes"] == pytest.approx(-1.0)
    assert report["true_returns"]["team"]["rank"] == -1.0


def test_a_model_that_pays_every_step_alike_says_so(parts, data) -> None:
    report = measured(parts, data, lambda batch: torch.zeros_like(batch.rewards))
    assert len(report["reasons"]) == 2 and "pays every step alike" in report["reasons"][1]
    assert report["loss"]["held_out"] == pytest.approx(math.log(2), abs=1e-6)


def test_the_teachers_own_scale_is_calibrated_and_loses_least(parts, data) -> None:
    _, split, facts = parts
    # 5 times the difference over the scale is the teacher's own margin.
    honest = 5.0 / facts["scale"]["scale"]
    losses = [
        measured(parts, data, lambda batch, factor=factor: batch.rewards * factor)["loss"]["held_out"]
        for factor in (honest / 4, honest, honest * 4)
    ]
    assert losses[1] == min(losses)
    assert measured(parts, data, lambda batch: batch.rewards * honest)["loss"]["bayes"] == pytest.approx(losses[1], 0.1)


def test_ties_lose_at_least_log_2(place, data) -> None:
    comparisons = compare(place / "ties", data, budget=200, length=3, steepness="perfect", equal=0.3)
    with ComparisonFolder(comparisons) as folder:
        split = load_split(folder, 200, 0.1, 0, "cpu")
        told = room.measure_reward_model(
            Paying(lambda batch: batch.rewards), split, open_task(data).data, folder.store.facts()
        )
    ties = int((split.held_out.values == 0.5).sum())
    assert 0 < ties < len(split.held_out)
    assert told["loss"]["bayes"] == pytest.approx(math.log(2) * ties / len(split.held_out))


def test_labels_about_an_agent_that_is_away_in_both_segments_count_for_nothing(parts, data) -> None:
    _, split, facts = parts
    held_out = split.held_out
    mask = held_out.segments.mask.clone()
    mask[..., 1] = False
    away = replace(held_out, segments=replace(held_out.segments, mask=mask))
    report = room.measure_reward_model(
        Paying(lambda batch: batch.rewards), replace(split, held_out=away), open_task(data).data, facts
    )
    others = (held_out.values != 0.5) & (held_out.targets != 1)
    assert report["accuracy"]["labels"] == int(others.sum()) < len(held_out)
    assert report["accuracy"]["share_of_bayes"] == pytest.approx(1.0)


def test_calibration_by_hand(parts) -> None:
    _, split, _ = parts
    four = type(split.held_out)(
        split.held_out.segments, split.held_out.sides[:4], torch.tensor([1.0, 1.0, 0.0, 0.5]),
        split.held_out.targets[:4], split.held_out.labels[:4],
    )  # fmt: skip
    made = room._calibration(four, torch.tensor([0.85, 0.85, 0.85, 0.55]))
    # .85 three times: two of three say so; mirrored .15. .55 with a tie: .5.
    assert made["counts"] == [0, 1.5, 0, 0, 0.5, 0.5, 0, 0, 1.5, 0]
    assert made["observed"][8] == pytest.approx(2 / 3) and made["predicted"][8] == pytest.approx(0.85)
    assert made["expected_calibration_error"] == pytest.approx((3 * (0.85 - 2 / 3) + 0.05) / 4)


def test_where_it_is_unsure_is_told_by_agent_and_by_time(parts, data) -> None:
    class Torn(Paying):
        def predict(self, batch):
            first = batch.obs[..., 0].masked_fill(~batch.mask, 0.0)
            second = first.clone()
            second[:, -1:] += 1.0  # only where the longest episodes end
            second[..., 1] += 2.0
            return torch.stack([first, second]).masked_fill(~batch.mask, 0.0)

    _, split, facts = parts
    unsure = room.measure_reward_model(Torn(None), split, open_task(data).data, facts)["unsure"]
    by_agent, by_time = unsure["by_agent"], unsure["by_tenth_of_the_episode"]
    assert by_agent[1] > 2 * max(by_agent[0], by_agent[2]) and len(unsure["episodes"]) == 5
    known = [value for value in by_time if value is not None]
    assert by_time[-1] is None or by_time[-1] >= known[0]


def test_credit_is_compared_among_agents_that_are_there(parts, data) -> None:
    _, split, _ = parts
    there = split.train.segments.mask.clone()
    there[:, :, 2] = False
    segments = replace(split.train.segments, mask=there)
    split = replace(split, train=replace(split.train, segments=segments))
    rows, best = torch.arange(4), torch.zeros(4)
    judged = Judged(rows, best, torch.full_like(rows, -1), torch.full_like(rows, CREDITED))
    costs = Paying(lambda batch: torch.tensor([-1.0, -2.0, -3.0]).expand_as(batch.rewards))
    told = room.measure_reward_model(costs, replace(split, judged_held_out=judged), open_task(data).data, {})
    assert told["judged"]["credit_accuracy"] == 1.0


def test_nothing_seen_is_measured(parts, data) -> None:
    _, split, _ = parts
    spec = open_task(data).data
    numbers = {key for key in split.seen}
    report = measured(parts, data, lambda batch: batch.rewards)
    assert report["true_returns"]["episodes"] == len(spec.lengths) - len(numbers)


def test_wilsons_interval_by_hand() -> None:
    # Of ten right all: 1 / (1 + 1.96^2 / 10) at the low end.
    low, high = room.wilson(10, 10)
    assert low == pytest.approx(1 / (1 + 1.96**2 / 10)) and high == pytest.approx(1.0)
    low, high = room.wilson(5, 10)
    assert low + high == pytest.approx(1.0)
