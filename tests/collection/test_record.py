from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from worlds import SPECS, PointEnv, ReticentEnv

from offline_marl.collection import record as recording
from offline_marl.collection.record import make_scripted, record, record_team
from offline_marl.collection.recordable import Recordable
from offline_marl.core.seeding import derive
from offline_marl.core.types import DataError
from offline_marl.datasets import catalog
from offline_marl.datasets.catalog import CATALOG
from offline_marl.datasets.episode_index import starts
from offline_marl.datasets.episodes import join
from offline_marl.datasets.files import load_data
from offline_marl.environments.base import Outcome, Seen, environments
from offline_marl.environments.episodes import Memoryless

NOISE = (0.05, 0.15, 0.4)


class Walk:
    """Episodes of 2 + seed % 4 steps; the state adds up the actions. Even seeds terminate, odd ones are truncated."""

    max_steps, state_dim, action_dim = 5, 2, 2

    def __init__(self, copies):
        self.copies = copies

    def reset(self, seeds):
        self.seeds, self.steps = np.array(seeds), np.zeros(len(seeds), int)
        self.state = np.stack([np.random.default_rng(seed).standard_normal(2) for seed in seeds]).astype(np.float32)
        return self.state.copy()

    def step(self, actions):
        running = self.steps < 2 + self.seeds % 4
        self.state[running] += actions[running]
        self.steps[running] += 1
        over = self.steps >= 2 + self.seeds % 4
        even = self.seeds % 2 == 0
        return Outcome(self.state.copy(), np.where(running, self.state[:, 0], 0), over & even, over & ~even)


class Still:
    name = "still"

    def act(self, state):
        return np.zeros((len(state), 2), np.float32)


def same(one, other):
    tensors = ("state", "actions", "rewards", "terminations", "truncations", "lengths")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in tensors)


def test_a_recording_does_not_depend_on_how_many_copies_run_side_by_side():
    seeds = [9, 4, 7, 2, 11, 30, 5]
    alone = record(Walk(1), Still(), seeds, NOISE).check()
    assert alone.lengths.tolist() == [2 + seed % 4 for seed in seeds]
    for copies in (2, 3, 7, 50):
        assert same(record(Walk(copies), Still(), seeds, NOISE), alone)


def test_states_actions_and_flags_stand_in_their_rows():
    recording = record(Walk(3), Still(), [9, 4, 7], NOISE)
    first_row, first_step = 0, 0
    for seed, length in zip([9, 4, 7], recording.lengths.tolist(), strict=True):
        state = recording.state[first_row : first_row + length + 1]
        actions = recording.actions[first_step : first_step + length]
        torch.testing.assert_close(state[1:], state[:-1] + actions)
        assert torch.equal(recording.rewards[first_step : first_step + length], state[1:, 0])
        ends = recording.terminations if seed % 2 == 0 else recording.truncations
        assert ends[first_step : first_step + length].tolist() == [False] * (length - 1) + [True]
        first_row, first_step = first_row + length + 1, first_step + length


def test_each_episode_draws_its_noise_from_its_own_seed():
    one, other = record(Walk(2), Still(), [9, 5], NOISE), record(Walk(2), Still(), [5, 9], NOISE)
    lengths = one.lengths.tolist()
    assert torch.equal(one.actions[: lengths[0]], other.actions[-lengths[0] :])
    assert not torch.equal(one.actions[:2], other.actions[:2])


def test_noise_levels_are_those_given_and_all_of_them_occur():
    class Long(Walk):
        max_steps = 400

        def step(self, actions):
            outcome = super().step(actions)
            self.steps -= 1
            self.age = getattr(self, "age", 0) + 1
            ended = np.full(len(actions), self.age == 400)
            return Outcome(outcome.state, outcome.rewards, np.zeros_like(ended), ended)

    recording = record(Long(30), Still(), list(range(30)), (0.02, 0.1, 0.3)).check()
    spread = recording.actions.view(30, 400, 2).std((1, 2))
    nearest = (spread.unsqueeze(1) / torch.tensor([0.02, 0.1, 0.3])).log().abs()
    assert bool((nearest.amin(1) < 0.1).all()) and set(nearest.argmin(1).tolist()) == {0, 1, 2}


