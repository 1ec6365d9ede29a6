from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from counting_model import Counting, CountingCarry, Given
from runs import (
    SMALL_FIT,
    Killed,
    ending,
    kill_at,
    last_state,
    refuse_difference,
    score_in_point_env,
    small_fit,
    small_run,
    start_and_kill,
)
from worlds import SPECS, PointEnv, RestorableEnv, reacher_recording, saved, world

from offline_marl.algorithms.base import algorithms
from offline_marl.algorithms.iql import IQL
from offline_marl.core.config import ConfigError
from offline_marl.core.types import DataError, Needs
from offline_marl.runs.combinations import ALPHA
from offline_marl.runs.folder import RunFolderError
from offline_marl.tasks.data_tasks import ScoredTask
from offline_marl.training import run, training_run
from offline_marl.training.models import fit as fitting
from offline_marl.training.models import run_models
from offline_marl.training.models.fit import WrongModelError
from offline_marl.training.sources import choose
from offline_marl.worldmodels.base import WorldModel, worldmodels
from offline_marl.worldmodels.rollout import Caution

STEPS = {"steps": 12, "checkpoint_every": 5}
FEW = {**STEPS, "horizon": 3, "rollouts": 8, "refill_every": 2, "retain": 40}
SHORT = {
    "steps": 30,
    "device": "cpu",
    "lr": 0.01,
    "batch_size": 8,
    "holdout": 0.3,
    "eval_every": 10,
    "checkpoint_every": 10,
}
NEEDS = {name: algorithms.get(name).needs for name in algorithms.names()}
MIXING = [
    name
    for name, needs in NEEDS.items()
    if needs.origin == "data" and needs.recorded != "only" and "continuous" in needs.actions
]


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """They take most of a small fit's time, and have tests of their own."""
    monkeypatch.setattr(fitting, "draw_report", lambda *_: None)


def act_in(patch, env) -> None:
    patch.setattr(ScoredTask, "make_env", lambda self, copies: env(self.spec, copies))
    patch.setattr(training_run, "draw_run", lambda *_: None)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("continuous")


@pytest.fixture(scope="module")
def data(place):
    return saved(place, world("continuous"))


@pytest.fixture(scope="module")
def model(place, data):
    return str(small_fit(place / "model", data).folder)


@pytest.mark.long
@pytest.mark.parametrize("algorithm", MIXING)
def test_every_learner_of_recorded_rows_learns_from_imagined_ones_too(tmp_path, data, model, algorithm):
    small_run(tmp_path / "run", data, algorithm=algorithm, world_model=model, real_fraction=0.5, **FEW)
    state = last_state(tmp_path / "run")
    assert state["source"]["ring"]["pushed"] > 40 and state["source"]["imagination"]["counts"] == [48, 0, 0]
    assert bool(state["source"]["ring"]["held"]["synthetic"].all())


def test_recorded_segments_are_mixed_with_imagined_ones_and_a_killed_run_ends_alike(tmp_path, data, model, monkeypatch):
    monkeypatch.setattr(IQL, "needs", Needs(view="segments", length=2, burn_in=1, next_actions=True))
    fields = {"algorithm": "iql", "world_model": model, "real_fraction": 0.5, **FEW}
    small_run(tmp_path / "straight", data, **fields)
    ring = last_state(tmp_path / "straight")["source"]["ring"]
    assert ring["held"]["next_actions"].shape[:2] == (20, 3), "40 steps in segments of 2, and one to burn in"
    start_and_kill(tmp_path / "killed", data, 7, **fields)
    run.resume(tmp_path / "killed")
    refuse_difference(ending(tmp_path / "straight"), ending(tmp_path / "killed"))


