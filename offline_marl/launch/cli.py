"""The command line: finds the command and runs it; an expected failure becomes one sentence and an exit code.

What answers at once imports no torch; what a command needs is imported when it runs.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from offline_marl.core.config import ConfigError, build, suggest
from offline_marl.launch.commands import PROGRAM, Command, choose, words
from offline_marl.launch.data.table import COMMANDS as DATA_COMMANDS
from offline_marl.launch.failures import INTERRUPTED, PIPE_CLOSED, Stopped, exit_code, going, sentence

if TYPE_CHECKING:
    from offline_marl.training.fitting import Fit
    from offline_marl.training.session import Result


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
        choose("", COMMANDS, args)
    except SystemExit as end:  # so argparse ends its help
        if end.code:
            raise
    sys.stdout.flush()
    return 0


def _complain(line: str, code: int) -> int:
    print(" ".join(line.split()), file=sys.stderr)
    return code


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
    asked = {"presets": preset_rows, "plugins": listing.plugin_rows, "loggers": listing.logger_rows}
    about = (
        "What there is: names, where they come from, what they are. Presets, plugins and loggers only when named;\n"
        "`plugins` imports those that bring algorithms and says which of them work."
    )
    wanted = words("list", args, f"[{'|'.join([*shelves, *asked])}]", about)
    if wanted is None:
        return
    every = {**shelves, **asked}
    if wanted and wanted[0] not in every:
        raise ConfigError(f"Unknown list '{wanted[0]}': {suggest(wanted[0], every)}.")
    for name in wanted or shelves:
        print(name)
        listing.print_lines(listing.table(every[name]()) or ["  none"])


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
    usage = "RUN [--episodes N] [--seed N] [--video FILE.mp4 [--video-episodes N]]"
    flags: EvaluateFlags = build(EvaluateFlags, read(EvaluateFlags, "evaluate", usage, about, args))

    from offline_marl.training import run

    shown = []
    if flags.video is not None:  # first: what it lacks is said before a long evaluation
        from offline_marl.evidence.videos import film

        made = film(flags.run, flags.video, flags.video_episodes, flags.seed)
        shown = [("video", f"{made.path} ({made.frames} pictures, {made.fps:g} a second)"), ("pictures", made.sheet)]
    print(run.evaluate(flags.run, flags.episodes, flags.seed))
    for name, value in shown:
        print(f"{name:<12}{value}")


def _collect(args: Sequence[str]) -> None:
    from offline_marl.launch.collecting import run

    run(args)


def _crossplay(args: Sequence[str]) -> None:
    from offline_marl.launch.crossplaying import run

    run(args)


def _sweep(args: Sequence[str]) -> None:
    from offline_marl.launch.scale.sweeping import run

    run(args)


def _report_on(args: Sequence[str]) -> None:
    from offline_marl.launch.reporting import run

    run(args)


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
    choose("data ", DATA_COMMANDS, args)


def _submit(args: Sequence[str]) -> None:
    from offline_marl.launch.scale.submitting import run

    run(args)


def _watch(args: Sequence[str]) -> None:
    from offline_marl.launch.watching import run

    run(args)


COMMANDS = {
    "list": Command("[algorithms|worldmodels|environments|datasets|presets|plugins|loggers]", "what there is", _list),
    "train": Command("ALGORITHM --dataset ID ...", "train on data, or in an environment; score, draw", _train),
    "fit-model": Command("KIND --dataset ID ...", "fit a world model, and say how far it can be trusted", _fit_model),
    "resume": Command("RUN", "go on with a run, or a fit, that was stopped", _resume),
    "evaluate": Command("RUN [--episodes N] [--video FILE]", "score a run in the simulator, and film it", _evaluate),
    "crossplay": Command("RUN RUN ...", "let agents of different runs play together", _crossplay),
    "collect": Command("ENV --out FILE ...", "record episodes of experts, runs or chance", _collect),
    "submit": Command("train|fit-model|status|check ...", "give a run to Slurm, and see where it stands", _submit),
    "sweep": Command("FILE|status|collect ...", "many runs from one file; their state, their table", _sweep),
    "watch": Command("RUN|SWEEP|FOLDER", "see how runs are doing, as they go", _watch),
    "report": Command("PATH... --out DIR", "statistics of finished runs, as tables and a page", _report_on),
    "data": Command("list|info|verify|...", "look at data, check, convert, mix, draw and share it", _data),
}
