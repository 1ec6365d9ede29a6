"""Learning where the truth can be computed: the iterated coordination game and the rendezvous on a line."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from offline_marl.algorithms.base import Algorithm, algorithms
from offline_marl.collection.record import record_team
from offline_marl.core.config import build
from offline_marl.core.seeding import seeded_globally
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.datasets.episodes import join
from offline_marl.datasets.normalize import obs_statistics
from offline_marl.environments.coordination import Coordination
from offline_marl.environments.episodes import episode_seeds, play
from offline_marl.environments.scores import Score, summarize
from offline_marl.tasks.data_tasks import open_task
from offline_marl.training.sources.recorded import DatasetSource

AGENTS, CHOICES, STEPS = 3, 3, 6
START = CHOICES
"""Row of tables for an agent that has not chosen yet."""

pytestmark = pytest.mark.slow


def learner_of(name: str, data: Dataset, **settings) -> Algorithm:
    kind = algorithms.get(name)
    with seeded_globally(0, "initialisation"):
        learner = kind(build(kind.Config, {"hidden": [64], **settings}), data.spec)
    learner.place("cpu", 0)
    return learner


def trained(name: str, task: str, updates: int, **settings) -> Algorithm:
    """A learner after so many updates, its step size falling to 0."""
    data = open_task(task).data
    fields = {"lr": 3e-3, "batch_size": 128, "cosine_steps": updates, **settings}
    learner = learner_of(name, data, **fields)
    learner.standardize(*obs_statistics(data))
    source = DatasetSource(TransitionBuffer(data), learner.batch_size, torch.Generator().manual_seed(0))
    for _ in range(updates):
        learner.update(source.sample(learner.needs))
    return learner


def score(learner: Algorithm, task: str, episodes: int = 1000, explore: bool = False) -> Score:
    opened = open_task(task)
    returns = play(learner, opened.make_env(episodes), episode_seeds(0, episodes), explore=explore).returns
    found = summarize(returns, opened.reference)
    print(f"{type(learner).__name__} on {task}: {found}")
    return found


# --- values ---------------------------------------------------------------------------------------------------------


def noisy_mix(episodes: int = 250) -> Dataset:
    """Two conventions that slip half of the time, so that the data holds every choice after every other."""
    env = Coordination.make(None, episodes)
    seeds = {"red": range(episodes), "blue": range(episodes, 2 * episodes)}
    return join([record_team(env, Coordination.scripted(name), own, (0.5,)) for name, own in seeds.items()], {}).check()


def all_obs() -> Tensor:
    """What all agents see after each last choice at each step, `step last agent obs`."""
    obs = torch.zeros(STEPS, CHOICES + 1, AGENTS, CHOICES + STEPS)
    for step in range(STEPS):
        obs[step, :, :, CHOICES + step] = 1
    for last in range(CHOICES):
        obs[:, last, :, last] = 1
    return obs


def exact_values(data: Dataset, agent: int, gamma: float, greedy: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Fixed point that an independent learner aims for, by dynamic programming backwards over the data itself.

    To one agent the others are part of a world whose rewards and steps are the data's frequencies given its own
    observation and choice. V is the mean of Q under the data's own policy, or its largest if `greedy`.

    Returns:
        Q `step last choice`, V `step last` and how often the data holds each `step last choice`.
    """
    actions, rewards = (part[:, agent].view(-1, STEPS) for part in (data.actions, data.rewards))
    last = torch.cat([torch.full_like(actions[:, :1], START), actions[:, :-1]], dim=1)
    q = torch.zeros(STEPS, CHOICES + 1, CHOICES, dtype=torch.float64)
    counts = torch.zeros_like(q)
    v = torch.zeros(STEPS + 1, CHOICES + 1, dtype=torch.float64)
    for step in reversed(range(STEPS)):
        place = last[:, step] * CHOICES + actions[:, step]
        total = torch.zeros((CHOICES + 1) * CHOICES, dtype=torch.float64)
        counts[step] = torch.bincount(place, minlength=len(total)).view(counts[step].shape)
        total.index_add_(0, place, rewards[:, step].double())
        q[step] = total.view(q[step].shape) / counts[step].clamp(min=1) + gamma * v[step + 1, :CHOICES]
        own = (q[step] * counts[step]).sum(-1) / counts[step].sum(-1).clamp(min=1)
        v[step] = q[step].masked_fill(counts[step] == 0, -torch.inf).amax(-1) if greedy else own
    return q, v[:STEPS], counts


