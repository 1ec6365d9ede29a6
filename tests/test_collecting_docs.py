"""What docs/collecting.md tells people to type is typed here, with fewer episodes and steps."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import offline_marl
from offline_marl.datasets.files import load_data
from offline_marl.launch.cli import main
from offline_marl.training import training_run

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "collecting.md").read_text()
FEW = {
    "train": "--steps 2 --final-episodes 2 --eval-every 0 --hidden 8 --device cpu",
    "collect": "--episodes 8 --score-episodes 4 --workers 1",
    "ma-ppo": "--batch-size 40",
    "--tiers": "--tier-tolerance 1000",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.long
def test_what_the_page_says_to_type_works(tmp_path, monkeypatch, capsys):
    pytest.importorskip("mujoco")
    pytest.importorskip("mpe2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training_run, "draw_run", lambda *_: None)
    commands = [line for block in blocks("bash") for line in block.splitlines()]
    assert len(commands) == 10
    for command in commands:
        program, *words = shlex.split(command.replace("@2000", "@2"))
        assert program == "offline-marl"
        less = [flag for word, flags in FEW.items() if word in words for flag in shlex.split(flags)]
        with pytest.raises(SystemExit) as end:
            main([*words, *less])
        assert end.value.code == 0, f"{command}: {capsys.readouterr().err}"
    assert "normalized return" in capsys.readouterr().out
    for block in blocks("python"):
        exec(block, {})
    about = load_data(Path("data/meet-good.safetensors")).metadata
    unilateral = offline_marl.load_dataset("unilateral.safetensors").metadata
    rows = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    told = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert set(told) - set(about) - set(unilateral) == {"random_return", "random_interval", "max_steps"}
