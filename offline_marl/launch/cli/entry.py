"""Entry point of the command line: runs a command, and turns its expected failures into a sentence and an exit code.

Commands that only list import no torch; every command's file is imported when it runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from offline_marl.core.errors import INTERRUPTED, PIPE_CLOSED, sentence
from offline_marl.core.interpreters import take_interpreters
from offline_marl.core.plugin_files import take_plugins
from offline_marl.launch.cli.arguments import refuse_unusable
from offline_marl.launch.cli.command import Command, choose, run_lazily
from offline_marl.launch.cli.data.table import COMMANDS as DATA_COMMANDS
from offline_marl.launch.cli.failures import Stopped, exit_code, is_out_of_memory
from offline_marl.launch.cli.prefs.table import COMMANDS as PREFS_COMMANDS
from offline_marl.launch.cli.text import replace_unprintable, without_secrets

LONGEST = 10_000
"""Letters of a sentence that are shown: what it quotes may be anybody's."""
NO_MEMORY = "There is not enough memory for this: "


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command.

    Raises:
        SystemExit: Always; its code is 0, 1 (failed at work), 2 (bad input) or 130 (interrupted).
    """
    replace_unprintable(sys.stdout, sys.stderr)
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
        told = sentence(error).partition("\n")[0]
        code = _complain(f"error: {NO_MEMORY if is_out_of_memory(error) else ''}{told}", known)
    raise SystemExit(code)


def _run(args: Sequence[str]) -> int:
    refuse_unusable(args)
    args = take_interpreters(take_plugins(args))
    try:
        choose("", COMMANDS if args and args[0] in COMMANDS else _commands(), args)
    except SystemExit as end:  # so argparse ends its help
        if end.code:
            raise
    sys.stdout.flush()
    return 0


def _commands() -> dict[str, Command]:
    """All commands; other packages' kinds of run are looked for where no command of ours is asked for."""
    from offline_marl.launch.cli.kinds import with_added

    return with_added(COMMANDS, "resume", "a kind of run that another package brings")


def _complain(line: str, code: int) -> int:
    plain = "".join(letter if letter >= " " and not "\x7f" <= letter <= "\x9f" else " " for letter in line)
    told = without_secrets(" ".join(plain.split()))
    print(told if len(told) <= LONGEST else f"{told[:LONGEST]} ...", file=sys.stderr)
    return code


COMMANDS = {
    "list": Command(
        "[algorithms|worldmodels|environments|datasets|presets|plugins|loggers]", "what there is", run_lazily("list")
    ),
    "train": Command(
        "ALGORITHM --dataset ID ...", "train on data, or in an environment; score, draw", run_lazily("train")
    ),
    "fit-model": Command(
        "KIND --dataset ID ...", "fit a world model, and say how far it can be trusted", run_lazily("fit_model")
    ),
    "fit-reward": Command(
        "KIND --dataset ID ...", "fit a reward model to labelled pairs of segments", run_lazily("fit_reward")
    ),
    "resume": Command("RUN", "go on with a run, or a fit, that was stopped", run_lazily("resume")),
    "evaluate": Command(
        "RUN [--episodes N] [--video FILE]", "score a run in the simulator, and film it", run_lazily("evaluate")
    ),
    "crossplay": Command("RUN RUN ...", "let agents of different runs play together", run_lazily("crossplay")),
    "exploit": Command(
        "RUN [--agent I] [--algorithm NAME]", "what one agent gains by a best response", run_lazily("exploit")
    ),
    "collect": Command("ENV --out FILE ...", "record episodes of experts, runs or chance", run_lazily("collect")),
    "submit": Command(
        "train|fit-model|fit-reward|status|check ...",
        "give a run to Slurm, and see where it stands",
        run_lazily("submit"),
    ),
    "sweep": Command(
        "FILE|status|collect ...", "many runs from one file; their state, their table", run_lazily("sweep")
    ),
    "recipe": Command(
        "run|status FILE ...", "a pipeline of commands from one file, cached by content", run_lazily("recipe")
    ),
    "codes": Command(
        "--agents M --learners N", "what codes of distributed training cost and bear", run_lazily("codes")
    ),
    "watch": Command("RUN|SWEEP|FOLDER", "see how runs are doing, as they go", run_lazily("watch")),
    "report": Command("PATH... --out DIR", "statistics of finished runs, as tables and a page", run_lazily("report")),
    "prefs": Command(
        "pairs|simulate|import|export|exchange|report",
        "pairs of segments to compare, and their labels",
        lambda args: choose("prefs ", PREFS_COMMANDS, args),
    ),
    "label": Command(
        "DATA|FOLDER|RUN [--ask ...]", "a page on which people compare play, in a browser", run_lazily("label")
    ),
    "data": Command(
        "list|info|verify|...",
        "look at data, check, convert, mix, draw and share it",
        lambda args: choose("data ", DATA_COMMANDS, args),
    ),
}
