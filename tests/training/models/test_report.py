from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import linear_world
import pytest
import torch
from observed import Observed
from worlds import reacher_recording, saved, world

from offline_marl.core.config import build
from offline_marl.core.types import Batch
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.training import training_run
from offline_marl.training.models import fit as fitting
from offline_marl.training.models.foresight import evenly, foresee, look_far, rank_draws
from offline_marl.training.models.picture import draw_report
from offline_marl.training.models.report import (
    DRAWS,
    _calibration,
    measure_model,
    read_report,
    spearman,
    verdict,
    write_report,
)
from offline_marl.training.models.rows import MemberSource
from offline_marl.training.models.run_models import _warned
from offline_marl.worldmodels.base import Prediction, Spread, WorldModel, WorldModelConfig
from offline_marl.worldmodels.ensemble import Ensemble, EnsembleConfig


def linear_episodes(episodes: int, length: int, seed: int, noise: float = 0.1) -> Dataset:
    """The linear world, step after step; every second episode is half as long, and terminates."""
    steps = []
    x = linear_world.rows(episodes, seed).obs
    for time in range(length):
        made = linear_world.rows(episodes, seed + 1 + time, noise)
        shift = linear_world.rows(episodes, seed + 1 + time, 0.0)
        p, v, q = x[:, 0, 0], x[:, 0, 1], x[:, 1, 0]
        u = made.actions[..., 0]
        after = torch.stack([p + 0.5 * v, 0.8 * v + u[:, 0], q + 0.5 * u[:, 1] - 0.25 * p], dim=-1)
        after = linear_world.seen(after) + made.next_obs - shift.next_obs
        rewards = torch.stack([2.0 * p, 5.0 - u[:, 1]], dim=-1) + made.rewards - shift.rewards
        steps.append((x, made.actions, rewards))
        x = after
    obs = torch.stack([*(step[0] for step in steps), x], dim=1)
    actions, rewards = (torch.stack([step[field] for step in steps], dim=1) for field in (1, 2))
    lengths = torch.where(torch.arange(episodes) % 2 == 1, length // 2, length)
    ended = torch.arange(length) == lengths.unsqueeze(-1) - 1
    kept = torch.arange(length) < lengths.unsqueeze(-1)
    seen = torch.arange(length + 1) < lengths.unsqueeze(-1) + 1
    early = ended & (lengths < length).unsqueeze(-1)
    flags = [each[kept].unsqueeze(-1).expand(-1, 2).contiguous() for each in (early, ended & ~early)]
    return Dataset(obs[seen], actions[kept], rewards[kept], *flags, lengths=lengths, spec=linear_world.SPEC).check()


HELD_OUT = TransitionBuffer(linear_episodes(16, 12, seed=1000))
FACTS = fitting.facts_of(linear_episodes(60, 12, seed=0))


def ensemble(updates: int = 0, seed: int = 0, **settings) -> Ensemble:
    """Fitted for some updates to other episodes than the held-out ones."""
    torch.manual_seed(seed)
    few = {"members": 3, "elites": 2, "hidden": [32, 32], "lr": 3e-3, "batch_size": 64, **settings}
    model = Ensemble(build(EnsembleConfig, few), FACTS)
    buffer = TransitionBuffer(linear_episodes(60, 12, seed=0), model.window)
    source = MemberSource(buffer, model.members, 64, torch.Generator().manual_seed(0), "uniform")
    for _ in range(updates):
        model.update(source.sample(model.needs))
    return model


@pytest.fixture(scope="module")
def fitted() -> Ensemble:
    return ensemble(600)


class Known(Observed, WorldModel):
    """Says the truth of the linear world, plus what the test adds."""

    def __init__(self, says, facts=FACTS) -> None:
        WorldModel.__init__(self, WorldModelConfig(), facts)
        self.says = says

    def update(self, batch: Batch):
        raise NotImplementedError

    def predict(self, obs, actions, history=None) -> Prediction:
        p, v, q = obs[:, 0, 0], obs[:, 0, 1], obs[:, 1, 0]
        u = actions[..., 0]
        after = torch.stack([p + 0.5 * v, 0.8 * v + u[:, 0], q + 0.5 * u[:, 1] - 0.25 * p], dim=-1)
        rewards = torch.stack([2.0 * p, 5.0 - u[:, 1]], dim=-1)
        return self.says(after, rewards)


def said(after, rewards, spread=None, ended=None) -> Prediction:
    ended = torch.zeros(len(after), dtype=torch.bool) if ended is None else ended
    return Prediction(linear_world.seen(after), rewards, ended.unsqueeze(-1).expand(-1, 2), spread)


def spread_of(after, rewards, obs_std=None, rewards_std=None) -> Spread:
    return Spread(after, rewards, obs_std, rewards_std, FACTS.change_std, FACTS.reward_std)


# --- the verdict --------------------------------------------------------------------------------------------------
@pytest.mark.long
def test_a_model_that_learnt_its_world_is_trusted(fitted) -> None:
    report, cloud = measure_model(fitted, HELD_OUT)
    assert report["trusted"] and not report["reasons"] and verdict(report) == "to be trusted"
    loop, rewards = report["open_loop"], report["rewards"]
    assert loop["steps"] == list(range(1, 13)) and loop["rows"][-1] < loop["rows"][0] == report["rows"]["open_loop"]
    assert all(error < still for error, still in zip(loop["error"], loop["nothing_changes"], strict=True))
    assert loop["error"][-1] > loop["error"][0]
    assert rewards["error"] < 0.5 * rewards["mean_reward"] and abs(rewards["bias"]) < 0.1
    assert set(report["spread"]) >= {"covariance_norm", "max_aleatoric"}
    assert cloud.points.shape == (len(HELD_OUT), 2) and cloud.shares[0] >= cloud.shares[1] > 0


def test_a_model_that_learnt_nothing_is_not_trusted_and_the_reasons_have_numbers() -> None:
    model = ensemble()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(0))
    report, _ = measure_model(model, HELD_OUT)
    assert not report["trusted"]
    by_steps, by_rewards = report["reasons"][:2]
    assert by_steps.startswith("its error over 10 steps of its own predictions is ")
    assert f"{report['rewards']['mean_reward']:.3g}" in by_rewards and by_rewards.startswith("its rewards err by ")
    assert verdict(report).startswith(f"not to be trusted: {by_steps}; {by_rewards}")