def test_actions_stay_in_bounds():
    recording = record(Walk(3), Still(), [1, 2, 3], (5.0,))
    assert recording.actions.abs().max() == 1.0 and recording.actions.dtype == torch.float32


def test_a_set_whose_making_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    class Broken:
        @classmethod
        def simulator(cls, copies):
            return Walk(copies)

        @classmethod
        def scripted(cls, name):
            raise DataError("no expert")

    monkeypatch.setattr(recording.environments, "get", lambda name: Broken)
    monkeypatch.setattr(Walk, "close", lambda self: None, raising=False)
    with pytest.raises(DataError):
        make_scripted(CATALOG["reacher-scripted-mix-v0"], tmp_path / "datasets" / "x.safetensors")
    assert not list(tmp_path.rglob("*.*"))


class Turns:
    """A team of worlds.PointEnv's, whose agents may make only some choices at each step."""

    def __init__(self, copies):
        self.inner = PointEnv(SPECS["discrete"], copies)
        self.spec, self.copies, self.max_steps = self.inner.spec, copies, 4

    def reset(self, seeds):
        return self.limited(self.inner.reset(seeds))

    def step(self, actions):
        seen, *rest = self.inner.step(actions)
        return self.limited(seen), *rest

    def limited(self, seen):
        can = seen.avail_actions & (np.arange(4) != self.inner._step % 3)
        return Seen(seen.obs, None, can)


class First:
    name = "first"

    def act(self, obs):
        return np.where(obs[..., 1] > 0, 1, 0)


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_a_teams_episodes_of_any_length_do_not_depend_on_how_many_copies_run(kind):
    class Ahead:
        def act(self, obs):
            return np.zeros((*obs.shape[:2], 2), np.float32)

    expert = First() if kind == "discrete" else Ahead()
    seeds = [9, 4, 7, 2, 11, 30, 5]
    alone = record_team(PointEnv(SPECS[kind], 1), expert, seeds, NOISE).check()
    assert alone.lengths.tolist() == [2 + seed % 3 for seed in seeds] and alone.state is None
    for copies in (2, 3, 50):
        other = record_team(PointEnv(SPECS[kind], copies), expert, seeds, NOISE)
        held = ("obs", "actions", "rewards", "terminations", "truncations", "lengths")
        assert all(torch.equal(getattr(other, name), getattr(alone, name)) for name in held)
    if kind == "continuous":
        assert not alone.actions[~alone.spec.present("act").expand_as(alone.actions)].any(), "padding stays zero"


def test_slips_are_choices_that_can_be_made_all_of_them_alike():
    class Wrong:
        def act(self, obs):
            return np.full(obs.shape[:2], 9)

    data = record_team(Turns(600), Wrong(), range(600), (1.0,)).check()  # refuses choices that could not be made
    assert data.spec.act_dims == (3, 2, 4)
    first = data.actions[starts(data.lengths)]  # at the first step choice 0 is barred
    assert torch.bincount(first[:, 0], minlength=3)[1:].tolist() == pytest.approx([300, 300], abs=50)
    assert first[:, 1].unique().tolist() == [1]
    assert torch.bincount(first[:, 2], minlength=4)[1:].tolist() == pytest.approx([200] * 3, abs=50)


@pytest.fixture
def small_catalogue(monkeypatch):
    """The real recipes with six episodes each."""
    small = {name: replace(e, recipe=replace(e.recipe, episodes=6)) for name, e in CATALOG.items() if e.recipe}
    monkeypatch.setattr(catalog, "CATALOG", small)
    monkeypatch.setattr(recording, "COPIES", 4)
    return small


