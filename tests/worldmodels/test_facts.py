from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch
from torch import Tensor

from offline_marl.core.types import Spec
from offline_marl.worldmodels import facts as facts_module
from offline_marl.worldmodels.facts import Facts, measure

UNEQUAL = Spec(obs_dims=(3, 2), act_dims=(1, 1))


def by_hand() -> Facts:
    """Agent 0 sees (a, b, c), agent 1 sees (b, d) and padding; four rows."""
    a, b = [0.0, 2.0, 4.0, 6.0], [1.0, 1.0, 1.0, 1.0]
    c, d = [0.0, 0.0, 0.0, 8.0], [5.0, 6.0, 7.0, 8.0]
    next_a, next_c = [1.0, 3.0, 5.0, 7.0], [0.0, 0.0, 4.0, 4.0]
    next_d = [-9.0, 6.0, 7.0, 8.0]
    return measure(
        UNEQUAL,
        table(a, b, c, d),
        table(next_a, b, next_c, next_d),
        torch.tensor([[1.0, 0.0], [1.0, 0.0], [3.0, 0.0], [3.0, -4.0]]),
        torch.zeros(4, 2, dtype=torch.bool),
    )


def table(a: list[float], b: list[float], c: list[float], d: list[float]) -> Tensor:
    return torch.tensor([[[p, q, r], [q, s, 0.0]] for p, q, r, s in zip(a, b, c, d, strict=True)])


def test_what_two_agents_see_is_one_coordinate_and_padding_is_none() -> None:
    facts = by_hand()
    assert facts.pick.tolist() == [0, 1, 2, 4] and facts.coordinates == 4
    assert facts.place.tolist() == [0, 1, 2, 1, 3, -1]


def test_statistics_by_hand() -> None:
    facts = by_hand()
    # a: mean 3, deviation sqrt((9 + 1 + 1 + 9) / 4); b never varies; c: mean 2, sqrt((4 + 4 + 4 + 36) / 4); d: 6.5
    assert facts.obs_mean.tolist() == [3.0, 1.0, 2.0, 6.5]
    torch.testing.assert_close(facts.obs_std, torch.tensor([math.sqrt(5.0), 1e-3, math.sqrt(12.0), math.sqrt(1.25)]))
    # changes: a always 1; b 0; c 0, 0, 4, -4; d -14, 0, 0, 0
    assert facts.change_mean.tolist() == [1.0, 0.0, 0.0, -3.5]
    torch.testing.assert_close(facts.change_std, torch.tensor([1e-3, 1e-3, math.sqrt(8.0), math.sqrt(36.75)]))
    assert facts.reward_mean.tolist() == [2.0, -1.0]
    torch.testing.assert_close(facts.reward_std, torch.tensor([1.0, math.sqrt(3.0)]))
    assert facts.terminates is False


@pytest.mark.parametrize(
    ("second", "there", "team"),
    [
        ([0.0, 1.0, 3.0], [True, True, True], True),
        ([1.0, 3.0, 0.0], [True, True, True], False),  # of the same mean, deviation and borders
        ([0.0, 0.0, 3.0], [True, False, True], True),  # who is away earns nothing
        ([0.0, 0.0, 0.0], [True, False, True], False),
    ],
)
def test_rewards_are_a_teams_where_agents_that_are_there_earn_alike_in_every_step(
    second: list[float], there: list[bool], team: bool
) -> None:
    rewards = torch.tensor([[0.0, 1.0, 3.0], second]).T
    mask = torch.tensor([[True, True, True], there]).T
    nothing = torch.zeros(3, 2, 3)
    for known in (None, mask) if all(there) else (mask,):
        assert measure(UNEQUAL, nothing, nothing, rewards, nothing[..., 0].bool(), known).team_rewards == team