@pytest.mark.parametrize("algorithm", ["iql", "moma-ppo"])
def test_choices_are_imagined_where_all_of_them_are_available(tmp_path, algorithm):
    own = world("discrete")
    free = replace(own, avail_actions=own.spec.present("act").expand_as(own.avail_actions).clone())
    path = saved(tmp_path, free)
    fit = small_fit(tmp_path / "model", path, steps=20)
    small_run(tmp_path / "run", path, algorithm=algorithm, world_model=str(fit.folder), window=2, **FEW)
    restricted = saved(tmp_path, own, "restricted.safetensors")
    with pytest.raises(
        DataError, match="foresees no available actions, which this data restricts: .*--world-model marie"
    ):
        small_run(tmp_path / "other", restricted, algorithm=algorithm, world_model="ensemble", **FEW)


@pytest.mark.long
@pytest.mark.parametrize(
    "fields",
    [
        {"algorithm": "td3-bc", "real_fraction": 0.9, "real_fraction_end": 0.1, "start_share": 0.5},
        {"algorithm": "ma-iql", "real_fraction": "auto", "window": 2, "reward_scale": "range", "cutoff_quantile": 0.5},
        {"algorithm": "moma-ppo", "window": 1, "epochs": 1},
        {"algorithm": "ma-ppo", "epochs": 1},
    ],
    ids=lambda fields: fields["algorithm"],
)
def test_a_run_on_what_never_happened_that_died_ends_as_if_it_had_not(tmp_path, monkeypatch, data, model, fields):
    score_in_point_env(monkeypatch)
    imagined = {} if fields["algorithm"] == "ma-ppo" else {**FEW, "world_model": model}
    fields = {**STEPS, **imagined, **fields}
    small_run(tmp_path / "straight", data, **fields)
    for step in (3, 10) if fields["algorithm"] == "moma-ppo" else (10,):
        start_and_kill(tmp_path / str(step), data, step, **fields)
        run.resume(tmp_path / str(step))
        refuse_difference(ending(tmp_path / "straight"), ending(tmp_path / str(step)))


@pytest.fixture
def quick_fits(monkeypatch):
    """Fits that a run begins by itself take the kind's defaults, which would take too long."""
    prepare = fitting.prepare_fit
    monkeypatch.setattr(
        run_models, "prepare_fit", lambda kind, task, given: prepare(kind, task, {**SMALL_FIT, **given})
    )


@pytest.mark.long
def test_a_missing_model_is_fitted_first_and_kept_in_the_run_folder(tmp_path, data, quick_fits, monkeypatch):
    fields = {"algorithm": "moma-ppo", "epochs": 1, **FEW}
    small_run(tmp_path / "straight", data, seed=3, **fields)
    kept = tmp_path / "straight" / "world_model"
    assert (kept / "DONE").exists() and fitting.ModelFolder(kept).config().seed == 3
    small_run(tmp_path / "named", data, seed=3, world_model="ensemble", **fields)
    refuse_difference(ending(tmp_path / "straight"), ending(tmp_path / "named"))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 33, WorldModel)
        small_run(tmp_path / "killed", data, seed=3, **fields)
    (tmp_path / "killed").rename(tmp_path / "moved")
    run.resume(tmp_path / "moved")
    refuse_difference(ending(tmp_path / "straight"), ending(tmp_path / "moved"))
    refuse_difference(ending(kept), ending(tmp_path / "moved" / "world_model"))


