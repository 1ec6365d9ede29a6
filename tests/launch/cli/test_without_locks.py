"""A system without POSIX file locks, simulated: what needs none works, and the rest refuses in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from warm import Warm
from worlds import saved, world

PROGRAM = """
import sys
sys.modules["fcntl"] = None
import offline_marl
from offline_marl.launch.cli import main
main(sys.argv[1:])
"""


def run(warm: Warm, folder: Path, *words: str):
    program = PROGRAM.replace("sys.argv[1:]", repr(list(words)))
    return warm.run("-c", program, cwd=folder)


def test_import_help_and_lists_need_no_locks(tmp_path: Path, warm: Warm) -> None:
    for words in (
        ["--help"],
        ["train", "bc", "--help"],
        ["list"],
        ["data", "info", saved(tmp_path, world("continuous"))],
    ):
        done = run(warm, tmp_path, *words)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "train bc --dataset team.safetensors --steps 2 --out out",
        "collect rendezvous --episodes 2 --out out.safetensors",
        "data convert team.safetensors out.safetensors --author me",
        "sweep sweep.toml --executor debug --out out",
        "recipe run recipe.toml --out out",
    ],
)
def test_commands_that_lock_refuse_in_one_sentence(tmp_path: Path, warm: Warm, command: str) -> None:
    saved(tmp_path, world("continuous"), "team.safetensors")
    (tmp_path / "sweep.toml").write_text(
        'algorithms = ["bc"]\ndatasets = ["team.safetensors"]\nseeds = [0]\n[fields]\nsteps = 2\n'
    )
    (tmp_path / "recipe.toml").write_text('[stages.data]\ncommand = "collect"\nname = "rendezvous"\n')
    done = run(warm, tmp_path, *command.split())
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ") and "cannot be locked: this needs a system with POSIX file locks" in last
    assert "Traceback" not in done.stderr
