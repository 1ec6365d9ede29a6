from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from compared import SMALL_REWARD, compare, small_reward
from runs import Killed, checkpoints, ending, kill_at, leftovers, refuse_difference, table
from worlds import saved, world

from offline_marl.core.config import ConfigError
from offline_marl.core.types import DataError
from offline_marl.preferences.answers import Judgement
from offline_marl.preferences.labels import AskedPair, Label
from offline_marl.preferences.pairs import Copies, Pair, SegmentKey
from offline_marl.preferences.reward_model import RewardModel
from offline_marl.preferences.teachers import TeacherConfig
from offline_marl.runs.folder import RewardFolder, RunFolderError, kind_of
from offline_marl.runs.kinds import FIT_REWARD
from offline_marl.runs.pins import version_of
from offline_marl.tasks.data_tasks import open_task
from offline_marl.training.kinds import procedure_of
from offline_marl.training.preferences.answering import simulate
from offline_marl.training.preferences.asking import Plan, ask, copy_segments, enter
from offline_marl.training.preferences.fit import describe
from offline_marl.training.preferences.folders import ComparisonFolder, numbers_of
from offline_marl.training.preferences.labelled import ComparisonSource
from offline_marl.training.preferences.loading import load_reward
from offline_marl.training.preferences.splits import load_split


@pytest.fixture
def data(tmp_path) -> str:
    return saved(tmp_path, world("continuous", episodes=20))


@pytest.fixture
def comparisons(tmp_path, data):
    return compare(tmp_path / "comparisons", data)


def resume(path):
    return procedure_of(FIT_REWARD).resume(path)


def test_a_fit_leaves_all_there_is_to_a_reward_model(tmp_path, data, comparisons) -> None:
    fit = small_reward(tmp_path / "model", data, comparisons)
    assert kind_of(fit.folder) is FIT_REWARD and checkpoints(fit.folder) == [60, 40] and not leftovers(fit.folder)
    done = json.loads((fit.folder / "DONE").read_text())
    assert done["steps"] == 60 and done["errors"] == fit.errors and len(fit.errors) == 2
    assert [row["step"] for row in table(fit.folder / "eval.csv")] == ["10", "20", "30", "40", "50", "60"]
    assert fit.report == json.loads((fit.folder / "report.json").read_text())
    again = resume(fit.folder)
    assert again.errors == fit.errors and repr(again).startswith("RewardFit(RewardModel in")
    assert version_of(load_reward(fit.folder)) == version_of(fit.model) == version_of(again.model)


@pytest.mark.long
@pytest.mark.parametrize("fields", [{}, {"recurrent": True, "surf_weight": 0.5, "sampling": "bootstrap"}])
def test_a_fit_that_was_killed_ends_bit_for_bit_as_one_that_was_not(tmp_path, data, comparisons, fields) -> None:
    small_reward(tmp_path / "whole", data, comparisons, **fields)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 33, RewardModel)
        small_reward(tmp_path / "killed", data, comparisons, **fields)
    with ComparisonFolder(comparisons) as folder:  # labels that came since are not learnt from
        simulate(folder, TeacherConfig(steepness="perfect"), annotator="later")
    resume(tmp_path / "killed")
    refuse_difference(ending(tmp_path / "whole"), ending(tmp_path / "killed"))
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("whole", "killed")]
    assert reports[0] == reports[1]


def test_the_best_weights_of_each_member_speak_in_the_end(tmp_path, data, comparisons) -> None:
    fit = small_reward(tmp_path / "model", data, comparisons, lr=0.1)
    with ComparisonFolder(comparisons) as folder:
        split = load_split(folder, RewardFolder(fit.folder).versions()["labels"], 0.1, 0, "cpu")
    assert split.held_out.errors(fit.model).tolist() == pytest.approx(fit.errors)
    means = [float(row["held_out_error"]) for row in table(fit.folder / "eval.csv")]
    assert max(means) > sum(fit.errors) / 2, "it should have been worse at times, or nothing was put back"


def test_it_stops_when_nothing_is_gained(tmp_path, data, comparisons) -> None:
    assert small_reward(tmp_path / "model", data, comparisons, min_improvement=0.9, patience=2).steps == 30


