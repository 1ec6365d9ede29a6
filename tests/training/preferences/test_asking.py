from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from compared import compare, small_reward
from worlds import saved, world

from offline_marl.core.seeding import derive
from offline_marl.core.types import DataError
from offline_marl.datasets.base import Dataset
from offline_marl.preferences.label_store import StoreError
from offline_marl.preferences.pairs import Copies
from offline_marl.preferences.teachers import TeacherConfig
from offline_marl.tasks.data_tasks import Task, open_task
from offline_marl.training.preferences import asking
from offline_marl.training.preferences.answering import ALL, simulate
from offline_marl.training.preferences.asking import Plan, ask, copy_segments, measure, window_returns
from offline_marl.training.preferences.folders import ComparisonFolder, key_of
from offline_marl.training.preferences.loading import load_reward


@pytest.fixture
def data(tmp_path) -> str:
    return saved(tmp_path, world("continuous", episodes=20))


def encoded(data: Dataset) -> Dataset:
    """Data whose observations, actions and rewards all say episode, step and agent."""
    lengths = data.lengths
    episodes = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    steps = torch.arange(len(data)) - (torch.cumsum(lengths, 0) - lengths)[episodes]
    agents = torch.arange(data.spec.n_agents)
    code = (100.0 * episodes.unsqueeze(-1) + 10.0 * steps.unsqueeze(-1) + agents) / 10_000.0
    rows = torch.arange(len(data)) + episodes
    obs = torch.zeros_like(data.obs)
    obs[rows, :, 0] = code
    actions = torch.zeros_like(data.actions)
    actions[..., 0] = code
    return replace(data, obs=obs, actions=actions, rewards=code)


@pytest.mark.parametrize("length", [3, 0])
def test_observation_action_and_reward_of_a_copy_are_of_one_episode_step_and_agent(length) -> None:
    data = encoded(world("continuous", episodes=20))
    made = asking._choose(data, Plan(budget=30, length=length), 30, 1, "uniform", None, [])
    copies = copy_segments(data, [one.pair for one in made])
    segments, mask = copies.segments, copies.segments.mask
    for name in ("obs", "actions"):
        assert torch.equal(getattr(segments, name)[..., 0][mask], segments.rewards[mask])
    for row, key in enumerate(copies.keys):
        expected = [100 * key.episode + 10 * (key.start + t) + agent for t in range(key.length) for agent in range(3)]
        assert (segments.rewards[row][mask[row]] * 10_000).round().int().tolist() == expected, key
        assert int(mask[row].any(-1).sum()) == key.length


def test_a_round_is_asked_once_and_the_budget_is_spent_over_all(tmp_path, data) -> None:
    task, plan = open_task(data), Plan(budget=40, rounds=2, length=3, schedule="exponential", schedule_rate=1.0)
    with ComparisonFolder(tmp_path / "c", make=True) as folder:
        first, second = ask(folder, task, plan), ask(folder, task, plan)
        # (e - 1) / (e^2 - 1) = .2689 of 40.
        assert (first.pairs, first.left, second.pairs, second.left) == (10, 30, 30, 0)
        assert (first.held_out, second.held_out) == (2, 6)
        pairs = folder.store.pairs()
        assert len({one.pair.id for one in pairs}) == 40 and [one.session for one in pairs] == [1] * 10 + [2] * 30
        with pytest.raises(DataError, match="budget of 40 pairs is spent"):
            ask(folder, task, plan)
        with pytest.raises(StoreError, match="begun with budget = 40, not 50"):
            ask(folder, task, replace(plan, budget=50))
        assert set(folder.copies(pairs).keys) == {side for one in pairs for side in (one.pair.first, one.pair.second)}


def test_rounds_that_ask_nothing_are_passed_over(tmp_path, data) -> None:
    task, plan = open_task(data), Plan(budget=3, rounds=7, length=3)  # 0, 0, 1, 0, 1, 0, 1
    with ComparisonFolder(tmp_path / "c", make=True) as folder:
        asked = [ask(folder, task, plan) for _ in range(3)]
        assert [(one.session, one.pairs, one.left) for one in asked] == [(3, 1, 2), (5, 1, 1), (7, 1, 0)]
        with pytest.raises(DataError, match="budget of 3 pairs is spent"):
            ask(folder, task, plan)


