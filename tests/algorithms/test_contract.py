"""What every registered algorithm promises, plugins included: being registered is all it takes to be tested."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, fields, replace
from functools import cache

import pytest
import torch
from compared import random_pairs
from worlds import SPECS, random_batch_index, world

from offline_marl.algorithms.base import Algorithm, AlgorithmConfig, algorithms
from offline_marl.core.config import ConfigError, build
from offline_marl.core.files import load_tree, save_tree
from offline_marl.core.registry import RegistryError
from offline_marl.core.seeding import seeded_globally
from offline_marl.core.types import Batch, Needs
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.datasets.normalize import obs_statistics
from offline_marl.datasets.ring import TransitionRing
from offline_marl.networks.choices import ChoiceValues
from offline_marl.networks.critics import JointCritic
from offline_marl.networks.ensembles import AgentMLP
from offline_marl.networks.inputs import AgentInputs
from offline_marl.training.models.fit import facts_of
from offline_marl.training.preferences.pair_source import PairSource
from offline_marl.training.rewards import Rewards
from offline_marl.training.sources.imagined import Imagination, MixedSource, Plan
from offline_marl.training.sources.recorded import DatasetSource
from offline_marl.worldmodels.base import worldmodels
from offline_marl.worldmodels.rollout import Caution

ROWS = 24
JOINT = ("joint", "counterfactual")
"""Kinds of conservative gap that read all agents."""
SOFT = {"critic": "centralised", "policy": "sac", "target_gap": 0.5}
"""CQL's own actor and multiplier."""
DATA = {kind: world(kind) for kind in SPECS}


@cache
def buffer_of(kind: str, window: int, state: bool) -> TransitionBuffer:
    return TransitionBuffer(DATA[kind], window, state=state)


@dataclass(frozen=True)
class Case:
    name: str
    kind: str
    window: int
    shared: bool
    memory: str = "attention"
    frames: int = 1

    def __str__(self) -> str:
        past = f"window{self.window}" if self.memory == "attention" else f"{self.memory}{self.window}"
        return f"{self.name}-{self.kind}-{past}{'-shared' if self.shared else ''}"

    @property
    def spec(self):
        return SPECS[self.kind]

    @property
    def fields(self):
        return algorithms.get(self.name).Config.model_fields

    def learner(self, seed: int = 0, **settings) -> Algorithm:
        small = {"hidden": [16, 16], "batch_size": ROWS, "window": self.window, "share_parameters": self.shared}
        small |= {"history_encoder": self.memory, "frame_stack": self.frames}
        if "epochs" in self.fields:
            small["epochs"] = 2  # several, like the default's five, in less than half the time
        kind = algorithms.get(self.name)
        with seeded_globally(seed, "initialisation"):
            made = kind(build(kind.Config, {**small, **settings}), self.spec)
        made.place("cpu", seed)
        return made

    def batch(self, needs: Needs, seed: int = 0) -> Batch:
        if needs.view == "pairs":
            return self.source(needs, pairs=seed).view(torch.arange(ROWS), needs).check()
        buffer = buffer_of(self.kind, self.window, needs.state)
        return buffer.view(random_batch_index(DATA[self.kind], ROWS, seed), needs).check()

    def source(self, needs: Needs, seed: int = 0, pairs: int = 0) -> DatasetSource | PairSource:
        buffer = buffer_of(self.kind, self.window, needs.state)
        generator = torch.Generator().manual_seed(seed)
        if needs.view == "pairs":
            return PairSource(buffer, random_pairs(DATA[self.kind], ROWS, pairs), ROWS, generator)
        return DatasetSource(buffer, ROWS, generator)

    def pair(self, **settings) -> tuple[Algorithm, Batch]:
        made = self.learner(**settings)
        return made, self.batch(made.needs)


def importable() -> list[str]:
    """Registered names; a plugin that does not import fails one test of its own and no other."""
    found = []
    for name in algorithms.names():
        with contextlib.suppress(RegistryError):
            algorithms.get(name)
            found.append(name)
    return found


NAMES = importable()
PLAIN = [
    Case(name, kind, window, shared)
    for name in NAMES
    for kind in sorted(algorithms.get(name).needs.actions)
    for window, shared in ((0, False), (3, True))
]


