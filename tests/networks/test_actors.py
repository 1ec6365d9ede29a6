from __future__ import annotations

import pytest
import torch
from torch import nn

from offline_marl.networks.actors import LOG_STD, Actor, DeterministicActor, GaussianActor, bounded_log_std
from offline_marl.networks.distributions import Categorical, ClippedNormal, TanhNormal


def last_bias(actor: Actor) -> nn.Parameter:
    return actor.net.stack.layers[-1].bias  # type: ignore[union-attr, return-value]


def zeroed(actor: Actor) -> Actor:
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.zero_()
    return actor


def test_mean_and_log_std_are_the_two_halves_of_the_output() -> None:
    actor = zeroed(Actor(3, [4], [2, 1], discrete=False))
    with torch.no_grad():
        last_bias(actor).copy_(torch.tensor([[[0.1, 0.2, -1.0, -2.0]], [[0.3, 9.0, -3.0, 9.0]]]))
    policy = actor(torch.randn(5, 2, 3))
    assert isinstance(policy, TanhNormal)
    torch.testing.assert_close(policy.mean[0], torch.tensor([[0.1, 0.2], [0.3, 9.0]]))
    torch.testing.assert_close(policy.log_std[0], torch.tensor([[-1.0, -2.0], [-3.0, 0.0]]))
    torch.testing.assert_close(policy.mode()[0], torch.tensor([[0.1, 0.2], [0.3, 0.0]]).tanh())


def test_log_std_depends_on_the_input_and_stays_within_its_bounds() -> None:
    torch.manual_seed(0)
    actor = Actor(3, [16], [2, 2], discrete=False)
    policy = actor(torch.randn(500, 2, 3) * 100)
    assert isinstance(policy, TanhNormal)
    assert LOG_STD == (-6.0, 0.0)
    assert policy.log_std.min().item() == -6.0 and policy.log_std.max().item() == 0.0
    assert len(policy.log_std.unique()) > 100


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("lead", [(5,), (5, 4), ()])
def test_actions_have_the_shape_of_the_lead(discrete: bool, lead: tuple[int, ...]) -> None:
    actor = Actor(3, [4], [2, 1], discrete=discrete)
    policy = actor(torch.randn(*lead, 2, 3))
    expected = (*lead, 2) if discrete else (*lead, 2, 2)
    assert policy.mode().shape == policy.sample().shape == expected
    assert policy.log_prob(policy.mode()).shape == (*lead, 2)


def test_an_agent_never_picks_a_choice_that_it_does_not_have() -> None:
    torch.manual_seed(0)
    actor = zeroed(Actor(3, [4], [4, 2], discrete=True))
    with torch.no_grad():
        last_bias(actor)[..., 2:] = 50.0
    policy = actor(torch.randn(500, 2, 3))
    assert isinstance(policy, Categorical)
    assert policy.sample()[:, 1].max().item() == 1 and policy.mode()[:, 1].max().item() <= 1
    torch.testing.assert_close(policy.log_probs[:, 1, :2].exp(), torch.full((500, 2), 0.5))


def test_available_actions_are_heeded_on_top_of_the_padding() -> None:
    actor = zeroed(Actor(3, [4], [4, 2], discrete=True))
    avail = torch.ones(50, 2, 4, dtype=torch.bool)
    avail[:, 0, 1:3] = False
    avail[:, 1, 0] = False
    policy = actor(torch.randn(50, 2, 3), avail)
    assert isinstance(policy, Categorical)
    torch.testing.assert_close(policy.log_probs[0].exp(), torch.tensor([[0.5, 0.0, 0.0, 0.5], [0.0, 1.0, 0.0, 0.0]]))


@pytest.mark.parametrize("discrete", [False, True])
def test_weights_of_padded_outputs_get_no_gradient(discrete: bool) -> None:
    torch.manual_seed(0)
    actor = Actor(3, [4], [3, 1], discrete=discrete)
    actions = torch.zeros(20, 2, dtype=torch.int64) if discrete else torch.zeros(20, 2, 3)
    actor(torch.randn(20, 2, 3)).log_prob(actions).sum().backward()
    grad = last_bias(actor).grad
    assert grad is not None
    padded = [1, 2] if discrete else [1, 2, 4, 5]
    assert bool(grad[1, 0, padded].eq(0).all()) and bool(grad[0, 0].ne(0).all())


