"""What the documents promise: their commands parse, their links lead somewhere, their tables are the committed ones."""

from __future__ import annotations

import csv
import importlib.util
import re
import runpy
import sys
from pathlib import Path

import pytest

from offline_marl.algorithms.presets import read_preset
from offline_marl.launch.cli import main

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])


def commands() -> list[str]:
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name} points to {target}"


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("offline-marl train")])
def test_flags_in_the_readme_exist(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, algorithm, *rest = command.split()
    with pytest.raises(SystemExit) as end:
        main(["train", algorithm, "--help"])
    assert end.value.code == 0
    page = capsys.readouterr().out
    for flag in (word for word in rest if word.startswith("--")):
        assert flag in page, f"{flag} of `{command}`"


def test_make_targets_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    wanted = set(re.findall(r"`?make ([a-z]+)", (ROOT / "README.md").read_text()))
    assert {"demo", "test"} <= wanted
    for target in wanted:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_readme_shows_the_committed_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = re.findall(r"<!-- table (\S+) -->\n(.*?)<!-- /table -->", (ROOT / "README.md").read_text(), re.DOTALL)
    assert [data for data, _ in shown] == ["headline", "reacher-scripted-clockwise-v0", "reacher-scripted-mix-v0"]
    for data, table in shown:
        program = ["headline.py", "--table"] if data == "headline" else ["table.py", "--wide", data]
        monkeypatch.setattr(sys, "argv", program)
        runpy.run_path(str(ROOT / "benchmarks" / program[0]), run_name="__main__")
        assert table.strip() == capsys.readouterr().out.strip()


def test_every_row_of_the_results_is_a_presets() -> None:
    with (ROOT / "benchmarks" / "results" / "reacher_scripted.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    presets = [
        path
        for path in (ROOT / "offline_marl" / "presets").glob("*/*reacher-scripted-*.toml")
        if "ppo" not in path.parent.name
    ]
    assert len(rows) == 3 * len(presets) == len({(row["algo"], row["dataset"], row["seed"]) for row in rows})
    steps = {int(read_preset(path.parent.name.replace("_", "-"), path.stem)["steps"]) for path in presets}
    assert {int(row["step"]) for row in rows} == steps and {row["episodes"] for row in rows} == {"100"}


def test_every_row_of_the_headline_is_a_presets() -> None:
    with (ROOT / "benchmarks" / "results" / "headline.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    presets = {path.stem for path in (ROOT / "offline_marl" / "presets").glob("*/*reacher-scripted-mix-*.toml")}
    assert len(rows) == len({(row["algo"], row["dataset"], row["seed"]) for row in rows})
    for row in rows:
        name = ("oracle_" if row["algo"].endswith("oracle") else "") + row["dataset"]
        settings = read_preset(row["algo"].partition(" ")[0], name)
        assert name in presets and int(row["step"]) == settings["steps"] and row["episodes"] == "100"


def built_pages() -> dict[str, str]:
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pages: dict[str, str] = module.pages()
    return pages


def test_algorithm_pages_are_what_the_docstrings_and_configs_say() -> None:
    folder = ROOT / "docs" / "algorithms"
    committed = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    assert committed == built_pages(), "docs/algorithms is out of date: `make docs` writes it anew"


def test_the_readme_links_to_every_algorithms_page() -> None:
    text = (ROOT / "README.md").read_text()
    for name in built_pages():
        assert f"(docs/algorithms/{name})" in text, name
