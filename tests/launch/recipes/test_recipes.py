"""Recipes: pipelines cached by content, which go on after any stop."""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from launch.conftest import cli  # noqa: F401 - a fixture

from offline_marl.core.config import ConfigError, load_settings
from offline_marl.launch.cli.recipe import perform
from offline_marl.launch.recipes.contents import content_of
from offline_marl.launch.recipes.file import make_recipe, read_recipe
from offline_marl.launch.recipes.run import StageFailedError, run_recipe
from offline_marl.launch.recipes.standing import RecipeError
from offline_marl.runs import checkpoint

ROOT = Path(__file__).resolve().parents[3]
FAST = {"steps": 4, "hidden": [8], "device": "cpu"}
LEARNING = FAST | {"eval_every": 0, "final_episodes": 2}


def pipeline() -> dict[str, Any]:
    """The whole of it, at toy size."""

    def collect(seed: int, **fields: Any) -> dict[str, Any]:
        return {"command": "collect", "name": "coordination", "fields": {"episodes": 12, "seed": seed, **fields}}

    parts = [{"data": "{expert}"}, {"data": "{unilateral}", "episodes": 6}]
    reward = FAST | {"dataset": "{mix}", "preferences": "{labels}", "members": 2, "min_labels": 2}
    liked = LEARNING | {"dataset": "{mix}", "reward_model": "{reward}", "reference_policy": "{reference}"}
    return {
        "stages": {
            "expert": collect(1, who=["red"], noise=[0.2]),
            "unilateral": collect(2, who=["red"], deviate="random", deviate_share=1.0),
            "mix": {"command": "data mix", "fields": {"parts": parts}},
            "pairs": {"command": "prefs pairs", "fields": {"dataset": "{mix}", "budget": 30}},
            "labels": {"command": "prefs simulate", "name": "{pairs}", "fields": {"steepness": 5.0}},
            "reward": {"command": "fit-reward", "name": "bradley-terry", "fields": reward},
            "reference": {"command": "train", "name": "bc", "fields": LEARNING | {"dataset": "{mix}"}},
            "learner": {"command": "train", "name": "vdn", "fields": liked},
        }
    }


class Counted:
    """Runs commands, and remembers which."""

    def __init__(self) -> None:
        self.words: list[list[str]] = []

    def __call__(self, words: list[str]) -> None:
        self.words.append(list(words))
        perform(words)


def made(recipe: dict[str, Any], out: Path) -> dict[str, Path]:
    return run_recipe(make_recipe(recipe), out, perform)


