"""The caller's arrays: never written into, and never shared with a data set."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from offline_marl import Dataset
from offline_marl.core.types import Episode, Spec
from offline_marl.datasets.readers.steps import Steps

STEPS, AGENTS = 12, 2


def arrays(**more: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    ends = np.zeros((STEPS, AGENTS), np.bool_)
    ends[[3, 7, 11]] = True
    obs, state = rng.normal(size=(STEPS, AGENTS, 3)).astype("f4"), rng.normal(size=(STEPS, 4)).astype("f4")
    after = np.roll(obs, -1, axis=0)
    after[[3, 7, 11]] += 1.0  # no reset
    return {
        "obs": obs,
        "actions": rng.uniform(-1, 1, (STEPS, AGENTS, 2)).astype("f4"),
        "rewards": rng.normal(size=(STEPS, AGENTS)).astype("f4"),
        "next_obs": after,
        "terminations": ends,
        "truncations": np.zeros_like(ends),
        "state": state,
        "next_state": np.roll(state, -1, axis=0),
        **more,
    }


def mapped(folder: Path, mode: Any) -> Callable[[str, Any], Any]:
    def keep(name: str, value: Any) -> Any:
        np.save(folder / f"{name}.npy", value)
        return np.load(folder / f"{name}.npy", mmap_mode=mode)

    return keep


def frozen(_: str, value: Any) -> Any:
    value.flags.writeable = False
    return value


def same(one: Dataset, other: Dataset) -> bool:
    names = ("obs", "actions", "rewards", "terminations", "truncations", "lengths", "state")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


HALF = slice(0, 6)
FORMS: dict[str, Callable[[Path], Callable[[str, Any], Any]]] = {
    "plain": lambda _: lambda name, value: value,
    "read-only": lambda _: frozen,
    "mapped to read": lambda folder: mapped(folder, "r"),
    "mapped to write": lambda folder: mapped(folder, "r+"),
    "tensors": lambda _: lambda name, value: torch.from_numpy(value),
    "views": lambda _: lambda name, value: np.repeat(value, 2, axis=0)[::2],
    "the other byte order": lambda _: lambda name, value: value.astype(value.dtype.newbyteorder()),
    "lists": lambda _: lambda name, value: value if name in {"state", "next_state"} else list(value.swapaxes(0, 1)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("given", ["flags", "lengths"])
def test_arrays_stay_as_they_were_and_nothing_of_them_is_shared(form: str, given: str, tmp_path: Path) -> None:
    more = {"lengths": np.array([4, 4, 4])} if given == "lengths" else {}
    held = {name: FORMS[form](tmp_path)(name, value) for name, value in arrays().items()} | more
    before = copy.deepcopy(held)
    data = Dataset.from_arrays(**held)
    right = Dataset.from_arrays(**arrays(), **more)
    for name, value in held.items():
        assert all(np.array_equal(a, b) for a, b in zip(value, before[name], strict=True)), name
        for part in value if isinstance(value, list) else [value]:
            if form not in {"read-only", "mapped to read"}:
                part[:] = 1
    assert same(data, right)


def test_a_look_at_half_an_episode_leaves_the_flags_alone() -> None:
    held = arrays()
    Dataset.from_arrays(**{name: value[HALF] for name, value in held.items()})
    assert not held["truncations"].any() and held["terminations"].sum() == 3 * AGENTS


def test_discrete_choices_and_lengths_are_copied() -> None:
    actions, lengths = np.zeros((STEPS, AGENTS), np.int64), torch.tensor([4, 8])
    allowed = np.ones((STEPS + 2, AGENTS, 3), np.bool_)
    obs = np.zeros((STEPS + 2, AGENTS, 1), "f4")
    data = Dataset.from_arrays(obs, actions, np.zeros(STEPS), lengths=lengths, avail_actions=allowed)
    actions[:], allowed[:], lengths[:], obs[:] = 2, False, 6, 7
    assert not data.actions.any() and bool(data.avail_actions.all()) and not data.obs.any()  # type: ignore[union-attr]
    assert data.lengths.tolist() == [4, 8]


def test_padded_episodes_are_copied() -> None:
    filled = np.ones((2, 4), np.bool_)
    held = {
        "obs": np.ones((2, 4, 2, 3), "f4"),
        "actions": np.zeros((2, 4, 2, 1), "f4"),
        "rewards": np.ones((2, 4, 2), "f4"),
        "terminations": np.zeros((2, 4), np.bool_),
    }
    held["terminations"][:, 2], held["rewards"][:, 3] = True, 0
    given = {name: frozen(name, value.copy()) for name, value in held.items()}
    right = Dataset.from_arrays(**given, filled=frozen("", filled.copy()))
    data = Dataset.from_arrays(**held, filled=filled)
    for value in (*held.values(), filled):
        value[:] = 0
    assert same(replace(data, state=data.lengths), replace(right, state=right.lengths)) and bool(data.rewards.all())


def test_metadata_are_copied() -> None:
    about: dict[str, Any] = {"seeds": [1, 2, 3]}
    data = Dataset.from_arrays(**arrays(), metadata=about)
    about["seeds"].append(4)
    assert data.metadata == {"seeds": [1, 2, 3]}


@pytest.mark.parametrize("form", ["plain", "read-only", "mapped to read", "tensors"])
def test_episodes_are_copied(form: str, tmp_path: Path) -> None:
    held = arrays()
    parts = {name: held[name][:4] for name in ("actions", "rewards", "terminations", "truncations")}
    parts |= {"obs": held["obs"][:5]}
    given = {name: FORMS[form](tmp_path)(name, value.copy()) for name, value in parts.items()}
    data = Dataset.from_episodes([Episode(**given)], Spec((3, 3), (2, 2)))
    for value in given.values():
        if form in {"plain", "tensors"}:
            value[:] = 1
    assert all(np.array_equal(getattr(data, name).numpy(), value) for name, value in parts.items())


def test_read_only_flat_steps_are_read_without_a_word() -> None:
    held = {name: frozen(name, arrays()[name]) for name in ("obs", "actions", "rewards", "terminations", "truncations")}
    data = Steps(**held, spec=Spec((3, 3), (2, 2))).recording({})
    assert not held["truncations"].any() and len(data.lengths) == 3
