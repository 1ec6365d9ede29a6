from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from offline_marl.core.files import load_tree, save_tree
from offline_marl.core.learner import Learner, clip_each
from offline_marl.core.types import Batch, Metrics


class Pair(Learner):
    """Two modules that descend losses of their own, the second at every other update and by another schedule."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(0.1, cosine_steps=8)
        torch.manual_seed(seed)
        self.actor, self.critic = nn.Linear(3, 2), nn.Linear(2, 1)
        self.optimize("critic", lr=0.1, name="critic")
        self.optimize("actor", lr=0.02, name="actor", cosine_steps=4)

    def update(self, batch: Batch | None = None) -> Metrics:
        seen = torch.rand(5, 3, generator=self.generator)
        turn = self.updates % 2 == 1
        loss = self.critic(self.actor(seen).detach()).square().mean()
        self.descend(loss, "critic")
        if turn:
            self.descend(self.critic(self.actor(seen)).mean(), "actor")
        return {"loss": loss.detach()}


class Single(Learner):
    """One module, one optimiser."""

    def __init__(self) -> None:
        super().__init__(0.1)
        self.net = nn.Linear(1, 1)
        self.optimize("net", lr=0.1)

    def update(self, batch: Batch) -> Metrics:
        raise NotImplementedError


def rates(learner: Pair) -> list[float]:
    return [optimizer.param_groups[0]["lr"] for optimizer in learner.optimizers.values()]


def test_each_optimiser_falls_by_its_own_schedule_and_count() -> None:
    learner = Pair()
    for _ in range(4):
        learner.update()
    assert learner.updates == 4, "the first optimiser's steps"
    # The critic's fourth step follows three of eight, the actor's second one of four.
    assert rates(learner) == pytest.approx([0.05 * (1 + math.cos(math.pi * 3 / 8)), 0.01 * (1 + math.cos(math.pi / 4))])


def test_a_step_of_one_optimiser_leaves_the_others_modules_alone() -> None:
    learner = Pair()
    before = learner.actor.weight.detach().clone()
    learner.update()
    assert torch.equal(learner.actor.weight, before)
    kept = learner.critic.weight.detach().clone()
    learner.descend(learner.critic(learner.actor(torch.ones(1, 3))).mean(), "actor")
    assert torch.equal(learner.critic.weight, kept) and not torch.equal(learner.actor.weight, before)


def test_named_optimisers_resume_bit_for_bit(tmp_path: Path) -> None:
    straight, resumed = Pair(), Pair(seed=1)
    for _ in range(3):
        straight.update()
    save_tree(tmp_path / "three", {"learner": straight.state_dict()}, "test")
    resumed.load_state_dict(load_tree(tmp_path / "three", "test")[0]["learner"])
    for _ in range(4):
        assert torch.equal(straight.update()["loss"], resumed.update()["loss"])
    assert torch.equal(straight.actor.weight, resumed.actor.weight)
    assert torch.equal(straight.critic.weight, resumed.critic.weight) and rates(straight) == rates(resumed)


def test_one_optimiser_without_a_name_keeps_the_layout_of_checkpoints() -> None:
    assert list(Single().get_extra_state()) == ["optimizer", "generator", "updates"]


def test_two_optimisers_of_one_name_are_refused() -> None:
    learner = Single()
    with pytest.raises(ValueError, match="two optimisers called ''"):
        learner.optimize("net", lr=0.1)


def test_each_module_is_clipped_by_its_own_norm() -> None:
    long = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]  # norm 5
    short = [torch.tensor([0.3, 0.4])]  # norm .5
    clip_each([long, short], 2.0)
    torch.testing.assert_close(long, [torch.tensor([1.2, 0.0]), torch.tensor([[1.6]])])
    assert torch.equal(short[0], torch.tensor([0.3, 0.4])), "what is short enough stays as it is, to the bit"


def test_it_is_what_torch_does_module_by_module() -> None:
    torch.manual_seed(0)
    modules = [nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(1, 1)]
    for module, size in zip(modules, (10.0, 1e-3, 0.0), strict=True):
        for parameter in module.parameters():
            parameter.grad = torch.randn_like(parameter) * size
    ours = [[p.grad.clone() for p in module.parameters() if p.grad is not None] for module in modules]
    clip_each(ours, 0.7)
    for module, found in zip(modules, ours, strict=True):
        nn.utils.clip_grad_norm_(module.parameters(), 0.7)
        torch.testing.assert_close(found, [p.grad for p in module.parameters()])