def times(out: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("*/stage.json")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """The pipeline, made once."""
    out = tmp_path_factory.mktemp("recipe")
    return out, made(pipeline(), out)


@pytest.mark.long
def test_the_whole_pipeline_ends_in_a_learner_of_learned_rewards(whole):
    _, paths = whole
    config = json.loads((paths["learner"] / "config.json").read_text())
    assert config["reward_model"] == str(paths["reward"])
    assert config["reference_policy"] == str(paths["reference"])
    assert (paths["learner"] / "reward.json").exists() and (paths["learner"] / "DONE").exists()


def test_a_second_call_makes_nothing(whole):
    out, paths = whole
    before, counted = times(out), Counted()
    assert run_recipe(make_recipe(pipeline()), out, counted) == paths
    assert times(out) == before and not counted.words


def test_a_changed_stage_makes_again_only_what_follows(whole):
    out, paths = whole
    before = times(out)
    changed = pipeline()
    changed["stages"]["labels"]["fields"]["steepness"] = 0.5
    again = made(changed, out)
    assert {name for name in paths if paths[name] != again[name]} == {"labels", "reward", "learner"}
    assert {name.rpartition("-")[0] for name in times(out).keys() - before.keys()} == {"labels", "reward", "learner"}
    # Labels are given to a copy: those of the former teacher are as they were.
    assert content_of(paths["labels"]) != content_of(again["labels"])
    assert content_of(paths["pairs"]) == json.loads((paths["pairs"].parent / "stage.json").read_text())["content"]
    # What was before comes back at once.
    assert made(pipeline(), out) == paths


def test_a_stage_that_comes_to_the_same_changes_nothing_behind_it(whole):
    out, paths = whole
    changed = pipeline()
    changed["stages"]["expert"]["fields"]["copies"] = 3
    again = made(changed, out)
    assert {name for name in paths if paths[name] != again[name]} == {"expert"}


def test_how_long_a_run_took_is_no_part_of_what_it_made(tmp_path):
    state = {"algorithm": {"w": torch.ones(2), "updates": torch.tensor(3)}, "source": {"seen": [1, 2]}}
    (tmp_path / "config.json").write_text("{}")

    def content(**more: Any) -> str:
        checkpoint.save(tmp_path / "checkpoints", 3, {**state, **more}, 1)
        return content_of(tmp_path)

    assert content(elapsed=1.0) == content(elapsed=2.0)
    assert len({content(), content(source={"seen": [2, 1]}), content(algorithm={"w": torch.zeros(2)})}) == 3
    next((tmp_path / "checkpoints").iterdir()).write_bytes(b"damaged")
    assert content_of(tmp_path) != content()


def test_where_the_work_is_done_is_no_part_of_a_stage(whole):
    out, paths = whole
    changed = pipeline()
    changed["stages"]["expert"]["fields"]["workers"] = 2
    changed["stages"]["reference"]["fields"] |= {"device": "auto"}
    assert made(changed, out) == paths


@pytest.mark.long
def test_an_input_from_elsewhere_is_known_by_its_content(whole, tmp_path):
    _, paths = whole
    file, out = tmp_path / "mine.safetensors", tmp_path / "out"
    recipe = {"inputs": {"mine": str(file)}, "stages": {"bc": copy.deepcopy(pipeline()["stages"]["reference"])}}
    recipe["stages"]["bc"]["fields"]["dataset"] = "{mine}"
    file.write_bytes(paths["expert"].read_bytes())
    first = made(recipe, out)
    file.rename(tmp_path / "moved.safetensors")
    moved = copy.deepcopy(recipe)
    moved["inputs"]["mine"] = str(tmp_path / "moved.safetensors")
    assert made(moved, out) == first
    file.write_bytes(paths["unilateral"].read_bytes())
    assert made(recipe, out) != first


def test_until_makes_a_stage_and_what_it_needs(tmp_path):
    paths = run_recipe(make_recipe(pipeline()), tmp_path, perform, until="mix")
    assert set(paths) == {"expert", "unilateral", "mix"}
    assert {path.parent.name.rpartition("-")[0] for path in tmp_path.glob("*/stage.json")} == set(paths)


@pytest.mark.parametrize("stopped", ["collect", "data mix", "prefs pairs", "prefs simulate"])
def test_a_command_that_was_killed_leaves_nothing_that_counts(whole, tmp_path, stopped):
    _, paths = whole

    class Killed(BaseException):
        pass

    def fragile(words: list[str]) -> None:
        perform(words)
        if " ".join(words).startswith(stopped):
            raise Killed  # between the work and its record

    with pytest.raises(Killed):
        run_recipe(make_recipe(pipeline()), tmp_path, fragile, until="labels")
    assert not any(path.name.startswith("labels") for path in tmp_path.glob("*/stage.json"))
    again = run_recipe(make_recipe(pipeline()), tmp_path, perform, until="labels")
    for name, path in again.items():
        assert content_of(path) == content_of(paths[name]), name


def test_a_run_that_failed_is_named_and_goes_on(tmp_path, monkeypatch):
    recipe = pipeline()
    recipe["stages"]["reference"]["fields"]["steps"] = 6
    from offline_marl.algorithms.bc import BC

    def broken(self, batch):
        raise ConfigError("The disk is made of cheese.")

    with monkeypatch.context() as patched:
        patched.setattr(BC, "update", broken)
        with pytest.raises(StageFailedError, match="Stage reference .*cheese"):
            run_recipe(make_recipe(recipe), tmp_path, perform, until="reference")
    assert (run_recipe(make_recipe(recipe), tmp_path, perform, until="reference")["reference"] / "DONE").exists()


def test_two_processes_do_not_make_the_same_stages(tmp_path):
    recipe = make_recipe(pipeline())

    def nested(words: list[str]) -> None:
        with pytest.raises(RecipeError, match="Another process"):
            run_recipe(recipe, tmp_path, perform)
        perform(words)

    run_recipe(recipe, tmp_path, nested, until="expert")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: s["mix"]["fields"]["parts"].append({"data": "{experts}"}), "did you mean 'expert'"),
        (lambda s: s["expert"]["fields"].update(who=["{learner}"]), "wait for each other: .*expert -> "),
        (lambda s: s["expert"].update(command="colect"), "did you mean 'collect'"),
        (lambda s: s["labels"].update(name="pairs"), "goes on with comparisons"),
        (lambda s: s["reference"].update(name=None), "needs a name"),
        (lambda s: s["reference"]["fields"].update(out="here"), "sets out or config"),
        (lambda s: s["reference"]["fields"].update(dataset=str(ROOT / "setup.cfg")), r"under \[inputs\]"),
        (lambda s: s["reference"].update(field={}), "Unknown field"),
    ],
)
def test_recipes_that_make_no_sense(change, sentence):
    recipe = pipeline()
    change(recipe["stages"])
    with pytest.raises(ConfigError, match=sentence):
        make_recipe(recipe)


