from __future__ import annotations

import math
from dataclasses import replace

import linear_world
import pytest
import torch

from offline_marl.core.config import ConfigError, build
from offline_marl.core.seeding import seeded_globally
from offline_marl.core.types import Batch
from offline_marl.networks.ensembles import StackedLinear
from offline_marl.worldmodels.base import worldmodels
from offline_marl.worldmodels.ensemble import Ensemble, EnsembleConfig
from offline_marl.worldmodels.members import MixtureHead
from offline_marl.worldmodels.uncertainty import covariance_norm, pairwise_difference, standardized_variance

TRAIN = linear_world.rows(4_000, seed=0)
FACTS = linear_world.facts(TRAIN)
KINDS = ["gaussian", "mixture", "deterministic", "vae"]


def make(facts=FACTS, seed: int = 0, **settings) -> Ensemble:
    small = {"members": 4, "elites": 3, "hidden": [32, 32], "batch_size": 64, **settings}
    with seeded_globally(seed, "initialisation"):
        model = Ensemble(build(EnsembleConfig, small), facts)
    model.place("cpu", seed)
    return model


def fit(model: Ensemble, data: Batch, updates: int, seed: int = 0) -> Ensemble:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(updates):
        model.update(linear_world.drawn(data, model.members, model.batch_size, generator))
    return model


def silence(model: Ensemble) -> None:
    """Let every output be zero."""
    with torch.no_grad():
        for parameter in last(model).parameters():
            parameter.zero_()


def last(model: Ensemble) -> StackedLinear:
    layer = model.nets.net.layers[-1]
    assert isinstance(layer, StackedLinear)
    return layer


def ask(model: Ensemble, batch: Batch):
    return model.predict(batch.obs, batch.actions, batch.history)


# --- config -------------------------------------------------------------------------------------------------------


def test_more_elites_than_members_are_refused_in_one_sentence() -> None:
    with pytest.raises(ConfigError) as caught:
        build(EnsembleConfig, {"members": 3, "elites": 5})
    assert str(caught.value) == "There cannot be more elites (5) than members (3)."


@pytest.mark.parametrize("bad", [{"members": 0}, {"elites": 0}, {"components": 0}, {"latent": 0}, {"kind": "normal"}])
def test_fields_keep_their_bounds(bad) -> None:
    with pytest.raises(ConfigError):
        build(EnsembleConfig, bad)


def test_it_is_found_by_its_name_and_files_that_are_no_models_are_not() -> None:
    assert worldmodels.get("ensemble") is Ensemble
    assert not {"base", "facts", "members", "rollout", "uncertainty"} & set(worldmodels.names())
    summaries = {entry.name: entry.summary for entry in worldmodels.listings()}
    assert summaries["ensemble"].startswith("An ensemble of probabilistic networks")


# --- coordinates and units ----------------------------------------------------------------------------------------


def test_what_two_agents_see_is_modelled_once_and_told_to_both() -> None:
    model = fit(make(), TRAIN, 5)
    found = ask(model, linear_world.rows(50, seed=1))
    assert model.facts.coordinates == 3 and found.spread.next_obs.shape == (3, 50, 3)
    assert torch.equal(found.next_obs[:, 0, 0], found.next_obs[:, 1, 1])
    first = model.nets.net.layers[0]
    assert first.weight.shape[1] == 3 + 2
    # mean and log-std of 3 coordinates and 2 rewards, and one logit
    assert last(model).weight.shape[-1] == 2 * (3 + 2) + 1


@pytest.mark.parametrize("kind", ["gaussian", "deterministic"])
def test_zero_outputs_are_the_mean_change_or_the_mean_and_the_mean_reward(kind: str) -> None:
    rows = linear_world.rows(20, seed=1)
    for predict in ("change", "absolute"):
        model = make(kind=kind, predict=predict)
        silence(model)
        found = ask(model, rows)
        facts = model.facts
        expected = facts.join(rows.obs) + facts.change_mean if predict == "change" else facts.obs_mean.expand(20, -1)
        torch.testing.assert_close(found.next_obs, facts.spread_out(expected))
        torch.testing.assert_close(found.rewards, facts.reward_mean.expand(20, -1))
        assert not bool(found.terminations.any())
        if kind == "gaussian":  # a log-std of zero is one unit
            unit = facts.change_std if predict == "change" else facts.obs_std
            torch.testing.assert_close(found.spread.next_obs_std, unit.expand(3, 20, -1))
            torch.testing.assert_close(found.spread.rewards_std, facts.reward_std.expand(3, 20, -1))


