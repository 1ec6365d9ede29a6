"""The benchmark of the headline: what it plans, what a job leaves behind, and what its tables say."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offline_marl.core.locks import locked
from offline_marl.environments.base import Conventions
from offline_marl.environments.episodes import episode_seeds
from offline_marl.environments.reacher import SIDES, read_arm
from offline_marl.training import training_run
from offline_marl.training.run import prepare

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
COMMIT = "a" * 40


@pytest.fixture
def plan(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("headline_plan")


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    monkeypatch.setattr(training_run, "draw_run", lambda *_: None)


@pytest.fixture
def tables(plan):
    return importlib.import_module("headline_tables")


@pytest.fixture
def counted(plan, monkeypatch):
    """A plan in which every setting makes a thousand updates a unit of budget."""
    cost = {"ms_per_update": "100", "fit_s": "0", "budget_s": "100"}
    names = ("learner", "window", "horizon")
    rows = [{**dict(zip(names, setting.cost, strict=True)), **cost} for setting in plan.settings()]
    monkeypatch.setattr(plan, "read", lambda name: rows)
    return plan


def row_of(job: Any, score: float, commit: str = COMMIT) -> dict[str, str]:
    found = {
        "stage": job.stage,
        "dataset": job.dataset,
        "learner": job.setting.learner,
        "setting": job.setting.label,
        "factor": job.factor,
        "seed": job.seed,
        "updates": job.updates,
        "normalized_return": score,
        "agreement": 0.5,
        "agreement_strict": 0.25,
        "cpu_s": 10.0,
        "commit": commit,
    }
    return {name: str(value) for name, value in found.items()}


def carried_out(plan, score_of) -> list[dict[str, str]]:
    """Rows of all jobs, those that earlier ones make known too."""
    rows: dict[str, dict[str, str]] = {}
    while missing := [job for job in plan.jobs(list(rows.values())) if job.key not in rows]:
        rows |= {job.key: row_of(job, score_of(job)) for job in missing}
    return list(rows.values())


def test_every_learner_has_as_many_settings_as_the_others(plan):
    counts = {name: sum(setting.learner == name for setting in plan.settings()) for name in plan.learners()}
    assert set(counts.values()) == {6} and len(counts) == 11
    for name in counts:
        windows = [setting.fields["window"] for setting in plan.settings() if setting.learner == name]
        assert sorted(windows) == [0, 0, 0, 10, 10, 10], name


def test_every_setting_is_one_that_the_library_takes(plan):
    for setting in plan.settings():
        prepare(setting.algorithm, plan.TUNED_ON, {**setting.fields, "steps": 10, "cosine_steps": 10})
    assert len({(setting.learner, setting.label) for setting in plan.settings()}) == len(plan.settings())


def test_settings_are_chosen_on_other_seeds_and_other_starts_than_they_are_scored_on(plan):
    seeds, starts = plan.PROTOCOL["seeds"], plan.PROTOCOL["starts"]
    assert not set(seeds["tune"]) & set(seeds["final"]) and len(seeds["final"]) == 5
    played = [set(episode_seeds(starts[name], 100)) for name in ("tune", "final", "curve")]
    assert all(not a & b for a, b in itertools.combinations(played, 2))


def test_a_learner_is_scored_with_the_setting_of_the_best_mean_over_both_seeds(counted):
    name = counted.learners()[0]
    first, second, *_ = [setting for setting in counted.settings() if setting.learner == name]
    jobs = counted.tuning(name)
    scores = {first.label: (90.0, 10.0), second.label: (60.0, 50.0)}
    rows = [row_of(job, scores.get(job.setting.label, (0.0, 0.0))[job.seed]) for job in jobs]
    assert counted.chosen(name, rows[:-1]) is None
    assert counted.chosen(name, rows) == second
    final = [job for job in counted.jobs(rows) if job.stage == "final" and job.dataset == counted.TUNED_ON]
    assert {job.setting for job in final} == {second}
    assert [job.seed for job in final] == [10, 11, 12, 13, 14] and {job.starts for job in final} == {2_000}
    assert next(counted.jobs(rows[:3])).key == jobs[0].key, "what is done stays in the plan"


def test_the_larger_budget_is_for_moma_ppo_and_the_best_three_without_a_model_which_try_a_history_too(counted):
    order = counted.learners()

    def score(job: Any) -> float:
        name = counted.bare(job.setting.learner.removesuffix(" oracle"))
        return 100.0 - order.index(name) - 0.1 * bool(job.setting.fields["window"])

    rows = carried_out(counted, score)
    larger = {row["learner"] for row in rows if row["factor"] == "4"}
    plain = [name for name in order if "model" not in name and name != "moma-ppo"]
    assert larger == {*plain[:3], *(name + counted.WITH_HISTORY for name in plain[:3]), "moma-ppo"}
    histories = {row["setting"] for row in rows if row["learner"] == plain[0] + counted.WITH_HISTORY}
    assert len(histories) == 1 and histories.pop().startswith("window=10 "), "the best of those with one"
    assert {row["updates"] for row in rows if row["factor"] == "4"} == {"4000"}
    further = [row for row in rows if row["stage"] == "beyond"]
    assert {(row["learner"], row["seed"]) for row in further} == {(n, s) for n in ("td3-bc", "ma-iql") for s in "01"}
    assert {row["setting"] for row in further if row["learner"] == "td3-bc"} >= {"window=0 alpha=1.0"} and len(
        further
    ) == 16
    own = {row["learner"] for row in rows if row["stage"] == "final" and row["dataset"] == counted.TUNED_ON}
    assert own == {*order, *larger, "moma-ppo oracle"}
    game = {row["learner"] for row in rows if row["dataset"] == "coordination-mix-v0"}
    assert {"bc", "ma-iql", "moma-ppo"} <= game and not any(name.startswith(("td3", "omar")) for name in game)
    assert all(row["stage"] == "final" for row in rows if row["dataset"] != counted.TUNED_ON), "tuned on one task"


@pytest.mark.parametrize(("wide", "scored"), [(95.0, True), (85.0, False)])
def test_what_is_better_beyond_the_grid_is_scored_under_a_name_of_its_own_and_chosen_for_nothing(counted, wide, scored):
    def score(job: Any) -> float:
        return wide if job.stage == "beyond" and "hidden" in job.setting.label else 90.0

    rows = carried_out(counted, score)
    found = [row for row in rows if row["learner"] == "td3-bc" + counted.BEYOND]
    assert [row["seed"] for row in found] == ["10", "11", "12", "13", "14"] * scored
    for row in found:
        assert (row["stage"], row["dataset"], row["factor"]) == ("final", counted.TUNED_ON, "1")
        assert row["setting"].endswith("hidden=256,256 batch_size=256")
    kept = {row["setting"] for row in rows if row["learner"] == "td3-bc" and row["stage"] == "final"}
    assert not any("hidden" in setting for setting in kept)


def test_histories_and_imagined_episodes_of_a_game_are_no_longer_than_the_games(counted):
    moma = next(setting for setting in counted.settings() if setting.learner == "moma-ppo")
    (job, *_) = counted.scoring(moma, "coordination-mix-v0", 1)
    assert (job.fields["horizon"], job.fields["start_share"], job.updates) == (6, 1.0, 1_000)
    reads = next(each for each in counted.settings() if each.label == "window=10 alpha=2.5")
    assert counted.scoring(reads, "coordination-mix-v0", 1)[0].fields["window"] == 6
    assert counted.scoring(reads, counted.TUNED_ON, 1)[0].fields["window"] == 10
    (reacher, *_) = counted.scoring(moma, counted.TUNED_ON, 1)
    assert (reacher.fields["horizon"], reacher.fields["start_share"]) == (25, 0.8)
    assert reacher.fields["cosine_steps"] == reacher.fields["steps"] == 1_000


@pytest.mark.parametrize(("count", "rounded"), [(123_456, 120_000), (987, 990), (44.4, 44), (3, 10)])
def test_counts_of_updates_keep_two_digits(plan, count, rounded):
    assert plan.rounded(count) == rounded


def test_a_command_says_what_the_job_does(counted):
    setting = next(setting for setting in counted.settings() if setting.learner == "ma-iql unconstrained")
    job = counted.scoring(setting, counted.TUNED_ON, 1)[0]
    assert job.command.startswith("offline-marl train ma-iql --dataset reacher-scripted-mix-v0_2x1notip_0 --hidden ")
    assert "--mixer unconstrained --window 0" in job.command and "--steps 1000" in job.command
    assert "--seed 10" in job.command and "--eval-seed 2000" in job.command


@pytest.mark.parametrize(("off", "settles"), [(0.0, True), (0.32, True), (0.34, False)])
def test_an_episode_is_settled_within_a_third_of_the_gap_between_both_poses(plan, off, settles):
    """Both joints must be near the same expert's pose; halfway they are near none."""
    settled = importlib.import_module("headline_job").settled
    target = np.array([[0.12, 0.05], [-0.05, 0.15]])
    poses = np.stack([read_arm().angles(target, side) for side in SIDES.values()])

    def ends(angles: np.ndarray) -> np.ndarray:
        return np.concatenate([np.cos(angles), np.sin(angles), target, np.zeros((2, 4))], axis=1)

    gap = poses[1] - poses[0]
    assert settled(ends(poses[0] + off * gap)).tolist() == [settles] * 2
    assert settled(ends(poses[1] - off * gap)).tolist() == [settles] * 2
    apart = np.stack([poses[0][:, 0], poses[1][:, 1]], axis=1)
    assert not settled(ends(apart)).any()


