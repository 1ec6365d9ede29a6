"""The command line: finds the command and runs it; an expected failure becomes one sentence and an exit code.

What answers at once imports no torch; what a command needs is imported when it runs.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from offline_marl.core.config import ConfigError, build, suggest
from offline_marl.launch.failures import INTERRUPTED, PIPE_CLOSED, Stopped, exit_code, going, sentence

if TYPE_CHECKING:
    from offline_marl.training.fitting import Fit
    from offline_marl.training.session import Result

PROGRAM = "offline-marl"


@dataclass(frozen=True)
class Command:
    """One word of the command line and what it does with the words behind it."""

    usage: str
    summary: str
    run: Callable[[Sequence[str]], None]


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command.

    Raises:
        SystemExit: Always; its code is 0, 1 (failed at work), 2 (bad input) or 130 (interrupted).
    """
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
    except BrokenPipeError:
        # Whoever read our output has gone; nothing is left to say, also not when Python flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = PIPE_CLOSED
    except KeyboardInterrupt:
        code = _complain("interrupted.", INTERRUPTED)
    except Stopped as stop:
        code = _complain(str(stop), stop.code)
    except Exception as error:
        known = exit_code(error)
        if known is None:
            raise
        code = _complain(f"error: {sentence(error)}", known)
    raise SystemExit(code)


def _run(args: Sequence[str]) -> int:
    try:
        _choose("", COMMANDS, args)
    except SystemExit as end:  # so argparse ends its help
        if end.code:
            raise
    sys.stdout.flush()
    return 0


def _complain(line: str, code: int) -> int:
    print(" ".join(line.split()), file=sys.stderr)
    return code


def _choose(group: str, commands: Mapping[str, Command], args: Sequence[str]) -> None:
    if not args or args[0] in {"-h", "--help"}:
        _overview(group, commands)
    elif args[0] == "--version" and not group:
        print(f"{PROGRAM} {_version()}")
    elif args[0] in commands:
        commands[args[0]].run(args[1:])
    else:
        kind = "flag" if args[0].startswith("-") else "command"
        raise ConfigError(f"Unknown {kind} '{group}{args[0]}': {suggest(args[0], [*commands, '--help'])}.")


def _overview(group: str, commands: Mapping[str, Command]) -> None:
    from offline_marl.launch.listing import print_lines, table

    if not group:
        print(f"{PROGRAM} {_version()}: learn to act together from recorded data alone\n")
    print(f"usage: {PROGRAM} {group}COMMAND ...\n")
    print_lines(table([(f"{group}{name} {each.usage}".rstrip(), each.summary) for name, each in commands.items()]))
    print(f"\n`{PROGRAM} {group}COMMAND --help` says more{'' if group else ', --version which version this is'}.")


def _version() -> str:
    try:
        return metadata.version("offline-marl")
    except metadata.PackageNotFoundError:
        return "0+unknown"


def _list(args: Sequence[str]) -> None:
    from offline_marl.launch import listing
    from offline_marl.launch.presets import preset_rows

    shelves = {
        "algorithms": listing.algorithm_rows,
        "worldmodels": listing.model_rows,
        "environments": listing.environment_rows,
        "datasets": listing.dataset_rows,
    }
    # Long, or slow because it imports what it lists: shown when asked for.
    asked = {"presets": preset_rows, "plugins": listing.plugin_rows}
    about = (
        "What there is: names, where they come from, what they are. Presets and plugins are listed when named;\n"
        "`plugins` imports those that bring algorithms and says which of them work."
    )
    wanted = _words("list", args, f"[{'|'.join([*shelves, *asked])}]", about)
    if wanted is None:
        return
    every = {**shelves, **asked}
    if wanted and wanted[0] not in every:
        raise ConfigError(f"Unknown list '{wanted[0]}': {suggest(wanted[0], every)}.")
    for name in wanted or shelves:
        print(name)
        listing.print_lines(listing.table(every[name]()) or ["  none"])


