from __future__ import annotations

import copy
import itertools

import hand
import pytest
import torch
from coordination import own_rewards, train_more, train_on
from worlds import CONTINUOUS

from offline_marl.algorithms.base import algorithms
from offline_marl.core.config import ConfigError, build

CRITICS = ["independent", "centralised"]
SEARCH = {"search_samples": 6, "search_elites": 3, "search_iterations": 3, "search_mean": 0.1, "search_std": 0.8}
SETTINGS = {**SEARCH, "search_weight": 0.7, "regularization": 0.02, "cql_samples": 2, "policy_every": 1}


@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("critic", CRITICS)
def test_the_policys_loss_and_gradient_by_hand(critic, with_mask, monkeypatch):
    """(1 - w) (-Q_1(pi)) + w |pi - a*|^2 + c mean pi^2, with w = .7, c = .02 and a* = (1, -1) and .6 found.

    The policy does (.5, -.5) and .2, so that distances are .25 and .16, sizes .25 and .04, and Q_1 is 3 and -1;
    a centralised critic adds a quarter of the other's recorded actions, -.2 and .125: nothing where it is absent.
    """
    learner = hand.climber("omar", critic=critic, search_weight=0.7, regularization=0.02, cql_samples=2)
    found = torch.tensor([[[1.0, -1.0], [0.6, 0.0]]] * 2)
    monkeypatch.setattr(learner, "search", lambda *_: found)
    batch = hand.batch_of(hand.CONTINUOUS, hand.ACTIONS)
    batch = hand.without_the_ended(batch) if with_mask else batch
    metrics = learner.update(batch)
    q = (2.8, -0.875) if critic == "centralised" else (3.0, -1.0)
    alone = (3.0 - q[0]) / 2 if with_mask else 0.0  # in one of its two rows the other is absent
    first = 0.7 * 0.25 - 0.3 * (q[0] + alone) + 0.02 * 0.25
    second = 0.7 * 0.16 - 0.3 * q[1] + 0.02 * 0.04
    shares = (2 / 3, 1 / 3) if with_mask else (0.5, 0.5)
    assert float(metrics["loss/actor"]) == pytest.approx(shares[0] * first + shares[1] * second, rel=1e-4)
    slopes = [
        # w (pi - a*) - (1 - w) dQ/da + c pi, each over two entries; the second agent has one, so twice as much
        [(0.7 * -0.5 - 0.3 * 1.0 + 0.02 * 0.5) * 0.75, (0.7 * 0.5 + 0.3 * 1.0 - 0.02 * 0.5) * 0.75],
        [(0.7 * 2 * -0.4 - 0.3 * 2.0 + 0.02 * 2 * 0.2) * 0.96, 0.0],
    ]
    expected = torch.tensor(slopes) * torch.tensor(shares).unsqueeze(-1)
    made = learner.policy.net.stack.layers[-1].bias.grad[:, 0]
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)


def test_its_policy_clones_nobody_unless_it_is_said(monkeypatch):
    """The distances .625 and 1 from recorded actions come on top with their weight."""
    ends = []
    for weight in ({}, {"bc_weight": 0.4}):
        learner = hand.climber("omar", **SETTINGS, **weight)
        monkeypatch.setattr(learner, "search", lambda features, others, own, q: own)
        ends.append(float(learner.update(hand.batch_of(hand.CONTINUOUS, hand.ACTIONS))["loss/actor"]))
    assert ends[1] - ends[0] == pytest.approx(0.4 * (0.625 + 1) / 2, rel=1e-4)


@pytest.mark.parametrize("critic", CRITICS)
def test_the_search_finds_the_corner_that_each_agents_critic_rises_to(critic):
    """Draws of deviation 100 lie in corners: Q_1 is greatest at (1, -1) and at 1, whatever the other did."""
    learner = hand.climber("omar", critic=critic, search_std=100.0, search_samples=40)
    found = searched(learner, hand.batch_of(hand.CONTINUOUS, hand.ACTIONS))[0]
    assert found.tolist() == [[[1.0, -1.0], [1.0, 0.0]]] * 2


def test_the_first_round_is_drawn_from_the_normal_that_the_settings_say():
    """With one elite and hardly any deviation, what is found is the mean, or the policy's action if it is better."""
    learner = hand.climber("omar")
    batch = hand.batch_of(hand.CONTINUOUS, hand.ACTIONS)
    settings = {"search_elites": 1, "search_iterations": 1, "search_std": 1e-6}
    near = searched(learner, batch, search_mean=0.9, **settings)[0]
    # (.9, .9) has Q_1 = 2, below the policy's 3; .9 has .4, above the policy's -1
    torch.testing.assert_close(near, torch.tensor([[[0.5, -0.5], [0.9, 0.0]]] * 2), rtol=0, atol=1e-5)


