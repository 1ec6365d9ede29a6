from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from observed import Observed
from worlds import SPECS, world

from offline_marl.core.files import load_tree, save_tree
from offline_marl.core.types import Needs
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.datasets.episode_ring import EpisodeRing
from offline_marl.datasets.ring import TransitionRing
from offline_marl.training.models.fit import facts_of
from offline_marl.training.rewards import Rewards
from offline_marl.training.sources.imagined import (
    BrokenModelError,
    Imagination,
    MixedSource,
    Plan,
    RolloutSource,
    segments_of,
)
from offline_marl.training.sources.recorded import DatasetSource
from offline_marl.training.sources.replay import LiveMixture
from offline_marl.worldmodels.base import Prediction, Spread
from offline_marl.worldmodels.rollout import Caution

SPEC = SPECS["continuous"]
DATA = world("continuous")
BATCH = 20


class Numbered(Observed):
    """Every step earns the number of steps asked for so far; the planted rows are doubted, over or not numbers."""

    spec = SPEC
    facts = facts_of(DATA)
    window = 0

    def __init__(self, doubted: int = 0, broken: int = 0, over: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(5)
        self.doubted, self.broken, self.over, self.asked = doubted, broken, over, 0

    def predict(self, obs, actions, history=None) -> Prediction:
        self.asked += 1
        place = torch.arange(len(obs))
        rewards = torch.full(obs.shape[:2], float(self.asked))
        noise = torch.rand(obs.shape, generator=self.generator)
        next_obs = torch.where((place < self.broken)[:, None, None], torch.nan, obs + noise)
        apart = (place < self.doubted).float().expand(2, -1).unsqueeze(-1) * torch.tensor([0.0, 9.0])[:, None, None]
        spread = Spread(apart, torch.zeros(2, len(obs), SPEC.n_agents), None, None, torch.ones(1), torch.ones(1))
        over = (place < self.over).unsqueeze(-1).expand_as(rewards)
        return Prediction(next_obs, rewards, over, spread)


class Idle:
    """Does nothing."""

    window = 0

    def act(self, obs, *, history=None, avail_actions=None, explore=False):
        return torch.zeros(*obs.shape[:2], SPEC.act_dim)


def imagination(model=None, rows=10, horizon=3, share=0.0, factor=1.0, cutoff=math.inf) -> Imagination:
    caution = Caution(weight=0.0, reward_weight=0.0, cutoff=cutoff, clip=False)
    plan = Plan(rows, horizon, share, caution)
    buffer = TransitionBuffer(DATA, state=False)
    rewards = Rewards(DATA, factor)
    return Imagination(model or Numbered(), Idle(), buffer, plan, rewards, torch.Generator().manual_seed(1))


def mixed(shares, retain=50, refill_every=1, steps=11, **of_imagination) -> MixedSource:
    real = DatasetSource(TransitionBuffer(DATA, state=False), BATCH, torch.Generator().manual_seed(2))
    return MixedSource(real, imagination(**of_imagination), TransitionRing(retain), shares, refill_every, steps)


def recorded(obs) -> list[bool]:
    known = DATA.obs.flatten(1)
    return (obs.flatten(1).unsqueeze(1) == known).all(-1).any(-1).tolist()


@pytest.mark.parametrize(("share", "at_first"), [(0.0, 0), (0.25, 10), (1.0, 40)])
def test_so_many_imagined_episodes_begin_where_recorded_ones_begin(share, at_first):
    firsts = DATA.obs[torch.cat([torch.zeros(1, dtype=torch.long), (DATA.lengths + 1).cumsum(0)[:-1]])]
    batch = imagination(rows=40, share=share).imagine().batch
    begun = batch.obs[:, 0]
    assert all(recorded(begun))
    first = (begun.flatten(1).unsqueeze(1) == firsts.flatten(1)).all(-1).any(-1)
    anywhere = int(first.sum()) - at_first
    assert 0 <= anywhere <= (40 - at_first) // 2, "the others begin anywhere"
    assert share in (0.0, 1.0) or (bool(first[:20].any()) and bool(first[20:].any())), "in no order"


def test_a_ring_that_is_smaller_than_a_rollout_keeps_starts_of_every_kind():
    firsts = DATA.obs[torch.cat([torch.zeros(1, dtype=torch.long), (DATA.lengths + 1).cumsum(0)[:-1]])]
    source = mixed((0.0, 0.0), retain=60, rows=200, horizon=1, share=0.3)
    source.sample(Needs())
    kept = source.ring.state_dict()["held"]["obs"]
    begun = (kept.flatten(1).unsqueeze(1) == firsts.flatten(1)).all(-1).any(-1)
    assert len(kept) == 60 and 15 <= int(begun.sum()) <= 36, "all 60 would be first steps if the last starts stayed"


def test_half_of_the_kept_rows_begin_in_live_states():
    live = EpisodeRing(SPEC, 100, 8)
    live.extend(replace(episode, obs=episode.obs + 100) for episode in (DATA.episode(n) for n in range(5)))
    source = mixed((0.0, 0.0), retain=60, rows=200, horizon=1)
    source.imagination.live = live
    source.sample(Needs())
    alive = source.ring.state_dict()["held"]["obs"].flatten(1).amax(-1) > 50
    assert 20 <= int(alive.sum()) <= 40


def test_what_was_cut_and_what_broke_is_counted():
    made = imagination(Numbered(doubted=30, broken=1), rows=200, horizon=2, cutoff=1.0)
    for times in (1, 2):
        found = made.imagine()
        assert int(found.cut.sum()) == 29 and int(found.broken.sum()) == 1, "a row that broke is not also cut"
        assert (made.made, made.cut, made.broken) == (200 * times, 29 * times, times)


def test_one_row_in_a_hundred_may_stop_being_finite_and_no_more():
    made = imagination(Numbered(broken=2), rows=200)
    found = made.imagine()
    assert found.batch.mask is not None and found.batch.mask[:2].sum() == 0 and bool(found.batch.mask[2:].all())
    assert bool(found.batch.next_obs.isfinite().all())
    made.model.broken = 3
    with pytest.raises(BrokenModelError, match=r"^5 of 400 imagined rows stopped being finite: .*\.$") as told:
        made.imagine()
    assert "\n" not in str(told.value)


def test_a_rollout_source_gives_masked_segments_with_rewards_in_the_units_of_the_run():
    source = RolloutSource(imagination(Numbered(over=4), factor=0.5))
    batch = source.sample(Needs(view="segments", origin="model")).check()
    assert batch.rewards.shape == (10, 3, SPEC.n_agents) and bool(batch.synthetic.all())
    assert batch.rewards[5, :, 0].tolist() == [0.5, 1.0, 1.5]
    assert batch.mask[:4, :, 0].tolist() == [[True, False, False]] * 4 and bool(batch.mask[4:].all())
    assert bool(batch.terminations[:4, 0].all()) and not bool(batch.terminations[4:].any())
    assert batch.truncations[4:, :, 0].tolist() == [[False, False, True]] * 6


def test_recorded_rows_come_first_and_imagined_ones_are_marked_to_the_end():
    batch = mixed((0.25, 0.25)).sample(Needs()).check()
    assert batch.synthetic.tolist() == [False] * 5 + [True] * 15 and batch.mask is None
    assert all(recorded(batch.obs[:5])) and not any(recorded(batch.next_obs[5:]))
    assert {*batch.rewards[5:].flatten().tolist()} <= {1.0, 2.0, 3.0}


@pytest.mark.parametrize("shares", [(0.01, 0.01), (0.0, 0.0), None])
def test_who_learns_from_recorded_rows_gets_one_at_least(shares):
    batch = mixed(shares, retain=30).sample(Needs(recorded="some"))
    assert len(batch) == BATCH and int((~batch.synthetic).sum()) >= 1


def test_only_steps_before_an_episodes_end_are_mixed_in():
    source = mixed((0.0, 0.0), model=Numbered(over=10), horizon=3)
    batch = source.sample(Needs())
    assert len(source.ring) == 10 and {*batch.rewards.flatten().tolist()} == {1.0}


def test_the_share_moves_in_equal_steps_and_reaches_both_ends():
    source = mixed((0.0, 1.0))
    counts = [int((~source.sample(Needs()).synthetic).sum()) for _ in range(13)]
    assert counts == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 20, 20]
    falling = mixed((1.0, 0.5), steps=2)
    assert [int((~falling.sample(Needs()).synthetic).sum()) for _ in range(2)] == [20, 10]