def in_turn(case: Case) -> bool:
    """Whether a fast test has it: one kind of actions with a past and shared parameters, the other without, in turn.

    Learners of one kind of actions have both, and so have plugins.
    """
    kind = algorithms.get(case.name)
    both = len(kind.needs.actions) == 2 and kind.__module__.startswith("offline_marl.")
    return not both or case.shared == ((case.kind == "discrete") == (NAMES.index(case.name) % 2 == 0))


CASES = [case for case in PLAIN if in_turn(case)]
LATER = [case for case in PLAIN if not in_turn(case)]
"""The other halves of these pairs: `make slow` has them."""
# The past that stacked observations need is their number less the present one.
CASES += [Case("iql", kind, 3, True, "gru") for kind in SPECS]
CASES += [Case("bc", kind, 2, False, "none", 3) for kind in SPECS]
SELDOM = [
    Case(name, kind, 3, False, memory)
    for name in NAMES
    for kind in sorted(algorithms.get(name).needs.actions)
    for memory in ("attention", "gru")
    if memory == "attention" or name in ("bc", "iql", "td3-bc", "ma-ppo", "moma-ppo")
]
"""Parameters of their own with a past: `make slow` has them."""
SELDOM += [Case("ma-ppo", kind, 2, False, "none", 3) for kind in SPECS]


def slowly(cases: list[Case]) -> list:
    return [pytest.param(case, marks=pytest.mark.slow) for case in cases]


@pytest.fixture(params=[*CASES, *slowly(LATER), *slowly(SELDOM)], ids=str)
def case(request) -> Case:
    return request.param


def rows(batch: Batch) -> Batch:
    """The steps that count, segments or not, in one axis."""
    if batch.rewards.dim() == 2:
        return batch
    flat = batch.flatten()
    return flat if flat.mask is None else flat.map(lambda value: value[flat.mask.all(-1)])


def seen(batch: Batch) -> dict:
    batch = rows(batch)
    return {"obs": batch.obs, "history": batch.history, "avail_actions": batch.avail_actions}


def counted_steps(batch: Batch) -> torch.Tensor:
    assert batch.mask is not None
    return batch.mask.all(-1)


def one_step_counting(batch: Batch) -> Batch:
    """Of each segment only the first step that counts; transitions as they are."""
    if batch.rewards.dim() == 2:
        return batch
    counted = counted_steps(batch)
    only = counted & (counted.cumsum(-1) == 1)
    return replace(batch, mask=only.unsqueeze(-1).expand_as(batch.rewards))


def with_another_future(batch: Batch) -> Batch:
    """Something else after the step that counts: in what it leads to, and in all steps behind it alike."""
    segments = batch.rewards.dim() > 2
    begun = counted_steps(batch).cumsum(-1) > 0 if segments else torch.ones(len(batch), dtype=torch.bool)

    def shifted(value: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor | None:
        return None if value is None else value + rows.view(*rows.shape, *[1] * (value.dim() - rows.dim()))

    changed = {"next_obs": shifted(batch.next_obs, begun), "next_state": shifted(batch.next_state, begun)}
    if batch.next_actions is not None:
        other = -batch.next_actions
        if batch.next_avail_actions is not None:
            other = batch.next_avail_actions.int().argmax(-1)
        changed["next_actions"] = other
    if segments:
        behind = begun & ~one_step_counting(batch).mask.all(-1)
        changed |= {name: shifted(getattr(batch, name), behind) for name in ("obs", "state", "rewards")}
    return replace(batch, **changed).check()


def parameters(learner: Algorithm) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in learner.named_parameters()}


def is_target(name: str) -> bool:
    return any(part.startswith("target_") for part in name.split("."))


def same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def after_one(case: Case, batch: Batch) -> dict[str, torch.Tensor]:
    # The conservative gap asks the next step's policy for actions, which has nothing to do with bootstrapping;
    # where an episode ends stops a sum of later errors, however it ends.
    off = {"cql_alpha": 0.0, "gae_lambda": 0.0}
    learner = case.learner(**{name: value for name, value in off.items() if name in case.fields})
    learner.update(batch)
    return parameters(learner)


