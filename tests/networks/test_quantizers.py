from __future__ import annotations

import pytest
import torch

from offline_marl.core.types import DataError
from offline_marl.networks.quantizers import EPSILON, BinTokenizer, FiniteScalarQuantizer, VectorQuantizer

DIMS = (4, 2)


def vq(vocabulary: int = 8, **settings) -> VectorQuantizer:
    torch.manual_seed(0)
    return VectorQuantizer(DIMS, 3, vocabulary, slot=2, hidden=(16,), **settings)


def fsq(levels=(4, 3)) -> FiniteScalarQuantizer:
    torch.manual_seed(0)
    return FiniteScalarQuantizer(DIMS, 3, levels, hidden=(16,))


def bins(vocabulary: int = 8) -> BinTokenizer:
    low = torch.tensor([[-1.0, 0.0, 2.0, 0.0], [-2.0, 0.0, 0.0, 0.0]])
    high = torch.tensor([[1.0, 4.0, 2.0, 0.5], [2.0, 1.0, 0.0, 0.0]])
    return BinTokenizer(DIMS, vocabulary, low, high)


def observed(rows: int = 16, seed: int = 0) -> torch.Tensor:
    obs = torch.randn(rows, 2, 4, generator=torch.Generator().manual_seed(seed))
    obs[:, 1, 2:] = 0.0
    return obs


def drawing() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def everyone(obs: torch.Tensor) -> torch.Tensor:
    return torch.ones(obs.shape[:-1], dtype=torch.bool)


@pytest.mark.parametrize("made", [vq, fsq, bins])
def test_tokens_have_the_axes_and_the_range_they_promise(made) -> None:
    tokenizer, obs = made(), observed()
    tokenizer.learn(obs, everyone(obs), drawing())
    tokens = tokenizer.encode(obs)
    assert tokens.shape == (16, 2, tokenizer.tokens) and tokens.dtype == torch.int64
    assert int(tokens.min()) >= 0 and int(tokens.max()) < tokenizer.vocabulary
    back = tokenizer.decode(tokens)
    assert back.shape == obs.shape and not bool(back[:, 1, 2:].any()), "padding is zero"
    certain = torch.nn.functional.one_hot(tokens, tokenizer.vocabulary).float()
    torch.testing.assert_close(tokenizer.blend(certain), back)


@pytest.mark.parametrize("made", [vq, fsq, bins])
def test_padding_and_rows_that_do_not_count_teach_nothing(made) -> None:
    found = []
    for junk in (0.0, 9.0):
        tokenizer, obs = made(), observed()
        counts = everyone(obs)
        counts[5:] = False
        obs[:, 1, 2:] = junk
        obs[5:] += junk
        losses = tokenizer.learn(obs, counts, drawing())
        found.append([*losses.values(), *tokenizer.buffers()])
    torch.testing.assert_close(found[0], found[1])


def test_codes_begin_at_encoder_outputs_and_every_slot_takes_its_nearest() -> None:
    tokenizer, obs = vq(vocabulary=4, decay=1.0), observed()
    tokenizer.learn(obs, everyone(obs), drawing())
    slots = tokenizer.slots(obs)
    outputs = slots.detach().reshape(-1, 2)
    smooth = (1 + EPSILON) / (4 + 4 * EPSILON) * 4
    nearest_output = torch.cdist(tokenizer.codes * smooth, outputs).amin(1)
    assert float(nearest_output.max()) < 1e-5
    distances = (slots.unsqueeze(-2) - tokenizer.codes).square().sum(-1)
    assert torch.equal(tokenizer.encode(obs), distances.argmin(-1))


def test_moving_averages_by_hand() -> None:
    tokenizer = vq(vocabulary=2, decay=0.5, least_size=0.0)
    tokenizer.codes.copy_(torch.tensor([[0.0, 0.0], [4.0, 4.0]]))
    tokenizer.sums.copy_(torch.tensor([[0.0, 0.0], [4.0, 4.0]]))
    slots = torch.tensor([[1.0, 0.0], [1.0, 2.0], [6.0, 6.0]])
    tokenizer._follow(slots, torch.tensor([0, 0, 1]), drawing())
    assert tokenizer.sizes.tolist() == [1.5, 1.0]  # .5 * 1 + .5 * (2, 1)
    assert tokenizer.sums.tolist() == [[1.0, 1.0], [5.0, 5.0]]  # .5 * s + .5 * sum
    smooth = (torch.tensor([1.5, 1.0]) + EPSILON) / (2.5 + 2 * EPSILON) * 2.5
    torch.testing.assert_close(tokenizer.codes, tokenizer.sums / smooth.unsqueeze(-1))


