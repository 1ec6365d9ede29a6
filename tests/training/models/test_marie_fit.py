"""Fits of the token world model as runs, and what learns in it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from runs import Killed, ending, kill_at, refuse_difference, score_in_point_env, small_run
from worlds import saved, world

from offline_marl.core.config import ConfigError
from offline_marl.datasets.base import Dataset
from offline_marl.training.models.fit import Fit, facts_of, fit_model, resume_fit
from offline_marl.worldmodels.base import WorldModel
from offline_marl.worldmodels.marie import Marie
from offline_marl.worldmodels.token_config import MarieConfig

TINY = {
    "steps": 12,
    "tokenizer_steps": 5,
    "hidden": [8],
    "tokens": 2,
    "vocabulary": 4,
    "width": 8,
    "length": 3,
    "window": 1,
    "action_bins": 4,
    "reward_bins": 8,
    "batch_size": 4,
    "holdout": 0.3,
    "eval_every": 4,
    "checkpoint_every": 3,
    "log_every": 6,
    "device": "cpu",
}
FEW = {"steps": 6, "horizon": 4, "rollouts": 6, "refill_every": 3, "retain": 30}


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    monkeypatch.setattr("offline_marl.training.models.fit.draw_report", lambda *_: None)


def fitted(out, path: str, **fields) -> Fit:
    return fit_model("marie", path, out=out, **{**TINY, **fields})


def test_settings_of_another_tokenizer_are_warned_of(tmp_path, capsys):
    fitted(tmp_path / "fit", saved(tmp_path, world("discrete")), code_decay=0.5)
    assert "warning: marie with these settings reads no vocabulary and no code_decay." in capsys.readouterr().err


@pytest.mark.long
def test_a_fit_that_died_in_either_phase_ends_as_if_it_had_not(tmp_path):
    path = saved(tmp_path, world("discrete"))
    straight = fitted(tmp_path / "straight", path)
    for step in (4, 10):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            kill_at(patch, step, WorldModel)
            fitted(tmp_path / str(step), path)
        resumed = resume_fit(tmp_path / str(step))
        refuse_difference(ending(tmp_path / "straight"), ending(tmp_path / str(step)))
        refuse_difference(dict(straight.model.state_dict()), dict(resumed.model.state_dict()))


def test_a_fit_that_would_end_with_the_tokenizer_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="5 steps end before all of marie is learnt, which takes 6 or more"):
        fitted(tmp_path / "model", saved(tmp_path, world("continuous")), steps=5)


def test_a_run_whose_own_fit_would_end_with_the_tokenizer_is_refused_before_it_begins(tmp_path):
    fields = {**FEW, "algorithm": "moma-ppo", "world_model": "marie", "fit": {**TINY, "steps": 5}}
    with pytest.raises(ConfigError, match="5 steps end before all of marie is learnt, which takes 6 or more"):
        small_run(tmp_path / "run", saved(tmp_path, world("continuous")), **fields)
    assert not (tmp_path / "run" / "config.json").exists(), "the folder can be used again"


@pytest.mark.parametrize(
    ("settings", "first"),
    [({}, 6), ({"tokenizer_steps": 0}, 0), ({"tokenizer": "bins", "tokens_of": "observations"}, 0)],
)
def test_the_first_look_is_known_before_there_is_a_model(settings, first):
    config = MarieConfig(tokenizer_steps=5).model_copy(update=settings)
    assert Marie.first_look_of(config) == Marie(config, facts_of(world("continuous"))).first_look == first


def test_held_out_episodes_are_looked_at_once_the_tokenizer_stays(tmp_path):
    path = saved(tmp_path, world("continuous"))
    fit = fitted(tmp_path / "model", path)
    looks = [line.split(",")[0] for line in (fit.folder / "eval.csv").read_text().splitlines()[1:]]
    assert looks == ["8", "12"] and len(fit.errors) == 2
    told = json.loads((fit.folder / "report.json").read_text())
    assert {"token_information", "covariance_norm"} <= told["spread"].keys() and "max_aleatoric" not in told["spread"]
    covered = told["calibration"]["next_obs"]
    assert len(covered) == 9 and covered == sorted(covered) and 0 <= covered[0] <= covered[-1] <= 1
    lost = told["of_kind"]["tokenizer"]
    assert [len(row) for row in lost["error_of_agents"]] == [4, 2, 3] and 0 < lost["in_use"] <= 1


def test_a_run_fits_its_own_and_dreams_of_choices_that_data_restricts(tmp_path, monkeypatch):
    score_in_point_env(monkeypatch)
    data = world("discrete")
    assert not bool((data.avail_actions | ~data.spec.present("act")).all())
    fields = {**FEW, "world_model": "marie", "fit": {**TINY, "steps": 7}, "spread": "token_information"}
    small_run(tmp_path / "run", saved(tmp_path, data), algorithm="moma-ppo", **fields)
    fields["world_model"] = str(tmp_path / "run" / "world_model")
    fields.pop("fit")
    for algorithm in ("iql", "cql", "omiga"):
        small_run(tmp_path / algorithm, saved(tmp_path, data), algorithm=algorithm, **fields)


@pytest.mark.long
def test_learners_dream_of_continuous_actions(tmp_path, monkeypatch):
    score_in_point_env(monkeypatch)
    path = saved(tmp_path, world("continuous"))
    model = str(fitted(tmp_path / "model", path, steps=7).folder)
    for algorithm in ("moma-ppo", "td3-bc", "omar", "maddpg"):
        fields = {**FEW, "world_model": model, "cutoff_quantile": 0.9}
        small_run(tmp_path / algorithm, path, algorithm=algorithm, **fields)


@pytest.mark.long
def test_agents_that_leave_are_fitted_around(tmp_path, monkeypatch):
    score_in_point_env(monkeypatch)
    whole = world("continuous", episodes=12)
    episodes = []
    for episode in (whole.episode(number) for number in range(12)):
        gone = torch.zeros(len(episode) + 1, 3, dtype=torch.bool)
        gone[2:, 1] = True
        done = gone[:-1]
        terminations = episode.terminations.clone()
        terminations[1, 1] = True
        episodes.append(
            replace(
                episode,
                obs=episode.obs.masked_fill(gone.unsqueeze(-1), 0.0),
                actions=episode.actions.masked_fill(done.unsqueeze(-1), 0.0),
                rewards=episode.rewards.masked_fill(done, 0.0),
                terminations=terminations & ~done,
                truncations=episode.truncations & ~done,
                mask=~done,
            )
        )
    data = Dataset.from_episodes(episodes, whole.spec)
    fit = fitted(tmp_path / "model", saved(tmp_path, data))
    assert all(0 < error < float("inf") for error in fit.errors)
    small_run(tmp_path / "run", saved(tmp_path, data), algorithm="moma-ppo", world_model=str(fit.folder), **FEW)
