"""Codes: what they refuse, what they encode, and that every set of rows that can be decoded is."""

import re
import time
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from offline_marl.core.config import ConfigError
from offline_marl.distributed.coding import Code, CodingError
from offline_marl.distributed.measures import measures
from offline_marl.distributed.schemes import SCHEMES, make_code, row_sets

SIZES = ((2, 4), (3, 6), (4, 9), (8, 15), (10, 15))


def messages_of(code, results, rows):
    return np.array([code.encode(n, results[list(code.assigned(n))]) for n in rows])


def available(name, agents, learners):
    try:
        return make_code(name, agents, agents if name == "uncoded" else learners, most_condition=1e14)
    except ConfigError as error:
        assert name == "ldpc", error
        return None


def test_a_message_is_the_weighted_sum_of_the_agents_assigned():
    code = Code("by hand", np.array([[1.0, 0, 0], [0, 2, -3], [0, 1, 1], [1, 1, 0]]))

    assert code.assigned(1) == (1, 2)
    assert code.encode(1, np.array([[10.0, 1], [100, 2]])).tolist() == [2 * 10 - 3 * 100, 2 * 1 - 3 * 2]
    assert code.loads.tolist() == [1, 2, 2, 2]


def test_decoding_by_hand_peels_and_then_solves():
    code = Code("by hand", np.array([[1.0, 0, 0], [0, 2, -3], [0, 1, 1], [1, 1, 0]]))
    results = np.array([[5.0], [7.0], [11.0]])

    assert code.decode([0, 3, 2], np.array([[5.0], [12], [18]])).ravel().tolist() == [5, 7, 11]  # peeled: exact
    solved = code.decode([1, 0, 2], messages_of(code, results, [1, 0, 2]))
    assert np.allclose(solved, results, atol=1e-12)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize(("agents", "learners"), SIZES)
def test_every_decodable_set_gives_what_was_encoded(name, agents, learners):
    code = available(name, agents, learners)
    if code is None:
        return
    rng = np.random.default_rng(1)
    results = rng.uniform(-0.3, 0.3, (agents, 7, 2))
    tolerance = 1e-5 if name != "vandermonde" else 3e-3  # what it is refused for unless asked
    decoded = 0
    for size in range(agents, code.learners + 1):
        for rows in row_sets(code.learners, size, 6, rng).tolist():
            if code.decodable(rows):
                solved = code.decode(rows, messages_of(code, results, rows))
                assert np.abs(solved - results).max() < tolerance
                decoded += 1
            else:
                with pytest.raises(CodingError, match="do not determine"):
                    code.decode(rows, messages_of(code, results, rows))
    assert decoded > 0


@pytest.mark.parametrize("name", ["systematic", "chebyshev", "gaussian", "vandermonde"])
def test_any_m_rows_of_an_mds_code_span_all_agents(name):
    code = make_code(name, 4, 8, most_condition=1e14)

    assert all(code.determines(rows) for rows in combinations(range(8), 4))
    assert not any(code.determines(rows) for rows in combinations(range(8), 3))


def test_the_first_learners_of_a_systematic_code_leave_nothing_to_solve():
    code = make_code("systematic", 5, 9)
    results = np.random.default_rng(2).standard_normal((5, 11))

    assert code.condition([4, 2, 0, 1, 3]) == 1.0
    assert (code.decode([4, 2, 0, 1, 3], results[[4, 2, 0, 1, 3]]) == results).all()


def test_the_published_mds_code_has_powers_of_its_nodes():
    matrix = make_code("vandermonde", 3, 5).matrix

    assert matrix[0] == pytest.approx([0.1**4, 0.3**4, 0.5**4])
    assert matrix[-1].tolist() == [1, 1, 1]


def test_an_exact_zero_stays_zero():
    code = make_code("ldpc", 8, 15, parameters=(3, 5, 3))
    results = np.random.default_rng(3).standard_normal((8, 4))
    results[:, 2] = 0.0
    rows = [r for r in range(15) if r != 4]

    assert (code.decode(rows, messages_of(code, results, rows))[:, 2] == 0).all()


def test_messages_that_contradict_one_another_are_refused():
    code = make_code("systematic", 3, 6)
    results = np.ones((3, 2))
    sent = messages_of(code, results, range(6))
    sent[1] += 0.01

    with pytest.raises(CodingError, match="contradict"):
        code.decode(range(6), sent)


def test_rows_that_are_conditioned_badly_wait_for_another():
    matrix = np.array([[1.0, 1], [1, 1 + 1e-9], [1, -1]])
    code = Code("near", matrix)

    assert code.determines([0, 1])
    assert not code.decodable([0, 1])
    assert code.decodable([0, 1, 2])


