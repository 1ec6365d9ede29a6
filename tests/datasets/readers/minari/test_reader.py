"""Folders that the real minari wrote."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offline_marl.core.types import DataError
from offline_marl.tasks.data_tasks import open_task

minari = pytest.importorskip("minari")
spaces = pytest.importorskip("gymnasium").spaces

LENGTHS = (4, 2, 11)
DRAW = np.random.default_rng(0)


def box(width: int, bound: float = np.inf) -> Any:
    return spaces.Box(-bound, bound, (width,), np.float32)


def draw(space: Any, rows: int) -> Any:
    if isinstance(space, spaces.Dict):
        return {name: draw(part, rows) for name, part in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(draw(part, rows) for part in space)
    if isinstance(space, spaces.Discrete):
        return DRAW.integers(0, space.n, rows)
    return DRAW.uniform(-1, 1, (rows, *space.shape)).astype(np.float32)


def written(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    seen: Any,
    moved: Any,
    infos: Any = None,
    storage: str = "hdf5",
    scale: Any = None,
) -> list[Any]:
    from minari.data_collector.episode_buffer import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    episodes = []
    for number, length in enumerate(LENGTHS):
        ended = np.arange(length) == length - 1
        episodes.append(
            EpisodeBuffer(
                id=number,
                observations=draw(seen, length + 1),
                actions=scale(draw(moved, length)) if scale else draw(moved, length),
                rewards=DRAW.standard_normal(length).astype(np.float32).tolist(),
                terminations=(ended & (number == 1)).tolist(),
                truncations=(ended & (number != 1)).tolist(),
                infos=infos(length) if infos else None,
            )
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it recommends to tell
        minari.create_dataset_from_buffers(
            name,
            episodes,
            observation_space=seen,
            action_space=moved,
            data_format=storage,
            algorithm_name="none",
            author="nobody",
            author_email="nobody@nowhere",
            code_permalink="none",
        )
    return episodes


STORAGES = ("hdf5", "arrow", "parquet")


@pytest.mark.parametrize("storage", STORAGES)
def test_one_bodys_set_is_split_by_partition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str) -> None:
    if storage != "hdf5":
        pytest.importorskip("pyarrow")
    held = written(tmp_path, monkeypatch, "mujoco/hopper/made-v0", box(11), box(3, 1.0), storage=storage)
    for place in ("minari://mujoco/hopper/made-v0", str(tmp_path / "mujoco/hopper/made-v0")):
        task = open_task(f"{place}_3x1_0")
        assert task.data.lengths.tolist() == list(LENGTHS) and task.partition is not None
        assert task.data.state is not None and task.data.metadata["scenario"] == "hopper"
        np.testing.assert_array_equal(task.data.state[:5], held[0].observations)
    assert task.data.terminations[5].all() and not task.data.terminations[:5].any()


@pytest.mark.parametrize("kind", ["dict", "tuple"])
@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("storage", STORAGES)
def test_a_teams_set_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, discrete: bool, storage: str
) -> None:
    if storage != "hdf5":
        pytest.importorskip("pyarrow")
    widths = (3, 5, 4, 2, 2, 2, 2, 2, 2, 2, 6)  # eleven agents: agent_10 comes after agent_9
    parts = {f"agent_{i}": box(width) for i, width in enumerate(widths)}
    moves = {name: spaces.Discrete(4) if discrete else box(1, 1.0) for name in parts}
    seen, moved = (
        (spaces.Dict(parts), spaces.Dict(moves))
        if kind == "dict"
        else (spaces.Tuple(list(parts.values())), spaces.Tuple(list(moves.values())))
    )
    own = [DRAW.standard_normal((length + 1, len(widths))).astype(np.float32) for length in LENGTHS]
    order = iter(own)
    held = written(
        tmp_path, monkeypatch, "team/made-v0", seen, moved,
        lambda length: {"rewards": next(order), "state": np.full((length + 1, 2), 3.0)}, storage,
    )  # fmt: skip
    data = open_task("minari://team/made-v0").data
    assert data.spec.obs_dims == widths and data.spec.discrete is discrete and data.spec.state_dim == 2
    first = held[0].observations["agent_10"] if kind == "dict" else held[0].observations[10]
    np.testing.assert_array_equal(data.obs[:5, 10], first)
    np.testing.assert_array_equal(data.rewards, np.concatenate([part[1:] for part in own]))
    assert data.lengths.tolist() == list(LENGTHS)


def test_actions_of_other_bounds_are_rescaled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    low, high = np.array([-0.4, 0, -2], np.float32), np.array([0.4, 3, 2], np.float32)
    moved = spaces.Box(low, high)
    held = written(tmp_path, monkeypatch, "hopper-v0", box(11), moved, scale=lambda a: low + (a + 1) / 2 * (high - low))
    task = open_task("minari://hopper-v0_3x1_0")
    first = held[0].actions
    np.testing.assert_allclose(task.data.actions[:4, :, 0], 2 * (first - low) / (high - low) - 1, atol=1e-6)
    assert np.allclose(task.data.metadata["action_bounds"], [[low, high]])


def test_a_team_may_have_bounds_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spaces.Dict({"a": box(2), "b": box(3)})
    moved = spaces.Dict({"a": spaces.Box(0, 1, (5,), np.float32), "b": box(2, 1.0)})
    held = written(tmp_path, monkeypatch, "team-v0", seen, moved, scale=lambda a: {**a, "a": (a["a"] + 1) / 2})
    data = open_task("minari://team-v0").data
    np.testing.assert_allclose(data.actions[:4, 0], 2 * held[0].actions["a"] - 1, atol=1e-6)
    np.testing.assert_array_equal(data.actions[:4, 1, :2], held[0].actions["b"])
    assert data.metadata["action_bounds"] == [[[0.0] * 5, [1.0] * 5], None]


def test_choices_begin_at_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spaces.Dict({"a": box(2), "b": box(3)})
    moved = spaces.Dict({"a": spaces.Discrete(5, start=3), "b": spaces.Discrete(2)})
    written(tmp_path, monkeypatch, "team-v0", seen, moved, scale=lambda a: {**a, "a": a["a"] + 3})
    data = open_task("minari://team-v0").data
    assert data.spec.act_dims == (5, 2) and data.actions.min() >= 0 and data.actions.max() < 5


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (spaces.Box(-np.inf, np.inf, (3,)), "its actions have no bounds"),
        (spaces.Box(1, 1, (3,)), "its actions have no bounds, or empty ones"),
        (spaces.MultiBinary(3), "its actions are of a 'MultiBinary' space"),
    ],
)
def test_other_spaces_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: Any, said: str) -> None:
    written(tmp_path, monkeypatch, "hopper-v0", box(11), box(3, 1.0))
    about = tmp_path / "hopper-v0" / "data" / "metadata.json"
    serialize = pytest.importorskip("minari.serialization").serialize_space
    about.write_text(json.dumps({**json.loads(about.read_text()), "action_space": serialize(space)}))
    with pytest.raises(DataError, match=said):
        open_task("minari://hopper-v0_3x1_0")


def test_parts_of_one_bodys_observation_are_no_team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spaces.Dict({"achieved_goal": box(2), "observation": box(3)})
    written(tmp_path, monkeypatch, "maze-v0", seen, box(2, 1.0))
    with pytest.raises(DataError, match="Its actions are of one array, its observations of achieved_goal, observation"):
        open_task("minari://maze-v0")


def test_scores_of_minari_are_the_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, monkeypatch, "hopper-v0", box(11), box(3, 1.0))
    about = tmp_path / "hopper-v0" / "data" / "metadata.json"
    text = {**json.loads(about.read_text()), "ref_min_score": -20.0, "ref_max_score": 3000.0}
    about.write_text(json.dumps({key: value for key, value in text.items() if key != "action_space"}))
    task = open_task("minari://hopper-v0_3x1_0")
    assert task.reference is not None and (task.reference.random, task.reference.expert) == (-20.0, 3000.0)
    assert task.data.metadata["action_bounds"] == "not told; taken as [-1, 1]"


def test_what_cannot_be_read_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, monkeypatch, "made-v0", box(11), box(3, 1.0))
    about = tmp_path / "made-v0" / "data" / "metadata.json"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = {"minari://nowhere-v0": "fetch it by `minari download nowhere-v0`", "minari://../x": "should be minari://ID"}
    for place, sentence in said.items():
        with pytest.raises(DataError, match=sentence):
            open_task(place)
    text = json.loads(about.read_text())
    about.write_text(json.dumps({**text, "data_format": "lance"}))
    with pytest.raises(DataError, match="is stored as lance; Minari's hdf5, arrow, parquet are read"):
        open_task(str(tmp_path / "made-v0"))
    about.write_text("{")
    with pytest.raises(DataError, match=r"metadata\.json cannot be read"):
        open_task(str(tmp_path / "made-v0"))