def test_a_model_is_fitted_where_a_folder_was_named_and_serves_other_runs(tmp_path, data, quick_fits, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small_run(tmp_path / "one", data, algorithm="td3-bc", world_model="./shared", **FEW)
    monkeypatch.setattr(run_models, "begin_fit", lambda *_: pytest.fail("it is there"))
    small_run(tmp_path / "other", data, algorithm="td3-bc", world_model="shared", **FEW)
    refuse_difference(ending(tmp_path / "one"), ending(tmp_path / "other"))


def test_a_data_set_of_ones_own_is_imagined_from_as_well(tmp_path, quick_fits):
    result = small_run(tmp_path / "run", world("continuous"), algorithm="moma-ppo", **FEW)
    assert (result.folder / "world_model" / "DONE").exists()


@pytest.mark.long
@pytest.mark.parametrize("algorithm", ["moma-ppo", "td3-bc"])
def test_the_simulator_itself_may_be_the_model(tmp_path, monkeypatch, data, algorithm):
    act_in(monkeypatch, RestorableEnv)
    fields = {"algorithm": algorithm, "world_model": "oracle", **FEW}
    small_run(tmp_path / "straight", data, **fields)
    start_and_kill(tmp_path / "killed", data, 7, **fields)
    run.resume(tmp_path / "killed")
    refuse_difference(ending(tmp_path / "straight"), ending(tmp_path / "killed"))


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"fit": {"steps": 5}}, "--fit is of a world model"), ({"cutoff_quantile": 0.5}, "--cutoff-quantile is measured")],
)
def test_settings_of_a_fit_beside_the_simulator_itself_are_refused(tmp_path, monkeypatch, data, fields, said):
    act_in(monkeypatch, RestorableEnv)
    with pytest.raises(ConfigError, match=f"{said}.*oracle is not fitted"):
        small_run(tmp_path / "run", data, algorithm="td3-bc", world_model="oracle", **fields)
    assert not (tmp_path / "run" / "config.json").exists()


def test_the_oracle_imagines_what_the_simulator_does(tmp_path, monkeypatch, data):
    act_in(monkeypatch, RestorableEnv)
    small_run(tmp_path / "run", data, algorithm="td3-bc", world_model="oracle", cutoff=0, clip_imagined=False, **FEW)
    held = last_state(tmp_path / "run")["source"]["ring"]["held"]
    env = RestorableEnv(SPECS["continuous"], 40)
    env.restore(held["state"].numpy())
    seen, rewards, _, _ = env.step(held["actions"].numpy())
    torch.testing.assert_close(held["next_state"], torch.from_numpy(seen.state))
    torch.testing.assert_close(held["rewards"], torch.from_numpy(rewards))
    torch.testing.assert_close(held["next_obs"], torch.from_numpy(seen.obs))


@pytest.fixture
def own_kinds(monkeypatch):
    """Two kinds registered by the decorator: a fitted one that is no ensemble, and one that is given."""
    monkeypatch.setattr(worldmodels, "_loaded", dict(worldmodels._loaded))
    worldmodels.register("counting")(Counting)
    worldmodels.register("given")(Given)


@pytest.mark.long
@pytest.mark.usefixtures("own_kinds")
@pytest.mark.parametrize("algorithm", ["moma-ppo", "td3-bc"])
def test_a_model_with_a_carry_of_its_own_is_fitted_and_imagined_in(tmp_path, data, monkeypatch, algorithm):
    kept: list[int] = []
    where = CountingCarry.where

    def spy(carry, alive):
        kept.append(len(where(carry, alive).places))
        return where(carry, alive)

    monkeypatch.setattr(CountingCarry, "where", spy)
    monkeypatch.setattr(
        run_models, "prepare_fit", lambda kind, task, given: fitting.prepare_fit(kind, task, SHORT | given)
    )
    fields = {"algorithm": algorithm, "world_model": "counting", **FEW}
    small_run(tmp_path / "straight", data, **fields)
    assert len(set(kept)) > 2, "rows end at several steps"
    start_and_kill(tmp_path / "killed", data, 7, **fields)
    run.resume(tmp_path / "killed")
    refuse_difference(ending(tmp_path / "straight"), ending(tmp_path / "killed"))
    fit = fitting.resume_fit(tmp_path / "straight" / "world_model")
    assert isinstance(fit.model, Counting) and len(fit.errors) == 1 and fit.report is not None


@pytest.mark.usefixtures("own_kinds")
def test_a_fit_of_a_model_without_members_that_died_ends_as_if_it_had_not(tmp_path, data):
    fitting.fit_model("counting", data, out=tmp_path / "straight", **SHORT)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 15, WorldModel)
        fitting.fit_model("counting", data, out=tmp_path / "killed", **SHORT)
    fitting.resume_fit(tmp_path / "killed")
    refuse_difference(ending(tmp_path / "straight"), ending(tmp_path / "killed"))