def _data_list(args: Sequence[str]) -> None:
    from offline_marl.launch.listing import dataset_rows, partition_lines, print_lines, table

    wanted = _words("data list", args, "", "Data sets of the catalogue.", most=0)
    if wanted is None:
        return
    print_lines(table(dataset_rows()))
    print("\nTrain on NAME_CONF_VIEW, who moves what and who sees what:")
    print_lines(f"  {line}" for line in partition_lines())
    print("or on a file, with _CONF_VIEW if it is not split among agents: FILE.safetensors, D4RL's FILE.hdf5, hf://...")


def _words(command: str, args: Sequence[str], usage: str, about: str, most: int = 1) -> Sequence[str] | None:
    """The plain words behind a command that has no flags; None after `--help`."""
    if any(arg in {"-h", "--help"} for arg in args):
        print(f"usage: {PROGRAM} {command} {usage}".rstrip() + f"\n\n{about}")
        return None
    for arg in args:
        if arg.startswith("-"):
            raise ConfigError(f"Unknown flag '{arg}' of {command}: it has none but --help.")
    if len(args) > most:
        raise ConfigError(f"'{args[most]}' is one word too many for {command}; see `{PROGRAM} {command} --help`.")
    return args


def _train(args: Sequence[str]) -> None:
    if not args or args[0] in {"-h", "--help"}:
        return _train_overview()
    name = args[0]
    if name.startswith("-"):
        raise ConfigError(f"train needs the ALGORITHM first, before {name}: `{PROGRAM} list algorithms` shows them.")
    from offline_marl.algorithms.base import algorithms
    from offline_marl.launch.flags import read_training

    kind = algorithms.get(name)
    summary = next(entry.summary for entry in algorithms.listings() if entry.name == name)
    fields, out = read_training(name, kind.Config, summary, args[1:], kind.needs.origin == "environment")
    dataset = fields.pop("dataset", None)

    from offline_marl.training import run

    folder = out or run.default_folder(run.prepare(name, dataset, fields))
    with going(folder):
        _report(run.train(name, dataset, out=folder, **fields))


def _train_overview() -> None:
    from offline_marl.launch.listing import algorithm_rows, print_lines, table

    print(f"usage: {PROGRAM} train ALGORITHM --dataset ID [--preset NAME] [--config FILE] [--FIELD VALUE ...]\n")
    print_lines(table(algorithm_rows()))
    print("\nma-ppo learns without data: --environment NAME in place of --dataset ID.")
    print(f"`{PROGRAM} train ALGORITHM --help` shows all fields of the run and the algorithm, with their defaults;")
    print(f"`{PROGRAM} data list` shows what ID can be, `{PROGRAM} list presets` what NAME.")


def _resume(args: Sequence[str]) -> None:
    from offline_marl.launch.flags import ResumeFlags, read

    about = "Goes on with a run, or with the fit of a world model, and ends exactly where it would have ended."
    flags: ResumeFlags = build(ResumeFlags, read(ResumeFlags, "resume", "RUN", about, args))

    from offline_marl.training import fitting, run
    from offline_marl.training.folder import holds_model

    with going(flags.run):
        if holds_model(flags.run):
            _report_fit(fitting.resume_fit(flags.run))
        else:
            _report(run.resume(flags.run))


def _fit_model(args: Sequence[str]) -> None:
    if not args or args[0] in {"-h", "--help"}:
        return _fit_overview()
    name = args[0]
    if name.startswith("-"):
        raise ConfigError(f"fit-model needs the KIND first, before {name}: `{PROGRAM} list worldmodels` shows them.")
    from offline_marl.launch.flags import read_fit
    from offline_marl.worldmodels.base import worldmodels

    kind = worldmodels.get(name)
    summary = next(entry.summary for entry in worldmodels.listings() if entry.name == name)
    fields, out = read_fit(name, kind.Config, summary, args[1:])
    dataset = fields.pop("dataset")

    from offline_marl.training import fitting

    folder = out or fitting.default_model_folder(fitting.prepare_fit(name, dataset, fields))
    with going(folder):
        _report_fit(fitting.fit_model(name, dataset, out=folder, **fields))


