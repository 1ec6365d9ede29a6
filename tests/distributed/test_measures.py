"""Load, tolerance and decodability of codes, beside figures worked out apart."""

import numpy as np
import pytest

from offline_marl.distributed.coding import Code
from offline_marl.distributed.measures import decodability, measures
from offline_marl.distributed.schemes import make_code

SHARES = {
    # Of 15 learners 1, 2, 4, 5 and 7 are lost; exact, by enumeration.
    ("chebyshev", 8): (1, 1, 1, 1, 1),
    ("replication", 8): (0.933, 0.800, 0.410, 0.224, 0.020),
    ("ldpc", 8): (1, 0.943, 0.668, 0.484, 0.112),
    ("chebyshev", 10): (1, 1, 1, 1, 0),
    ("replication", 10): (0.667, 0.381, 0.059, 0.011, 0),
    ("ldpc", 10): (1, 0.943, 0.624, 0.320, 0),
}


@pytest.mark.parametrize(("name", "agents"), SHARES)
def test_decodability_of_the_published_sizes(name, agents):
    code = make_code(name, agents, 15)
    shares = [decodability(code, lost) for lost in (1, 2, 4, 5, 7)]

    assert [round(found.share, 3) for found in shares] == pytest.approx(SHARES[name, agents], abs=1e-3)
    assert all(found.exact for found in shares)


def test_load_of_the_published_sizes():
    loads = {name: measures(make_code(name, 8, 15)) for name in ("chebyshev", "replication", "ldpc")}

    assert [round(found.updates, 2) for found in loads.values()] == [15.0, 1.88, 3.5]
    assert [found.most_load for found in loads.values()] == [8, 1, 4]
    assert [found.tolerance for found in loads.values()] == [7, 0, 1]
    assert measures(make_code("ldpc", 10, 15)).mean_load == pytest.approx(2.27, abs=0.01)


def test_replicas_bear_one_loss_less_than_there_are_of_the_rarest():
    assert measures(make_code("replication", 3, 8)).tolerance == 1
    assert measures(make_code("replication", 3, 9)).tolerance == 2


@pytest.mark.long
def test_well_conditioned_codes_are():
    for name in ("systematic", "chebyshev", "gaussian"):
        found = measures(make_code(name, 8, 15))
        assert found.median_condition < 50
        assert found.most_condition < 1e6
    published = measures(make_code("vandermonde", 8, 15, most_condition=1e14))
    assert published.median_condition > 1e8


def test_many_learners_are_sampled_and_said_to_be():
    code = make_code("replication", 30, 60)
    found = decodability(code, 10, most_sets=500)

    assert not found.exact
    # 30 pairs, 10 of 60 lost: all in different pairs with probability prod (60 - 2i) / (60 - i).
    expected = np.prod([(60 - 2 * i) / (60 - i) for i in range(10)])
    assert found.share == pytest.approx(expected, abs=0.07)


def test_a_badly_conditioned_set_counts_as_lost():
    code = Code("near", np.array([[1.0, 1], [1, 1 + 1e-9], [1, -1]]))

    assert decodability(code, 1).share == pytest.approx(2 / 3)