def test_steps_of_which_nothing_is_counted_are_left_out_of_the_first_reason() -> None:
    """Episodes of six steps after which nothing was recorded: nothing counts at the sixth."""
    data = linear_episodes(16, 6, seed=1000)
    cut = TransitionBuffer(replace(data, ends_seen=torch.zeros(16, dtype=torch.bool)))
    report, _ = measure_model(Known(lambda after, rewards: said(after + 9, rewards)), cut)
    assert report["open_loop"]["rows"][4:] == [8, 0] and report["open_loop"]["error"][5] is None
    assert report["reasons"][0].startswith("its error over 5 steps of its own predictions is ")


def test_agents_that_are_never_there_together_are_a_reason_of_their_own(tmp_path) -> None:
    data = linear_episodes(16, 12, seed=1000)
    turns = torch.eye(2, dtype=torch.bool)[torch.arange(len(data)) % 2]

    def says(after, rewards):
        return said(after, rewards, spread_of(torch.stack([after, 2 * after]), rewards.expand(2, -1, -1)))

    report, cloud = write_report(tmp_path, Known(says), TransitionBuffer(replace(data, mask=turns)))
    assert report["reasons"] == [
        "no held-out step shows what all agents see next, so that nothing says how it foresees that",
        "no held-out step shows all agents, so that nothing says how it foresees their rewards",
    ]
    assert set(report["spread"]["covariance_norm"]["quantiles"].values()) == {None}
    pytest.importorskip("matplotlib")
    assert draw_report(tmp_path, "turns", report, cloud) is not None


@pytest.mark.long
def test_predictions_that_are_not_finite_are_a_reason_and_leave_json_valid(tmp_path) -> None:
    def says(after, rewards):
        after = after.log()
        return said(after, rewards, spread_of(torch.stack([after, 2 * after]), rewards.expand(2, -1, -1)))

    report, cloud = write_report(tmp_path, Known(says), HELD_OUT)
    assert (
        any("predictions is nan" in reason for reason in report["reasons"]) and report["open_loop"]["error"][0] is None
    )
    assert json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail) == report
    pytest.importorskip("matplotlib")
    assert draw_report(tmp_path, "broken", report, cloud) is not None


