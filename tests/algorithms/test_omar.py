from __future__ import annotations

import copy
import itertools

import naive
import pytest
import torch
from coordination import own_rewards, train_more, train_on
from worlds import CONTINUOUS

from offline_marl.algorithms.base import algorithms
from offline_marl.core.config import ConfigError, build

CRITICS = ["independent", "centralised"]
SEARCH = {"search_samples": 6, "search_elites": 3, "search_iterations": 3, "search_mean": 0.1, "search_std": 0.8}
SETTINGS = {**SEARCH, "search_weight": 0.7, "regularization": 0.02, "cql_samples": 2, "policy_every": 1}


def search_by_loops(before, batch, features, generator) -> torch.Tensor:
    """A search of its own for each row and agent, elites entering the next round; the policy's action in the first."""
    config, spec = before.config, before.spec
    with torch.no_grad():
        own = naive.tanh_actions(before.policy, spec, features)

        def judge(actions: torch.Tensor) -> list[torch.Tensor]:
            return naive.q_values(before.critic, spec, features, batch.actions, actions)[0]

        q = judge(own)
        rows, agents = range(len(batch)), range(spec.n_agents)
        kept = {(row, i): [(float(q[i][row]), own[row, i].tolist())] for row in rows for i in agents}
        mean = torch.full_like(own, config.search_mean)
        std = torch.full_like(own, config.search_std)
        for _ in range(config.search_iterations):
            for z in torch.empty(config.search_samples, *own.shape).normal_(generator=generator):
                drawn = torch.zeros_like(own)
                for row in rows:
                    for i, width in enumerate(spec.act_dims):
                        for c in range(width):
                            at = float(mean[row, i, c] + std[row, i, c] * z[row, i, c])
                            drawn[row, i, c] = max(-1.0, min(1.0, at))
                q = judge(drawn)
                for row in rows:
                    for i in agents:
                        kept[row, i].append((float(q[i][row]), drawn[row, i].tolist()))
            for (row, i), pool in kept.items():
                kept[row, i] = sorted(pool, reverse=True)[: config.search_elites]
                elites = torch.tensor([action for _, action in kept[row, i]])
                mean[row, i] = elites.mean(0)
                std[row, i] = (elites - elites.mean(0)).square().mean(0).sqrt()
        return torch.tensor([[kept[row, i][0][1] for i in agents] for row in rows])


def omar_loss(before, batch, features, found) -> torch.Tensor:
    """(1 - w) (-Q_1(pi)) + w |pi - a*|^2 + c mean pi^2, through a critic whose weights take no gradient."""
    config, spec = before.config, before.spec
    actions = naive.tanh_actions(before.policy, spec, features)
    q = naive.q_values(naive.frozen(before.critic), spec, features.detach(), batch.actions, actions)[0]
    chase = naive.distances(before, actions, found)
    size = naive.distances(before, actions, torch.zeros_like(actions))
    w, c = config.search_weight, config.regularization
    terms = [
        [w * chase[row][i] - (1 - w) * q[i][row] + c * size[row][i] for i in range(spec.n_agents)]
        for row in range(len(batch))
    ]
    return naive.mean(terms, batch.mask)


def after_the_critics_draws(learner, batch) -> torch.Generator:
    """A generator as it stands when the search begins."""
    twin = copy.deepcopy(learner)
    twin.generator = naive.same_draws(learner)
    twin.target(batch)
    twin.draw(batch, twin.inputs(batch.obs, batch.history).detach())
    return twin.generator


@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("variant", [{}, {"window": 3}, {"share_parameters": True}], ids=str)
@pytest.mark.parametrize("critic", CRITICS)
def test_the_policys_loss_and_gradient_equal_their_loops(critic, variant, with_mask):
    learner, batch = naive.learner_and_batch("omar", "continuous", **SETTINGS, critic=critic, **variant)
    batch = naive.masked(batch) if with_mask else batch
    generator = after_the_critics_draws(learner, batch)
    before, metrics = naive.before_and_after(learner, batch)
    features = before.inputs(batch.obs, batch.history)
    expected = omar_loss(before, batch, features, search_by_loops(before, batch, features, generator))
    torch.testing.assert_close(metrics["loss/actor"], expected.detach())
    gradients = naive.gradients(expected, before.policy)
    torch.testing.assert_close(naive.taken(learner.policy), gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("critic", CRITICS)
def test_the_critic_learns_as_in_conservative_q_learning(critic):
    ends = []
    # Hardly a step, as policies would part at the first; and equal draws from here on, as the search took some.
    for name, settings in (("omar", SETTINGS), ("cql", {"cql_samples": 2})):
        learner, batch = naive.learner_and_batch(
            name, "continuous", critic=critic, **{**settings, "policy_every": 10, "lr": 1e-9}
        )
        learner.generator.manual_seed(0)
        metrics = learner.update(batch)
        ends.append(([metrics["loss/critic"], metrics["loss/gap"]], naive.taken(learner.critic)))
    torch.testing.assert_close(ends[0], ends[1])


def searched(learner, batch, **settings):
    """What the search finds, its Q_1, the policy's actions and their Q_1."""
    config = learner.config.model_copy(update=settings)
    twin = copy.deepcopy(learner)
    twin.config, twin.generator = config, naive.same_draws(learner)
    with torch.no_grad():
        own = twin.policy(batch.obs)
        q = twin.critic(batch.obs, batch.actions, own)[0]
        found = twin.search(batch.obs, batch.actions, own, q)
        return found, twin.critic(batch.obs, batch.actions, found)[0], own, q


@pytest.mark.parametrize("critic", CRITICS)
def test_the_batched_search_equals_one_search_a_row_and_agent(critic):
    learner, batch = naive.learner_and_batch("omar", "continuous", rows=15, **SETTINGS, critic=critic)
    expected = search_by_loops(learner, batch, batch.obs, naive.same_draws(learner))
    torch.testing.assert_close(searched(learner, batch)[0], expected)


@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("std", [0.05, 2.0])
def test_the_found_action_is_never_worse_than_the_policys(critic, std):
    learner, batch = naive.learner_and_batch("omar", "continuous", rows=40, critic=critic, **SETTINGS)
    found, found_q, own, own_q = searched(learner, batch, search_std=std)
    assert bool((found_q >= own_q - 1e-5).all()) and bool((found_q > own_q + 1e-3).any())
    assert found.abs().max() <= 1 and bool(found[:, ~CONTINUOUS.present("act")].eq(0).all())


def test_elites_are_kept_so_that_more_rounds_never_find_worse():
    learner, batch = naive.learner_and_batch("omar", "continuous", rows=40, **SETTINGS)
    best = [searched(learner, batch, search_iterations=rounds)[1] for rounds in range(1, 6)]
    assert all(bool((later >= sooner - 1e-5).all()) for sooner, later in itertools.pairwise(best))
    assert bool((best[-1] > best[0] + 1e-3).any())


def test_one_elite_is_enough_and_more_elites_than_draws_are_no_error():
    learner, batch = naive.learner_and_batch("omar", "continuous", **SETTINGS)
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
