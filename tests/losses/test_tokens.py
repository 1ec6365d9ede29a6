from __future__ import annotations

import math

import pytest
import torch

from offline_marl.losses import tokens

EDGES = torch.linspace(-3.0, 3.0, 61)
WIDTH = 0.1


def test_symlog_and_its_inverse() -> None:
    x = torch.tensor([-10.0, -0.5, 0.0, 1.0, 1e4])
    torch.testing.assert_close(tokens.symlog(x)[3], torch.tensor(math.log(2.0)))
    torch.testing.assert_close(tokens.symexp(tokens.symlog(x)), x)


def test_the_likelihood_and_the_entropy_of_a_token_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)]])
    torch.testing.assert_close(tokens.token_nll(logits, torch.tensor([0])), torch.tensor([math.log(4.0)]))
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    torch.testing.assert_close(tokens.entropy(logits), torch.tensor([expected]))


def test_each_token_weighs_the_same_however_long_its_piece() -> None:
    losses = torch.tensor([[1.0, 2.0, 3.0], [10.0, 0.0, 0.0]])
    counts = torch.tensor([[True, True, True], [True, False, False]])
    assert float(tokens.weighted_mean(losses, counts)) == 4.0
    assert float(tokens.weighted_mean(losses, torch.zeros_like(counts))) == 0.0


def test_members_that_agree_have_nothing_to_tell_each_other() -> None:
    agree = torch.tensor([[0.3, -1.0, 2.0]]).expand(3, -1)
    assert float(tokens.mutual_information(agree)) < 1e-6
    apart = torch.tensor([[50.0, 0.0], [0.0, 50.0]])
    torch.testing.assert_close(tokens.mutual_information(apart), torch.tensor(math.log(2.0)))


@pytest.mark.parametrize("value", [-100.0, -3.2, 3.2, 1e6])
def test_targets_beyond_the_support_are_those_of_its_border(value) -> None:
    mass = tokens.hl_gauss(torch.tensor(value), EDGES, 0.75 * WIDTH)
    assert bool(mass.isfinite().all()) and float(mass.sum()) == pytest.approx(1.0)
    assert torch.equal(mass, tokens.hl_gauss(torch.tensor(math.copysign(3.0, value)), EDGES, 0.75 * WIDTH))


def test_the_mass_of_a_bin_by_hand() -> None:
    edges = torch.tensor([-1.0, 0.0, 1.0])
    mass = tokens.hl_gauss(torch.tensor(0.5), edges, 1.0)

    def cdf(x: float) -> float:
        return 0.5 * (1 + math.erf(x / math.sqrt(2)))

    whole = cdf(0.5) - cdf(-1.5)
    expected = [(cdf(-0.5) - cdf(-1.5)) / whole, (cdf(0.5) - cdf(-0.5)) / whole]
    torch.testing.assert_close(mass, torch.tensor(expected))


@pytest.mark.parametrize("borders", [(-3.0, 3.0), (0.5, 0.7), (2.0, 2.0)])
def test_a_reward_comes_back_within_half_a_bin(borders) -> None:
    edges, sigma = tokens.bin_edges(*borders, 32)
    width = float(edges[1] - edges[0])
    assert sigma == pytest.approx(0.75 * width, rel=1e-2) and len(edges) == 33
    values = torch.linspace(*borders, 501)
    centres = (edges[1:] + edges[:-1]) / 2
    back = tokens.expected(tokens.hl_gauss(values, edges, sigma).log(), centres)
    assert float((back - values).abs().max()) < width / 2


def test_the_cross_entropy_is_least_at_its_target() -> None:
    target = torch.tensor([0.2, 0.8])
    torch.testing.assert_close(tokens.soft_cross_entropy(target.log(), target), tokens.entropy(target.log()))
    assert tokens.soft_cross_entropy(torch.zeros(2), target) > tokens.entropy(target.log())
