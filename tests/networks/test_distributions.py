from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from offline_marl.networks.distributions import BORDER, Categorical, TanhNormal

ALL = torch.ones(1, 1, dtype=torch.bool)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_log_prob_is_that_of_torchs_transformed_normal() -> None:
    torch.manual_seed(0)
    mean, log_std = torch.randn(50, 3, 4, dtype=torch.float64), -torch.rand(50, 3, 4, dtype=torch.float64) * 3
    actions = torch.rand(50, 3, 4, dtype=torch.float64) * 1.99 - 0.995
    reference = TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform()])
    ours = TanhNormal(mean, log_std, torch.ones(3, 4, dtype=torch.bool)).log_prob(actions)
    torch.testing.assert_close(ours, reference.log_prob(actions).sum(-1), rtol=1e-9, atol=1e-9)


def test_single_precision_is_close_to_double() -> None:
    torch.manual_seed(0)
    mean, log_std, actions = torch.randn(200, 1, 2), -torch.rand(200, 1, 2) * 2, torch.rand(200, 1, 2) * 1.9 - 0.95
    present = torch.ones(1, 2, dtype=torch.bool)
    double = TanhNormal(mean.double(), log_std.double(), present).log_prob(actions.double())
    torch.testing.assert_close(
        TanhNormal(mean, log_std, present).log_prob(actions).double(), double, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (0.8, -1.0), (-1.5, -0.3)])
def test_the_density_integrates_to_one(mean: float, log_std: float) -> None:
    actions = torch.linspace(-1, 1, 400_001, dtype=torch.float64)[1:-1].view(-1, 1, 1)
    shape = torch.ones(1, 1, 1, dtype=torch.float64)
    density = TanhNormal(mean * shape, log_std * shape, ALL).log_prob(actions).exp().flatten()
    assert torch.trapezoid(density, actions.flatten()).item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("edge", [1.0, -1.0, 1.0 - 1e-7, 1.0 - 1e-5])
@pytest.mark.parametrize("log_std", [0.0, -6.0])
def test_actions_at_the_very_border_have_finite_density_and_gradients(edge: float, log_std: float) -> None:
    mean = torch.zeros(1, 1, 2, requires_grad=True)
    spread = torch.full((1, 1, 2), log_std, requires_grad=True)
    log_prob = TanhNormal(mean, spread, torch.ones(1, 2, dtype=torch.bool)).log_prob(torch.full((1, 1, 2), edge))
    log_prob.sum().backward()
    assert mean.grad is not None and spread.grad is not None
    assert all(bool(torch.isfinite(value).all()) for value in (log_prob, mean.grad, spread.grad))


def test_beyond_the_border_counts_as_at_the_border() -> None:
    policy = TanhNormal(torch.zeros(2, 1, 1), torch.zeros(2, 1, 1), ALL)
    inside, outside = policy.log_prob(torch.tensor([[[BORDER]], [[1.0]]]))
    assert inside.item() == outside.item()


def test_padded_entries_add_nothing_and_are_zero() -> None:
    torch.manual_seed(0)
    present = torch.tensor([[True, True], [True, False]])
    mean, log_std = torch.randn(6, 2, 2, requires_grad=True), torch.randn(6, 2, 2, requires_grad=True)
    actions = torch.rand(6, 2, 2) * 0.9
    actions[:, 1, 1] = 0.0
    policy = TanhNormal(mean, log_std, present)
    alone = TanhNormal(mean[:, 1:, :1], log_std[:, 1:, :1], torch.ones(1, 1, dtype=torch.bool))
    log_prob = policy.log_prob(actions)
    torch.testing.assert_close(log_prob[:, 1:], alone.log_prob(actions[:, 1:, :1]))
    draw = policy.sample(generator())
    assert bool(draw[:, 1, 1].eq(0).all()) and bool(policy.mode()[:, 1, 1].eq(0).all())
    (log_prob.sum() + draw.sum()).backward()
    for parameter in (mean, log_std):
        assert parameter.grad is not None
        assert bool(parameter.grad[:, 1, 1].eq(0).all()) and bool(parameter.grad[:, 1, 0].ne(0).any())