@pytest.mark.parametrize("far", [0.0, 1.0], ids=["nowhere", "everywhere-alike"])
def test_a_spread_that_never_changes_is_a_reason(far) -> None:
    def says(after, rewards):
        # About 0, so that rounding leaves no trace of where the rows stand.
        apart = torch.stack([0 * after, 0 * after + far])
        return said(after, rewards, spread_of(apart, 0 * rewards.expand(2, -1, -1)))

    report, _ = measure_model(Known(says), HELD_OUT)
    (reason,) = report["reasons"]
    assert reason == "its spread says nothing about its error: one of the two never changes"


def test_a_spread_that_goes_the_wrong_way_is_a_reason_with_its_number() -> None:
    noise = torch.Generator().manual_seed(0)

    def says(after, rewards):
        size = torch.rand(len(after), 1, generator=noise)
        apart = torch.stack([0 * after, (1.5 - size).expand_as(after)])
        # Rewards alone, so that no error is fed back and the one is near at every step.
        return said(after, rewards + 40 * size, spread_of(apart, 0 * rewards.expand(2, -1, -1)))

    report, _ = measure_model(Known(says), HELD_OUT)
    assert report["spread"]["covariance_norm"]["correlation_one_step"] < -0.9
    assert "their rank correlation is -" in report["reasons"][-1]


def test_a_kind_without_a_spread_is_not_trusted_and_not_calibrated() -> None:
    report, cloud = measure_model(Known(said), HELD_OUT)
    assert report["reasons"] == ["it tells no spread, so that nothing says where it errs"]
    assert report["calibration"]["next_obs"] is None and "tells no deviation" in report["calibration"]["withheld"]
    assert report["spread"] == {} and report["cutoff"]["share_above"] is None and cloud.spread is None


def test_rewards_that_never_change_are_no_reason() -> None:
    """The mean reward cannot be beaten where it is all there is."""
    flat = linear_episodes(16, 12, seed=5)
    flat = Dataset(flat.obs, flat.actions, torch.full_like(flat.rewards, 2.0), flat.terminations, flat.truncations,
                   lengths=flat.lengths, spec=flat.spec)  # fmt: skip
    model = Known(lambda after, rewards: said(after, torch.full_like(rewards, 2.0)), fitting.facts_of(flat))
    report, _ = measure_model(model, TransitionBuffer(flat))
    assert len(report["reasons"]) == 1 and report["calibration"]["rewards"] is None


# --- the numbers --------------------------------------------------------------------------------------------------
def test_spearman_of_ranks_worked_by_hand() -> None:
    one = torch.tensor([10.0, 20.0, 20.0, 30.0])  # ranks 1, 2.5, 2.5, 4
    other = torch.tensor([5.0, 1.0, 7.0, 7.0])  # ranks 2, 1, 3.5, 3.5
    # Centred: (-1.5, 0, 0, 1.5) and (-.5, -1.5, 1, 1): product 2.25, squares 4.5 and 4.5.
    assert spearman(one, other) == pytest.approx(2.25 / 4.5)
    assert spearman(one, -other) == pytest.approx(-0.5)
    assert spearman(one, one.exp()) == pytest.approx(1.0)
    assert math.isnan(spearman(one, torch.ones(4)))
    nan = torch.tensor([math.nan, math.inf])
    assert spearman(torch.cat([one, nan]), torch.cat([other, torch.ones(2)])) == pytest.approx(0.5)


def test_spearman_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randint(0, 9, (2, 200), generator=generator).double()
    assert spearman(one, other) == pytest.approx(stats.spearmanr(one, other).statistic)


