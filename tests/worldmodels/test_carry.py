"""Rollouts in models that carry what observations do not tell: rows that are over are dropped, the others go on."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from counting_model import Counting, Given, Masking
from worlds import SPECS, world

from offline_marl.core.seeding import seeded_globally
from offline_marl.core.types import Batch
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.training.models.fit import facts_of
from offline_marl.worldmodels.base import Prediction, Spread, WorldModelConfig
from offline_marl.worldmodels.rollout import Caution, Rollout, rollout

FREE = Caution(weight=0.0, reward_weight=0.0, cutoff=math.inf, clip=False)


class Drawing:
    """Acts at random, and takes only what is available."""

    window = 0

    def __init__(self, kind: str) -> None:
        self.spec = SPECS[kind]
        self.generator = torch.Generator().manual_seed(3)
        self.available: list[torch.Tensor | None] = []

    def act(self, obs, *, history=None, avail_actions=None, explore=False):
        self.available.append(avail_actions)
        if self.spec.discrete:
            odds = torch.rand(*obs.shape[:2], self.spec.act_dim, generator=self.generator) + 0.1
            return (odds * avail_actions).argmax(-1)
        return torch.rand(*obs.shape[:2], self.spec.act_dim, generator=self.generator) * self.spec.present("act")


def made(kind: type[Counting], name: str = "continuous") -> Counting:
    with seeded_globally(0, "initialisation"):
        return kind(WorldModelConfig(), facts_of(world(name)))


def starts(kind: str = "continuous", count: int = 30) -> Batch:
    return TransitionBuffer(world(kind), state=False).transitions(torch.arange(count))


def imagined(model: Counting, caution: Caution = FREE, horizon: int = 6) -> Rollout:
    found = rollout(model, Drawing("continuous"), starts(), horizon, caution)
    found.batch.check()
    return found


def test_rows_that_are_over_are_no_longer_predicted() -> None:
    model = made(Counting)
    alive = imagined(model).batch.mask[..., 0].sum(0).tolist()
    assert model.predicted == alive, "a step predicts the rows that were alive before it"
    assert 30 == alive[0] > alive[1] > alive[-1] > 0, "rows end at several steps, or nothing was dropped"


@pytest.mark.parametrize("caution", [FREE, replace(FREE, clip=True)], ids=["free", "clipped"])
def test_dropping_rows_changes_nothing_about_the_others(caution) -> None:
    pruned, masked = imagined(made(Counting), caution), imagined(made(Masking), caution)
    assert torch.equal(pruned.batch.mask, masked.batch.mask)
    counted = pruned.batch.mask
    for name in ("obs", "next_obs", "rewards", "terminations", "truncations"):
        torch.testing.assert_close(getattr(pruned.batch, name)[counted], getattr(masked.batch, name)[counted])


def test_what_is_hidden_is_carried_on_in_every_row() -> None:
    model = made(Counting)
    batch = imagined(model).batch
    hidden = batch.rewards - model.payoffs(model.inputs(batch.obs.flatten(0, 1), batch.actions.flatten(0, 1))[1]).view(
        batch.rewards.shape
    )
    expected = torch.arange(6.0).view(1, 6, 1).expand_as(hidden)
    torch.testing.assert_close(hidden[batch.mask].detach(), expected[batch.mask], atol=1e-5, rtol=0)


def test_foreseen_choices_reach_the_policy_and_the_rows() -> None:
    policy, model = Drawing("discrete"), made(Given, "discrete")
    begun = starts("discrete")
    batch = rollout(model, policy, begun, 3, FREE).batch.check()
    assert torch.equal(policy.available[0], begun.avail_actions)
    assert torch.equal(batch.avail_actions[:, 1:], batch.next_avail_actions[:, :-1])
    counted = batch.mask[:, 1:]
    taken = batch.avail_actions.gather(-1, batch.actions.unsqueeze(-1)).squeeze(-1)
    assert bool(taken.all()) and not bool(batch.avail_actions[:, 1:][counted].all())


class Tally:
    """A memory of what was earned so far, which begins at the length of the history that it is given."""

    def __init__(self, copies: int, begun: int) -> None:
        self.total = torch.full((copies,), float(begun))

    def read(self):
        return {"total": self.total}

    def remember(self, obs, actions, rewards) -> None:
        self.total = self.total + rewards.mean(-1)


class Tallying(Drawing):
    """Reads its own memory, and wants two pairs of episodes under way."""

    window = 2

    def begin(self, copies, history=None) -> Tally:
        return Tally(copies, history.shape[-2])

    def act(self, obs, *, history=None, avail_actions=None, explore=False, total=None):
        self.available.append(total)
        return super().act(obs, explore=explore)


def test_a_policy_acts_from_its_own_memory_in_imagination() -> None:
    begun = TransitionBuffer(world("continuous"), window=3, state=False).transitions(torch.arange(30))
    policy = Tallying("continuous")
    batch = rollout(made(Counting), policy, begun, 3, FREE).batch
    assert batch.history is None and batch.next_history is None
    totals = policy.available[::2]
    assert torch.equal(totals[0], torch.full((30,), 2.0))
    torch.testing.assert_close(totals[2], 2 + batch.rewards[:, :2].mean(-1).sum(1))


def test_choices_that_nobody_foresees_are_not_held() -> None:
    batch = rollout(made(Given, "continuous"), Drawing("continuous"), starts(), 2, FREE).batch
    assert batch.avail_actions is None and batch.next_avail_actions is None and batch.state is None


def test_scattered_predictions_stand_in_their_places() -> None:
    spread = Spread(torch.ones(2, 2, 3), torch.ones(2, 2, 1), None, None, torch.ones(3), torch.ones(1))
    some = Prediction(
        torch.tensor([[[1.0]], [[2.0]]]), torch.ones(2, 1), torch.ones(2, 1, dtype=torch.bool), spread,
        next_avail_actions=torch.tensor([[[True, False]], [[False, True]]]),
    )  # fmt: skip
    whole = some.scatter(torch.tensor([3, 1]), 4)
    assert whole.next_obs.flatten().tolist() == [0, 2, 0, 1] and whole.rewards.flatten().tolist() == [0, 1, 0, 1]
    assert whole.terminations.flatten().tolist() == [False, True, False, True] and whole.next_state is None
    assert whole.spread.next_obs[:, :, 0].tolist() == [[0, 1, 0, 1]] * 2 and whole.spread.next_obs_std is None
    assert whole.spread.scale is spread.scale
    assert whole.next_avail_actions[:, 0].tolist() == [[True, True], [False, True], [True, True], [True, False]]
