"""The yardstick of imagined tokens in benchmarks/speed.py draws the very tokens that the model draws."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from offline_marl.worldmodels.token_carry import Draws


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    module = importlib.import_module("speed_tokens")
    monkeypatch.setattr(module, "STARTS", 5)
    return module


@pytest.mark.parametrize("settings", [{}, {"decoding": "parallel"}, {"tokens_of": "observations"}])
def test_the_loop_imagines_what_the_model_does(speed: Any, settings: dict[str, Any]) -> None:
    model, starts = speed.prepare("reacher", length=3, width=16, hidden=(8,), guess=(8,), **settings)
    loop = speed.LoopTokens(model)
    ours, theirs = model.begin(starts), loop.begin(starts)
    for _ in range(3):
        draws: Draws = speed.draws_of(model, 5)
        with torch.no_grad():
            told, ours = model._stepped(ours, starts.actions, draws)
        plain, theirs = loop.step(theirs, starts.actions, draws)
        assert torch.equal(ours.obs, theirs.obs)
        torch.testing.assert_close(told.next_obs, plain.next_obs)
        torch.testing.assert_close(told.rewards, plain.rewards)


def test_the_cache_takes_what_the_formula_says(speed: Any) -> None:
    for settings in ({}, {"decoding": "parallel", "members": 3, "layers": 1}):
        held, formula = speed.cache_bytes(*speed.prepare("reacher", **settings))
        assert held == formula > 0


def test_a_row_tells_every_ratio(speed: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(speed, "medians", lambda calls, *_: {name: 1.0 for name in calls})
    monkeypatch.setattr(speed, "STEPS", 2)
    speed.compare_tokens("reacher", speed.Patience(1, 0.0))
    told = capsys.readouterr().out
    assert all(
        part in told
        for part in ("loop over ours 1.00", "one by one over at once 1.00", "cache 1.0 MB, by the formula 1.0 MB")
    )