def test_auto_weighs_every_row_alike():
    source = mixed(None, retain=len(DATA))
    batch = source.sample(Needs())
    assert int((~batch.synthetic).sum()) == round(BATCH * len(DATA) / (len(DATA) + 30))
    for _ in range(3):
        source.sample(Needs())
    assert source.real_fraction(Needs()) == 0.5, "the ring is full"


@pytest.mark.parametrize(("length", "real"), [(0, 10 / 20), (2, 30 / 50)], ids=["episodes", "segments"])
def test_auto_weighs_every_step_alike_where_rows_are_segments(length, real):
    """Sixty steps are ten episodes or thirty segments; ten rows of three steps are cut into twenty segments."""
    source = mixed(None, horizon=3)
    batch = source.sample(Needs(view="segments", length=length))
    assert len(DATA) == 60 and int((~batch.synthetic[:, 0]).sum()) == round(BATCH * real)


def beside_live(recorded, live, shares=None) -> MixedSource:
    """Imagined rows beside recorded and live ones, each of the latter two half of the real ones."""
    ring = EpisodeRing(SPEC, 100, 8)
    ring.extend(live.episode(number) for number in range(5))
    real = LiveMixture(
        DatasetSource(TransitionBuffer(recorded, state=False), BATCH, torch.Generator().manual_seed(2)),
        DatasetSource(ring, BATCH, torch.Generator().manual_seed(3)),
        (0.5, 0.5),
        11,
    )
    source = mixed(shares)
    source.real, source.imagination.buffer, source.imagination.live = real, real.recorded.buffer, ring
    return source