@pytest.mark.parametrize("name", algorithms.names())
def test_every_registered_name_imports_with_a_config_and_needs_of_its_own(name):
    kind = algorithms.get(name)
    assert issubclass(kind, Algorithm) and issubclass(kind.Config, AlgorithmConfig)
    assert isinstance(kind.needs, Needs) and kind.needs.actions


def test_metrics_are_finite_detached_scalars_with_the_same_names_at_each_step(case):
    learner = case.learner()
    names = None
    for seed in range(3):
        metrics = learner.update(case.batch(learner.needs, seed))
        assert metrics and (names is None or list(metrics) == names)
        names = list(metrics)
        for name, value in metrics.items():
            assert isinstance(value, torch.Tensor) and value.dim() == 0 and value.is_floating_point(), name
            assert not value.requires_grad and bool(torch.isfinite(value)), name
    assert any(name.startswith("loss/") for name in names)


def test_every_trainable_parameter_moves_and_no_target_takes_a_gradient(case):
    learner = case.learner()
    before = parameters(learner)
    for seed in range(4):
        learner.update(case.batch(learner.needs, seed))
    for name, parameter in learner.named_parameters():
        if is_target(name):
            assert not parameter.requires_grad and parameter.grad is None, name
        else:
            assert parameter.requires_grad and not torch.equal(parameter, before[name]), f"{name} never moved"
            assert bool(torch.isfinite(parameter).all()), name
    groups = [group for optimizer in learner.optimizers.values() for group in optimizer.param_groups]
    optimised = {id(p) for group in groups for p in group["params"]}
    assert optimised == {id(p) for name, p in learner.named_parameters() if not is_target(name)}


def test_targets_follow_their_source(case):
    learner = case.learner(tau=0.5, lr=1e-2)
    before = parameters(learner)
    for seed in range(6):
        learner.update(case.batch(learner.needs, seed))
    now = parameters(learner)
    for name in filter(is_target, now):
        source = now[name.replace("target_", "", 1)]
        assert not torch.equal(now[name], before[name]), f"{name} stands still"
        assert not torch.equal(now[name], source), f"{name} does not lag"
        assert (now[name] - source).norm() < (before[name] - source).norm(), f"{name} does not follow"


def test_an_update_leaves_its_batch_alone(case):
    learner, batch = case.pair()
    kept = batch.map(torch.clone)
    learner.update(batch)
    assert all(same(getattr(batch, f.name), getattr(kept, f.name)) for f in fields(Batch))


def test_actions_are_in_bounds_and_allowed(case):
    learner, batch = case.pair()
    learner.update(batch)
    batch = rows(batch)
    loud = seen(batch) | {"obs": batch.obs * 100}
    for explore in (False, True):
        actions = learner.act(**loud, explore=explore)
        assert not actions.requires_grad
        if case.kind == "discrete":
            assert actions.dtype == torch.int64 and actions.shape == batch.rewards.shape
            assert bool(batch.avail_actions.gather(-1, actions.unsqueeze(-1)).all())
            free = learner.act(**(loud | {"avail_actions": None}), explore=explore)
            assert bool(((free >= 0) & (free < torch.tensor(case.spec.act_dims))).all())
        else:
            assert actions.dtype == torch.float32 and actions.shape == batch.actions.shape
            assert bool((actions.abs() <= 1).all())
            assert bool((actions[:, ~case.spec.present("act")] == 0).all()), "padding should stay zero"


def test_acting_without_exploring_is_deterministic_and_changes_nothing(case):
    learner, batch = case.pair()
    learner.update(batch)
    kept = learner.state_dict()
    kept = {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in kept.items()}
    first = learner.act(**seen(batch))
    learner.act(**seen(batch), explore=False)
    assert torch.equal(first, learner.act(**seen(batch)))
    assert same(kept, learner.state_dict())


def test_exploring_draws_from_the_learners_own_generator_alone(case):
    learner, batch = case.pair()
    everywhere = torch.get_rng_state()
    learner.place("cpu", 5)
    first = [learner.act(**seen(batch), explore=True) for _ in range(3)]
    learner.place("cpu", 5)
    again = [learner.act(**seen(batch), explore=True) for _ in range(3)]
    assert same(first, again)
    assert not same(first[0], first[1])
    assert torch.equal(everywhere, torch.get_rng_state())


