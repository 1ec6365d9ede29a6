from __future__ import annotations

from pathlib import Path

import pytest

from offline_marl.datasets.places import place_of


@pytest.mark.parametrize(
    ("task", "place", "share"),
    [
        ("mine.safetensors", "mine.safetensors", None),
        ("mine.safetensors_2x1_full", "mine.safetensors", ("2x1", "full")),
        ("/a_b/c_d.hdf5_4x2_0", "/a_b/c_d.hdf5", ("4x2", "0")),
        ("a_b_c.h5", "a_b_c.h5", None),
        ("x.pkl_2x1_wrong", "x.pkl", ("2x1", "wrong")),
        ("hf://lab/sets/a_b/x_y.pkl", "hf://lab/sets/a_b/x_y.pkl", None),
        ("hf://lab/sets/x.pkl@main_2x1_full", "hf://lab/sets/x.pkl@main", ("2x1", "full")),
        ("hf://lab/sets/x.pkl@refs/pr/1_2x1_full", "hf://lab/sets/x.pkl@refs/pr/1", ("2x1", "full")),
        ("a_b/x_y.vlt", "a_b/x_y.vlt", None),
        ("x.vlt/Good", "x.vlt/Good", None),
        ("a_b/x.zip/Very_Good_0", "a_b/x.zip/Very_Good_0", None),
        ("x.zip_2x1_full", "x.zip", ("2x1", "full")),
        ("hf://lab/sets/x_y.zip/Good@v1", "hf://lab/sets/x_y.zip/Good@v1", None),
        ("minari://mujoco/hopper/medium-v0_3x1_0", "minari://mujoco/hopper/medium-v0", ("3x1", "0")),
        ("hf://lab/sets/some_folder_here", "hf://lab/sets/some_folder_here", None),
        ("hf://lab/sets/folder_2x3_0tv", "hf://lab/sets/folder", ("2x3", "0tv")),
    ],
)
def test_a_place_and_its_share(task: str, place: str, share: tuple[str, str] | None) -> None:
    assert place_of(task) == (place, share)


@pytest.mark.parametrize("name", ["reacher-scripted-mix-v0_2x1_0", "coordination-mix-v0", "nothing", "no_such_thing"])
def test_names_of_the_catalogue_are_no_places(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert place_of(name) is None


def test_folders_are_places_where_they_exist(tmp_path: Path) -> None:
    folder = tmp_path / "my_own_data"
    assert place_of(f"{folder}_2x3_0") is None
    folder.mkdir()
    assert place_of(str(folder)) == (str(folder), None)
    assert place_of(f"{folder}_2x3_0") == (str(folder), ("2x3", "0"))


def test_a_file_of_any_ending_is_a_place_where_it_exists(tmp_path: Path) -> None:
    file = tmp_path / "x.npy"
    assert place_of(str(file)) is None
    file.touch()
    assert place_of(str(file)) == (str(file), None)
