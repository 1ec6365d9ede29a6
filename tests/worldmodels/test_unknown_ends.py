"""World models of data with agents that leave and ends that nobody saw."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from offline_marl.algorithms.base import algorithms
from offline_marl.core.config import build
from offline_marl.core.types import Batch, Needs, Spec
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.datasets.files import save_data
from offline_marl.training.models.fit import facts_of, fit_model, held_out_errors
from offline_marl.training.run import train
from offline_marl.worldmodels.base import worldmodels
from offline_marl.worldmodels.rollout import Caution, rollout


def drift(seed: int = 0, ending: Any = None, episodes: int = 60, **more: Any) -> Dataset:
    """Both agents move by .1 a step; agent 0 leaves after 3 steps where `ending` is `early`."""
    rng, obs, ends, left = np.random.default_rng(seed), [], [], []
    for _ in range(episodes):
        x, length = rng.uniform(-1, 1), int(rng.integers(4, 12))
        for step in range(length):
            obs.append([[x], [x]])
            ends.append(step == length - 1)
            left.append(ending == "early" and step == 2)
            x += 0.1
    flags = np.array(ends)[:, None].repeat(2, 1)
    flags[:, 0] |= left
    actions = rng.uniform(-1, 1, (len(ends), 2, 1))
    rewards = np.array(ends, "f4")
    return Dataset.from_arrays(np.array(obs, "f4"), actions, rewards, terminations=flags, **more)


@pytest.mark.parametrize("ending", ["together", "early"])
def test_facts_are_of_what_is_known(ending: str) -> None:
    facts = facts_of(drift(ending=ending))
    torch.testing.assert_close(facts.change_mean, torch.full_like(facts.change_mean, 0.1), atol=1e-4, rtol=0)
    assert bool((facts.change_std <= 1.1e-3).all()) and facts.terminates and float(facts.reward_high.max()) == 1
    assert bool((facts.low >= -1).all()) and facts.coordinates == (2 if ending == "early" else 1)


def model_of(data: Dataset, **fields: Any) -> Any:
    kind = worldmodels.get("ensemble")
    torch.manual_seed(0)
    made = kind(build(kind.Config, {"members": 2, "elites": 1, "hidden": (8,), **fields}), facts_of(data))
    made.place("cpu", 0)
    return made


def wild(batch: Batch) -> Batch:
    """The same with other numbers in all that is unknown."""
    assert batch.next_seen is not None
    there = torch.ones_like(batch.next_seen) if batch.mask is None else batch.mask
    return replace(
        batch,
        next_obs=torch.where(batch.next_seen.unsqueeze(-1), batch.next_obs, 99.0),
        rewards=torch.where(there, batch.rewards, 99.0),
    )


@pytest.mark.parametrize("kind", ["gaussian", "mixture", "deterministic", "vae"])
@pytest.mark.parametrize("ending", ["together", "early"])
def test_unknown_numbers_change_neither_losses_nor_errors(kind: str, ending: str) -> None:
    data = drift(ending=ending)
    rows = TransitionBuffer(data).view(torch.arange(2 * 64), Needs(next_obs=False))
    one, other = (model_of(data, kind=kind, **({"latent": 2} if kind == "vae" else {})) for _ in range(2))
    torch.testing.assert_close(one.errors(rows), other.errors(wild(rows)))
    rows = rows.map(lambda value: value.unflatten(0, (2, 64)))
    found, same = one.update(rows), other.update(wild(rows))
    torch.testing.assert_close(found, same)
    assert all(map(torch.equal, one.nets.parameters(), other.nets.parameters()))
    assert found["loss/terminations"] > 0


def test_terminations_of_a_team_are_learnt_where_its_last_agents_end() -> None:
    data = drift(ending="early")
    rows = TransitionBuffer(data).view(torch.arange(len(data)), Needs(next_obs=False))
    assert int(rows.team_terminations.sum()) == len(data.lengths)


@pytest.mark.long
def test_a_fit_foresees_the_drift_and_rewards_of_last_steps(tmp_path: Path) -> None:
    save_data(tmp_path / "drift.safetensors", drift(episodes=200, ending="early"))
    fields: dict[str, Any] = {"members": 2, "elites": 1, "hidden": (32, 32), "steps": 600, "holdout": 0.2}
    fit = fit_model("ensemble", str(tmp_path / "drift.safetensors"), out=tmp_path / "model", **fields)
    step = fit.model.step(torch.zeros(8, 2, 1), torch.zeros(8, 2, 1))  # type: ignore[arg-type]
    torch.testing.assert_close(step.next_obs, torch.full((8, 2, 1), 0.1), atol=0.03, rtol=0)
    assert fit.report is not None and fit.report["terminations"]["recorded"] > 0.05
    assert bool(held_out_errors(fit.model, fit.held_out).isfinite().all())


class Still:
    window = 0

    def act(self, obs: Any, *, history: Any = None, avail_actions: Any = None, explore: bool = False) -> Any:
        return torch.zeros(*obs.shape[:2], 1)


def test_who_is_away_at_a_start_stays_away_in_imagination() -> None:
    data = drift(ending="early")
    starts = TransitionBuffer(data).transitions(torch.arange(40))
    assert starts.mask is not None
    made = rollout(model_of(data), Still(), starts, 3, Caution(cutoff=1e9)).batch  # type: ignore[arg-type]
    assert made.mask is not None
    away = ~starts.mask[:, 0]
    assert bool(away.any()) and not made.mask[away][..., 0].any() and bool(made.mask[~away][:, 0, 0].all())
    assert not made.obs[away][..., 0, :].any() and not made.next_obs[away][..., 0, :].any()
    assert not made.rewards[away][..., 0].any() and not made.terminations[away][..., 0].any()


@pytest.fixture(scope="module")
def half_unknown(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A data set in a file of which half the ends are unknown, and a model fitted to it."""
    place = tmp_path_factory.mktemp("drift")
    data = drift(ending="early", episodes=20)
    half = replace(data, terminations=data.terminations.clone(), truncations=data.truncations.clone())
    last = torch.cumsum(data.lengths, 0)[::2] - 1
    half.terminations[last], half.truncations[last] = False, data.terminations[last]
    save_data(place / "drift.safetensors", half.check())
    fitted = fit_model("ensemble", str(place / "drift.safetensors"), out=place / "model", steps=20, members=2, elites=1)
    return str(place / "drift.safetensors"), str(fitted.folder)


@pytest.mark.long
@pytest.mark.parametrize("algorithm", ["bc", "iql", "ma-iql", "td3-bc", "cql", "omar"])
def test_every_learner_trains_on_them(algorithm: str, half_unknown: tuple[str, str], tmp_path: Path) -> None:
    data, model = half_unknown
    more: dict[str, Any] = {} if algorithm == "bc" else {"world_model": model, "rollouts": 64}
    run = train(algorithm, data, out=tmp_path / "run", steps=20, hidden=(8,), batch_size=32, **more)
    assert run is not None and algorithm in algorithms.names()


def test_targets_of_terminated_agents_need_no_next_observation() -> None:
    spec = Spec((1, 1), (1, 1))
    data = Dataset.from_arrays(
        np.zeros((40, 2, 1)),
        np.zeros((40, 2, 1)),
        np.ones((40, 2)),
        terminations=[np.arange(40) % 2 == 1, np.zeros(40, bool)],
        truncations=[np.zeros(40, bool), np.arange(40) % 2 == 1],
    )
    assert data.spec == spec
    mask = TransitionBuffer(data).view(torch.arange(40), Needs()).mask
    assert mask is not None and mask[1::2].tolist() == [[True, False]] * 20 and bool(mask[::2].all())
