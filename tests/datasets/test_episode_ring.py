"""A ring of episodes answers as a TransitionBuffer of the episodes that it holds would, to the bit."""

from __future__ import annotations

import random
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from offline_marl.core.types import Batch, DataError, Episode, Needs, Spec
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.datasets.episode_ring import EpisodeRing

SPECS = {
    "continuous": Spec((4, 2), (1, 3), state_dim=5),
    "discrete": Spec((4, 2), (3, 2), state_dim=5, action_kind="discrete"),
}
NEEDS = {
    "transitions": Needs(),
    "next actions": Needs(next_actions=True),
    "joint": Needs(joint=True),
    "no next obs": Needs(next_obs=False),
    "segments": Needs("segments", length=3),
    "burn-in": Needs("segments", length=2, burn_in=2, next_actions=True),
    "whole": Needs("segments", length=0),
}


def make_episode(draw: torch.Generator, length: int, spec: Spec, leaving: bool = False, seen: bool = True) -> Episode:
    agents = spec.n_agents
    choices = torch.stack([torch.randint(dim, (length,), generator=draw) for dim in spec.act_dims], -1)
    avail = None
    if spec.discrete:
        avail = (torch.rand(length + 1, agents, spec.act_dim, generator=draw) < 0.7) & spec.present("act")
        avail[:-1].scatter_(-1, choices.unsqueeze(-1), True)
    over = torch.zeros(length, agents, dtype=torch.bool)
    over[-1] = True
    mask = None
    terminated = bool(torch.rand((), generator=draw) < 0.4)
    if leaving and length > 2:
        mask = torch.ones(length, agents, dtype=torch.bool)
        mask[length // 2 :, 1] = False
        over[:, 1] = False
        over[length // 2 - 1, 1] = True
    noise = torch.rand(length, agents, spec.act_dim, generator=draw) * 2 - 1
    return Episode(
        obs=torch.randn(length + 1, agents, spec.obs_dim, generator=draw) * spec.present("obs"),
        actions=choices if spec.discrete else noise * spec.present("act"),
        rewards=torch.randn(length, agents, generator=draw),
        terminations=over & terminated,
        truncations=over & (not terminated),
        state=torch.randn(length + 1, spec.state_dim, generator=draw),
        avail_actions=avail,
        mask=mask,
        end_seen=None if seen else torch.tensor(False),
    )


def assert_same(one: Batch, other: Batch) -> None:
    for item in fields(Batch):
        ours, theirs = getattr(one, item.name), getattr(other, item.name)
        assert (ours is None) == (theirs is None), item.name
        assert ours is None or torch.equal(ours, theirs), item.name


def assert_answers_alike(ring: EpisodeRing, episodes: list[Episode], spec: Spec, window: int) -> None:
    lengths = torch.tensor([len(episode) for episode in episodes])
    values = {
        name: torch.cat([getattr(episode, name) for episode in episodes])
        for name in ("obs", "actions", "rewards", "terminations", "truncations", "state")
    }
    masks = [torch.ones_like(e.terminations) if e.mask is None else e.mask for e in episodes]
    seen = torch.tensor([e.end_seen is None for e in episodes])
    data = Dataset(
        **values,
        lengths=lengths,
        spec=spec,
        avail_actions=torch.cat([e.avail_actions for e in episodes if e.avail_actions is not None])
        if spec.discrete
        else None,
        mask=torch.cat(masks) if "mask" in ring.columns else None,
        ends_seen=seen if "ends" in ring.columns else None,
    )
    buffer = TransitionBuffer(data, window)
    assert len(ring) == len(buffer)
    for name, needs in NEEDS.items():
        draws = [torch.Generator().manual_seed(len(name)) for _ in range(2)]
        whole = name == "whole"
        index = [
            (one.draw_first if whole else one.draw)(40, draw, needs)
            for one, draw in zip((buffer, ring), draws, strict=True)
        ]
        assert torch.equal(*index), name
        if "ends" in ring.columns and bool(seen.all()):
            continue  # the buffer holds no mask then, the ring still one of true entries
        assert_same(ring.view(index[1], needs), buffer.view(index[0], needs))


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("window", [0, 2])
@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("mapped", [False, True])
def test_it_answers_as_a_buffer_of_what_it_holds(
    kind: str, window: int, partial: bool, mapped: bool, tmp_path: Path
) -> None:
    spec, dice, draw = SPECS[kind], random.Random(3), torch.Generator().manual_seed(3)
    ring = EpisodeRing(spec, 40, 9, window, state=True, folder=tmp_path if mapped else None)
    episodes: list[Episode] = []
    for number in range(60):
        leaving, seen = partial and dice.random() < 0.4, not (partial and number > 10 and dice.random() < 0.2)
        episodes.append(make_episode(draw, dice.randint(1, 9), spec, leaving, seen))
        ring.extend(episodes[-1:])
        held = episodes[ring.oldest :]
        # The newest whole episodes that fit: one more would not.
        assert len(ring) == sum(map(len, held)) <= 40
        assert ring.oldest == 0 or len(ring) + len(episodes[ring.oldest - 1]) > 40
        if max(map(len, held)) >= window and (number % 5 == 4 or number > 50):
            assert_answers_alike(ring, held, spec, window)
    assert ring.count == 60 and (not partial or ring.columns >= {"mask", "ends"})
    assert not list(tmp_path.iterdir())


def test_one_episode_of_exactly_the_capacity_is_held_and_a_longer_one_is_refused() -> None:
    spec, draw = SPECS["continuous"], torch.Generator().manual_seed(0)
    ring = EpisodeRing(spec, 5, 5)
    for _ in range(3):
        ring.extend([make_episode(draw, 5, spec)])
        assert len(ring) == 5 and ring.count - ring.oldest == 1
    with pytest.raises(DataError, match=r"6 steps does not fit into a replay of 5 rows: raise --replay-capacity"):
        ring.extend([make_episode(draw, 6, spec)])
    with pytest.raises(DataError, match=r"replay of 4 rows cannot hold one whole episode, which may have 5 steps"):
        EpisodeRing(spec, 4, 5)


def test_episodes_of_one_step_fill_it_to_the_last_row() -> None:
    spec, draw = SPECS["discrete"], torch.Generator().manual_seed(0)
    ring = EpisodeRing(spec, 30, 30, 1, state=True)
    episodes = [make_episode(draw, 1, spec) for _ in range(100)]
    ring.extend(episodes)
    assert len(ring) == 30 and ring.oldest == 70
    assert_answers_alike(ring, episodes[70:], spec, 1)


def test_what_is_drawn_depends_on_the_episodes_and_not_on_where_they_lie() -> None:
    spec, draw = SPECS["continuous"], torch.Generator().manual_seed(0)
    episodes = [make_episode(draw, 1 + number % 7, spec, number % 5 == 0) for number in range(50)]
    long = EpisodeRing(spec, 30, 7, 2)
    for episode in episodes:
        long.extend([episode])
    fresh = EpisodeRing(spec, 30, 7, 2)
    fresh.restore(long.oldest, long.columns)
    fresh.extend(episodes[long.oldest :])
    assert (fresh.oldest, fresh.count) == (long.oldest, long.count)
    for needs in NEEDS.values():
        draws = [torch.Generator().manual_seed(1) for _ in range(2)]
        one, other = (r.view(r.draw(64, d, needs), needs) for r, d in zip((long, fresh), draws, strict=True))
        assert_same(one, other)


def test_a_column_that_comes_late_says_of_earlier_episodes_that_all_was_there() -> None:
    spec, draw = SPECS["continuous"], torch.Generator().manual_seed(0)
    ring = EpisodeRing(spec, 30, 7)
    ring.extend([make_episode(draw, 4, spec)])
    assert ring.view(torch.arange(4), Needs()).mask is None
    ring.extend([make_episode(draw, 6, spec, leaving=True)])
    batch = ring.transitions(torch.arange(10))
    assert batch.mask is not None and bool(batch.mask[:4].all())
    assert batch.mask[4:, 1].tolist() == [True, True, True, False, False, False]
    free = EpisodeRing(SPECS["discrete"], 30, 7)
    told = make_episode(draw, 3, SPECS["discrete"])
    free.extend([replace(told, avail_actions=None), told])
    avail = free.transitions(torch.arange(6)).avail_actions
    assert avail is not None and torch.equal(avail[0], SPECS["discrete"].present("act"))
    assert told.avail_actions is not None and torch.equal(avail[3], told.avail_actions[0])


def test_an_episode_without_the_state_that_is_needed_is_refused() -> None:
    spec, draw = SPECS["continuous"], torch.Generator().manual_seed(0)
    with pytest.raises(DataError, match="without one"):
        EpisodeRing(spec, 30, 7, state=True).extend([replace(make_episode(draw, 3, spec), state=None)])
