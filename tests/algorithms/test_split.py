"""update = apply_gradients(gradients(all agents)), agent by agent, wherever the gradients are computed."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from worlds import SPECS, random_batch_index, world

from offline_marl.algorithms.base import Algorithm, algorithms
from offline_marl.algorithms.split import AgentGradients, SplitLearner, splitting
from offline_marl.core.config import build
from offline_marl.core.seeding import seeded_globally
from offline_marl.core.types import Batch, DataError, Spec
from offline_marl.datasets.buffer import TransitionBuffer

ROWS = 16
DATA = {kind: world(kind) for kind in SPECS}
NAMES = [name for name in algorithms.names() if algorithms.get(name).splits_by_agent]
CASES = [(name, kind, {}) for name in NAMES for kind in sorted(algorithms.get(name).needs.actions)] + [
    ("iql", "continuous", {"window": 3, "temperature": 1.0}),
    ("td3-bc", "continuous", {"grad_clip": 0.1, "window": 3}),
    ("td3-bc", "continuous", {"history_encoder": "gru", "window": 3, "frame_stack": 3}),
    ("cql", "continuous", {"policy": "sac", "cql_samples": 3}),
    ("cql", "continuous", {"conservative_rows": "combo", "cql_samples": 3}),
]


@pytest.fixture(params=CASES, ids=lambda case: "-".join(map(str, case[:2])) + "".join(f"-{key}" for key in case[2]))
def case(request):
    return request.param


def learner_of(name: str, kind: str, seed: int = 0, **settings) -> Algorithm:
    small = {"hidden": [16, 16], "batch_size": ROWS}
    made_by = algorithms.get(name)
    with seeded_globally(seed, "initialisation"):
        made = made_by(build(made_by.Config, small | settings), SPECS[kind])
    made.place("cpu", seed)
    return made


def batch_of(kind: str, learner: Algorithm, seed: int = 0, partial: bool = False) -> Batch:
    batch = TransitionBuffer(DATA[kind], learner.window).view(random_batch_index(DATA[kind], ROWS, seed), learner.needs)
    if partial:
        draw = torch.Generator().manual_seed(seed)
        there = torch.rand(batch.rewards.shape, generator=draw) < 0.7
        synthetic = torch.rand(ROWS, generator=draw) < 0.4
        batch = replace(batch, mask=there, terminations=batch.terminations & there, synthetic=synthetic)
    return batch


def state(learner: Algorithm) -> dict:
    return copy.deepcopy(learner.state_dict())


def assert_same(one, other) -> None:
    if isinstance(one, dict):
        assert list(one) == list(other)
        for key, value in one.items():
            assert_same(value, other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def test_an_update_is_what_applying_all_gradients_gives_bit_for_bit(case):
    name, kind, settings = case
    whole, split = learner_of(name, kind, **settings), learner_of(name, kind, **settings)
    assert isinstance(split, SplitLearner)
    for seed in range(4):
        batch = batch_of(kind, whole, seed, partial=seed % 2 == 1)
        metrics = whole.update(batch)
        assert_same(dict(sorted(metrics.items())), dict(sorted(split.apply_gradients(split.gradients(batch)).items())))
        assert_same(state(whole), state(split))


def test_gradients_of_agents_one_by_one_are_those_taken_together(case):
    name, kind, settings = case
    learner = learner_of(name, kind, **settings)
    for seed in range(2):  # of the second, some losses are left out
        batch = batch_of(kind, learner, seed, partial=seed % 2 == 1)
        together = learner.gradients(batch)
        alone = [learner.gradients(batch, [agent]) for agent in reversed(range(learner.spec.n_agents))]
        joined = AgentGradients.join(alone)
        assert joined.agents == (2, 1, 0) and together.agents == (0, 1, 2)
        assert joined.values.keys() == together.values.keys()
        for key, value in together.values.items():
            torch.testing.assert_close(joined.values[key].flip(0), value, rtol=1e-5, atol=1e-7)
            assert float(value.abs().sum()) > 0 or key.startswith("temperature")
        learner.apply_gradients(joined)


def test_parts_computed_elsewhere_from_a_snapshot_train_as_one_place_does(case):
    name, kind, settings = case
    whole, controller, worker = (learner_of(name, kind, seed, **settings) for seed in (0, 0, 5))
    for seed in range(3):
        batch = batch_of(kind, whole, seed, partial=True)
        metrics = whole.update(batch)
        worker.load_snapshot(controller.snapshot())
        parts = [worker.gradients(batch, agents) for agents in ([2, 0], [1])]
        found = controller.apply_gradients(AgentGradients.join(parts))
        torch.testing.assert_close(found, metrics, rtol=1e-4, atol=1e-5)
    for (key, one), other in zip(whole.named_parameters(), controller.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=key)
    assert torch.equal(whole.generator.get_state(), controller.generator.get_state())


def test_gradients_change_nothing_and_repeat(case):
    name, kind, settings = case
    learner = learner_of(name, kind, **settings)
    batch = batch_of(kind, learner)
    before = state(learner)
    first = learner.gradients(batch, [1])
    again = learner.gradients(batch, [1])
    assert_same(first.values, again.values)
    assert_same(before, state(learner))
    assert all(parameter.grad is None for parameter in learner.parameters())


def test_gradients_may_be_taken_in_double_precision(case):
    name, kind, settings = case
    learner = learner_of(name, kind, **settings)
    batch = batch_of(kind, learner)
    single = learner.gradients(batch)
    doubled = learner.double().gradients(
        batch.map(lambda value: value.double() if value.is_floating_point() else value)
    )
    assert all(value.dtype == torch.float64 for value in doubled.values.values())
    if kind == "discrete" or name == "iql":  # others draw their noise in the precision of what it is added to
        torch.testing.assert_close(doubled.flat().float(), single.flat(), rtol=1e-3, atol=1e-5)


def test_sums_of_rows_are_rows_of_sums(case):
    """What coded training needs: any mixture of agents' rows can be solved for them."""
    name, kind, settings = case
    learner = learner_of(name, kind, **settings)
    found = learner.gradients(batch_of(kind, learner))
    mixing = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0]], dtype=torch.float64)
    solved = torch.linalg.solve(mixing, mixing @ found.flat().double()).float()
    back = found.unflat(solved, (0, 1, 2))
    for key, value in found.values.items():
        torch.testing.assert_close(back.values[key], value, rtol=1e-5, atol=1e-6)


