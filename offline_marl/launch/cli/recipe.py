"""Command `offline-marl recipe`: a pipeline of commands from one file, and where its stages stand."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import CliPositionalArg

from offline_marl.core.config import Config, ConfigError, build
from offline_marl.core.fields import RayAddress
from offline_marl.launch.cli.command import PROGRAM, Command, choose
from offline_marl.launch.cli.flags import read
from offline_marl.launch.cli.sweep_flags import Executor

ABOUT = (
    "Runs the stages of a recipe file in the order of their inputs. A stage is known by its settings and the content "
    "of its inputs: what is there is not made again, a changed stage makes again only what follows from it, and "
    "the same command goes on after any stop. docs/preferences.md has an example."
)
USAGE = "FILE [--out DIR] [--until STAGE] [--dry-run] [--executor debug|local|slurm|ray]"


class PlaceFlags(Config):
    """Flags of all that is done with a recipe."""

    file: CliPositionalArg[Path]
    """The recipe, .toml, .yaml or .json."""
    out: Path | None = None
    """Folder of the stages; without it recipes/<name of the file>. Recipes that share one share equal stages."""

    @property
    def folder(self) -> Path:
        """Folder of the stages."""
        return self.out or Path("recipes") / self.file.stem


class RunFlags(PlaceFlags):
    """Flags of `recipe run`."""

    until: str | None = None
    """Make this stage and what it needs, and nothing else."""
    dry_run: bool = False
    """Check all settings and print the stages; make and write nothing."""
    executor: Executor = "debug"
    """Who runs and fits: debug (this process, one after another), local (processes of this machine), slurm or ray."""
    ray_address: RayAddress | None = None
    """Ray cluster for --executor ray, such as auto or 10.0.0.1:6379; without it the profile's, else Ray starts here."""
    profile: Path | None = None
    """TOML file of what a job asks for; without it $OFFLINE_MARL_PROFILE, else the user's profile.toml."""
    parallel: Annotated[int, Field(ge=1)] | None = None
    """Runs at once at most, with local, slurm and ray."""


def run(args: Sequence[str]) -> None:
    """Run a subcommand of `recipe`.

    Raises:
        BadInputError: Of a kind that says what is wrong.
        WorkError: A stage failed.
    """
    choose("recipe ", COMMANDS, args)


def perform(words: Sequence[str]) -> None:
    """Run another command, given its words."""
    from offline_marl.launch.cli.entry import COMMANDS as EVERY

    choose("", EVERY, words)


def _run(args: Sequence[str]) -> None:
    flags: RunFlags = build(RunFlags, read(RunFlags, "recipe run", USAGE, ABOUT, args))

    from offline_marl.launch.recipes.file import read_recipe
    from offline_marl.launch.recipes.run import check, run_recipe
    from offline_marl.launch.sweeps.launch import resolve_execution

    recipe = read_recipe(flags.file)
    check(recipe, recipe.ordered(flags.until), check_flags)
    if flags.dry_run:
        return _print_standing(flags, flags.until)
    execution = resolve_execution(flags.executor, flags.profile, flags.parallel, flags.ray_address)
    for name, path in run_recipe(recipe, flags.folder, perform, execution, flags.until).items():
        print(f"{name:<16}{path}")


def _status(args: Sequence[str]) -> None:
    summary = "Shows the stages of a recipe: which are done, which can begin, and which wait for others."
    _print_standing(build(PlaceFlags, read(PlaceFlags, "recipe status", "FILE [--out DIR]", summary, args)))


def _print_standing(flags: PlaceFlags, until: str | None = None) -> None:
    from offline_marl.launch.cli.text import print_lines, table
    from offline_marl.launch.jobs.states import states_of
    from offline_marl.launch.recipes.file import read_recipe
    from offline_marl.launch.recipes.run import job_folders
    from offline_marl.launch.recipes.standing import contents_of_inputs, stand

    recipe = read_recipe(flags.file)
    now = stand(recipe, flags.folder.absolute(), recipe.ordered(until), contents_of_inputs(recipe))
    begun = {name: path for name, path in job_folders(now).items() if path.is_dir() and not now[name].done}
    states = dict(zip(begun, states_of(list(begun.values())), strict=True))
    rows = [("stage", "command", "state", "where, or why")]
    for name, one in now.items():
        state, why = "ready", str(one.made)
        if one.done:
            state = "done"
        elif one.lacks:
            state, why = "waits", f"for {', '.join(one.lacks)}"
        elif name in states:
            state = states[name].state
            why = states[name].why or why
        rows.append((name, one.stage.title, state, why))
    print_lines(table(rows))
    if not all(one.done for one in now.values()):
        print(f"\n{PROGRAM} recipe run {shlex.quote(str(flags.file))} goes on")


def check_flags(words: Sequence[str]) -> None:
    """Check the words of a command that a recipe may have, without running it.

    Raises:
        ConfigError: A flag is unknown, or has a bad value.
    """
    from offline_marl.launch.cli.collect import CollectFlags
    from offline_marl.launch.cli.prefs.pairs import PairsFlags
    from offline_marl.launch.cli.prefs.simulate import SimulateFlags
    from offline_marl.launch.cli.prefs.take_in import ImportFlags

    known: dict[str, type[Config]] = {"collect": CollectFlags, "prefs pairs": PairsFlags}
    known |= {"prefs simulate": SimulateFlags, "prefs import": ImportFlags}
    size = 1 if words[0] == "collect" else 2
    command = " ".join(words[:size])
    given = read(known[command], command, "", "", words[size:])
    if command == "prefs pairs" and "dataset" not in given:
        raise ConfigError("prefs pairs needs a dataset.")
    build(known[command], given)


COMMANDS = {
    "run": Command(USAGE, "run the stages of a recipe that are not there yet", _run),
    "status": Command("FILE [--out DIR]", "which stages are done, and what the others wait for", _status),
}