def test_loss_and_errors_of_zero_outputs_by_hand() -> None:
    rows = linear_world.rows(64, seed=1)
    facts = FACTS
    moved = (facts.join(rows.next_obs) - facts.join(rows.obs) - facts.change_mean) / facts.change_std
    paid = (rows.rewards - facts.reward_mean) / facts.reward_std
    four = rows.map(lambda value: value.expand(4, *value.shape))
    constant = 0.5 * math.log(2 * math.pi)
    for kind, half, extra in (("gaussian", 0.5, constant), ("deterministic", 1.0, 0.0)):
        model = make(kind=kind, lr=1e-9)
        silence(model)
        torch.testing.assert_close(
            model.errors(rows), torch.cat([moved, paid], dim=-1).square().mean().sqrt().expand(4)
        )
        metrics = model.update(four)
        assert metrics["loss/next_obs"].item() == pytest.approx(half * moved.square().mean().item() + extra, rel=1e-4)
        assert metrics["loss/rewards"].item() == pytest.approx(half * paid.square().mean().item() + extra, rel=1e-4)
        assert metrics["loss/terminations"].item() == pytest.approx(math.log(2.0), rel=1e-4)
        numbers = half * torch.cat([moved, paid], dim=-1).square().mean().item() + extra
        assert metrics["loss/model"].item() == pytest.approx(numbers + math.log(2.0), rel=1e-4)


def test_errors_of_either_way_of_predicting_are_in_the_same_units() -> None:
    rows = linear_world.rows(64, seed=1)
    facts = FACTS
    model = make(kind="deterministic", predict="absolute")
    silence(model)
    off = (facts.join(rows.next_obs) - facts.obs_mean) / facts.change_std
    paid = (rows.rewards - facts.reward_mean) / facts.reward_std
    expected = torch.cat([off, paid], dim=-1).square().mean().sqrt()
    torch.testing.assert_close(model.errors(rows), expected.expand(4))


# --- members and elites -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [0, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_elites_asked_as_one_batch_say_what_each_says_alone(kind: str, window: int) -> None:
    model = make(kind=kind, window=window)
    rows = with_history(linear_world.rows(10, seed=1), window)
    model.choose(torch.tensor([3.0, 1.0, 4.0, 2.0]))
    assert model.elites.tolist() == [1, 3, 0]
    together = ask(model, rows).spread
    for place, member in enumerate([1, 3, 0]):
        alone = make(kind=kind, window=window, members=1, elites=1)
        ours = {n: p[member : member + 1] for n, p in model.nets.named_parameters()}
        alone.nets.load_state_dict(ours)
        said = ask(alone, rows).spread
        torch.testing.assert_close(said.next_obs[0], together.next_obs[place])
        torch.testing.assert_close(said.rewards[0], together.rewards[place])
        if together.next_obs_std is not None:
            torch.testing.assert_close(said.next_obs_std[0], together.next_obs_std[place])


def test_a_deterministic_member_tells_no_deviation() -> None:
    spread = ask(make(kind="deterministic"), linear_world.rows(5, seed=1)).spread
    assert spread.next_obs_std is None and spread.rewards_std is None


def numbers_of(prediction) -> torch.Tensor:
    return torch.cat([prediction.next_obs.flatten(1), prediction.rewards], dim=-1)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_are_spread_about_the_mean_as_a_member_tells(kind: str) -> None:
    """Of one elite and one row, many times over: mean and deviation of draws are its moments; spreads are of means."""
    model = make(kind=kind, members=1, elites=1, predict_by="sample")
    row = TRAIN.map(lambda value: value[:1].expand(20_000, *value.shape[1:]))
    by_mean = make(kind=kind, members=1, elites=1)
    mean, drawn = ask(by_mean, row), ask(model, row)
    for name in ("next_obs", "rewards"):
        torch.testing.assert_close(getattr(drawn.spread, name), getattr(mean.spread, name))
    if kind == "deterministic":
        torch.testing.assert_close(drawn.rewards, mean.rewards)
        return
    deviation = mean.spread.rewards_std[0, 0]
    found = drawn.rewards.std(0)
    assert bool((found > 0.97 * deviation).all()), "no less than the normal's own"
    if kind == "vae":  # whose latent adds to it, and moves the mean
        return
    torch.testing.assert_close(found, deviation, rtol=0.03, atol=0)
    assert bool(((drawn.rewards.mean(0) - mean.rewards[0]).abs() < 0.03 * deviation).all())


@pytest.mark.parametrize("window", [0, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_draws_come_from_the_models_own_generator_alone(kind: str, window: int) -> None:
    rows = with_history(TRAIN.map(lambda value: value[:6]), window) if window else TRAIN.map(lambda value: value[:6])
    model, everywhere = make(kind=kind, window=window, predict_by="sample"), torch.get_rng_state()
    before = model.generator.get_state()
    first, second = numbers_of(ask(model, rows)), numbers_of(ask(model, rows))
    model.generator.set_state(before)
    assert torch.equal(numbers_of(ask(model, rows)), first) and not torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), everywhere)