@pytest.mark.mujoco
def test_scripted_sets_are_the_same_at_each_making_and_the_mix_is_half_of_each(tmp_path, small_catalogue):
    pytest.importorskip("mujoco")

    def make(name, folder):
        make_scripted(small_catalogue[f"reacher-scripted-{name}-v0"], tmp_path / folder / f"{name}.safetensors")
        return load_data(tmp_path / folder / f"{name}.safetensors")

    one = make("clockwise", "a")
    recording.COPIES = 5
    assert make("clockwise", "b").metadata["sha256"] == one.metadata["sha256"]
    first, second = ((tmp_path / folder / "clockwise.safetensors").read_bytes() for folder in "ab")
    assert first == second
    mix, other = make("mix", "a"), make("counterclockwise", "a")
    steps, seen = 3 * 50, 3 * 51
    assert torch.equal(mix.actions[:steps], one.actions[:steps]) and torch.equal(mix.state[:seen], one.state[:seen])
    assert torch.equal(mix.actions[steps:], other.actions[:steps]) and torch.equal(mix.state[seen:], other.state[:seen])


@pytest.mark.mujoco
def test_scripted_metadata_say_how_the_set_was_made(tmp_path, small_catalogue):
    pytest.importorskip("mujoco")
    entry = small_catalogue["reacher-scripted-clockwise-v0"]
    make_scripted(entry, tmp_path / "x.safetensors")
    data = load_data(tmp_path / "x.safetensors")
    assert data.lengths.tolist() == [50] * 6 and not data.terminations.any() and data.truncations.sum() == 6
    about = data.metadata
    assert about["versions"]["env_id"] == "Reacher-v5" and {"mujoco", "gymnasium", "offline-marl"} <= set(
        about["versions"]
    )
    assert about["seed"] == entry.recipe.seed and about["action_noise"] == list(NOISE)
    assert about["reference"]["expert"] == -4.2370844 and "older Reacher" in about["reference"]["note"]
    assert len(about["sha256"]) == 64


@pytest.mark.mujoco
def test_scripted_actions_are_the_experts_plus_noise_of_one_of_the_levels():
    pytest.importorskip("mujoco")
    reacher = environments.get("reacher")
    simulator, expert = reacher.simulator(8), reacher.scripted("clockwise")
    seeds = [derive(20_231, "clockwise", number) % 2**31 for number in range(8)]
    recording = record(simulator, expert, seeds, NOISE).check()
    simulator.close()
    state = recording.state.view(8, 51, 10)[:, :-1].numpy()
    noise = recording.actions.view(8, 50, 2) - torch.from_numpy(np.stack([expert.act(each) for each in state]))
    levels = noise.abs().amax((1, 2)) / torch.tensor(NOISE).unsqueeze(1)
    spread = noise.std((1, 2))
    nearest = (spread / torch.tensor(NOISE).unsqueeze(1)).log().abs().amin(0)
    assert bool((nearest < 0.3).all()) and bool((levels.amin(0) < 5).all())


def test_choices_that_are_told_at_some_steps_and_in_some_episodes_are_kept() -> None:
    task = Recordable.of_team(ReticentEnv(SPECS["discrete"], 2))
    acts = Memoryless(lambda seen, step: np.ones(seen.obs.shape[:2], np.int64))
    silent, told = task.record([1, 2], acts), task.record([3, 4], acts)
    assert silent.avail_actions is None
    every = SPECS["discrete"].present("act")
    fewer = every & (torch.arange(every.shape[-1]) > 0)
    for number, length in enumerate(told.lengths.tolist()):
        episode = told.episode(number)
        assert torch.equal(episode.avail_actions[0], every)
        assert torch.equal(episode.avail_actions[1:], fewer.expand(length, -1, -1))
    both = join([silent, told], {}).check()
    rows = len(silent.obs)
    assert torch.equal(both.avail_actions[:rows], every.expand(rows, -1, -1))
    assert torch.equal(both.avail_actions[rows:], told.avail_actions)
