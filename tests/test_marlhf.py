"""The table of MARLHF's mixes: its recipes are whole, and each learner has models of its own."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from offline_marl.launch.cli.recipe import check_flags
from offline_marl.launch.recipes.run import check

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "marlhf.py"


@pytest.fixture(scope="module")
def marlhf() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        yield importlib.import_module("marlhf")


def test_every_mix_has_a_tenth_of_the_published_episodes(marlhf):
    assert {sum(counts) for counts in marlhf.MIXES.values()} == {3840}


def test_the_table_has_all_cells_and_their_zeros(marlhf, monkeypatch):
    monkeypatch.setattr(marlhf, "shipped_names", lambda task: ["expert"])
    cells = list(marlhf.cells([*marlhf.TASKS], None))
    spread = [cell for cell in cells if cell.task == "simple-spread"]
    assert len({cell.name for cell in cells}) == len(cells)
    assert len(spread) == 4 * 5 * (2 + 4) and len(cells) - len(spread) == 2 * 3 * (2 + 3)
    tag = {(c.weight, c.alpha) for c in cells if c.task == "simple-tag-prey" and c.learner == "learned"}
    assert tag == {(10.0, 1.0), (10.0, 0.0), (0.0, 1.0)}


def test_its_settings_can_all_begin(marlhf):
    recipe = marlhf.recipe_of(marlhf.cells(["simple-spread"], [0]))
    check(recipe, recipe.ordered(), check_flags)


def test_labels_are_as_noisy_in_every_mix(marlhf):
    stages = marlhf.recipe_of(marlhf.cells(["simple-spread"], [0])).stages.values()
    scales = {stage.fields["scale"] for stage in stages if stage.command == "prefs pairs"}
    assert scales == {round(marlhf.scale_of("simple-spread"), 4)}


def test_seeds_share_collections_and_nothing_else(marlhf):
    first, second = (set(marlhf.recipe_of(marlhf.cells(["simple-spread"], [seed])).stages) for seed in (0, 1))
    assert first & second == {f"simple-spread_{name}" for name in (*marlhf.TIERS, "unilateral")}


def test_cells_that_have_a_row_are_not_made_again(marlhf, monkeypatch, tmp_path):
    monkeypatch.setattr(marlhf, "RESULTS", tmp_path / "marlhf.csv")
    cells = list(marlhf.cells(["simple-spread"], [0]))
    assert marlhf.unfinished(cells) == cells
    row = {**vars(cells[2]), "return": -1.0, "normalized": 2.0, "commit": "", "wall_s": 1}
    marlhf.replace(marlhf.RESULTS, [row], marlhf.FIELDS, marlhf.KEY)
    assert marlhf.unfinished(cells) == [*cells[:2], *cells[3:]]
    marlhf.replace(marlhf.RESULTS, [{**row, "seed": 1}], marlhf.FIELDS, marlhf.KEY)
    assert [kept["seed"] for kept in marlhf.read(marlhf.RESULTS)] == ["0", "1"]
