from __future__ import annotations

import itertools
import math

import pytest
import torch

from offline_marl.core.types import Batch, DataError, Spec
from offline_marl.preferences import pairs as room
from offline_marl.preferences.pairs import Candidates, Copies, Pair, SegmentKey, choose, doubt, draw_candidates

LENGTHS = torch.tensor([7, 3, 12, 5, 4])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def key(episode: int, start: int = 0, length: int = 4, source: str = "abc") -> SegmentKey:
    return SegmentKey(source, episode, start, length)


@pytest.mark.parametrize("length", [1, 4, 7, 11])
def test_no_segment_crosses_the_end_of_its_episode_and_all_are_of_one_length(length: int) -> None:
    candidates = draw_candidates(LENGTHS, length, 1 if length == 11 else 10, generator())
    ends = candidates.starts + length
    assert bool((candidates.starts >= 0).all()) and bool((ends <= LENGTHS[candidates.episodes]).all())
    for pair in candidates.pairs("abc", LENGTHS, length):
        assert pair.first.length == pair.second.length == length


def test_every_segment_is_as_likely_as_any_other() -> None:
    # Of 4 steps there are 4 + 0 + 9 + 2 + 1 = 16 segments.
    counts: dict[tuple[int, int], int] = {}
    for seed in range(400):
        candidates = draw_candidates(LENGTHS, 4, 10, generator(seed))
        for episode, start in zip(
            *(t.flatten().tolist() for t in (candidates.episodes, candidates.starts)), strict=True
        ):
            counts[episode, start] = counts.get((episode, start), 0) + 1
    assert len(counts) == 16 and all(abs(count - 500) < 5 * math.sqrt(500) for count in counts.values())


def test_whole_episodes_are_compared_as_they_are() -> None:
    made = draw_candidates(LENGTHS, 0, 6, generator()).pairs("abc", LENGTHS, 0)
    for pair in made:
        for side in (pair.first, pair.second):
            assert (side.start, side.length) == (0, int(LENGTHS[side.episode]))


def test_the_last_pairs_that_are_left_are_found() -> None:
    lengths = torch.full((60,), 5)
    every = [frozenset(((a, 0), (b, 0))) for a, b in itertools.combinations(range(60), 2)]
    taken = frozenset(every[:1_620])
    rest = draw_candidates(lengths, 0, 150, generator(), taken=taken)
    drawn = {frozenset((number, 0) for number in sides) for sides in rest.episodes.tolist()}
    assert drawn == set(every[1_620:])


def test_no_pair_is_drawn_twice_nor_again_nor_with_itself() -> None:
    # 5 whole episodes make 10 pairs.
    every = draw_candidates(LENGTHS, 0, 10, generator())
    assert len({pair.id for pair in every.pairs("abc", LENGTHS, 0)}) == 10
    taken = frozenset(frozenset(((a, 0), (b, 0))) for a, b in every.episodes[:7].tolist())
    rest = draw_candidates(LENGTHS, 0, 3, generator(1), taken=taken)
    drawn = {frozenset(sides) for sides in rest.episodes.tolist()}
    assert drawn == {frozenset(sides) for sides in every.episodes[7:].tolist()}
    with pytest.raises(DataError, match="not 4 pairs of different segments"):
        draw_candidates(LENGTHS, 0, 4, generator(1), taken=taken)


def test_segments_longer_than_every_episode_are_refused() -> None:
    with pytest.raises(DataError, match="No episode has 13 steps to compare: the longest has 12"):
        draw_candidates(LENGTHS, 13, 1, generator())


def test_only_chosen_episodes_are_drawn_from() -> None:
    made = draw_candidates(LENGTHS, 3, 20, generator(), episodes=torch.tensor([0, 3]))
    assert set(made.episodes.flatten().tolist()) == {0, 3}


def test_a_pair_has_one_id_in_both_orders_and_another_of_other_data() -> None:
    one, other = key(0), key(1)
    assert Pair(one, other).id == Pair(other, one).id != Pair(one, key(1, source="def")).id
    assert SegmentKey.of_run("r7", 3, 0, 4).text == "run:r7/3/0/4"


def test_disagreement_and_entropy_of_members_by_hand() -> None:
    # Both sure and opposed; both sure and agreed; both torn.
    probabilities = torch.tensor([[1.0, 1.0, 0.5], [0.0, 1.0, 0.5]])
    assert doubt("disagree", probabilities).tolist() == [0.5, 0.0, 0.0]
    assert doubt("entropy", probabilities).tolist() == pytest.approx([0.0, 0.0, math.log(2)])
    assert doubt("uniform", probabilities).tolist() == [0.0, 0.0, 0.0]