@pytest.mark.parametrize(
    ("field", "text", "place"),
    [
        ("dataset", "mine.safetensors", "mine.safetensors"),
        ("dataset", "mine.safetensors_2x1_full", "mine.safetensors"),
        ("dataset", "./mine.safetensors_2x1_full", "./mine.safetensors"),
        ("dataset", "coordination-mix-v0", None),
        ("init", "red", "red"),
        ("world_model", "red", "red"),
        ("world_model", "ensemble", None),
        ("who", "./red=1", "./red"),
        ("who", ["./red@2000=.5,random=.5"], "./red@2000"),
        ("who", "random=.5,a=b=.5", "a=b"),
        ("who", "red", "red"),
        ("who", "blue", None),
        ("env_settings", {"prey": "red"}, "red"),
        ("parts", [{"data": "mine.safetensors"}], "mine.safetensors"),
        ("history_encoder", "red", None),
    ],
)
def test_what_a_stage_reads_by_its_path_is_refused(tmp_path, monkeypatch, field, text, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.safetensors").touch()
    for run in ("red", "a=b"):
        (tmp_path / run).mkdir()
        (tmp_path / run / "config.json").touch()
    for folder in ("blue", "ensemble", "coordination-mix-v0"):  # called as other things are
        (tmp_path / folder).mkdir()
    recipe = {"stages": {"one": {"command": "train", "name": "bc", "fields": {field: text}}}}
    if place is None:
        make_recipe(recipe)
        return
    with pytest.raises(ConfigError, match=f"Stage 'one' reads {re.escape(place)}: name it under .inputs"):
        make_recipe(recipe)


@pytest.mark.parametrize(
    ("stage", "field", "sentence"),
    [
        ("learner", "epsilon", "Stage 'learner' cannot begin: .*epsilon_start"),
        ("reward", "alfa", "Stage 'reward' cannot begin: .*alpha"),
        ("expert", "episode", "Stage 'expert' cannot begin: .*--episodes"),
        ("labels", "steepnes", "Stage 'labels' cannot begin: .*--steepness"),
        ("mix", "sed", "Stage 'mix' cannot begin: .*seed"),
    ],
)
def test_a_misspelt_field_is_told_before_anything_is_made(cli, tmp_path, stage, field, sentence):  # noqa: F811
    recipe = pipeline()
    recipe["stages"][stage]["fields"][field] = 1
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(recipe))
    said = cli("recipe", "run", file)
    assert said.code == 2
    assert re.search(sentence, said.error), said.error
    assert not (tmp_path / "recipes").exists()


