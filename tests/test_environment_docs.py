"""What docs/environments.md tells people to type is typed here, with fewer steps."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import offline_marl
from offline_marl.core.partition import SCENARIOS, confs
from offline_marl.launch.cli import main
from offline_marl.tasks import environment_tasks
from offline_marl.training import training_run

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "environments.md").read_text()
FEW = shlex.split("--steps 1 --batch-size 8 --epochs 1 --final-episodes 1 --eval-every 0 --hidden 8 --device cpu")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.long
def test_what_the_page_says_to_type_works(tmp_path, monkeypatch, capsys):
    pytest.importorskip("mpe2")
    pytest.importorskip("mujoco")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training_run, "draw_run", lambda *_: None)
    monkeypatch.setattr(environment_tasks, "UNIFORM_STEPS", 50)
    commands = [line for block in blocks("bash") for line in block.splitlines() if line]
    assert len(commands) == 9
    for number, command in enumerate(commands):
        program, *words = shlex.split(command)
        assert program == "offline-marl"
        out = [] if "--out" in words else ["--out", f"runs/{number}"]
        with pytest.raises(SystemExit) as end:
            main([*words, *FEW, *out])
        said = capsys.readouterr()
        assert end.value.code == 0, f"{command}: {said.err}"
        assert "return" in said.out and "uniform play" in said.out
    train = offline_marl.train
    few = {"batch_size": 8, "final_episodes": 1, "device": "cpu"}
    monkeypatch.setattr(offline_marl, "train", lambda *args, **more: train(*args, **{**more, "steps": 1, **few}))
    for block in blocks("python"):
        exec(block, {})
    assert "(6, 700, 700, 3)" in capsys.readouterr().out


def test_the_page_lists_every_body_with_all_its_confs():
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)$", PAGE, re.MULTILINE))
    assert set(SCENARIOS) <= set(rows)
    for body in SCENARIOS:
        listed = [name.replace("\\|", "|") for name in re.findall(r"`([^`]+)`", rows[body])]
        assert listed == list(confs(body)), body
