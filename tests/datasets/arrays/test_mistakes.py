"""Data that would be read as something else than was meant is refused, and the refusal says what it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign import Team, omar_arrays, omiga_arrays, write_hdf5, write_omar

from offline_marl.core.types import DataError
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.readers.convert import load_place

STEPS, AGENTS = 40, 2
draw = np.random.default_rng(0)
OBS = draw.standard_normal((STEPS, AGENTS, 3)).astype(np.float32)
ACTIONS = draw.uniform(-1, 1, (STEPS, AGENTS, 2)).astype(np.float32)
CHOICES = draw.integers(0, 3, (STEPS, AGENTS))
ENDS = np.arange(STEPS) % 10 == 9


def made(**changed: Any) -> Dataset:
    given: dict[str, Any] = {"obs": OBS, "actions": ACTIONS, "rewards": np.ones(STEPS), "terminations": ENDS}
    return Dataset.from_arrays(**{**given, **changed})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"actions": np.eye(3, dtype=np.float32)[CHOICES]}, "'actions' holds one-hot rows of floats"),
        ({"actions": [np.eye(3)[CHOICES[:, agent]] for agent in range(AGENTS)]}, "'actions' holds one-hot rows"),
        ({"terminations": np.zeros(STEPS, bool)}, "'terminations' and 'truncations' are false in all 40 rows"),
        ({"terminations": None, "truncations": np.zeros((STEPS, AGENTS))}, "no episode ends: they were not filled in"),
        ({"obs": list(OBS)}, "'obs' is a list of 40 arrays with 2 rows each, which would be 40 agents"),
        (
            {"obs": list(OBS), "actions": list(ACTIONS), "rewards": list(np.ones((STEPS, AGENTS)))},
            "a list of 40 arrays",
        ),
        (
            {"actions": [CHOICES[:, 0], ACTIONS[:, 1]]},
            "'actions' holds floats for agent 1 and whole numbers for agent 0: a team acts by",
        ),
        ({"actions": [ACTIONS[:, 0], CHOICES[:, 1]]}, "floats for agent 0 and whole numbers for agent 1"),
        ({"actions": [CHOICES[:, 0], CHOICES[:, 1] > 0]}, "integer choices, it holds torch.bool"),
        ({"actions": list(CHOICES)}, "'actions' is a list of 40 arrays with 2 rows each"),
        (
            {
                "obs": OBS.swapaxes(0, 1),
                "actions": ACTIONS.swapaxes(0, 1),
                "rewards": np.ones((AGENTS, STEPS)),
                "terminations": np.tile(ENDS, (AGENTS, 1)),
            },
            "'actions' would be 2 steps of 40 agents: steps come first",
        ),
        ({"obs": np.ma.masked_array(OBS, OBS > 1)}, "'obs' is a numpy masked array with masked entries"),
        ({"obs": [OBS[:, 0], np.ma.masked_array(OBS[:, 1], OBS[:, 1] > 1)]}, r"'obs\[1\]' is a numpy masked array"),
        ({"rewards": np.ma.masked_array(np.ones(STEPS), ENDS)}, "'rewards' is a numpy masked array"),
        (
            {"actions": CHOICES[..., None].astype(float)},
            r"lie outside \[-1, 1\]: all are whole numbers: if they are choices, give them as integers; else scale",
        ),
        ({"actions": ACTIONS * 3}, r"lie outside \[-1, 1\]: scale them by"),
        (
            {"next_obs": np.concatenate([OBS[1:], OBS[:1]])},
            r"'next_obs' of the last step of each episode is what the next episode begins with \(at all 3 ends but",
        ),
        ({"obs": [OBS[:, 0], OBS[:, 1, :0]]}, "'obs' has no numbers for agent 1"),
        ({"actions": ACTIONS[..., :0]}, "'actions' has no numbers for agent 0"),
        (
            {"actions": CHOICES.clip(0, 1), "choices": [2, 3], "avail_actions": np.ones((STEPS, AGENTS, 3), bool)},
            "'avail_actions' allows agent 0 choice 2, but 'choices' says that it has 2",
        ),
    ],
)
def test_arrays_of_another_meaning_are_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said) as refusal:
        made(**changed)
    assert "\n" not in str(refusal.value)


def test_masked_entries_of_padded_episodes_and_of_single_ones_are_refused() -> None:
    hidden = np.ma.masked_array(np.ones((1, 5)), np.eye(1, 5))
    seen, acts = np.zeros((1, 5, 2, 3)), np.zeros((1, 5, 2, 1))
    with pytest.raises(DataError, match="'rewards' is a numpy masked array"):
        Dataset.from_arrays(seen, acts, hidden, filled=np.ones((1, 5)))
    data = made(obs=np.ma.masked_array(OBS, False))
    episode = data.episode(0)
    bare = replace(episode, obs=np.ma.masked_array(episode.obs.numpy(), episode.obs.numpy() > 1))
    with pytest.raises(DataError, match="'obs' is a numpy masked array"):
        Dataset.from_episodes([episode, bare], data.spec)


def test_what_is_meant_so_is_taken() -> None:
    assert made(obs=[OBS[:, 0], OBS[:, 1]], actions=[ACTIONS[:, 0], ACTIONS[:, 1]]).spec.n_agents == AGENTS
    assert len(made(terminations=np.zeros(STEPS, bool), lengths=[10] * 4).lengths) == 4
    many = made(obs=OBS.swapaxes(0, 1), actions=ACTIONS.swapaxes(0, 1), rewards=[1, 1], terminations=None, lengths=[2])
    assert many.spec.n_agents == STEPS
    assert not made(actions=CHOICES[..., None].clip(0, 1).astype(float)).spec.discrete, "0. and 1. lie in bounds"
    after = np.concatenate([OBS[1:], OBS[:1]])
    after[9] += 1
    assert made(next_obs=after).ends_seen is None, "at one of three ends something else was seen"
    assert made(obs=OBS * 0, next_obs=OBS * 0).ends_seen is None, "whoever always sees the same sees it after ends"
    assert made(next_obs=np.concatenate([OBS[1:], OBS[:1]]), terminations=None, lengths=[20, 20]).ends_seen is None
    nearly = np.eye(2, dtype=np.float32)[CHOICES.clip(0, 1)]
    nearly[3, 0] = 1
    assert made(actions=nearly).spec.act_dims == (2, 2)
    allowed = np.ones((STEPS, AGENTS, 3), bool)
    allowed[:, 0, 2] = False
    assert made(actions=CHOICES.clip(0, 1), choices=[2, 3], avail_actions=allowed).spec.act_dims == (2, 3)


def test_columns_of_ends_that_nobody_filled_in_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("h5py")
    monkeypatch.setenv("OFFLINE_MARL_HOME", str(tmp_path / "home"))
    team = Team(lengths=(18,), terminated=(False,))
    omar = {name: value * 0 if "dones" in name else value for name, value in omar_arrays(team).items()}
    omiga = omiga_arrays(team)
    flat = {"observations": OBS[:, 0], "actions": ACTIONS[:, 0], "rewards": np.ones(STEPS)}
    never = {"terminals": np.zeros(STEPS, bool), "timeouts": np.zeros(STEPS, bool)}
    for place in (
        write_omar(tmp_path / "omar", omar),
        write_hdf5(tmp_path / "omiga.hdf5", {**omiga, "d": omiga["d"] * 0}),
        write_hdf5(tmp_path / "d4rl.hdf5", {**flat, **never}),
    ):
        with pytest.raises(DataError, match="are false in all"):
            load_place(place)


def test_timeouts_that_are_never_true_are_replaced_by_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("h5py")
    monkeypatch.setenv("OFFLINE_MARL_HOME", str(tmp_path / "home"))
    steps = 1500
    arrays = {
        "observations": draw.standard_normal((steps, 17)).astype(np.float32),
        "actions": draw.uniform(-1, 1, (steps, 6)).astype(np.float32),
        "rewards": np.ones(steps),
        "terminals": np.arange(steps) == 1199,
        "timeouts": np.zeros(steps, bool),
    }
    about = load_place(write_hdf5(tmp_path / "halfcheetah.hdf5", arrays)).metadata
    assert about["episodes_end"] == "terminals, and every 1000 steps: its timeouts are never true"