@pytest.mark.usefixtures("own_kinds")
@pytest.mark.parametrize("algorithm", ["iql", "moma-ppo"])
def test_a_model_that_foresees_available_actions_serves_data_that_restricts_them(tmp_path, algorithm):
    """It is not fitted, and needs neither an environment nor states."""
    restricted = saved(tmp_path, world("discrete"))
    small_run(tmp_path / "run", restricted, algorithm=algorithm, world_model="given", **FEW)
    assert not (tmp_path / "run" / "world_model").exists()
    if algorithm == "iql":
        held = last_state(tmp_path / "run")["source"]["ring"]["held"]
        assert not bool(held["next_avail_actions"].all(-1).all())
        assert bool(held["avail_actions"].gather(-1, held["actions"].unsqueeze(-1)).all())


@pytest.mark.mujoco
def test_the_arm_itself_may_be_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr(training_run, "draw_run", lambda *_: None)
    recording = saved(tmp_path, reacher_recording()) + "_2x1_full"
    fields = {"algorithm": "moma-ppo", "world_model": "oracle", "final_episodes": 1, **FEW, "steps": 2}
    small_run(tmp_path / "run", recording, **fields)
    assert last_state(tmp_path / "run")["source"]["counts"] == [12, 0, 0]


def test_the_oracle_is_not_an_environment_that_only_scores_are_taken_in(tmp_path, monkeypatch):
    monkeypatch.setattr(training_run, "draw_run", lambda *_: None)
    recording = saved(tmp_path, reacher_recording()) + "_2x1_full"
    fields = {"algorithm": "moma-ppo", "world_model": "oracle", "final_episodes": 1, **FEW, "steps": 1}
    with pytest.raises(DataError, match="The oracle imagines in the environment that .* was recorded in, and"):
        small_run(tmp_path / "run", recording, environment="reacher_2x1_full", max_steps=7, **fields)
    assert not (tmp_path / "run" / "config.json").exists()
    small_run(tmp_path / "run", recording, environment="reacher_2x1_full", **fields)


def test_the_cutoff_may_be_a_quantile_of_the_spread_on_recorded_steps(tmp_path, monkeypatch, data, model):
    cautions: list[Caution] = []

    class Spying(choose.Imagination):
        def __init__(self, model, policy, buffer, plan, rewards, generator) -> None:
            super().__init__(model, policy, buffer, plan, rewards, generator)
            cautions.append(plan.caution)

    monkeypatch.setattr(choose, "Imagination", Spying)
    for name, fields in {
        "half": {"cutoff_quantile": 0.5},
        "all": {"cutoff_quantile": 1.0},
        "never": {"cutoff": 0},
    }.items():
        small_run(tmp_path / name, data, algorithm="td3-bc", world_model=model, **fields, **FEW)
    half, most, never = (caution.cutoff for caution in cautions)
    assert 0 < half < most < never == float("inf")


def test_the_runs_seed_and_not_the_models_decides_what_is_imagined(tmp_path, data, model):
    for seed in (0, 1):
        small_run(tmp_path / str(seed), data, algorithm="td3-bc", world_model=model, seed=seed, **FEW)
    states = [last_state(tmp_path / str(seed))["source"]["imagination"]["model"] for seed in (0, 1)]
    assert not torch.equal(*states)


def test_a_run_finds_its_model_again_from_another_working_folder_and_misses_it(tmp_path, data, model, monkeypatch):
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("run", "late"):
        start_and_kill(tmp_path / name, data, 7, algorithm="td3-bc", world_model="model", **FEW)
    monkeypatch.chdir(tmp_path / "elsewhere")
    run.resume("../run")
    shutil.rmtree(tmp_path / "model")
    with pytest.raises(RunFolderError, match="model holds no world model any more, but .*late began with one"):
        run.resume("../late")
    assert not (tmp_path / "model").exists() and run.resume("../run").folder.exists(), "a finished run needs none"


