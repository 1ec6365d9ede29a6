"""Simulated iterations: who is waited for, and which code pays."""

import numpy as np
import pytest

from offline_marl.core.config import ConfigError
from offline_marl.distributed.arrivals import Pace, advice, iteration_s, mean_iteration_s
from offline_marl.distributed.schemes import make_code


def code_of(name, agents=4, learners=8):
    return make_code(name, agents, agents if name == "uncoded" else learners)


def test_an_iteration_ends_with_the_first_answers_that_suffice():
    assert iteration_s(code_of("uncoded"), [1, 2, 9, 3]) == 9
    assert iteration_s(code_of("gaussian"), [8, 7, 6, 5, 4, 3, 2, 1]) == 4
    # Agents 0 to 3 twice: 0 by learner 4 at 2 s, 1 by 1, 2 by 2 and 3 by 3.
    assert iteration_s(code_of("replication"), [9, 1, 1, 1.5, 2, 8, 8, 8]) == 2


def test_halving_finds_what_looking_one_by_one_does():
    rng = np.random.default_rng(0)
    for name in ("replication", "ldpc", "systematic", "random-sparse"):
        code = make_code(name, 3, 6)
        for _ in range(30):
            times = rng.random(6)
            order = np.argsort(times)
            first = next(count for count in range(1, 7) if code.decodable(order[:count].tolist()))
            assert iteration_s(code, times) == times[order[first - 1]]


def test_uncoded_is_flat_in_the_number_of_late_learners_and_mds_up_to_its_tolerance():
    pace = Pace(compute_s=0.1)
    uncoded = [mean_iteration_s(code_of("uncoded"), pace, late, 1.0) for late in (0, 1, 2, 4)]
    assert uncoded == pytest.approx([0.1, 1.1, 1.1, 1.1])
    dense = [mean_iteration_s(code_of("gaussian"), pace, late, 1.0) for late in (0, 2, 4, 5)]
    assert dense == pytest.approx([0.4, 0.4, 0.4, 1.4])
    few = [mean_iteration_s(code_of("replication"), pace, late, 1.0) for late in (0, 1, 2, 4)]
    assert few[0] == pytest.approx(0.1)
    assert few[1] == pytest.approx(0.1)
    assert few[1] < few[2] < few[3]
    assert few[2] == pytest.approx(0.1 + 1 / 7, abs=0.08)  # both copies of one agent are late


def test_short_delays_ask_for_light_codes_and_long_ones_for_dense_codes():
    codes = [code_of(name) for name in ("replication", "gaussian")]
    assert "take replication" in advice(codes, Pace(0.1), 3, 0.2)
    assert "take gaussian" in advice(codes, Pace(0.1), 3, 5.0)


def test_hundreds_of_learners_are_no_matter():
    code = make_code("gaussian", 20, 200)
    assert mean_iteration_s(code, Pace(0.01, spread=0.3), 100, 10.0, iterations=3) < 0.5


def test_what_is_no_pace_is_refused():
    with pytest.raises(ConfigError, match="not negative"):
        Pace(-1.0)
    with pytest.raises(ConfigError, match="cannot be late"):
        mean_iteration_s(code_of("uncoded"), Pace(0.1), 5, 1.0)