def test_auto_counts_live_rows_as_real_ones():
    source = beside_live(DATA, DATA)
    batch = source.sample(Needs())
    live = len(source.real.live.buffer)
    assert int((~batch.synthetic).sum()) == round(BATCH * (60 + live) / (60 + live + 30))


@pytest.mark.parametrize("where", ["recorded", "live"])
def test_imagined_rows_say_who_is_away_wherever_rows_do(where):
    """Agent 1 leaves after two steps of the episodes of one side."""
    mask = torch.ones(len(DATA), SPEC.n_agents, dtype=torch.bool)
    mask[:, 1] = torch.cat([torch.arange(length) < 2 for length in DATA.lengths.tolist()])
    rows = torch.cat([torch.cat([part, part[-1:]]) for part in mask.split(DATA.lengths.tolist())])
    away = replace(DATA, mask=mask, obs=DATA.obs * rows.unsqueeze(-1), actions=DATA.actions * mask.unsqueeze(-1))
    source = beside_live(*((away, DATA) if where == "recorded" else (DATA, away)), shares=(0.0, 0.0))
    batch = source.sample(Needs()).check()
    gone = (batch.obs[:, 1] == 0).all(-1)
    assert bool(gone.any()) and torch.equal(batch.mask[:, 1], ~gone)


def test_the_ring_is_refilled_once_a_period():
    source = mixed((0.5, 0.5), refill_every=3)
    made = []
    for _ in range(7):
        source.sample(Needs())
        made.append(source.imagination.made)
    assert made == [10, 10, 10, 20, 20, 20, 30]


def test_the_oldest_imagined_rows_are_overwritten():
    source = mixed((0.0, 0.0), retain=20, horizon=1)
    seen = [{*source.sample(Needs()).rewards.flatten().tolist()} for _ in range(4)]
    assert seen == [{1.0}, {1.0, 2.0}, {2.0, 3.0}, {3.0, 4.0}]


def test_without_imagined_rows_nothing_is_ever_imagined():
    source = mixed((1.0, 1.0))
    batches = [source.sample(Needs()) for _ in range(3)]
    assert not any(bool(batch.synthetic.any()) for batch in batches)
    assert (source.imagination.made, len(source.ring)) == (0, 0)


def test_until_something_imagined_is_usable_all_rows_are_recorded():
    batch = mixed((0.0, 0.0), model=Numbered(broken=1), rows=1).sample(Needs()).check()
    assert len(batch) == BATCH and not bool(batch.synthetic.any()) and all(recorded(batch.obs))


@pytest.mark.parametrize("shares", [(0.1, 0.9), None])
def test_a_restored_mixture_goes_on_bit_for_bit(tmp_path, shares):
    one, other = mixed(shares, refill_every=2), mixed(shares, refill_every=2)
    for _ in range(3):
        one.sample(Needs())
    save_tree(tmp_path / "source.safetensors", one.state_dict(), "test")
    other.load_state_dict(load_tree(tmp_path / "source.safetensors", "test")[0])
    other.imagination.model.asked = one.imagination.model.asked
    for _ in range(4):
        left, right = one.sample(Needs()), other.sample(Needs())
        for name in ("obs", "next_obs", "rewards", "synthetic"):
            assert torch.equal(getattr(left, name), getattr(right, name)), name
    assert (other.imagination.made, other.drawn) == (one.imagination.made, 7)


def test_a_restored_rollout_source_goes_on_bit_for_bit():
    one, other = RolloutSource(imagination()), RolloutSource(imagination())
    one.sample(Needs())
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.sample(Needs()).next_obs, other.sample(Needs()).next_obs)
    assert other.imagination.made == 20


