"""Learners that cannot be in memory are refused before they are built, with what they would take and what there is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from offline_marl.algorithms.base import algorithms
from offline_marl.core.config import ConfigError, build
from offline_marl.core.types import Spec
from offline_marl.runs import sizes

SPEC = Spec((4, 3), (2, 2), 6)


def refused(monkeypatch: pytest.MonkeyPatch, free: int | None, name: str = "bc", **settings: Any) -> str | None:
    monkeypatch.setattr(sizes, "memory_there_is", lambda: free)
    kind = algorithms.get(name)
    config = build(kind.Config, settings)
    try:
        sizes.refuse_too_large(name, lambda: kind(config, SPEC), config.model_dump(), SPEC)
    except ConfigError as error:
        return str(error)
    return None


def test_both_numbers_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = refused(monkeypatch, 10**9, hidden=[50_000, 50_000])
    assert sentence is not None and "and there are 1.0 GB" in sentence and "hidden = (50000, 50000)" in sentence
    # Two agents, each with 50,000 x 50,000 weights of 16 bytes.
    assert "would take about 80" in sentence


def test_one_batch_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    # rows x (2 agents x (2 x 4 seen + 2 done + 256 wide + 6) + 2 x 6 state) x 4 bytes
    assert sizes.batch_bytes({"batch_size": 10, "hidden": (256,)}, SPEC) == 4 * 10 * (2 * (8 + 2 + 256 + 6) + 12)
    sentence = refused(monkeypatch, 10**9, batch_size=10**9)
    assert sentence is not None and "one batch 2,224.0 GB" in sentence


def test_what_fits_is_built_and_draws_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_rng_state()
    assert refused(monkeypatch, 10**10, hidden=[4_096]) is None
    assert torch.equal(before, torch.get_rng_state())
    assert refused(monkeypatch, None, hidden=[4_096]) is None


def test_ordinary_settings_cost_no_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(monkeypatch, 1) is None


@pytest.mark.parametrize("name", ["cql", "ma-iql", "ma-ppo", "td3-bc"])
def test_critics_and_targets_count(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    # An actor of two agents alone would fit.
    assert refused(monkeypatch, 14 * 10**9, name, hidden=[20_000, 20_000]) is not None


def test_the_memory_of_this_machine_is_known() -> None:
    told = sizes.memory_there_is()
    assert told is None or 0 < told < 1 << 50
