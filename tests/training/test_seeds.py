"""Runs of several seeds in one process: each ends as it would have alone, and goes on alone or with the others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runs import SMALL, checkpoints, ending, refuse_difference, score_in_point_env, small_run
from worlds import PointEnv, reacher_recording, saved

from offline_marl.core.config import ConfigError
from offline_marl.core.types import DataError, Spec
from offline_marl.launch.cli.train import read_seeds
from offline_marl.runs.folder import RunFolderError
from offline_marl.runs.loading import make_algorithm
from offline_marl.runs.stopping import StoppedEarly, asked
from offline_marl.training import run, seeds
from offline_marl.training.loop import DivergedError, LogHook, SourceStoppedError
from offline_marl.training.seeds import largest_product, train_seeds

# Of two agents with one action entry each, all sums are taken in the same order: equal to the bit.
PLAIN = {**SMALL, "steps": 30, "checkpoint_every": 10, "eval_every": 15, "hidden": [16, 16]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("data"), reacher_recording()) + "_2x1_full"


@pytest.fixture(autouse=True)
def scored(monkeypatch):
    score_in_point_env(monkeypatch)


def small_seeds(out: Path, data: str, numbers=(0, 1, 5), algorithm: str = "td3-bc", **fields):
    return train_seeds(algorithm, data, numbers, out=out, **{**PLAIN, **fields})


@pytest.mark.parametrize("algorithm", ["bc", "td3-bc"])
@pytest.mark.parametrize("most", [seeds.MOST_WORK, 0], ids=["side-by-side", "one-after-another"])
def test_each_seed_ends_as_its_lone_run_bit_for_bit(tmp_path, data, monkeypatch, capsys, algorithm, most) -> None:
    monkeypatch.setattr(seeds, "MOST_WORK", most)
    before = torch.get_rng_state()
    results = small_seeds(tmp_path / "all", data, algorithm=algorithm)
    assert torch.equal(before, torch.get_rng_state())
    said = capsys.readouterr().err
    assert ("3 seeds learn side by side: " if most else "3 seeds learn one after another: ") in said
    for seed, result in zip((0, 1, 5), results, strict=True):
        small_run(tmp_path / f"alone{seed}", data, algorithm, **{**PLAIN, "seed": seed})
        assert result.folder == tmp_path / "all" / f"seed{seed}"
        refuse_difference(ending(tmp_path / f"alone{seed}"), ending(result.folder))
        config = (result.folder / "config.json").read_text()
        assert config == (tmp_path / f"alone{seed}" / "config.json").read_text()
    assert len({result.score.mean for result in results}) == 3


def stop_at(patch: pytest.MonkeyPatch, step: int, signalled: bool = True) -> None:
    """Let the process be told to stop, or die, at this step of the first seed."""
    call = LogHook.__call__

    def told(self, at, learner, metrics):
        call(self, at, learner, metrics)
        if at == step:
            if not signalled:
                raise KeyboardInterrupt
            asked.set()

    patch.setattr(LogHook, "__call__", told)


@pytest.fixture
def not_asked():
    asked.clear()
    yield
    asked.clear()


@pytest.mark.parametrize("signalled", [True, False], ids=["told", "killed"])
def test_what_was_stopped_goes_on_alone_or_with_the_others(tmp_path, data, not_asked, signalled) -> None:
    small_seeds(tmp_path / "straight", data)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 13, signalled)
        with pytest.raises(StoppedEarly if signalled else KeyboardInterrupt):
            small_seeds(tmp_path / "stopped", data)
    asked.clear()
    saved_at = {seed: checkpoints(tmp_path / "stopped" / f"seed{seed}")[0] for seed in (0, 1, 5)}
    assert set(saved_at.values()) == {14 if signalled else 10}
    run.resume(tmp_path / "stopped" / "seed1")
    results = small_seeds(tmp_path / "stopped", data)
    assert [result.folder.name for result in results] == ["seed0", "seed1", "seed5"]
    assert all(result.score is not None for result in results)
    for seed in (0, 1, 5):
        refuse_difference(ending(tmp_path / "straight" / f"seed{seed}"), ending(tmp_path / "stopped" / f"seed{seed}"))


def test_those_that_were_stopped_at_different_steps_go_on_apart(tmp_path, data, not_asked) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(StoppedEarly):
        stop_at(patch, 13)
        small_run(tmp_path / "all" / "seed1", data, "td3-bc", **{**PLAIN, "seed": 1})
    asked.clear()
    small_seeds(tmp_path / "all", data)
    for seed in (0, 1, 5):
        small_run(tmp_path / f"alone{seed}", data, "td3-bc", **{**PLAIN, "seed": seed})
        refuse_difference(ending(tmp_path / f"alone{seed}"), ending(tmp_path / "all" / f"seed{seed}"))


def test_a_seed_that_diverges_is_named_and_leaves_the_others_alone(tmp_path, data, capsys) -> None:
    flush = LogHook.flush

    def flushed(self, step):
        if step == 14 and self.loggers[0].folder.name == "seed1":
            raise DivergedError("loss/critic became nan at step 12.")
        flush(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LogHook, "flush", flushed)
        with pytest.raises(DivergedError, match=r"^seed 1: loss/critic became nan at step 12\.$"):
            small_seeds(tmp_path / "all", data)
    assert "warning: seed 1 stops: loss/critic" in capsys.readouterr().err
    assert not (tmp_path / "all" / "seed1" / "DONE").exists() and checkpoints(tmp_path / "all" / "seed1") == [10]
    for seed in (0, 5):
        small_run(tmp_path / f"alone{seed}", data, "td3-bc", **{**PLAIN, "seed": seed})
        refuse_difference(ending(tmp_path / f"alone{seed}"), ending(tmp_path / "all" / f"seed{seed}"))


@pytest.mark.parametrize(("failing", "reached"), [(2, 15), (5, 30)], ids=["on-the-way", "at-the-end"])
def test_a_seed_that_cannot_be_scored_is_saved_and_leaves_the_others_alone(tmp_path, data, failing, reached) -> None:
    reset, count = PointEnv.reset, 0

    def fails(self, seeds):
        nonlocal count
        count += 1
        if count == failing:
            raise OSError("the simulator lost its licence")
        return reset(self, seeds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PointEnv, "reset", fails)
        with pytest.raises(SourceStoppedError, match=r"^seed 1: The environment .* lost its licence"):
            small_seeds(tmp_path / "all", data)
    assert not (tmp_path / "all" / "seed1" / "DONE").exists() and checkpoints(tmp_path / "all" / "seed1")[0] == reached
    small_seeds(tmp_path / "all", data)
    for seed in (0, 1, 5):
        small_run(tmp_path / f"alone{seed}", data, "td3-bc", **{**PLAIN, "seed": seed})
        one, other = ending(tmp_path / f"alone{seed}"), ending(tmp_path / "all" / f"seed{seed}")
        if seed != 1:
            refuse_difference(one, other)
        refuse_difference(one["state"]["algorithm"], other["state"]["algorithm"])


@pytest.mark.parametrize(
    ("algorithm", "fields", "words"),
    [
        ("ma-iql", {}, "ma-iql computes losses of the whole team"),
        ("ma-ppo", {}, "ma-ppo with fresh episodes is none"),
        ("moma-ppo", {}, "moma-ppo with --world-model is none"),
        ("td3-bc", {"world_model": "ensemble"}, "td3-bc with --world-model is none"),
        ("td3-bc", {"online": True, "environment": "reacher"}, "td3-bc with --online is none"),
        ("td3-bc", {"engine": "local"}, "td3-bc with --engine is none"),
        ("bc", {"wandb": "offline"}, "bc with --wandb is none"),
        ("iql", {"share_parameters": True}, "With share_parameters iql"),
    ],
)
def test_what_cannot_go_with_several_seeds_is_refused_before_anything_is_made(
    tmp_path, data, algorithm, fields, words
) -> None:
    with pytest.raises((ConfigError, DataError), match=words):
        small_seeds(tmp_path / "all", data, algorithm=algorithm, **fields)
    assert not (tmp_path / "all").exists()


def test_folders_of_other_runs_and_seeds_named_twice_are_refused(tmp_path, data) -> None:
    with pytest.raises(ConfigError, match="each once"):
        small_seeds(tmp_path / "all", data, (1, 1))
    small_run(tmp_path / "all" / "seed1", data, "td3-bc", **{**PLAIN, "seed": 1, "steps": 5})
    with pytest.raises(RunFolderError, match="holds another run"):
        small_seeds(tmp_path / "all", data, (0, 1))
    assert not (tmp_path / "all" / "seed0" / "config.json").exists()


def test_the_largest_product_counts_drawn_actions_and_past_pairs(data) -> None:
    def product(algorithm: str, **fields) -> int:
        config = run.prepare(algorithm, data, {"hidden": [32, 64], "batch_size": 10, **fields})
        return largest_product(make_algorithm(config, Spec((8, 8), (1, 1))))

    assert product("iql") == 10 * 32 * 64
    assert product("iql", window=5) == 10 * 5 * 128 * 384
    assert product("omar", cql_samples=4) == 10 * 12 * 32 * 64


def test_words_for_seeds() -> None:
    assert read_seeds("0..3") == [0, 1, 2, 3] and read_seeds("0,3, 5") == [0, 3, 5] and read_seeds("7") == [7]
    assert read_seeds("0..2,9") == [0, 1, 2, 9]
    for text in ("", "a", "3..1", "0..", "-1..2", "0...3", "0..5000", "1,,2"):
        with pytest.raises(ConfigError, match=r"--seeds .* should be seeds such as 0\.\.7 or 0,3,5"):
            read_seeds(text)
