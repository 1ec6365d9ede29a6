from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from runs import SMALL, score_in_point_env, small_fit, small_run
from worlds import reacher_recording, saved, world

from offline_marl.algorithms.base import algorithms
from offline_marl.core.config import build
from offline_marl.core.partition import partition
from offline_marl.core.types import Batch, DataError, Episode, Needs, Source, Spec
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.normalize import best_values
from offline_marl.runs.config import RunConfig
from offline_marl.runs.folder import RunFolder
from offline_marl.tasks.data_tasks import Task, open_task
from offline_marl.training import rewards as room
from offline_marl.training.models import fit as fitting
from offline_marl.training.rewards import Rewards
from offline_marl.training.sources.choose import plan_source

DATA = world("continuous")


def taught(batch: Batch) -> torch.Tensor:
    """Nothing of the environment's reward is in it."""
    return 3.0 + batch.obs[..., 0]


def of_one_agent(*episodes: tuple[float, ...]) -> Dataset:
    def episode(rewards: tuple[float, ...]) -> Episode:
        ended = torch.zeros(len(rewards), 1, dtype=torch.bool)
        ended[-1] = True
        return Episode(
            obs=torch.arange(len(rewards) + 1.0).view(-1, 1, 1),
            actions=torch.zeros(len(rewards), 1, 1),
            rewards=torch.tensor(rewards).unsqueeze(-1),
            terminations=ended,
            truncations=torch.zeros_like(ended),
        )

    return Dataset.from_episodes([episode(rewards) for rewards in episodes], Spec((1,), (1,)))


TWO = of_one_agent((1.0, 2.0, 4.0), (-8.0, 10.0))


def segment(rewards: list[float], mask: list[bool] | None = None) -> Batch:
    steps = torch.zeros(1, len(rewards), 1)
    flags = steps.bool()
    return Batch(
        obs=torch.arange(float(len(rewards))).view(1, -1, 1, 1),
        actions=steps.unsqueeze(-1),
        rewards=torch.tensor(rewards).view(1, -1, 1),
        next_obs=steps.unsqueeze(-1),
        terminations=flags,
        truncations=flags,
        mask=None if mask is None else torch.tensor(mask).view(1, -1, 1),
    ).check()


def values(rewards: torch.Tensor) -> list[float]:
    return rewards.flatten().tolist()


def test_range_scales_rewards_so_that_returns_span_a_thousand() -> None:
    # Returns 7 and 2: 1000 / 5 = 200.
    assert values(Rewards(TWO, "range").recorded.rewards) == [200.0, 400.0, 800.0, -1600.0, 2000.0]
    assert values(Rewards(TWO, 0.5).recorded.rewards) == [0.5, 1.0, 2.0, -4.0, 5.0]
    assert Rewards(TWO).recorded is TWO


def test_episodes_that_all_return_the_same_have_no_range() -> None:
    with pytest.raises(DataError, match="different returns"):
        Rewards(of_one_agent((1.0, 2.0)), "range")


def test_foreseen_rewards_and_their_penalty_are_in_recorded_units_and_scaled_together() -> None:
    # (3 - .5) * 200 and (-1 - .25) * 200, as a recorded reward of 3 would become 600.
    made = Rewards(TWO, "range").of(segment([3.0, -1.0]), torch.tensor([[0.5, 0.25]]))
    assert values(made.rewards) == [500.0, -250.0]
    untouched = segment([3.0])
    assert Rewards(TWO).of(untouched) is untouched


def test_replaced_rewards_pay_the_penalty_before_they_are_scaled_and_are_0_where_nothing_counts() -> None:
    # 3 + obs is 3, 4, 5 whatever was paid; less 1, times 2.
    ones = torch.ones(1, 3)
    made = Rewards(TWO, 2.0, taught).of(segment([100.0, -100.0, 7.0], [True, True, False]), ones)
    assert values(made.rewards) == [4.0, 6.0, 0.0]


def test_a_bias_is_added_in_the_end_where_agents_are() -> None:
    paid = Rewards(TWO, 2.0, bias=0.5)
    assert values(paid.recorded.rewards) == [2.5, 4.5, 8.5, -15.5, 20.5]
    # (3 - 1) 2 + .5; what does not count stays 0.
    made = paid.of(segment([3.0, 0.0], [True, False]), torch.tensor([[1.0, 0.0]]))
    assert values(made.rewards) == [4.5, 0.0]
    taken = Rewards(TWO, 2.0, taught, bias=0.5).of(segment([100.0, 0.0], [True, False]))
    assert values(taken.rewards) == [6.5, 0.0]
    # gamma .5: 2.5 + .5 (4.5 + .5 * 8.5), and 20.5 at the end of the other episode.
    assert paid.best_values(0.5)[0].tolist() == [20.5]


def test_a_bias_leaves_recorded_rewards_of_absent_agents_at_0() -> None:
    mask = torch.ones_like(DATA.rewards, dtype=torch.bool)
    mask[:2, 0] = False
    data = replace(DATA, mask=mask, rewards=DATA.rewards * mask)
    expected = torch.where(mask, data.rewards + 0.5, 0.0)
    assert torch.equal(Rewards(data, bias=0.5).recorded.rewards, expected)


