"""Learners side by side learn what each would have learnt alone, here to the bit; others are refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from golden_records import processor
from runs import refuse_difference
from worlds import SPECS, random_batch_index, world

from offline_marl.algorithms.base import Algorithm, algorithms
from offline_marl.algorithms.together import apart, beside, join, part, refuse_together
from offline_marl.core.config import build
from offline_marl.core.seeding import seeded_globally
from offline_marl.core.types import Batch, DataError, Spec
from offline_marl.datasets.buffer import TransitionBuffer

ROWS, SEEDS = 16, 3
EXACT = "GenuineIntel" in processor()
"""Whether a product of several learners' networks rounds as that of one: elsewhere some shapes do not."""
DATA = {kind: world(kind) for kind in SPECS}
OF_TEAM = {"ma-iql", "ma-ppo", "maddpg", "marie", "masac", "moma-ppo", "o-mapl", "omiga", "qmix", "vdn"}
"""Built-in learners whose losses are the whole team's."""
PLAIN = [(name, kind, {}) for name in algorithms.names() for kind in sorted(algorithms.get(name).needs.actions)]
SETTINGS = [
    ("bc", "continuous", {"cosine_steps": 6}),
    ("bc", "discrete", {"grad_clip": 0.01}),
    ("iql", "continuous", {"window": 3, "layer_norm": True}),
    ("td3-bc", "continuous", {"grad_clip": 0.1, "critic": "centralised"}),
    ("td3-bc", "continuous", {"history_encoder": "gru", "window": 3, "frame_stack": 3}),
    ("cql", "continuous", {"policy": "sac", "cql_samples": 3, "critic": "centralised"}),
    ("omar", "continuous", {"bc_weight": 0.5, "grad_clip": 1.0}),
]


def names_of(case) -> str:
    return "-".join([*case[:2], *case[2]])


def learner_of(name: str, kind: str, seed: int, spec: Spec | None = None, **settings) -> Algorithm:
    made_by = algorithms.get(name)
    with seeded_globally(seed, "initialisation"):
        made = made_by(build(made_by.Config, {"hidden": [16, 16], "batch_size": ROWS, **settings}), spec or SPECS[kind])
    made.place("cpu", seed)
    return made


def batches_of(kind: str, learner: Algorithm, step: int, partial: bool) -> list[Batch]:
    buffer, batches = TransitionBuffer(DATA[kind], learner.window), []
    for seed in range(SEEDS):
        batch = buffer.view(random_batch_index(DATA[kind], ROWS, 10 * step + seed), learner.needs)
        if partial:
            there = torch.rand(batch.rewards.shape, generator=torch.Generator().manual_seed(10 * step + seed)) < 0.7
            batch = replace(batch, mask=there, terminations=batch.terminations & there)
        batches.append(batch)
    return batches


@pytest.mark.parametrize("case", PLAIN, ids=names_of)
def test_all_learners_learn_side_by_side_or_are_refused(case) -> None:
    refuse_other_ends(*case, partial=True)


@pytest.mark.parametrize("case", SETTINGS, ids=names_of)
def test_learners_of_other_settings_learn_side_by_side(case) -> None:
    refuse_other_ends(*case, partial=False)


def refuse_other(one: Any, other: Any) -> None:
    """Fail where two trees are not the same, or nearly so where kernels round by the number of learners."""
    if EXACT:
        refuse_difference(one, other)
    else:
        for value, another in zip(tensors(one), tensors(other), strict=True):
            torch.testing.assert_close(value, another, atol=1e-3, rtol=1e-3)  # Adam spreads last digits


def tensors(tree: Any) -> Iterator[torch.Tensor]:
    """All tensors of a tree, in its order."""
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, dict | list | tuple):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from tensors(value)


