"""Broken and hostile files in every format: each is answered by one sentence, executes nothing, and takes no memory."""

from __future__ import annotations

import random
import resource
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("h5py")
pytest.importorskip("minari")
pytest.importorskip("pyarrow")
pytest.importorskip("tensorstore")

from hostile_bytes import NPY, ZIP
from hostile_sets import ABOUT, ARROW, VAULT, calling, copied, edited, odd, put, rewritten, sound, told

from offline_marl.core.errors import BadInputError
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.readers.convert import load_place
from offline_marl.datasets.readers.storage import archives

MOST_MEMORY = 256 << 20
"""Bytes by which no file may make this process grow."""

D4RL = {
    f"{name}: {what}": partial(edited, do) for name in ("observations", "rewards") for what, do in odd(name).items()
}
OMIGA = {f"{name}: {what}": partial(edited, do) for name in ("o", "d") for what, do in odd(name).items()}
EPISODE = {
    f"{name}: {what}": partial(edited, lambda file, do=do: do(file["episode_1"]))
    for name in ("rewards", "terminations")
    for what, do in odd(name).items()
    if what != "not finite"  # the agents' own rewards go before the team's
}
GROUPS: dict[str, Callable[[Any], None]] = {
    "no observations": lambda file: file["episode_1"].pop("observations"),
    "no agent": lambda file: file["episode_1/observations"].pop("agent_1"),
    "no episode": lambda file: [file.pop(name) for name in list(file)],
    "an episode that is an array": lambda file: put("episode_1", [1.0], file),
    "an episode elsewhere": lambda file: put("episode_1", __import__("h5py").ExternalLink("/etc/passwd", "x"), file),
    "an episode in an episode": lambda file: put("episode_1/observations", file["episode_0"], file),
    "a name that is no text": lambda file: file["episode_1"].move("rewards", b"r\xff\xfe"),
    "a row too many": lambda file: put("episode_1/actions/agent_0", np.zeros(99, int), file),
    "a wider agent": lambda file: put("episode_1/observations/agent_0", np.zeros((6, 9)), file),
    "a state of another length": lambda file: put("episode_1/infos/state", np.zeros((3, 5)), file),
    "rewards of too few agents": lambda file: put("episode_1/infos/rewards", np.zeros((6, 2)), file),
    "choices that are not there": lambda file: put("episode_1/actions/agent_0", np.full(5, 99), file),
    "choices that were not allowed": lambda file: put("episode_1/infos/avail_actions", np.zeros((6, 3, 4)), file),
    "allowed choices of another shape": lambda file: put("episode_0/infos/avail_actions", np.zeros((6, 3)), file),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return sound(tmp_path_factory.mktemp("sound"))


@pytest.fixture(autouse=True)
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Nothing is written outside the cache, and no memory is taken."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.setenv("OFFLINE_MARL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < MOST_MEMORY, f"it took {grown:,} bytes"
    assert not [each for each in (folder / "pwned", tmp_path / "pwned", Path("/tmp/pwned")) if each.exists()]
    home = tmp_path / "home"
    left = [each for kept in ("converted", "unpacked") for each in (home / kept).glob(".*")]
    assert not left, "something half-written is left"


def refused(place: Path) -> str:
    with pytest.raises(BadInputError) as refusal:
        load_place(place)
    said = str(refusal.value)
    assert "\n" not in said and said.endswith(".") and len(said) < 700, said
    return said


@pytest.mark.parametrize("what", D4RL)
def test_d4rl(good: dict[str, Path], tmp_path: Path, what: str) -> None:
    place = copied(good["d4rl"], tmp_path)
    D4RL[what](place)
    assert "x.hdf5" in refused(place) or "episode" in refused(place)


@pytest.mark.parametrize("what", OMIGA)
def test_omiga(good: dict[str, Path], tmp_path: Path, what: str) -> None:
    place = copied(good["omiga"], tmp_path)
    OMIGA[what](place)
    refused(place)


@pytest.mark.parametrize("what", [*EPISODE, *GROUPS])
def test_minari_episodes(good: dict[str, Path], tmp_path: Path, what: str) -> None:
    place = copied(good["minari-hdf5"], tmp_path)
    (EPISODE.get(what) or partial(edited, GROUPS[what]))(place / "data" / "main_data.hdf5")
    refused(place)


@pytest.mark.parametrize("what", ABOUT)
def test_minari_metadata(good: dict[str, Path], tmp_path: Path, what: str) -> None:
    refused(told(copied(good["minari-hdf5"], tmp_path), **ABOUT[what]))


@pytest.mark.parametrize("what", ARROW)
def test_minari_tables(good: dict[str, Path], tmp_path: Path, what: str) -> None:
    place = copied(good["minari-arrow"], tmp_path)
    rewritten(ARROW[what], place)
    refused(place)


def test_a_type_that_asks_for_a_pickle_is_a_word(good: dict[str, Path], tmp_path: Path) -> None:
    place = copied(good["minari-arrow"], tmp_path)
    rewritten(calling, place)
    assert isinstance(load_place(place), Dataset)


@pytest.mark.parametrize("what", NPY)
def test_omar(good: dict[str, Path], tmp_path: Path, what: str) -> None:
    place, name = copied(good["omar"], tmp_path), ("obs_0", "dones_1")[len(what) % 2]
    (place / f"{name}.npy").write_bytes(NPY[what])
    assert f"{name}.npy" in refused(place)


@pytest.mark.parametrize("what", ZIP)
def test_archives(tmp_path: Path, what: str) -> None:
    assert "x.zip" in refused(ZIP[what](tmp_path)) or "hdf5" in what or "pickle" in what or "HDF5" in what


def test_an_archive_of_too_many_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_ENTRIES", 1)
    assert "holds 2 entries" in refused(ZIP["two sets"](tmp_path))


def test_an_archive_larger_than_the_disk(good: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage("/")._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    assert "the disk of the cache has 100 left" in refused(good["zip"])


@pytest.mark.parametrize("what", VAULT)
def test_vaults(tmp_path: Path, what: str) -> None:
    refused(VAULT[what](tmp_path))


@pytest.mark.parametrize(
    "kind", ["d4rl", "omiga", "omar", "vault", "zip", "minari-hdf5", "minari-arrow", "minari-parquet"]
)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_truncated_files(good: dict[str, Path], tmp_path: Path, kind: str, share: float) -> None:
    place = copied(good[kind], tmp_path)
    file = largest(place)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    if kind != "vault":
        refused(place)
        return
    # A store keeps files whose place another has taken: which of them is the largest is left to its threads.
    try:
        found = load_place(place)
    except BadInputError:
        return
    whole = load_place(good[kind])
    assert all(torch.equal(getattr(found, name), getattr(whole, name)) for name in ("obs", "actions", "rewards"))


@pytest.mark.parametrize(
    "kind", ["d4rl", "omiga", "omar", "vault", "zip", "minari-hdf5", "minari-arrow", "minari-parquet"]
)
@pytest.mark.parametrize("seed", range(4))
def test_changed_bytes_are_read_or_refused_in_one_sentence(
    good: dict[str, Path], tmp_path: Path, kind: str, seed: int
) -> None:
    place = copied(good[kind], tmp_path)
    flip(largest(place), seed)
    try:
        found = load_place(place)
    except BadInputError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(found, Dataset) or kind == "d4rl"


def largest(place: Path) -> Path:
    files = [each for each in place.rglob("*") if each.is_file()] if place.is_dir() else [place]
    return max(files, key=lambda each: (each.stat().st_size, each.name))


def flip(file: Path, seed: int) -> None:
    draw, content = random.Random(seed), bytearray(file.read_bytes())
    for _ in range(1 + seed % 5):
        content[draw.randrange(len(content))] = draw.randrange(256)
    file.write_bytes(content)


def test_there_are_enough_of_them() -> None:
    assert (
        len(D4RL) + len(OMIGA) + len(EPISODE) + len(GROUPS) + len(ABOUT) + len(ARROW) + len(NPY) + len(ZIP) + len(VAULT)
        > 200
    )
