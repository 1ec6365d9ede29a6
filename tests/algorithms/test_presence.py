"""What learners that read the whole team take for present: late-comers, agents that leave, and those that stay."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from offline_marl.algorithms.base import algorithms, cleared, present_next, team_ended
from offline_marl.core.config import build
from offline_marl.core.types import Batch, Needs, Spec
from offline_marl.datasets.base import Dataset
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.datasets.normalize import obs_statistics

T = 4
TEAM = [
    ("ma-iql", {"mixer": "vdn"}),
    ("ma-iql", {}),
    ("omiga", {}),
    ("td3-bc", {"critic": "centralised"}),
    ("cql", {"critic": "centralised"}),
    ("maddpg", {}),
    ("masac", {"critic": "centralised"}),
]


def episode(terminations: list[list[int]], truncations: list[list[int]], mask: list[list[int]] | None = None) -> dict:
    """Arrays of an episode of two agents, zeros where one is away."""
    generator = torch.Generator().manual_seed(0)
    there = torch.ones(T, 2, dtype=torch.bool) if mask is None else torch.tensor(mask, dtype=torch.bool)
    seen = torch.cat([there, there[-1:]]).unsqueeze(-1)
    return {
        "obs": torch.rand(T + 1, 2, 2, generator=generator).add(0.5) * seen,
        "actions": torch.tanh(torch.randn(T, 2, 1, generator=generator)) * there.unsqueeze(-1),
        "rewards": torch.ones(T, 2) * there,
        "terminations": torch.tensor(terminations, dtype=torch.bool),
        "truncations": torch.tensor(truncations, dtype=torch.bool),
        "mask": there,
    }


def data(*episodes: dict, mask: bool = True) -> Dataset:
    names = [name for name in episodes[0] if mask or name != "mask"]
    joined = {name: torch.cat([one[name] for one in episodes]) for name in names}
    return Dataset.from_arrays(lengths=torch.tensor([T] * len(episodes)), **joined)


def read(data: Dataset, *positions: int, joint: bool = False) -> Batch:
    return TransitionBuffer(data).view(torch.tensor(positions), Needs(joint=joint))


NEVER = [[0, 0]] * T
APART = episode([[0, 0]] * 3 + [[1, 0]], [[0, 0]] * 3 + [[0, 1]])
"""One terminates in the step in which the other is cut."""
LEAVER = episode([[0, 0], [0, 1], [0, 0], [1, 0]], NEVER, [[1, 1], [1, 1], [1, 0], [1, 0]])
COMER = episode(NEVER, [[0, 0]] * 3 + [[1, 1]], [[1, 0], [1, 1], [1, 1], [1, 1]])
CUT = episode(NEVER, [[0, 0], [0, 1], [0, 0], [1, 0]], [[1, 1], [1, 1], [1, 0], [1, 0]])


@pytest.mark.parametrize(("name", "fields"), TEAM)
def test_a_steps_target_does_not_hang_on_who_leaves_in_other_episodes(name: str, fields: dict) -> None:
    kind, found = algorithms.get(name), []
    for recorded in (data(APART, mask=False), data(APART, LEAVER)):
        torch.manual_seed(1)
        learner = kind(build(kind.Config, {"hidden": [16], **fields}), recorded.spec)
        learner.place("cpu", 0)
        batch = TransitionBuffer(recorded).view(torch.tensor([T - 1]), learner.needs)
        found.append(float(learner.update(batch)["loss/critic"]))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def with_still_column(value: float, choices: int) -> Dataset:
    """Agents that leave, come or stay, all of whom see this number at every step, too; of choices if there are some."""
    episodes = []
    for one in (APART, LEAVER, COMER):
        there = torch.cat([one["mask"], one["mask"][-1:]]).unsqueeze(-1)
        actions = (one["actions"] > 0).long().squeeze(-1) if choices else one["actions"]
        episodes.append({**one, "obs": torch.cat([one["obs"], value * there], dim=-1), "actions": actions})
    names = list(episodes[0])
    joined = {name: torch.cat([one[name] for one in episodes]) for name in names}
    return Dataset.from_arrays(lengths=torch.tensor([T] * 3), choices=choices or None, **joined)


STILL = [*((name, fields, 0) for name, fields in TEAM), ("ma-ppo", {}, 0)]
STILL += [
    ("qmix", {"recurrent": False}, 2),
    ("ma-iql", {}, 2),
    ("maddpg", {}, 2),
    ("masac", {"critic": "centralised"}, 2),
]


@pytest.mark.parametrize(("name", "fields", "choices"), STILL)
def test_what_never_moves_says_nothing_of_who_is_away(name: str, fields: dict, choices: int) -> None:
    kind, found = algorithms.get(name), []
    for value in (0.0, 5.0):
        recorded = with_still_column(value, choices)
        torch.manual_seed(1)
        learner = kind(build(kind.Config, {"hidden": [16], **fields}), recorded.spec)
        learner.place("cpu", 0)
        learner.standardize(*obs_statistics(recorded))
        batch = TransitionBuffer(recorded).view(torch.arange(3 * T), learner.needs)
        found.append({name: float(metric) for name, metric in learner.update(batch).items()})
        shown = cleared(batch, learner.inputs.mean)
        for seen in (shown.obs, shown.next_obs):
            assert float(learner.joint(seen).abs().max()) < 5, "no more than who is there shows"
    assert found[0] == pytest.approx(found[1], rel=1e-4, abs=1e-6)


def test_who_terminates_alone_is_not_there_in_the_next_step() -> None:
    recorded = data(APART, mask=False)
    assert recorded.mask is None
    batch = read(recorded, 2, 3)
    assert present_next(batch).tolist() == [[True, True], [False, True]]
    assert team_ended(batch).tolist() == [False, False]
    assert not cleared(batch).next_obs[1, 0].any() and bool(cleared(batch).next_obs[1, 1].any())


def test_nothing_is_said_of_presence_where_all_end_together() -> None:
    together = episode([[0, 0]] * 3 + [[1, 1]], NEVER)
    batch = read(data(together, mask=False), 2, 3)
    assert batch.mask is None and present_next(batch) is None


@pytest.mark.parametrize("joint", [True, False])
def test_a_late_comer_is_there_in_the_step_after_the_one_before_it_comes(joint: bool) -> None:
    recorded = data(COMER)
    batch = read(recorded, 0, 1, 3, joint=joint)
    assert batch.mask.tolist() == [[True, False], [True, True], [True, True]]
    assert present_next(batch).all() and torch.equal(cleared(batch).next_obs[0, 1], recorded.obs[1, 1])
    cuts = TransitionBuffer(recorded).view(torch.tensor([0]), Needs(view="segments", length=2, joint=joint))
    assert cuts.mask.tolist() == [[[True, False], [True, True]]] and present_next(cuts).all()


def test_an_agent_whose_own_target_is_unknown_is_still_seen_by_the_others() -> None:
    recorded = data(CUT)
    batch = read(recorded, 0, 1, 2)
    assert batch.mask.tolist() == [[True, True], [True, False], [True, False]], "nobody knows what it saw next"
    shown = cleared(batch)
    assert torch.equal(shown.obs[1, 1], recorded.obs[1, 1]) and torch.equal(shown.actions[1, 1], recorded.actions[1, 1])
    kind = algorithms.get("maddpg")
    choices = replace(batch, actions=torch.ones(3, 2, dtype=torch.int64))
    learner = kind(build(kind.Config, {"hidden": [4]}), Spec((2, 2), (2, 2), action_kind="discrete"))
    assert learner.vectors(choices)[:, 1].sum(-1).tolist() == [1.0, 1.0, 0.0]
    assert not shown.obs[2, 1].any() and present_next(batch).tolist() == [[True, True], [True, False], [True, False]]