def test_what_is_chosen_is_doubtful_and_far_apart() -> None:
    scores = torch.tensor([0.9, 0.89, 0.88, 0.5, 0.4, 0.1, 0.0])
    features = torch.tensor([[0.0], [0.1], [5.0], [2.0], [-1.0], [100.0], [200.0]])
    # The shortlist of two is the six of highest score: 200 is out; first the highest, then the farthest.
    assert choose(scores, features, 2).tolist() == [0, 5]
    # Of three, seven are listed: 0, the farthest of it 200, and of both 100.
    assert choose(scores, features, 3).tolist() == [0, 6, 5]
    assert sorted(choose(scores, features, 7).tolist()) == list(range(7))


def test_twins_are_chosen_last() -> None:
    chosen = choose(torch.tensor([1.0, 0.9, 0.8]), torch.tensor([[0.0], [0.0], [1.0]]), 3)
    assert chosen.tolist() == [0, 2, 1]


def test_no_rate_is_too_large_for_a_schedule() -> None:
    assert room.schedule("exponential", 1_400, 80, 11.0) == [0] * 79 + [1_400]
    assert room.schedule("exponential", 100, 3, 1e-9) == [33, 66, 100], "a small one is a straight line"


def test_schedules_are_the_published_ones() -> None:
    early = room.schedule("exponential", 990_000, 71, 0.1)
    assert early[:5] == [85, 181, 286, 402, 530] and (early[34], early[69], early[70]) == (26_255, 895_711, 990_000)
    even = room.schedule("linear", 990_000, 71)
    assert even[0] == 13_943 and {b - a for a, b in itertools.pairwise(even)} == {13_943, 13_944}


@pytest.mark.parametrize("kind", ["linear", "exponential"])
def test_rounds_share_out_the_whole_budget(kind) -> None:
    parts = room.shares(kind, 1_000, 7, 0.5)
    assert sum(parts) == 1_000 and len(parts) == 7 and min(parts) >= 0
    assert kind == "linear" or parts == sorted(parts)


def test_held_out_pairs_share_no_episode_with_the_others() -> None:
    made = [Pair(key(a), key(b)) for a in range(12) for b in range(a + 1, 12)]
    kept, out, between = room.split_by_episode(made, 0.1, generator())
    assert sorted([*kept, *out, *between]) == list(range(len(made))) and len(out) >= 6

    def episodes(numbers: list[int]) -> set[tuple[str, int]]:
        return {side.whole for i in numbers for side in (made[i].first, made[i].second)}

    assert kept and not episodes(kept) & episodes(out)


def copies() -> Copies:
    spec = Spec((2, 1), (3, 2), action_kind="discrete")
    obs = torch.arange(12.0).view(1, 3, 2, 2)
    flags = torch.zeros(1, 3, 2, dtype=torch.bool)
    actions = torch.tensor([[[0, 1], [2, 0], [1, 1]]])
    mask = torch.tensor([[[True, True], [True, True], [True, False]]])
    batch = Batch(obs, actions, torch.ones(1, 3, 2), obs + 1, flags, flags, mask=mask)
    return Copies(spec, (key(0, 0, 3),), batch)


def test_copies_come_back_as_they_were_and_damage_is_noticed(tmp_path) -> None:
    path = tmp_path / "segments.safetensors"
    copies().save(path)
    read = Copies.load(path)
    assert (read.spec, read.keys) == (copies().spec, copies().keys)
    for name in ("obs", "actions", "rewards", "mask"):
        assert torch.equal(getattr(read.segments, name), getattr(copies().segments, name)), name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        Copies.load(path)
    with pytest.raises(DataError, match="cannot be read"):
        Copies.load(tmp_path / "gone.safetensors")


def test_features_are_means_over_the_steps_that_count() -> None:
    made = room.features_of(copies().segments, copies().spec)
    # Agent 0: obs (0,1), (4,5), (8,9), one-hot of 0, 2, 1; agent 1: obs (2,3), (6,7), one-hot of 1, 0.
    expected = [4.0, 5.0, 1 / 3, 1 / 3, 1 / 3, 4.0, 5.0, 0.5, 0.5, 0.0]
    assert made.flatten().tolist() == pytest.approx(expected)


def test_candidates_can_be_chosen_from() -> None:
    some = Candidates(torch.tensor([[0, 1], [2, 3]]), torch.tensor([[4, 5], [6, 7]]))[torch.tensor([1])]
    assert len(some) == 1 and some.episodes.tolist() == [[2, 3]] and some.starts.tolist() == [[6, 7]]