def test_held_out_pairs_are_of_episodes_that_no_other_pair_shows(tmp_path, data) -> None:
    with ComparisonFolder(tmp_path / "c", make=True) as folder:
        ask(folder, open_task(data), Plan(budget=60, length=2))
        shown = {
            split: {side.episode for one in folder.store.pairs() if one.split == split for side in
                    (one.pair.first, one.pair.second)}
            for split in ("train", "held-out")
        }  # fmt: skip
    assert len(shown["held-out"]) == 4 and not shown["train"] & shown["held-out"]


def test_what_cannot_be_asked_leaves_no_plan_behind(tmp_path, data) -> None:
    task = open_task(data)
    with ComparisonFolder(tmp_path / "c", make=True) as folder:
        with pytest.raises(DataError, match="No episode of .* has 50 steps"):
            ask(folder, task, Plan(budget=10, length=50))
        # Of 20 episodes four are held out: 6 pairs, and 120 of the other sixteen.
        with pytest.raises(DataError, match="not 494 pairs .* only 120 are left"):
            ask(folder, task, Plan(budget=500, length=0))
        with pytest.raises(DataError, match="--select disagree asks where a reward model is unsure"):
            ask(folder, task, Plan(budget=10), "disagree")
        assert folder.store.facts() == {}
        assert ask(folder, task, Plan(budget=10, length=2)).pairs == 10


def test_another_data_set_is_refused(tmp_path, data) -> None:
    other = saved(tmp_path, world("continuous", episodes=20, seed=1), "other.safetensors")
    with ComparisonFolder(tmp_path / "c", make=True) as folder:
        ask(folder, open_task(data), Plan(budget=10, rounds=2, length=2))
        with pytest.raises(StoreError, match="was begun with data"):
            ask(folder, open_task(other), Plan(budget=10, rounds=2, length=2))


@pytest.mark.parametrize("strategy", ["disagree", "entropy"])
def test_a_reward_models_doubt_chooses_from_a_pool_ten_times_as_large(tmp_path, data, strategy) -> None:
    small_reward(tmp_path / "model", data, compare(tmp_path / "first", data))
    model = load_reward(tmp_path / "model")
    task = open_task(data)
    drawn = []
    draw = asking.draw_candidates

    def noted(*given):
        drawn.append(given[2])
        return draw(*given)

    with pytest.MonkeyPatch.context() as patch, ComparisonFolder(tmp_path / "c", make=True) as folder:
        patch.setattr(asking, "draw_candidates", noted)
        ask(folder, task, Plan(budget=10, length=3), strategy, model)
        chosen = [one for one in folder.store.pairs() if one.split == "train"]
    assert drawn == [2, 80] and len(chosen) == 8
    assert all(one.strategy == strategy and one.score is not None for one in chosen)
    pool = draw(task.data.lengths, 3, 400, torch.Generator().manual_seed(9))
    scores, _ = asking._doubts(task.data, pool, 3, strategy, model)
    assert sum(one.score for one in chosen) / 8 > float(scores.mean())


def test_the_scale_is_the_tasks_where_it_is_known_and_else_the_datas(tmp_path, data) -> None:
    task = open_task(data)
    returns = window_returns(task.data, 3)
    by_hand = [
        float(task.data.episode(e).rewards.mean(-1)[t : t + 3].double().sum())
        for e in range(20)
        for t in range(int(task.data.lengths[e]) - 2)
    ]
    assert returns.tolist() == pytest.approx(by_hand)
    measured = measure(task, 3)
    assert (measured.scale, measured.least) == pytest.approx((max(by_hand) - min(by_hand), min(by_hand)))
    assert measured.mean == pytest.approx(sum(by_hand) / len(by_hand)) and measure(task, 3, 7.0).scale == 7.0

    class Known:
        id, data, reference = task.id, replace(task.data, metadata={"max_steps": 12}), type("R", (), {})()

    Known.reference.expert, Known.reference.random = -5.0, -29.0  # type: ignore[attr-defined]
    known: Task = Known  # type: ignore[assignment]
    # A quarter of an episode's steps: a quarter of 24, whatever the mixture.
    assert measure(known, 3).scale == 6.0 and measure(known, 0).scale == 24.0


