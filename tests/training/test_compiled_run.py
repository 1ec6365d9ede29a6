"""Runs with --compile: what they would be without, where compiling changes nothing; refused by name elsewhere."""

from __future__ import annotations

import pytest
from runs import refuse_difference, small_run

from offline_marl.algorithms import compiled
from offline_marl.algorithms.compiled import NotCompiledError
from offline_marl.core.config import ConfigError
from offline_marl.runs import checkpoint
from offline_marl.training.run import resume
from offline_marl.training.seeds import train_seeds

DATA = "coordination-mix-v0"


@pytest.fixture(autouse=True)
def traced_alone(monkeypatch):
    """What is traced runs as it is: the compiler would take half a minute."""
    modules = []
    monkeypatch.setattr(compiled, "compile_module", lambda module, graphs: modules.append(module) or module)
    return modules


def learnt(folder):
    return dict(checkpoint.read(folder / "checkpoints", 4)["algorithm"])


@pytest.mark.slow
def test_a_compiled_run_is_the_run_without_and_goes_on_compiled(tmp_path, traced_alone):
    fields = {"steps": 4, "checkpoint_every": 2, "keep_checkpoints": 0}
    small_run(tmp_path / "plain", DATA, **fields)
    assert not traced_alone
    small_run(tmp_path / "compiled", DATA, compile=True, **fields)
    assert len(traced_alone) == 1
    refuse_difference(learnt(tmp_path / "plain"), learnt(tmp_path / "compiled"))
    checkpoint.path_of(tmp_path / "compiled" / "checkpoints", 4).unlink()
    (tmp_path / "compiled" / "DONE").unlink()
    resume(tmp_path / "compiled")
    assert len(traced_alone) == 2, "the settings are the run's"
    refuse_difference(learnt(tmp_path / "plain"), learnt(tmp_path / "compiled"))


def test_what_cannot_be_compiled_is_refused_before_a_folder_is_made(tmp_path):
    for algorithm, fields, error, words in (
        ("qmix", {"compile": True}, NotCompiledError, "and qmix steps in between: leave it out"),
        ("bc", {"cuda_graphs": True}, ConfigError, "--cuda-graphs replays compiled code: give it --compile, too"),
        ("bc", {"compile": True, "cuda_graphs": True}, NotCompiledError, "needs a GPU, and this run computes on cpu"),
        ("iql", {"compile": True, "engine": "local"}, ConfigError, "--compile is for updates of this process"),
    ):
        with pytest.raises(error, match=words):
            small_run(tmp_path / "run", DATA, algorithm, **fields)
        assert not (tmp_path / "run" / "config.json").exists()
    with pytest.raises(ConfigError, match="bc with --compile is none"):
        train_seeds("bc", DATA, [0, 1], out=tmp_path / "seeds", compile=True)
