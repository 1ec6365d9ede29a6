"""What docs/online.md tells people to type is typed here, with smaller batches."""

from __future__ import annotations

import json
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from offline_marl.launch.cli import main
from offline_marl.runs.config import WARM_UP, RunConfig
from offline_marl.tasks import environment_tasks
from offline_marl.training import training_run

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "online.md").read_text()
FEW = shlex.split("--batch-size 4 --final-episodes 1 --eval-every 0 --hidden 8 --device cpu")


@pytest.mark.long
def test_what_the_page_says_to_type_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training_run, "draw_run", lambda *_: None)
    monkeypatch.setattr(environment_tasks, "UNIFORM_STEPS", 50)
    commands = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    assert len(commands) == 5
    for number, command in enumerate(commands):
        program, *words = shlex.split(command)
        for length in ("--steps", "--environment-steps", "--warmup-steps"):
            if length in words:
                place = words.index(length) + 1
                words[place] = str(int(words[place]) // 10)
        assert program == "offline-marl"
        with pytest.raises(SystemExit) as end:
            main([*words, *FEW, "--out", f"runs/{number}"])
        said = capsys.readouterr()
        assert end.value.code == 0, f"{command}: {said.err}"
        done = json.loads(Path(f"runs/{number}/DONE").read_text())
        assert done["score"]["online"] is True and done["environment_steps"] > 0
        given = dict(pairwise(words))
        if "--environment-steps" in given:
            assert done["environment_steps"] == int(given["--environment-steps"])
        else:
            assert done["steps"] == int(given["--steps"])


def test_numbers_of_the_page_are_the_defaults() -> None:
    fields = RunConfig.model_fields
    assert f"({fields['replay_capacity'].default:,})" in PAGE and f"({WARM_UP:,})" in PAGE
    assert f"over a step ({fields['environment_timeout'].default:g})" in PAGE