def test_only_so_many_labels_are_learnt_from(tmp_path, data, comparisons) -> None:
    fit = small_reward(tmp_path / "model", data, comparisons, labels=40)
    assert fit.report["labels"]["train"] + fit.report["labels"]["held_out"] == 40
    assert RewardFolder(fit.folder).versions()["labels"] == 60
    with ComparisonFolder(comparisons) as folder:
        shown = [load_split(folder, 60, 0.1, seed, "cpu", count=40) for seed in (0, 0, 1)]
        alike = [{label.pair_id for label in split.train.labels} for split in shown]
        until = load_split(folder, 40, 0.1, 0, "cpu", count=40)  # as fits of earlier versions resume
    assert [len(split.held_out) for split in shown] == [8, 8, 8], "a fifth, as of all"
    assert alike[0] == alike[1] != alike[2] and len(until.train) + len(until.held_out) == 40


def test_labels_are_split_by_episode_as_those_who_asked_said(comparisons) -> None:
    with ComparisonFolder(comparisons) as folder:
        split = load_split(folder, 60, 0.1, 0, "cpu")
        stated = {one.pair.id: one.split for one in folder.store.pairs()}
    assert not split.seen & split.away and split.between == 0
    assert {stated[label.pair_id] for label in split.held_out.labels} == {"held-out"}
    assert {stated[label.pair_id] for label in split.train.labels} == {"train"}


def test_labels_of_held_out_pairs_alone_are_not_learnt_from(tmp_path, data) -> None:
    with ComparisonFolder(tmp_path / "c", make=True) as folder:
        ask(folder, open_task(data), Plan(budget=60, length=3))
        away = [one.pair.id for one in folder.store.pairs() if one.split == "held-out"]
        folder.store.add([Label(one, ("first", "second")[number % 2], "ann") for number, one in enumerate(away)])
        with pytest.raises(DataError, match="labels only of pairs that are held out: there is nothing to learn from"):
            load_split(folder, len(away), 0.2, 0, "cpu")


def test_rows_are_of_the_pairs_that_labels_speak_of(tmp_path, data) -> None:
    place = compare(tmp_path / "agents", data, target="agents", steepness="perfect")
    with ComparisonFolder(place) as folder:
        train = load_split(folder, 180, 0.1, 0, "cpu").train
        pairs = {one.pair.id: one.pair for one in folder.store.pairs()}
    dataset = open_task(data).data
    source = ComparisonSource(train, 2, 64, torch.Generator().manual_seed(0))
    batch = source.sample(RewardModel.needs).check()
    assert not batch.rewards.any(), "no reward model sees what the environment paid"
    assert torch.equal(batch.agents, batch.targets)
    for label, sides, target in zip(train.labels, train.sides, train.targets.tolist(), strict=True):
        returns = []
        for key, row in zip((pairs[label.pair_id].first, pairs[label.pair_id].second), sides, strict=True):
            episode = dataset.episode(key.episode)
            kept = slice(key.start, key.start + key.length)
            assert torch.equal(train.segments.obs[row], episode.obs[kept])
            assert torch.equal(train.segments.actions[row], episode.actions[kept])
            returns.append(float(episode.rewards[kept, target].double().sum()))
        assert (returns[0] > returns[1]) == (label.value == 1.0)


