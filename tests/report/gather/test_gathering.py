"""Gathering: which runs are found, what they are called, what is left out and why."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from finished import folder
from runs import small_run
from worlds import world

from offline_marl.datasets import catalog
from offline_marl.datasets.files import save_data
from offline_marl.report.export import export
from offline_marl.report.gather import data_returns
from offline_marl.report.gather.gathering import gather
from offline_marl.report.gather.scores import EvidenceError, Gathered
from offline_marl.report.page.assemble import write_page
from offline_marl.report.statistics.summary import summarize

ROOT = Path(__file__).resolve().parents[3]


def why(gathered: Gathered) -> dict[str, str]:
    return {each.name: each.why for each in gathered.left_out}


def test_a_run_folder_says_all(tmp_path: Path) -> None:
    told = {"seeds": [0, 1], "metric": "return", "configurations": 4}
    path = folder(tmp_path / "bc7", 3.0, seed=7, data={"return": 2.5, "normalized_return": 25.0})
    (path / "tuned.json").write_text(json.dumps(told))
    (run,) = gather([path]).runs
    assert (run.name, run.label, run.task, run.seed, run.budget, run.step) == ("bc7", "bc", "toy", 7, 20, 20)
    assert run.score["return"] == 3.0 and run.score["episodes"] == 10
    assert [(point["step"], point["return"]) for point in run.curve] == [(10, 2.0), (20, 3.0)]
    assert run.evaluations == 2 and run.best is not None and run.best["step"] == 20
    assert (run.data_return, run.data_normalized) == (2.5, 25.0)
    assert run.tuned_on == "tuned on seeds 0, 1: best return of 4 settings"
    assert run.provenance["commit"] == "abc"


def test_a_trained_run_knows_what_its_data_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runs import score_in_point_env

    score_in_point_env(monkeypatch)
    data = world("continuous")
    small_run(tmp_path / "run", data, steps=4)
    (run,) = gather([tmp_path]).runs
    assert run.data_return == pytest.approx(float(data.returns().double().mean()))
    assert run.data_normalized is None and run.algorithm == "bc" and len(run.curve) == 1


def test_folders_are_searched_at_any_depth_and_models_passed_over(tmp_path: Path) -> None:
    for seed in (10, 2, 0):
        folder(tmp_path / "sweep" / "runs" / f"bc_seed{seed}", seed=seed)
    model = tmp_path / "sweep" / "models" / "ensemble"
    model.mkdir(parents=True)
    (model / "config.json").write_text(json.dumps({"model": "ensemble", "dataset": "toy"}))
    inside = folder(tmp_path / "other", seed=3) / "world_model"
    inside.mkdir()
    (inside / "config.json").write_text((model / "config.json").read_text())
    found = gather([tmp_path / "sweep", tmp_path, tmp_path / "sweep" / "runs" / "bc_seed0"])
    assert [run.name for run in found.runs] == ["bc_seed0", "bc_seed2", "bc_seed10", "other"]
    assert found.left_out == ()


def test_what_is_not_finished_is_listed_with_its_reason(tmp_path: Path) -> None:
    folder(tmp_path / "good")
    folder(tmp_path / "going", done=False, steps=40)
    folder(tmp_path / "unscored", None)
    folder(tmp_path / "nan", float("nan"))
    failed = folder(tmp_path / "failed", done=False)
    said = {"event": "end", "how": "failed", "why": "loss/actor became nan\nat step 3."}
    (failed / "starts.jsonl").write_text(json.dumps(said) + "\n")
    (folder(tmp_path / "torn") / "DONE").write_text("{")
    (folder(tmp_path / "edited") / "config.json").write_text('{"algorithm": "bc", "stesp": 3}')
    config = json.loads((folder(tmp_path / "longer", steps=400) / "config.json").read_text())
    del config["settings"]
    (tmp_path / "longer" / "versions.json").write_text(json.dumps({"settings": {**config, "steps": 100}}))
    job = {"command": "train", "folder": "runs/never"}
    (tmp_path / "sweep.json").write_text(json.dumps({"jobs": [job, {"command": "fit-model", "folder": "models/m"}]}))
    found = gather([tmp_path])
    assert [run.name for run in found.runs] == ["good"]
    reasons = why(found)
    assert reasons["going"] == "unfinished: 40 of 40 updates"
    assert reasons["unscored"] == "it has no score: there was nothing to act in"
    assert reasons["nan"] == "its return is nan, which is no number that can be averaged"
    assert reasons["failed"] == "failed: loss/actor became nan at step 3."
    assert reasons["torn"] == "its DONE was damaged or edited"
    assert "was damaged or edited" in reasons["edited"]
    assert "was edited since the run began (steps was 100, is 400)" in reasons["longer"]
    assert reasons["never"] == "it has not begun"


def test_failed_jobs_are_told_by_their_last_log_line(tmp_path: Path) -> None:
    folder(tmp_path / "good")
    failed = folder(tmp_path / "failed", done=False)
    (failed / "starts.jsonl").write_text('{"event": "end", "how": "failed"}\n')
    (failed / "job.json").write_text(json.dumps({"id": "12", "logs": str(tmp_path / "logs")}))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "12_0_log.err").write_text("bar\rbar 2\nMemoryError\n\n")
    assert why(gather([tmp_path]))["failed"] == "failed: MemoryError"


def test_labels_name_the_settings_that_differ_but_for_the_seed(tmp_path: Path) -> None:
    for seed in (0, 1):
        for lr in (0.001, 0.0003):
            folder(tmp_path / f"iql_{lr}_{seed}", algorithm="iql", seed=seed, settings={"lr": lr, "hidden": [8, 8]})
        folder(tmp_path / f"bc_{seed}", seed=seed, settings={"lr": 0.1, "hidden": [4]})
    found = gather([tmp_path])
    assert {run.label for run in found.runs} == {"bc", "iql, lr 0.001", "iql, lr 0.0003"}
    assert found.varied == ("lr",) and found.notes == ()


def test_models_of_seeds_are_one_setting_and_settings_of_tasks_are_told(tmp_path: Path) -> None:
    for seed in (0, 1):
        for task, lr in (("toy", 0.1), ("tough", 0.2)):
            path = folder(tmp_path / f"{task}{seed}", seed=seed, dataset=task, settings={"lr": lr})
            config = json.loads((path / "config.json").read_text())
            config["world_model"] = f"/models/ensemble_{task}_seed{seed}"
            (path / "config.json").write_text(json.dumps(config))
    found = gather([tmp_path])
    assert {run.label for run in found.runs} == {"bc"}
    assert any("another lr on each task" in note and "0.1, 0.2" in note for note in found.notes)


def test_budgets_are_shown_apart(tmp_path: Path) -> None:
    folder(tmp_path / "short", steps=20)
    folder(tmp_path / "long", steps=20_000, done=False)
    assert [run.label for run in gather([tmp_path]).runs] == ["bc"]  # of finished ones there is one budget
    folder(tmp_path / "longer", steps=30)
    found = gather([tmp_path])
    assert {run.label for run in found.runs} == {"bc, 20 updates", "bc, 30 updates"}
    assert "Budgets differ (toy: 20, 30 updates)" in found.notes[0]


def test_data_of_one_name_and_other_contents_are_other_tasks(tmp_path: Path) -> None:
    folder(tmp_path / "one")
    other = folder(tmp_path / "other", dataset="/elsewhere/toy")
    (other / "versions.json").write_text('{"dataset_sha256": "6f"}')
    found = gather([tmp_path])
    assert {run.task for run in found.runs} == {"toy (5e)", "toy (6f)"}
    assert found.notes == ("Data of different contents go by the name toy: they are shown apart.",)


def test_a_seed_counts_once(tmp_path: Path) -> None:
    folder(tmp_path / "a", 1.0)
    folder(tmp_path / "b", 2.0)
    found = gather([tmp_path])
    assert [run.name for run in found.runs] == ["a"]
    assert why(found) == {"b": "seed 0 of bc on toy is counted once, from a"}


def test_committed_tables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLINE_MARL_HOME", "/nowhere")
    found = gather([ROOT / "benchmarks" / "results" / "headline.csv"])
    assert {run.algorithm for run in found.runs} >= {"bc", "moma-ppo", "moma-ppo oracle"}
    first = found.runs[0]
    assert first.folder is None and first.budget == 5_000 and first.provenance["commit"]
    assert (first.data_return, first.data_normalized) == (-12.4179, -18.4324), "the table says it"
    assert not found.left_out
    assert any("Budgets differ" in note for note in found.notes)


def test_a_run_of_an_earlier_version_goes_by_the_defaults_of_settings_that_it_lacks(tmp_path: Path) -> None:
    folder(tmp_path / "old", seed=0, settings={"lr": 0.1})
    for seed, window in ((1, 0), (2, 5)):
        folder(tmp_path / f"new{seed}", seed=seed, settings={"lr": 0.1, "window": window})
    assert {run.name: run.label for run in gather([tmp_path]).runs} == {
        "old": "bc, window 0",
        "new1": "bc, window 0",
        "new2": "bc, window 5",
    }


def test_budgets_of_tables_are_what_was_declared_not_where_runs_ended(tmp_path: Path) -> None:
    table = tmp_path / "sweep.csv"
    table.write_text(
        "algorithm,environment,seed,return,budget,steps,environment_steps\n"
        "ma-ppo,spread,0,1.0,50,41,9000\nma-ppo,spread,1,2.0,50,44,9000\n"
    )
    found = gather([table])
    assert [(run.label, run.budget, run.step) for run in found.runs] == [("ma-ppo", 50, 41), ("ma-ppo", 50, 44)]
    assert found.notes == ()


def test_rows_say_in_which_environment_their_data_was_scored(tmp_path: Path) -> None:
    table = tmp_path / "sweep.csv"
    table.write_text(
        "algorithm,dataset,environment,seed,steps,return\nbc,toy,,0,9,1.0\nbc,toy,lab:harder,1,9,2.0\n"
        "vdn,,spread,0,9,1.0\n"
    )
    assert [run.task for run in gather([table]).runs] == ["toy", "toy, scored in lab:harder", "spread"]


def test_what_sweeps_collect_is_read(tmp_path: Path) -> None:
    table = tmp_path / "sweep.csv"
    table.write_text(
        "run,algorithm,dataset,lr,hidden,seed,return,normalized_return,steps,tuned_on\n"
        'a,iql,/data/toy,0.1,"[8, 8]",0,1.5,,100,"tuned on seeds 5: best return of 2 settings"\n'
        'b,iql,/data/toy,0.2,"[8, 8]",0,2.5,,100,\n'
        'c,iql,/data/toy,0.2,"[8, 8]",1,nan,,100,\n'
    )
    found = gather([table])
    assert [(run.name, run.label, run.task) for run in found.runs] == [
        ("a", "iql, lr 0.1", "toy"),
        ("b", "iql, lr 0.2", "toy"),
    ]
    assert found.runs[0].tuned_on and found.runs[0].settings["hidden"] == [8, 8] and found.runs[1].tuned_on is None
    assert why(found) == {"c": "its return is nan, which is no number that can be averaged"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("step,return\n1,2\n", "has no column 'algorithm'"),
        ("algo,dataset,seed,step,return\nbc,toy,zero,1,2\n", "Line 2 of .* has 'zero' as its seed: no whole number"),
        ("algo,dataset,seed,step,return\nbc,toy,0,1,two\n", "has 'two' in the column 'return': no number"),
        ("algo,dataset,seed,step,return\n,toy,0,1,2\n", "does not say its algorithm"),
        ("", "has no column"),
    ],
)
def test_tables_that_cannot_be_read_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(EvidenceError, match=said):
        gather([tmp_path / "x.csv"])


def test_paths_without_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="There is no .*gone"):
        gather([tmp_path / "gone"])
    with pytest.raises(EvidenceError, match="There is no run in"):
        gather([tmp_path])
    folder(tmp_path / "going", done=False)
    with pytest.raises(EvidenceError, match="The run in .* cannot be compared: going: unfinished"):
        gather([tmp_path])
    (tmp_path / "sweep.json").write_text("[")
    with pytest.raises(EvidenceError, match="was damaged or edited"):
        gather([tmp_path])


def test_the_catalogues_data_is_looked_up_where_it_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLINE_MARL_HOME", str(tmp_path))
    data_returns._of_catalogue.cache_clear()
    task = "coordination-mix-v0"
    assert data_returns.data_returns(None, task) == (None, None)
    assert not os.listdir(tmp_path)  # nothing was made for it
    data_returns._of_catalogue.cache_clear()
    data = world("continuous")
    catalog.path_of(task).parent.mkdir(parents=True)
    checksum = save_data(catalog.path_of(task), data)
    mean = float(data.returns().double().mean())
    reference = catalog.CATALOG[task].reference
    found = data_returns.data_returns(None, task, {"dataset_sha256": checksum})
    assert found == pytest.approx((mean, reference.normalized(mean)))
    assert data_returns.data_returns(None, task, {"dataset_sha256": "other"}) == (None, None)
    assert data_returns.data_returns(None, "unknown") == (None, None)
    data_returns._of_catalogue.cache_clear()


def test_runs_that_chose_a_setting_are_apart_from_those_it_was_tested_with(tmp_path: Path) -> None:
    for seed in (0, 1, 2, 3):
        folder(tmp_path / f"bc{seed}", 9.0 - seed, seed=seed)
    for seed in (2, 3):
        told = {"seeds": [0, 1], "metric": "return", "configurations": 4}
        (tmp_path / f"bc{seed}" / "tuned.json").write_text(json.dumps(told))
    found = gather([tmp_path])
    labels = [(run.label, run.seed) for run in found.runs]
    assert labels == [("bc, while tuning", 0), ("bc, while tuning", 1), ("bc", 2), ("bc", 3)]
    assert any(note.startswith("Runs that chose the settings of bc on toy are shown apart") for note in found.notes)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("versions.json", "[1]"),
        ("versions.json", '{"x": NaN}'),
        ("metrics.jsonl", '{"kind": "eval", "return": 1}'),
        ("metrics.jsonl", '{"kind": "eval", "step": "x", "return": 1}'),
        ("metrics.jsonl", '{"kind": "eval", "step": null, "return": 1}'),
        ("metrics.jsonl", '{"kind": "eval", "step": 5, "return": 1' + "0" * 400 + "}"),
        ("metrics.csv", "step,loss\nnan,1\n1,inf\n"),
        ("metrics.csv", "step," + "x" * 200_000),
        ("tuned.json", "[" * 100_000),
    ],
)
def test_a_damaged_file_beside_a_score_costs_no_report(tmp_path: Path, file: str, text: str) -> None:
    pytest.importorskip("rliable")
    for seed in (0, 1):
        (folder(tmp_path / "runs" / f"bc{seed}", seed=seed) / file).write_text(text)
    held = summarize(gather([tmp_path]), reps=100)
    assert held.cells[0].runs == 2
    export(held, tmp_path / "out")
    assert write_page(held, [tmp_path], tmp_path / "out" / "report.html").stat().st_size > 1_000


@pytest.mark.parametrize(
    "mark", ['{"steps": "x", "score": {"return": 1}}', '{"score": {"return": 1' + "0" * 400 + "}}", "[" * 100_000]
)
def test_a_damaged_mark_leaves_its_run_out(tmp_path: Path, mark: str) -> None:
    folder(tmp_path / "good")
    (folder(tmp_path / "bad", seed=1) / "DONE").write_text(mark)
    assert list(why(gather([tmp_path]))) == ["bad"]


def test_diverged_scores_are_left_out_before_they_overflow(tmp_path: Path) -> None:
    folder(tmp_path / "good")
    folder(tmp_path / "far", 1.7e308, seed=1)
    assert why(gather([tmp_path])) == {"far": "its return is 1.7e+308, which is no number that can be averaged"}


def test_linked_folders_are_followed_but_not_round_in_circles(tmp_path: Path) -> None:
    folder(tmp_path / "real" / "bc0")
    (tmp_path / "chosen").mkdir()
    (tmp_path / "chosen" / "first").symlink_to(tmp_path / "real" / "bc0")
    (tmp_path / "chosen" / "round").symlink_to(tmp_path)
    assert [run.name for run in gather([tmp_path / "chosen"]).runs] == ["bc0"]


def test_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for seed, place in enumerate(("a", "b", "c")):
        folder(tmp_path / place / "seed0", seed=seed, done=place != "c")
    folder(tmp_path / "other", seed=7)
    os.rename(tmp_path / "other", os.fsencode(tmp_path) + b"/bad\xff")
    found = gather([tmp_path])
    assert [run.name for run in found.runs] == ["a/seed0", "b/seed0", "bad\ufffd"]
    assert list(why(found)) == ["c/seed0"]
    (tmp_path / "out").mkdir()
    assert b"bad" in export(summarize(found, reps=100), tmp_path / "out")[0].read_bytes()


@pytest.mark.parametrize("mark", ["\ufeff", ""])
def test_tables_of_spreadsheets_are_read(tmp_path: Path, mark: str) -> None:
    rows = "bc,toy,0,1,2,NaN\nbc,toy,1,1,3,NaN\n"
    (tmp_path / "x.csv").write_text(f"{mark}algo,dataset,seed,step,return,alpha\n{rows}", encoding="utf-8")
    found = gather([tmp_path / "x.csv"])
    assert [(run.label, run.seed) for run in found.runs] == [("bc", 0), ("bc", 1)]
    export(summarize(found, reps=100), tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "said"),
    [("algo,dataset,seed,step,return\n", "holds no scores"), ("algo;dataset;seed\n1;2;3\n", "has semicolons between")],
)
def test_near_misses_of_tables_are_told(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(EvidenceError, match=said):
        gather([tmp_path / "x.csv"])


def test_runs_that_played_beside_their_data_stand_in_no_table_with_those_that_only_read_it(tmp_path: Path) -> None:
    for name, online in (("offline", False), ("online", True)):
        for algorithm in ("cql", "iql"):
            path = folder(tmp_path / f"{name}_{algorithm}", 3.0)
            config = json.loads((path / "config.json").read_text())
            (path / "config.json").write_text(json.dumps({**config, "algorithm": algorithm, "online": online}))
            done = json.loads((path / "DONE").read_text())
            if online:
                done["score"] |= {"online": True, "environment_steps": 500}
            (path / "DONE").write_text(json.dumps(done))
    runs = {run.name: run for run in gather([tmp_path]).runs}
    assert runs["offline_cql"].task == "toy" and runs["online_cql"].task == "toy, online"
    assert runs["offline_cql"].label == "cql" and runs["online_cql"].label == "cql, online"
    assert runs["online_iql"].score["environment_steps"] == 500
    summary = summarize(gather([tmp_path]))
    assert {(cell.task, cell.label) for cell in summary.cells} == {
        ("toy", "cql"),
        ("toy", "iql"),
        ("toy, online", "cql, online"),
        ("toy, online", "iql, online"),
    }
    # Written down and read again, they stay apart.
    export(summary, tmp_path / "tables")
    table = next(path for path in (tmp_path / "tables").glob("*.csv") if "environment_steps" in path.read_text())
    assert "toy, online" in table.read_text()


def test_rows_of_a_table_say_what_was_played(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text(
        "algorithm,dataset,environment,seed,steps,return,online,environment_steps\n"
        "cql,mine.safetensors,,0,9,1.0,True,50\ncql,mine.safetensors,,0,9,2.0,,\n"
        "vdn,,spread,0,9,1.0,True,50\nma-ppo,,spread,0,9,1.0,True,50\n"
    )
    assert [(run.task, run.label) for run in gather([table]).runs] == [
        ("mine.safetensors, online", "cql, online"),
        ("mine.safetensors", "cql"),
        ("spread", "vdn, online"),
        ("spread", "ma-ppo"),
    ]


@pytest.mark.parametrize("what", ["world model in /m/one", "frozen policy of the run /m/one", "world model of its own"])
def test_runs_by_different_networks_of_one_place_are_apart(tmp_path: Path, what: str) -> None:
    for seed in (0, 1, 2):
        path = folder(tmp_path / f"iql{seed}", algorithm="iql", seed=seed)
        (path / "pinned.json").write_text(
            json.dumps({what: f"{seed // 2}" * 64, f"world model in /m/{seed}": f"{seed}"})
        )
    found = gather([tmp_path])
    labels = [run.label for run in found.runs]
    if what.endswith("its own"):
        assert labels == ["iql"] * 3 and not found.notes
    else:
        noun = what.partition(" in ")[0].partition(" of the run ")[0]
        assert labels == [*[f"iql, {noun} {'0' * 16}"] * 2, f"iql, {noun} {'1' * 16}"]
        assert found.notes == (f"Runs on toy went by different contents of the {what}: they are shown apart.",)


def test_runs_by_different_reward_models_of_one_place_are_apart(tmp_path: Path) -> None:
    for seed in (0, 1):
        path = folder(tmp_path / f"iql{seed}", algorithm="iql", seed=seed)
        frozen = {"reward_model": "/m/one", "version": f"{seed}" * 64, "reference_policy": None, "reference": None}
        (path / "reward.json").write_text(json.dumps(frozen))
    found = gather([tmp_path])
    assert [run.label for run in found.runs] == [f"iql, reward model {f'{seed}' * 16}" for seed in (0, 1)]
    assert found.notes == (
        "Runs on toy went by different contents of the reward model in /m/one: they are shown apart.",
    )