@pytest.mark.parametrize("factor", [1.0, 3.0], ids=["right", "too-timid"])
def test_calibration_of_a_model_that_knows_the_noise(factor) -> None:
    """Half of its variance is each elite's own, half is their disagreement."""

    def says(after, rewards):
        def both(mean, std):
            half = factor * std * math.sqrt(0.5)
            return torch.stack([mean - half, mean + half]), (half * torch.ones_like(mean)).expand(2, *mean.shape)

        (obs, obs_std), (pay, pay_std) = both(after, linear_world.NOISE), both(rewards, linear_world.REWARD_NOISE)
        return said(after, rewards, spread_of(obs, pay, obs_std, pay_std))

    data = TransitionBuffer(linear_episodes(200, 12, seed=50, noise=1.0))
    found = measure_model(Known(says), data)[0]["calibration"]
    normal = torch.distributions.Normal(0.0, 1.0)
    for nominal, obs, rewards in zip(found["nominal"], found["next_obs"], found["rewards"], strict=True):
        border = factor * normal.icdf(torch.tensor(0.5 + nominal / 2))
        expected = float(2 * normal.cdf(border) - 1)
        assert obs == pytest.approx(expected, abs=0.025) and rewards == pytest.approx(expected, abs=0.025)


def test_biased_rewards_show_with_sign_and_unit() -> None:
    model = Known(lambda after, rewards: said(after, rewards + torch.tensor([0.5, 1.5])))
    rewards = measure_model(model, HELD_OUT)[0]["rewards"]
    assert rewards["bias_of_agents"] == pytest.approx([0.5, 1.5], abs=0.02)
    assert rewards["bias"] == pytest.approx(1.0, abs=0.02)
    assert rewards["sum_error"][5] > 5 * rewards["error"]


def test_terminations_are_counted() -> None:
    model = Known(lambda after, rewards: said(after, rewards, ended=after[:, 1] > 0.0))
    found = measure_model(model, HELD_OUT)[0]["terminations"]
    rows = HELD_OUT.transitions(torch.arange(len(HELD_OUT)))
    said_so = rows.obs[:, 0, 1] * 0.8 + rows.actions[:, 0, 0] > 0
    happened = rows.terminations[:, 0]
    assert found["recorded"] == pytest.approx(float(happened.float().mean()), rel=1e-5)
    assert found["predicted"] == pytest.approx(float(said_so.float().mean()), rel=1e-5)
    both = int((said_so & happened).sum())
    assert found["precision"] == pytest.approx(both / int(said_so.sum()), rel=1e-5)
    assert found["recall"] == pytest.approx(both / int(happened.sum()), rel=1e-5)


def test_its_own_predictions_are_fed_back_and_steps_after_the_end_do_not_count() -> None:
    """It adds 1 to the second coordinate each step, which the world keeps 80 % of: 1, 1.8, 2.44 ..."""
    data = TransitionBuffer(linear_episodes(4, 6, seed=7, noise=0.0))
    model = Known(lambda after, rewards: said(after + torch.tensor([0.0, 1.0, 0.0]), rewards))
    seen = look_far(model, data, starts=4, steps=50)
    errors = (seen.obs_error * FACTS.obs_std)[..., 1]
    expected = torch.tensor([(1 - 0.8**n) / 0.2 for n in range(1, 7)], dtype=torch.float64)
    for row in range(len(errors)):
        counted = seen.counted[row]
        torch.testing.assert_close(errors[row][counted], expected[counted], atol=1e-4, rtol=0)
    whole = look_far(model, data, starts=8, steps=3)
    assert whole.counted.shape[1] == 3 and seen.counted.shape[1] == 6
    assert not bool(seen.counted.all()) and bool(seen.counted[:, 0].all())


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_a_model_that_reads_the_past_is_fed_its_own(kind) -> None:
    """The histories it is asked with are what the buffer holds, while its predictions are the truth."""
    data = world(kind)
    buffer = TransitionBuffer(data, window=2)
    cuts = buffer.segments(buffer.first, 4)

    class Replaying(Observed):
        spec, window, facts = data.spec, 2, fitting.facts_of(data)
        read: ClassVar[list[torch.Tensor]] = []

        def predict(self, obs, actions, history=None) -> Prediction:
            time = len(self.read)
            self.read.append(history)
            return Prediction(cuts.next_obs[:, time], cuts.rewards[:, time], cuts.terminations[:, time], None)

    foreseen = foresee(Replaying(), cuts)
    assert float(foreseen.obs_error.abs().max()) == 0.0
    for time, history in enumerate(Replaying.read):
        counted = foreseen.counted[:, time]
        torch.testing.assert_close(history[counted], cuts.history[counted, time])