@pytest.mark.parametrize("sampling", ["uniform", "bootstrap"])
def test_each_member_draws_labels_of_its_own(comparisons, sampling) -> None:
    with ComparisonFolder(comparisons) as folder:
        train = load_split(folder, 60, 0.1, 0, "cpu").train
    source = ComparisonSource(train, 2, 500, torch.Generator().manual_seed(0), sampling)
    batch = source.sample(RewardModel.needs)
    assert batch.agents is None, "labels are of the team"
    drawn = [{tuple(row.tolist()) for row in batch.obs[member].flatten(1)} for member in (0, 1)]
    every = {tuple(row.tolist()) for row in train.segments.obs[train.sides].flatten(1)}
    assert drawn[0] | drawn[1] <= every
    # A resample of n rows holds about 63 % of them.
    assert all(len(rows) == len(every) for rows in drawn) == (sampling == "uniform")
    assert sampling == "uniform" or drawn[0] != drawn[1]


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"min_labels": 40}, DataError, "labels for the first and .* 40 of each are needed"),
        ({"preferences": "nowhere"}, Exception, "There is no store of labels"),
        ({"membrs": 3}, ConfigError, "Unknown field 'membrs'"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused_and_takes_no_folder(tmp_path, data, comparisons, fields, kind, message):
    with pytest.raises(kind, match=message):
        procedure = procedure_of(FIT_REWARD)
        given = {**SMALL_REWARD, "preferences": str(comparisons), **fields}
        procedure.begin("bradley-terry", data, tmp_path / "model", given)
    assert not (tmp_path / "model" / "config.json").exists()


def test_pairs_of_other_data_are_refused(tmp_path, data, comparisons) -> None:
    other = saved(tmp_path, world("continuous", episodes=20, seed=1), "other.safetensors")
    with pytest.raises(DataError, match="pairs of two data sets are not learnt from together"):
        small_reward(tmp_path / "model", other, comparisons)


def test_a_folder_without_labels_says_so(tmp_path, data, comparisons) -> None:
    from offline_marl.training.preferences.asking import Plan, ask

    with ComparisonFolder(tmp_path / "empty", make=True) as folder:
        ask(folder, open_task(data), Plan(budget=20, length=3))
    with pytest.raises(DataError, match="holds no labels yet"):
        small_reward(tmp_path / "model", data, tmp_path / "empty")


def test_a_model_no_better_than_chance_says_so(tmp_path, data, comparisons) -> None:
    fit = small_reward(tmp_path / "model", data, compare(tmp_path / "coin", data, steepness=0.0), steps=10)
    assert fit.report["trusted"] is False and "no better than chance" in fit.report["reasons"][0]
    assert any(line.startswith("verdict") and "not to be trusted" in line for line in describe(fit))


def test_the_report_says_what_labels_cannot_tell_and_how_often_they_contradict(tmp_path, data, comparisons) -> None:
    with ComparisonFolder(comparisons) as folder:
        ids = [one.pair.id for one in folder.store.pairs()]
        folder.store.add(
            [Label(ids[0], "first", "ann"), Label(ids[0], "second", "ann", repeat=1), Label(ids[1], "skip", "ann")]
        )
    fit = small_reward(tmp_path / "model", data, comparisons)
    assert fit.report["labels"]["contradictions"] == 1 and not fit.report["labels"]["agents_told_apart"]
    said = "\n".join(describe(fit))
    assert "1 questions were answered in two ways" in said and "all labels are of the team" in said


def test_an_unfinished_fit_cannot_be_used(tmp_path, data, comparisons) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 33, RewardModel)
        small_reward(tmp_path / "killed", data, comparisons)
    with pytest.raises(RunFolderError, match="has not ended"):
        load_reward(tmp_path / "killed")


def live_pairs(data: str, run: str, sessions: int) -> tuple[list[AskedPair], Copies]:
    """Pairs of episodes that a run played, and copies of their segments."""
    numbers = torch.arange(0, 16, 2)
    recorded = [Pair(SegmentKey("", int(n), 0, 3), SegmentKey("", int(n) + 1, 1, 3)) for n in numbers]
    copies = copy_segments(open_task(data).data, recorded)
    assert copies is not None
    keys = tuple(SegmentKey.of_run(run, 100 + key.episode, key.start, key.length) for key in copies.keys)
    played = [[SegmentKey.of_run(run, 100 + k.episode, k.start, 3) for k in (p.first, p.second)] for p in recorded]
    pairs = [Pair(*keys_of_pair) for keys_of_pair in played]
    return [AskedPair(pair, sessions, "train", "uniform") for pair in pairs], replace(copies, keys=keys)


def test_pairs_of_a_live_run_are_learnt_from_beside_recorded_ones(tmp_path, data, comparisons) -> None:
    asked, copies = live_pairs(data, "r7", 2)
    with ComparisonFolder(comparisons) as folder:
        enter(folder, asked, copies)
        with pytest.raises(DataError, match="one new session at a time"):
            enter(folder, asked, copies)
        assert simulate(folder, TeacherConfig()) == 8
    # The run's replay may be gone: what was asked about lies beside the pairs.
    fit = small_reward(tmp_path / "model", data, comparisons)
    assert fit.report["labels"]["train"] == 48 + 8


