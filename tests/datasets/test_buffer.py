from __future__ import annotations

import random
import time

import pytest
import torch

from offline_marl.core.partition import partition
from offline_marl.core.types import DataError, Episode, Needs, Spec
from offline_marl.datasets.base import Dataset, Recording
from offline_marl.datasets.buffer import TransitionBuffer


def random_episode(draw: torch.Generator, length: int, spec: Spec, *, terminated: bool) -> Episode:
    agents = spec.n_agents
    ended = torch.zeros(length, agents, dtype=torch.bool)
    ended[-1] = True
    choices = torch.stack([torch.randint(dim, (length,), generator=draw) for dim in spec.act_dims], -1)
    avail = None
    if spec.discrete:
        avail = torch.rand(length + 1, agents, spec.act_dim, generator=draw) < 0.7
        avail[:-1].scatter_(-1, choices.unsqueeze(-1), True)
    return Episode(
        obs=torch.randn(length + 1, agents, spec.obs_dim, generator=draw) * spec.present("obs"),
        actions=choices
        if spec.discrete
        else (torch.rand(length, agents, spec.act_dim, generator=draw) * 2 - 1) * spec.present("act"),
        rewards=torch.randn(length, agents, generator=draw),
        terminations=ended & terminated,
        truncations=ended & (not terminated),
        state=torch.randn(length + 1, spec.state_dim, generator=draw),
        avail_actions=avail,
    )


SPECS = {
    "continuous": Spec((4, 2), (1, 3), state_dim=5),
    "discrete": Spec((4, 2), (3, 2), state_dim=5, action_kind="discrete"),
}


def random_episodes(kind: str, lengths: list[int], seed: int = 0) -> list[Episode]:
    draw = torch.Generator().manual_seed(seed)
    return [random_episode(draw, n, SPECS[kind], terminated=i % 3 == 1) for i, n in enumerate(lengths)]


def pair(episode: Episode, step: int, spec: Spec) -> torch.Tensor:
    """(obs, action) of each agent at a step, as a history holds it."""
    action = episode.actions[step]
    if spec.discrete:
        one_hot = torch.zeros(spec.n_agents, spec.act_dim)
        for agent in range(spec.n_agents):
            one_hot[agent, action[agent]] = 1.0
        action = one_hot
    return torch.cat([episode.obs[step], action], dim=-1)


def naive_history(episode: Episode, step: int, window: int, spec: Spec) -> torch.Tensor:
    """The `window` pairs before `step`, oldest first, zeros where the episode had not begun."""
    rows = [
        pair(episode, past, spec) if past >= 0 else torch.zeros(spec.n_agents, spec.step_dim)
        for past in range(step - window, step)
    ]
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("kind", SPECS)
def test_every_transition_holds_its_own_rows(kind: str) -> None:
    episodes = random_episodes(kind, [3, 1, 6, 2])
    buffer = TransitionBuffer(Dataset.from_episodes(episodes, SPECS[kind]))
    assert len(buffer) == 12
    batch = buffer.transitions(torch.arange(12)).check()
    at = 0
    for episode in episodes:
        for step in range(len(episode)):
            assert torch.equal(batch.obs[at], episode.obs[step])
            assert torch.equal(batch.next_obs[at], episode.obs[step + 1])
            for name in ("actions", "rewards", "terminations", "truncations"):
                assert torch.equal(getattr(batch, name)[at], getattr(episode, name)[step])
            for name in ("state", "avail_actions"):
                ours, theirs, after = getattr(batch, name), getattr(episode, name), getattr(batch, f"next_{name}")
                if theirs is not None:
                    assert torch.equal(ours[at], theirs[step]) and torch.equal(after[at], theirs[step + 1])
            at += 1
    assert batch.history is None and batch.mask is None
    assert (batch.avail_actions is None) == (kind == "continuous")


def test_flags_are_true_on_the_last_step_of_their_kind_only() -> None:
    buffer = TransitionBuffer(Dataset.from_episodes(random_episodes("continuous", [2, 3]), SPECS["continuous"]))
    batch = buffer.transitions(torch.arange(5))
    assert batch.truncations[:, 0].tolist() == [False, True, False, False, False]
    assert batch.terminations[:, 0].tolist() == [False, False, False, False, True]