def small_job(plan) -> Any:
    setting = plan.Setting("bc", "window=0 lr=0.001", "bc", {"hidden": [4], "batch_size": 8, "window": 0, "lr": 1e-3})
    return plan.Job("final", "rendezvous-mix-v0", setting, 0.5, 10, 2_000, 20)


def test_a_job_leaves_a_row_and_a_curve_and_is_finished_for_good(plan, tmp_path, monkeypatch):
    job_module = importlib.import_module("headline_job")
    headline = importlib.import_module("headline")
    job = small_job(plan)
    folder = tmp_path / job.key
    job_module.carry_out(job, folder)
    row = json.loads((folder / "row.json").read_text())
    assert set(headline.ROW) == set(row)
    assert (row["updates"], row["episodes"], row["seed"], row["starts"]) == (20, 100, 10, 2_000)
    assert row["cpu_s"] >= 0 and 0 <= row["agreement"] == row["agreement_strict"] <= 1
    points = json.loads((folder / "curve.json").read_text())["points"]
    assert [point["updates"] for point in points] == list(range(2, 21, 2))
    assert all(a["cpu_s"] <= b["cpu_s"] for a, b in itertools.pairwise(points))
    job_module.carry_out(job, folder)
    assert json.loads((folder / "row.json").read_text()) == row
    monkeypatch.setattr(plan, "RESULTS", tmp_path / "results")
    headline.collect(tmp_path)
    (collected,) = plan.read("rows", tmp_path / "results")
    assert collected == {name: str(row[name]) for name in headline.ROW}
    curve = plan.read("curves", tmp_path / "results")
    assert len(curve) == 10
    again = importlib.import_module("headline_again")
    monkeypatch.setitem(plan.PROTOCOL, "again", {"starts": 4_000, "episodes": 10})
    again.look_at_all([job], tmp_path)
    again.look_at_all([job], tmp_path)
    headline.collect(tmp_path)
    (seen,) = plan.read("again", tmp_path / "results")
    assert (seen["learner"], seen["seed"], seen["episodes"], seen["starts"]) == ("bc", "10", "10", "4000")
    assert (
        again.agreed(again.unpacked(seen["followed"])).mean() == float(seen["agreement"]) and float(seen["data"]) > 90
    )
    elsewhere = tmp_path / "elsewhere"
    headline.restore(elsewhere)
    assert headline.finished(elsewhere) == [collected]
    assert not headline.is_open(job, elsewhere)
    headline.collect(elsewhere)
    headline.collect(tmp_path / "nothing")
    assert plan.read("again", tmp_path / "results") == [seen]
    assert plan.read("curves", tmp_path / "results") == curve
    assert plan.read("rows", tmp_path / "results") == [collected]