def test_an_agent_acts_on_nothing_but_what_it_sees_itself(case):
    learner, batch = case.pair()
    learner.update(batch)
    noise = torch.Generator().manual_seed(1)
    for explore in (False, True):
        learner.place("cpu", 5)
        plain = learner.act(**seen(batch), explore=explore)
        for j in range(case.spec.n_agents):
            others = [i for i in range(case.spec.n_agents) if i != j]
            inputs = {key: value.clone() for key, value in seen(batch).items() if value is not None}
            for key in ("obs", "history"):
                if key in inputs:
                    inputs[key][:, j] += torch.randn(inputs[key][:, j].shape, generator=noise)
            if "avail_actions" in inputs:
                inputs["avail_actions"][:, j] = case.spec.present("act")[j]
            learner.place("cpu", 5)
            shaken = learner.act(**inputs, explore=explore)
            assert torch.equal(shaken[:, others], plain[:, others]), f"agent {j} was heard by the others"
            if case.kind == "continuous":
                assert not torch.equal(shaken[:, j], plain[:, j]), f"agent {j} does not listen to itself"


def test_acting_takes_any_leading_axes(case):
    learner, batch = case.pair()
    flat = {key: value[:6] for key, value in seen(batch).items() if value is not None}
    folded = {key: value.unflatten(0, (2, 3)) for key, value in flat.items()}
    single = {key: value[0] for key, value in flat.items()}
    actions = learner.act(**flat)
    torch.testing.assert_close(learner.act(**folded).flatten(0, 1), actions)
    torch.testing.assert_close(learner.act(**single), actions[0])


def test_truncations_change_nothing(case):
    batch = case.batch(case.learner().needs)
    none, every = (replace(batch, truncations=torch.full_like(batch.truncations, flag)) for flag in (False, True))
    assert same(after_one(case, none), after_one(case, every))


def test_termination_cuts_the_bootstrap_and_nothing_else_does(case):
    learner = case.learner()
    batch = case.batch(several_steps(learner.needs))
    bootstraps = "loss/critic" in learner.update(batch)
    other = with_another_future(batch)
    batch, other = one_step_counting(batch), one_step_counting(other)
    ended, going = (
        [replace(each, terminations=torch.full_like(each.terminations, flag)) for each in (batch, other)]
        for flag in (True, False)
    )
    assert same(after_one(case, ended[0]), after_one(case, ended[1])), "what follows a termination has no value"
    if bootstraps:
        assert not same(after_one(case, going[0]), after_one(case, going[1])), "what follows any other step has"
        assert not same(after_one(case, ended[0]), after_one(case, going[0]))


def several_steps(needs: Needs) -> Needs:
    """Segments of recorded steps, also for learners that eat those of their own episodes."""
    return needs if needs.view == "transitions" or needs.length != 1 else replace(needs, length=4)


def test_what_stands_behind_the_last_step_that_counts_changes_nothing(case):
    needs = several_steps(case.learner().needs)
    if needs.view == "transitions":
        pytest.skip("transitions are not padded")
    batch = case.batch(needs)
    behind = counted_steps(batch).flip(-1).cumsum(-1).flip(-1) == 0
    assert bool(behind.any()) and not bool(behind.all())
    noise = torch.Generator().manual_seed(3)
    scribbled = {}
    for name in ("obs", "next_obs", "rewards", "history", "next_history"):
        value = getattr(batch, name)
        if value is not None:
            other = 5 * torch.randn(value.shape, generator=noise)
            scribbled[name] = torch.where(behind.view(*behind.shape, *[1] * (value.dim() - behind.dim())), other, value)
    scribbled["terminations"] = batch.terminations ^ behind.unsqueeze(-1)
    assert same(after_one(case, batch), after_one(case, replace(batch, **scribbled)))


