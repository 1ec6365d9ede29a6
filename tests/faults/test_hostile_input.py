"""Input from anybody, by classes: one sentence, a non-zero exit, nothing executed, nothing left, little memory."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import attacks_columns
import attacks_metadata
import attacks_pickles
import attacks_sizes
import attacks_small_files
import pytest
from arena import Arena, Attack, Outcome, described

CLASSES: dict[str, tuple[Callable[[int], Iterator[Attack]], int]] = {
    "pickles": (attacks_pickles.attacks, 150),
    "columns": (attacks_columns.attacks, 120),
    "sets of ours": (attacks_metadata.attacks, 10),
    "small files": (attacks_small_files.attacks, 150),
    "sizes and worlds": (attacks_sizes.attacks, 0),
}
"""Attacks of a class, and how many of each random kind are made."""
SAMPLE = 3
"""Attacks of each class that every run of the tests makes."""


def sampled(name: str) -> list[Attack]:
    """Some attacks of a class, the same ones each time."""
    attacks, _ = CLASSES[name]
    # Those that are not quick to make, or to be refused, are left to the whole campaign.
    slow = ("train", "resume", "evaluate", "million", "zeros", "bent")
    every = [attack for attack in attacks(2) if not any(word in attack.name for word in slow)]
    return random.Random(f"sample {name}").sample(every, min(SAMPLE, len(every)))


@pytest.mark.parametrize("name", CLASSES)
def test_some_hostile_input_is_answered_by_one_sentence(arena: Arena, name: str) -> None:
    _, faults = arena.faults(sampled(name))
    assert not faults, described(faults)


@pytest.mark.faults
@pytest.mark.parametrize("name", CLASSES)
def test_all_hostile_input_is_answered_by_one_sentence(
    arena: Arena, name: str, record_property: Callable[[str, object], None]
) -> None:
    attacks, count = CLASSES[name]
    counts, faults = arena.faults(attacks(count))
    for kind, number in counts.items():
        harmful = sum(attack.kind == kind for attack, _, _ in faults)
        record_property(kind, number)
        print(f"faults: {kind}: {number} attacks, {harmful} did harm")
    assert not faults, described(faults)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"code": 0}, "accepted"),
        ({"code": -11}, "crashed by signal 11"),
        ({"ended": "time"}, "ended for time"),
        ({"peak": 2 << 30}, "memory"),
        ({"err": "Traceback (most recent call last):\nValueError: x\n"}, "traceback"),
        ({"err": "error: one.\nerror: two.\n"}, "no one sentence"),
        ({"err": ""}, "no one sentence"),
        ({"changed": ["here/x.part 3"]}, "left here/x.part 3"),
        ({"changed": ["here/pwned 0"]}, "executed"),
    ],
)
def test_each_kind_of_harm_is_seen(changes: dict[str, object], fault: str | None) -> None:
    good = {"code": 2, "out": "", "err": "error: no.\n", "peak": 1 << 20, "seconds": 1.0, "ended": "itself"}
    attack = Attack("x", "y", lambda folder: [])
    assert Outcome(**{**good, **changes}).fault(attack) == fault  # type: ignore[arg-type]
