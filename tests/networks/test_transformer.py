from __future__ import annotations

import math

import pytest
import torch

from offline_marl.networks.transformer import StackedAggregator, StackedTransformer

MEMBERS, ROWS, PLACES, WIDTH = 2, 3, 7, 8


def transformer(dropout: float = 0.0) -> StackedTransformer:
    torch.manual_seed(0)
    made = StackedTransformer(MEMBERS, WIDTH, layers=2, heads=2, places=PLACES, dropout=dropout)
    for parameter in made.parameters():  # large enough that nothing hides behind residuals
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def features(seed: int = 1, rows: int = ROWS, places: int = PLACES) -> torch.Tensor:
    return torch.randn(MEMBERS, rows, places, WIDTH, generator=torch.Generator().manual_seed(seed))


def test_one_head_of_attention_by_hand() -> None:
    torch.manual_seed(0)
    attention = StackedTransformer(1, 4, layers=1, heads=1, places=3).blocks[0].attention
    x = torch.randn(1, 1, 3, 4)
    query = x[0, 0] @ attention.query.weight[0]
    key, value = (x[0, 0] @ attention.key_value.weight[0]).chunk(2, dim=-1)
    expected = (query @ key.T / math.sqrt(4)).softmax(-1) @ value @ attention.out.weight[0]
    torch.testing.assert_close(attention(x, *attention.project(x))[0, 0], expected)


@pytest.mark.parametrize("place", [0, 3, 6])
def test_a_place_changes_nothing_before_it(place) -> None:
    model, x = transformer(), features()
    changed = x.clone()
    changed[:, :, place] = features(9)[:, :, place]
    before, after = model(x), model(changed)
    assert torch.equal(before[:, :, :place], after[:, :, :place])
    assert bool((before[:, :, place:] != after[:, :, place:]).flatten(3).any(-1).all())


@pytest.mark.parametrize("cuts", [[1] * PLACES, [3, 1, 3], [PLACES]])
def test_steps_from_a_cache_are_those_of_one_pass(cuts) -> None:
    model, x = transformer(), features()
    cache, outs, begin = model.cache(ROWS), [], 0
    for length in cuts:
        outs.append(model.extend(x[:, :, begin : begin + length], cache))
        begin += length
    torch.testing.assert_close(torch.cat(outs, 2), model(x), atol=1e-5, rtol=0)


def test_rows_with_blank_places_in_front_are_those_without_them() -> None:
    model, x = transformer(), features()
    blank = torch.tensor([0, 2, 4])
    cache = model.cache(ROWS)
    outs = torch.cat([model.extend(part, cache, blank) for part in (x[:, :, :5], x[:, :, 5:6], x[:, :, 6:])], 2)
    for row, empty in enumerate(blank.tolist()):
        alone = model(x[:, row : row + 1, empty:])
        torch.testing.assert_close(outs[:, row : row + 1, empty:], alone, atol=1e-5, rtol=0)


def test_a_mask_hides_places() -> None:
    model, x = transformer(), features(rows=1)
    mask = torch.ones(1, PLACES, PLACES, dtype=torch.bool)
    mask[:, 4:, :4] = False
    changed = x.clone()
    changed[:, :, :4] = features(9, 1)[:, :, :4]
    assert torch.equal(model(x, mask)[:, :, 4:], model(changed, mask)[:, :, 4:])
    assert not torch.equal(model(x)[:, :, 4:], model(changed)[:, :, 4:])


def test_members_know_nothing_of_each_other() -> None:
    model, x = transformer(), features()
    changed = x.clone()
    changed[1] = features(9)[1]
    model(changed)[0].sum().backward()
    for name, parameter in model.named_parameters():
        assert not bool(parameter.grad[1].any()), name
    assert torch.equal(model(x)[0], model(changed)[0]) and not torch.equal(model(x)[1], model(changed)[1])


def test_the_cache_holds_what_its_formula_says_and_refuses_more_places() -> None:
    model = transformer()
    cache = model.cache(ROWS)
    assert cache.numbers == 2 * 2 * MEMBERS * ROWS * PLACES * WIDTH
    model.extend(features(), cache)
    with pytest.raises(ValueError, match="7 places and 1 more do not fit into the 7"):
        model.extend(features()[:, :, :1], cache)


def test_chosen_rows_and_copies_of_a_cache_go_on_by_themselves() -> None:
    model, x = transformer(), features()
    cache = model.cache(ROWS)
    model.extend(x[:, :, :4], cache)
    copied, some = cache.copy(), cache.select(torch.tensor([2, 0]))
    expected = model.extend(x[:, :, 4:], cache)
    torch.testing.assert_close(model.extend(x[:, :, 4:], copied), expected)
    torch.testing.assert_close(model.extend(x[:, [2, 0], 4:], some), expected[:, [2, 0]], atol=1e-5, rtol=0)


def aggregator() -> StackedAggregator:
    torch.manual_seed(0)
    made = StackedAggregator(MEMBERS, n_agents=3, tokens=4, width=WIDTH, heads=2, depth=1)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made.requires_grad_(False)


def tokens() -> torch.Tensor:
    return torch.randn(MEMBERS, ROWS, 3, 4, WIDTH, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("swapped", ["slots", "agents"])
def test_an_aggregator_tells_tokens_apart_by_slot_and_by_owner(swapped) -> None:
    model, x = aggregator(), tokens()
    other = x[:, :, :, [1, 0, 2, 3]] if swapped == "slots" else x[:, :, [1, 0, 2]]
    assert float((model(x) - model(other)).abs().max()) > 1e-5


def test_absent_agents_are_read_by_nobody() -> None:
    model, x = aggregator(), tokens()
    present = torch.tensor([[True, True, False], [True, False, True], [True, True, True]])
    changed = torch.where(present[None, :, :, None, None], x, x.flip(-1))
    shown = present[None, :, :, None]
    torch.testing.assert_close(model(x, present) * shown, model(changed, present) * shown)
    assert not torch.allclose(model(x) * shown, model(changed) * shown)


def test_a_width_that_heads_cannot_share_is_refused() -> None:
    with pytest.raises(ValueError, match="width of 8 cannot be shared by 3 heads"):
        StackedTransformer(1, 8, 1, 3, 4)