def test_rows_come_in_the_order_asked_for_and_may_repeat() -> None:
    buffer = TransitionBuffer(Dataset.from_episodes(random_episodes("continuous", [3, 4]), SPECS["continuous"]), 2)
    index = torch.tensor([6, 0, 3, 3])
    batch, every = buffer.transitions(index), buffer.transitions(torch.arange(7))
    assert batch.history is not None and every.history is not None
    assert torch.equal(batch.next_obs, every.next_obs[index]) and torch.equal(batch.history, every.history[index])


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("seed", range(4))
def test_histories_are_those_of_a_loop_and_never_cross_an_episode(kind: str, seed: int) -> None:
    dice = random.Random(seed)
    lengths = [dice.randint(1, 9) for _ in range(12)]
    window = dice.randint(1, max(lengths))
    episodes, spec = random_episodes(kind, lengths, seed), SPECS[kind]
    buffer = TransitionBuffer(Dataset.from_episodes(episodes, spec), window)
    batch = buffer.transitions(torch.arange(len(buffer))).check()
    assert batch.history is not None and batch.next_history is not None
    at = 0
    for episode in episodes:
        for step in range(len(episode)):
            assert torch.equal(batch.history[at], naive_history(episode, step, window, spec))
            assert torch.equal(batch.next_history[at], naive_history(episode, step + 1, window, spec))
            at += 1


def test_a_window_that_no_episode_fills_is_refused() -> None:
    data = Dataset.from_episodes(random_episodes("continuous", [3, 5]), SPECS["continuous"])
    TransitionBuffer(data, 5)
    with pytest.raises(DataError, match=r"A window of 6 is longer than every episode .*at most 5 steps"):
        TransitionBuffer(data, 6)


def test_a_window_may_be_longer_than_the_episodes_that_are_chosen() -> None:
    """Those that are held out may all be short."""
    episodes = random_episodes("continuous", [3, 5, 2])
    buffer = TransitionBuffer(Dataset.from_episodes(episodes, SPECS["continuous"]), 4, episodes=torch.tensor([0, 2]))
    batch = buffer.transitions(torch.arange(5))
    assert batch.history is not None
    for at, (episode, step) in enumerate([(0, 0), (0, 1), (0, 2), (2, 0), (2, 1)]):
        assert torch.equal(batch.history[at], naive_history(episodes[episode], step, 4, SPECS["continuous"]))


@pytest.mark.parametrize("window", [0, 2])
def test_segments_follow_time_and_are_masked_behind_the_end(window: int) -> None:
    data = Dataset.from_episodes(random_episodes("continuous", [3, 6]), SPECS["continuous"])
    buffer = TransitionBuffer(data, window)
    batch = buffer.segments(torch.tensor([1, 3, 8]), 4).check()
    every = buffer.transitions(torch.arange(9))
    # Steps 1, 2 then the end of episode 0; 3 to 6 of episode 1; 8, its last.
    steps = torch.tensor([[1, 2, 2, 2], [3, 4, 5, 6], [8, 8, 8, 8]])
    inside = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]).bool()
    assert batch.mask is not None and torch.equal(batch.mask, inside.unsqueeze(-1).expand(3, 4, 2))
    for name in ("obs", "next_obs", "actions", "rewards", "terminations", "state", "history", "next_history"):
        ours, single = getattr(batch, name), getattr(every, name)
        assert (ours is None) == (single is None)
        if ours is not None:
            assert torch.equal(ours, single[steps])
    assert len(batch.flatten().check()) == 12


def test_views_are_what_the_algorithm_needs() -> None:
    data = Dataset.from_episodes(random_episodes("discrete", [3, 6]), SPECS["discrete"])
    buffer, index = TransitionBuffer(data), torch.tensor([0, 4])
    assert buffer.view(index, Needs()).rewards.shape == (2, 2)
    assert buffer.view(index, Needs(view="segments", length=3)).rewards.shape == (2, 3, 2)


def test_the_state_stays_behind_where_nobody_needs_it() -> None:
    data = Dataset.from_episodes(random_episodes("continuous", [3]), SPECS["continuous"])
    assert TransitionBuffer(data, state=False).transitions(torch.arange(3)).state is None