def test_without_a_stated_split_pairs_are_held_out_by_episode(tmp_path, data) -> None:
    asked, copies = live_pairs(data, "r7", 1)
    with ComparisonFolder(tmp_path / "live", make=True) as folder:
        enter(folder, asked, copies)
        folder.store.add([Label(one.pair.id, "first", "ann") for one in asked])
        split = load_split(folder, 8, 0.3, 0, "cpu")
    assert (len(split.train), len(split.held_out), split.between) == (6, 2, 0)
    assert not split.seen & split.away and len(split.away) == 4


def judge(comparisons, count: int = 30) -> int:
    """Ratings of every first segment by its agents' first actions, and credit to whose were larger."""
    with ComparisonFolder(comparisons) as folder:
        asked = folder.store.pairs()[:count]
        copies = folder.copies(asked)
        rows = numbers_of(copies)
        made = []
        for one in asked:
            key = one.pair.first
            own = copies.segments.actions[rows[key], :, :, 0].sum(0)
            rating = str(1 + min(max(int(own.sum() + 2.5), 0), 4))
            best = f"agent_{int(own.argmax())}"
            made += [Judgement("rating", key, rating, "ann"), Judgement("credit", key, best, "ann")]
        folder.store.judge(made)
    return len({one.segment for one in made})


def test_ratings_and_credit_are_learnt_from_and_told_of(tmp_path, data, comparisons) -> None:
    plain = small_reward(tmp_path / "plain", data, comparisons)
    assert "judged" not in plain.report["labels"] and plain.report.get("judged") is None
    segments = judge(comparisons)
    fit = small_reward(tmp_path / "judged", data, comparisons)
    counts = fit.report["labels"]["judged"]
    assert counts["ratings"]["train"] + counts["ratings"]["held_out"] == segments == sum(counts["credit"].values())
    assert counts["ratings"]["held_out"] and -1 <= fit.report["judged"]["rank_of_ratings"] <= 1
    assert 0 <= fit.report["judged"]["credit_accuracy"] <= 1
    assert fit.report["labels"]["agents_told_apart"] and not plain.report["labels"]["agents_told_apart"]
    assert not any("all labels are of the team" in line for line in describe(fit))
    assert version_of(fit.model) != version_of(plain.model)
    with ComparisonFolder(comparisons) as folder:
        split = load_split(folder, folder.store.cursor(), 0.2, 0, "cpu", folder.store.judgement_cursor())
        away = {episode for _, episode in split.away}
    assert away and len(split.judged_held_out) == sum(part["held_out"] for part in counts.values())
    with ComparisonFolder(comparisons) as folder:
        rated = {one.segment.whole for one in folder.store.judgements()}
    assert rated <= split.seen | {whole for whole in rated if whole[1] in away}, "what is rated is learnt from"
    assert {float(value) for value in split.judged.of(2).values} <= {0.0, 1.0, 2.0}
    none = small_reward(tmp_path / "none", data, comparisons, rating_weight=0, credit_weight=0)
    assert none.report["labels"]["judged"] == counts


def test_ratings_and_credit_alone_are_refused_and_say_what_is_lacking(tmp_path, data) -> None:
    with ComparisonFolder(tmp_path / "judged", make=True) as folder:
        ask(folder, open_task(data), Plan(budget=60, length=3))
    judge(tmp_path / "judged")
    with pytest.raises(DataError, match="ratings and answers about credit and no label of a pair"):
        small_reward(tmp_path / "model", data, tmp_path / "judged")


def test_a_killed_fit_heeds_no_judgement_that_came_since_it_began(tmp_path, data, comparisons) -> None:
    judge(comparisons, 20)
    small_reward(tmp_path / "whole", data, comparisons)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 33, RewardModel)
        small_reward(tmp_path / "killed", data, comparisons)
    with ComparisonFolder(comparisons) as folder:
        folder.store.judge([Judgement("rating", folder.store.pairs()[25].pair.first, "1", "late")])
    resume(tmp_path / "killed")
    refuse_difference(ending(tmp_path / "whole"), ending(tmp_path / "killed"))