def test_shared_actors_treat_equal_features_alike_and_others_do_not() -> None:
    torch.manual_seed(0)
    features = torch.randn(5, 1, 3).expand(-1, 2, -1)
    shared = Actor(3, [4], [2, 2], discrete=False, shared=True)(features).mode()
    apart = Actor(3, [4], [2, 2], discrete=False)(features).mode()
    torch.testing.assert_close(shared[:, 0], shared[:, 1])
    assert not torch.allclose(apart[:, 0], apart[:, 1])


def test_the_table_of_real_actions_is_no_saved_state() -> None:
    assert all("present" not in name for name in Actor(3, [4], [2, 1], discrete=False).state_dict())


# --- deterministic ----------------------------------------------------------------------------------------------------
def test_a_deterministic_action_is_the_tanh_of_the_output_by_hand() -> None:
    actor = DeterministicActor(2, [], [2, 1])
    layer = actor.net.stack.layers[0]
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[-1.0, 9.0], [0.5, 9.0]]]))
        layer.bias.copy_(torch.tensor([[[0.0, 0.1]], [[0.2, 9.0]]]))
    features = torch.tensor([[[0.3, -0.4], [1.0, 2.0]]])
    # agent 0: .3 and -.8 + .1 = -.7; agent 1: -1 + 1 + .2 = .2, and nothing on its padding
    expected = torch.tensor([[[0.3, -0.7], [0.2, 0.0]]]).tanh()
    torch.testing.assert_close(actor(features), expected)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("lead", [(5,), (5, 4), ()])
def test_deterministic_actions_stay_in_the_box_and_off_the_padding(lead: tuple[int, ...], shared: bool) -> None:
    torch.manual_seed(0)
    actor = DeterministicActor(3, [16], [2, 1, 3], shared=shared)
    actions = actor(torch.randn(*lead, 3, 3) * 100)
    assert actions.shape == (*lead, 3, 3)
    assert actions.abs().max().item() <= 1.0 and actions.abs().max().item() > 0.9
    assert bool(actions[..., 0, 2].eq(0).all()) and bool(actions[..., 1, 1:].eq(0).all())
    assert bool(actions[..., 2, :].ne(0).all())


def test_weights_of_a_deterministic_actors_padding_get_no_gradient() -> None:
    torch.manual_seed(0)
    actor = DeterministicActor(3, [4], [3, 1])
    actor(torch.randn(20, 2, 3)).sum().backward()
    grad = actor.net.stack.layers[-1].bias.grad
    assert grad is not None
    assert bool(grad[1, 0, 1:].eq(0).all()) and bool(grad[1, 0, 0].ne(0)) and bool(grad[0, 0].ne(0).all())


def test_each_deterministic_action_depends_on_its_agents_features_alone() -> None:
    torch.manual_seed(0)
    actor = DeterministicActor(3, [8], [2, 2])
    features = torch.randn(6, 2, 3)
    other = torch.stack([features[:, 0], torch.randn(6, 3)], dim=1)
    torch.testing.assert_close(actor(features)[:, 0], actor(other)[:, 0])
    assert not torch.allclose(actor(features)[:, 1], actor(other)[:, 1])
    assert all("present" not in name for name in actor.state_dict())


# --- gaussian ---------------------------------------------------------------------------------------------------------
def test_a_gaussian_actors_mean_and_log_std_are_the_two_halves_of_the_output() -> None:
    actor = zeroed(GaussianActor(3, [4], [2, 1]))  # type: ignore[arg-type]
    with torch.no_grad():
        last_bias(actor).copy_(torch.tensor([[[0.1, -2.0, -1.0, -7.0]], [[0.3, 9.0, 0.5, 9.0]]]))
    policy = actor(torch.randn(5, 2, 3))
    assert isinstance(policy, ClippedNormal)
    torch.testing.assert_close(policy.mean[0], torch.tensor([[0.1, -2.0], [0.3, 9.0]]))
    torch.testing.assert_close(policy.log_std[0], torch.tensor([[-1.0, -6.0], [0.0, 0.0]]))
    torch.testing.assert_close(policy.mode()[0], torch.tensor([[0.1, -1.0], [0.3, 0.0]]))