def test_the_box_holds_obs_and_next_obs() -> None:
    facts = by_hand()
    assert facts.low.tolist() == [0.0, 1.0, 0.0, -9.0] and facts.high.tolist() == [7.0, 1.0, 8.0, 8.0]
    assert facts.reward_low.tolist() == [1.0, -4.0] and facts.reward_high.tolist() == [3.0, 0.0]


def test_joined_and_spread_out_is_what_the_agents_saw() -> None:
    facts = by_hand()
    obs = table([1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0])
    assert facts.join(obs).tolist() == [[1.0, 3.0, 5.0, 7.0], [2.0, 4.0, 6.0, 8.0]]
    assert torch.equal(facts.spread_out(facts.join(obs)), obs)
    folded = obs.view(2, 1, 2, 3)
    assert torch.equal(facts.spread_out(facts.join(folded)), folded)
    assert torch.equal(facts.spread_out(facts.join(obs[0])), obs[0])


def test_columns_that_part_in_one_row_of_next_obs_are_two_coordinates() -> None:
    obs = torch.randn(50, 2, 2)
    obs[:, 1] = obs[:, 0]
    next_obs = obs.clone()
    next_obs[31, 1, 0] += 1e-6
    spec = Spec(obs_dims=(2, 2), act_dims=(1, 1))
    facts = measure(spec, obs, next_obs, torch.zeros(50, 2), torch.zeros(50, 2, dtype=torch.bool))
    assert facts.pick.tolist() == [0, 1, 2] and facts.place.tolist() == [0, 1, 2, 1]


def test_a_real_column_of_zeros_is_a_coordinate_though_padding_is_not() -> None:
    obs = torch.randn(5, 2, 3)
    obs[:, 0, 2] = 0.0
    obs[:, 1, 1] = -0.0  # equal to the other zero
    obs[:, 1, 2] = 0.0  # padding
    facts = measure(UNEQUAL, obs, obs, torch.zeros(5, 2), torch.ones(5, 2, dtype=torch.bool))
    assert facts.place.tolist() == [0, 1, 2, 3, 2, -1] and facts.terminates is True


def test_a_hash_that_collides_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = by_hand()
    monkeypatch.setattr(facts_module, "_hash", lambda table, seed: torch.zeros(table.shape[1], dtype=torch.int64))
    assert torch.equal(by_hand().place, expected.place)


def test_many_rows_and_columns_are_taken_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = Spec(obs_dims=(40, 40), act_dims=(1, 1))
    obs, next_obs, rewards = torch.randn(100, 2, 40), torch.randn(100, 2, 40), torch.randn(100, 2)
    for seen in (obs, next_obs):
        seen[:, 1, 5:20] = seen[:, 0, 20:35]
    arguments = (spec, obs, next_obs, rewards, torch.zeros(100, 2, dtype=torch.bool))
    at_once = measure(*arguments)
    monkeypatch.setattr(facts_module, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(facts_module, "COLUMNS_AT_ONCE", 3)
    in_blocks = measure(*arguments)
    assert at_once.coordinates == 65
    for name, value in at_once.tensors().items():
        assert torch.equal(value, in_blocks.tensors()[name]), name


def test_sums_are_taken_in_double_precision() -> None:
    """In float32 the mean of numbers near 1,000 that hardly differ is off by more than their deviation."""
    values = 1_000.0 + 0.01 * torch.randn(20_000, 1, 1)
    spec = Spec(obs_dims=(1,), act_dims=(1,))
    facts = measure(spec, values, values, torch.zeros(20_000, 1), torch.zeros(20_000, 1, dtype=torch.bool))
    assert facts.obs_mean.item() == pytest.approx(values.double().mean().item(), abs=1e-4)
    assert facts.obs_std.item() == pytest.approx(values.double().std().item(), rel=1e-2)
    assert facts.obs_mean.dtype == torch.float32


def test_every_fact_but_the_spec_and_whose_rewards_they_are_is_kept_as_a_tensor() -> None:
    assert {item.name for item in fields(Facts)} == {"spec", "team_rewards", *by_hand().tensors()}