@pytest.mark.slow
def test_every_kind_of_model_can_be_reported(tmp_path) -> None:
    for settings in ({"kind": "deterministic"}, {"kind": "mixture", "window": 2}, {"kind": "vae"}, {"elites": 1}):
        model = ensemble(2, **settings)
        held_out = TransitionBuffer(linear_episodes(4, 12, seed=9), model.window)
        report, cloud = write_report(tmp_path, model, held_out)
        assert ("max_aleatoric" in report["spread"]) == (settings != {"kind": "deterministic"})
        if draw_report(tmp_path, "x", report, cloud) is None:
            pytest.skip("without matplotlib there is no picture")


def test_evenly_spaced_positions_hold_both_ends() -> None:
    assert evenly(torch.arange(10), 4).tolist() == [0, 3, 6, 9]
    assert evenly(torch.arange(3), 4).tolist() == [0, 1, 2]
    assert evenly(torch.arange(10), 0).tolist() == []


def test_no_random_number_is_lost_to_a_report(fitted) -> None:
    own, everybody = fitted.generator.get_state(), torch.random.get_rng_state()
    first = measure_model(fitted, HELD_OUT)[0]
    assert torch.equal(own, fitted.generator.get_state()) and torch.equal(everybody, torch.random.get_rng_state())
    fitted.generator.manual_seed(77)
    torch.manual_seed(77)
    assert measure_model(fitted, HELD_OUT)[0] == first


# --- files and warnings -------------------------------------------------------------------------------------------
SMALL = {"hidden": [8], "members": 2, "elites": 2, "steps": 2, "device": "cpu"}


@pytest.fixture
def task(tmp_path) -> str:
    return saved(tmp_path, reacher_recording(), "arm.safetensors") + "_2x1_0"


@pytest.fixture
def no_pictures(monkeypatch) -> None:
    """They take most of a small fit's time, and have tests of their own."""
    monkeypatch.setattr(fitting, "draw_report", lambda *_: None)
    monkeypatch.setattr(training_run, "draw_run", lambda *_: None)


@pytest.mark.usefixtures("no_pictures")
def test_a_fit_ends_with_a_report_that_is_read_again(tmp_path, task) -> None:
    fit = fitting.fit_model("ensemble", task, out=tmp_path / "model", **SMALL)
    assert fit.report == read_report(fit.folder) == json.loads((fit.folder / "report.json").read_text())
    assert fit.report["trusted"] is False  # it saw random numbers
    before = (fit.folder / "report.json").stat().st_mtime_ns
    assert fitting.resume_fit(fit.folder).report == fit.report
    assert (fit.folder / "report.json").stat().st_mtime_ns == before


@pytest.mark.long
def test_the_picture_shows_something(tmp_path, task) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    fit = fitting.fit_model("ensemble", task, out=tmp_path / "model", **SMALL)
    pixels = imread(fit.folder / "report.png")
    assert pixels.std() > 0.05 and min(pixels.shape[:2]) > 500
    assert (fit.folder / "report.png").stat().st_size > 20_000