def test_a_mixtures_draw_is_of_one_component() -> None:
    """Two components at -1 and 1 with odds 1 : 3 and hardly any deviation: draws are either, and 3 of 4 are 1."""
    head = MixtureHead(1, 1, 2)
    out = torch.tensor([0.0, math.log(3.0), -1.0, -1.0, -9.0, -9.0, 1.0, 1.0, -9.0, -9.0]).expand(1, 10_000, -1)
    drawn = head.draw(out, torch.Generator().manual_seed(0))[0]
    assert bool(((drawn.abs() - 1).abs() < 0.05).all()) and bool((drawn[:, 0].sign() == drawn[:, 1].sign()).all())
    assert float((drawn[:, 0] > 0).float().mean()) == pytest.approx(0.75, abs=0.02)


def test_most_elites_must_say_that_an_episode_ends() -> None:
    model = make(members=6, elites=5)
    rows = linear_world.rows(4, seed=1)
    model.choose(torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 9.0]))
    for logits, expected in (
        ([9.0, 9.0, 9.0, -1.0, -1.0], True),
        ([9.0, 9.0, -1.0, -1.0, -1.0], False),
        ([0.1, 0.1, 0.1, -9.0, -9.0], True),
    ):
        silence(model)
        with torch.no_grad():
            last(model).bias[:5, 0, -1] = torch.tensor(logits)
            last(model).bias[5, 0, -1] = 100.0  # no elite
        model.choose(torch.arange(6.0))
        assert ask(model, rows).terminations.tolist() == [[expected, expected]] * 4


def test_half_of_the_elites_are_not_most_of_them() -> None:
    model = make(members=2, elites=2)
    silence(model)
    with torch.no_grad():
        last(model).bias[0, 0, -1], last(model).bias[1, 0, -1] = 5.0, -5.0
    assert not bool(ask(model, linear_world.rows(4, seed=1)).terminations.any())


def test_data_that_never_terminates_makes_a_model_that_never_does() -> None:
    endless = replace(TRAIN, terminations=torch.zeros_like(TRAIN.terminations))
    model = make(facts=linear_world.facts(endless))
    assert last(model).weight.shape[-1] == 10
    metrics = fit(model, endless, 3).update(linear_world.drawn(endless, 4, 64, torch.Generator()))
    assert metrics["loss/terminations"].item() == 0.0
    assert not bool(ask(model, linear_world.rows(40, seed=1)).terminations.any())


def test_a_gradient_is_clipped_by_the_norm_of_its_member() -> None:
    generator = torch.Generator().manual_seed(0)
    batch = linear_world.drawn(TRAIN, 4, 64, generator)
    loud = replace(batch, rewards=batch.rewards * torch.tensor([1.0, 100.0, 1.0, 1.0]).view(4, 1, 1))
    norms = {}
    for clip in (0.0, 1.5):
        model = make(grad_clip=clip)
        model.update(loud)
        grads = torch.cat([p.grad.flatten(1) for p in model.nets.parameters() if p.requires_grad], dim=-1)
        norms[clip] = grads.norm(dim=-1)
    assert norms[0.0][1] > 1.5 and norms[0.0][0] < 1.5, "the case should tell members apart"
    torch.testing.assert_close(norms[1.5], norms[0.0].clamp(max=1.5))


def test_weight_decay_pulls_towards_zero() -> None:
    sizes = [
        sum(p.square().sum().item() for p in fit(make(weight_decay=decay), TRAIN, 30).nets.parameters())
        for decay in (0.0, 1.0)
    ]
    assert sizes[1] < 0.97 * sizes[0]


def test_spectral_norm_keeps_hidden_layers_from_stretching() -> None:
    model = fit(make(spectral_norm=True, lr=1e-2), TRAIN, 40)
    free = fit(make(lr=1e-2), TRAIN, 40)
    for layer, other in zip(model.nets.hidden_layers(), free.nets.hidden_layers(), strict=True):
        assert torch.linalg.matrix_norm(layer.weight, ord=2).max().item() < 1.1
        assert torch.linalg.matrix_norm(other.weight, ord=2).min().item() > 1.2
    assert len(model.nets.hidden_layers()) == 2


# --- history ------------------------------------------------------------------------------------------------------


def with_history(rows: Batch, window: int) -> Batch:
    if not window:
        return rows
    past = torch.stack([linear_world.rows(len(rows), seed=10 + step).obs for step in range(window)], dim=2)
    done = torch.stack([linear_world.rows(len(rows), seed=10 + step).actions for step in range(window)], dim=2)
    history = torch.cat([past, done], dim=-1)
    history[0] = 0.0
    history[1, :, :2] = 0.0
    return replace(rows, history=history)


