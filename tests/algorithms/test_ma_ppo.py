from __future__ import annotations

import hand
import pytest


@pytest.mark.parametrize(
    ("spec", "fields", "step"),
    [
        (hand.CONTINUOUS, {}, 1e-3),
        (hand.DISCRETE, {}, 0.0),
        (hand.DISCRETE, {"entropy_target": 1.0}, 1e-3),
    ],
    ids=["a density's", "of choices never reached", "of choices"],
)
def test_the_weight_of_the_entropy_moves_only_towards_a_target_that_can_be_met(spec, fields, step) -> None:
    assert hand.learner_of("ma-ppo", spec, entropy_weight=0.01, **fields).entropy_step == step