def test_later_rounds_are_drawn_around_the_elites():
    """The policy's action, .2, is the best of the first round, and the best draw the other elite: m + d and m - d.

    The next draws have the mean m and the deviation d.
    """
    learner = hand.climber("omar", search_samples=400, search_elites=2, search_iterations=2, search_std=0.05)
    drawn = []
    critic = learner.critic.forward
    learner.critic.forward = lambda features, others, own=None, copies=None: (
        drawn.append(own) or critic(features, others, own, copies)
    )
    searched(learner, hand.batch_of(hand.CONTINUOUS, hand.ACTIONS))
    rounds = [own[:, 0, 1, 0] for own in drawn if own is not None and own.dim() == 4]
    elites = torch.tensor([0.2, float(rounds[0].max())])
    assert len(rounds) == 2 and elites[1] < 0.2
    assert float(rounds[1].mean()) == pytest.approx(float(elites.mean()), abs=0.003)
    assert float(rounds[1].std()) == pytest.approx(float(elites.std(correction=0)), rel=0.15)


@pytest.mark.parametrize("critic", CRITICS)
def test_the_critic_learns_as_in_conservative_q_learning(critic):
    ends = []
    # Hardly a step, as policies would part at the first; and equal draws from here on, as the search took some.
    for name, settings in (("omar", SETTINGS), ("cql", {"cql_samples": 2})):
        learner, batch = hand.learner_and_batch(
            name, "continuous", critic=critic, **{**settings, "policy_every": 10, "lr": 1e-9}
        )
        learner.generator.manual_seed(0)
        metrics = learner.update(batch)
        ends.append(([metrics["loss/critic"], metrics["loss/gap"]], hand.taken(learner.critic)))
    torch.testing.assert_close(ends[0], ends[1])


def searched(learner, batch, **settings):
    """What the search finds, its Q_1, the policy's actions and their Q_1."""
    config = learner.config.model_copy(update=settings)
    twin = copy.deepcopy(learner)
    twin.config, twin.generator = config, hand.same_draws(learner)
    with torch.no_grad():
        own = twin.policy(batch.obs)
        q = twin.critic(batch.obs, batch.actions, own)[0]
        found = twin.search(batch.obs, batch.actions, own, q)
        return found, twin.critic(batch.obs, batch.actions, found)[0], own, q


@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("std", [0.05, 2.0])
def test_the_found_action_is_never_worse_than_the_policys(critic, std):
    learner, batch = hand.learner_and_batch("omar", "continuous", rows=40, critic=critic, **SETTINGS)
    found, found_q, own, own_q = searched(learner, batch, search_std=std)
    assert bool((found_q >= own_q - 1e-5).all()) and bool((found_q > own_q + 1e-3).any())
    assert found.abs().max() <= 1 and bool(found[:, ~CONTINUOUS.present("act")].eq(0).all())


def test_elites_are_kept_so_that_more_rounds_never_find_worse():
    learner, batch = hand.learner_and_batch("omar", "continuous", rows=40, **SETTINGS)
    best = [searched(learner, batch, search_iterations=rounds)[1] for rounds in range(1, 6)]
    assert all(bool((later >= sooner - 1e-5).all()) for sooner, later in itertools.pairwise(best))
    assert bool((best[-1] > best[0] + 1e-3).any())


def test_one_elite_is_enough_and_more_elites_than_draws_are_no_error():
    learner, batch = hand.learner_and_batch("omar", "continuous", **SETTINGS)
    for elites in (1, 50):
        found, found_q, _, own_q = searched(learner, batch, search_elites=elites)
        assert bool(found.isfinite().all()) and bool((found_q >= own_q - 1e-5).all())


@pytest.mark.parametrize(
    "bad", [{"search_weight": 1.1}, {"search_samples": 1}, {"search_elites": 0}, {"search_iterations": 0}]
)
def test_its_fields_keep_their_bounds(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        build(algorithms.get("omar").Config, bad)


# --- learning ---------------------------------------------------------------------------------------------------------
def two_hills(actions: torch.Tensor) -> torch.Tensor:
    """Each agent's own: a low hill at -0.6 and one twice as high at 0.6."""
    return sum(height * (-(((actions - at) / 0.25) ** 2)).exp() for at, height in ((-0.6, 1.0), (0.6, 2.0)))


@pytest.mark.slow
@pytest.mark.parametrize("critic", CRITICS)
def test_the_search_leaves_the_hill_on_which_the_gradient_stays(critic):
    """Two policies begin on the low hill of one critic that knows both: the paper's point, and its cure."""
    data = own_rewards(two_hills)
    taught = train_on("omar", data, steps=1000, critic=critic, cql_alpha=0.2)
    last = taught.policy.net.stack.layers[-1]
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.fill_(torch.tensor(-0.6).atanh())
    reached = {}
    for weight in (0.0, 0.9):
        learner = copy.deepcopy(taught)
        learner.config = learner.config.model_copy(update={"search_weight": weight})
        reached[weight] = train_more(learner, data, 400).act(data.obs[:1])[0, :, 0]
    # Where on the low hill depends on a critic that still learns; that it never crosses to the other does not.
    assert (reached[0.0] < 0).all(), reached[0.0]
    torch.testing.assert_close(reached[0.9], torch.full((2,), 0.6), rtol=0, atol=0.15)
