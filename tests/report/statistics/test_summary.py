"""What a report says of runs: tables, comparisons, curves; and how often it is right, in simulations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from finished import rliable, run, scored
from numpy.testing import assert_allclose

from offline_marl.report.gather.scores import EvidenceError, Gathered
from offline_marl.report.statistics import statistics
from offline_marl.report.statistics.comparisons import EVEN, compare
from offline_marl.report.statistics.estimates import LAST, Comparison, Evidence
from offline_marl.report.statistics.summary import _cells, summarize

library, metrics = rliable()


def better(evidence: Evidence, label: str, other: str, tasks: tuple[str, ...]) -> Comparison:
    return next(c for c in evidence.comparisons if (c.label, c.other, c.tasks) == (label, other, tasks))


def test_a_row_for_each_label_on_each_task() -> None:
    gathered = scored({("bc", "A"): [1, 2, 6], ("iql", "A"): [4, 5, 9], ("bc", "B"): [10, 20, 30]}, data_return=0.5)
    found = summarize(gathered, reps=200)
    assert [(cell.task, cell.label, cell.runs, cell.seeds) for cell in found.cells] == [
        ("A", "bc", 3, (0, 1, 2)),
        ("A", "iql", 3, (0, 1, 2)),
        ("B", "bc", 3, (0, 1, 2)),
    ]
    cell = found.cells[0]
    assert cell.mean.value == 3.0 and cell.iqm.value == 3.0 and cell.deviation == pytest.approx(7**0.5)
    assert cell.mean.low is not None and 1 <= cell.mean.low < 3 < (cell.mean.high or 0) <= 6
    assert cell.normalized_mean == cell.mean and cell.agreement is None and cell.data_return == 0.5
    assert found.scored == LAST
    assert found.tasks == ("A", "B") and found.labels == ("bc", "iql")


def test_over_tasks_equals_rliable() -> None:
    draw = np.random.default_rng(0)
    scores = {(label, task): draw.normal(50 + 10 * (label == "iql"), 30, 5) for label in ("bc", "iql") for task in "AB"}
    found = summarize(scored(scores), reps=2_000)
    for each in found.aggregates:
        matrix = np.stack([scores[each.label, "A"], scores[each.label, "B"]], axis=1)
        _, ends = library.get_interval_estimates(
            {"": matrix}, lambda x: np.array([metrics.aggregate_mean(x), metrics.aggregate_median(x)]), reps=2_000
        )
        assert (each.tasks, each.runs) == (("A", "B"), 5)
        assert each.iqm.value == pytest.approx(metrics.aggregate_iqm(matrix))
        assert each.optimality_gap.value == pytest.approx(100 * metrics.aggregate_optimality_gap(matrix / 100))
        width = ends[""][1, 0] - ends[""][0, 0]
        assert_allclose([each.mean.low, each.mean.high], ends[""][:, 0], atol=0.1 * width)
        profile = next(p for p in found.profiles if p.label == each.label)
        assert_allclose(profile.fraction, library.score_distributions(matrix, np.array(profile.taus)), atol=1e-12)
        assert profile.low is not None and all(np.array(profile.low) <= profile.fraction)
        assert profile.taus[0] <= matrix.min() and profile.taus[-1] >= max(100, matrix.max())
    one, other = (np.stack([scores[label, "A"], scores[label, "B"]], axis=1) for label in ("iql", "bc"))
    both = better(found, "iql", "bc", ("A", "B"))
    assert both.probability.value == pytest.approx(metrics.probability_of_improvement(one, other))
    back = better(found, "bc", "iql", ("A", "B")).probability
    assert back.value == pytest.approx(1 - both.probability.value)
    assert back.low == pytest.approx(1 - (both.probability.high or 0))


def test_unequal_numbers_of_runs_are_compared_pair_by_pair_alone() -> None:
    gathered = scored({("bc", "A"): [1, 2, 3, 4, 5], ("iql", "A"): [6, 7, 8, 9, 10, 11], ("cql", "B"): [1, 2]})
    found = summarize(gathered, reps=100)
    assert found.aggregates == () and found.profiles == ()
    assert any("Nothing is said over all tasks together" in note for note in found.notes)
    pair = better(found, "iql", "bc", ("A",))
    assert pair.probability.value == 1.0 and pair.wins and pair.runs == (6, 5)
    assert not better(found, "bc", "iql", ("A",)).wins
    assert not any("cql" in (each.label, each.other) for each in found.comparisons)  # no task in common


def test_raw_returns_are_never_averaged_over_tasks() -> None:
    gathered = scored({("bc", "A"): [1, 2], ("bc", "B"): [1, 2]})
    bare = tuple(replace(each, score={"return": each.score["return"]}) for each in gathered.runs)
    found = summarize(Gathered(bare), reps=100)
    assert found.aggregates == () and found.cells[0].normalized_mean is None
    assert any("not normalised" in note for note in found.notes)


def test_one_seed_gets_no_interval_and_few_claim_nothing() -> None:
    found = summarize(scored({("bc", "A"): [1.0], ("iql", "A"): [5.0]}), reps=100)
    assert found.cells[0].mean.low is None and found.cells[0].deviation is None
    assert found.aggregates[0].iqm.low is None and found.profiles[0].low is None
    assert found.comparisons[0].probability.low is None and not found.comparisons[1].wins
    assert any(
        note.startswith("No interval is given where there is one run alone: bc on A; iql on A") for note in found.notes
    )
    four = summarize(scored({("bc", "A"): [1, 2, 3, 4], ("iql", "A"): [5, 6, 7, 8]}), reps=100)
    assert better(four, "iql", "bc", ("A",)).probability.low == 1.0
    assert not better(four, "iql", "bc", ("A",)).wins
    assert any("fewer than 5 runs" in note for note in four.notes)


def test_curves_keep_to_steps_that_all_runs_evaluated() -> None:
    def curved(seed: int, steps: tuple[int, ...]) -> tuple[dict[str, float | None], ...]:
        return tuple({"step": step, "return": step + seed, "normalized_return": None} for step in steps)

    runs = [run("bc", "A", seed, 1.0, curve=curved(seed, (10, 20, 30)[: 3 - (seed == 1)])) for seed in range(3)]
    found = summarize(Gathered(tuple(runs)), reps=100)
    (curve,) = found.curves
    assert (curve.scale, curve.runs, curve.steps, curve.iqm) == ("return", 3, (10, 20), (11.0, 21.0))
    assert curve.low is not None and curve.high is not None and 10 <= curve.low[0] < 11 < curve.high[0] <= 12


def test_best_is_said_to_be_best_of_how_many() -> None:
    best = {"step": 40.0, "return": 9.0, "normalized_return": 90.0}
    runs = [run("bc", "A", seed, 1.0, best=best, evaluations=20 + seed) for seed in range(2)]
    found = summarize(Gathered((*runs, run("bc", "A", 5, 2.0))), reps=100, best=True)
    assert found.scored == "best of 20 to 21 evaluations (chosen on the test environment)"
    assert found.cells[0].mean.value == 9.0 and found.gathered.runs[0].step == 40
    assert [each.why for each in found.gathered.left_out] == ["it does not know its best evaluation, only its last"]
    with pytest.raises(EvidenceError, match="None of the runs knows its best evaluation"):
        summarize(scored({("bc", "A"): [1.0]}), best=True)
    with pytest.raises(EvidenceError, match="no run"):
        summarize(Gathered(()))


def test_the_same_numbers_every_time() -> None:
    gathered = scored({("bc", "A"): [1, 5, 3], ("iql", "A"): [2, 8, 4]})
    assert summarize(gathered, reps=100) == summarize(gathered, reps=100)
    assert summarize(gathered, reps=100) != summarize(gathered, reps=100, seed=1)


def wins(runs: int, tasks: int, shift: float, trials: int, reps: int) -> float:
    """How often a label's interval says that it wins whose scores lie `shift` deviations above another's.

    All trials are cells of one bootstrap, each resampled by itself.
    """
    new, old = np.random.default_rng(0).normal(size=(2, runs, trials * tasks))
    cells = np.concatenate([new + shift, old], axis=1)
    first = np.arange(trials * tasks)

    def share(numbers: statistics.Ints) -> statistics.Floats:
        drawn = statistics.take_runs(cells, numbers)
        return statistics.improvements(drawn, first, first + len(first)).reshape(trials, tasks, -1).mean(1)

    found = statistics.bootstrap([runs] * cells.shape[1], share, reps, 0)
    return float((found.low > EVEN).mean())


def test_a_planted_difference_is_found_and_a_planted_null_is_not() -> None:
    assert wins(5, 4, shift=2.0, trials=300, reps=400) >= 0.97
    assert wins(5, 4, shift=0.0, trials=300, reps=400) <= 0.06


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runs", "tasks", "false", "found"), [(5, 1, 0.06, 0.8), (10, 1, 0.05, 0.95), (5, 4, 0.04, 0.97)]
)
def test_the_rates_that_the_documents_state(runs: int, tasks: int, false: float, found: float) -> None:
    """At least `found` of differences of two deviations, at most `false` of nulls, in one direction."""
    assert wins(runs, tasks, shift=0.0, trials=2_000, reps=1_000) <= false
    assert wins(runs, tasks, shift=2.0, trials=500, reps=1_000) >= found


def test_fewer_than_five_runs_claim_nothing_however_far_apart() -> None:
    apart = {("old", "A"): range(4), ("new", "A"): range(100, 104)}
    assert not any(each.wins for each in compare(_cells(scored(apart).runs), 100, 0))
    apart = {("old", "A"): range(5), ("new", "A"): range(100, 105)}
    assert [each.wins for each in compare(_cells(scored(apart).runs), 100, 0)] == [False, True]


def test_of_very_many_labels_only_the_leaders_are_compared() -> None:
    found = summarize(scored({(f"iql, lr {lr}", task): [lr, lr + 1] for lr in range(60) for task in "AB"}), reps=100)
    assert len(found.comparisons) == 2 * 3 * 59
    assert all("iql, lr 59" in (each.label, each.other) for each in found.comparisons)
    assert any("more than 30 labels" in note for note in found.notes)


def test_runs_evaluated_at_other_updates_have_no_curve_and_that_is_said() -> None:
    curves = [tuple({"step": float(step), "return": 1.0} for step in steps) for steps in ((1, 2, 3), (4, 5, 6))]
    runs = tuple(run("bc", "A", seed, 1.0, curve=curve) for seed, curve in enumerate(curves))
    found = summarize(Gathered(runs), reps=100)
    assert not found.curves
    assert "No curve is drawn where runs were not evaluated at the same updates: bc on A." in found.notes