def test_status_and_dry_runs_say_what_is_there_and_what_waits(cli, tmp_path):  # noqa: F811
    file = tmp_path / "toy.json"
    file.write_text(json.dumps(pipeline()))
    assert cli("recipe", "run", file, "--dry-run").code == 0
    assert not (tmp_path / "recipes").exists()
    said = cli("recipe", "run", file, "--until", "mix")
    assert said.code == 0, said.err
    assert f"{tmp_path}/recipes/toy/mix-" in said.out and ".making" not in said.out
    lines = {line.split()[0]: line for line in cli("recipe", "status", file).out.splitlines() if line.strip()}
    assert " done " in lines["mix"] and " ready " in lines["pairs"] and "for labels" in lines["reward"]


def test_a_record_that_was_edited_is_refused(tmp_path):
    paths = run_recipe(make_recipe(pipeline()), tmp_path, perform, until="expert")
    (paths["expert"].parent / "stage.json").write_text("{}")
    with pytest.raises(RecipeError, match="damaged or edited"):
        run_recipe(make_recipe(pipeline()), tmp_path, perform, until="expert")


@pytest.mark.slow
def test_processes_of_this_machine_make_the_same(cli, whole, tmp_path):  # noqa: F811
    _, paths = whole
    file = tmp_path / "toy.json"
    file.write_text(json.dumps(pipeline()))
    said = cli("recipe", "run", file, "--until", "reference", "--executor", "local")
    assert said.code == 0, said.err
    (again,) = tmp_path.glob("recipes/toy/reference-*/reference")
    assert again.parent.name == paths["reference"].parent.name


@pytest.mark.slow
def test_a_recipe_that_is_killed_at_any_moment_goes_on(whole, tmp_path):
    _, paths = whole
    file, out = tmp_path / "toy.json", tmp_path / "out"
    file.write_text(json.dumps(pipeline()))
    program = [sys.executable, "-m", "offline_marl", "recipe", "run", str(file), "--out", str(out)]
    process, kills = None, 0
    for wait in (4.0, 5.0, 6.0, 8.0):
        process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(wait)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    subprocess.run(program, check=True, capture_output=True)
    assert kills
    ours = {path.parent.name: json.loads(path.read_text())["content"] for path in out.glob("*/stage.json")}
    for name in ("mix", "pairs", "labels"):
        assert ours[paths[name].parent.name] == content_of(paths[name]), name


@pytest.mark.long
def test_the_committed_recipe_runs_at_toy_size(tmp_path):
    settings = load_settings(ROOT / "examples" / "marlhf_spread.toml")
    assert read_recipe(ROOT / "examples" / "marlhf_spread.toml").ordered()[-1]
    tiers = {"tier:expert": "red", "tier:deviator": "green"}
    for name, stage in settings["stages"].items():
        fields = stage["fields"]
        if stage["command"] == "collect":
            stage["name"] = "coordination"
            fields |= {"episodes": 12, "who": [tiers.get(who, "random") for who in fields["who"]]}
            fields |= {"deviate": "green"} if "deviate" in fields else {}
        if stage["command"] in {"train", "fit-reward"}:
            fields |= FAST | {"min_labels": 2} if stage["command"] == "fit-reward" else LEARNING
        for part in fields.get("parts", []):
            part["episodes"] = 6
        if name == "pairs":
            fields["budget"] = 30
    paths = made(settings, tmp_path)
    assert (paths["vdn"] / "DONE").exists() and (paths["vdn"] / "reward.json").exists()
