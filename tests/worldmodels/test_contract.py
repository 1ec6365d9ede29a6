"""What every registered world model promises, plugins included: being registered is all it takes to be tested."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, get_args

import pytest
import torch
from counting_model import Counting
from worlds import SPECS, random_batch_index, world

from offline_marl.core.config import ConfigError, build
from offline_marl.core.files import load_tree, save_tree
from offline_marl.core.registry import RegistryError
from offline_marl.core.seeding import seeded_globally
from offline_marl.core.types import Batch, Needs
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.worldmodels.base import Prediction, WorldModel, WorldModelConfig, worldmodels
from offline_marl.worldmodels.ensemble_model import EnsembleModel
from offline_marl.worldmodels.facts import measure

ROWS = 12
SMALL_TOKENS = {"tokenizer_steps": 1, "guess": [16], "width": 16, "length": 4, "action_bins": 8, "reward_bins": 8}
DATA = {kind: world(kind) for kind in SPECS}
WINDOWS = {window: {kind: TransitionBuffer(data, window) for kind, data in DATA.items()} for window in (0, 3)}
EVERYTHING = {kind: WINDOWS[0][kind].transitions(torch.arange(len(data))) for kind, data in DATA.items()}
FACTS = {
    kind: measure(SPECS[kind], rows.obs, rows.next_obs, rows.rewards, rows.terminations)
    for kind, rows in EVERYTHING.items()
}


def kind_of(name: str) -> type[WorldModel]:
    """The registered kind, or the made-up one whose carry holds what observations do not tell."""
    return Counting if name == "counting" else worldmodels.get(name)


@dataclass(frozen=True)
class Case:
    name: str
    kind: str
    window: int
    settings: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        said = "".join(f"-{value}" for _, value in self.settings)
        return f"{self.name}-{self.kind}-window{self.window}{said}"

    @property
    def spec(self):
        return SPECS[self.kind]

    def model(self, seed: int = 0, **settings) -> WorldModel:
        kind = kind_of(self.name)
        known = set(kind.Config.model_fields)
        few = {"members": 4, "elites": 3} if {"members", "elites"} <= known else {}
        small = {
            "hidden": [16, 16],
            "batch_size": ROWS,
            "window": self.window,
            **few,
            **(SMALL_TOKENS if SMALL_TOKENS.keys() <= known else {}),
            **dict(self.settings),
            **settings,
        }
        with seeded_globally(seed, "initialisation"):
            made = kind(build(kind.Config, small), FACTS[self.kind])
        made.place("cpu", seed)
        return made

    def rows(self, seed: int = 0, count: int = ROWS) -> Batch:
        buffer = WINDOWS[self.window][self.kind]
        return buffer.transitions(random_batch_index(DATA[self.kind], count, seed)).check()

    def batch(self, model: WorldModel, seed: int = 0) -> Batch:
        if not isinstance(model, EnsembleModel):
            index = random_batch_index(DATA[self.kind], ROWS, seed)
            return WINDOWS[self.window][self.kind].view(index, model.needs).check()
        rows = self.rows(seed, model.members * ROWS)
        return rows.map(lambda value: value.unflatten(0, (model.members, ROWS))).check()


def cases() -> Iterator[Case]:
    """Every kind of member where a config offers kinds, and both ways of predicting where it offers them."""
    for name in [*worldmodels.names(), "counting"]:
        with contextlib.suppress(RegistryError):
            model = kind_of(name)
            if not model.fitted:
                continue
            known = model.Config.model_fields
            kinds = get_args(known["kind"].annotation) if "kind" in known else ()
            every = [(("kind", kind),) for kind in kinds] or [()]
            if "tokenizer" in known:
                yield Case(name, "continuous", 3, (("tokenizer", "fsq"), ("rows_at_once", 4), ("ce_for_r", False)))
                yield Case(name, "discrete", 0, (("tokenizer", "bins"), ("decoding", "parallel")))
            yield from (Case(name, "continuous", 0, settings) for settings in every)
            yield from (Case(name, "discrete", 3, settings) for settings in dict.fromkeys((every[0], every[-1])))
            if {"predict", "spectral_norm"} <= set(known):
                yield Case(name, "continuous", 3, (("predict", "absolute"), ("spectral_norm", True)))
                yield Case(name, "continuous", 3, (("history_encoder", "gru"),))


CASES = list(cases())
NAMES = sorted({case.name for case in CASES})
ENSEMBLES = [case for case in CASES if issubclass(kind_of(case.name), EnsembleModel)]


@pytest.fixture(params=CASES, ids=str)
def case(request) -> Case:
    return request.param


@pytest.fixture(params=ENSEMBLES, ids=str)
def ensemble_case(request) -> Case:
    return request.param


def foreseen(model: WorldModel, rows: Batch) -> Prediction:
    """The first step from these rows, under their actions."""
    return model.step(model.begin(rows), rows.actions)[0]


def flat(rows: Batch) -> Batch:
    """Rows without a member axis, which starts never have."""
    return rows.map(lambda value: value.flatten(0, 1)) if rows.rewards.dim() > 2 else rows


def parts(model: WorldModel) -> int:
    """Numbers that `errors` has."""
    return model.members


def parameters(model: WorldModel) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def asked(batch: Batch) -> dict:
    return {"obs": batch.obs, "actions": batch.actions, "history": batch.history}


def same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_every_registered_name_has_a_config_and_needs_of_its_own():
    assert "ensemble" in NAMES
    for name in NAMES:
        kind = kind_of(name)
        assert issubclass(kind, WorldModel) and issubclass(kind.Config, WorldModelConfig)
        assert isinstance(kind.needs, Needs)


def test_metrics_are_finite_detached_scalars_with_the_same_names_at_each_step(case):
    model = case.model()
    names = None
    for seed in range(3):
        metrics = model.update(case.batch(model, seed))
        assert names is None or list(metrics) == names
        names = list(metrics)
        for name, value in metrics.items():
            assert isinstance(value, torch.Tensor) and value.dim() == 0, name
            assert not value.requires_grad and bool(torch.isfinite(value)), name
    assert "loss/model" in names


def test_every_trainable_parameter_moves_and_nothing_else_is_optimised(case):
    model = case.model()
    before = parameters(model)
    for seed in range(3):
        model.update(case.batch(model, seed))
    for name, parameter in parameters(model).items():
        moved = parameter != before[name]
        if isinstance(model, EnsembleModel):
            assert bool(moved.flatten(1).any(-1).all()), f"{name} of a member never moved"
        assert bool(moved.any()), f"{name} never moved"
        assert bool(torch.isfinite(parameter).all()), name
    groups = [group for optimizer in model.optimizers.values() for group in optimizer.param_groups]
    optimised = {id(p) for group in groups for p in group["params"]}
    assert optimised == {id(p) for p in model.parameters() if p.requires_grad}


def test_a_member_learns_from_its_own_rows_alone(ensemble_case):
    case = ensemble_case
    ends = []
    for shift in (0.0, 3.0):
        model = case.model()
        for seed in range(3):
            batch = case.batch(model, seed)
            # Every member but the first meets other rows, whose gradients are much larger.
            rewards = batch.rewards.clone()
            rewards[1:] += shift
            model.update(replace(batch, rewards=rewards))
        ends.append(parameters(model))
    if model.members == 1:
        pytest.skip("it has one member")
    for name, parameter in ends[0].items():
        assert torch.equal(parameter[0], ends[1][name][0]), f"{name} heard another member"
    assert any(not torch.equal(p[1], ends[1][name][1]) for name, p in ends[0].items())


def test_an_update_leaves_its_batch_alone_and_draws_from_its_own_generator(case):
    everywhere = torch.get_rng_state()
    model = case.model()
    batch = case.batch(model)
    kept = batch.map(torch.clone)
    model.update(batch)
    foreseen(model, flat(batch))
    assert all(same(getattr(batch, f.name), getattr(kept, f.name)) for f in fields(Batch))
    assert torch.equal(everywhere, torch.get_rng_state())


@pytest.mark.long
def test_padding_is_inert_and_predicted_as_zero(case):
    model = case.model()
    plain = case.batch(model)
    obs, act = case.spec.present("obs"), case.spec.present("act")
    changed = {"obs": plain.obs + 9.0 * ~obs, "next_obs": plain.next_obs + 7.0 * ~obs}
    if case.kind == "continuous":
        changed["actions"] = plain.actions + 5.0 * ~act
    if plain.history is not None:
        happened = plain.history.ne(0).any(-1, keepdim=True)
        changed["history"] = plain.history + 3.0 * ~torch.cat([obs, act], dim=-1).unsqueeze(1) * happened
    ends = []
    for batch in (plain, replace(plain, **changed)):
        model = case.model()
        metrics = model.update(batch)
        ends.append((metrics, parameters(model), foreseen(model, flat(batch)).next_obs))
    assert same(ends[0], ends[1])
    assert bool((ends[0][2][..., ~obs] == 0).all())


def test_rows_that_do_not_count_teach_nothing(case):
    ends = []
    for junk in (0.0, 50.0):
        model = case.model()
        batch = case.batch(model)
        mask = torch.ones_like(batch.terminations)
        mask[..., -4:, :] = False
        next_obs = batch.next_obs + junk * ~mask.unsqueeze(-1) * case.spec.present("obs")
        model.update(replace(batch, next_obs=next_obs, mask=mask))
        ends.append(parameters(model))
    torch.testing.assert_close(ends[0], ends[1])


def test_a_step_has_the_axes_it_promises(case):
    model = case.model()
    model.update(case.batch(model))
    rows, n_agents = case.rows(count=6), case.spec.n_agents
    prediction = foreseen(model, rows)
    assert prediction.next_obs.shape == rows.obs.shape and prediction.next_obs.dtype == torch.float32
    assert prediction.rewards.shape == prediction.terminations.shape == (6, n_agents)
    assert prediction.terminations.dtype == torch.bool and not prediction.next_obs.requires_grad
    held = {"state": prediction.next_state, "avail_actions": prediction.next_avail_actions}
    choices = frozenset() if case.spec.discrete else {"avail_actions"}
    assert {name for name, value in held.items() if value is not None} == model.foresees - choices


def test_a_carry_may_be_stepped_from_twice(case):
    """Neither a step nor a row that ends changes the carry that it began from."""
    model, rows = case.model(), case.rows(count=6)
    first = model.begin(rows)
    ends = []
    for _ in range(2):
        model.place("cpu", 5)
        carry, told = first, []
        for _ in range(3):
            prediction, carry = model.step(carry, rows.actions)
            told.append((prediction.next_obs, prediction.rewards))
        ends.append(told)
        first.where(torch.arange(6) < 2).correct(rows.obs + 1)
    assert same(*ends)


def test_rows_that_go_on_do_not_depend_on_rows_that_are_over(case):
    ends = []
    for alive in (torch.ones(6, dtype=torch.bool), torch.arange(6) % 2 == 0):
        model, rows = case.model(), case.rows(count=6)
        carry = model.begin(rows)
        for _ in range(2):
            prediction, carry = model.step(carry, rows.actions)
            carry = carry.correct(prediction.next_obs).where(alive)
        prediction, carry = model.step(carry, rows.actions)
        assert prediction.next_obs.shape == rows.obs.shape, "all rows keep their places"
        ends.append((prediction.next_obs[::2], prediction.rewards[::2]))
        nobody = carry.where(torch.zeros(6, dtype=torch.bool))
        assert model.step(nobody, rows.actions)[0].rewards.shape == rows.rewards.shape
    torch.testing.assert_close(*ends)


def test_an_ensemble_predicts_for_any_lead(ensemble_case):
    case = ensemble_case
    model = case.model()
    model.update(case.batch(model))
    rows = asked(case.rows(count=6))
    n_agents, obs_dim = case.spec.n_agents, case.spec.obs_dim
    said = {}
    for lead in ((6,), (2, 3), (3, 2, 1)):
        shaped = {key: None if value is None else value.unflatten(0, lead) for key, value in rows.items()}
        model.place("cpu", 5)
        found = said[lead] = model.predict(**shaped)
        assert found.next_obs.shape == (*lead, n_agents, obs_dim) and found.next_obs.dtype == torch.float32
        assert found.rewards.shape == found.terminations.shape == (*lead, n_agents)
        assert found.terminations.dtype == torch.bool and not found.next_obs.requires_grad
        torch.testing.assert_close(found.next_obs.reshape(6, n_agents, obs_dim), said[(6,)].next_obs)
        spread = found.spread
        if spread is not None:
            assert spread.next_obs.shape[1:] == (*lead, model.facts.coordinates)
            assert spread.rewards.shape[1:] == (*lead, n_agents)
            assert (spread.next_obs_std is None) == (spread.rewards_std is None)
            for mean, std in ((spread.next_obs, spread.next_obs_std), (spread.rewards, spread.rewards_std)):
                assert std is None or (std.shape == mean.shape and bool((std > 0).all()))
    single = model.predict(**{key: None if value is None else value[0] for key, value in rows.items()})
    assert single.next_obs.shape == (n_agents, obs_dim) and single.rewards.shape == (n_agents,)


def test_a_prediction_is_that_of_one_of_the_elites_row_by_row(ensemble_case):
    case = ensemble_case
    model = case.model()
    found = foreseen(model, case.rows(count=200))
    joined = model.facts.join(found.next_obs)
    said = (joined == found.spread.next_obs).all(-1) & (found.rewards == found.spread.rewards).all(-1)
    assert bool(said.any(0).all()) and bool(said.any(1).all()), "each row has a speaker, each elite speaks"


def test_actions_beyond_their_bounds_count_as_the_bounds(case):
    if case.kind == "discrete":
        pytest.skip("its actions are indices")
    model = case.model()
    rows = case.rows()
    border = rows.actions.sign()
    found = []
    for actions in (border, 2.0 * border):
        model.place("cpu", 5)
        found.append(foreseen(model, replace(rows, actions=actions)).next_obs)
    assert torch.equal(*found)


def test_errors_are_one_number_or_one_per_member(case):
    model = case.model()
    for seed in range(2):
        model.update(case.batch(model, seed))
    errors = model.errors(case.rows(7))
    assert errors.shape == (parts(model),) and not errors.requires_grad and bool((errors > 0).all())


def test_choosing_takes_the_members_of_least_error(ensemble_case):
    case = ensemble_case
    model = case.model()
    for seed in range(2):
        model.update(case.batch(model, seed))
    errors = model.errors(case.rows(7))
    before = foreseen(model, case.rows()).spread
    model.choose(errors)
    model.choose(errors)
    after = foreseen(model, case.rows()).spread
    if before is not None and len(before.rewards) > 1:
        assert not torch.equal(before.rewards, after.rewards), "new elites are heard at once"


def test_the_best_weights_are_kept_and_put_back(case):
    model = case.model()
    model.snapshot(torch.ones(parts(model), dtype=torch.bool))
    best = parameters(model)
    model.update(case.batch(model))
    model.snapshot(torch.zeros(parts(model), dtype=torch.bool))
    model.update(case.batch(model, 1))
    model.conclude(model.errors(case.rows()))
    assert same(parameters(model), best)


def test_the_best_weights_are_kept_by_member(ensemble_case):
    case = ensemble_case
    model = case.model()
    first = parameters(model)
    chosen = torch.arange(model.members) % 2 == 0
    model.snapshot(torch.ones(model.members, dtype=torch.bool))
    model.update(case.batch(model))
    second = parameters(model)
    model.snapshot(chosen)
    model.update(case.batch(model, 1))
    rows = case.rows()
    foreseen(model, rows)
    model.restore_best()
    for name, parameter in parameters(model).items():
        assert torch.equal(parameter[chosen], second[name][chosen]), name
        assert torch.equal(parameter[~chosen], first[name][~chosen]), name
    model.place("cpu", 5)
    heard = foreseen(model, rows)
    other = case.model(1)
    other.load_state_dict(model.state_dict())
    other.place("cpu", 5)
    assert torch.equal(heard.next_obs, foreseen(other, rows).next_obs), "the step forgets what it had gathered"


def test_saved_at_three_and_run_to_six_equals_run_to_six(case, tmp_path):
    def run(model: WorldModel, steps: range) -> list:
        told = []
        for step in steps:
            told.append(model.update(case.batch(model, step)))
            if step % 3 == 0:
                errors = model.errors(case.rows(step))
                if isinstance(model, EnsembleModel):
                    model.choose(errors)
                model.snapshot(errors < errors.median() + 1e-9)
            told.append(foreseen(model, case.rows(step)).next_obs)
        return told

    settings = {"cosine_steps": 5, "weight_decay": 1e-4, "grad_clip": 0.5}
    straight = case.model(0, **settings)
    run(straight, range(3))
    save_tree(tmp_path / "three", {"model": straight.state_dict()}, "test")
    expected = run(straight, range(3, 6))

    tree, _ = load_tree(tmp_path / "three", "test")
    taken_up = case.model(1, **settings)
    foreseen(taken_up, case.rows())
    taken_up.load_state_dict(tree["model"])
    assert same(expected, run(taken_up, range(3, 6)))
    assert same(straight.state_dict(), taken_up.state_dict())
    straight.restore_best()
    taken_up.restore_best()
    assert same(straight.state_dict(), taken_up.state_dict())


def test_the_config_survives_json(case):
    kind = kind_of(case.name).Config
    config = build(kind, {"hidden": [16, 16], "window": case.window, "lr": 2e-3, **dict(case.settings)})
    assert kind.model_validate_json(config.model_dump_json()) == config
    assert build(kind, config.model_dump(mode="json")) == config


@pytest.mark.parametrize("name", NAMES)
def test_the_common_fields_keep_their_bounds(name):
    for bad in (
        {"lr": 0.0},
        {"batch_size": 0},
        {"hidden": []},
        {"window": -1},
        {"grad_clip": -1.0},
        {"weight_decay": -1.0},
        {"holdout": 0.0},
        {"holdout": 1.0},
        {"patience": 0},
        {"min_improvement": -0.1},
        {"sampling": "all"},
    ):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            build(kind_of(name).Config, bad)


@pytest.mark.parametrize("name", NAMES)
def test_the_config_refuses_a_misspelt_field_and_names_the_right_one(name):
    with pytest.raises(ConfigError, match=r"Unknown field 'patienc'.*did you mean 'patience'"):
        build(kind_of(name).Config, {"patienc": 3})