def test_mode_is_the_squashed_mean() -> None:
    mean = torch.tensor([[[0.5]], [[-2.0]]])
    assert torch.equal(TanhNormal(mean, torch.zeros_like(mean), ALL).mode(), torch.tanh(mean))


def test_draws_follow_the_density() -> None:
    rows = torch.ones(200_000, 1, 1)
    draws = TanhNormal(0.4 * rows, math.log(0.5) * rows, ALL).sample(generator())
    raw = torch.atanh(draws.double())
    assert raw.mean().item() == pytest.approx(0.4, abs=0.005) and raw.std().item() == pytest.approx(0.5, abs=0.005)
    assert draws.abs().max().item() <= 1.0


def test_gradients_reach_the_parameters_through_a_draw() -> None:
    mean, log_std = torch.zeros(4, 1, 1, requires_grad=True), torch.zeros(4, 1, 1, requires_grad=True)
    TanhNormal(mean, log_std, ALL).sample(generator()).sum().backward()
    assert mean.grad is not None and bool(mean.grad.gt(0).all())
    assert log_std.grad is not None and bool(log_std.grad.ne(0).all())


def test_a_generator_makes_draws_repeat_and_leaves_torchs_own_alone() -> None:
    normal = TanhNormal(torch.zeros(9, 1, 1), torch.zeros(9, 1, 1), ALL)
    choice = Categorical(torch.zeros(9, 1, 5), torch.ones(9, 1, 5, dtype=torch.bool))
    before = torch.get_rng_state()
    for policy in (normal, choice):
        assert torch.equal(policy.sample(generator(3)), policy.sample(generator(3)))
        assert not torch.equal(policy.sample(generator(3)), policy.sample(generator(4)))
        going_on = generator(3)
        assert not torch.equal(policy.sample(going_on), policy.sample(going_on))
    assert torch.equal(torch.get_rng_state(), before)


def test_categorical_log_prob_by_hand() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0), 50.0]]])
    allowed = torch.tensor([[[True, True, False]]])
    policy = Categorical(logits, allowed)
    # Of what is allowed: 1 / (1 + 3) and 3 / 4, whatever the forbidden logit.
    for action, expected in ((0, 0.25), (1, 0.75), (2, 0.0)):
        assert policy.log_prob(torch.tensor([[action]])).exp().item() == pytest.approx(expected, abs=1e-6)
    assert policy.mode().tolist() == [[1]]


def test_a_forbidden_action_has_no_mass_and_no_gradient_and_is_never_picked() -> None:
    torch.manual_seed(0)
    logits = (torch.randn(5_000, 2, 6) * 20).requires_grad_()
    allowed = torch.rand(5_000, 2, 6) < 0.4
    allowed[..., 3] |= ~allowed.any(-1)
    policy = Categorical(logits, allowed)
    picked = allowed.gather(-1, policy.sample(generator()).unsqueeze(-1))
    assert bool(picked.all()) and bool(allowed.gather(-1, policy.mode().unsqueeze(-1)).all())
    assert bool(policy.log_probs.exp()[~allowed].eq(0).all())
    torch.testing.assert_close(policy.log_probs.exp().sum(-1), torch.ones(5_000, 2))
    policy.log_prob(policy.mode()).sum().backward()
    assert logits.grad is not None and bool(torch.isfinite(logits.grad).all())
    assert bool(logits.grad[~allowed].eq(0).all())


def test_draws_come_as_often_as_they_should() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0])
    rows = 100_000
    logits = torch.log(probabilities.clamp(min=1e-30)).expand(rows, 1, 5)
    allowed = torch.tensor([True, True, True, True, False]).expand(rows, 1, 5)
    counts = torch.bincount(Categorical(logits, allowed).sample(generator()).flatten(), minlength=5)
    # Four standard deviations of the largest share are sqrt(.25 / 1e5) * 4 = .0063.
    torch.testing.assert_close(counts / rows, probabilities, atol=0.0063, rtol=0.0)
    assert counts[4] == 0