def test_without_matplotlib_there_is_a_report_and_no_picture(tmp_path, task, monkeypatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    fit = fitting.fit_model("ensemble", task, out=tmp_path / "model", **SMALL)
    assert fit.report is not None and not (fit.folder / "report.png").exists()


@pytest.mark.usefixtures("no_pictures")
def test_training_with_a_model_that_is_not_trusted_warns_once(tmp_path, task, capsys) -> None:
    from offline_marl.training import run

    fit = fitting.fit_model("ensemble", task, out=tmp_path / "model", **SMALL)
    capsys.readouterr()
    small = {"steps": 2, "rollouts": 4, "horizon": 2, "batch_size": 8, "hidden": [8], "device": "cpu"}
    small |= {"eval_every": 0, "final_episodes": 1, "world_model": str(fit.folder)}
    run.train("iql", task, out=tmp_path / "run", **small)
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: the world model")]
    said_so = f"warning: the world model in {fit.folder} is not to be trusted: {'; '.join(fit.report['reasons'])}."
    assert warnings == [said_so]

    (fit.folder / "report.json").write_text("{")
    _warned(fitting.resume_fit(fit.folder))
    assert "is not to be trusted: it has no report" in capsys.readouterr().err


def test_a_trusted_model_is_used_in_silence(tmp_path, fitted, capsys) -> None:
    report, _ = measure_model(fitted, HELD_OUT)
    _warned(fitting.Fit(tmp_path, fitted, [0.1], 1, HELD_OUT, report))
    assert capsys.readouterr().err == ""


def test_a_model_that_rewrites_observations_is_warned_of(tmp_path, fitted, capsys, monkeypatch) -> None:
    report, _ = measure_model(fitted, HELD_OUT)
    monkeypatch.setattr(fitted, "config", SimpleNamespace(rewrites_observations=True))
    _warned(fitting.Fit(tmp_path, fitted, [0.1], 1, HELD_OUT, report))
    assert "tells observations by tokens: in imagination policies see what these stand for" in capsys.readouterr().err


@pytest.mark.usefixtures("no_pictures")
def test_the_command_says_the_verdict_and_where_the_report_is(tmp_path, task, capsys) -> None:
    from offline_marl.launch.cli import main

    flags = ["--out", str(tmp_path / "m"), "--steps", "2", "--hidden", "8", "--members", "2", "--elites", "2"]
    with pytest.raises(SystemExit) as end:
        main(["fit-model", "ensemble", "--dataset", task, *flags, "--device", "cpu"])
    lines = capsys.readouterr().out.splitlines()
    assert end.value.code == 0
    assert any(line.startswith("verdict     not to be trusted: ") for line in lines)
    assert f"report      {tmp_path / 'm' / 'report.json'}" in lines


@pytest.mark.parametrize(("width", "says"), [(1.0, "calibrated"), (0.5, "too narrow"), (2.0, "too wide")])
def test_ranks_among_draws_tell_intervals_that_are_too_narrow_or_too_wide(width, says) -> None:
    generator = torch.Generator().manual_seed(0)
    recorded = torch.randn(4_000, 1, generator=generator)
    draws = width * torch.randn(DRAWS, 4_000, 1, generator=generator)
    ranks = (draws < recorded).sum(0).float()
    coverage = _calibration(None, ranks, SimpleNamespace(change_std=torch.ones(1), reward_std=torch.ones(1)))
    off = torch.tensor(coverage["next_obs"]) - torch.tensor(coverage["nominal"])
    if says == "calibrated":
        assert float(off.abs().max()) < 0.03
    else:
        assert bool((off < -0.03).all() if says == "too narrow" else (off > 0.03).all())


def test_a_draw_of_few_values_is_the_value_that_it_is_nearest_to() -> None:
    """A coin that is told as .97 and -.97 is told right; a number of many values is none of few."""
    generator = torch.Generator().manual_seed(0)

    def thrown(count: int, size: float) -> torch.Tensor:
        coin = (2 * torch.randint(2, (count, 1), generator=generator) - 1) * size
        return torch.cat([coin, torch.randn(count, 1, generator=generator)], dim=1)

    recorded = thrown(400, 1.0)
    nothing = torch.zeros(400, 1)
    rows = SimpleNamespace(next_obs=recorded, actions=nothing, terminations=nothing.bool(), mask=None, next_seen=None)
    model = SimpleNamespace(
        begin=lambda _: None,
        facts=SimpleNamespace(join=lambda obs: obs.clone()),
        step=lambda carry, _: (SimpleNamespace(next_obs=thrown(400, 0.97)), carry),
    )
    ranks = rank_draws(model, SimpleNamespace(transitions=lambda _: rows), torch.arange(400), 19)
    off = (ranks - 9.5).abs()
    assert float(off[:, 0].max()) < 9.0 and float((off[:, 0] <= 5.0).float().mean()) > 0.5
    assert float((off[:, 1] <= 5.0).float().mean()) == pytest.approx(0.5, abs=0.08)
    near = rank_draws(
        SimpleNamespace(**{**vars(model), "step": lambda carry, _: (SimpleNamespace(next_obs=recorded + 0.01), carry)}),
        SimpleNamespace(transitions=lambda _: rows),
        torch.arange(400),
        3,
    )
    assert bool((near[:, 0] == 1.5).all()) and bool((near[:, 1] == 0.0).all())
