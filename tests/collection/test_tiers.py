"""Tiers of quality from the checkpoints of one run."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from runs import small_run

from offline_marl.collection import recorder, tiers
from offline_marl.collection.behaviours import find_behaviour
from offline_marl.collection.collect import collect
from offline_marl.collection.config import CollectConfig
from offline_marl.collection.recordable import Recordable
from offline_marl.collection.tiers import collect_tiers
from offline_marl.core.config import ConfigError, build
from offline_marl.core.types import DataError
from offline_marl.datasets import catalog
from offline_marl.datasets.files import load_data
from offline_marl.environments.base import environments
from offline_marl.environments.scores import summarize
from offline_marl.runs import checkpoint
from offline_marl.runs.folder import RunFolderError
from offline_marl.tasks.data_tasks import open_task

STEPS = [5, 10, 15, 20, 25, 30]
RETURNS = {5: 1.1, 10: 1.6, 15: 2.4, 20: 3.2, 25: 4.1, 30: 3.9}
"""What `graded` makes checkpoints return: never the last one most."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that kept all its checkpoints."""
    fields = {"steps": 30, "checkpoint_every": 5, "keep_checkpoints": 0, "final_episodes": 2}
    return small_run(tmp_path_factory.mktemp("run") / "clone", "rendezvous-left-v0", **fields).folder


@pytest.fixture
def graded(monkeypatch):
    """Checkpoints that return what is written above, chance 0.2."""
    asked = []

    def measure(config, names, folder):
        asked.append(names)
        means = [RETURNS.get(int(name.rpartition("@")[2] or 0), 0.2) if "@" in name else 0.2 for name in names]
        return [summarize(np.linspace(mean - 0.1, mean + 0.1, 50)) for mean in means]

    monkeypatch.setattr(tiers, "measure", measure)
    return asked


def tiered(out, run, **fields):
    settings = {"environment": "rendezvous", "tiers": run, "out": out, "episodes": 4, "score_episodes": 20, **fields}
    return collect_tiers(build(CollectConfig, settings))


def test_zero_keeps_all_checkpoints_and_any_of_them_can_act(tmp_path, run):
    assert [step for step, _ in checkpoint.found(run / "checkpoints")] == STEPS[::-1]
    task = Recordable.built("rendezvous", environments.get("rendezvous"), 1)
    newest, named, early = (find_behaviour(f"{run}{at}", task).describe()["weights_sha256"] for at in ("", "@30", "@5"))
    assert newest == named != early
    fields = {"environment": "rendezvous", "episodes": 3, "who": (f"{run}@10", str(run))}
    about = load_data(collect(build(CollectConfig, {**fields, "out": tmp_path / "a.safetensors"}))).metadata["actors"]
    assert (about[0]["name"], about[0]["step"], about[1]["name"]) == ("clone@10", 10, "clone")
    assert about[0]["weights_sha256"] != about[1]["weights_sha256"]
    with pytest.raises(RunFolderError, match="holds no checkpoint of step 7: there are 5, 10, 15, 20, 25, 30"):
        find_behaviour(f"{run}@7", task)


def test_the_checkpoint_nearest_to_each_fraction_is_recorded(tmp_path, run, graded):
    found = tiered(tmp_path / "data" / "meet", run)
    assert [(tier.name, tier.step) for tier in found] == [("poor", 5), ("medium", 15), ("good", 20), ("expert", 25)]
    assert graded == [[*(f"{run}@{step}" for step in STEPS), "random"]]
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        f"meet-{name}.safetensors" for name in ("expert", "good", "medium", "poor")
    ]
    data = load_data(tmp_path / "data" / "meet-medium.safetensors")
    about = data.metadata["tier"]
    assert about | {"low": 0, "high": 0} == {
        "name": "medium",
        "run": "clone",
        "step": 15,
        "wanted": 0.5,
        "fraction": pytest.approx((2.4 - 0.2) / 3.9),
        "return": pytest.approx(2.4),
        "low": 0,
        "high": 0,
        "episodes": 50,
        "seed": 0,
    }
    assert about["low"] < about["return"] < about["high"]
    assert [(actor["name"], actor["step"]) for actor in data.metadata["actors"]] == [("clone@15", 15)]
    reference = open_task(str(tmp_path / "data" / "meet-poor.safetensors")).reference
    assert (reference.random, reference.expert) == (pytest.approx(0.2), pytest.approx(4.1))
    assert "expert is step 25 of clone" in reference.note and "uniform play" in reference.note
    starts = [set(load_data(tier.path).metadata["seeds"]) for tier in found]
    assert len(set.union(*starts)) == 16, "no two tiers share a start"