def test_codes_that_nothing_is_assigned_to_are_put_where_outputs_are() -> None:
    tokenizer = vq(vocabulary=3, decay=0.5, least_size=0.6)
    tokenizer.codes.copy_(torch.tensor([[0.0, 0.0], [90.0, 90.0], [80.0, 80.0]]))
    tokenizer.sums.copy_(tokenizer.codes)
    slots = torch.tensor([[1.0, 1.0]] * 4)
    tokenizer._follow(slots, torch.zeros(4, dtype=torch.int64), drawing())
    assert tokenizer.codes[1:].tolist() == [[1.0, 1.0]] * 2 and tokenizer.sizes[1:].tolist() == [1.0, 1.0]
    assert tokenizer.sizes[0] == 2.5, "one in use stays"


def test_every_code_is_used_or_seeded_again_after_many_updates() -> None:
    tokenizer, generator = vq(vocabulary=16, decay=0.5), drawing()
    for seed in range(20):
        obs = observed(64, seed)
        tokenizer.learn(obs, everyone(obs), generator)
    assert bool((tokenizer.sizes >= tokenizer.least_size).all())
    assert float(tokenizer.codes.norm(dim=-1).max()) <= float(tokenizer.slots(obs).detach().norm(dim=-1).max()) * 1.5


def test_the_gradient_passes_the_choice_of_a_code() -> None:
    tokenizer, obs = vq(), observed()
    losses = tokenizer.learn(obs, everyone(obs), drawing())
    losses["reconstruction"].backward()
    assert all(bool(parameter.grad.any()) for parameter in tokenizer.parameters())


def test_a_quantizer_takes_its_draws_from_the_generator_it_is_given() -> None:
    before = torch.get_rng_state()
    ends = []
    for _ in range(2):
        tokenizer, obs = vq(), observed()
        before = torch.get_rng_state()
        tokenizer.learn(obs, everyone(obs), drawing())
        ends.append(tokenizer.codes.clone())
    assert torch.equal(*ends) and torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("levels", [(2, 2), (3, 5), (4, 3), (8, 8, 8), (7,)])
def test_every_point_of_a_lattice_comes_back(levels) -> None:
    tokenizer = fsq(levels)
    assert tokenizer.vocabulary == len(tokenizer.table) == len(tokenizer.table.unique(dim=0))
    assert float(tokenizer.table.abs().max()) <= 1.0
    half = (torch.tensor(levels) / 2).floor()
    wide = torch.linspace(-9, 9, 4001).unsqueeze(-1).expand(-1, len(levels))
    rounded = tokenizer._rounded(wide)
    for number, count in enumerate(levels):
        expected = [float(-half[number]) + step for step in range(count)]
        assert sorted(set(rounded[:, number].tolist())) == expected, "each level is reached and no other"
    slots = (tokenizer.table * half).clone()
    # What the encoder would have to write for each point: the inverse of the bound.
    inner = (torch.tensor(levels) - 1) * (1 + 1e-3) / 2
    offset = torch.tensor([0.5 if count % 2 == 0 else 0.0 for count in levels])
    written = torch.atanh(((slots + offset) / inner).clamp(-0.9999999, 0.9999999)) - torch.atanh(offset / inner)
    steps = (tokenizer._rounded(written) + half).round().long()
    assert torch.equal((steps * tokenizer.strides).sum(-1), torch.arange(tokenizer.vocabulary))


def test_a_lattice_learns_by_the_error_of_what_it_decodes() -> None:
    tokenizer, obs = fsq(), observed()
    loss = tokenizer.learn(obs, everyone(obs), drawing())["reconstruction"]
    torch.testing.assert_close(loss, tokenizer.error(obs, tokenizer.decode(tokenizer.encode(obs))).mean())
    with pytest.raises(DataError, match="two levels or more"):
        fsq((8, 1))


def test_bins_by_hand_and_beyond_their_borders() -> None:
    tokenizer = bins()
    obs = torch.tensor([[[-1.0, 3.99, 2.0, 0.2], [9.0, -9.0, 0.0, 0.0]]])
    assert tokenizer.encode(obs).tolist() == [[[0, 7, 0, 3], [7, 0, 0, 0]]]
    back = tokenizer.decode(tokenizer.encode(obs))
    torch.testing.assert_close(back[0, 0, :2], torch.tensor([-0.875, 3.75]))
    assert float((back[0, 0, 2] - 2.0).abs()) < 1e-4, "a coordinate that never moves stays"
    huge = torch.tensor([[[1e30, -1e30, 0.0, 0.0], [-torch.inf, torch.inf, 0.0, 0.0]]])
    assert tokenizer.encode(huge).tolist() == [[[7, 0, 0, 0], [0, 7, 0, 0]]]
    assert torch.equal(tokenizer.encode(back), tokenizer.encode(obs))


def test_a_description_counts_what_is_lost_and_what_is_used() -> None:
    tokenizer = bins(vocabulary=4)
    obs = torch.tensor([[[-0.9, 0.5, 2.0, 0.4], [1.5, 0.1, 0.0, 0.0]]])
    told = tokenizer.describe(obs, everyone(obs))
    torch.testing.assert_close(torch.tensor(told["error_of_agents"][1]), torch.tensor([0.0, 0.025]))
    assert [len(row) for row in told["error_of_agents"]] == [4, 2]
    assert told["fixed_points"] == 1.0 and told["in_use"] == 0.5
