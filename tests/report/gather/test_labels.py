"""Labels: which runs are averaged, and what keeps others apart."""

from __future__ import annotations

from typing import Any

from finished import run

from offline_marl.report.gather.labels import label_runs
from offline_marl.report.gather.scores import Run


def made(algorithm: str, seed: int, task: str = "t", **settings: Any) -> Run:
    more = {name: settings.pop(name) for name in ("tuned_on", "from_data") if name in settings}
    return run(algorithm, task, seed, float(seed), settings=settings, **more)


def labels(*runs: Run) -> list[str]:
    labelled, doubles, _, _ = label_runs(runs)
    assert not doubles
    return [run.label for run in labelled]


def test_models_of_one_name_in_different_sweeps_are_different_settings() -> None:
    runs = [
        made("moma-ppo", seed, world_model=f"/w/{sweep}/models/small_x_seed{seed}")
        for sweep in ("first", "second")
        for seed in (0, 1)
    ]
    assert labels(*runs) == [
        *["moma-ppo, world_model first/models/small_x"] * 2,
        *["moma-ppo, world_model second/models/small_x"] * 2,
    ]


def test_folders_of_seeds_are_one_setting() -> None:
    eight = [made("iql", seed, init=f"/w/runs/eight/seed{seed}") for seed in (0, 1)]
    assert labels(*eight) == ["iql", "iql"]
    other = [made("iql", seed, init=f"/w/runs/bc_seed{seed}") for seed in (2, 3)]
    assert labels(*eight, *other) == [*["iql, init eight"] * 2, *["iql, init bc"] * 2]


def test_models_that_were_fitted_anew_for_tuned_runs_hide_no_run_that_chose() -> None:
    chose = [made("moma-ppo", seed, world_model=f"/w/s/models/m_seed{seed}") for seed in (0, 1)]
    tuned = [
        made("moma-ppo", seed, world_model=f"/w/s-best/models/m_seed{seed}", tuned_on="tuned on seeds 0, 1: best")
        for seed in (5, 6)
    ]
    assert labels(*chose, *tuned) == [
        *["moma-ppo, world_model s/models/m, while tuning"] * 2,
        *["moma-ppo, world_model s-best/models/m"] * 2,
    ]


def test_a_setting_that_only_some_runs_tell_is_unknown_of_the_others() -> None:
    told, silent = [made("iql", seed, lr=0.001) for seed in (0, 1)], [made("iql", seed) for seed in (2, 3)]
    assert labels(*told, *silent) == [*["iql, lr 0.001"] * 2, *["iql, lr unknown"] * 2]
    elsewhere = [made("iql", seed, task="other") for seed in (2, 3)]
    assert labels(*told, *elsewhere) == ["iql"] * 4
    empty = [made("bc", 0, expectile=None), made("bc", 1)]
    assert labels(*empty) == ["bc", "bc"], "a column of another algorithm"


def test_of_many_unknown_settings_none_is_named() -> None:
    many = {name: 1 for name in ("one", "two", "three", "four")}
    assert labels(made("iql", 0, **many, lr=0.1), made("iql", 1, lr=0.2)) == [
        "iql, lr 0.1",
        "iql, lr 0.2, other settings unknown",
    ]


def test_scores_from_different_environments_are_of_different_tasks() -> None:
    runs = [
        made("iql", 0, environment=None, env_settings={}),
        made("iql", 1, environment="lab:harder", env_settings={}, max_steps=None),
        made("bc", 0, environment="lab:harder", env_settings={"N": 5}, max_steps=10),
        made("vdn", 0, task="spread", environment="spread", from_data=False),
    ]
    labelled, _, notes, _ = label_runs(runs)
    assert [run.task for run in labelled] == [
        "t",
        "t, scored in lab:harder",
        't, scored in lab:harder env_settings {"N": 5} max_steps 10',
        "spread",
    ]
    assert notes == ["Runs on t were scored in different environments: they are apart."]
    alone, _, notes, _ = label_runs(runs[1:2])
    assert alone[0].task == "t" and not notes
