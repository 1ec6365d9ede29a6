"""Statistics: hand-worked cases, scipy on the simple ones, rliable on the rest, and rates in simulations."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from finished import rliable
from numpy.testing import assert_allclose

from offline_marl.report.statistics import statistics as st
from offline_marl.report.statistics.estimates import Estimate

library, metrics = rliable()
stats = pytest.importorskip("scipy.stats")


def fixed(*shape: int, seed: int = 0) -> st.Floats:
    return np.random.default_rng(seed).normal(60.0, 30.0, size=shape)


def test_interquartile_mean_by_hand() -> None:
    # Of eight scores the two lowest and the two highest go: (3 + 4 + 5 + 6) / 4.
    column = [100.0, 1, 2, 3, 4, 5, 6, -50]
    assert st.interquartile_means(st.pad_columns([column])) == pytest.approx([(2 + 3 + 4 + 5) / 4])
    # Of five, one goes at each end; of three, none.
    assert_allclose(st.interquartile_means(st.pad_columns([[9.0, 1, 2, 3, -9], [1.0, 2, 6]])), [2.0, 3.0])


def test_optimality_gap_by_hand() -> None:
    # Shortfalls below 100: 0 (above it counts as 100), 50, 100.
    assert st.gaps(st.pad_columns([[130.0, 50.0, 0.0]])) == pytest.approx([50.0])


def test_improvement_by_hand() -> None:
    # 3 beats 1 and 2; 2 beats 1 and ties with 2: 3.5 wins of 4 pairs.
    scores = st.pad_columns([[3.0, 2.0], [1.0, 2.0]])
    assert st.improvements(scores, np.array([0, 1]), np.array([1, 0])) == pytest.approx([3.5 / 4, 0.5 / 4])


def test_profile_by_hand() -> None:
    scores = np.array([10.0, 20.0, 20.0, 40.0]).reshape(2, 2, 1, 1)
    assert_allclose(st.profiles(scores, np.array([0.0, 10, 20, 39, 40])), [[[1], [0.75], [0.25], [0.25], [0]]])


def test_formulas_are_scipys_for_columns_of_any_length() -> None:
    columns = [fixed(count, seed=count) for count in range(1, 14)]
    table = st.pad_columns([list(column) for column in columns])
    assert_allclose(st.interquartile_means(table), [stats.trim_mean(column, 0.25) for column in columns])
    assert_allclose(st.means(table), [column.mean() for column in columns])
    first, second = np.array([4, 6, 9]), np.array([5, 4, 12])
    whole = [stats.mannwhitneyu(columns[a], columns[b]).statistic for a, b in zip(first, second, strict=True)]
    pairs = [len(columns[a]) * len(columns[b]) for a, b in zip(first, second, strict=True)]
    assert_allclose(st.improvements(table, first, second), np.array(whole) / pairs)


def test_formulas_are_rliables() -> None:
    scores = fixed(5, 3, 4)
    scores[0, 0, 1] = scores[1, 0, 2]  # a tie
    scores[2, 1, 3] = 140.0
    taus = np.linspace(0, 120, 25)
    for label in range(4):
        matrix = scores[:, :, label]
        names = ("iqm", "mean", "median")
        expected = [getattr(metrics, f"aggregate_{name}")(matrix) for name in names]
        expected.append(100 * metrics.aggregate_optimality_gap(matrix / 100, gamma=1))
        assert_allclose(st.aggregates(scores)[:, label], expected)
        assert_allclose(
            st.profiles(scores[..., None], taus)[label, :, 0], library.score_distributions(matrix, taus), atol=1e-12
        )
    cells = scores.reshape(5, -1)  # cell = task * 4 + label
    own = st.improvements(cells, np.array([1, 5, 9]), np.array([2, 6, 10])).mean()
    assert own == pytest.approx(metrics.probability_of_improvement(scores[:, :, 1], scores[:, :, 2]))


def test_intervals_are_rliables_draw_for_draw() -> None:
    matrix = fixed(5, 3)

    def aggregated(numbers: st.Ints) -> st.Floats:
        return st.aggregates(st.take_runs(matrix, numbers))

    own = st.bootstrap([5] * 3, aggregated, reps=200, seed=7)
    state = np.random.get_state()
    np.random.seed(7)
    value, ends = library.get_interval_estimates(
        {"": [matrix]},
        lambda scores: np.array(
            [
                metrics.aggregate_iqm(scores),
                metrics.aggregate_mean(scores),
                metrics.aggregate_median(scores),
                100 * metrics.aggregate_optimality_gap(scores / 100),
            ]
        ),
        reps=200,
    )
    np.random.set_state(state)
    assert_allclose(own.value, value[""])
    assert_allclose(np.stack([own.low, own.high]), ends[""])


def test_intervals_of_profiles_and_improvement_are_rliables() -> None:
    scores, taus = fixed(5, 2, 2), np.linspace(0, 120, 9)
    one, other = np.array([0, 2]), np.array([1, 3])
    flat = scores.reshape(5, 4)
    profile = st.bootstrap(
        [5] * 4,
        lambda numbers: st.profiles(st.take_runs(flat, numbers).reshape(5, 2, 2, -1), taus)[0],
        reps=2_000,
        seed=0,
    )
    state = np.random.get_state()
    np.random.seed(7)  # rliable resamples with numpy's global generator, whatever it is given
    _, bands = library.create_performance_profile({"": scores[:, :, 0]}, taus, reps=1_000)
    np.random.set_state(state)
    assert np.abs(np.stack([profile.low, profile.high]) - bands[""]).max() < 0.11  # a tenth: one of ten scores
    better = st.bootstrap(
        [5] * 4,
        lambda numbers: st.improvements(st.take_runs(flat, numbers), one, other).mean(0, keepdims=True),
        2_000,
        0,
    )
    _, ends = library.get_interval_estimates(
        {"": [scores[:, :, 0], scores[:, :, 1]]},
        lambda a, b: np.array([metrics.probability_of_improvement(a, b)]),
        reps=100,
    )
    # A hundred of rliable's resamples: its own ends still move by some hundredths.
    assert np.abs(np.array([better.low[0], better.high[0]]) - ends[""].ravel()).max() < 0.15


def test_interval_of_a_mean_is_scipys() -> None:
    sample = fixed(12)
    own = st.bootstrap([12], lambda numbers: st.means(st.take_runs(sample[:, None], numbers)), 5_000, 0)
    scipys = stats.bootstrap(
        (sample,), np.mean, n_resamples=5_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    width = scipys.high - scipys.low
    assert_allclose([own.low[0], own.high[0]], [scipys.low, scipys.high], atol=0.05 * width)


@pytest.mark.parametrize(("runs", "share"), [(3, 0.73), (5, 0.84), (10, 0.89), (20, 0.93)])
def test_intervals_of_few_runs_hold_the_mean_as_often_as_the_documents_state(runs: int, share: float) -> None:
    scores = np.random.default_rng(runs).normal(size=(runs, 1_500))
    found = st.column_estimates(scores, [0] * 1_500, [runs], 500, 0, ("mean",))["mean"]
    assert ((found.low <= 0) & (found.high >= 0)).mean() == pytest.approx(share, abs=0.025)


def test_cells_of_unequal_runs_are_each_resampled_among_their_own() -> None:
    columns = [[1.0, 2, 3, 4, 5], [10.0, 20, 30], [7.0]]
    values = st.pad_columns(columns)
    seen = []

    def watch(numbers: st.Ints) -> st.Floats:
        drawn = st.take_runs(values, numbers)
        seen.append(drawn)
        return st.means(drawn)

    found = st.bootstrap([5, 3, 1], watch, reps=50, seed=0)
    for drawn in seen:
        for number, column in enumerate(columns):
            assert set(drawn[: len(column), number].ravel()) <= set(column)
            assert np.isnan(drawn[len(column) :, number]).all()
    assert sum(drawn.shape[2] for drawn in seen) == 1 + 50  # the runs themselves, and every draw
    assert_allclose(found.value, [3.0, 20.0, 7.0])
    assert found.at(2, 1) == Estimate(7.0)
    assert found.at(1, 3).low is not None


def test_intervals_are_the_same_each_time_and_leave_numpys_generator_alone() -> None:
    values = fixed(6, 3)

    def once(seed: int) -> st.Estimates:
        return st.bootstrap([6] * 3, lambda numbers: st.means(st.take_runs(values, numbers)), 100, seed)

    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    first, second, other = once(0), once(0), once(1)
    assert (np.random.get_state()[1] == before).all()
    assert (first.low == second.low).all() and (first.high == second.high).all()
    assert (first.low != other.low).any()


def test_missing_rliable_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rliable", None)
    with pytest.raises(st.MissingRliableError, match=r"pip install 'offline-marl\[report\]'\.$"):
        st.bootstrap([2], lambda numbers: numbers[0].astype(float), 10, 0)


def test_draws_that_are_kept_do_not_hide_that_rliable_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    st.bootstrap([1], lambda numbers: numbers[0].astype(float), 10, 0)
    monkeypatch.setitem(sys.modules, "rliable", None)
    with pytest.raises(st.MissingRliableError):
        st.bootstrap([1], lambda numbers: numbers[0].astype(float), 10, 0)
