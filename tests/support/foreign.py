"""Sets in other people's formats, written as those who publish them write them, and the numbers that are in them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

LENGTHS = (5, 3, 6, 4)
TERMINATED = (False, True, False, True)


@dataclass
class Team:
    """Random episodes; `obs`, `state` and `avail` have one row more an episode."""

    n_agents: int = 2
    obs_dims: tuple[int, ...] = (4, 4)
    act_dim: int = 2
    choices: int = 0
    """0 for continuous actions."""
    lengths: Sequence[int] = LENGTHS
    terminated: Sequence[bool] = TERMINATED
    seed: int = 0
    held: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        draw, steps = np.random.default_rng(self.seed), sum(self.lengths)
        rows = steps + len(self.lengths)
        obs = draw.standard_normal((rows, self.n_agents, max(self.obs_dims))).astype(np.float32)
        for agent, width in enumerate(self.obs_dims):
            obs[:, agent, width:] = 0
        self.last = np.cumsum(self.lengths) - 1
        terminals = np.zeros((steps, self.n_agents), bool)
        terminals[self.last[list(self.terminated)]] = True
        truncations = np.zeros((steps, self.n_agents), bool)
        truncations[self.last[~np.array(self.terminated)]] = True
        self.held = {
            "obs": obs,
            "rewards": draw.standard_normal((steps, self.n_agents)).astype(np.float32),
            "terminals": terminals,
            "truncations": truncations,
            "state": draw.standard_normal((rows, 3)).astype(np.float32),
        }
        if self.choices:
            actions = draw.integers(0, self.choices, (steps, self.n_agents))
            avail = draw.random((rows, self.n_agents, self.choices)) < 0.5
            np.put_along_axis(avail[self.before], actions[..., None], True, axis=-1)
            taken = avail[self.before]
            np.put_along_axis(taken, actions[..., None], True, axis=-1)
            avail[self.before] = taken
            self.held |= {"actions": actions.astype(np.int64), "avail": avail}
        else:
            self.held["actions"] = draw.uniform(-1, 1, (steps, self.n_agents, self.act_dim)).astype(np.float32)

    @property
    def before(self) -> np.ndarray:
        """Rows of what was seen before each step."""
        return np.concatenate([np.arange(n) + first + i for i, (first, n) in enumerate(self._spans())])

    @property
    def after(self) -> np.ndarray:
        """Rows of what was seen after each step."""
        return self.before + 1

    def _spans(self) -> list[tuple[int, int]]:
        return list(zip(np.cumsum(self.lengths) - self.lengths, self.lengths, strict=True))

    def flat(self, name: str) -> np.ndarray:
        """What was seen before each step."""
        return self.held[name][self.before]


# --- Vaults --------------------------------------------------------------------------------------------------------
def vault_arrays(team: Team) -> dict[str, np.ndarray]:
    """What a Vault keeps of a team, by the names of its arrays."""
    held = {
        "observations.": team.flat("obs"),
        "actions.": team.held["actions"].astype(np.int32) if team.choices else team.held["actions"],
        "rewards.": team.held["rewards"],
        "terminals.": team.held["terminals"],
        "truncations.": team.held["truncations"],
        "infos.state.": team.flat("state"),
    }
    return held | ({"infos.legals.": team.flat("avail")} if team.choices else {})


def write_vault(
    folder: Path,
    arrays: dict[str, np.ndarray],
    index: Any = None,
    longest: int = int(10e12),
    small: bool = False,
) -> Path:
    """One uid's folder, as flashbax writes it: gzip 5, one batch, a time axis far longer than what was written.

    Args:
        index: What `vault_index` says; by default the steps written.
        small: In one transaction and in chunks of 64 steps, which is faster than flashbax's chunks of a million.
    """
    import tensorstore

    folder.mkdir(parents=True)

    def base(name: str) -> dict[str, Any]:
        kept = {"driver": "ocdbt", "base": f"file://{folder}", "path": name}
        # Nothing of it has to outlive a loss of power.
        return {"driver": "zarr", "kvstore": kept, "metadata": {}, "context": {"file_io_sync": False}}

    steps, together = 0, tensorstore.Transaction() if small else None
    for name, values in arrays.items():
        spec, steps = base(name), max(steps, len(values))
        spec["metadata"] = {"compressor": {"id": "gzip", "level": 5}}
        shape = (1, longest, *values.shape[1:])
        if small:
            spec["metadata"]["chunks"] = [1, 64, *shape[2:]]
        store = tensorstore.open(spec, shape=shape, dtype=str(values.dtype), create=True, transaction=together).result()
        if len(values):
            store[0, : len(values)].write(values).result()
    count = np.atleast_1d(np.asarray(steps if index is None else index, np.int32))
    store = tensorstore.open(
        base("vault_index"), dtype="int32", shape=count.shape, create=True, transaction=together
    ).result()
    store.write(count).result()
    if together is not None:
        together.commit_sync()
    about = {
        "version": 1.2,
        "structure_shape": {name.rstrip("."): str((1, 1, *values.shape[1:])) for name, values in arrays.items()},
        "structure_dtype": {name.rstrip("."): str(values.dtype) for name, values in arrays.items()},
        "environment": "made up",
    }
    (folder / "metadata.json").write_text(json.dumps(about))
    return folder


def zipped(folder: Path, path: Path) -> Path:
    """The folder, itself the archive's only entry at the top."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))
    return path


# --- OMIGA and OMAR ------------------------------------------------------------------------------------------------
def omiga_arrays(team: Team, rewards: str = "TN") -> dict[str, np.ndarray]:
    """By OMIGA's letters; the states are repeated for each agent."""
    steps, agents = team.held["rewards"].shape
    reward = team.held["rewards"] if "N" in rewards else team.held["rewards"][:, :1]
    shape = {"T": (steps,), "T1": (steps, 1), "TN": (steps, agents), "TN1": (steps, agents, 1)}[rewards]
    done = (team.held["terminals"] | team.held["truncations"]).astype(np.float32)
    return {
        "s": np.repeat(team.flat("state")[:, None], agents, axis=1),
        "o": team.flat("obs"),
        "a": team.held["actions"],
        "r": reward.reshape(shape),
        "d": done if "N" in rewards else done[:, 0].reshape(shape),
    }


def write_hdf5(path: Path, arrays: dict[str, Any], **attrs: Any) -> Path:
    import h5py

    with h5py.File(path, "w") as file:
        for name, value in arrays.items():
            file.create_dataset(name, data=value)
        file.attrs.update(attrs)
    return path


def omar_arrays(team: Team, states: bool = False) -> dict[str, np.ndarray]:
    """One array for each file."""
    held = {}
    for agent, width in enumerate(team.obs_dims):
        held[f"obs_{agent}"] = team.held["obs"][team.before, agent, :width]
        held[f"next_obs_{agent}"] = team.held["obs"][team.after, agent, :width]
        held[f"acs_{agent}"] = team.held["actions"][:, agent]
        held[f"rews_{agent}"] = team.held["rewards"][:, agent]
        held[f"dones_{agent}"] = (team.held["terminals"] | team.held["truncations"])[:, agent].astype(np.float64)
        if states:
            held[f"states_{agent}"] = team.held["state"][team.before]
            held[f"next_states_{agent}"] = team.held["state"][team.after]
    return held


def write_omar(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in arrays.items():
        np.save(folder / f"{name}.npy", value)
    return folder