def test_a_past_in_which_nothing_happened_is_zero_and_the_rest_is_standardised() -> None:
    model = make(window=3)
    rows = with_history(linear_world.rows(6, seed=1), 3)
    facts = model.facts
    _, frames = model._inputs(facts, facts.join(rows.obs), rows.actions, rows.history)
    assert frames.shape == (6, 3, 5)
    assert bool((frames[0] == 0).all()) and bool((frames[1, :2] == 0).all())
    for row, time in ((1, 2), (4, 0), (5, 1)):
        joint = (facts.join(rows.history[row, :, time, :2]) - facts.obs_mean) / facts.obs_std
        torch.testing.assert_close(frames[row, time], torch.cat([joint, rows.history[row, :, time, 2]]))


def test_the_past_is_required_where_there_is_a_window_and_matters() -> None:
    model = make(window=3)
    rows = with_history(linear_world.rows(6, seed=1), 3)
    with pytest.raises(ValueError, match="reads a history, and none was given"):
        model.predict(rows.obs, rows.actions)
    other = rows.history.clone()
    other[3, :, 1] += 1.0
    now, then = ask(model, rows).spread, ask(model, replace(rows, history=other)).spread
    changed = (now.next_obs != then.next_obs).any(-1).any(0)
    assert changed.tolist() == [False, False, False, True, False, False]


# --- learning -----------------------------------------------------------------------------------------------------


def still(rows: Batch) -> float:
    """Root mean square error of "nothing changes, and everybody earns the mean"."""
    moved = (FACTS.join(rows.next_obs) - FACTS.join(rows.obs)) / FACTS.change_std
    paid = (rows.rewards - FACTS.reward_mean) / FACTS.reward_std
    return torch.cat([moved, paid], dim=-1).square().mean().sqrt().item()


def floor() -> float:
    """What the world's noise leaves to anybody."""
    shares = torch.cat([linear_world.NOISE / FACTS.change_std, linear_world.REWARD_NOISE / FACTS.reward_std])
    return shares.square().mean().sqrt().item()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_predicts_better_than_nothing_changes(kind: str) -> None:
    rows = linear_world.rows(1_000, seed=1)
    model = fit(make(kind=kind, lr=5e-3), TRAIN, 200)
    errors = model.errors(rows)
    assert bool((errors < 0.5 * still(rows)).all())
    assert bool((errors < 1.3 * floor()).all())


@pytest.mark.slow
def test_absolute_predictions_and_the_other_activations_learn_too() -> None:
    rows = linear_world.rows(1_000, seed=1)
    for settings in ({"predict": "absolute"}, {"activation": "relu"}, {"activation": "tanh"}):
        errors = fit(make(lr=3e-3, **settings), TRAIN, 300).errors(rows)
        assert bool((errors < 0.6 * still(rows)).all()), settings


@pytest.mark.parametrize("kind", ["gaussian", pytest.param("mixture", marks=pytest.mark.slow)])
def test_deviations_are_those_of_the_noise_and_endings_are_foreseen(kind: str) -> None:
    rows = linear_world.rows(1_000, seed=1)
    model = fit(make(kind=kind, lr=5e-3), TRAIN, 400)
    found = ask(model, rows)
    noise = found.spread.next_obs_std.mean((0, 1))
    assert bool(((noise / linear_world.NOISE - 1).abs() < 0.2).all()), noise
    paid = found.spread.rewards_std.mean((0, 1))
    assert bool(((paid / linear_world.REWARD_NOISE - 1).abs() < 0.2).all()), paid
    # Where the noise cannot decide, endings are known.
    expected = 0.8 * rows.obs[:, 0, 1] + rows.actions[:, 0, 0]
    clear = (expected - 1.5).abs() > 0.5
    agreed = found.terminations[clear, 0] == (expected[clear] > 1.5)
    assert agreed.float().mean().item() > 0.98
    assert torch.equal(found.terminations[:, 0], found.terminations[:, 1])


def test_elites_disagree_more_off_the_data_than_on_it() -> None:
    model = fit(make(), TRAIN, 300)
    inside, outside = ask(model, linear_world.rows(300, seed=1)), ask(model, linear_world.rows(300, seed=1, reach=5.0))
    for measure in (covariance_norm, standardized_variance, pairwise_difference):
        assert measure(outside.spread).median().item() > 5.0 * measure(inside.spread).median().item()


def test_a_step_from_observations_alone_reads_like_its_prediction() -> None:
    model, rows = make(), TRAIN.map(lambda value: value[:5])
    step = model.step(rows.obs, rows.actions)
    model.place("cpu", 0)  # the same elite for each row
    assert torch.equal(step.next_obs, model.predict(rows.obs, rows.actions).next_obs)
    assert torch.equal(step.carry.obs, step.next_obs)
    assert step.rewards is step.prediction.rewards and step.terminations is step.prediction.terminations
