"""The yardstick of recurrent learners in benchmarks/speed.py computes what VDN computes."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch


@pytest.fixture
def speed(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module("speed_recurrent")


@torch.no_grad()
def lend(network, agents) -> None:
    """Give the loop's agents the weights of ours."""
    first, unit, head = network.layers[0], network.unit, network.head
    for i, agent in enumerate(agents):
        pairs = [
            (agent.first.weight, first.weight[i].t()),
            (agent.first.bias, first.bias[i, 0]),
            (agent.unit.weight_ih_l0, unit.read.weight[i].t()),
            (agent.unit.bias_ih_l0, unit.read.bias[i, 0]),
            (agent.unit.weight_hh_l0, unit.recall.weight[i].t()),
            (agent.unit.bias_hh_l0, unit.recall.bias[i, 0]),
            (agent.head.weight, head.weight[i].t()),
            (agent.head.bias, head.bias[i, 0]),
        ]
        for theirs, ours in pairs:
            theirs.copy_(ours)


def test_the_loop_has_our_losses_update_after_update(speed):
    spec = speed.choices_of("reacher")
    ours, loop = speed.make("vdn", spec, share_parameters=False), speed.LoopVDN(spec)
    batch = speed.make_episodes(spec)
    batch = batch.map(lambda value: value[:4])
    ours.update(batch)  # so that targets differ from their sources
    lend(ours.critic, loop.agents)
    lend(ours.target_critic, loop.targets)
    ours.optimizers[""].state.clear()
    for _ in range(4):
        found, expected = ours.update(batch)["loss/critic"], loop.update(batch)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
