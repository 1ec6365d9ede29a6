"""Commas and equal signs in the name of a place are part of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from offline_marl.core.names import is_place, named_places, split_share


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("bc,lr=0.1_seed0", "bc_lr=0.5", "plain"):
        Path(name).mkdir()


def test_a_share_is_what_stands_behind_the_name() -> None:
    assert split_share("bc,lr=0.1_seed0") == ("bc,lr=0.1_seed0", None)
    assert split_share("bc_lr=0.5") == ("bc_lr=0.5", None)
    assert split_share("bc_lr=0.5=2") == ("bc_lr=0.5", "2")
    assert split_share("bc_lr=0.5@100=2") == ("bc_lr=0.5@100", "2")
    assert split_share("bc_lr=0.5@100") == ("bc_lr=0.5@100", None)
    assert split_share("random=3") == ("random", "3") and split_share("random") == ("random", None)


def test_lists_are_split_between_places() -> None:
    assert named_places("bc,lr=0.1_seed0,random=0.5") == ["bc,lr=0.1_seed0", "random=0.5"]
    assert named_places("plain,bc,lr=0.1_seed0=2,bc_lr=0.5@7") == ["plain", "bc,lr=0.1_seed0=2", "bc_lr=0.5@7"]
    assert named_places("a,b") == ["a", "b"]


def test_what_can_be_no_name_is_no_place() -> None:
    assert not is_place("x" * 10_000) and not is_place("") and not is_place("a\0b")
