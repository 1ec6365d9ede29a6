"""Compiled updates: what is traced is the update to the bit and waits for no host; what is compiled only rounds."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from runs import refuse_difference
from worlds import SPECS, random_batch_index, world

from offline_marl.algorithms import compiled
from offline_marl.algorithms.base import Algorithm, algorithms
from offline_marl.algorithms.compiled import CompiledUpdate, CompilerError, NotCompiledError, compilable, trace
from offline_marl.algorithms.descent import DescentAlgorithm
from offline_marl.core.config import build
from offline_marl.core.seeding import seeded_globally
from offline_marl.core.types import Batch
from offline_marl.datasets.buffer import TransitionBuffer

ROWS = 16
DATA = {kind: world(kind) for kind in SPECS}
CASES = [("td3-bc", "continuous", {})]
MORE = [
    ("bc", "discrete", {}),
    ("iql", "continuous", {"grad_clip": 0.1}),
    ("bc", "continuous", {"window": 3, "layer_norm": True, "cosine_steps": 5}),
    ("iql", "discrete", {"window": 3, "history_encoder": "gru"}),
    ("ma-iql", "continuous", {"share_parameters": True}),
    ("ma-iql", "discrete", {}),
    ("omiga", "continuous", {}),
    ("td3-bc", "continuous", {"critic": "centralised", "policy_every": 3}),
    ("cql", "discrete", {}),
    ("cql", "continuous", {"policy": "sac", "target_gap": 0.5}),
    ("omar", "continuous", {"bc_weight": 0.5}),
]
slow = pytest.mark.slow


def learner_of(name: str, kind: str, settings: dict) -> Algorithm:
    made_by = algorithms.get(name)
    with seeded_globally(0, "initialisation"):
        made = made_by(build(made_by.Config, {"hidden": [16, 16], "batch_size": ROWS, **settings}), SPECS[kind])
    made.place("cpu", 0)
    return made


def batch_of(learner: Algorithm, kind: str, step: int, partial: bool = False) -> Batch:
    batch = TransitionBuffer(DATA[kind], learner.window).view(random_batch_index(DATA[kind], ROWS, step), learner.needs)
    if not partial:
        return batch
    there = torch.rand(batch.rewards.shape, generator=torch.Generator().manual_seed(step)) < 0.7
    return replace(batch, mask=there, terminations=batch.terminations & there)


@pytest.mark.parametrize("case", [*CASES, *(pytest.param(case, marks=slow) for case in MORE)], ids=str)
def test_what_is_traced_is_the_update_to_the_bit(monkeypatch, case):
    name, kind, settings = case
    monkeypatch.setattr(compiled, "compile_module", lambda module, graphs: module)
    eager, traced = learner_of(*case), learner_of(*case)
    update = CompiledUpdate(compilable(name, traced))
    for step in range(4):
        partial = step == 3  # rows of another form
        rows = eager.update(batch_of(eager, kind, step, partial)), update(batch_of(eager, kind, step, partial))
        refuse_difference(*(dict(row) for row in rows))
    refuse_difference(dict(eager.state_dict()), dict(traced.state_dict()))
    assert not set(compiled.DRAWS) & set(traced.__dict__), "draws are the learner's own again"


def test_metrics_are_not_overwritten_by_the_next_update(monkeypatch):
    out: list[torch.Tensor] = []

    def replayed(module, graphs):
        def call(*tensors):
            fresh = module(*tensors)
            out[:] = out or [value.clone() for value in fresh]
            return [mine.copy_(value) for mine, value in zip(out, fresh, strict=True)]  # as a graph answers

        return call

    monkeypatch.setattr(compiled, "compile_module", replayed)
    learner, eager = learner_of("bc", "continuous", {}), learner_of("bc", "continuous", {})
    update = CompiledUpdate(learner)
    kept = [update(batch_of(learner, "continuous", step)) for step in range(3)]
    expected = [eager.update(batch_of(learner, "continuous", step)) for step in range(3)]
    for row, other in zip(kept, expected, strict=True):
        refuse_difference(dict(row), dict(other))


def test_losses_that_wait_for_the_host_cannot_be_traced():
    class Waits(algorithms.get("bc")):
        def losses(self, batch):
            terms = super().losses(batch)
            return terms if bool(terms.losses[""] < 1e9) else None

    learner = Waits(build(Waits.Config, {"hidden": [8]}), SPECS["continuous"])
    with pytest.raises(Exception, match="data-dependent|_local_scalar_dense"):
        trace(learner, batch_of(learner, "continuous", 0))


def test_learners_that_step_between_losses_are_refused_by_name():
    for name in ("ma-ppo", "vdn", "qmix", "masac", "maddpg"):
        kind = min(algorithms.get(name).needs.actions)
        with pytest.raises(NotCompiledError, match=f"and {name} steps in between: leave it out"):
            compilable(name, learner_of(name, kind, {}))


def test_what_is_missing_is_said_in_a_sentence(monkeypatch):
    learner = learner_of("bc", "continuous", {})
    with pytest.raises(NotCompiledError, match="--cuda-graphs needs a GPU, and this run computes on cpu"):
        compilable("bc", learner, graphs=True)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(NotCompiledError, match=r"needs a C\+\+ compiler, and no-such-compiler is not installed here"):
        compilable("bc", learner)


def test_a_compiler_that_fails_is_told_in_a_sentence(monkeypatch):
    class Failed(RuntimeError):
        pass

    Failed.__module__ = "torch._inductor.exc"

    def call(*tensors):
        raise Failed("no Python.h\nmore of it")

    monkeypatch.setattr(compiled, "compile_module", lambda module, graphs: call)
    learner = learner_of("bc", "continuous", {})
    with pytest.raises(CompilerError, match=r"cannot make code for this update here: no Python.h\."):
        CompiledUpdate(learner)(batch_of(learner, "continuous", 0))


@slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ["iql", "td3-bc"])
def test_a_hundred_compiled_updates_equal_eager_ones_but_for_rounding(monkeypatch, tmp_path, name):
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    eager, other = learner_of(name, "continuous", {}), learner_of(name, "continuous", {})
    update = CompiledUpdate(compilable(name, other))
    for step in range(100):
        batch = batch_of(eager, "continuous", step)
        torch.testing.assert_close(update(batch), eager.update(batch), rtol=1e-4, atol=1e-5)
    assert isinstance(other, DescentAlgorithm) and other.updates == 100
    for values, others in zip(eager.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(others, values, rtol=1e-3, atol=1e-4)