def test_a_job_that_was_cut_off_goes_on_with_its_clock_and_its_curve(plan, tmp_path, monkeypatch):
    job_module = importlib.import_module("headline_job")
    job, call = small_job(plan), job_module.Clock.__call__

    def cut(clock: Any, step: int, learner: Any, metrics: Any) -> None:
        call(clock, step, learner, metrics)
        if step == 11:
            raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(job_module.Clock, "__call__", cut)
        with pytest.raises(RuntimeError, match="power cut"):
            job_module.carry_out(job, tmp_path / "cut")
    job_module.carry_out(job, tmp_path / "cut")
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "config.json").write_text("begun, and cut off before the clock was saved")
    job_module.carry_out(job, tmp_path / "whole")
    ends = [json.loads((tmp_path / name / "curve.json").read_text())["points"] for name in ("cut", "whole")]
    untimed = [[{**point, "cpu_s": 0} for point in points] for points in ends]
    assert untimed[0] == untimed[1]
    assert all(a["cpu_s"] <= b["cpu_s"] for a, b in itertools.pairwise(ends[0]))


def test_jobs_are_carried_out_in_turn_until_none_is_missing_beside_other_processes(plan, tmp_path, monkeypatch):
    """One that fails twice is left, and the others go on; one that another process is at is waited for."""
    headline = importlib.import_module("headline")
    jobs = [dataclasses.replace(small_job(plan), seed=seed) for seed in range(3)]
    monkeypatch.setattr(plan, "jobs", lambda rows: iter(jobs))
    ran: list[str] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        key = command[command.index("--job") + 1]
        ran.append(key)
        if key != jobs[1].key:
            (tmp_path / key).mkdir()
            (tmp_path / key / "row.json").write_text("{}")
        return subprocess.CompletedProcess(command, int(key == jobs[1].key))

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["headline.py", "--runs", str(tmp_path)])
    (tmp_path / jobs[0].key).parent.mkdir(parents=True)
    held = ExitStack()
    held.enter_context(locked((tmp_path / f"{jobs[0].key}.log").with_suffix(".lock")))

    def wait(_: float) -> None:
        waited.append(list(ran))
        held.close()

    waited: list[list[str]] = []
    monkeypatch.setattr(headline.time, "sleep", wait)
    with pytest.raises(SystemExit, match="1 jobs failed"):
        headline.main()
    assert waited == [[jobs[1].key, jobs[1].key, jobs[2].key]]
    assert ran == [*waited[0], jobs[0].key]


