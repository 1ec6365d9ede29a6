from __future__ import annotations

import numpy as np
import pytest
import torch
from runs import ending, refuse_difference, small_run
from worlds import SPECS, PointEnv, ReticentEnv, world

from offline_marl.core.types import Needs
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.environments.base import Seen
from offline_marl.environments.episodes import Step
from offline_marl.environments.guarded import EnvironmentFailedError, Guarded
from offline_marl.tasks import environment_tasks
from offline_marl.training import training_run
from offline_marl.training.loop import SourceStoppedError
from offline_marl.training.rewards import Rewards
from offline_marl.training.run import resume
from offline_marl.training.sources.recorded import DatasetSource, EnvironmentSource, _rows


def source(seed: int = 0, rows: int = 8) -> DatasetSource:
    return DatasetSource(TransitionBuffer(world("continuous")), rows, torch.Generator().manual_seed(seed))


def test_one_seed_draws_the_same_batches():
    one, same, other = source(), source(), source(1)
    drawn = [[s.sample(Needs()).obs for _ in range(3)] for s in (one, same, other)]
    assert all(map(torch.equal, drawn[0], drawn[1]))
    assert not any(map(torch.equal, drawn[0], drawn[2]))
    assert not torch.equal(drawn[0][0], drawn[0][1])


def test_a_restored_source_goes_on_where_the_saved_one_stood():
    one, other = source(), source(5)
    one.sample(Needs())
    other.load_state_dict(one.state_dict())
    for _ in range(3):
        assert torch.equal(one.sample(Needs()).rewards, other.sample(Needs()).rewards)


def test_every_transition_is_drawn_about_equally_often():
    data = world("continuous")
    rewards = source(rows=1000 * len(data)).sample(Needs()).rewards[:, 0]
    counts = (rewards.unsqueeze(1) == data.rewards[:, 0]).sum(0)
    assert bool((counts > 850).all()) and bool((counts < 1150).all())


def test_segments_come_when_they_are_needed():
    batch = source().sample(Needs(view="segments", length=3)).check()
    assert batch.rewards.shape[:2] == (8, 3) and batch.mask is not None


class Restless:
    """Acts at random, from its own generator."""

    window = 2

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(4)

    def act(self, obs, *, history=None, avail_actions=None, explore=False):
        assert explore and history.shape[2] == 2
        return torch.rand(*obs.shape[:2], 2, generator=self.generator)


def as_paid(kind: str) -> Rewards:
    return Rewards(world(kind))


def playing(seed: int = 0, rows: int = 20) -> EnvironmentSource:
    env = PointEnv(SPECS["continuous"], 3)
    return EnvironmentSource(Restless(), env, rows, torch.Generator().manual_seed(seed), "cpu", as_paid("continuous"))


def test_an_environment_is_played_in_until_there_are_enough_steps():
    source = playing()
    batch = source.sample(Needs(view="segments", origin="environment")).check()
    assert batch.rewards.shape[1:] == (4, 3) and int(batch.mask[..., 0].sum()) >= 20
    assert len(source.env.seen_seeds[0]) == 3 and sum(map(len, source.env.seen_seeds)) == len(batch)
    seeds = torch.tensor([seed for played in source.env.seen_seeds for seed in played])
    lengths = batch.mask[..., 0].sum(1)
    assert torch.equal(lengths, 2 + seeds % 3)
    last = (torch.arange(len(batch)), lengths - 1)
    assert torch.equal(batch.terminations[last][:, 0], lengths % 2 == 0)
    assert torch.equal(batch.truncations[last][:, 0], lengths % 2 == 1)
    ended = batch.terminations | batch.truncations
    assert int(ended[..., 0].sum()) == len(batch), "an episode ends once"
    inside = batch.mask[:, 1:]
    assert torch.equal(batch.obs[:, 1:][inside], batch.next_obs[:, :-1][inside])
    assert torch.equal(batch.next_history[:, 0, :, 1, :4], batch.obs[:, 0])
    torch.testing.assert_close(batch.rewards, batch.obs[..., 0] * batch.actions[..., 0] * batch.mask)


class Choosing:
    """Takes the last choice that it has."""

    window = 0

    def act(self, obs, *, history=None, avail_actions=None, explore=False):
        assert bool(avail_actions.any(-1).all())
        return avail_actions.long().cumsum(-1).argmax(-1)


def test_batches_end_with_their_longest_episode_and_nothing_counts_behind_the_others():
    batch = EnvironmentSource(
        Choosing(),
        PointEnv(SPECS["discrete"], 1),
        9,
        torch.Generator().manual_seed(3),
        "cpu",
        as_paid("discrete"),
    ).sample(Needs())
    lengths = batch.mask[..., 0].sum(1)
    assert len(set(lengths.tolist())) > 1 and batch.rewards.shape[1] == int(lengths.max())
    outside = ~batch.mask
    assert not batch.rewards[outside].any() and not batch.terminations[outside].any()
    assert not batch.truncations[outside].any() and bool(batch.avail_actions.any(-1).all())


class Second:
    """Takes the second choice."""

    window = 0

    def act(self, obs, *, history=None, avail_actions=None, explore=False):
        return torch.ones(obs.shape[:2], dtype=torch.int64)