def test_a_run_goes_on_with_the_model_that_it_began_with_alone(tmp_path, data):
    small_fit(tmp_path / "model", data, steps=20)
    for name in ("stopped", "unsaved"):
        step = 7 if name == "stopped" else 2
        start_and_kill(tmp_path / name, data, step, algorithm="td3-bc", world_model=str(tmp_path / "model"), **FEW)
    shutil.rmtree(tmp_path / "model")
    small_fit(tmp_path / "model", data, steps=20, seed=1)
    with pytest.raises(RunFolderError, match="The world model in .*model is not the one that the run in .*stopped beg"):
        run.resume(tmp_path / "stopped")
    assert run.resume(tmp_path / "unsaved").folder.exists(), "what it learnt is lost, and it begins anew"
    shutil.rmtree(tmp_path / "model")
    small_fit(tmp_path / "model", data, steps=20)
    run.resume(tmp_path / "stopped")
    (tmp_path / "stopped" / "pinned.json").unlink()
    assert run.resume(tmp_path / "stopped").folder.exists(), "a finished run needs none"


def test_what_does_not_fit_together_is_refused_before_the_run_begins(tmp_path, data, model, monkeypatch):
    for change, fields, said in (
        ({"needs": Needs(origin="environment")}, {}, "iql learns in an environment, and none belongs to"),
        ({"needs": Needs(state=True)}, {"world_model": model}, "needs a global state, which world models do not"),
        ({}, {"world_model": "oracle"}, "The oracle needs the environment of"),
    ):
        with monkeypatch.context() as patch, pytest.raises(DataError, match=said):
            for name, value in change.items():
                patch.setattr(IQL, name, value)
            small_run(tmp_path / "run", data, algorithm="iql", **fields)
        assert not (tmp_path / "run" / "config.json").exists()
    act_in(monkeypatch, PointEnv)
    with pytest.raises(DataError, match="cannot be put into recorded states"):
        small_run(tmp_path / "run", data, algorithm="iql", world_model="oracle")
    small_run(tmp_path / "run", data, algorithm="iql", steps=1)


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        (
            {"action_scale": 2.0},
            WrongModelError,
            "fitted with --action-scale 1, which the run should have too",
        ),
        ({"world_model": "ensemble", "fit": {"action_scale": 2.0}}, ConfigError, "--fit takes no action_scale"),
        ({"fit": {"steps": 21}}, WrongModelError, "was fitted with steps = 60, not 21: leave that --fit away"),
        ({"fit": {"members": 5}}, WrongModelError, "was fitted with members = 3, not 5"),
        ({"fit": {"step": 5}}, ConfigError, "Unknown field 'step'"),
    ],
    ids=["scale-of-a-model", "scale-of-a-fit", "steps", "members", "unknown"],
)
def test_a_model_of_another_fit_is_refused(tmp_path, data, model, fields, error, said):
    with pytest.raises(error, match=said):
        small_run(tmp_path / "run", data, **{"algorithm": "td3-bc", "world_model": model, **FEW, **fields})
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("spread", "given", "said"),
    [
        ("token_information", {}, "token_information needs a world model that tells tokens"),
        ("max_aleatoric", {"kind": "deterministic", "window": 2}, "max_aleatoric needs members that tell a deviation"),
    ],
)
def test_a_measure_that_the_model_does_not_tell_is_refused_before_its_fit(
    tmp_path, data, quick_fits, monkeypatch, spread, given, said
):
    monkeypatch.setattr(run_models, "begin_fit", lambda *_: pytest.fail("it would be fitted first"))
    with pytest.raises(DataError, match=said):
        small_run(tmp_path / "run", data, algorithm="moma-ppo", spread=spread, fit=given, **FEW)
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.long
@pytest.mark.parametrize("algorithm", ["ma-ppo", "td3-bc"])
def test_a_run_begins_with_another_runs_networks(tmp_path, data, monkeypatch, capsys, algorithm):
    score_in_point_env(monkeypatch)
    source, fields = ("bc", {"policy": "tanh"}) if algorithm == "ma-ppo" else ("td3-bc", {})
    taken = small_run(tmp_path / "first", data, algorithm=source).algorithm.state_dict()
    monkeypatch.chdir(tmp_path)
    standing = {"algorithm": algorithm, "lr": 1e-12, **STEPS, **fields}
    made = small_run(tmp_path / "run", data, init="first", **standing).algorithm.state_dict()
    policy = "actor." if algorithm == "ma-ppo" else "policy."
    same = [name for name in taken if name.startswith(policy)]
    assert same and f"begins with inputs, {policy[:-1]}" in capsys.readouterr().err
    for name in same:
        torch.testing.assert_close(made[name], taken[name])
    for name, value in made.items():
        if name.startswith("target_"):
            torch.testing.assert_close(value, made[name.removeprefix("target_")])
    start_and_kill(tmp_path / "early", data, 3, init="first", **standing)
    start_and_kill(tmp_path / "late", data, 7, init="first", **standing)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run.resume(tmp_path / "early")
    shutil.rmtree(tmp_path / "first")
    run.resume(tmp_path / "late")
    for name in ("early", "late"):
        refuse_difference(ending(tmp_path / "run"), ending(tmp_path / name))