@pytest.mark.parametrize(
    ("task", "state_dim", "act_dim", "length"),
    [(("ant", "4x2", "0"), 27, 8, 1000), (("reacher", "2x1notip", "0"), 10, 2, 50)],
)
def test_a_million_transitions_are_split_and_windowed_in_a_moment(
    task: tuple[str, str, str], state_dim: int, act_dim: int, length: int
) -> None:
    steps = 1_000_000
    count = steps // length
    ends = torch.zeros(steps, dtype=torch.bool)
    ends[length - 1 :: length] = True
    recording = Recording(
        state=torch.rand(steps + count, state_dim),
        actions=torch.rand(steps, act_dim),
        rewards=torch.rand(steps),
        terminations=torch.zeros(steps, dtype=torch.bool),
        truncations=ends,
        lengths=torch.full((count,), length),
    )
    begun = time.perf_counter()
    data = recording.split(partition(*task))
    split = time.perf_counter()
    buffer = TransitionBuffer(data, window=10)
    index = torch.randint(steps, (100_000,), generator=torch.Generator().manual_seed(0))
    batch = buffer.transitions(index)
    windowed = time.perf_counter()
    print(f"{'_'.join(task)}: split {split - begun:.2f} s, index and 100k windows {windowed - split:.2f} s")
    assert batch.history is not None and batch.history.shape[2] == 10
    # The aim is one second; the bound leaves room for a busy machine.
    assert windowed - begun < 5.0


@pytest.mark.parametrize("kind", SPECS)
def test_next_actions_are_those_of_the_next_step_of_the_same_episode(kind: str) -> None:
    data = Dataset.from_episodes(random_episodes(kind, [3, 1, 4]), SPECS[kind])
    buffer = TransitionBuffer(data)
    batch = buffer.view(torch.arange(8), Needs(next_actions=True)).check()
    assert batch.next_mask is not None and batch.next_actions is not None
    follows = torch.tensor([1, 1, 0, 0, 1, 1, 1, 0]).bool()
    assert torch.equal(batch.next_mask, follows.unsqueeze(-1).expand(8, 2))
    assert torch.equal(batch.next_actions[:-1][follows[:-1]], data.actions[1:][follows[:-1]])
    assert not batch.next_actions[~follows].any(), "zero where no step follows"
    assert buffer.view(torch.arange(8), Needs()).next_actions is None


def test_next_actions_of_a_segment_reach_behind_its_last_step() -> None:
    data = Dataset.from_episodes(random_episodes("continuous", [3, 6]), SPECS["continuous"])
    needs = Needs(view="segments", length=3, next_actions=True)
    batch = TransitionBuffer(data).view(torch.tensor([1, 4]), needs).check()
    assert batch.next_mask is not None and batch.next_actions is not None
    # Steps 1, 2 and the end of episode 0; 4, 5, 6 of episode 1, which goes on to 8.
    assert batch.next_mask[..., 0].tolist() == [[True, False, False], [True, True, True]]
    assert torch.equal(batch.next_actions[0, 0], data.actions[2])
    assert torch.equal(batch.next_actions[1], data.actions[5:8])


def test_burnt_in_steps_come_before_a_segment_and_do_not_count() -> None:
    data = Dataset.from_episodes(random_episodes("continuous", [3, 6]), SPECS["continuous"])
    buffer = TransitionBuffer(data)
    batch = buffer.view(torch.tensor([0, 4, 6, 8]), Needs(view="segments", length=2, burn_in=2)).check()
    # Nothing comes before step 0 and one step before 4: what is missing in front stands behind.
    steps = torch.tensor([[0, 1, 2, 2], [3, 4, 5, 6], [4, 5, 6, 7], [6, 7, 8, 8]])
    counted = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 1, 0]]).bool()
    assert batch.mask is not None and torch.equal(batch.mask[..., 0], counted)
    assert torch.equal(batch.obs, buffer.transitions(torch.arange(9)).obs[steps])


def test_whole_episodes_are_as_long_as_the_longest_of_them() -> None:
    data = Dataset.from_episodes(random_episodes("continuous", [3, 6, 2, 9]), SPECS["continuous"])
    buffer = TransitionBuffer(data)
    batch = buffer.view(torch.tensor([2, 5, 10]), Needs(view="segments", length=0)).check()
    assert batch.mask is not None and batch.mask[..., 0].sum(1).tolist() == [3, 6, 2]
    assert batch.rewards.shape[:2] == (3, 6) and bool(batch.mask[:, 0].all())
    assert torch.equal(batch.rewards[batch.mask], data.rewards[:11].flatten())