def test_what_stands_where_agents_are_absent_changes_nothing(case):
    """Agents that are not there, now or in the next step, reach nobody: no critic, mixer, mean or gap."""
    needs = several_steps(case.learner().needs)
    batch = case.batch(needs)
    noise = torch.Generator().manual_seed(4)
    present = torch.rand(batch.rewards.shape, generator=noise) < 0.6
    present[::5] = False
    mask = present if batch.mask is None else present & batch.mask
    assert bool((~mask).all(-1).any()) and bool((mask.any(-1) & ~mask.all(-1)).any())
    batch = replace(batch, mask=mask, terminations=batch.terminations & mask)
    after = mask & ~batch.terminations
    scribbled = {"terminations": batch.terminations | ~mask, "truncations": batch.truncations ^ ~mask}
    for name, kept in (
        ("obs", mask),
        ("rewards", mask),
        ("history", mask),
        ("next_obs", after),
        ("next_history", after),
    ):
        value = getattr(batch, name)
        if value is not None:
            other = 5 * torch.randn(value.shape, generator=noise)
            scribbled[name] = torch.where(kept.view(*kept.shape, *[1] * (value.dim() - kept.dim())), value, other)
    for name, kept in (("avail_actions", mask), ("next_avail_actions", after)):
        if getattr(batch, name) is not None:
            scribbled[name] = getattr(batch, name) & kept.unsqueeze(-1)
    if case.kind == "discrete":
        scribbled["actions"] = torch.where(mask, batch.actions, 1)
    else:
        other = (torch.rand(batch.actions.shape, generator=noise) * 2 - 1) * case.spec.present("act")
        scribbled["actions"] = torch.where(mask.unsqueeze(-1), batch.actions, other)
    for more in (
        {},
        {"critic": "centralised"},
        SOFT,
        *({"cql_actions": kind, "critic": "centralised"} for kind in JOINT),
    ):
        unfit = case.name == "omar" and "policy" in more
        if not {*more} <= {*case.fields} or (more and case.kind == "discrete") or unfit:
            continue
        ends = []
        for each in (batch, replace(batch, **scribbled)):
            learner = case.learner(**more)
            metrics = learner.update(each)
            assert all(bool(value.isfinite()) for value in metrics.values())
            ends.append((parameters(learner), metrics))
        assert same(*ends)


def test_a_batch_of_agents_that_are_all_there_is_one_without_a_mask(case):
    batch = case.batch(case.learner().needs)
    if batch.mask is not None:
        pytest.skip("segments have a mask of their own")
    masked = replace(batch, mask=torch.ones_like(batch.terminations), terminations=torch.zeros_like(batch.terminations))
    plain = replace(masked, mask=None)
    torch.testing.assert_close(after_one(case, plain), after_one(case, masked), rtol=1e-4, atol=2e-5)


def test_an_update_takes_imagined_rows_beside_recorded_ones(case):
    learner = case.learner()
    if learner.needs.origin != "data" or learner.needs.state or learner.needs.recorded == "only":
        pytest.skip("it learns from no recorded rows, or needs a state, which models do not foresee")
    data = replace(DATA[case.kind], avail_actions=None)
    kind = worldmodels.get("ensemble")
    with seeded_globally(0, "model"):
        model = kind(build(kind.Config, {"hidden": [8], "members": 2, "elites": 1}), facts_of(data))
    model.place("cpu", 0)
    buffer = TransitionBuffer(data, case.window, state=False)
    plan = Plan(16, 4, 0.0, Caution(weight=0.0, reward_weight=0.0, cutoff=float("inf")))
    draws = [torch.Generator().manual_seed(seed) for seed in range(2)]
    imagination = Imagination(model, learner, buffer, plan, Rewards(data), draws[0])
    real = DatasetSource(buffer, ROWS, draws[1])
    source = MixedSource(real, imagination, TransitionRing(64), (0.5, 0.5), 2, 4)
    for _ in range(3):
        batch = source.sample(learner.needs).check()
        imagined = batch.synthetic.flatten(1).any(1) if batch.synthetic.dim() > 1 else batch.synthetic
        assert int(imagined.sum()) == ROWS // 2 and len(batch) == ROWS
        assert (batch.next_actions is not None) == learner.needs.next_actions
        assert all(bool(torch.isfinite(value)) for value in learner.update(batch).values())


def policy_gradients(learner: Algorithm) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in learner.named_parameters() if name.startswith(("actor.", "policy."))}


def of_recorded_rows(cases: list[Case]) -> list[Case]:
    return [case for case in cases if algorithms.get(case.name).needs.recorded != "none"]


