from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from offline_marl.networks.distributions import BORDER, Categorical, ClippedNormal, TanhNormal

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


# --- clipped normal -------------------------------------------------------------------------------------------------


def single(mean: float, log_std: float, dtype: torch.dtype = torch.float64) -> ClippedNormal:
    return ClippedNormal(torch.full((1, 1, 1), mean, dtype=dtype), torch.full((1, 1, 1), log_std, dtype=dtype), ALL)


def test_clipped_log_prob_by_hand() -> None:
    policy = single(0.5, math.log(0.5))
    # Inside the normal's: at .25, -.5 * .5^2 - ln .5 - .918939; above 1 lies what is beyond one deviation, below -1
    # what is beyond three.
    for action, expected in ((0.25, -0.125 + math.log(2) - 0.9189385), (1.0, math.log(0.15865525)), (-1.0, -6.607726)):
        assert policy.log_prob(torch.full((1, 1, 1), action, dtype=torch.float64)).item() == pytest.approx(expected)


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (0.8, -1.0), (-1.5, -0.3), (3.0, -6.0), (0.999, -6.0)])
def test_clipped_probability_adds_up_to_one(mean: float, log_std: float) -> None:
    inside = torch.linspace(-1, 1, 400_001, dtype=torch.float64)[1:-1].view(-1, 1, 1)
    policy = single(mean, log_std)
    within = torch.trapezoid(policy.log_prob(inside).exp().flatten(), inside.flatten())
    borders = sum(policy.log_prob(torch.full((1, 1, 1), end, dtype=torch.float64)).exp() for end in (-1.0, 1.0))
    assert float(within + borders) == pytest.approx(1.0, abs=1e-3)  # one step of the grid at the narrowest


def test_clipped_draws_come_as_often_as_they_are_likely() -> None:
    rows = 200_000
    policy = ClippedNormal(torch.full((rows, 1, 1), 0.7), torch.full((rows, 1, 1), math.log(0.6)))
    draws = policy.sample(generator()).flatten()
    assert draws.abs().max().item() == 1.0
    for end in (-1.0, 1.0):
        chance = single(0.7, math.log(0.6)).log_prob(torch.full((1, 1, 1), end, dtype=torch.float64)).exp().item()
        assert (draws == end).double().mean().item() == pytest.approx(chance, abs=4 * (chance / rows) ** 0.5)
    inside = draws.abs() < 1
    counts = torch.histc(draws[inside], 40, -1, 1) / rows
    middles = (torch.arange(40, dtype=torch.float64) + 0.5) / 20 - 1
    density = single(0.7, math.log(0.6)).log_prob(middles.view(-1, 1, 1)).exp().flatten()
    torch.testing.assert_close(counts.double(), density / 20, rtol=0.0, atol=0.002)


@pytest.mark.parametrize("action", [-1.0, -0.9999999, 0.0, 0.3, 0.9999999, 1.0])
def test_clipped_gradients_are_finite_however_unlikely_the_action(action: float) -> None:
    means, log_stds = torch.tensor([-1e4, -30.0, -1.0, 0.0, 1.0, 30.0, 1e4]), torch.tensor([-6.0, -2.0, 0.0])
    leaves = [value.view(-1, 1, 1).requires_grad_() for value in torch.cartesian_prod(means, log_stds).unbind(-1)]
    found = ClippedNormal(*leaves).log_prob(torch.full((21, 1, 1), action))
    found.sum().backward()
    assert bool(torch.isfinite(found).all())
    assert all(leaf.grad is not None and bool(torch.isfinite(leaf.grad).all()) for leaf in leaves)


def test_clipped_tails_keep_their_digits() -> None:
    # log of the mass beyond 40 deviations, ln Q(40) = -804.6084420138; exp of it underflows.
    policy = ClippedNormal(torch.full((1, 1, 1), -3.0), torch.full((1, 1, 1), math.log(0.1)))
    assert policy.log_prob(torch.ones(1, 1, 1)).item() == pytest.approx(-804.6084420138, rel=1e-6)
    # Its slope by the mean is 1 / deviation times x + 1 / x - 2 / x^3, for the x = 1000 deviations that it is away.
    mean = torch.full((1, 1, 1), -9.0, requires_grad=True)
    ClippedNormal(mean, torch.full((1, 1, 1), math.log(0.01))).log_prob(torch.ones(1, 1, 1)).sum().backward()
    assert mean.grad is not None and mean.grad.item() == pytest.approx(100 * 1000.001, rel=1e-5)


