"""No update waits for the host: Python never reads what it computes, so that a GPU runs ahead."""

from __future__ import annotations

import pytest
import torch
from compared import random_pairs
from torch.utils._python_dispatch import TorchDispatchMode
from worlds import SPECS, random_batch_index, world

from offline_marl.algorithms.base import Algorithm, algorithms
from offline_marl.core.config import build
from offline_marl.core.types import Batch
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.training.preferences.pair_source import PairSource

aten = torch.ops.aten
READ = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.is_nonzero, aten._unique2}
"""Operations whose result Python needs, or its size."""
ROWS = 16
DATA = {kind: world(kind) for kind in SPECS}
CASES = [
    (name, kind)
    for name in algorithms.names()
    if algorithms.get(name).__module__.startswith("offline_marl.")
    for kind in sorted(algorithms.get(name).needs.actions)
]


def pair(name: str, kind: str) -> tuple[Algorithm, Batch]:
    """A small learner and what it learns from."""
    made_by = algorithms.get(name)
    fields = {"hidden": [16, 16], "batch_size": ROWS, "epochs": 2, "minibatch_size": 10}
    known = {field: value for field, value in fields.items() if field in made_by.Config.model_fields}
    learner = made_by(build(made_by.Config, known), SPECS[kind])
    learner.place("cpu", 0)
    buffer = TransitionBuffer(DATA[kind], state=learner.needs.state)
    if learner.needs.view == "pairs":
        source = PairSource(buffer, random_pairs(DATA[kind], ROWS, 0), ROWS, torch.Generator())
        return learner, source.view(torch.arange(ROWS), learner.needs)
    return learner, buffer.view(random_batch_index(DATA[kind], ROWS), learner.needs)


class Waited(AssertionError):
    pass


class NoWaiting(TorchDispatchMode):
    """Refuses what would make a device wait."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masks = func.overloadpacket in {aten.index, aten.index_put, aten.index_put_} and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if func.overloadpacket in READ or masks:
            raise Waited(func.name())
        return func(*args, **(kwargs or {}))


def read(*args, **named):
    raise Waited("Tensor.tolist, numpy or cpu")


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_an_update_reads_nothing_that_it_computes(monkeypatch, case):
    learner, batch = pair(*case)
    for name in ("tolist", "numpy", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, read)
    with NoWaiting():
        for _ in range(2):
            metrics = learner.update(batch)
    assert all(value.dim() == 0 and not value.requires_grad for value in metrics.values())


def test_a_learner_that_reads_its_loss_is_noticed():
    learner, batch = pair("bc", "continuous")
    conclude = learner.conclude
    learner.__dict__["conclude"] = lambda metrics: conclude(metrics) if metrics["loss/actor"] < 1e9 else {}
    with pytest.raises(Waited, match="_local_scalar_dense"), NoWaiting():
        learner.update(batch)
