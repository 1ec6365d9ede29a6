"""Execution of a recipe: its stages in the order of their inputs; what is there already is not made again.

A stage that was killed goes on as its command does: runs from their checkpoints, collections from their chunks; the
rest, which takes seconds, begins again in a folder beside its place.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from offline_marl.algorithms.presets import read_preset
from offline_marl.core.config import ConfigError, build
from offline_marl.core.errors import BadInputError, WorkError
from offline_marl.core.locks import BusyError, locked
from offline_marl.datasets.mixing import MixRecipe
from offline_marl.launch.jobs import states
from offline_marl.launch.recipes.file import COMPARES, Perform, Recipe, Stage
from offline_marl.launch.recipes.standing import RecipeError, Standing, contents_of_inputs, made_name, stand
from offline_marl.launch.sweeps.folder import Sweep
from offline_marl.launch.sweeps.launch import Execution, is_live, launch
from offline_marl.launch.sweeps.plan import Planned
from offline_marl.runs.combinations import layered
from offline_marl.runs.folder import write_json
from offline_marl.training.preferences.folders import ComparisonFolder

POLL_S = 2.0
TASK_FIELDS = {"dataset", "environment"}
TIERS = "data"
"""How the files of tiers begin: a later stage reads {STAGE}/data-expert.safetensors."""


class StageFailedError(WorkError, RuntimeError):
    """A stage that failed at work; the message says which, and why."""


def run_recipe(
    recipe: Recipe,
    out: Path,
    perform: Perform,
    execution: Execution | None = None,
    until: str | None = None,
) -> dict[str, Path]:
    """Make what a recipe says; called again, go on where it was stopped.

    Args:
        recipe: The recipe.
        out: Folder of its stages; recipes that share one share equal stages.
        perform: Runs a command of this library, given its words.
        execution: Who carries out runs and fits; without it this process, one after another.
        until: Make this stage and what it needs, nothing else.

    Returns:
        The file or folder of each stage.

    Raises:
        BadInputError: A stage cannot begin as it is described.
        StageFailedError: A run or a fit failed.
    """
    out, order = out.absolute(), recipe.ordered(until)
    execution = execution or Execution("debug")
    given = contents_of_inputs(recipe)
    with _held(out):
        while True:
            now = stand(recipe, out, order, given)
            paths = _paths(recipe, now)
            ready = [one for one in now.values() if not one.done and not one.lacks]
            if not ready:
                return {name: now[name].made for name in order}
            here = next((one for one in ready if not one.stage.is_job), None)
            if here is not None:
                _announce([here])
                _make_here(here, paths, perform)
            else:
                _carry_out(out, ready, paths, execution)


def check(recipe: Recipe, order: Sequence[str], check_flags: Perform) -> None:
    """Check the settings of stages as far as that can be done before their inputs are there.

    Args:
        recipe: The recipe.
        order: Names of the stages.
        check_flags: Checks the words of a command that is no run.

    Raises:
        ConfigError: One could not begin; says which.
    """
    paths = {name: Path(os.sep) / made_name(name, stage) for name, stage in recipe.stages.items()}
    paths |= {name: path.absolute() for name, path in recipe.inputs.items()}
    for name in order:
        stage = recipe.stages[name].filled(paths)
        try:
            if stage.is_job:
                _planned(name, stage, "").settled()
            elif stage.command == "data mix":
                build(MixRecipe, {"name": name, **stage.fields})
            else:
                check_flags(_words(stage, Path(os.sep) / made_name(name, stage)))
        except BadInputError as error:
            raise ConfigError(f"Stage '{name}' cannot begin: {error}") from None


def job_folders(now: Mapping[str, Standing]) -> dict[str, Path]:
    """Run folders of the runs and fits that could begin or have begun."""
    return {name: one.made for name, one in now.items() if one.stage.is_job and not one.lacks}


def _paths(recipe: Recipe, now: Mapping[str, Standing]) -> dict[str, Path]:
    inputs = {name: path.absolute() for name, path in recipe.inputs.items()}
    return inputs | {name: one.made for name, one in now.items() if one.done}


def _announce(stages: Sequence[Standing]) -> None:
    for one in stages:
        print(f"{one.name}: {one.stage.title}")


@contextlib.contextmanager
def _held(out: Path) -> Iterator[None]:
    out.mkdir(parents=True, exist_ok=True)
    try:
        with locked(out / "lock"):
            yield
    except BusyError:
        raise RecipeError(f"Another process is making stages in {out}: wait for it, or choose another --out.") from None


def _make_here(one: Standing, paths: Mapping[str, Path], perform: Perform) -> None:
    """Make a stage in a folder beside its place, which takes that place when it is whole."""
    stage, making = one.stage.filled(paths), one.folder.with_name(f"{one.folder.name}.making")
    made = making / made_name(one.name, stage)
    if stage.command != "collect":  # whose chunks are gone on with
        shutil.rmtree(making, ignore_errors=True)
    making.mkdir(exist_ok=True)
    if stage.command in COMPARES and stage.name is not None:
        with ComparisonFolder(stage.name) as comparisons:
            comparisons.copy_to(made)
    if stage.command == "data mix":
        write_json(_mix_file(made), stage.fields)
    if "tiers" in stage.fields:
        made.mkdir(exist_ok=True)
    # A collection is whole at once: where it is there, the process ended between it and its record.
    if not made.is_file():
        # Its lines speak of a folder that will have another name.
        with contextlib.redirect_stdout(io.StringIO()):
            perform(_words(stage, made))
    one.finish(making)
    making.rename(one.folder)


def _mix_file(made: Path) -> Path:
    return made.with_suffix(".json")


def _words(stage: Stage, made: Path) -> list[str]:
    """The command line of a stage that is no run."""
    group, fields = stage.command.split(), dict(stage.fields)
    if stage.command == "data mix":
        return [*group, str(_mix_file(made)), str(made), "--overwrite"]
    if stage.command == "collect":
        place = made / TIERS if "tiers" in fields else made
        return [*group, str(stage.name), *_flags(fields), f"--out={place}"]
    behind = [str(fields.pop("file", ""))] if stage.command == "prefs import" else []
    return [*group, str(made), *behind, *_flags(fields)]


def _flags(fields: Mapping[str, Any]) -> list[str]:
    return [f"--{name.replace('_', '-')}={_spelt(value)}" for name, value in fields.items()]


def _spelt(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _planned(name: str, stage: Stage, folder: str) -> Planned:
    fields = {field.replace("-", "_"): value for field, value in stage.fields.items()}
    preset = fields.pop("preset", None)
    if preset is not None:
        beneath = {key.replace("-", "_"): value for key, value in read_preset(str(stage.name), preset).items()}
        # Where the stage names a task, it takes the place of the preset's.
        unwanted = TASK_FIELDS if TASK_FIELDS & set(fields) else set()
        fields = layered({key: value for key, value in beneath.items() if key not in unwanted}, fields)
    planned = Planned(folder=folder, command=stage.command, name=str(stage.name), fields=fields, about={"stage": name})
    return planned.resolved()


def _carry_out(out: Path, ready: Sequence[Standing], paths: Mapping[str, Path], execution: Execution) -> None:
    """Let an executor carry out runs and fits whose inputs are there, and wait for all of them."""
    todo = [one for one in ready if not (one.made / "DONE").exists()]
    _announce(todo)
    jobs = [_planned(one.name, one.stage.filled(paths), str(one.made.relative_to(out))) for one in todo]
    if jobs:
        launch(Sweep(out), jobs, execution, again=True)
    _wait([one.made for one in todo])
    failed = []
    for one in ready:
        if (one.made / "DONE").exists():
            one.finish(one.folder)
        else:
            state = states.state_of(one.made)
            failed.append(f"{one.name} ({state.why or 'it has left no DONE'})")
    if failed:
        word = "Stage" if len(failed) == 1 else "Stages"
        raise StageFailedError(f"{word} {', '.join(failed)} failed; the same command goes on from there.")


def _wait(folders: Sequence[Path]) -> None:
    """Wait for jobs in Slurm's queue; those of this machine are over already."""
    told = False
    while any(map(is_live, states.states_of(folders))):
        if not told:
            print(f"waiting for {len(folders)} jobs; stopped here, the same command waits again", file=sys.stderr)
        told = True
        time.sleep(POLL_S)