@pytest.mark.parametrize("case", [*of_recorded_rows(CASES), *slowly(of_recorded_rows(LATER))], ids=str)
def test_imagined_actions_are_no_demonstrations(case):
    """What stands as an action in imagined rows reaches no policy's gradient and no conservative gap."""
    learner, batch = case.pair()
    imagined = torch.arange(len(batch)) % 3 > 0
    batch = replace(batch, synthetic=row_by_row(imagined, batch.rewards[..., 0]))
    others = batch.actions.roll(1, 0) if case.kind == "continuous" else torch.zeros_like(batch.actions)
    if batch.avail_actions is not None:
        avail = batch.avail_actions.clone()
        avail[imagined] = case.spec.present("act")
        batch = replace(batch, avail_actions=avail)
    changed = replace(batch, actions=torch.where(row_by_row(imagined, others), others, batch.actions))
    assert not torch.equal(changed.actions, batch.actions)
    ends = []
    for each in (batch, changed):
        learner = case.learner()
        metrics = learner.update(each)
        ends.append((policy_gradients(learner), metrics.get("loss/gap")))
    torch.testing.assert_close(ends[0], ends[1])
    plain = case.learner()
    plain.update(replace(batch, synthetic=None))
    if ends[0][0] and case.name != "omar":  # which clones nobody
        assert not same(ends[0][0], policy_gradients(plain)), "imagined rows should count elsewhere"


def test_a_batch_of_recorded_rows_alone_is_learnt_from_as_one_that_does_not_say_so(case):
    batch = case.batch(case.learner().needs)
    marked = replace(batch, synthetic=torch.zeros(batch.rewards.shape[:-1], dtype=torch.bool))
    torch.testing.assert_close(after_one(case, batch), after_one(case, marked), rtol=1e-4, atol=1e-6)


def test_a_batch_without_recorded_rows_leaves_every_weight_finite(case):
    batch = case.batch(case.learner().needs)
    learner = case.learner()
    learner.update(replace(batch, synthetic=torch.ones(batch.rewards.shape[:-1], dtype=torch.bool)))
    assert all(bool(p.isfinite().all()) for p in learner.parameters())


def row_by_row(rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return rows.view(-1, *[1] * (like.dim() - 1)).expand_as(like)


def test_the_order_of_rows_changes_nothing(case):
    def doubled(batch: Batch) -> Batch:
        return batch.map(lambda value: value.double() if value.is_floating_point() else value)

    batch = doubled(case.batch(case.learner().needs))
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(2))
    ends = []
    # Minibatches are drawn; one that holds everything is not.
    whole = {"minibatch_size": 10_000} if "minibatch_size" in case.fields else {}
    if not same(*(after_one_seeded(case, batch, seed, whole) for seed in (0, 1))):
        pytest.skip("its update draws noise, one number per row")
    for shuffled in (batch, batch.map(lambda value: value[order])):
        learner = case.learner(**whole).double()
        metrics = [learner.update(shuffled) for _ in range(2)]
        ends.append((parameters(learner), metrics[-1]))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-7, atol=1e-9)


def after_one_seeded(case: Case, batch: Batch, seed: int, settings: dict) -> dict[str, torch.Tensor]:
    learner = case.learner(**settings).double()
    learner.place("cpu", seed)
    learner.update(batch)
    return parameters(learner)


