from __future__ import annotations

import torch
from torch import Tensor

from offline_marl.core.acting.carried import CarriedMemory
from offline_marl.core.acting.history import WindowMemory
from offline_marl.core.types import Spec

SPEC = Spec(obs_dims=(1, 1), act_dims=(2, 2), action_kind="discrete")
ACTIONS, REWARDS = torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2)


def memory(calls: list[Tensor]) -> CarriedMemory:
    def advance(obs, history, states):
        calls.append(obs)
        return states + obs

    return CarriedMemory(WindowMemory(SPEC, 0, 1), torch.zeros(1, 2, 1), advance)


def test_states_advance_by_what_was_seen_where_nobody_acted() -> None:
    kept = memory(calls := [])
    kept.remember(torch.full((1, 2, 1), 3.0), ACTIONS, REWARDS)
    kept.remember(torch.full((1, 2, 1), 4.0), ACTIONS, REWARDS)
    assert kept.read()["carry"].states.flatten().tolist() == [7.0, 7.0] and len(calls) == 2


def test_what_acting_has_computed_is_taken_over_for_that_very_observation_alone() -> None:
    kept, obs = memory(calls := []), torch.ones(1, 2, 1)
    carry = kept.read()["carry"]
    carry.after, carry.obs = torch.full((1, 2, 1), 5.0), obs
    kept.remember(obs, ACTIONS, REWARDS)
    assert kept.read()["carry"].states.flatten().tolist() == [5.0, 5.0] and not calls
    carry = kept.read()["carry"]
    carry.after, carry.obs = torch.full((1, 2, 1), 9.0), obs
    kept.remember(torch.full((1, 2, 1), 2.0), ACTIONS, REWARDS)
    assert kept.read()["carry"].states.flatten().tolist() == [7.0, 7.0] and len(calls) == 1


def test_the_window_is_read_beside_the_states() -> None:
    kept = CarriedMemory(WindowMemory(SPEC, 2, 1), torch.zeros(1, 2, 1), lambda obs, history, states: states)
    kept.remember(torch.full((1, 2, 1), 3.0), ACTIONS, REWARDS)
    assert kept.read()["history"][0, 0].tolist() == [[0.0, 0.0, 0.0], [3.0, 1.0, 0.0]]


def test_a_memory_goes_on_from_its_saved_states():
    kept, obs = memory([]), torch.ones(1, 2, 1)
    kept.remember(obs, ACTIONS, REWARDS)
    other = memory([])
    other.load_state_dict(kept.state_dict())
    for each in (kept, other):
        each.remember(2 * obs, ACTIONS, REWARDS)
    assert (
        other.read()["carry"].states.flatten().tolist() == [3.0, 3.0] == kept.read()["carry"].states.flatten().tolist()
    )
