"""Vaults written with tensorstore as flashbax writes them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign import LENGTHS, TERMINATED, Team, vault_arrays, write_vault, zipped

from offline_marl.core.types import DataError
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.catalog import home
from offline_marl.datasets.episode_index import episode_numbers
from offline_marl.datasets.readers.convert import fingerprint
from offline_marl.datasets.readers.zipped import split
from offline_marl.tasks.data_tasks import load_recording, open_task

pytest.importorskip("tensorstore")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLINE_MARL_HOME", str(tmp_path / "home"))


def loaded(place: object) -> Dataset:
    data = open_task(str(place)).data
    assert isinstance(data, Dataset)
    return data


def assert_is(data: Dataset, team: Team) -> None:
    """A Vault does not say what followed last steps: their rows are repeated, and marked."""
    kept = list(LENGTHS)
    assert data.lengths.tolist() == kept and data.ends_seen.tolist() == [False] * len(LENGTHS)
    first = 0
    for number, (length, over) in enumerate(zip(LENGTHS, TERMINATED, strict=True)):
        episode, steps = data.episode(number), slice(first, first + kept[number])
        rows = np.minimum(np.arange(kept[number] + 1), length - 1) + first
        np.testing.assert_array_equal(episode.obs, team.flat("obs")[rows])
        np.testing.assert_array_equal(episode.state, team.flat("state")[rows])
        np.testing.assert_array_equal(episode.actions, team.held["actions"][steps])
        np.testing.assert_array_equal(episode.rewards, team.held["rewards"][steps])
        assert episode.terminations[-1].tolist() == [over] * 2 and episode.truncations[-1].tolist() == [not over] * 2
        if team.choices:
            np.testing.assert_array_equal(episode.avail_actions, team.flat("avail")[rows])
        first += length


@pytest.mark.parametrize("choices", [0, 5])
@pytest.mark.parametrize("form", ["folder", "uid", "zip", "deep zip"])
def test_a_vault_is_read_whatever_its_wrapping(tmp_path: Path, choices: int, form: str) -> None:
    team = Team(choices=choices)
    uid = write_vault(tmp_path / "og_marl" / "2cheetah.vlt" / "Good", vault_arrays(team))
    place = {
        "folder": uid.parent,
        "uid": uid,
        "zip": zipped(uid.parent, tmp_path / "2cheetah.zip") if form == "zip" else uid,
        "deep zip": zipped(uid.parent.parent, tmp_path / "all.zip") if form == "deep zip" else uid,
    }[form]
    data = loaded(place)
    assert_is(data, team)
    assert data.spec.act_dims == ((5, 5) if choices else (2, 2)) and data.spec.state_dim == 3
    assert data.metadata["format"] == "vault" and data.metadata["name"] == "2cheetah/Good"
    assert data.metadata["vault"]["environment"] == "made up"


def test_a_vault_that_flashbax_wrote() -> None:
    """flashbax 0.1.3 with jax 0.10.2 and orbax-checkpoint 0.12.8: 23 steps, 10 an episode, by the formulas below."""
    data = loaded(Path(__file__).with_name("flashbax.zip"))
    time, agent, choice = np.arange(23)[:, None, None], np.arange(2)[:, None], np.arange(5)
    done = (time + agent)[..., 0] % 5
    rows = (torch.arange(23) + episode_numbers(data.lengths)).numpy()
    assert data.lengths.tolist() == [10, 10, 3] and data.spec.act_dims == (5, 5)
    np.testing.assert_allclose(data.obs[rows], time + agent / 10 + choice[:4] / 100, rtol=1e-6)
    np.testing.assert_array_equal(data.actions, done)
    np.testing.assert_array_equal(data.rewards, (time - agent)[:, :, 0])
    np.testing.assert_array_equal(data.state[rows], np.arange(23)[:, None] * np.arange(1, 4))
    np.testing.assert_array_equal(data.avail_actions[rows], ((choice + time) % 2 == 0) | (choice == done[..., None]))
    assert data.terminations.any(-1).nonzero().flatten().tolist() == [9, 19]


def test_one_of_several_sets_is_named(tmp_path: Path) -> None:
    teams = {name: Team(seed=seed) for seed, name in enumerate(("Good", "Poor"))}
    for name, team in teams.items():
        write_vault(tmp_path / "x.vlt" / name, vault_arrays(team), small=True)
    archive = zipped(tmp_path / "x.vlt", tmp_path / "x.zip")
    for place in (tmp_path / "x.vlt", archive):
        with pytest.raises(DataError, match=r"holds 2 sets \(Good, Poor\): name one, such as .*/Good"):
            open_task(str(place))
        for name, team in teams.items():
            assert_is(loaded(f"{place}/{name}"), team)
        with pytest.raises(DataError, match="holds no 'Best'; it holds"):
            open_task(f"{place}/Best")
    (kept,) = (home() / "unpacked").iterdir()
    told = json.loads((kept / "archive.json").read_text())
    assert told == {"name": "x.zip", "sha256": fingerprint(archive)} and kept.name == f"x-{told['sha256'][:16]}"
    assert loaded(f"{archive}/Good").metadata["source_sha256"] == fingerprint(tmp_path / "x.vlt" / "Good")


def test_an_archive_that_macos_packed(tmp_path: Path) -> None:
    team = Team()
    write_vault(tmp_path / "x.vlt" / "Good", vault_arrays(team), small=True)
    archive = zipped(tmp_path / "x.vlt", tmp_path / "x.zip")
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr("__MACOSX/x.vlt/._Good", b"\0\5\x16\7")
        more.writestr("__MACOSX/._x.hdf5", b"\0\5\x16\7")
    assert_is(loaded(archive), team)


@pytest.mark.parametrize(
    ("place", "parts"),
    [
        ("x.zip/Good", ("x.zip", "Good")),
        ("hf://lab/sets/a/x.zip/Good/b@v1", ("hf://lab/sets/a/x.zip@v1", "Good/b")),
        ("hf://lab/sets/x.zip@v1", ("hf://lab/sets/x.zip@v1", None)),
        ("x.vlt/Good", ("x.vlt/Good", None)),
    ],
)
def test_an_archive_and_what_is_named_in_it(place: str, parts: tuple[str, str | None]) -> None:
    assert split(place) == parts


def test_choices_without_legals_are_counted(tmp_path: Path) -> None:
    team = Team(choices=3)
    held = {name: value for name, value in vault_arrays(team).items() if name != "infos.legals."}
    held["actions."] = held["actions."][..., None].astype(np.int64)
    data = loaded(write_vault(tmp_path / "x.vlt" / "a", held, small=True))
    assert data.spec.act_dims == (3, 3) and data.avail_actions is None


def test_names_of_folders_are_plain_names(tmp_path: Path) -> None:
    team, odd = Team(), tmp_path / "a b#c%20?d:e" / "x.vlt" / "Good & Poor"
    write_vault(tmp_path / "x.vlt" / "a", vault_arrays(team), small=True)
    odd.parent.mkdir(parents=True)
    (tmp_path / "x.vlt" / "a").rename(odd)
    assert_is(loaded(odd.parent), team)


def test_legals_of_continuous_actions_mean_nothing(tmp_path: Path) -> None:
    team = Team()
    held = {**vault_arrays(team), "infos.legals.": np.ones((18, 2, 9), np.float32)}
    assert loaded(write_vault(tmp_path / "x.vlt" / "a", held, small=True)).avail_actions is None


def test_what_is_written_behind_the_index_does_not_count(tmp_path: Path) -> None:
    team = Team()
    data = loaded(write_vault(tmp_path / "x.vlt" / "a", vault_arrays(team), index=LENGTHS[0] + LENGTHS[1], small=True))
    assert data.lengths.tolist() == [LENGTHS[0], LENGTHS[1]]


def test_it_is_no_recording(tmp_path: Path) -> None:
    place = write_vault(tmp_path / "x.vlt" / "a", vault_arrays(Team()), small=True)
    assert isinstance(load_recording(str(place)), Dataset)
    with pytest.raises(DataError, match="is split among agents already"):
        open_task(f"{place.parent}_2x1_full")


@pytest.mark.parametrize("filler", [-np.inf, np.nan])
def test_what_is_padding_in_every_row_is_cut(tmp_path: Path, filler: float) -> None:
    team = Team(obs_dims=(4, 2))
    arrays = vault_arrays(team)
    before = arrays["observations."].copy()
    arrays["observations."][:, 1, 2:] = filler
    wide = np.concatenate([arrays["observations."], np.full((*before.shape[:2], 1), filler, np.float32)], -1)
    arrays["observations."] = wide
    arrays["infos.state."] = np.insert(arrays["infos.state."], 1, filler, axis=1)
    data = loaded(write_vault(tmp_path / "x.vlt" / "a", arrays, small=True))
    assert data.spec.obs_dims == (4, 2) and data.spec.state_dim == 3
    assert_is(data, team)


def test_a_number_that_is_not_finite_here_and_there_is_no_padding(tmp_path: Path) -> None:
    arrays = vault_arrays(Team())
    arrays["observations."][0, 1, 3] = -np.inf
    with pytest.raises(DataError, match="'obs' is not finite"):
        loaded(write_vault(tmp_path / "x.vlt" / "a", arrays, small=True))


@pytest.mark.parametrize("style", ["once", "repeated"])
def test_agents_of_a_vault_may_leave_before_the_others(tmp_path: Path, style: str) -> None:
    team = Team()
    held = vault_arrays(team)
    flags, ends = np.zeros((18, 2), np.float32), np.cumsum(LENGTHS) - 1
    flags[ends] = 1
    flags[1 : ends[0], 0], flags[ends[0], 0] = (1, 1) if style == "repeated" else (0, 0)
    flags[1, 0] = 1
    held["terminals."], held["truncations."] = flags, np.zeros_like(flags)
    data = loaded(write_vault(tmp_path / "x.vlt" / "a", held, small=True))
    assert data.lengths.tolist() == list(LENGTHS) and data.mask is not None
    assert data.mask[:, 0].tolist() == [step < 2 or step > ends[0] for step in range(18)] and data.mask[:, 1].all()
    assert data.terminations[: ends[0] + 1, 0].nonzero().flatten().tolist() == [1]
    assert not data.episode(0).obs[2:, 0].any() and not data.rewards[2 : ends[0] + 1, 0].any()
