"""Every learner of recorded rows learns by playing: alone, and from data on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offline_marl.collection.recordable import Recordable
from offline_marl.core.permissions import ImportPath
from offline_marl.environments.episodes import Memoryless
from offline_marl.tasks import environment_tasks
from offline_marl.training import training_run
from offline_marl.training.run import train

SMALL: dict[str, Any] = {
    "device": "cpu",
    "hidden": [64, 64],
    "batch_size": 128,
    "lr": 1e-3,
    "eval_every": 0,
    "final_episodes": 30,
    "log_every": 500,
    "checkpoint_every": 0,
}
ALONE: dict[str, dict[str, Any]] = {
    "iql": {"temperature": 10.0},
    "ma-iql": {"temperature": 10.0, "mixer": "vdn"},
    "td3-bc": {"alpha": 10.0, "explore_noise": 0.3},
    "cql": {"cql_alpha": 0.0, "bc_weight": 0.0, "explore_noise": 0.3},
    "omar": {"cql_alpha": 0.0, "explore_noise": 0.3},
}


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALONE)
def test_it_learns_without_data(algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_run, "draw_run", lambda *_: None)
    fields = {**SMALL, **ALONE[algorithm], "environment": "live_worlds:make", "environment_steps": 3_000}
    result = train(algorithm, None, out=tmp_path / "run", updates_per_step=0.5, **fields)
    # Agents are paid their distance from the origin, some five times: uniform play leaves them where they are.
    assert result.score is not None and result.score.random_return is not None
    assert result.score.mean > 0.55 * result.score.random_return, result.score


def one_sided(place: Path) -> str:
    """Episodes of agents that always push the same way, of which nothing can be learnt but that."""
    env = environment_tasks.find_environment_task("live_worlds:make", permit=ImportPath).make(20)
    data = Recordable.of_team(env).record(range(20), Memoryless(lambda seen, step: np.ones((20, 2, 1), np.float32)))
    return str(data.save(place))


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["iql", "td3-bc"])
def test_it_rises_above_its_data_by_playing(algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_run, "draw_run", lambda *_: None)
    data = one_sided(tmp_path / "few.safetensors")
    fields = {**SMALL, **ALONE[algorithm], "environment": "live_worlds:make"}
    offline = train(algorithm, data, out=tmp_path / "offline", steps=300, **fields)
    online = train(
        algorithm,
        data,
        out=tmp_path / "online",
        online=True,
        environment_steps=3_000,
        updates_per_step=0.5,
        init=offline.folder,
        warmup_steps=500,
        real_fraction=0.5,
        real_fraction_end=0.0,
        **fields,
    )
    assert offline.score is not None and online.score is not None
    assert online.score.mean > 0.5 * offline.score.mean, (offline.score, online.score)