def test_clipped_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    mean = (torch.randn(20, 2, 3, dtype=torch.float64) * 1.5).requires_grad_()
    log_std = (-torch.rand(20, 2, 3, dtype=torch.float64)).requires_grad_()
    actions = (torch.randn(20, 2, 3, dtype=torch.float64) * 1.5).clamp(-1, 1)
    assert bool((actions.abs() == 1).any())
    present = torch.tensor([[True, True, True], [True, False, False]])

    def log_prob(*parameters: torch.Tensor) -> torch.Tensor:
        return ClippedNormal(*parameters, present).log_prob(actions * present)

    assert torch.autograd.gradcheck(log_prob, (mean, log_std))


def test_what_is_beyond_a_border_pulls_a_mean_that_is_there_already_hardly_at_all() -> None:
    mean = torch.tensor([[[-2.0]], [[0.0]], [[4.0]]], requires_grad=True)
    ClippedNormal(mean, torch.full((3, 1, 1), -1.0)).log_prob(torch.ones(3, 1, 1)).sum().backward()
    assert mean.grad is not None
    far, near, beyond = mean.grad.flatten().tolist()
    assert far > near > 1.0 > 1e-6 > beyond >= 0.0


def test_clipped_padding_is_inert() -> None:
    mean, log_std = torch.zeros(3, 2, 2, requires_grad=True), torch.zeros(3, 2, 2, requires_grad=True)
    policy = ClippedNormal(mean + 5.0, log_std, torch.tensor([[True, True], [True, False]]))
    assert bool(policy.mode()[:, 1, 1].eq(0).all()) and bool(policy.sample(generator())[:, 1, 1].eq(0).all())
    (policy.log_prob(policy.mode()) + policy.entropy() + policy.excess()).sum().backward()
    for leaf in (mean, log_std):
        assert leaf.grad is not None and bool(leaf.grad[:, 1, 1].eq(0).all())
    assert policy.excess()[0].tolist() == [32.0, 16.0]


def test_the_clipped_mode_is_the_clipped_mean_and_its_excess_the_square_of_what_was_cut_off() -> None:
    policy = ClippedNormal(torch.tensor([[[0.3, -1.5], [2.0, -0.9]]]), torch.zeros(1, 2, 2))
    assert policy.mode().tolist() == [[[pytest.approx(0.3), -1.0], [1.0, pytest.approx(-0.9)]]]
    torch.testing.assert_close(policy.excess(), torch.tensor([[0.25, 1.0]]))


# --- entropy --------------------------------------------------------------------------------------------------------


def test_the_entropy_of_a_choice_by_hand() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0), 50.0], [0.0, 0.0, 0.0]]], requires_grad=True)
    allowed = torch.tensor([[[True, True, False], [True, True, True]]])
    # -(1/4 ln 1/4 + 3/4 ln 3/4) of what is allowed, and ln 3.
    found = Categorical(logits, allowed).entropy()
    torch.testing.assert_close(found, torch.tensor([[0.5623351, math.log(3.0)]]))
    found.sum().backward()
    assert logits.grad is not None and bool(torch.isfinite(logits.grad).all()) and logits.grad[0, 0, 2] == 0


def test_the_entropy_of_a_clipped_normal_is_that_of_the_normal() -> None:
    log_std = torch.tensor([[[-1.0, -2.0], [0.0, -3.0]]])
    policy = ClippedNormal(torch.full((1, 2, 2), 9.0), log_std, torch.tensor([[True, True], [True, False]]))
    expected = Normal(torch.zeros(()), log_std.exp()).entropy()
    torch.testing.assert_close(policy.entropy(), torch.stack([expected[:, 0].sum(-1), expected[:, 1, 0]], dim=-1))


@pytest.mark.parametrize("mean", [0.0, 0.7, -2.0, 6.0])
@pytest.mark.parametrize("log_std", [0.0, -1.0, -4.0])
def test_the_entropy_of_a_squashed_normal_is_the_mean_of_minus_log_prob(mean: float, log_std: float) -> None:
    shape = torch.ones(1, 1, 1, dtype=torch.float64)
    policy = TanhNormal(mean * shape, log_std * shape, ALL)
    raw = mean + math.exp(log_std) * torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    density = Normal(mean, math.exp(log_std)).log_prob(raw)
    slopes = 2 * (math.log(2) - raw - torch.nn.functional.softplus(-2 * raw))
    expected = torch.trapezoid(-(density - slopes) * density.exp(), raw)
    assert policy.entropy().item() == pytest.approx(expected.item(), abs=2e-5)


def test_gradients_of_entropies_reach_both_parameters_and_no_padding() -> None:
    mean, log_std = torch.full((1, 2, 2), 0.5, requires_grad=True), torch.zeros(1, 2, 2, requires_grad=True)
    TanhNormal(mean, log_std, torch.tensor([[True, True], [True, False]])).entropy().sum().backward()
    for leaf in (mean, log_std):
        assert leaf.grad is not None
        assert bool(leaf.grad[0, 0].ne(0).all()) and leaf.grad[0, 1].ne(0).tolist() == [True, False]