def test_the_table_says_mean_interval_budget_and_both_rules_beside_each_other(counted, tables):
    setting = next(setting for setting in counted.settings() if setting.learner == "bc")
    jobs = counted.scoring(setting, counted.TUNED_ON, 1)
    rows = [row_of(job, score) for job, score in zip(jobs, (40.0, 50.0, 60.0, 50.0, 50.0), strict=True)]
    lines = list(tables.tables(rows, []))
    assert "1 of the budget; seeds 10 to 14, 100 episodes of starts 2,000, and 500 of starts 4,000" in lines[0]
    (line,) = [line for line in lines if line.startswith("| `bc` | ")]
    # t = 2.776, deviation 7.071 of five: 50 +- 8.78.
    assert line == "| `bc` | `window=0 lr=0.0003` | 1,000 | 10 s | 50.0 [41.2, 58.8] | 0.50 | 0.25 |  |  |  |"
    partly = "\n".join(tables.tables(rows[:2], []))
    assert "(2 of 5 seeds)" in partly
    apart = np.array([[0, 0], [1, 1], [0, 0], [1, 0]])
    seen = [seen_again(job, choices) for job, choices in zip(jobs[:2], (apart, 1 - apart), strict=True)]
    lines = list(tables.tables(rows, seen))
    (line,) = [line for line in lines if line.startswith("| `bc` | ")]
    assert line.endswith("| 50.0 [50.0, 50.0] (2 seeds) | 0.75, 0.25 | 0.25 |")
    assert "| the data itself | | | | -18.4 | | | | | |" in lines


def seen_again(job: Any, choices: np.ndarray) -> dict[str, str]:
    """A row of the second look, of agents that followed such conventions."""
    again = importlib.import_module("headline_again")
    names = ("clockwise", "counterclockwise")
    known = row_of(job, 50.0)
    agreed = Conventions(names, choices).agreed.mean()
    return {
        **{name: known[name] for name in again.KEY},
        "normalized_return": "50.0",
        "agreement": str(agreed),
        "agreement_strict": "0.25",
        "data": "-18.4",
        "followed": again.packed(Conventions(names, choices)),
    }


def test_a_game_says_its_one_rule_once_and_the_settings_that_hold_there(counted, tables):
    rows = carried_out(counted, lambda job: 50.0)
    rows = [row | {"agreement_strict": "0.5"} if row["dataset"] == "coordination-mix-v0" else row for row in rows]
    told = "\n".join(tables.tables(rows, [])).partition("`coordination-mix-v0`, 1 of the budget")[2]
    assert (
        "| normalised return | agree | on starts 4,000 | agree there | strangers agree |" in told.partition("\n\n`")[0]
    )
    (line,) = [line for line in told.partition("\n\n`")[0].splitlines() if line.startswith("| `moma-ppo` |")]
    assert "`window=0 horizon=6`" in line