def test_where_an_environment_tells_no_choices_all_are_there():
    env, generator = ReticentEnv(SPECS["discrete"], 1), torch.Generator().manual_seed(3)
    source = EnvironmentSource(Second(), env, 9, generator, "cpu", as_paid("discrete"))
    batch = source.sample(Needs(view="segments", origin="environment")).check()
    assert len(batch) > 2
    every = SPECS["discrete"].present("act")
    fewer = every & (torch.arange(every.shape[-1]) > 0)
    for number, (lengths, now, after) in enumerate(
        zip(batch.mask[..., 0].sum(1).tolist(), batch.avail_actions, batch.next_avail_actions, strict=True)
    ):
        told = fewer if number % 2 else every
        assert torch.equal(now[0], every)
        assert torch.equal(now[1:lengths], told.expand(lengths - 1, -1, -1))
        assert torch.equal(after[:lengths], told.expand(lengths, -1, -1))


def test_an_environment_that_shows_what_nobody_can_learn_from_is_named_and_stops_the_run():
    class Broken(PointEnv):
        def step(self, actions):
            seen, rewards, *ends = super().step(actions)
            return seen, rewards * np.nan, *ends

    env = Guarded(Broken(SPECS["continuous"], 3), "the pit")
    source = EnvironmentSource(Restless(), env, 20, torch.Generator(), "cpu", as_paid("continuous"))
    with pytest.raises(SourceStoppedError, match=r"The environment the pit failed: .* is not finite \(nan\)"):
        source.sample(Needs(view="segments", origin="environment"))


def test_a_batch_in_which_the_environment_failed_is_played_again_as_it_would_have_been(tmp_path, monkeypatch):
    monkeypatch.setattr(training_run, "draw_run", lambda *_: None)
    monkeypatch.setattr(environment_tasks, "UNIFORM_STEPS", 50)
    monkeypatch.setattr(EnvironmentSource, "_episodes", lambda *_: 1)
    fields = {"algorithm": "ma-ppo", "environment": "rendezvous", "steps": 3, "batch_size": 60, "final_episodes": 1}
    small_run(tmp_path / "straight", None, **fields)
    play, played = EnvironmentSource._play, []

    def fail_once(self, copies):
        played.append(play(self, copies))
        if len(played) == 10:  # in the second batch, behind some of its rounds
            raise EnvironmentFailedError("It lost its licence.")
        return played[-1]

    monkeypatch.setattr(EnvironmentSource, "_play", fail_once)
    with pytest.raises(SourceStoppedError, match="It lost its licence. The run stops and is saved .* after update 1"):
        small_run(tmp_path / "failed", None, **fields)
    resume(tmp_path / "failed")
    refuse_difference(ending(tmp_path / "straight"), ending(tmp_path / "failed"))


def test_rounds_of_short_episodes_grow():
    class Brief(PointEnv):
        def __init__(self):
            super().__init__(SPECS["continuous"], 50)
            self.max_steps = 40

        def reset(self, seeds):
            seen = super().reset(seeds)
            self._lengths = np.full(len(seeds), 2)
            return seen

    env = Brief()
    batch = EnvironmentSource(Restless(), env, 80, torch.Generator(), "cpu", as_paid("continuous")).sample(Needs())
    assert [len(seeds) for seeds in env.seen_seeds] == [2, 8, 30] and batch.rewards.shape[:2] == (40, 2)


@pytest.mark.parametrize("played", [0, 2])
def test_a_restored_environment_source_begins_the_episodes_that_the_saved_one_would(played):
    one, other = playing(), playing(7)
    for _ in range(played):
        one.sample(Needs())
    other.load_state_dict(one.state_dict())
    other.policy.generator.set_state(one.policy.generator.get_state())
    left, right = one.sample(Needs()), other.sample(Needs())
    assert torch.equal(left.obs, right.obs) and torch.equal(left.actions, right.actions)


def test_whole_episodes_are_drawn_alike_however_long_they_are():
    data = world("continuous")
    drawn = DatasetSource(TransitionBuffer(data), 4_000, torch.Generator().manual_seed(0)).sample(
        Needs(view="segments", length=0)
    )
    begun = (drawn.obs[:, 0].flatten(1).unsqueeze(1) == data.obs.flatten(1)).all(-1)
    counts = begun.sum(0)
    assert int((counts > 0).sum()) == len(data.lengths)
    assert bool((counts[counts > 0] - 400).abs().max() < 80)
    assert {*drawn.mask[..., 0].sum(1).tolist()} == {*data.lengths.tolist()}


def test_played_steps_tell_what_was_done_next_up_to_their_episodes_end():
    batch = playing().sample(Needs(view="segments", origin="environment", next_actions=True)).check()
    assert torch.equal(batch.next_mask[:, :-1], batch.mask[:, 1:]) and not batch.next_mask[:, -1].any()
    known = batch.next_mask[:, :-1]
    assert torch.equal(batch.next_actions[:, :-1][known], batch.actions[:, 1:][known])
    assert not batch.next_actions[~batch.next_mask].any()


def test_played_steps_say_who_comes_next_and_who_has_gone() -> None:
    seen = Seen(np.ones((2, 3, 1), np.float32), present=np.array([[True, False, True], [True, True, True]]))
    gone = np.array([[False, False, True], [True, False, False]])
    after = Seen(np.ones((2, 3, 1), np.float32), present=np.array([[True, True, False], [False] * 3]), terminated=gone)
    ends, running, nothing = np.array([False, True]), np.ones(2, bool), np.zeros((2, 3), np.float32)
    step = Step(seen, nothing[..., None], nothing, ~running, ends, running, after)
    batch = _rows(step, None, None)
    assert batch.next_present is not None and batch.next_present.tolist() == [[True, True, False], [False, True, True]]
