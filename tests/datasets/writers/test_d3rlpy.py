"""D4RL files of ours, read and learned from by d3rlpy, where it is installed."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from worlds import reacher_recording

from offline_marl.datasets.episode_index import episode_sums
from offline_marl.datasets.writers import d4rl as writer

h5py = pytest.importorskip("h5py")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of packages that it imports
    d3rlpy = pytest.importorskip("d3rlpy")


@pytest.mark.filterwarnings("ignore")
def test_d3rlpy_reads_our_files_and_trains(tmp_path: Path) -> None:
    data = reacher_recording()
    data.terminations[7], data.truncations[7] = True, False
    writer.write(tmp_path / "x.hdf5", data)
    with h5py.File(tmp_path / "x.hdf5") as file:
        held = {name: file[name][()] for name in ("observations", "actions", "rewards", "terminals", "timeouts")}
    dataset = d3rlpy.dataset.MDPDataset(**{name: values.astype(np.float32) for name, values in held.items()})
    assert [len(episode) for episode in dataset.episodes] == data.lengths.tolist()
    returns = [float(episode.rewards.sum()) for episode in dataset.episodes]
    np.testing.assert_allclose(returns, episode_sums(data.rewards, data.lengths), rtol=1e-5)
    assert [episode.terminated for episode in dataset.episodes] == data.terminations[
        data.lengths.cumsum(0) - 1
    ].tolist()
    learner = d3rlpy.algos.TD3PlusBCConfig(batch_size=8).create(device="cpu")
    learner.fit(
        dataset,
        n_steps=4,
        n_steps_per_epoch=4,
        show_progress=False,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
    )
    assert np.isfinite(learner.predict(held["observations"][:3].astype(np.float32))).all()