class Pulling(Idle):
    """What it does tells what it has seen."""

    def act(self, obs, *, history=None, avail_actions=None, explore=False):
        return obs[..., : SPEC.act_dim].tanh()


@pytest.mark.parametrize("horizon", [1, 3])
def test_next_actions_of_imagined_rows_are_the_policys_own_also_at_the_horizon(horizon):
    made = imagination(Numbered(over=4, doubted=6), horizon=horizon, cutoff=1.0)
    made.policy = Pulling()
    plain, batch = made.imagine().batch, made.imagine(next_actions=True).batch.check()
    assert plain.next_actions is None
    assert torch.equal(batch.next_mask, batch.mask & ~batch.terminations)
    assert bool(batch.next_mask[4:, 0].all()) and not batch.next_mask[:4].any()
    done = batch.next_obs[..., : SPEC.act_dim].tanh()
    assert torch.equal(batch.next_actions[batch.next_mask], done[batch.next_mask])
    assert not batch.next_actions[~batch.next_mask].any()


class Counting(Idle):
    """Does the number of steps that its own memory has seen."""

    class Steps:
        def __init__(self) -> None:
            self.seen = 0

        def read(self):
            return {"history": None, "seen": self.seen}

        def remember(self, obs, actions, rewards):
            self.seen += 1

    def begin(self, copies, history=None):
        return self.Steps()

    def act(self, obs, *, history=None, avail_actions=None, explore=False, seen=0):
        return torch.full((*obs.shape[:2], SPEC.act_dim), float(seen))


def test_a_policy_does_next_what_its_own_memory_says():
    made = imagination(horizon=3)
    made.policy = Counting()
    batch = made.imagine(next_actions=True).batch
    assert batch.actions[0, :, 0, 0].tolist() == [0.0, 1.0, 2.0]
    assert batch.next_actions[0, :, 0, 0].tolist() == [1.0, 2.0, 3.0]


def test_next_actions_are_mixed():
    batch = mixed((0.25, 0.25)).sample(Needs(next_actions=True)).check()
    assert len(batch.next_actions) == BATCH and bool(batch.next_mask[5:].all())


@pytest.mark.parametrize(
    ("length", "burn_in", "steps"), [(2, 0, 2), (3, 0, 3), (5, 0, 5), (2, 2, 4), (0, 0, 8)], ids=str
)
def test_recorded_segments_come_beside_imagined_ones(length, burn_in, steps):
    source = mixed((0.25, 0.25), horizon=3)
    needs = Needs(view="segments", length=length, burn_in=burn_in, next_actions=True)
    batch = source.sample(needs).check()
    assert not batch.synthetic[:5].any() and bool(batch.synthetic[5:].all()) and len(batch) == BATCH
    assert batch.rewards.shape[1] == steps
    assert all(recorded(batch.obs[:5].flatten(0, 1)))
    counted = batch.mask[..., 0].sum(1)
    assert bool((counted > 0).all()) and int(counted[5:].max()) <= (length or 3)
    follows = batch.mask[:, 1:] & batch.mask[:, :-1]
    assert torch.equal(batch.obs[:, 1:][follows], batch.next_obs[:, :-1][follows])
    assert torch.equal(batch.actions[:, 1:][follows], batch.next_actions[:, :-1][follows])


def test_rollouts_are_cut_into_segments_that_count_each_step_once():
    rollouts = imagination(Numbered(over=4), horizon=3).imagine().batch
    cuts = segments_of(rollouts, Needs(view="segments", length=2, burn_in=1)).check()
    # Rows that go on give steps 0, 1 and step 2 after a burnt-in 1; those that end at once give step 0 alone.
    times = cuts.rewards[..., 0]
    counted = [times[row][cuts.mask[row, :, 0]].tolist() for row in range(len(cuts))]
    assert counted == [[1.0]] * 4 + [[1.0, 2.0], [3.0]] * 6
    assert times[5].tolist() == [2.0, 3.0, 3.0] and cuts.mask[5, :, 0].tolist() == [False, True, False]


def test_a_restored_mixture_of_segments_goes_on_bit_for_bit(tmp_path):
    needs = Needs(view="segments", length=2)
    one, other = mixed((0.5, 0.5)), mixed((0.5, 0.5))
    one.sample(needs)
    save_tree(tmp_path / "source.safetensors", one.state_dict(), "test")
    other.load_state_dict(load_tree(tmp_path / "source.safetensors", "test")[0])
    other.imagination.model.asked = one.imagination.model.asked
    left, right = one.sample(needs), other.sample(needs)
    for name in ("obs", "next_obs", "rewards", "synthetic", "mask"):
        assert torch.equal(getattr(left, name), getattr(right, name)), name