def refuse_other_ends(name: str, kind: str, settings: dict, partial: bool) -> None:
    """Fail unless learners side by side end as those that learn alone, or are refused by name.

    Of every second batch some agents are away, if it is to be partial.
    """
    alone = [learner_of(name, kind, seed, **settings) for seed in range(SEEDS)]
    joined = [learner_of(name, kind, seed, **settings) for seed in range(SEEDS)]
    try:
        refuse_together(name, type(joined[0]), joined[0].config)
    except DataError as refused:
        assert f"{name} computes losses of the whole team" in str(refused)
        assert name in OF_TEAM or not type(joined[0]).__module__.startswith("offline_marl.")
        return
    assert name not in OF_TEAM
    # Joined anew in the middle, from learners that have been parted and optimisers that have a state.
    for steps in (range(4), range(4, 7)):
        whole = join(joined)
        for step in steps:
            batches = batches_of(kind, alone[0], step, partial and step % 2 == 1)
            rows = [learner.update(batch) for learner, batch in zip(alone, batches, strict=True)]
            rows_joined = apart(whole.update(beside(Batch.cat(batches), SEEDS).check()), SEEDS)
            for row, other in zip(rows, rows_joined, strict=True):
                refuse_other(dict(sorted(row.items())), dict(sorted(other.items())))
        part(whole)
        for one, other in zip(alone, joined, strict=True):
            refuse_other(plain(one), plain(other))


def plain(learner: Algorithm) -> dict:
    """The learner's state, optimisers among it, in an order that does not depend on when a state began."""
    state = dict(learner.state_dict())
    extra = state.pop("_extra_state")
    for optimizer in [extra.get("optimizer"), *extra.get("optimizers", {}).values()]:
        optimizer["state"] = dict(sorted(optimizer["state"].items()))
    return {**state, "extra": extra}


def noise_of(spec: Spec, generator: torch.Generator) -> Batch:
    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(ROWS, spec.n_agents, *shape, generator=generator)

    over = noise() > 2
    return Batch(noise(spec.obs_dim), noise(spec.act_dim).tanh(), noise(), noise(spec.obs_dim), over, over & False)


@pytest.mark.parametrize("spec", [Spec((11,), (6,)), Spec((17,) * 3, (9, 8, 9))], ids=["one-agent", "odd-widths"])
@pytest.mark.parametrize("case", [("bc", {}), ("iql", {}), ("td3-bc", {}), ("omar", {}), ("cql", {"policy": "sac"})])
def test_where_kernels_round_last_entries_otherwise_ends_differ_by_rounding_alone(case, spec) -> None:
    alone, joined = ([learner_of(case[0], "", seed, spec, **case[1]) for seed in range(SEEDS)] for _ in "ab")
    whole, generator = join(joined), torch.Generator().manual_seed(0)
    for _ in range(3):
        batches = [noise_of(spec, generator) for _ in range(SEEDS)]
        rows = [learner.update(batch) for learner, batch in zip(alone, batches, strict=True)]
        rows_joined = apart(whole.update(beside(Batch.cat(batches), SEEDS)), SEEDS)
        torch.testing.assert_close(rows_joined, rows, rtol=1e-5, atol=1e-5)
    part(whole)
    for one, other in zip(alone, joined, strict=True):
        for values, others in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(others, values, rtol=1e-5, atol=1e-6)


def test_settings_that_couple_agents_are_refused_by_their_names() -> None:
    for name, settings, words in (
        ("iql", {"share_parameters": True}, "With share_parameters iql"),
        ("cql", {"target_gap": 1.0}, "With target_gap cql"),
        ("omar", {"critic": "centralised", "cql_actions": "joint"}, "With cql_actions = joint omar"),
        ("cql", {"critic": "centralised", "cql_actions": "counterfactual"}, "With cql_actions = counterfactual cql"),
    ):
        with pytest.raises(DataError, match=words):
            learner = learner_of(name, "continuous", 0, **settings)
            refuse_together(name, type(learner), learner.config)


def test_a_learner_that_diverges_leaves_the_others_alone() -> None:
    alone, joined = ([learner_of("td3-bc", "continuous", seed, grad_clip=1.0) for seed in range(SEEDS)] for _ in "ab")
    whole = join(joined)
    for step in range(3):
        batches = batches_of("continuous", alone[0], step, False)
        batches[1] = replace(batches[1], rewards=batches[1].rewards * torch.inf)
        for learner, batch in zip(alone, batches, strict=True):
            learner.update(batch)
        whole.update(beside(Batch.cat(batches), SEEDS))
    part(whole)
    assert not bool(torch.isfinite(next(joined[1].critic.parameters())).all())
    for index in (0, 2):
        refuse_difference(plain(alone[index]), plain(joined[index]))


def test_imagined_rows_cannot_be_laid_side_by_side() -> None:
    batch = batches_of("continuous", learner_of("bc", "continuous", 0), 0, False)[0]
    with pytest.raises(DataError, match="imagined cannot be laid side by side"):
        beside(replace(batch, synthetic=torch.ones(ROWS, dtype=torch.bool)), 2)