def test_a_gaussian_actor_begins_near_zero_whatever_it_reads() -> None:
    torch.manual_seed(0)
    actor = GaussianActor(3, [64], [2, 2])
    torch.manual_seed(0)
    plain = Actor(3, [64], [2, 2], discrete=False)
    weights = [net.net.stack.layers[-1].weight for net in (actor, plain)]
    torch.testing.assert_close(weights[0], weights[1] * 0.1)
    assert bool(last_bias(actor).eq(0).all())  # type: ignore[arg-type]
    assert actor(torch.randn(50, 2, 3)).mean.abs().max().item() < 0.2


@pytest.mark.parametrize("shared", [False, True])
def test_a_deviation_without_a_state_is_one_number_per_action_entry(shared: bool) -> None:
    actor = GaussianActor(3, [4], [2, 1], state_std=False, shared=shared)
    assert actor.log_std is not None and actor.log_std.shape == (1 if shared else 2, 2)
    policy = actor(torch.randn(50, 2, 3))
    assert policy.mean.shape == policy.log_std.shape == (50, 2, 2)
    assert policy.log_std.unique().tolist() == [-0.5]
    policy.log_prob(torch.zeros(50, 2, 2)).sum().backward()
    grad = actor.log_std.grad
    assert grad is not None and (shared or (grad[1, 1] == 0 and bool(grad[0].ne(0).all())))


@pytest.mark.parametrize("state_std", [False, True])
@pytest.mark.parametrize("lead", [(5,), (5, 4), ()])
def test_gaussian_actions_stay_in_the_box_and_off_the_padding(lead: tuple[int, ...], state_std: bool) -> None:
    torch.manual_seed(0)
    policy = GaussianActor(3, [16], [2, 1, 3], state_std=state_std)(torch.randn(*lead, 3, 3) * 100)
    for actions in (policy.mode(), policy.sample()):
        assert actions.shape == (*lead, 3, 3) and actions.abs().max().item() <= 1.0
        assert bool(actions[..., 0, 2].eq(0).all()) and bool(actions[..., 1, 1:].eq(0).all())
        assert policy.log_prob(actions).shape == policy.entropy().shape == (*lead, 3)


def test_log_std_outside_its_bounds_can_come_back_and_go_no_further() -> None:
    log_std = torch.tensor([-7.0, -7.0, -3.0, -3.0, 0.5, 0.5], requires_grad=True)
    bounded = bounded_log_std(log_std)
    assert bounded.tolist() == [-6.0, -6.0, -3.0, -3.0, 0.0, 0.0]
    bounded.backward(torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0]))
    # A step goes down the slope: from below up along -1, from above down along 1.
    assert log_std.grad is not None and log_std.grad.tolist() == [0.0, -1.0, 1.0, -1.0, 1.0, 0.0]


@torch.no_grad()
def widened(actor: Actor) -> Actor:
    """The same with every raw log-std above its bound."""
    last = actor.net.stack.layers[-1]
    last.weight[..., 1:] = 0.0
    last.bias[..., 1:] = 0.5
    return actor


def test_a_policy_that_begins_at_the_largest_deviation_learns_a_small_one() -> None:
    torch.manual_seed(0)
    actor = widened(Actor(1, [8], [1, 1], discrete=False))
    optimizer = torch.optim.Adam(actor.parameters(), lr=1e-2)
    features = torch.zeros(64, 2, 1)
    assert float(actor(features).log_std.detach().min()) == 0.0
    for _ in range(300):
        aim = 0.3 + 0.05 * torch.randn(64, 2, 1)
        loss = -actor(features).log_prob(aim).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(actor(features).log_std.detach().exp().max()) < 0.2
