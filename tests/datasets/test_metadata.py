"""One schema of metadata: what is known is of its type and in bounds, what is unknown stays."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pytest

from offline_marl.core.reference import Reference
from offline_marl.datasets.metadata import mistake, reference_of

GOOD: list[dict[str, Any]] = [
    {},
    {
        "name": "x",
        "scenario": "reacher",
        "seed": 3,
        "seeds": [1, 2],
        "who": [0, 1],
        "actors": [{"name": "a", "more": 1}],
    },
    {"reference": {"random": 0, "expert": 1, "note": "published"}, "versions": {"mujoco": "3.2"}},
    {"settings": {"N": 3, "continuous_actions": True, "max_cycles": 25}, "max_steps": 25, "reward": "team"},
    {"mine": {"of": ["any", {"kind": None}]}, "action_noise": [0.1, 0.2], "deviators": [-1, 0]},
    {"name": None, "settings": None, "licence": None},
]
BAD: dict[str, dict[str, Any]] = {
    "'name' cannot be 3": {"name": 3},
    "'name' cannot be '\\x1b[2J'": {"name": "\x1b[2J"},
    "asks for N = 100000, and a file may ask for 1,000 at most": {"settings": {"N": 100_000}},
    "asks for N = a number of more than 30 digits": {"settings": {"N": 10**100}},
    "asks for max_cycles = 10000000, and a file may ask for 1,000,000": {"settings": {"max_cycles": 10_000_000}},
    "holds more than 1,000 entries": {"settings": {str(i): 0 for i in range(2_000)}},
    "'max_steps' cannot be 0": {"max_steps": 0},
    "'seed' cannot be True": {"seed": True},
    "'who.1' cannot be 'a'": {"who": [0, "a"]},
    "'random_return' cannot be nan": {"random_return": float("nan")},
    "cannot be inf": {"reference": {"random": float("inf"), "expert": 1}},
    "extra inputs are not permitted": {"reference": {"random": 0, "expert": 1, "x": 2}},
    "'mine' cannot be np.int64(3): no file keeps it": {"mine": np.int64(3)},
    "'mine' cannot be {'on': [datetime.date(2020, 1, 2)]}: no file keeps it": {"mine": {"on": [date(2020, 1, 2)]}},
    "'mine' cannot be {0.5: 1}: no file keeps it": {"mine": {0.5: 1}},
    "nested more than 64 deep": {"mine": __import__("functools").reduce(lambda inner, _: [inner], range(100), 1)},
}


@pytest.mark.parametrize("metadata", GOOD)
def test_good_metadata_have_no_mistake(metadata: dict[str, Any]) -> None:
    assert mistake(metadata) is None


@pytest.mark.parametrize("words", BAD)
def test_a_mistake_is_one_sentence(words: str) -> None:
    sentence = mistake(BAD[words])
    assert sentence is not None and words in sentence and sentence.endswith(".") and "\n" not in sentence
    assert len(sentence) < 600


def test_metadata_are_named_entries() -> None:
    assert mistake([1]) == "The metadata are a list, they should be named entries."
    assert mistake({3: 1}) == "The metadata name an entry 3, which is no word."


def test_a_scale_needs_an_expert_above_random_play() -> None:
    assert reference_of({"reference": {"random": 0, "expert": 2}}) == Reference(0, 2)
    for scores in (None, {}, {"random": 1}, {"random": 1, "expert": 1}, {"random": 5, "expert": -5}):
        assert reference_of({"reference": scores}) is None
