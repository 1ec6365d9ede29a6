"""Published steps become the same data whatever the size of the pieces they go through memory in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from offline_marl.core.files import Streamed, load_tree, save_tree
from offline_marl.core.types import DataError, Spec
from offline_marl.datasets.files import load_data
from offline_marl.datasets.readers import steps as reading
from offline_marl.datasets.readers.steps import Altered, Steps, breaks, save_steps

LENGTHS, TERMINATED = (4, 1, 5, 2, 1), (False, True, False, True, False)


def flat(team: bool, followed: bool, discrete: bool = False) -> Steps:
    """Episodes whose rows name themselves: row r of episode e is 100 e + r."""
    rows = [100.0 * e + np.arange(length + 1, dtype=np.float32) for e, length in enumerate(LENGTHS)]
    obs, after = (np.concatenate([r[cut] for r in rows]) for cut in (slice(None, -1), slice(1, None)))
    count, ends = len(obs), np.cumsum(LENGTHS) - 1
    terminations = np.zeros(count, np.bool_)
    terminations[ends] = TERMINATED
    truncations = np.zeros(count, np.bool_)
    truncations[ends] = ~np.array(TERMINATED)
    shape = (count, 2, 1) if team else (count, 1)

    def wide(values: np.ndarray) -> np.ndarray:
        return np.broadcast_to(values.reshape(count, *[1] * (len(shape) - 1)), shape)

    spec = Spec((1, 1), (3, 3) if discrete else (1, 1), 1, "discrete" if discrete else "continuous") if team else None
    actions = np.arange(count)[:, None].repeat(2, 1) % 3 if discrete else wide(np.linspace(-1, 1, count, dtype="f4"))
    return Steps(
        wide(obs),
        actions,
        np.arange(count, dtype=np.float32),
        terminations,
        truncations,
        wide(after) if followed else None,
        state=obs.reshape(-1, 1) if team else None,
        next_state=after.reshape(-1, 1) if team and followed else None,
        avail_actions=np.ones((count, 2, 3), np.bool_) if discrete else None,
        spec=spec,
    )


@pytest.mark.parametrize("team", [False, True])
def test_what_followed_is_the_last_row(team: bool) -> None:
    data = flat(team, followed=True).recording({}).check()
    seen = data.obs[:, 0, 0] if team else data.state[:, 0]
    wanted = [100.0 * e + r for e, length in enumerate(LENGTHS) for r in range(length + 1)]
    assert seen.tolist() == wanted and data.lengths.tolist() == list(LENGTHS)
    assert data.ends_seen is None and (not team or torch.equal(data.state[:, 0], seen))


def test_flags_of_a_team_end_whoever_is_there() -> None:
    steps = flat(team=True, followed=True)
    mask = np.ones((sum(LENGTHS), 2), np.bool_)
    mask[:2, 1] = False
    data = replace(steps, mask=mask).recording({}).check()
    assert data.mask.tolist() == mask.tolist() and data.lengths.tolist() == list(LENGTHS)
    last = np.cumsum(LENGTHS) - 1
    assert data.terminations[last].tolist() == [[over] * 2 for over in TERMINATED]
    assert (data.terminations | data.truncations).sum() == 2 * len(LENGTHS)


@pytest.mark.parametrize("team", [False, True])
def test_without_what_followed_last_rows_repeat_and_are_marked(team: bool) -> None:
    data = flat(team, followed=False).recording({}).check()
    seen = data.obs[:, 1, 0] if team else data.state[:, 0]
    wanted = [100.0 * e + min(r, length - 1) for e, length in enumerate(LENGTHS) for r in range(length + 1)]
    assert seen.tolist() == wanted and data.lengths.tolist() == list(LENGTHS)
    assert data.ends_seen.tolist() == [False] * len(LENGTHS)
    rewards = data.rewards[:, 0] if team else data.rewards
    assert rewards.tolist() == list(range(sum(LENGTHS)))


@pytest.mark.parametrize("piece", [1, 24, 100])
@pytest.mark.parametrize("form", [(False, True, False), (True, False, False), (True, True, False), (True, False, True)])
def test_files_do_not_depend_on_the_size_of_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int, form: tuple[bool, bool, bool]
) -> None:
    about, told = {"name": "x"}, list[int]()
    save_steps(tmp_path / "whole.safetensors", flat(*form), about)
    monkeypatch.setattr(reading, "PIECE", piece)
    save_steps(tmp_path / "pieces.safetensors", flat(*form), about, told.append)
    whole, pieces = (tmp_path / f"{name}.safetensors" for name in ("whole", "pieces"))
    assert whole.read_bytes() == pieces.read_bytes() and len(told) > 5
    assert sum(told) == sum(value.nbytes for value in load_file(pieces).values())
    made, found = flat(*form).recording(about), load_data(pieces)
    assert torch.equal(made.actions, found.actions) and made.actions.dtype == found.actions.dtype
    assert torch.equal(made.rewards, found.rewards) and torch.equal(made.truncations, found.truncations)


def test_a_streamed_tensor_comes_back_as_if_it_had_been_whole(tmp_path: Path) -> None:
    values = torch.arange(12.0).view(6, 2)
    streamed = Streamed(torch.float32, (6, 2), lambda: (values[i : i + 4] for i in (0, 4)))
    checksums = [
        save_tree(tmp_path / "x", {"a": each, "b": torch.ones(3, dtype=torch.bool)}, "k") for each in (values, streamed)
    ]
    assert checksums[0] == checksums[1] and torch.equal(load_tree(tmp_path / "x", "k")[0]["a"], values)


@pytest.mark.parametrize(("pieces", "said"), [((3, 2), "size"), ((4, 3), "size"), ((), "size")])
def test_a_stream_of_another_size_leaves_nothing(tmp_path: Path, pieces: tuple[int, ...], said: str) -> None:
    streamed = Streamed(torch.float32, (6,), lambda: (torch.zeros(n) for n in pieces))
    with pytest.raises(ValueError, match=said):
        save_tree(tmp_path / "x", {"a": streamed}, "k")
    assert not list(tmp_path.iterdir())


def test_a_reader_that_fails_halfway_leaves_nothing(tmp_path: Path) -> None:
    held = flat(team=False, followed=True)

    def fail(rows: np.ndarray) -> np.ndarray:
        raise DataError("halfway")

    broken = Steps(
        held.obs, Altered(held.actions, fail, (1,)), held.rewards, held.terminations, held.truncations, held.next_obs
    )
    with pytest.raises(DataError, match="halfway"):
        save_steps(tmp_path / "x.safetensors", broken, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "rows"), [("actions", 3), ("next_obs", 14), ("terminations", 2)])
def test_tables_of_other_lengths_are_refused(name: str, rows: int) -> None:
    held = flat(team=False, followed=True)
    fields = {
        each: getattr(held, each) for each in ("obs", "actions", "rewards", "terminations", "truncations", "next_obs")
    }
    fields[name] = np.zeros((rows, *fields[name].shape[1:]), fields[name].dtype)
    with pytest.raises(DataError, match=f"'{name}' has {rows} rows, 'rewards' 13"):
        Steps(**fields).recording({})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"truncations": np.zeros(5, np.bool_)}, "'truncations' has 5 rows, 'rewards' 13"),
        ({"next_obs": np.zeros((13, 1, 1), np.float32)}, r"'next_obs' has shape \(13, 1, 1\), 'obs' \(13, 2, 1\)"),
        ({"next_state": None}, "'next_state' is not: nobody knows how each episode's state ended"),
        ({"rewards": np.zeros((13, 2, 1), np.float32)}, r"one for each agent; there are of shape \(13, 2, 1\)"),
    ],
)
def test_what_a_reader_of_ones_own_may_mistake_is_refused(changed: dict[str, object], said: str) -> None:
    with pytest.raises(DataError, match=said):
        replace(flat(team=True, followed=True), **changed).recording({})


def test_breaks_are_found_across_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    held = flat(team=False, followed=True)
    whole = breaks(held.obs, held.next_obs)
    assert np.flatnonzero(whole).tolist() == (np.cumsum(LENGTHS)[:-1] - 1).tolist()
    monkeypatch.setattr(reading, "PIECE", 8)
    np.testing.assert_array_equal(breaks(held.obs, held.next_obs), whole)
