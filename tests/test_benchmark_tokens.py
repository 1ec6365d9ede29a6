"""Benchmarks of token models: settings that the commands take, and rows as their tables read them."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offline_marl.launch.cli.kinds import read_run
from offline_marl.runs.kinds import FIT, TRAIN
from offline_marl.training.kinds import procedure_of

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def settings_of(words: list[str]) -> Any:
    """The full settings of a command, as it would begin."""
    command, name, *rest = words
    procedure = procedure_of({"train": TRAIN, "fit-model": FIT}[command])
    fields, _ = read_run(procedure, name, rest)
    return procedure.prepare(name, fields.pop("dataset", None), fields)


def test_every_fit_of_the_comparison_is_one_that_begins(
    bench: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    foresight, asked = bench("foresight"), list[list[str]]()
    monkeypatch.setattr(foresight.rows, "trained", lambda folder, words: asked.append([*words]))
    for file in ("ladder", "halfcheetah"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{file}.safetensors").touch()
    for name, models in foresight.SETS.items():
        for model in models:
            assert foresight.fitted(name, model, 1, tmp_path) is None
    (tmp_path / "data" / "halfcheetah.safetensors").unlink()
    assert foresight.recorded("halfcheetah", tmp_path) is None, "its run has not ended"
    *fits, masac = [settings_of(words) for words in asked]
    assert len(fits) == 13 and {fit.seed for fit in fits} == {1} and {fit.steps for fit in fits} == {4_000}
    assert [fit.model for fit in fits].count("ensemble") == 3
    assert (masac.algorithm, masac.steps, masac.keep_checkpoints) == ("masac", 30_000, 0)


def test_learners_over_real_steps_have_the_same_budget(bench: Callable[[str], Any]) -> None:
    online = bench("marie_online")
    plans = {
        name: settings_of(["train", name, *(["--environment", online.TASK]), *words])
        for name, words in online.LEARNERS.items()
    }
    marie, ma_ppo, qmix = (plans[name] for name in ("marie", "ma-ppo", "qmix"))
    assert ma_ppo.steps * ma_ppo.settings["batch_size"] == online.STEPS
    assert marie.environment_steps == qmix.environment_steps == online.STEPS
    assert {plan.environment for plan in plans.values()} == {"simple-spread"}


def test_a_table_is_of_the_means_over_seeds(
    bench: Callable[[str], Any], monkeypatch: Any, tmp_path: Path, capsys: Any
) -> None:
    foresight = bench("foresight")
    monkeypatch.setattr(foresight, "RESULTS", tmp_path / "rows.csv")
    for seed, error in enumerate(("0.1", "0.3")):
        row = dict.fromkeys(foresight.FIELDS, "") | {"set": "ladder", "model": "tokens", "seed": str(seed)}
        row |= {"error_1": error, "still_1": "0.5", "choices_1": "0.9", "choices_10": "0.8", "fit_s": "60"}
        foresight.rows.replace(tmp_path / "rows.csv", [row], foresight.FIELDS, ("set", "model", "seed"))
    foresight.print_table()
    told = capsys.readouterr().out.splitlines()
    assert told[1].startswith("| ladder | 1 | 2 | 5 |") and told[3].startswith("| tokens (2) | 0.2 |  |")
    assert "0.9/0.8" in told[3] and "60 s" in told[3] and told[4].startswith("| nothing changes | 0.5 |")
    assert len({line.count("|") for line in told[1:]}) == 1


def test_curves_end_with_what_a_run_took(
    bench: Callable[[str], Any], monkeypatch: Any, tmp_path: Path, capsys: Any
) -> None:
    online = bench("marie_online")
    monkeypatch.setattr(online, "RESULTS", tmp_path / "rows.csv")
    for algo, last in (("ma-ppo", -20.0), ("marie", -15.0)):
        run = tmp_path / algo
        run.mkdir()
        (run / "DONE").write_text(json.dumps({"wall_s": 7_200.4}))
        (run / "config.json").write_text(json.dumps({"algorithm": algo, "seed": 0, "settings": {"batch_size": 500}}))
        (run / "versions.json").write_text("{}")
        counted = ",environment_steps" if algo == "marie" else ""
        lines = [f"step,return,return_low,return_high,episodes{counted}"]
        for step, value in ((20, -26.0), (100, last)):
            lines.append(f"{step},{value},0,0,5" + (f",{500 * step}" if counted else ""))
        (run / "eval.csv").write_text("\n".join(lines) + "\n")
        online.rows.replace(online.RESULTS, online.rows_of(run), online.FIELDS, ("algo", "seed"))
    assert [row["environment_steps"] for row in online.rows.read(online.RESULTS)] == ["10000", "50000"] * 2
    online.print_table()
    told = capsys.readouterr().out.splitlines()
    assert told[2].startswith("| `marie` | 1 |  | -26.0 (-26.0 to -26.0) |") and told[2].endswith("| 50k | 2.0 |")
    assert told[3].startswith("| `ma-ppo` | 1 |")