@pytest.mark.parametrize(
    ("name", "settings", "greedy"),
    [
        ("iql", {"expectile": 0.5}, False),  # the 0.5-expectile is the mean: the data's own policy is judged
        ("cql", {"cql_alpha": 0.0}, True),  # without its gap, double Q-learning: the best choice is judged
    ],
)
def test_values_are_those_of_dynamic_programming(name, settings, greedy):
    data = noisy_mix()
    learner = learner_of(name, data, gamma=0.9, lr=1e-2, tau=0.05, cosine_steps=600, **settings)
    everything = TransitionBuffer(data).transitions(torch.arange(len(data)))
    for _ in range(600):
        learner.update(everything)
    obs = all_obs()
    with torch.no_grad():
        learned_q = learner.critic.each_choice(learner.inputs(obs))
        learned_v = learned_q.amin(0).amax(-1) if greedy else learner.value(learner.inputs(obs))
    for agent in range(AGENTS):
        q, v, counts = exact_values(data, agent, 0.9, greedy)
        seen = counts > 0
        assert int(seen.sum()) == (1 + (STEPS - 1) * CHOICES) * CHOICES, "the data should hold every case"
        visited = seen.any(-1)
        v_errors = ((learned_v[..., agent] - v).abs() / v)[visited]
        q_errors = (learned_q[..., agent, :] - q).abs()[:, seen] / q[seen].max()
        print(f"{name}, agent {agent}: V off by {v_errors.max():.5%}, Q by {q_errors.max():.5%} of the largest")
        assert v_errors.max() < 0.01 and q_errors.max() < 0.01


# --- one convention -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bc", "cql", "iql", "ma-iql", "omiga"])
def test_a_discrete_algorithm_reaches_the_optimum_on_one_convention(name):
    data = open_task("coordination-single-v0")
    assert data.data.returns().mean() < 4.2, "the data itself should be far from the optimum"
    learner = trained(name, "coordination-single-v0", 400)
    assert score(learner, "coordination-single-v0", episodes=10).mean == data.reference.expert == 6.0


@pytest.mark.parametrize("name", ["bc", "cql", "iql", "ma-iql", "omar", "omiga", "td3-bc"])
def test_a_continuous_algorithm_comes_near_the_optimum_on_one_convention(name):
    learner = trained(name, "rendezvous-left-v0", 1500)
    assert score(learner, "rendezvous-left-v0").normalized[0] >= 95.0


# --- several conventions --------------------------------------------------------------------------------------------


def marginals(data: Dataset) -> Tensor:
    """How often each agent makes each choice at each step, `step agent choice`."""
    one_hot = torch.nn.functional.one_hot(data.actions, CHOICES).double()
    return one_hot.view(-1, STEPS, AGENTS, CHOICES).mean(0)


def expected_return(learner: Algorithm) -> float:
    """Exact mean return of the learner's stochastic policies: apart from each other, agents are Markov chains."""
    with torch.no_grad():
        chances = learner.actor(learner.inputs(all_obs())).log_probs.double().exp()  # step last agent choice
    last = torch.nn.functional.one_hot(torch.full((AGENTS,), START), CHOICES + 1).double()
    total = 0.0
    for step in range(STEPS):
        now = torch.einsum("al,lac->ac", last, chances[step])
        total += float(now.prod(0).sum())
        last = torch.nn.functional.pad(now, (0, 1))
    return total


def test_cloning_mixed_conventions_earns_the_product_of_the_marginals_and_no_more():
    task = open_task("coordination-mix-v0")
    learner = trained("bc", task.id, 1500, batch_size=512)
    # A perfect clone has the data's marginals at each step, however it remembers: agents agree by chance alone.
    theory = float(marginals(task.data).prod(1).sum())
    population = 6 * (2 * (0.5 * 0.8 + 0.2 / 3) ** 3 + (0.2 / 3) ** 3)
    assert theory == pytest.approx(population, rel=0.02)
    found = expected_return(learner)
    print(f"bc on the mix: {found:.4f} exactly, the product of marginals is {theory:.4f}, the optimum 6")
    assert found == pytest.approx(theory, rel=0.02)
    played = score(learner, task.id, episodes=4000, explore=True)
    assert played.mean == pytest.approx(found, abs=4 * played.returns.std() / 4000**0.5)
    assert played.mean < task.data.returns().mean() / 3, "the data itself agrees far more often"


def test_cloning_mixed_conventions_parts_the_two_agents_on_the_line():
    learner = trained("bc", "rendezvous-mix-v0", 1500)
    assert score(learner, "rendezvous-mix-v0").normalized[0] < 50