def test_regular_ldpc_codes_have_the_published_sizes():
    for parameters, agents, learners in (((3, 5, 3), 8, 15), ((3, 5, 2), 10, 15), ((2, 3, 2), 3, 6), ((3, 3, 2), 4, 9)):
        code = make_code("ldpc", agents, learners, parameters=parameters)
        assert (code.agents, code.learners) == (agents, learners)
        assert (code.matrix[:agents] == np.eye(agents)).all()
        assert set(np.unique(code.matrix)) == {0.0, 1.0}


def test_ldpc_parity_holds_over_two_elements():
    generator = make_code("ldpc", 8, 15, parameters=(3, 5, 3)).matrix.astype(int)
    words = {tuple((generator @ np.array(bits)) % 2) for bits in np.ndindex(*[2] * 8)}

    assert len(words) == 256  # one word a message
    assert all(tuple((np.array(a) + np.array(b)) % 2) in words for a, b in list(combinations(words, 2))[:500])
    assert min(sum(word) for word in words if any(word)) == 2  # gamma = p repeats parity columns


def test_replication_goes_round_as_often_as_there_are_learners():
    assert make_code("replication", 3, 8).matrix.sum(0).tolist() == [3, 3, 2]


def test_a_random_sparse_code_is_drawn_until_it_serves():
    for seed in range(30):
        code = make_code("random-sparse", 3, 4, seed=seed, density=0.4)
        assert code.loads.min() >= 1
        assert code.rank(range(4)) == 3


def test_the_same_seed_gives_the_same_code():
    for name in ("gaussian", "systematic", "random-sparse"):
        first, again, other = (make_code(name, 4, 7, seed=seed).matrix for seed in (5, 5, 6))
        assert (first == again).all()
        assert (first != other).any()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "mds", "agents": 2, "learners": 3}, "Unknown code 'mds'"),
        ({"name": "gaussian", "agents": 5, "learners": 3}, "as many, or more"),
        ({"name": "uncoded", "agents": 2, "learners": 3}, "take 2 learners"),
        ({"name": "random-sparse", "agents": 2, "learners": 3, "density": 0.0}, "between 0 and 1"),
        ({"name": "random-sparse", "agents": 9, "learners": 9, "density": 0.01}, "raise its density"),
        ({"name": "ldpc", "agents": 7, "learners": 15}, "there is one for"),
        ({"name": "ldpc", "agents": 7, "learners": 15, "parameters": (3, 5, 3)}, "15 learners and 8 agents"),
        ({"name": "vandermonde", "agents": 8, "learners": 15}, "condition number"),
    ],
)
def test_what_is_no_code_is_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        make_code(**settings)


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        (np.zeros((2, 3)), "cannot tell 3 agents apart"),
        (np.array([[1.0, 0], [1, 0], [0, 0]]), "gives learner 2 nothing"),
        (np.array([[1.0, 0], [1, 0]]), "gives agent 1"),
        (np.array([[1.0, 1], [1, 1]]), "rank 1"),
        (np.array([[1.0, np.nan], [1, 0]]), "finite"),
    ],
)
def test_a_matrix_that_cannot_serve_is_refused(matrix, said):
    with pytest.raises(ConfigError, match=said):
        Code("mine", matrix)


@pytest.mark.parametrize("name", ["uncoded", "replication", "chebyshev", "ldpc"])
def test_messages_that_are_no_numbers_give_none_instead_of_a_contradiction(name):
    code = make_code(name, 8, 8 if name == "uncoded" else 15)
    messages = np.stack([code.encode(row, np.full((code.loads[row], 2), np.nan)) for row in range(code.learners)])
    assert np.isnan(code.decode(range(code.learners), messages)).all()


def test_hundreds_of_learners_have_codes_in_seconds():
    begun = time.process_time()
    assert make_code("ldpc", 41, 120).learners == 120
    with pytest.raises(ConfigError, match="no LDPC code of 240 learners for 7 agents"):
        make_code("ldpc", 7, 240)
    assert measures(make_code("chebyshev", 3, 300)).tolerance >= 290
    assert measures(make_code("replication", 3, 300)).tolerance == 99
    assert time.process_time() - begun < 10


def test_the_page_names_a_code_of_simple_spread_that_exists_and_what_is_ruled_out():
    page = (Path(__file__).parents[2] / "docs" / "distributed.md").read_text(encoding="utf-8")
    example = next(line for line in page.splitlines() if "train maddpg --environment simple-spread" in line)
    learners, name = re.search(r"--learners (\d+) --code (\S+)", example).groups()
    assert make_code(name, 3, int(learners)).agents == 3
    for learners, agents in ((16, 8), (18, 12)):
        assert not make_code("chebyshev", agents, learners).decodable(range(agents))
