"""The examples of docs/data-commands.md, as they are typed."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from hub import running

from offline_marl.launch.cli import main
from offline_marl.launch.cli.data.table import COMMANDS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "data-commands.md"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def examples() -> list[str]:
    return [line for block in blocks("bash") for line in block.splitlines()]


def test_every_command_has_an_example() -> None:
    assert {line.split()[2] for line in examples()} == set(COMMANDS)


@pytest.mark.long
def test_the_examples_do_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("huggingface_hub", "matplotlib"):
        pytest.importorskip(package)
    can_write = importlib.util.find_spec("minari") is not None
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (recipe,) = blocks("toml")
    Path(recipe.splitlines()[0].removeprefix("# ")).write_text(recipe)
    with running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        for line in examples():
            if "mine-v0" in line and not can_write:
                continue
            with pytest.raises(SystemExit) as end:
                main(line.split()[1:])
            said = capsys.readouterr()
            assert end.value.code == 0, f"{line}: {said.err}"
    assert Path("again.safetensors").read_bytes() == Path("best.safetensors").read_bytes()
    assert Path("best.png").exists() and "README.md" in hub.files["datasets/me/games"]
