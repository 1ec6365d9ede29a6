"""How learners of choices explore: temperatures of softmaxes and epsilon, by how often choices come."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from offline_marl.algorithms.base import algorithms
from offline_marl.core.config import ConfigError, build
from offline_marl.core.types import Spec

SPEC = Spec((2,), (3,), action_kind="discrete")
ROWS = 20_000


def shares(
    name: str, steps: int | None = None, avail: torch.Tensor | None = None, **fields: Any
) -> tuple[list[float], Any]:
    """How often each choice comes when exploring, and the learner."""
    torch.manual_seed(0)
    kind = algorithms.get(name)
    learner = kind(build(kind.Config, {"hidden": (4,), **fields}), SPEC)
    learner.plays, learner.environment_steps = steps is not None, steps or 0
    allowed = None if avail is None else avail.expand(ROWS, 1, 3)
    chosen = learner.act(torch.ones(ROWS, 1, 2), avail_actions=allowed, explore=True)
    return (torch.bincount(chosen.flatten(), minlength=3) / ROWS).tolist(), learner


@pytest.mark.parametrize("name", ["iql", "ma-iql", "omiga"])
@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 4.0])
def test_policies_draw_from_logits_over_their_temperature(name: str, temperature: float) -> None:
    found, learner = shares(name, behaviour_temperature=temperature)
    logits = learner.actor(learner.inputs(torch.ones(1, 1, 2), None)).log_probs.flatten()
    expected = torch.softmax(logits / temperature, -1) if temperature else torch.eye(3)[logits.argmax()]
    torch.testing.assert_close(torch.tensor(found), expected, atol=0.015, rtol=0.0)


@pytest.mark.parametrize(
    ("fields", "softness"),
    [({"cql_temperature": 0.5}, 0.5), ({"cql_temperature": 0.5, "behaviour_temperature": 0.1}, 0.1)],
)
def test_cql_draws_from_values_over_its_temperature(fields: dict[str, float], softness: float) -> None:
    found, learner = shares("cql", **fields)
    q = learner.critic.each_choice(learner.inputs(torch.ones(1, 1, 2), None))[0].flatten()
    torch.testing.assert_close(torch.tensor(found), torch.softmax(q / softness, -1), atol=0.015, rtol=0.0)


@pytest.mark.parametrize(("steps", "epsilon"), [(0, 0.9), (50, 0.5), (100, 0.1), (10**6, 0.1), (None, 0.1)])
def test_cql_follows_its_schedule_of_epsilon_over_environment_steps(steps: int | None, epsilon: float) -> None:
    schedule = {"epsilon_start": 0.9, "epsilon_end": 0.1, "epsilon_steps": 100, "behaviour_temperature": 0.0}
    found, learner = shares("cql", steps, **schedule)
    greedy = int(learner.act(torch.ones(1, 1, 2)))
    expected = [epsilon / 3 + (1 - epsilon) * (choice == greedy) for choice in range(3)]
    assert found == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize("name", ["iql", "cql"])
def test_what_is_not_allowed_is_not_explored(name: str) -> None:
    avail = torch.tensor([True, False, True])
    fields = {"epsilon_start": 0.5, "epsilon_end": 0.5} if name == "cql" else {}
    found, _ = shares(name, avail=avail, behaviour_temperature=5.0, **fields)
    assert found[1] == 0 and found[0] > 0.3 and found[2] > 0.3


@pytest.mark.parametrize("field", ["epsilon_start", "epsilon_end"])
@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_an_epsilon_out_of_range_is_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"Field '{field}' cannot be {value}"):
        build(algorithms.get("cql").Config, {field: value})