class Arithmetic(TorchDispatchMode):
    """Counts the operations of matrix products."""

    operations = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        counter = flop_registry.get(function._overloadpacket)
        if counter is not None:
            self.operations += counter(*args, **(kwargs or {}), out_val=out)
        return out


def team(name: str, n_agents: int, kind: str, **settings) -> tuple[Algorithm, Batch]:
    spec = Spec((12,) * n_agents, (5,) * n_agents, action_kind=kind)
    made_by = algorithms.get(name)
    learner = made_by(build(made_by.Config, {"hidden": [64, 64], **settings}), spec)
    obs, ended = torch.randn(64, n_agents, 12), torch.zeros(64, n_agents, dtype=torch.bool)
    actions = torch.rand(64, n_agents, 5) * 2 - 1 if kind == "continuous" else torch.randint(5, (64, n_agents))
    return learner, Batch(obs, actions, obs[..., 0], obs + 0.1, ended, ended)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n_agents", [4, 8])
def test_one_of_several_agents_costs_its_share_of_the_arithmetic(name, n_agents):
    for kind in sorted(algorithms.get(name).needs.actions):
        learner, batch = team(name, n_agents, kind)
        costs, prepared = [], learner.prepare(batch)
        for agents in ([1], None):
            with Arithmetic() as counter:
                learner.gradients(batch, agents, prepared)
            costs.append(counter.operations)
        assert costs[0] == pytest.approx(costs[1] / n_agents, rel=0.01)
        with Arithmetic() as counter:
            learner.gradients(batch)
        # What all agents' gradients read, which whoever is not given it computes.
        assert (counter.operations > 1.05 * costs[1]) == (name == "maddpg")


def test_what_is_prepared_for_all_gives_the_same_gradients_bit_for_bit(case):
    name, kind, settings = case
    learner = learner_of(name, kind, **settings)
    batch = batch_of(kind, learner, partial=True)
    prepared = learner.prepare(batch)
    for agents in ([2], [1, 0], None):
        assert_same(learner.gradients(batch, agents).values, learner.gradients(batch, agents, prepared).values)


def test_a_lent_snapshot_is_computed_with_and_left_as_it_was(case):
    name, kind, settings = case
    owner, worker = (learner_of(name, kind, seed, **settings) for seed in (0, 5))
    batch = batch_of(kind, owner)
    snapshot = owner.snapshot()
    kept = copy.deepcopy(snapshot)
    worker.load_snapshot(snapshot, lent=True)
    assert_same(worker.gradients(batch, [1]).values, owner.gradients(batch, [1]).values)
    assert_same(snapshot, kept)
    assert all(p.data_ptr() in {v.data_ptr() for v in snapshot.values()} for p in worker.parameters() if p.numel())


def test_what_cannot_be_split_is_refused_in_a_sentence():
    with pytest.raises(DataError, match="This algorithm computes its update for the whole team"):
        splitting(learner_of("ma-iql", "continuous"))
    for name, settings, words in (
        ("iql", {"share_parameters": True}, "share_parameters all agents have one set of weights"),
        ("td3-bc", {"critic": "centralised"}, "critic = centralised each agent's critic reads all agents"),
        ("omar", {"critic": "centralised"}, "critic = centralised"),
        ("cql", {"target_gap": 1.0}, "one multiplier weighs the gaps of all agents"),
    ):
        learner = learner_of(name, "continuous", **settings)
        with pytest.raises(DataError, match=words):
            splitting(learner)
        with pytest.raises(DataError, match=words):
            learner.gradients(batch_of("continuous", learner))
    assert splitting(learner_of("omar", "continuous")).spec is SPECS["continuous"]


def test_wrong_agents_and_missing_gradients_are_told():
    learner = learner_of("iql", "continuous")
    batch = batch_of("continuous", learner)
    for agents in ([], [0, 0], [3], [-1]):
        with pytest.raises(DataError, match=r"name some of 0 to 2, each once"):
            learner.gradients(batch, agents)
    part = learner.gradients(batch, [0, 2])
    with pytest.raises(DataError, match=r"agents \[0, 2\] alone cannot be applied: the team has 3"):
        learner.apply_gradients(part)
    with pytest.raises(DataError, match="one of them comes twice"):
        AgentGradients.join([part, learner.gradients(batch, [0])])
    other = learner_of("td3-bc", "continuous")
    with pytest.raises(DataError, match="different parameters"):
        AgentGradients.join([part, other.gradients(batch, [1])])
    with pytest.raises(DataError, match="The snapshot is of another learner"):
        learner.load_snapshot(other.snapshot())