def test_names_fractions_and_references_can_be_given(tmp_path, run, graded):
    found = tiered(tmp_path / "a", run, tier_fractions=("bad=0.2", "fine=0.6"), reference=(0.0, 5.0))
    assert [(tier.name, tier.step, round(tier.fraction, 2)) for tier in found] == [("bad", 5, 0.22), ("fine", 20, 0.64)]
    assert graded == [[f"{run}@{step}" for step in STEPS]], "chance needs no measuring"
    assert load_data(found[0].path).metadata["reference"]["expert"] == 5


def test_scores_are_those_of_the_checkpoints_on_one_set_of_starts(tmp_path, run):
    fields = {"tier_fractions": ("first=0.5",), "tier_tolerance": 100.0, "reference": (-1.0, 6.0)}
    one = tiered(tmp_path / "one", run, **fields)[0]
    other = tiered(tmp_path / "other", run, copies=3, **fields)[0]
    assert one.step == other.step and np.array_equal(one.score.returns, other.score.returns)
    about = [load_data(tier.path).metadata for tier in (one, other)]
    assert about[0]["tier"] == about[1]["tier"] and about[0]["actors"] == about[1]["actors"]


@pytest.mark.parametrize("killed_at", [1, 4, 13])
def test_killed_and_resumed_equals_undisturbed(tmp_path, run, monkeypatch, killed_at):
    fields = {"tier_fractions": ("low=0.2", "high=0.8"), "tier_tolerance": 100.0, "reference": (-1.0, 6.0)}
    tiered(tmp_path / "whole" / "a", run, **fields)
    play, plays = recorder.Recorder.play, []

    def dying(*args):
        plays.append(args)
        if len(plays) > killed_at:
            raise KeyboardInterrupt
        return play(*args)

    with monkeypatch.context() as patch:
        patch.setattr(recorder.Recorder, "play", dying)
        with pytest.raises(KeyboardInterrupt):
            tiered(tmp_path / "again" / "a", run, **fields, copies=16)
    with pytest.raises(DataError, match=r"holds chunks of another collection \(other seed\)"):
        tiered(tmp_path / "again" / "a", run, **fields, seed=1)
    if killed_at == 13:
        with pytest.raises(DataError, match="a-low.safetensors exists already, and is of another tier"):
            tiered(tmp_path / "again" / "a", run, **{**fields, "tier_fractions": ("low=0.3",)})
    again = []
    monkeypatch.setattr(recorder.Recorder, "play", lambda *args: again.append(args) or play(*args))
    tiered(tmp_path / "again" / "a", run, **fields, copies=16)
    assert len(again) <= 15 - killed_at // 2 * 2, "what was done is kept"
    for name in ("a-low.safetensors", "a-high.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert len(list((tmp_path / "again").iterdir())) == 2


def test_what_makes_no_tiers_is_refused_in_a_sentence(tmp_path, run, graded):
    out = tmp_path / "a"
    with pytest.raises(
        DataError, match=r"near enough to tier 'odd', 0\.3 of the way .* step 10, stands at 0\.36; train"
    ):
        tiered(out, run, tier_fractions=("odd=0.3",), tier_tolerance=0.05)
    assert tiered(out, run, tier_fractions=("odd=0.35",), tier_tolerance=0.05)[0].step == 10, "scores are kept"
    (tmp_path / "a-odd.safetensors").unlink()
    for settings, sentence in (
        ({"out": tmp_path / "a.safetensors"}, "is how its files' names begin: --out .*a$|a\\."),
        ({"who": ("left",)}, "leave --who away"),
        ({"score_episodes": 0}, "needs --score-episodes above 0"),
        ({"tier_fractions": ("poor",)}, "should be NAME=FRACTION"),
        ({"tier_fractions": ("a/b=0.1",)}, "should be NAME=FRACTION"),
        ({"tier_fractions": ("poor=x",)}, "fraction 'x' of tier poor is neither a number nor 'best'"),
        ({"tier_fractions": ("poor=nan",)}, "fraction 'nan' of tier poor is neither a number nor 'best'"),
        ({"tier_fractions": ()}, "names no tier"),
        ({"reference": (3.0, 2.0)}, "the expert above random play"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            tiered(**{"out": out, "run": run, **settings})
    with pytest.raises(RunFolderError, match="holds no run"):
        tiered(out, tmp_path / "nothing")
    assert not list(tmp_path.glob("*.safetensors"))
    (tmp_path / "b-poor.safetensors").touch()
    with pytest.raises(DataError, match="b-poor.safetensors exists already"):
        tiered(tmp_path / "b", run)


def test_a_run_that_learned_nothing_makes_no_tiers(tmp_path, run, graded, monkeypatch):
    for step in STEPS:
        monkeypatch.setitem(RETURNS, step, 0.1)
    with pytest.raises(DataError, match=r"learned nothing .* step 5, returns 0\.1, uniform play 0\.2"):
        tiered(tmp_path / "a", run)


def test_a_damaged_checkpoint_is_left_out(tmp_path, run, graded, capsys):
    path = checkpoint.path_of(run / "checkpoints", 10)
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    try:
        tiered(tmp_path / "a", run)
    finally:
        path.write_bytes(whole)
    assert "step_000000010.safetensors" in (err := capsys.readouterr().err) and "left out" in err
    assert f"{run}@10" not in graded[0]


@pytest.fixture
def uncatalogued(monkeypatch):
    """Nothing is known of rendezvous."""
    from offline_marl.collection import references

    monkeypatch.setattr(references, "CATALOG", {n: e for n, e in catalog.CATALOG.items() if e.scenario != "rendezvous"})


def test_chance_is_measured_where_nothing_is_known_and_the_best_actor_stands_for_the_expert(tmp_path, uncatalogued):
    fields = {"environment": "rendezvous", "episodes": 30, "noise": (0.1,), "seed": 5}
    who = {"who": ("left=2", "random"), "deviate": "random", "deviate_share": 0.2}
    data = load_data(collect(build(CollectConfig, {**fields, **who, "out": tmp_path / "a.safetensors"})))
    random, reference = data.metadata["random_return"], data.metadata["reference"]
    low, high = data.metadata["random_interval"]
    assert low < random < high and random == pytest.approx(-0.159, abs=0.02)
    assert reference["random"] == random and "200 episodes of uniform play" in reference["note"]
    mask = (torch.tensor(data.metadata["who"]) == 0) & (torch.tensor(data.metadata["deviators"]) == -1)
    assert reference["expert"] == pytest.approx(float(data.returns()[mask].mean()))
    assert "No expert is known: expert is the mean of left" in reference["note"]
    again = load_data(collect(build(CollectConfig, {**fields, **who, "out": tmp_path / "b.safetensors", "copies": 5})))
    assert again.metadata["reference"] == reference
    chance = load_data(collect(build(CollectConfig, {**fields, "who": ("random",), "out": tmp_path / "c.safetensors"})))
    assert chance.metadata["random_return"] == random and "reference" not in chance.metadata
    given = {"out": tmp_path / "d.safetensors", "reference": (-1.0, 7.0)}
    assert load_data(collect(build(CollectConfig, {**fields, **given}))).metadata["reference"]["expert"] == 7
    none = load_data(collect(build(CollectConfig, {**fields, "out": tmp_path / "e.safetensors", "score_episodes": 0})))
    assert not {"random_return", "reference"} & set(none.metadata)
    assert json.dumps(dict(none.metadata)) and none.metadata["reward"] == "team"