# One agent's padding is another's input where weights are shared.
@pytest.mark.parametrize("case", [case for case in [*CASES, *LATER] if not case.shared], ids=str)
def test_padding_carries_no_gradient(case):
    """Weights that read an agent's padded inputs, or make its padded outputs, have a gradient of exactly zero."""
    learner, batch = case.pair(standardize_obs=True)
    learner.standardize(*obs_statistics(DATA[case.kind]))
    obs, act = case.spec.present("obs"), case.spec.present("act")
    learner.update(batch)
    checked = 0
    for name, module in learner.named_modules():
        if is_target(name):
            continue
        if isinstance(module, AgentInputs) and module.encoder is not None:
            first = module.encoder.gru.read if case.memory == "gru" else module.encoder.embed
            checked += refuse_padding(name, first.weight.grad, torch.cat([obs, act], dim=-1))
        if isinstance(module, ChoiceValues):
            embedding = torch.ones(case.spec.n_agents, learner.inputs.width - case.spec.obs_dim, dtype=torch.bool)
            checked += refuse_padding(name, module.layers[0].weight.grad, torch.cat([embedding, obs], dim=-1))
            checked += refuse_padding(name, module.head.weight.grad.transpose(1, 2), act)
        if isinstance(module, AgentMLP):
            first, last = module.stack.layers[0].weight.grad, module.stack.layers[-1].weight.grad
            stacked = obs.repeat(1, case.frames)
            embedding = torch.ones(case.spec.n_agents, learner.inputs.width - stacked.shape[1], dtype=torch.bool)
            readers = {
                learner.inputs.width: torch.cat([embedding, stacked], dim=-1),
                learner.inputs.width + case.spec.act_dim: torch.cat([embedding, stacked, act], dim=-1),
            }
            if isinstance(learner.get_submodule(name.rpartition(".")[0]), JointCritic):
                pair, agents = torch.cat([embedding, obs, act], dim=-1), range(case.spec.n_agents)
                turned = torch.stack([torch.cat([pair[(i + turn) % len(pair)] for turn in agents]) for i in agents])
                readers = {turned.shape[1]: turned}
            checked += refuse_padding(name, first, readers[first.shape[1]].repeat(module.copies, 1))
            if last.shape[-1] % case.spec.act_dim == 0:
                makers = act.repeat(module.copies, last.shape[-1] // case.spec.act_dim)
                checked += refuse_padding(name, last.transpose(1, 2), makers)
    assert checked


def refuse_padding(name: str, gradient: torch.Tensor, present: torch.Tensor) -> int:
    assert bool((gradient[~present] == 0).all()), f"padding reaches {name}"
    assert bool((gradient[present] != 0).any()), f"nothing reaches {name}"
    return 1


def test_the_config_survives_json(case):
    kind = algorithms.get(case.name).Config
    config = build(kind, {"hidden": [16, 16], "window": case.window, "share_parameters": case.shared, "lr": 1e-3})
    assert kind.model_validate_json(config.model_dump_json()) == config
    assert build(kind, config.model_dump(mode="json")) == config


@pytest.mark.parametrize("name", NAMES)
def test_the_config_refuses_a_misspelt_field_and_names_the_right_one(name):
    with pytest.raises(ConfigError, match=r"Unknown field 'gama'.*did you mean 'gamma'"):
        build(algorithms.get(name).Config, {"gama": 0.9})


@pytest.mark.parametrize("name", NAMES)
def test_the_common_fields_keep_their_bounds(name):
    for bad in (
        {"gamma": 1.5},
        {"tau": -0.1},
        {"lr": 0.0},
        {"batch_size": 0},
        {"hidden": []},
        {"hidden": [0]},
        {"window": -1},
        {"grad_clip": -1.0},
        {"lr": float("nan")},
    ):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            build(algorithms.get(name).Config, bad)


def test_saved_at_three_and_run_to_six_equals_run_to_six(case, tmp_path):
    def fresh(seed: int) -> tuple[Algorithm, DatasetSource | PairSource]:
        learner = case.learner(seed, grad_clip=0.5)
        return learner, case.source(learner.needs, seed)

    def run(learner: Algorithm, source: DatasetSource | PairSource, steps: int) -> None:
        for _ in range(steps):
            batch = source.sample(learner.needs)
            learner.update(batch)
            learner.act(**seen(batch), explore=True)

    straight, source = fresh(0)
    run(straight, source, 3)
    save_tree(tmp_path / "three", {"learner": straight.state_dict(), "source": source.state_dict()}, "test")
    run(straight, source, 3)

    tree, _ = load_tree(tmp_path / "three", "test")
    taken_up, its_source = fresh(1)
    taken_up.load_state_dict(tree["learner"])
    its_source.load_state_dict(tree["source"])
    run(taken_up, its_source, 3)

    assert same(straight.state_dict(), taken_up.state_dict())
    assert same(source.state_dict(), its_source.state_dict())
    batch = case.batch(straight.needs)
    assert torch.equal(straight.act(**seen(batch), explore=True), taken_up.act(**seen(batch), explore=True))