@pytest.mark.parametrize(
    ("names", "agents", "letters"), [(2, 3, 1), (2, 2, 1), (5, 2, 1), (6, 2, 2), (3, 3, 2), (2, 8, 3)]
)
def test_what_agents_followed_is_kept_in_as_few_letters_as_tell_it(plan, names, agents, letters):
    again = importlib.import_module("headline_again")
    followed = np.random.default_rng(0).integers(-1, names, (50, agents))
    followed[0] = names - 1
    text = again.packed(Conventions(tuple(map(str, range(names))), followed))
    size, _, told = text.partition(":")
    assert size == f"{names}x{agents}" and len(told) == 50 * letters
    assert np.array_equal(again.unpacked(text), followed)


def test_rows_of_a_letter_an_episode_stay_readable(plan):
    again = importlib.import_module("headline_again")
    # Base three, the first agent's digit first, nothing being 0.
    assert again.unpacked("2x2:0158").tolist() == [[-1, -1], [0, -1], [1, 0], [1, 1]]


def test_strangers_agree_on_what_the_starts_alone_say(plan):
    """Runs that follow the start agree with each other; runs that each chose a way of their own do not."""
    again = importlib.import_module("headline_again")
    by_start = np.repeat([[0], [1], [1], [0]], 2, axis=1)
    assert again.of_strangers([by_start] * 3) == 1.0
    own = [np.full((4, 2), way) for way in (0, 1)]
    assert again.of_strangers(own) == 0.0
    # Agent 0 of each of three runs beside agent 1 of each other: of six pairs two are both 0.
    assert again.of_strangers([*own, np.zeros((4, 2), int)]) == pytest.approx(1 / 3)
    nobody = np.full((4, 2), -1)
    assert again.of_strangers([nobody] * 2) == 0.0 and np.isnan(again.of_strangers([by_start]))


def test_rows_of_two_commits_make_no_table(counted, tables):
    jobs = counted.tuning("bc")[:2]
    rows = [row_of(job, 1.0, commit) for job, commit in zip(jobs, (COMMIT, "b" * 40), strict=True)]
    with pytest.raises(AssertionError, match="several commits"):
        list(tables.tables(rows, []))


def test_the_committed_costs_are_of_every_setting_and_pay_for_hundreds_of_updates(plan):
    """Of moma-ppo dozens: one of its updates is an update of many rows."""
    for setting in [*plan.settings(), plan.oracle(next(s for s in plan.settings() if s.learner == "moma-ppo"))]:
        least = 40 if setting.algorithm == "moma-ppo" else 500
        assert least < plan.updates_of(setting, 1) < plan.updates_of(setting, plan.PROTOCOL["budget"]["larger"])


def test_the_committed_rows_are_those_of_the_plan(plan):
    """Each is of one job, with its seeds, starts and updates, once, and all are of one commit."""
    rows = plan.read("rows")
    known = {job.key: job for job in plan.jobs(rows)}
    keys = [importlib.import_module("headline").place(row) for row in rows]
    assert len(set(keys)) == len(rows) and len({row["commit"] for row in rows}) <= 1
    for key, row in zip(keys, rows, strict=True):
        job = known[key]
        assert (row["updates"], row["starts"], row["command"]) == (str(job.updates), str(job.starts), job.command)
        assert row["episodes"] == str(plan.PROTOCOL["episodes"]["score"])


def test_rows_are_read_beside_any_version_of_the_library():
    """The protocol is pinned to an older commit, beside whose library the present scripts run."""
    code = "import sys; sys.modules['offline_marl'] = None; import rows; print(rows.command.__name__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, capture_output=True, text=True, check=False)
    assert done.stdout == "command\n", done.stderr


def test_a_report_is_made_of_the_scores_of_the_budget_once(counted, tables, tmp_path, monkeypatch):
    from offline_marl.launch.cli import main

    rows = [row | {"return": "-5.0", "low": "-6.0", "high": "-4.0"} for row in carried_out(counted, lambda job: 60.0)]
    rows = [{"episodes": "100", **row} for row in rows]
    unseen = "reacher-scripted-mix-v0_2x1_full"
    seen = [{"dataset": row["dataset"], "data_return": "-12.4", "data": "-18.4"} for row in rows]
    seen = [row for row in seen if row["dataset"] != unseen]
    monkeypatch.setattr(counted, "read", lambda name: {"rows": rows, "again": seen}[name])
    tables.write_for_report(tmp_path / "rows.csv")
    with pytest.raises(SystemExit, match="0"):
        main(["report", str(tmp_path / "rows.csv"), "--out", str(tmp_path / "page")])
    told = (tmp_path / "page" / "summary.csv").read_text()
    assert "moma-ppo oracle" in told and "with history" not in told and "coordination-mix-v0" in told
    assert any(row["dataset"] == unseen for row in rows) and unseen not in told


