from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from runs import small_run
from worlds import DISCRETE, PointEnv, saved, world

from offline_marl.core.config import ConfigError
from offline_marl.environments.base import Seen
from offline_marl.environments.episodes import Step
from offline_marl.tasks.data_tasks import ScoredTask
from offline_marl.tasks.infos_file import InfosFile
from offline_marl.training.run import evaluate


class Telling:
    """Two agents; copy 0 ends after two steps, copy 1 after three, and agent b leaves it before the last one."""

    agents = ("a", "b")

    def __init__(self):
        self.told = []

    def infos(self):
        return self.told


def step(rewards, running, ended, present=None):
    rows = len(running)
    seen = Seen(np.zeros((rows, 2, 1), np.float32), present=None if present is None else np.array(present))
    flags = np.array(ended)
    return Step(seen, np.zeros((rows, 2)), np.array(rewards), flags, flags & False, np.array(running), seen)


def played(path):
    env = Telling()
    with InfosFile.maybe(path) as file:
        env.told = [{"a": {"hits": 1, "word": "x"}, "b": {"hits": 0}}, {"a": {"hits": 2}, "b": {"hits": True}}]
        file.add(env, [7, 9], step([[1, 2], [3, 4]], [True, True], [False, False]))
        env.told = [{"a": {"hits": 4}, "b": {"agent": 5}}, {"a": {"hits": 0}, "b": {"hits": float("nan")}}]
        file.add(env, [7, 9], step([[1, 2], [3, 4]], [True, True], [True, False]))
        env.told = [{"a": {"hits": 100}, "b": {}}, {"a": {"hits": 1}, "b": {"hits": 100}}]
        file.add(env, [7, 9], step([[8, 8], [5, 0]], [False, True], [True, True], [[True, True], [True, False]]))


def test_rows_of_steps_are_followed_by_their_summaries_and_by_those_of_all_episodes(tmp_path):
    played(tmp_path / "told.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["row"] == "step"]
    assert [(row["episode"], row["seed"], row["step"], row["agent"]) for row in steps] == [
        *((0, 7, 1, "a"), (0, 7, 1, "b"), (0, 7, 2, "a"), (0, 7, 2, "b")),
        *((1, 9, 1, "a"), (1, 9, 1, "b"), (1, 9, 2, "a"), (1, 9, 2, "b"), (1, 9, 3, "a")),
    ], "episode after episode, without who is away or over"
    assert steps[0] == {"row": "step", "episode": 0, "seed": 7, "step": 1, "agent": "a"} | {
        "reward": 1,
        "hits": 1,
        "word": "x",
    }
    assert steps[3]["agent"] == "b" and steps[3]["info.agent"] == 5, "an info does not hide a column"
    assert steps[7]["hits"] is None, "JSON has no NaN"
    summaries = {
        (row["episode"], row["agent"], row["row"]): row for row in rows if row["row"] not in {"step", "episodes"}
    }
    assert len(summaries) == 2 * 2 * 3
    hits = {key: row.get("hits") for key, row in summaries.items()}
    assert [hits[0, "a", name] for name in ("sum", "mean", "last")] == [5, 2.5, 4]
    assert [hits[1, "a", name] for name in ("sum", "mean", "last")] == [3, 1, 1]
    assert hits[1, "b", "sum"] == 1 and summaries[1, "b", "sum"]["step"] == 2
    assert "word" not in summaries[0, "a", "last"]
    assert summaries[1, "a", "sum"]["reward"] == 11
    (whole, other) = (row for row in rows if row["row"] == "episodes")
    assert (whole["agent"], whole["hits"], whole["reward"]) == ("a", 4, 6.5)
    assert (other["agent"], other["reward"]) == ("b", 6)


def test_means_of_episodes_count_those_in_which_an_agent_was_away_or_was_told_nothing(tmp_path):
    env = Telling()
    with InfosFile.maybe(tmp_path / "told.jsonl") as file:
        env.told = [{"a": {"success": 1}, "b": {}}, {"a": {}}]
        file.add(env, [7, 9], step([[1, 2], [3, 0]], [True, True], [True, True], [[True, True], [True, False]]))
        env.told = [{}, {}]
        file.add(env, [8, 5], step([[1, 2], [3, 0]], [True, True], [True, True], [[True, False], [True, False]]))
    rows = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    whole, other = (row for row in rows if row["row"] == "episodes")
    assert (whole["success"], whole["reward"], other["reward"]) == (0.25, 2, 0.5)


def test_the_steps_of_an_agent_that_comes_later_are_those_of_its_episode(tmp_path):
    env = Telling()
    with InfosFile.maybe(tmp_path / "told.jsonl") as file:
        for number, present in enumerate(([True, False], [True, False], [True, True])):
            file.add(env, [7], step([[1, 2]], [True], [number == 2], [present]))
        file.add(env, [8], step([[1, 2]], [True], [True], [[True, True]]))
    rows = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    steps = [(row["seed"], row["step"], row["agent"]) for row in rows if row["row"] == "step"]
    assert steps == [(7, 1, "a"), (7, 2, "a"), (7, 3, "a"), (7, 3, "b"), (8, 1, "a"), (8, 1, "b")]
    assert [row["step"] for row in rows if row["row"] == "sum"] == [3, 1, 1, 1], "summaries count an agent's own steps"


def test_a_table_has_all_columns_and_the_same_rows(tmp_path):
    played(tmp_path / "told.jsonl")
    played(tmp_path / "told.csv")
    lines = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    with (tmp_path / "told.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["row", "episode", "seed", "step", "agent", "reward", "hits", "word", "info.agent"]
    assert len(rows) == len(lines)
    for row, line in zip(rows, lines, strict=True):
        assert row == {name: "" if line.get(name) is None else str(line[name]) for name in rows[0]}


def test_what_fails_on_the_way_leaves_the_old_file(tmp_path):
    path = tmp_path / "told.csv"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), InfosFile.maybe(path) as file:
        file.add(Telling(), [7], step([[1, 2]], [True], [True]))
        raise KeyboardInterrupt
    assert path.read_text() == "old" and [each.name for each in tmp_path.iterdir()] == ["told.csv"]


@pytest.mark.parametrize(("name", "said"), [("x.txt", "should end in .csv or .jsonl"), (".csv", "should end in")])
def test_a_place_that_cannot_be_is_refused_before_anybody_plays(tmp_path, name, said):
    with pytest.raises(ConfigError, match=said):
        InfosFile(tmp_path / name)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ConfigError, match="is a folder: name a file"):
        InfosFile(tmp_path / "folder.csv")


