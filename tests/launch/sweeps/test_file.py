from __future__ import annotations

import pytest

from offline_marl.core.config import ConfigError
from offline_marl.launch.sweeps.file import SweepFile, read_sweep_file

HEAD = 'algorithms = ["bc"]\ndatasets = ["coordination-mix-v0"]\nseeds = [0]\n'

REFUSED = {
    "[grid]\nlr = []": "'grid.lr' is empty",
    "[grid]\nlr = 0.1": "'grid.lr' cannot be 0.1: it should be a list",
    "[grid]\nlr = [0.1, 0.1]": "0.1 is listed twice",
    "sedes = [1]": "Unknown field 'sedes': did you mean 'seeds'",
    "[search]\ntrails = 3": "'search.trails': did you mean 'trials'",
    "[search]\ntrials = 0\nfields.lr = {distribution = 'choice', values = [1]}": "Field 'search.trials' cannot be 0",
    "[search]\ntrials = 2\nfields.lr = {distribution = 'normal'}": "Field 'search.fields.lr.distribution' cannot be",
    "[search]\ntrials = 2\nfields.lr = {distribution = 'uniform', low = 2, high = 1}": "low below high",
    "[search]\ntrials = 2\nfields.lr = {distribution = 'log-uniform', low = 0, high = 1}": "a low above 0",
    "[search]\ntrials = 2\nfields.lr = {distribution = 'choice', values = []}": "at least one",
    "[search]\ntrials = 2\nfields = {}": "'search.fields' is empty",
    "[optuna]\ntrails = 3": "'optuna.trails': did you mean 'trials'",
    "[optuna]\ntrials = 2\nsampler = 'gp'\nfields.lr = {distribution = 'choice', values = [1]}": "optuna.sampler",
    "[optuna]\ntrials = 2\nmetric = 'los'\nfields.lr = {distribution = 'choice', values = [1]}": "optuna.metric",
    "[optuna]\ntrials = 2\nfields.lr = {distribution = 'uniform', lo = 1}": "did you mean 'low'",
    "[optuna]\ntrials = 2\nfields = {}": "'optuna.fields' is empty",
    "[optuna]\ntrials = 2\nfields.seed = {distribution = 'choice', values = [1]}": "list it under seeds",
    "[grid]\nlr = [1e-3]\n[optuna]\ntrials = 2\nfields.lr = {distribution = 'choice', values = [1]}": "in one of them",
    "[search]\ntrials = 2\nfields.lr = {distribution = 'choice', values = [1]}\n"
    "[optuna]\ntrials = 2\nfields.lr = {distribution = 'choice', values = [1]}": "keep one of them",
    "[fields]\nseed = 3": "list it under seeds",
    "[grid]\ndataset = ['x']": "list it under datasets",
    "[fields]\nout = 'x'": "the sweep decides it",
    "[grid]\nfit = [{steps = 3}]": "[models.NAME]",
    "[algorithm.iql]\nseeds = [1]": "[algorithm.iql] is of no algorithm that is listed",
    "[models.small]\nkid = 'ensemble'": "'models.small.kid': did you mean 'kind'",
    "[grid]\nlr = [1e-3]\n[search]\ntrials = 2\nfields.lr = {distribution = 'choice', values = [1]}": "in one of them",
}


@pytest.mark.parametrize("more", REFUSED)
def test_what_cannot_be_is_one_sentence_that_names_the_file(tmp_path, more):
    path = tmp_path / "sweep.toml"
    path.write_text(HEAD + more)
    with pytest.raises(ConfigError) as error:
        read_sweep_file(path)
    assert REFUSED[more] in str(error.value) and str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, words",
    [
        ('algorithms = ["bc"]\nseeds = [0]', "names nothing to learn bc on"),
        ('algorithms = ["bc"]\ndatasets = ["x"]', "names no seeds"),
        ('algorithms = []\ndatasets = ["x"]\nseeds = [0]', "'algorithms' is empty"),
        ('datasets = ["x"]\nseeds = [0]', "Field 'algorithms' is missing"),
        ('algorithms = "bc"\ndatasets = ["x"]\nseeds = [0]', "'algorithms' cannot be 'bc': it should be a list"),
        ('algorithms = ["bc"]\ndatasets = ["x"]\nseeds = [-1]', "Field 'seeds.0' cannot be -1"),
    ],
)
def test_what_is_missing_is_named(tmp_path, text, words):
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words.replace("[", r"\[")):
        read_sweep_file(path)


def test_yaml_says_the_same(tmp_path):
    toml, yaml = tmp_path / "sweep.toml", tmp_path / "sweep.yaml"
    toml.write_text(HEAD + "[grid]\nlr = [0.001]\n")
    yaml.write_text("algorithms: [bc]\ndatasets: [coordination-mix-v0]\nseeds: [0]\ngrid:\n  lr: [0.001]\n")
    assert read_sweep_file(toml) == read_sweep_file(yaml)


def test_an_algorithm_replaces_lists_and_adds_fields():
    said = SweepFile.model_validate(
        {
            "algorithms": ["bc", "iql"],
            "datasets": ["x"],
            "seeds": [0, 1],
            "fields": {"steps": 3, "lr": 0.1},
            "algorithm": {"iql": {"seeds": [2], "fields": {"lr": 0.2}, "environments": ["y"]}},
        }
    )
    assert said.axes_of("bc").seeds == (0, 1) and said.axes_of("bc").datasets == ("x",)
    own = said.axes_of("iql")
    assert own.seeds == (2,) and own.fields == {"steps": 3, "lr": 0.2}
    assert own.datasets is None and own.environments == ("y",)


def test_an_algorithm_searches_in_its_own_way():
    lr = {"lr": {"distribution": "choice", "values": [1]}}
    said = SweepFile.model_validate(
        {
            "algorithms": ["bc", "iql"],
            "datasets": ["x"],
            "seeds": [0],
            "optuna": {"trials": 3, "fields": lr},
            "algorithm": {"iql": {"search": {"trials": 2, "fields": lr}}},
        }
    )
    assert said.axes_of("bc").optuna is not None and said.axes_of("bc").search is None
    assert said.axes_of("iql").optuna is None and said.axes_of("iql").search is not None
