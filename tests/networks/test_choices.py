from __future__ import annotations

import pytest
import torch

from offline_marl.networks.choices import ChoiceValues

WIDTHS, CHOICES = (4, 2, 3), (3, 2, 4)


def network(recurrent: bool, shared: bool, hidden: tuple[int, ...] = (8, 6), **settings) -> ChoiceValues:
    torch.manual_seed(0)
    return ChoiceValues(4, hidden, CHOICES, recurrent=recurrent, shared=shared, fan_in=WIDTHS, **settings)


KINDS = pytest.mark.parametrize(("recurrent", "shared"), [(True, True), (True, False), (False, True), (False, False)])


@KINDS
def test_step_by_step_gives_what_a_whole_segment_gives(recurrent: bool, shared: bool) -> None:
    made, features = network(recurrent, shared), torch.randn(5, 6, 3, 4)
    values, after = made(features)
    assert values.shape == (5, 6, 3, 4) and after.shape == (5, 6, 3, 6 if recurrent else 0)
    states = made.begin(5, features)
    for time in range(6):
        step, states = made.step(features[:, time], states)
        torch.testing.assert_close(step, values[:, time])
        torch.testing.assert_close(states, after[:, time])


@pytest.mark.parametrize("shared", [False, True])
def test_a_reset_forgets_what_came_before_in_that_row_alone(shared: bool) -> None:
    made, features = network(True, shared), torch.randn(2, 6, 3, 4)
    reset = torch.zeros(2, 6, dtype=torch.bool)
    reset[1, 4] = True
    plain, cut = made(features)[0], made(features, reset)[0]
    torch.testing.assert_close(cut[0], plain[0])
    torch.testing.assert_close(cut[1, :4], plain[1, :4])
    torch.testing.assert_close(cut[1, 4:], made(features[1:, 4:])[0][0])
    assert not torch.allclose(cut[1, 4:], plain[1, 4:])


def test_an_agent_reads_its_own_features_alone_and_what_they_were_before() -> None:
    made, features = network(True, shared=True), torch.randn(2, 4, 3, 4)
    other = features.clone()
    other[:, 1, 2] += 1
    differs = (made(features)[0] != made(other)[0]).any(-1).any(0)
    assert differs.tolist() == [[False] * 3] + [[False, False, True]] * 3


@KINDS
def test_any_leading_axes_step(recurrent: bool, shared: bool) -> None:
    made, features = network(recurrent, shared), torch.randn(4, 5, 3, 4)
    flat, _ = made.step(features.flatten(0, 1), None)
    folded, states = made.step(features, None)
    torch.testing.assert_close(folded.flatten(0, 1), flat)
    assert states.shape == (4, 5, 3, made.width)
    torch.testing.assert_close(made.step(features[0, 0], None)[0], flat[0])


def test_one_width_is_the_recurrent_unit_s() -> None:
    made = network(True, True, (6,))
    assert len(made.layers) == 0 and made.width == 6 and made(torch.randn(2, 3, 3, 4))[0].shape == (2, 3, 3, 4)


@pytest.mark.parametrize("shared", [False, True])
def test_hidden_layers_are_normalised_where_asked(shared: bool) -> None:
    made = network(True, shared, layer_norm=True)
    features = torch.randn(2, 3, 3, 4)
    assert not torch.allclose(made(features)[0], network(True, shared)(features)[0])