@pytest.mark.parametrize("window", [0, 2])
def test_a_run_of_which_no_network_is_taken_over_is_refused(tmp_path, data, window):
    """A cloner's is called actor, TD3+BC's policy: statistics, and how a history is read, would be all."""
    small_run(tmp_path / "first", data, window=window)
    with pytest.raises(
        RunFolderError, match=r"no network that this algorithm has too \(policy, critic\): nothing but how"
    ):
        small_run(tmp_path / "run", data, algorithm="td3-bc", init=str(tmp_path / "first"), window=window)
    assert not (tmp_path / "run" / "config.json").exists()


def test_networks_of_another_shape_are_refused_before_the_run_begins(tmp_path, data, monkeypatch):
    score_in_point_env(monkeypatch)
    small_run(tmp_path / "first", data, steps=1)
    init = {"init": str(tmp_path / "first"), "steps": 1}
    for fields, said in (
        ({"hidden": [8]}, "The actor of .*first has another shape"),
        ({"algorithm": "ma-ppo"}, r"The actor of .*first is of another kind \(Actor, not GaussianActor\)\.$"),
        ({"window": 2}, "The inputs of .*first has another shape"),
        ({"init": str(tmp_path / "none")}, "none holds no run"),
    ):
        with pytest.raises(RunFolderError, match=said) as refusal:
            small_run(tmp_path / "run", data, **{**init, **fields})
        assert "\n" not in str(refusal.value) and not (tmp_path / "run" / "config.json").exists()
    small_run(tmp_path / "run", data, **init)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ({}, {"algorithm": "masac"}, "actor .* soft_std, which bounds log-std, is False, not True"),
        ({}, {"algorithm": "ma-ppo", "policy": "tanh", "activation": "silu"}, "actor .* activation is relu, not silu"),
        (
            {"window": 3, "history_encoder": "gru"},
            {"window": 2, "history_encoder": "gru"},
            "inputs .* window is 3, not 2",
        ),
        (
            {"algorithm": "ma-iql", "mixer": "monotonic"},
            {"algorithm": "ma-iql", "mixer": "unconstrained"},
            "mixer .* is monotonic, not unconstrained",
        ),
    ],
    ids=["log-std", "activation", "window", "mixer"],
)
def test_networks_that_would_be_other_functions_here_are_refused(tmp_path, data, monkeypatch, first, second, said):
    score_in_point_env(monkeypatch)
    small_run(tmp_path / "first", data, steps=1, **first)
    with pytest.raises(RunFolderError, match=f"^The .*{said}"):
        small_run(tmp_path / "run", data, init=str(tmp_path / "first"), steps=1, **second)
    assert not (tmp_path / "run" / "config.json").exists()


