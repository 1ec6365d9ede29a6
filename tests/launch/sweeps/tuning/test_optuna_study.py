"""What Optuna proposes, with scores made up in place of runs."""

from __future__ import annotations

import json
import logging
import shutil

import pytest

from offline_marl.core.config import ConfigError
from offline_marl.launch.sweeps.file import Distribution, Optuna
from offline_marl.launch.sweeps.folder import SweepError
from offline_marl.launch.sweeps.plan import Planned
from offline_marl.launch.sweeps.studies import Study
from offline_marl.launch.sweeps.tuning import optuna_study
from offline_marl.launch.sweeps.tuning.optuna_study import Journal, OptunaStudy

pytest.importorskip("optuna")
LR = Distribution(distribution="log-uniform", low=1e-5, high=1.0)


def study(seed=0, sampler="tpe", trials=40, fields=None, startup=5):
    asked = Optuna(trials=trials, seed=seed, sampler=sampler, startup=startup, fields=fields or {"lr": LR})
    run = Planned(folder="runs/bc_arm_seed0", command="train", name="bc", fields={"seed": 0})
    return Study(about={"algorithm": "bc", "dataset": "arm"}, asked=asked, runs=(run,))


def score(drawn):
    """Highest at lr = 0.01."""
    from math import log10

    return -((log10(drawn["lr"]) + 2.0) ** 2)


def told(path, count, at_once=1, **settings):
    """Trials asked for in rounds, and told their made-up scores."""
    asker = OptunaStudy(study(**settings), Journal(path))
    while len(asker.trials()) < count:
        for trial in [asker.ask() for _ in range(min(at_once, count - len(asker.trials())))]:
            asker.tell(trial.number, score(trial.drawn))
    return asker.trials()


def test_what_is_proposed_gets_closer_than_chance(tmp_path):
    def distance(sampler, seed):
        trials = told(tmp_path / f"{sampler}{seed}", 25, at_once=2, sampler=sampler, seed=seed)
        return sum(-trial.value for trial in trials[-10:]) / 10

    # Chance lies 2.25 away in the mean.
    assert sum(distance("tpe", seed) for seed in range(2)) < 0.7 * sum(distance("random", seed) for seed in range(2))


def test_the_same_results_lead_to_the_same_proposals(tmp_path):
    whole = told(tmp_path / "whole", 12, at_once=3)
    told(tmp_path / "cut", 6, at_once=3)
    assert told(tmp_path / "cut", 12, at_once=3) == whole
    assert told(tmp_path / "other", 12, at_once=3, seed=1) != whole


@pytest.mark.parametrize("keep", [5, 8, 9])
def test_a_launcher_killed_between_two_writes_proposes_the_same(tmp_path, keep):
    whole = told(tmp_path / "whole", 8)
    lines = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    # A study, then a line for each question and answer; the last one was cut in the middle.
    (tmp_path / "cut").write_bytes(b"".join(lines[:keep]) + lines[keep][:40])
    (tmp_path / "cut.lock").touch()
    asker = OptunaStudy(study(), Journal(tmp_path / "cut"))
    for trial in asker.trials():
        if not trial.over:
            asker.tell(trial.number, score(trial.drawn))
    assert told(tmp_path / "cut", 8) == whole
    assert not (tmp_path / "cut.lock").exists()


def test_trials_of_one_round_differ_and_failures_count_for_nothing(tmp_path):
    asker = OptunaStudy(study(startup=1), Journal(tmp_path / "j"))
    for value in (None, float("nan"), float("inf")):
        asker.tell(asker.ask().number, value)
    assert [(trial.over, trial.value) for trial in asker.trials()] == [(True, None)] * 3
    for _ in range(3):
        trial = asker.ask()
        asker.tell(trial.number, score(trial.drawn))
    assert len({asker.ask().drawn["lr"] for _ in range(4)}) == 4


def test_every_kind_of_field_is_drawn_within_its_range(tmp_path):
    fields = {
        "lr": LR,
        "tau": Distribution(distribution="uniform", low=0.99991, high=0.99999),
        "batch-size": Distribution(distribution="log-uniform", low=0.4, high=64, integer=True),
        "horizon": Distribution(distribution="uniform", low=3, high=5, integer=True),
        "hidden": Distribution(distribution="choice", values=([8], [8, 8], None, "x", 1, True)),
    }
    trials = told(tmp_path / "j", 20, fields=fields, startup=10)
    for drawn in (trial.drawn for trial in trials):
        assert 1e-5 <= drawn["lr"] <= 1 and drawn["lr"] == float(f"{drawn['lr']:.4g}")
        assert 0.99991 <= drawn["tau"] <= 0.99999
        assert isinstance(drawn["batch_size"], int) and 1 <= drawn["batch_size"] <= 64
        assert drawn["horizon"] in (3, 4, 5) and any(drawn["hidden"] is v for v in fields["hidden"].values)
    assert len({json.dumps(trial.drawn["hidden"]) for trial in trials}) > 3


def test_optuna_says_nothing(tmp_path, capfd, caplog):
    import optuna

    with caplog.at_level(logging.DEBUG):
        told(tmp_path / "j", 7, startup=2)
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == optuna.logging.INFO, "who uses Optuna besides hears it"


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: [b"{\n", *lines],
        lambda lines: [lines[0], b"\x00" * 50 + b"\n", *lines[1:]],
        lambda lines: [*lines[:2], b"[]\n", *lines[2:]],
        lambda lines: [line.replace(b'"lr"', b'"rl"') for line in lines],
        lambda lines: [line.replace(b"FloatDistribution", b"Distribution") for line in lines],
    ],
)
def test_a_damaged_journal_is_one_sentence(tmp_path, damage):
    path = tmp_path / "optuna.journal"
    told(path, 3)
    path.write_bytes(b"".join(damage(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(SweepError, match="optuna.journal was damaged or edited: ") as error:
        OptunaStudy(study(), Journal(path)).trials()
    assert "\n" not in str(error.value)


def test_without_optuna_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(optuna_study, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'offline-marl\[tune\]'"):
        Journal(tmp_path / "j")
    assert not list(tmp_path.iterdir())


def test_two_studies_share_a_journal(tmp_path):
    other = study().model_copy(update={"about": {"algorithm": "iql", "dataset": "arm"}})
    first = told(tmp_path / "j", 2)
    assert OptunaStudy(other, Journal(tmp_path / "j")).trials() == []
    # At first both are tried in the same places.
    assert OptunaStudy(other, Journal(tmp_path / "j")).ask().drawn == first[0].drawn
    shutil.copy(tmp_path / "j", tmp_path / "k")
    assert OptunaStudy(study(), Journal(tmp_path / "k")).trials() == first
