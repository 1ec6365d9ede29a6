"""SMAX in a Python of its own: the messages, battles by hand, what is refused; with jaxmarl, real ones."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from offline_marl.core.config import ConfigError
from offline_marl.core.interpreters import SMAX_PYTHON, take_interpreters
from offline_marl.core.types import DataError
from offline_marl.environments import smax
from offline_marl.environments.base import MissingSimulatorError, environments
from offline_marl.environments.smax import SMAXDiedError, SMAXTeam
from offline_marl.environments.smax_server import read_message, write_message

TOY = Path(__file__).parents[1] / "support" / "toy_smax.py"
STOP, SHOOT = 4, 5


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{TOY}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv(SMAX_PYTHON, str(python))
    return python


@pytest.fixture
def battle(toy: Path) -> Iterator[SMAXTeam]:
    team = SMAXTeam(2)
    yield team
    team.close()


def choices(*rows: tuple[int, int]) -> np.ndarray:
    return np.array(rows)


def test_a_battle_by_hand(battle: SMAXTeam) -> None:
    spec = battle.spec
    assert (spec.obs_dims, spec.act_dims, spec.state_dim, spec.discrete) == ((3, 3), (6, 6), 2, True)
    assert battle.versions() == {"smax": "3m", "jaxmarl": "0.0"}
    seen = battle.reset([7, 8])
    assert seen.obs[:, :, 0].tolist() == [[7, 7], [8, 8]] and seen.obs.dtype == np.float32
    assert seen.present is None and seen.avail_actions is not None
    assert seen.avail_actions[0].tolist() == [[True] * 5 + [False]] * 2, "nobody may shoot yet"
    # The first copy shoots though nobody may: it stops instead.
    seen, rewards, ended, cut = battle.step(choices((SHOOT, SHOOT), (0, 1)))
    assert rewards.tolist() == [[0, 0], [0, 0]] and seen.obs[0, :, 2].tolist() == [STOP, STOP]
    seen, rewards, ended, cut = battle.step(choices((SHOOT, SHOOT), (0, 0)))
    assert rewards.tolist() == [[2, 2], [0, 0]] and rewards.dtype == np.float32
    # The second unit has died: it is still paid, sees nothing and may only stop.
    assert seen.obs[:, 1].tolist() == [[0, 0, 0], [0, 0, 0]]
    assert seen.avail_actions is not None and seen.avail_actions[0, 1].tolist() == [False] * 4 + [True, False]
    assert not ended.any() and not cut.any()
    seen, rewards, ended, cut = battle.step(choices((SHOOT, STOP), (0, STOP)))
    assert rewards.tolist() == [[1, 1], [0, 0]] and ended.tolist() == [True, False] and not cut.any()
    assert battle.infos()[0]["agent_1"] == {"won": 1.0} and battle.infos()[1]["agent_0"] == {"won": 0.0}
    final = seen
    battle.step(choices((0, STOP), (0, STOP)))
    seen, rewards, ended, cut = battle.step(choices((0, STOP), (SHOOT, STOP)))
    assert rewards.tolist() == [[0, 0], [1, 1]] and cut.tolist() == [False, True] and ended.tolist() == [True, False]
    assert np.array_equal(seen.obs[0], final.obs[0]), "what is over stays as it is"
    assert battle.reset([3]).obs.shape == (1, 2, 3)


def test_a_lost_battle_terminates_and_a_shorter_clock_truncates(toy: Path) -> None:
    lost, short = SMAXTeam(1, "lost"), SMAXTeam(1, max_steps=2)
    for team in (lost, short):
        team.reset([0])
        team.step(choices((0, 0)))
    assert [flags.tolist() for flags in lost.step(choices((0, 0)))[2:]] == [[True], [False]]
    assert lost.infos()[0]["agent_0"] == {"won": 0.0}
    assert [flags.tolist() for flags in short.step(choices((0, 0)))[2:]] == [[False], [True]]
    assert SMAXTeam(1, max_steps=50).max_steps == 5, "the scenario's own clock is the last"


def test_the_registry_makes_it_with_settings(toy: Path) -> None:
    team = environments.get("smax").told({"scenario": "2s3z", "see_enemy_actions": True}, 3).make(None, 4)
    assert (team.copies, team.max_steps, team.versions()["smax"]) == (4, 3, "2s3z")
    for value in (10**9, float("nan"), [1], {"a": 1}, None):
        with pytest.raises(DataError, match="smax cannot be made with world_steps_per_env_step"):
            environments.get("smax").told({"world_steps_per_env_step": value}).make(None, 1)
    with pytest.raises(DataError, match="of 0 steps"):
        environments.get("smax").told({}, 0).told({}, 10**9)


def test_what_cannot_be_is_refused_in_a_sentence(toy: Path, monkeypatch: pytest.MonkeyPatch, battle: SMAXTeam) -> None:
    with pytest.raises(DataError, match="at least 1 copy"):
        SMAXTeam(0)
    with pytest.raises(DataError, match="cannot be made with the scenario 'unknown' and these settings: KeyError"):
        SMAXTeam(1, "unknown")
    for seeds in ([], [1, 1], [1, 2, 3]):
        with pytest.raises(DataError, match="2 copies"):
            battle.reset(seeds)
    battle.reset([1])
    for actions in (choices((0, 6)), choices((0, -1)), choices((0, 0), (0, 0))):
        with pytest.raises(DataError):
            battle.step(actions)
    with pytest.raises(DataError, match="draws no pictures"):
        battle.render()
    monkeypatch.setenv(SMAX_PYTHON, str(toy.with_name("nothing")))
    with pytest.raises(MissingSimulatorError, match="cannot be run"):
        SMAXTeam(1)
    monkeypatch.delenv(SMAX_PYTHON)
    with pytest.raises(MissingSimulatorError, match=r"make smax.*--smax-python"):
        SMAXTeam(1)


def test_a_python_that_dies_ends_the_work_with_a_sentence(toy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    team = SMAXTeam(1, "dies")
    team.reset([0])
    with pytest.raises(SMAXDiedError, match="stopped answering"):
        team.step(choices((0, 0)))
    with pytest.raises(SMAXDiedError):
        team.reset([0])


def test_a_terminal_stops_the_run_and_not_its_battles(battle: SMAXTeam) -> None:
    process = battle._process
    assert os.getsid(process.pid) == process.pid != os.getsid(0)
    battle.close()
    assert process.returncode is not None, "it ends with the run"


def test_a_python_without_jaxmarl_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SMAX_PYTHON, sys.executable)
    with pytest.raises(MissingSimulatorError, match="has no jaxmarl"):
        SMAXTeam(1)


def test_the_flag_names_the_python_for_all_that_follows(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SMAX_PYTHON)
    assert take_interpreters(["collect", "smax", "--smax-python", str(toy), "--out", "x"]) == [
        *("collect", "smax", "--out", "x")
    ]
    assert os.environ[SMAX_PYTHON] == str(toy)
    assert take_interpreters([f"--smax-python={toy}", "list"]) == ["list"]
    for words in (["--smax-python"], ["--smax-python", str(toy.parent)], ["--smax-python=/no/such"]):
        with pytest.raises(ConfigError, match="--smax-python"):
            take_interpreters(words)


def test_messages_hold_numbers_and_nothing_else() -> None:
    stream = io.BytesIO()
    write_message(stream, {"do": "step"}, actions=np.array([[1, 2]], np.int32), flags=np.array([True]))
    stream.seek(0)
    line, arrays = read_message(stream) or pytest.fail("nothing was written")
    assert line == {"do": "step"} and arrays["actions"].tolist() == [[1, 2]] and arrays["flags"].tolist() == [True]
    assert read_message(stream) is None
    for head in (b'{"arrays": {"a": ["|O", [1]]}}\n', b'{"arrays": {"a": ["<f8", [99999999999]]}}\n'):
        with pytest.raises(ValueError):
            read_message(io.BytesIO(head + b"12345678"))
    assert read_message(io.BytesIO(b'{"arrays": {"a": ["<f8", [2]]}}\n12345678')) is None, "cut in the middle"
    assert read_message(io.BytesIO(b'{"arrays"')) is None


needs_jaxmarl = pytest.mark.skipif(not os.environ.get(SMAX_PYTHON), reason=f"{SMAX_PYTHON} names no Python")


@pytest.mark.smax
@needs_jaxmarl
def test_real_episodes_depend_on_their_seeds_alone() -> None:
    one, other = SMAXTeam(3), SMAXTeam(20)
    try:
        seen, others = one.reset([5, 6, 2**40]), other.reset([9, 2**40, 6, 5, *range(10, 26)])
        assert seen.avail_actions is not None and (seen.avail_actions.sum(-1) >= 1).all()
        assert not np.array_equal(seen.obs[0], seen.obs[1])
        draw = np.random.default_rng(0)
        for _ in range(30):
            assert np.array_equal(seen.obs, others.obs[[3, 2, 1]]) and seen.state is not None
            allowed = seen.avail_actions
            actions = (draw.random(allowed.shape) * allowed).argmax(-1)
            rest = np.full((20, 3), STOP)
            rest[[3, 2, 1]] = actions
            seen, rewards, *flags = one.step(actions)
            others, other_rewards, *other_flags = other.step(rest)
            assert np.array_equal(rewards, other_rewards[[3, 2, 1]])
            assert all(np.array_equal(a, b[[3, 2, 1]]) for a, b in zip(flags, other_flags, strict=True))
            assert seen.avail_actions is not None
    finally:
        one.close()
        other.close()


@pytest.mark.smax
@needs_jaxmarl
def test_real_battles_are_recorded_fitted_and_imagined(tmp_path: Path) -> None:
    from offline_marl.launch.cli import main

    def run(*words: str) -> None:
        with pytest.raises(SystemExit) as end:
            main(words)
        assert not end.value.code

    data = tmp_path / "battle.safetensors"
    run("collect", "smax", "--who", "random", "--episodes", "20", "--score-episodes", "0", "--out", str(data))
    model = str(tmp_path / "model")
    run("fit-model", "marie", "--dataset", str(data), "--steps", "40", "--tokenizer-steps", "20", "--out", model)
    words = ["--world-model", model, "--steps", "2", "--batch-size", "20", "--horizon", "3", "--final-episodes", "2"]
    run("train", "marie", "--dataset", str(data), *words, "--out", str(tmp_path / "run"))
    assert (tmp_path / "run" / "DONE").exists()


def test_the_server_is_a_program_that_needs_none_of_our_packages() -> None:
    text = smax.SERVER.read_text()
    assert "offline_marl" not in text and "pickle" not in text