def _fit_overview() -> None:
    from offline_marl.launch.listing import model_rows, print_lines, table

    print(f"usage: {PROGRAM} fit-model KIND --dataset ID [--config FILE] [--FIELD VALUE ...]\n")
    print_lines(table(model_rows()))
    print(f"\n`{PROGRAM} fit-model KIND --help` shows all fields of the fit and of the model, with their defaults.")


def _evaluate(args: Sequence[str]) -> None:
    from offline_marl.launch.flags import EvaluateFlags, read

    about = "Scores a run's newest checkpoint in the environment that its data came from."
    usage = "RUN [--episodes N] [--seed N]"
    flags: EvaluateFlags = build(EvaluateFlags, read(EvaluateFlags, "evaluate", usage, about, args))

    from offline_marl.training import run

    print(run.evaluate(flags.run, flags.episodes, flags.seed))


def _collect(args: Sequence[str]) -> None:
    from offline_marl.launch.collecting import run

    run(args)


def _data_info(args: Sequence[str]) -> None:
    from offline_marl.launch.flags import InfoFlags, read

    about = "What is in a data set, or in a task on it; a set of the catalogue is made first if need be."
    flags: InfoFlags = build(InfoFlags, read(InfoFlags, "data info", "ID [--json]", about, args))

    from offline_marl.launch.describe import as_json, as_lines, describe

    said = describe(flags.id)
    print(as_json(said) if flags.as_json else "\n".join(as_lines(said)))


def _report(result: Result) -> None:
    run = shlex.quote(str(result.folder))
    print(result.score if result.score is not None else "no score: there is nothing to act in")
    rows: list[tuple[str, Any]] = [("run folder", result.folder), ("picture", result.picture)]
    rows += [("evaluate", f"{PROGRAM} evaluate {run} --episodes 1000" if result.score is not None else None)]
    rows += [("see again", f"{PROGRAM} resume {run}")]
    for name, value in rows:
        if value is not None:
            print(f"{name:<12}{value}")


def _report_fit(fit: Fit) -> None:
    from offline_marl.training.model_report import verdict

    error = sum(fit.errors) / len(fit.errors)
    print(f"held-out error {error:.3f} of the data's own deviation, {len(fit.errors)} members, {fit.steps:,} updates")
    print(f"{'verdict':<12}{verdict(fit.report)}")
    print(f"{'model':<12}{fit.folder}")
    for name, file in (("report", fit.folder / "report.json"), ("picture", fit.folder / "report.png")):
        if file.is_file():
            print(f"{name:<12}{file}")
    print(f"{'use it':<12}{PROGRAM} train ALGORITHM --dataset ID --world-model {shlex.quote(str(fit.folder))}")


def _data(args: Sequence[str]) -> None:
    _choose("data ", DATA_COMMANDS, args)


DATA_COMMANDS = {
    "list": Command("", "data sets of the catalogue, and how to name tasks on them", _data_list),
    "info": Command("ID [--json]", "what is in a data set or task, and where it came from", _data_info),
}
COMMANDS = {
    "list": Command("[algorithms|worldmodels|environments|datasets|presets|plugins]", "what there is", _list),
    "train": Command("ALGORITHM --dataset ID ...", "train on data, or in an environment; score, draw", _train),
    "fit-model": Command("KIND --dataset ID ...", "fit a world model, and say how far it can be trusted", _fit_model),
    "resume": Command("RUN", "go on with a run, or a fit, that was stopped", _resume),
    "evaluate": Command("RUN [--episodes N]", "score a run in the simulator", _evaluate),
    "collect": Command("ENV --out FILE ...", "record episodes of experts, runs or chance", _collect),
    "data": Command("list|info ...", "look at data", _data),
}