@pytest.mark.long
def test_scores_and_curves_are_drawn_for_each_data_set(counted, tables, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    jobs = [
        job for name in ("bc", "moma-ppo") for job in counted.scoring(setting_of(counted, name), counted.TUNED_ON, 1)
    ]
    rows = [row_of(job, 60.0) for job in jobs]
    points = [{**row, "updates": str(at)} for row in rows for at in (100, 200)]
    games = [{**point, "dataset": "rendezvous-mix-v0"} for point in points if point["learner"] == "bc"]
    scores, curves, game = (path.read_text() for path in tables.draw(rows, points + games))
    assert "<!-- moma-ppo (5) -->" in scores and "within a third" in scores
    assert curves.count("<!-- bc -->") == 1 and "<!-- moma-ppo -->" in curves and "processor time" in curves
    assert "<!-- bc -->" in game and "moma-ppo" not in game
    seen = [seen_again(job, np.array([[0, 0], [1, 0], [1, 1]])) for job in jobs]
    targets = [{"x": "0.1", "y": str(y)} for y in (0.0, 0.1, -0.1)]
    assert tables.draw_targets(seen, targets).stat().st_size > 5_000


def setting_of(plan, learner: str) -> Any:
    return next(setting for setting in plan.settings() if setting.learner == learner)


@pytest.mark.parametrize(("mixed", "share"), [(("900", "700"), 0.7), (("-10", "990"), -0.01)])
def test_what_two_teams_keep_is_the_worse_mixture_as_a_share_of_what_each_returns_by_itself(
    plan, tmp_path, mixed, share
):
    body = importlib.import_module("headline_body")
    pairs = [("a", "a", "1200"), ("a", "b", mixed[0]), ("b", "a", mixed[1]), ("b", "b", "800")]
    file = tmp_path / "crossplay.csv"
    file.write_text("\n".join(["row,column,return", *map(",".join, pairs)]) + "\n")
    assert body.kept_together(file) == pytest.approx(share)
    file.write_text(file.read_text().replace("800", "-80"))
    with pytest.raises(SystemExit, match="a team returns -80 by itself"):
        body.kept_together(file)


def test_the_larger_bodys_tables_say_who_learned_together(plan, tmp_path, monkeypatch):
    body = importlib.import_module("headline_body")
    monkeypatch.setattr(plan, "RESULTS", tmp_path)
    assert list(body.tables()) == ["No team has been trained yet."]
    names = ("row", "column", "return")
    cross = [dict(zip(names, pair, strict=True)) for pair in (("a", "a", "1200.4"), ("a", "b", "-30"))]
    plan.write("body_crossplay", names, cross)
    learned = {"learner": "bc", "setting": "lr=1", "updates": "1000", "cpu_s": "10"}
    plan.write("body", (*learned, "return"), [{**learned, "return": value} for value in ("900", "1100.2")])
    lines = list(body.tables())
    assert "| `a` | `a` | 1,200 | learned together |" in lines and "| `a` | `b` | -30 |  |" in lines
    assert lines[-1] == "| `bc` | `lr=1` | 1,000 | 10 s | 900, 1,100 |"


def test_learners_of_the_larger_body_have_the_settings_that_reacher_chose(counted, monkeypatch):
    body = importlib.import_module("headline_body")
    monkeypatch.setattr(body, "plan", counted)
    costs = counted.read("updates")
    rows: list[dict[str, str]] = []
    monkeypatch.setattr(counted, "read", lambda name: rows if name == "rows" else costs)
    with pytest.raises(SystemExit, match="bc has no setting yet"):
        body.chosen()
    rows += [row_of(job, job.setting.fields["window"]) for name in body.LEARNERS for job in counted.tuning(name)]
    found = list(body.jobs(body.chosen(), Path("mix.safetensors")))
    assert {(job.setting.learner, job.seed) for job in found} == set(itertools.product(body.LEARNERS, body.SEEDS))
    assert {job.dataset for job in found} == {"mix.safetensors_2x3_0t"}
    assert all(job.fields["window"] == 10 and job.fields["reward_scale"] == "range" for job in found)