def test_an_evaluation_writes_a_file_even_where_the_environment_tells_nothing(tmp_path, monkeypatch):
    path = saved(tmp_path, world("discrete"))
    monkeypatch.setattr(ScoredTask, "make_env", lambda self, copies: PointEnv(DISCRETE, copies))
    monkeypatch.setattr(ScoredTask, "conventions", lambda self, ends: None)
    small_run(tmp_path / "run", path)
    score = evaluate(tmp_path / "run", 3, infos=tmp_path / "told.csv")
    with (tmp_path / "told.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    returns = [
        np.mean([float(row["reward"]) for row in rows if row["row"] == "sum" and row["episode"] == str(episode)])
        for episode in range(3)
    ]
    assert returns == pytest.approx(score.returns.tolist())
    assert score.returns.tolist() == evaluate(tmp_path / "run", 3).returns.tolist()
    assert {row["agent"] for row in rows} == {"agent_0", "agent_1", "agent_2"}


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_what_is_not_finite_is_empty_within_arrays_and_sums_too(tmp_path, ending):
    env, path = Telling(), tmp_path / f"told.{ending}"
    long = np.arange(20.0).reshape(2, 10)
    long[0, 1], long[1, 3] = np.nan, -np.inf
    with InfosFile.maybe(path) as file:
        for ended in (False, True):
            env.told = [{name: {"long": long, "short": [np.nan, 1.0], "large": 1e308} for name in env.agents}]
            file.add(env, [7], step([[1, 2]], [True], [ended]))
    if ending == "jsonl":
        rows = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
        arrays = rows[0]["long"]
        assert (rows[0]["short_0"], rows[0]["short_1"]) == (None, 1.0)
    else:
        with path.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        arrays = json.loads(rows[0]["long"], parse_constant=pytest.fail)
    assert arrays == [[0, None, *range(2, 10)], [10, 11, 12, None, *range(14, 20)]]
    (last,) = (row["large"] for row in rows if row["row"] == "sum" and row["agent"] == "a")
    assert last in (None, "")
