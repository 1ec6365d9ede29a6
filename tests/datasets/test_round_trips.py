"""From every format that is read into every format that is written, and back: nothing changes on the way."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign import Team, omar_arrays, omiga_arrays, vault_arrays, write_hdf5, write_omar, write_vault, zipped
from worlds import reacher_recording, world

from offline_marl.core.types import DataError
from offline_marl.datasets.base import Dataset, Recording
from offline_marl.datasets.episode_index import episode_numbers
from offline_marl.datasets.files import save_data
from offline_marl.datasets.readers.convert import load_place
from offline_marl.datasets.readers.detect import kind_of
from offline_marl.datasets.writers import d4rl, minari

pytest.importorskip("h5py")
pytest.importorskip("minari")
pytest.importorskip("pyarrow")
pytest.importorskip("tensorstore")


def moma_ppo(folder: Path) -> Path:
    data = reacher_recording()
    before = (torch.arange(len(data.rewards)) + episode_numbers(data.lengths)).numpy()
    state = np.pad(data.state.numpy(), ((0, 0), (0, 1)))  # the height of the tip, always 0
    held = {"observations": state[before], "next_observations": state[before + 1], "actions": data.actions.numpy()}
    held |= {"rewards": data.rewards.numpy()[:, None], "masks": np.ones((len(before), 1), np.float32)}
    held |= {"time_out_masks": 1 - data.truncations.numpy().astype(np.float32)[:, None]}
    (folder / "reacher.pkl").write_bytes(pickle.dumps(held))
    return folder / "reacher.pkl"


def written(write: Callable[..., object], data: Recording | Dataset, name: str, *more: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        write(folder / name, data, *more)
        return folder / name

    return make


CHOOSING = Team(choices=4)
UNEQUAL = Team(n_agents=3, obs_dims=(4, 6, 2))
READ: dict[str, Callable[[Path], Path]] = {
    "ours, a body": lambda folder: (save_data(folder / "x.safetensors", reacher_recording()), folder / "x.safetensors")[
        1
    ],
    "ours, a team": lambda folder: (
        save_data(folder / "y.safetensors", world("discrete", 4)),
        folder / "y.safetensors",
    )[1],
    "moma-ppo": moma_ppo,
    "d4rl": written(d4rl.write, reacher_recording(), "x.hdf5"),
    "minari": written(minari.write, world("continuous", 4), "x-v0", "parquet"),
    "omiga": lambda folder: write_hdf5(folder / "HalfCheetah-v2-6x1-expert.hdf5", omiga_arrays(Team())),
    "omar": lambda folder: write_omar(folder / "seed_0", omar_arrays(UNEQUAL, states=True)),
    "vault": lambda folder: write_vault(folder / "x.vlt" / "Good", vault_arrays(CHOOSING)),
    "zipped": lambda folder: zipped(
        write_vault(folder / "x.vlt" / "Good", vault_arrays(Team())).parent, folder / "x.zip"
    ),
}
WRITTEN: dict[str, Callable[[Path, Recording | Dataset], Path]] = {
    "ours": lambda folder, data: (save_data(folder / "z.safetensors", data), folder / "z.safetensors")[1],
    "d4rl": lambda folder, data: written(d4rl.write, data, "z.hdf5")(folder),
    **{
        f"minari, {storage}": lambda folder, data, storage=storage: written(minari.write, data, "z-v0", storage)(folder)
        for storage in ("hdf5", "arrow", "parquet")
    },
}


@pytest.mark.parametrize("source", READ)
def test_what_is_read_can_be_written_and_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setenv("OFFLINE_MARL_HOME", str(tmp_path / "home"))
    place = READ[source](tmp_path)
    assert kind_of(place) in {source, None}
    data = load_place(place)
    changing = {"sha256", "source_sha256", "format", "episodes_end", "minari_version", "dropped_steps"}
    for target, write in WRITTEN.items():
        (tmp_path / target).mkdir()
        if target == "d4rl" and isinstance(data, Dataset):
            with pytest.raises(DataError, match="what one body did"):
                write(tmp_path / target, data)
            continue
        found = load_place(write(tmp_path / target, data))
        assert type(found) is type(data)
        for name in data.__dataclass_fields__:
            one, other = getattr(found, name), getattr(data, name)
            if name != "metadata":
                assert torch.equal(one, other) if isinstance(other, torch.Tensor) else one == other, (target, name)
        kept = {key: value for key, value in data.metadata.items() if key not in changing}
        assert {key: found.metadata.get(key) for key in kept} == kept, target