def test_another_order_of_adding_returns_up_keeps_the_next_round_from_nothing(tmp_path, data, monkeypatch) -> None:
    task, plan = open_task(data), Plan(budget=20, rounds=2, length=3)
    with ComparisonFolder(tmp_path / "c", make=True) as folder:
        ask(folder, task, plan)
        stated = folder.store.facts()["scale"]
        monkeypatch.setattr(asking, "window_returns", lambda *given: window_returns(*given) * (1 + 1e-12))
        assert measure(task, 3).plain() != stated and ask(folder, task, plan).pairs == 10
        assert folder.store.facts()["scale"] == stated
    with ComparisonFolder(tmp_path / "c") as folder, pytest.raises(StoreError, match="was begun with scale"):
        ask(folder, task, replace(plan, scale=7.0))


def test_two_processes_that_ask_at_once_leave_the_copies_of_the_first(tmp_path, data, monkeypatch) -> None:
    task, plan = open_task(data), Plan(budget=20, rounds=2, length=3)
    with ComparisonFolder(tmp_path / "c", make=True) as folder:
        ask(folder, task, plan)
        save, others = Copies.save, list[int]()

        def slowly(copies, path) -> None:
            if not others:
                others.append(0)
                with ComparisonFolder(tmp_path / "c") as second:
                    others.append(ask(second, task, plan).pairs)
            save(copies, path)

        monkeypatch.setattr(Copies, "save", slowly)
        monkeypatch.setattr(asking, "derive", lambda seed, *words: derive(seed + len(others), *words))
        with pytest.raises(StoreError, match="Another process has entered round 2 .* meanwhile: ask again"):
            ask(folder, task, plan)
        assert others == [0, 10] and len(folder.store.pairs()) == 20
        assert simulate(folder, TeacherConfig()) == 20, "all pairs have their segments"
        assert sorted(path.name for path in folder.segments.iterdir()) == [f"round_000{n}.safetensors" for n in (1, 2)]


def test_a_teachers_answers_are_the_same_whenever_they_are_asked_for(tmp_path, data) -> None:
    task, plan = open_task(data), Plan(budget=40, rounds=2, length=3)
    answers = []
    for name, rounds in (("a", [2]), ("b", [1, 1])):
        with ComparisonFolder(tmp_path / name, make=True) as folder:
            for count in rounds:
                for _ in range(count):
                    ask(folder, task, plan)
                simulate(folder, TeacherConfig(), target=ALL, repeats=0.3)
            assert simulate(folder, TeacherConfig(), target=ALL, repeats=0.3) == 0, "all were there already"
            answers.append({(one.pair_id, one.target, one.repeat): one.answer for one in folder.store.labels()})
    assert answers[0] == answers[1] and len(answers[0]) > 120
    repeated = sum(repeat for _, _, repeat in answers[0])
    assert 20 <= repeated <= 52, "about three in ten of 120"


def test_one_name_is_one_teacher(tmp_path, data) -> None:
    place = compare(tmp_path / "c", data)
    with ComparisonFolder(place) as folder:
        with pytest.raises(StoreError, match="begun with teacher teacher"):
            simulate(folder, TeacherConfig(steepness=9.0))
        assert simulate(folder, TeacherConfig(steepness=9.0), annotator="sharp") == 60
        with pytest.raises(DataError, match="'agent_7' is no target"):
            simulate(folder, TeacherConfig(), annotator="third", target="agent_7")
        assert simulate(folder, TeacherConfig(steepness=9.0), annotator="third") == 60, (
            "a refusal leaves nothing behind"
        )


def test_the_checksum_of_a_data_set_names_who_sees_what_and_what_actions_were_made_of(data) -> None:
    plain = open_task(data).data
    assert key_of(plain) == plain.metadata["sha256"]
    assert key_of(open_task(data, action_scale=2.0).data) == f"{plain.metadata['sha256']}:action_scale=2.0"
    split = replace(plain, metadata={**plain.metadata, "conf": "2x1", "view": "full"})
    assert key_of(split).endswith(":2x1_full")
    nameless = replace(plain, metadata={})
    assert key_of(nameless) == key_of(nameless) != key_of(replace(nameless, rewards=plain.rewards + 1))
