"""Runs whose gradients other processes compute: their end, their log, their resume, and what they refuse."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from runs import ending, last_state, refuse_difference, score_in_point_env, small_run, start_and_kill
from worlds import saved, world

from offline_marl.core.config import ConfigError
from offline_marl.core.types import DataError
from offline_marl.distributed.engine import EngineError, ScriptedEngine
from offline_marl.distributed.schemes import make_code
from offline_marl.runs.config import RunConfig
from offline_marl.runs.folder import RunFolderError
from offline_marl.training import coded_run, run, training_run

TD3_BC = {"algorithm": "td3-bc", "steps": 24, "checkpoint_every": 10}


@pytest.fixture
def data(tmp_path, monkeypatch):
    score_in_point_env(monkeypatch)
    return saved(tmp_path, world("continuous"))


def log_of(out):
    return [json.loads(line) for line in (out / "learners.jsonl").read_text().splitlines()]


def assert_near(one, other, tolerance=1e-5):
    first, second = (last_state(out)["algorithm"] for out in (one, other))
    compared = 0
    for name, value in first.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            assert torch.allclose(value, second[name], atol=tolerance), name
            compared += 1
    assert compared > 5


@pytest.mark.long
def test_a_run_with_local_learners_ends_as_one_without(tmp_path, data):
    small_run(tmp_path / "plain", data, **TD3_BC)
    small_run(tmp_path / "coded", data, **TD3_BC, engine="local", learners=5)

    assert_near(tmp_path / "plain", tmp_path / "coded")
    lines = log_of(tmp_path / "coded")
    assert [line["version"] for line in lines] == list(range(1, 25))
    assert all(len(set(line["rows"])) == len(line["rows"]) for line in lines)
    assert "coded/wait_s" in (tmp_path / "coded" / "metrics.csv").read_text().splitlines()[0]


@pytest.mark.long
def test_a_log_is_replayed_bit_for_bit(tmp_path, data):
    small_run(tmp_path / "first", data, **TD3_BC, engine="local", code="gaussian", learners=5)
    small_run(tmp_path / "again", data, **TD3_BC, answers_of=str(tmp_path / "first"), code="gaussian", learners=5)

    one, other = (last_state(tmp_path / name) for name in ("first", "again"))
    refuse_difference(one["algorithm"], other["algorithm"])
    assert [line["rows"] for line in log_of(tmp_path / "first")] == [
        line["rows"] for line in log_of(tmp_path / "again")
    ]


@pytest.fixture
def threads_of_the_caller():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.long
@pytest.mark.usefixtures("threads_of_the_caller")
def test_learners_forked_from_a_process_of_several_threads_answer_and_are_replayed_bit_for_bit(tmp_path, data):
    """Threads are not forked: a learner that shared its work among them would wait for those that it has not."""
    torch.set_num_threads(2)
    torch.ones(1_000_000).exp().sum()  # now there are two
    big = {"algorithm": "td3-bc", "steps": 2, "threads": 2, "hidden": [256], "batch_size": 256}
    big |= {"learners": 4, "code": "gaussian"}
    small_run(tmp_path / "first", data, **big, engine="local", patience=20.0)
    small_run(tmp_path / "again", data, **big, answers_of=str(tmp_path / "first"))

    assert all(line["rows"] and not line["local"] for line in log_of(tmp_path / "first"))
    refuse_difference(*(last_state(tmp_path / name)["algorithm"] for name in ("first", "again")))
    with pytest.raises(ConfigError, match="threads was 2, not 1"):
        small_run(tmp_path / "other", data, **{**big, "threads": 1}, answers_of=str(tmp_path / "first"))


def test_a_log_of_another_run_or_of_too_few_updates_is_not_replayed(tmp_path, data):
    small_run(tmp_path / "first", data, **{**TD3_BC, "steps": 2}, engine="local")
    given = {**TD3_BC, "steps": 2, "answers_of": str(tmp_path / "first")}
    for fields, said in (
        ({"steps": 3}, "tells of 2 updates, and --steps asks for 3"),
        ({"seed": 7}, "seed was 0, not 7"),
        ({"lr": 0.5}, "lr was .*, not 0.5"),
        ({"code": "replication"}, "code was systematic, not replication"),
        ({"algorithm": "iql"}, "algorithm was td3-bc, not iql"),
    ):
        with pytest.raises(ConfigError, match=said):
            small_run(tmp_path / "run", data, **{**given, **fields})
        assert not (tmp_path / "run" / "config.json").exists()


def test_a_replay_has_as_many_steps_where_the_share_of_rows_hangs_on_them(monkeypatch):
    fields = {"algorithm": "td3-bc", "dataset": "x", "real_fraction": 0.9, "world_model": "ensemble"}
    for end, refused in ((0.1, True), (None, False)):
        then, now = (RunConfig(**fields, real_fraction_end=end, steps=steps, answers_of="there") for steps in (6, 3))
        monkeypatch.setattr(coded_run, "RunFolder", lambda place, then=then: SimpleNamespace(config=lambda: then))
        coded_run._refuse_other_run(then, 6)
        with pytest.raises(ConfigError, match="steps was 6, not 3") if refused else nullcontext():
            coded_run._refuse_other_run(now, 6)


@pytest.mark.parametrize("damaged", ["[-1, 0, 1]", "[0, 0, 1]", '"012"', "[0.7, 1, 2]", "[true, 1, 2]", "[0, 5]", "{}"])
def test_a_log_that_names_no_learners_is_not_replayed(tmp_path, damaged):
    log, code = tmp_path / "learners.jsonl", make_code("systematic", 3, 5)
    log.write_text('{"version": 1, "rows": [4, 0, 2]}\n{"version": 2, "rows": []}\n')
    assert coded_run.read_log(log, code) == [[4, 0, 2], []]
    log.write_text(f'{{"version": 1, "rows": {damaged}}}\n')
    with pytest.raises(RunFolderError, match="does not tell of every update"):
        coded_run.read_log(log, code)


@pytest.mark.long
def test_a_killed_run_goes_on_bit_for_bit_with_scripted_answers(tmp_path, data):
    settings = TD3_BC | {"code": "replication", "learners": 5}
    small_run(tmp_path / "first", data, **settings, engine="local", stragglers=2, straggler_delay=0.01)
    replayed = settings | {"answers_of": str(tmp_path / "first")}
    small_run(tmp_path / "whole", data, **replayed)
    start_and_kill(tmp_path / "killed", data, 17, **replayed)
    assert len(log_of(tmp_path / "killed")) == 17
    run.resume(tmp_path / "killed")

    one, other = (ending(tmp_path / name) for name in ("whole", "killed"))
    for end in (one, other):
        for kind in ("rows", "metrics"):  # learners that were superseded before the kill answer to nobody after it
            end[kind] = [{k: v for k, v in row.items() if k not in {"coded/wait_s", "coded/late"}} for row in end[kind]]
        end["state"].pop("log", None)
    refuse_difference(one, other)
    assert [line["version"] for line in log_of(tmp_path / "killed")] == list(range(1, 25))


@pytest.mark.long
def test_a_killed_run_with_processes_goes_on(tmp_path, data):
    small_run(tmp_path / "plain", data, **TD3_BC)
    start_and_kill(tmp_path / "killed", data, 15, **TD3_BC, engine="local", learners=5)
    run.resume(tmp_path / "killed")

    assert_near(tmp_path / "plain", tmp_path / "killed")
    assert [line["version"] for line in log_of(tmp_path / "killed")] == list(range(1, 25))


def test_a_run_that_failed_before_its_first_checkpoint_logs_each_update_once(tmp_path, data):
    def fail(step, learner, metrics):
        raise RuntimeError("it fails")

    settings = {**TD3_BC, "steps": 3, "checkpoint_every": 0, "engine": "local", "learners": 3}
    with pytest.raises(RuntimeError, match="it fails"):
        small_run(tmp_path / "failed", data, **settings, hooks=[fail])
    assert len(log_of(tmp_path / "failed")) == 1
    log = tmp_path / "failed" / "learners.jsonl"
    whole = log.read_text()
    log.write_text("[]\n")
    with pytest.raises(RunFolderError, match="was damaged or edited: remove it"):
        run.resume(tmp_path / "failed")
    log.write_text(whole)
    run.resume(tmp_path / "failed")

    assert [line["version"] for line in log_of(tmp_path / "failed")] == [1, 2, 3]


def test_learners_of_other_machines_are_paid_by_the_learned_reward(tmp_path, data, monkeypatch):
    monkeypatch.setattr(training_run, "learned_reward", lambda *_: lambda batch: -7.0 * batch.rewards)
    monkeypatch.setattr(coded_run, "RayEngine", lambda count, make, address: ScriptedEngine(count, make))
    monkeypatch.setattr(coded_run, "import_ray", lambda: None)
    paid = {"algorithm": "td3-bc", "steps": 3, "reward_model": str(tmp_path / "reward")}
    small_run(tmp_path / "plain", data, **paid)
    small_run(tmp_path / "coded", data, **paid, engine="ray", code="uncoded")
    assert_near(tmp_path / "plain", tmp_path / "coded")


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({"learners": 5}, ConfigError, "--learners is for runs with an --engine"),
        ({"engine": "local", "code": "mds"}, ConfigError, "Unknown code 'mds'"),
        ({"engine": "local", "learners": 1}, ConfigError, "as many, or more"),
        ({"engine": "local", "ray_address": "auto"}, ConfigError, "--ray-address is for --engine ray"),
        ({"engine": "ray", "ray_address": ""}, ConfigError, "'' is no address of a Ray cluster"),
        ({"engine": "ray", "ray_address": "ray://h:1"}, ConfigError, "no address of a Ray cluster"),
        ({"engine": "local", "stragglers": 99}, ConfigError, "cannot be late"),
        ({"engine": "local", "share_parameters": True}, DataError, "share_parameters"),
        ({"engine": "local", "algorithm": "ma-iql"}, DataError, "cannot be split by agent"),
        ({"answers_of": "nowhere"}, RunFolderError, "no log of a coded run"),
        (
            {"answers_of": "nowhere", "engine": "local", "patience": 2.0, "stragglers": 1, "straggler_delay": 2.0},
            ConfigError,
            "asks no learner: leave --engine, --patience, --stragglers, --straggler-delay away",
        ),
        ({"answers_of": "nowhere", "engine": "ray", "ray_address": "auto"}, ConfigError, "--engine, --ray-address"),
        ({"engine": "ray"}, EngineError, "Ray is not installed"),
    ],
)
def test_what_cannot_be_coded_is_refused_before_anything_is_made(tmp_path, data, monkeypatch, fields, error, said):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(error, match=said):
        small_run(tmp_path / "run", data, **(TD3_BC | fields))
    assert not (tmp_path / "run" / "config.json").exists()
