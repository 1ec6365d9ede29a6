"""Sweeps, Optuna's journals, recipes, tables, cards that were edited: one sentence or a result, never a traceback."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from campaign import SHORT
from edits import edits
from kills import fork
from works import Data, make_data, run_command, shrink

from offline_marl.core.errors import BAD_INPUT, FAILED
from offline_marl.core.types import DataError
from offline_marl.datasets.writers.card import card, is_ours, section, sections_of

pytestmark = pytest.mark.faults

COUNT, PLAIN = (2, 3) if SHORT else (40, None)
"""Random edits of each file, beside the plain ones."""
STUDY = """
[optuna]
trials = 3
startup = 2
metric = "return"
[optuna.fields]
lr = { distribution = "log-uniform", low = 1e-5, high = 1.0 }
"""
TARGETS = {
    "sweep/sweep.json": [
        "sweep status {s}",
        "sweep collect {s}",
        "sweep {s} --executor debug --dry-run",
        "watch {s} --once",
    ],
    "sweep/optuna.journal": ["sweep status {s}", "sweep {s} --executor debug", "sweep best {s}"],
    "sweep.toml": ["sweep {p}/sweep.toml --executor debug --out {p}/new --dry-run"],
    "sweep/runs/*/DONE": ["sweep status {s}", "sweep collect {s}", "report {s} --reps 100 --out {p}/page"],
    "sweep/runs/*/job.json": ["sweep status {s}", "submit status {s}/runs"],
    "sweep/runs/*/starts.jsonl": ["sweep status {s}", "submit status {s}/runs"],
    "table.csv": ["report {p}/table.csv --reps 100 --out {p}/page"],
    "labels.csv": ["prefs import {p}/comparisons {p}/labels.csv"],
    "recipe.toml": ["recipe run {p}/recipe.toml --out {p}/r --dry-run", "recipe status {p}/recipe.toml --out {p}/r"],
    "r/*/*.json": ["recipe status {p}/recipe.toml --out {p}/r", "recipe run {p}/recipe.toml --out {p}/r --dry-run"],
    "home/allowed.json": ["resume {p}/run", "evaluate {p}/run --episodes 1"],
}
"""Files, and the commands that read them."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A folder of everything, as commands leave it."""
    pytest.importorskip("optuna")
    place = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        data: Data = make_data(place)
        patch.setenv("OFFLINE_MARL_HOME", str(place / "home"))
        (place / "home").mkdir()
        (place / "home" / "allowed.json").write_text('{\n  "/somewhere": ["package.module:make"]\n}\n')
        text = (place / "sweep.toml").read_text() + STUDY
        (place / "sweep.toml").write_text(
            text.replace('"bc", "td3-bc"', '"bc"').replace("seeds = [0, 1]", "seeds = [0]")
        )
        log = place / "log"
        for words in (
            f"sweep {place}/sweep.toml --executor debug --out {place}/sweep",
            f"sweep collect {place}/sweep --out {place}/table.csv",
            f"recipe run {place}/recipe.toml --out {place}/r",
            f"prefs export {data['comparisons']} {place}/labels.csv",
        ):
            assert fork(lambda: run_command(words), log) == 0, log.read_text()  # noqa: B023
    return place


@pytest.mark.parametrize("pattern", TARGETS)
def test_an_edited_file_is_no_traceback(tmp_path, whole, monkeypatch, record_property, pattern):
    shrink(monkeypatch)
    place = tmp_path / "place"
    shutil.copytree(whole, place)
    for name in ("table.csv", "mix.toml", "sweep.toml", "sweep/sweep.json"):
        if (place / name).exists():
            (place / name).write_text((place / name).read_text().replace(str(whole), str(place)))
    monkeypatch.setenv("OFFLINE_MARL_HOME", str(place / "home"))
    files = sorted(path for path in place.glob(pattern) if path.is_file())
    assert files, f"there is no {pattern}"
    content, count, faults = files[0].read_bytes(), 0, list[str]()
    commands = TARGETS[pattern]
    for number, (name, edited) in enumerate(edits(content, 22, COUNT, PLAIN)):
        for text in commands if number < 12 else [commands[number % len(commands)]]:  # random ones take turns
            files[0].write_bytes(edited)
            log = tmp_path / "log"
            log.unlink(missing_ok=True)
            words = text.format(p=place, s=place / "sweep")
            code = fork(lambda: run_command(words), log)  # noqa: B023
            said = log.read_text()
            if code not in {0, FAILED, BAD_INPUT} or "Traceback" in said:
                faults.append(f"{words} with {pattern} {name} ended by {code}:\n{said[-1500:]}")
            for left in (place / "page", place / "new"):
                shutil.rmtree(left, ignore_errors=True)
            count += 1
    files[0].write_bytes(content)
    assert not faults, f"{len(faults)} of {count}:\n" + "\n\n".join(faults[:6])
    record_property(f"edits of {pattern}", count)


def test_an_edited_card_is_somebody_elses_or_is_read(record_property):
    facts = {"licence": "MIT", "transitions": 30, "episodes": 6, "scenario": "ant", "name": "legs"}
    one = card("t", section("hf://a/b/one", "one", facts, None))
    two = card("t", section("hf://a/b/two", "two", facts, "two.png"), one)
    count = 0
    for name, edited in edits(two.encode(), 23, 10 * COUNT):
        text = edited.decode("utf-8", "replace")
        try:
            is_ours(text)
            again = card("t", section("hf://a/b/one", "one", {**facts, "episodes": 7}, None), text)
            assert "one" in [part.file for part in sections_of(again)], name
        except DataError as error:
            assert str(error).endswith("."), name
        count += 1
    record_property("edits of cards", count)
