from __future__ import annotations

import pytest
import torch
from worlds import SPECS, world

from offline_marl.core.acting.history import WindowMemory, begin_memory
from offline_marl.datasets.buffer import TransitionBuffer


@pytest.mark.parametrize("kind", sorted(SPECS))
def test_memory_gives_the_histories_that_training_saw(kind):
    data, window = world(kind), 3
    buffer, first = TransitionBuffer(data, window), 0
    for number, length in enumerate(data.lengths.tolist()):
        episode = data.episode(number)
        memory = WindowMemory(data.spec, window, 1, "cpu")
        for step in range(length):
            expected = buffer.transitions(torch.tensor([first + step])).history
            assert torch.equal(memory.history, expected)
            memory.remember(
                episode.obs[step : step + 1], episode.actions[step : step + 1], episode.rewards[step : step + 1]
            )
        first += length


def test_without_a_window_nothing_is_remembered():
    memory = WindowMemory(SPECS["continuous"], 0, 2, "cpu")
    memory.remember(torch.zeros(2, 3, 4), torch.zeros(2, 3, 2), torch.zeros(2, 3))
    assert memory.history is None


def test_an_episode_under_way_is_remembered_as_if_it_had_been_acted_in():
    spec, draw = SPECS["continuous"], torch.Generator().manual_seed(0)
    steps = [
        (torch.randn(2, 3, 4, generator=draw), torch.rand(2, 3, 2, generator=draw), torch.zeros(2, 3)) for _ in range(7)
    ]
    whole, longer = WindowMemory(spec, 2, 2), WindowMemory(spec, 5, 2)
    for step in steps[:4]:
        whole.remember(*step)
        longer.remember(*step)
    resumed = WindowMemory(spec, 2, 2, history=longer.history)
    for step in steps[4:]:
        assert torch.equal(resumed.history, whole.history)
        whole.remember(*step)
        resumed.remember(*step)


class Plain:
    window = 3

    def act(self, obs, *, history=None, avail_actions=None, explore=False):
        return obs[..., :2]


class Owner(Plain):
    def begin(self, copies, history=None):
        return copies, history


def test_a_policy_without_a_memory_of_its_own_is_given_the_window_it_reads():
    memory = begin_memory(Plain(), SPECS["continuous"], 2)
    assert memory.read()["history"].shape == (2, 3, 3, 6)


def test_a_policy_that_owns_its_memory_begins_it_itself():
    history = torch.ones(2, 3, 3, 6)
    assert begin_memory(Owner(), SPECS["continuous"], 2, history=history) == (2, history)
