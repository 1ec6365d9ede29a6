"""Files written as D4RL wrote them: flat steps, flags, and in old files no timeouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from offline_marl.core.types import DataError
from offline_marl.datasets import catalog
from offline_marl.datasets.files import load_data
from offline_marl.datasets.places import absolute
from offline_marl.datasets.readers import d4rl
from offline_marl.datasets.readers.convert import fingerprint, load_place
from offline_marl.tasks.data_tasks import load_recording, open_task

h5py = pytest.importorskip("h5py")

WIDTHS = {"halfcheetah": (17, 6), "walker2d": (17, 6), "hopper": (11, 3), "ant": (27, 8)}
LENGTHS, TERMINATED = (4, 3, 5, 2), (False, True, False, False)
LAST = np.cumsum(LENGTHS) - 1


def arrays(body: str, seed: int = 0, next_obs: bool = True, timeouts: bool = True) -> dict[str, np.ndarray]:
    """Four episodes: one terminates, the others are timed out."""
    draw, (seen, moved), steps = np.random.default_rng(seed), WIDTHS[body], sum(LENGTHS)
    rows = [draw.standard_normal((length + 1, seen)).astype(np.float32) for length in LENGTHS]
    ends, terminals = np.zeros(steps, bool), np.zeros(steps, bool)
    ends[LAST], terminals[LAST] = ~np.array(TERMINATED), TERMINATED
    held = {
        "observations": np.concatenate([row[:-1] for row in rows]),
        "actions": draw.uniform(-1, 1, (steps, moved)).astype(np.float32),
        "rewards": draw.standard_normal(steps).astype(np.float32),
        "terminals": terminals,
    }
    held |= {"timeouts": ends} if timeouts else {}
    held |= {"next_observations": np.concatenate([row[1:] for row in rows])} if next_obs else {}
    return held


def written(path: Path, held: dict[str, Any], **attrs: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, value in held.items():
            file.create_dataset(name, data=value, compression="gzip")
        file["infos/qpos"] = np.zeros((3, 2))
        file["metadata/algorithm"] = "SAC"
        file.attrs.update(attrs)
    return path


@pytest.mark.parametrize("next_obs", [True, False])
@pytest.mark.parametrize(
    ("body", "conf", "agents"), [("halfcheetah", "2x3", 2), ("hopper", "3x1", 3), ("ant", "4x2", 4)]
)
def test_a_file_is_a_task_with_conf_and_view(tmp_path: Path, body: str, conf: str, agents: int, next_obs: bool) -> None:
    held = arrays(body, next_obs=next_obs)
    path = written(tmp_path / f"{body}_medium-v2.hdf5", held)
    task = open_task(f"{path}_{conf}_0")
    assert task.data.spec.n_agents == agents and task.partition is not None and task.partition.scenario == body
    assert task.data.lengths.tolist() == list(LENGTHS) and (task.data.ends_seen is None) == next_obs
    assert task.data.terminations.any(-1).sum() == 1 and task.data.episode(1).terminations[-1].all()
    assert absolute(f"{path}_{conf}_0") == f"{path}_{conf}_0"


def test_numbers_and_ends_are_those_of_the_file(tmp_path: Path) -> None:
    held = arrays("hopper")
    data = load_recording(str(written(tmp_path / "x.hdf5", held)))
    assert data.metadata["scenario"] == "hopper" and data.metadata["episodes_end"] == "terminals, timeouts"
    for number, (last, length) in enumerate(zip(LAST, LENGTHS, strict=True)):
        rows = data.state[last + 1 + number - length : last + 2 + number]
        np.testing.assert_array_equal(rows[:-1], held["observations"][last - length + 1 : last + 1])
        np.testing.assert_array_equal(rows[-1], held["next_observations"][last])
    np.testing.assert_array_equal(data.actions, held["actions"])
    np.testing.assert_array_equal(data.rewards, held["rewards"])
    assert data.truncations.nonzero().flatten().tolist() == LAST[[0, 2, 3]].tolist()


def test_an_old_file_is_cut_where_the_next_observation_is_not_the_next_row(tmp_path: Path) -> None:
    new, old = (written(tmp_path / f"{name}.hdf5", arrays("hopper", timeouts=name == "new")) for name in ("new", "old"))
    known, found = load_recording(str(new)), load_recording(str(old))
    assert torch.equal(found.lengths, known.lengths) and torch.equal(found.state, known.state)
    assert "where the next observation is not the next row" in found.metadata["episodes_end"]


def test_the_oldest_files_are_cut_by_the_clock(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    terminals = np.zeros(23, bool)
    terminals[8] = True
    held = {"observations": draw.random((23, 11)), "actions": draw.uniform(-1, 1, (23, 3)), "rewards": draw.random(23)}
    data = load_recording(str(written(tmp_path / "x.hdf5", {**held, "terminals": terminals}, max_episode_steps=5)))
    # Steps 0-4, 5-8 (terminated), 9-13, 14-18, 19-22.
    assert data.lengths.tolist() == [5, 4, 5, 5, 4] and data.ends_seen.tolist() == [False] * 5
    assert data.metadata["episodes_end"] == "terminals, and every 5 steps: the file has no timeouts"
    assert "every 1000 steps" in d4rl.recording({**held, "terminals": terminals}).metadata["episodes_end"]


def test_breaks_that_no_flag_told_are_counted(tmp_path: Path) -> None:
    held = arrays("hopper")
    held["timeouts"][LAST[0]] = False
    data = load_recording(str(written(tmp_path / "x.hdf5", held)))
    assert data.lengths.tolist() == list(LENGTHS) and "and 1 breaks that no flag told" in data.metadata["episodes_end"]


@pytest.mark.parametrize(
    ("name", "attrs", "scenario"),
    [
        ("walker2d_random-v0.hdf5", {}, "walker2d"),
        ("Half-Cheetah.hdf5", {}, "halfcheetah"),
        ("mine.hdf5", {"env_name": "HalfCheetah-v2"}, "halfcheetah"),
        ("mine.hdf5", {"scenario": np.bytes_("walker2d")}, "walker2d"),
    ],
)
def test_two_bodies_of_one_width_are_told_apart_by_name(
    tmp_path: Path, name: str, attrs: dict[str, Any], scenario: str
) -> None:
    task = open_task(f"{written(tmp_path / name, arrays('walker2d'), **attrs)}_2x3_0tv")
    assert task.data.metadata["scenario"] == scenario


def test_a_file_of_doubtful_origin_says_how_to_name_it(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.hdf5", arrays("walker2d"))
    with pytest.raises(DataError, match=r"mine\.hdf5 does not say which scenario .* name one in its file name") as said:
        open_task(f"{path}_2x3_0")
    assert "walker2d" in str(said.value) and "\n" not in str(said.value)


def test_the_ants_contact_forces_are_left_out(tmp_path: Path) -> None:
    held = arrays("ant")
    for name in ("observations", "next_observations"):
        held[name] = np.concatenate([held[name], np.ones((len(held[name]), 84), np.float32)], axis=1)
    data = load_recording(str(written(tmp_path / "ant.hdf5", held)))
    assert data.state.shape[1] == 27 and data.metadata["scenario"] == "ant"
    unnamed = load_recording(str(written(tmp_path / "x.hdf5", held)))
    assert unnamed.state.shape[1] == 111 and "scenario" not in unnamed.metadata, "no columns are cut on a guess"


def test_a_file_is_converted_once_and_keeps_both_checksums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLINE_MARL_HOME", str(tmp_path / "home"))
    path = written(tmp_path / "hopper.hdf5", arrays("hopper"))
    data = load_place(path)
    (kept,) = (catalog.home() / "converted").iterdir()
    monkeypatch.setattr(d4rl.D4RL, "open", lambda *_: pytest.fail("it was converted already"))
    again = load_place(path)
    assert again.metadata == data.metadata == load_data(kept).metadata and torch.equal(again.state, data.state)
    assert data.metadata["source_sha256"] == fingerprint(path) != data.metadata["sha256"]


def test_arrays_of_a_d4rl_environment_will_do() -> None:
    data = d4rl.recording(arrays("hopper", next_obs=False)).check()
    assert data.lengths.tolist() == list(LENGTHS) and not data.ends_seen.any()


def hostile(kind: str, path: Path) -> None:
    held = arrays("hopper")
    if kind == "virtual":
        layout = h5py.VirtualLayout(shape=(14, 11), dtype="f4")
        layout[:] = h5py.VirtualSource(str(path.parent / "other.hdf5"), "x", shape=(14, 11))
    with h5py.File(path, "w") as file:
        for name in held:
            if name != "observations":
                file[name] = held[name]
        if kind == "external link":
            file["observations"] = h5py.ExternalLink("/etc/passwd", "x")
        elif kind == "soft link":
            file["observations"] = h5py.SoftLink("/next_observations")
        elif kind == "external file":
            file.create_dataset("observations", (14, 11), "u1", external=[("/etc/passwd", 0, 154)])
        elif kind == "virtual":
            file.create_virtual_dataset("observations", layout)
        elif kind == "bomb":
            file.create_dataset("observations", (1 << 40, 11), "f4", chunks=(1024, 11), compression="gzip")
        elif kind == "words":
            file["observations"] = ["a"] * 14
        elif kind == "group":
            file.create_group("observations")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("external link", "points to another file"),
        ("soft link", "points to another file or place"),
        ("external file", "is kept in another file"),
        ("virtual", "is kept in another file"),
        ("bomb", "claims .* bytes, but only 0 are stored"),
        ("words", "not an array of numbers"),
        ("group", "not an array of numbers"),
        ("nothing", "'observations' is missing; there are: actions, "),
    ],
)
def test_hostile_files_are_one_sentence(tmp_path: Path, kind: str, said: str) -> None:
    hostile(kind, tmp_path / "x.hdf5")
    with pytest.raises(DataError, match=said) as refusal:
        load_place(tmp_path / "x.hdf5")
    assert "\n" not in str(refusal.value) and "x.hdf5" in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rewards": np.zeros(13)}, r"'rewards' has shape \(13,\)"),
        ({"rewards": np.zeros((14, 2))}, r"'rewards' has shape \(14, 2\)"),
        ({"actions": np.zeros(14)}, r"'actions' has shape \(14,\)"),
        ({"terminals": np.full(14, 0.5)}, "'terminals' should hold true and false"),
        ({"next_observations": np.zeros((14, 3))}, "of different widths"),
        ({name: np.zeros((0, 2)) for name in ("observations", "actions")}, r"has shape \(0, 2\)|has shape \(14,\)"),
        ({"observations": np.full((14, 11), np.nan)}, "not finite in episode 0"),
        ({"actions": np.full((14, 3), 1.5)}, "outside"),
    ],
)
def test_broken_content_is_one_sentence(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = written(tmp_path / "x.hdf5", {**arrays("hopper"), **change})
    with pytest.raises(DataError, match=said) as refusal:
        load_place(path)
    assert "\n" not in str(refusal.value)


def test_truncated_files_are_one_sentence(tmp_path: Path) -> None:
    path = written(tmp_path / "x.hdf5", arrays("hopper"))
    content = path.read_bytes()
    for length in np.linspace(0, len(content) - 1, 9).astype(int):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"x\.hdf5") as refusal:
            load_place(path)
        assert "\n" not in str(refusal.value)


def test_a_name_that_contradicts_the_widths_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "ant.hdf5", arrays("hopper"))
    with pytest.raises(DataError, match=r"'ant\.hdf5' names ant, which shows 27 or 105 or 111 numbers and takes 8"):
        load_place(path)