def test_choices_have_no_deviation_that_a_policy_could_bound_otherwise(tmp_path, monkeypatch):
    score_in_point_env(monkeypatch)
    data = saved(tmp_path, world("discrete"))
    small_run(tmp_path / "first", data, steps=1)
    small_run(tmp_path / "run", data, "masac", init=str(tmp_path / "first"), steps=1)


@pytest.mark.parametrize(
    ("algorithm", "fields", "said"),
    [
        ("bc", {"real_fraction": 0.5}, "--real-fraction needs a --world-model"),
        ("bc", {"real_fraction_end": 0.5}, "--real-fraction needs a --world-model"),
        ("iql", {"real_fraction": "auto", "real_fraction_end": 0.5, "world_model": "ensemble"}, "takes no --real-frac"),
        ("moma-ppo", {"real_fraction": 0.5}, "moma-ppo learns from its own episodes alone"),
        ("ma-ppo", {"real_fraction_end": 0.5}, "ma-ppo learns from its own episodes alone"),
        ("ma-ppo", {"world_model": "ensemble"}, "ma-ppo learns in the environment itself: moma-ppo is the one"),
        ("bc", {"world_model": "oracle"}, "bc clones what was recorded.*: it takes no --world-model"),
        *(
            (name, {"world_model": "oracle", "batch_size": 16, **shares}, f"^{name} learns what was done from recorded")
            for name in ("iql", "ma-iql", "td3-bc", "cql", "omar")
            for shares in ({"real_fraction": 0.0}, {"real_fraction": 0.03}, {"real_fraction_end": 0.0})
        ),
        *(
            (name, {"world_model": "oracle", "batch_size": 16, "real_fraction": share, **fields}, f"no {lost} row")
            for name, share, fields, lost in (
                ("masac", 0.03, {}, "recorded"),
                ("masac", 0.03, {"online": True}, "real"),
                ("td3-bc", 0.98, {}, "imagined"),
                ("td3-bc", 0.98, {"real_fraction_end": 1.0}, "imagined"),
            )
        ),
        ("bc", {"reference": (6.0, 0.0)}, "--reference 6,0 should be random,expert, the expert above random play"),
        ("qmix", {"reference": (1.0, 1.0)}, "--reference 1,1 should be random,expert"),
        ("ma-iql", {"weighting": "agent"}, "weighting = agent .* needs mixer = monotonic or vdn"),
        ("omar", {"alpha": 1.0}, "--alpha weighs Q .* omar climbs Q as it is"),
        ("cql", {"policy": "sac", "alpha": 1.0}, "--alpha weighs Q .* policy = sac climbs Q as it is"),
        ("cql", {"conservative_rows": "combo"}, "conservative_rows = combo .* needs a --world-model"),
        ("o-mapl", {}, "o-mapl learns from comparisons: give it --preferences"),
        ("o-mapl", {"preferences": "x", "world_model": "oracle"}, "o-mapl clones what was recorded.*no --world-model"),
        ("o-mapl", {"preferences": "x", "clip_target": True}, "o-mapl reads no rewards"),
        ("iql", {"preferences": "x"}, "iql learns from rewards, not from comparisons: o-mapl is the one"),
        ("iql", {"horizon": 5}, "--horizon is of imagined episodes: it needs a --world-model"),
        ("iql", {"world_model": "ensembel"}, r"Unknown world model 'ensembel': did you mean 'ensemble'\?"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(tmp_path, data, algorithm, fields, said):
    with pytest.raises(ConfigError, match=said):
        small_run(tmp_path / "run", data, algorithm=algorithm, **fields)
    assert not (tmp_path / "run").exists()


def test_a_weight_that_nobody_gave_is_not_refused():
    assert all(algorithms.get(name).Config().alpha == ALPHA for name in ("td3-bc", "cql", "omar"))
