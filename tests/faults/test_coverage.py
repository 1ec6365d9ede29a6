"""Every kind of run, source of rows and command has its attacks: a new one without any fails here."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import every_work
import pytest

import offline_marl.training
from offline_marl.launch.cli.data.table import COMMANDS as DATA_COMMANDS
from offline_marl.launch.cli.entry import COMMANDS
from offline_marl.launch.cli.prefs.table import COMMANDS as PREFS_COMMANDS
from offline_marl.preferences import registry as rewards
from offline_marl.runs.kinds import kinds
from offline_marl.worldmodels.base import worldmodels

HERE = Path(__file__).parent
TEXTS = [path for path in HERE.glob("test_*.py") if path.name != Path(__file__).name]
TEXTS += [HERE.parent / "support" / f"{name}.py" for name in ("every_work", "works")]
TEXTS += (HERE.parent / "support").glob("attacks_*.py")
ELSEWHERE = {
    "list": "reads nothing but the library",
    "codes": "reads and writes nothing",
    "data list": "reads nothing but the library",
    "data push": "a hub that fails, and changes bytes: tests/launch/cli/data/test_push_pull.py",
    "data pull": "the same",
    "label": "a server, killed a hundred times in tests/labelling/test_kill.py",
}
"""Commands without attacks of their own, and why."""


def sources() -> set[str]:
    """All that answers `sample` with a Batch."""
    found = set[str]()
    for module in pkgutil.walk_packages(offline_marl.training.__path__, "offline_marl.training."):
        for name, thing in vars(importlib.import_module(module.name)).items():
            if inspect.isclass(thing) and thing.__module__ == module.name and "sample" in vars(thing):
                found.add(f"{module.name}:{name}.sample")
    return found


def attacked_commands() -> set[str]:
    """The first one and two words of every command line in the attacks: a text of several words, or a list of texts."""
    commands = set[str]()
    for path in TEXTS:
        for node in ast.walk(ast.parse(path.read_text())):
            words = list[str]()
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                words = node.value.split(" ")
            elif isinstance(node, ast.List | ast.Tuple):
                words = [one.value for one in node.elts[:2] if isinstance(one, ast.Constant) and str(one.value)]
            if len(words) > 1:
                commands |= {words[0], f"{words[0]} {words[1]}"}
    return commands


def test_every_source_of_rows_is_killed() -> None:
    named = {function for case in every_work.CASES.values() for function in case.sources}
    assert sources() - named == set(), "no kind of work in tests/support/every_work.py has them"
    assert named - sources() == set(), "they are no more"


def test_every_kind_of_run_is_killed() -> None:
    named = {case.kind for case in every_work.CASES.values()}
    fitted = {f"fit-model {name}" for name in worldmodels.names() if worldmodels.get(name).fitted}
    wanted = fitted | {f"fit-reward {name}" for name in rewards.names()}
    wanted |= {name for name in kinds.names() if name not in ("fit-model", "fit-reward")}
    assert wanted - named == set()


@pytest.mark.parametrize("command", [*COMMANDS, *(f"data {name}" for name in DATA_COMMANDS)])
def test_every_command_meets_what_is_hostile(command: str) -> None:
    assert (command in attacked_commands()) != (command in ELSEWHERE)


@pytest.mark.parametrize("command", PREFS_COMMANDS)
def test_every_command_of_preferences_meets_what_is_hostile(command: str) -> None:
    assert f"prefs {command}" in attacked_commands()