@pytest.mark.parametrize("rows_at_once", [1, 6, 1_000])
def test_recorded_rewards_are_replaced_in_whole_episodes(monkeypatch, rows_at_once) -> None:
    monkeypatch.setattr(room, "ROWS_AT_ONCE", rows_at_once)
    begun = []

    def summed(batch: Batch) -> torch.Tensor:
        """As a recurrent model would, it sums what it has seen of the episode."""
        begun.extend(values(batch.obs[:, 0]))
        return batch.obs[..., 0].cumsum(1)

    made = Rewards(TWO, "range", summed)
    # Sums of 0, 1, 2 and of 0, 1 return 4 and 1 in the mean over agents: 1000 / 3.
    assert made.factor == pytest.approx(1000 / 3) and begun == [0.0, 0.0]
    assert values(made.recorded.rewards) == pytest.approx([value * 1000 / 3 for value in (0, 1, 3, 0, 1)])
    assert values(TWO.rewards) == [1.0, 2.0, 4.0, -8.0, 10.0], "the data given keeps the environment's"


def test_the_best_value_is_that_of_what_is_learnt_from() -> None:
    # gamma .5: 3 + .5 (4 + .5 * 5) = 6.25, 4 + 2.5 = 6.5, 5; and 3 + 2 = 5, 4; all times 2.
    best, team = Rewards(TWO, 2.0, taught).best_values(0.5)
    assert (best.tolist(), team.item()) == ([13.0], 13.0)


def test_a_replacement_of_the_wrong_shape_or_without_numbers_is_refused() -> None:
    with pytest.raises(DataError, match=r"have shape \(2, 3\), not \(2, 3, 1\): one for each agent"):
        Rewards(TWO, 1.0, lambda batch: batch.rewards[..., 0])
    with pytest.raises(DataError, match="not all finite"):
        Rewards(TWO, 1.0, lambda batch: batch.rewards / 0.0)


def test_a_column_for_all_agents_stays_one_when_it_is_scaled() -> None:
    data = reacher_recording().split(partition("reacher", "2x1", "full"))
    scaled = Rewards(data, 2.0, bias=1.0)
    assert scaled.recorded.rewards.stride(-1) == 0 and torch.equal(scaled.recorded.rewards, data.rewards * 2 + 1)
    own = Rewards(replace(data, rewards=data.rewards.contiguous()), 2.0, bias=1.0)
    for left, right in zip(scaled.best_values(0.9), own.best_values(0.9), strict=True):
        assert torch.equal(left, right)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("rewards")


@pytest.fixture(scope="module")
def file(place):
    return saved(place, DATA)


@pytest.fixture(scope="module")
def model(place, file):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "draw_report", lambda *_: None)
        return str(small_fit(place / "model", file).folder)


def source_of(folder, config: RunConfig, task: Task, *how) -> tuple[Source, Needs]:
    """What a small learner of this kind is fed, and what it asks for."""
    kind = algorithms.get(config.algorithm)
    learner = kind(build(kind.Config, {"hidden": [8], "batch_size": 16}), DATA.spec)
    learner.place("cpu", 0)
    return plan_source(config, RunFolder(folder), task, Rewards(task.data, *how), learner)(), learner.needs


@pytest.mark.parametrize("source", ["recorded", "mixed", "imagined", "live"])
def test_a_replacement_reaches_the_rows_of_every_source(tmp_path, monkeypatch, file, model, source) -> None:
    score_in_point_env(monkeypatch)
    name = {"imagined": "moma-ppo", "live": "ma-ppo"}.get(source, "td3-bc")
    fields = {"real_fraction": 0.5} if source == "mixed" else {}
    config = RunConfig(
        algorithm=name,
        dataset=file,
        world_model=model if source in ("mixed", "imagined") else None,
        device="cpu",
        spread_weight=0.0,
        horizon=3,
        **fields,
    )
    made, needs = source_of(tmp_path, config, open_task(file), 0.5, taught, "cpu", 0.25)
    for _ in range(3):
        batch = made.sample(needs)
        counted = torch.ones_like(batch.rewards, dtype=torch.bool) if batch.mask is None else batch.mask
        torch.testing.assert_close(batch.rewards[counted], 0.5 * taught(batch)[counted] + 0.25)
        flags = set() if batch.synthetic is None else {*batch.synthetic.flatten().tolist()}
        assert flags == {"mixed": {False, True}, "imagined": {True}}.get(source, set())


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_live_rewards_are_scaled_as_recorded_ones_are(tmp_path, monkeypatch, scale) -> None:
    score_in_point_env(monkeypatch)
    config = RunConfig(algorithm="ma-ppo", dataset="data", device="cpu")
    made, needs = source_of(tmp_path, config, Task("data", DATA, None, None), scale, None, "cpu", 0.5)
    batch = made.sample(needs)
    paid = batch.obs[..., 0] * batch.actions[..., 0]
    torch.testing.assert_close(batch.rewards, (scale * paid + 0.5) * batch.mask)


def test_a_run_bounds_targets_by_what_it_learns_from_and_tells_the_true_mean(tmp_path, monkeypatch) -> None:
    score_in_point_env(monkeypatch)
    data = saved(tmp_path, DATA)
    fields = {**SMALL, "steps": 2, "clip_target": True, "reward_scale": 4.0, "reward_bias": 1.0}
    learner = small_run(tmp_path / "run", data, algorithm="td3-bc", **fields).algorithm
    learnt = replace(DATA, rewards=4 * DATA.rewards + 1)
    torch.testing.assert_close((learner.best, learner.best_team), best_values(learnt, learner.config.gamma))
    done = json.loads((tmp_path / "run" / "DONE").read_text())
    assert done["data"]["return"] == float(DATA.returns().double().mean())
