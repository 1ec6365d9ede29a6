"""A run that is asked to stop saves where it stands, also in the middle of a period, and ends as if it had not been."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import checkpoints, ending, refuse_difference, score_in_point_env, small_fit, small_run, table
from worlds import saved, world

from offline_marl.runs import stopping
from offline_marl.runs.stopping import StoppedEarly, saving_when_interrupted
from offline_marl.training import loop, run
from offline_marl.training.loop import DivergedError, LogHook
from offline_marl.training.models import fit as fitting


@pytest.fixture(autouse=True)
def nobody_asked() -> Iterator[None]:
    stopping.asked.clear()
    yield
    stopping.asked.clear()


def ask_at(patch: pytest.MonkeyPatch, at: int, spoil: bool = False) -> None:
    """Ask for a stop while this update is going on."""
    log = LogHook.__call__

    def call(self: LogHook, step: int, learner: Any, metrics: Any) -> None:
        if step == at:
            stopping.asked.set()
            metrics = {name: value * torch.nan for name, value in metrics.items()} if spoil else metrics
        log(self, step, learner, metrics)

    patch.setattr(loop.LogHook, "__call__", call)


def test_one_interruption_asks_for_a_stop_and_a_second_one_ends_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), saving_when_interrupted(lambda: True) as interrupted:
            signal.raise_signal(signal.SIGINT)
            assert interrupted.is_set() and stopping.asked.is_set()
            assert "Ctrl-C again ends it at once" in capfd.readouterr().err
            signal.raise_signal(signal.SIGINT)
        stopping.asked.clear()
        with pytest.raises(KeyboardInterrupt), saving_when_interrupted(lambda: False):
            signal.raise_signal(signal.SIGINT)
        assert not stopping.asked.is_set() and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with saving_when_interrupted(lambda: True):
            signal.raise_signal(signal.SIGINT)
        assert not stopping.asked.is_set()
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture
def data(tmp_path: Path) -> str:
    return saved(tmp_path, world("continuous"))


@pytest.mark.parametrize(("algorithm", "stops"), [("ma-iql", (1, 10, 29)), ("td3-bc", (16,))])
def test_a_run_that_was_asked_to_stop_ends_as_if_it_had_not(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch, algorithm: str, stops: tuple[int, ...]
) -> None:
    score_in_point_env(monkeypatch)
    fields: dict[str, Any] = {"algorithm": algorithm, "steps": 30, "checkpoint_every": 10, "eval_every": 5}
    small_run(tmp_path / "straight", data, **fields)
    for step in stops:
        out = tmp_path / str(step)
        with monkeypatch.context() as patch, pytest.raises(StoppedEarly, match=f"after update {step}"):
            ask_at(patch, step)
            small_run(out, data, **fields)
        assert checkpoints(out)[0] == step and not (out / "DONE").exists()
        stopping.asked.clear()
        run.resume(out)
        refuse_difference(ending(tmp_path / "straight"), ending(out))


def test_the_last_update_is_not_stopped(tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ask_at(monkeypatch, 60)
    assert small_run(tmp_path / "run", data).folder == tmp_path / "run" and (tmp_path / "run" / "DONE").exists()


@pytest.mark.long
def test_a_fit_that_was_asked_to_stop_ends_as_if_it_had_not(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = small_fit(tmp_path / "straight", data)
    with monkeypatch.context() as patch, pytest.raises(StoppedEarly):
        ask_at(patch, 33)
        small_fit(tmp_path / "stopped", data)
    stopping.asked.clear()
    stopped = fitting.resume_fit(tmp_path / "stopped")
    assert straight.errors == stopped.errors
    refuse_difference(dict(straight.model.state_dict()), dict(stopped.model.state_dict()))
    assert table(tmp_path / "straight" / "metrics.csv") == table(tmp_path / "stopped" / "metrics.csv")


def test_what_is_not_finite_any_more_is_not_saved(tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ask_at(monkeypatch, 26, spoil=True)
    with pytest.raises(DivergedError, match="at step 26"):
        small_run(tmp_path / "run", data)
    assert checkpoints(tmp_path / "run") == [20]
