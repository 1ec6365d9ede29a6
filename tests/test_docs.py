"""What the documents promise: their commands parse, their links lead somewhere, their tables are the committed ones."""

from __future__ import annotations

import csv
import importlib.util
import itertools
import re
import runpy
import sys
from pathlib import Path

import pytest

from offline_marl.algorithms.base import algorithms
from offline_marl.algorithms.presets import preset_names, read_preset
from offline_marl.launch.cli import main

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])


NAMES = ("training.md", "results.md", "speed.md", "preferences.md", "pebble.md", "labelling.md")
PAGES = [ROOT / "README.md", *(ROOT / "docs" / name for name in NAMES)]
"""The pages whose commands have no tests of their own that carry them out."""


def commands() -> list[str]:
    """Every command line of the pages: in blocks, and between backquotes in a paragraph."""
    found: list[str] = []
    for text in (page.read_text() for page in PAGES):
        blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
        lines = [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()]
        quoted = re.findall(
            r"`((?:offline-marl|\.venv/bin/python) [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        )
        found += [line for line in [*lines, *(" ".join(line.split()) for line in quoted)] if line]
    return list(dict.fromkeys(found))


def help_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says of its flags: of the longest run of its plain words that is a command."""
    plain = list(itertools.takewhile(lambda word: not word.startswith("-"), words))
    deep = ("train", "fit-model", "fit-reward", "prefs", "recipe", "data")
    depth = {**dict.fromkeys(deep, 2), "submit": 3}.get(plain[0], 1)
    with pytest.raises(SystemExit) as end:
        main([*plain[:depth], "--help"])
    page = capsys.readouterr().out
    assert end.value.code == 0, words
    return page


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name} points to {target}"


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("offline-marl ")])
def test_commands_and_their_flags_exist(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, *words = command.split()
    page = help_of(words, capsys)
    for flag in (word for word in words if word.startswith("--")):
        assert re.search(rf"{flag}\b", page), f"{flag} of `{command}`"
    if "--preset" in words:
        assert words[words.index("--preset") + 1] in preset_names(words[1])


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith(".venv/bin/python ")])
def test_scripts_and_their_flags_exist(command: str) -> None:
    _, script, *words = command.split()
    text = (ROOT / script).read_text()
    for flag in (word for word in words if word.startswith("--")):
        assert f'"{flag}"' in text, f"{flag} of `{command}`"


def test_the_readme_is_read_in_three_minutes() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_scores_that_the_readme_says_are_those_of_the_results() -> None:
    headline = (ROOT / "README.md").read_text().partition("## The headline")[2].partition("## Use it")[0]
    headline = " ".join(headline.split())
    page = (ROOT / "docs" / "results.md").read_text()
    table = re.search(r"<!-- table declared -->\n.*?:\n\n(.*?)\n\n", page, re.DOTALL)
    assert table is not None
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in table[1].splitlines()[2:]]
    means = {row[0]: row[4].partition(" ")[0] for row in rows}
    said = re.findall(r"`([a-z0-9-]+)`\s+(?:scores\s+)?(\d+\.\d)", headline.partition("![Score")[0])
    assert {"moma-ppo", "td3-bc", "bc"} <= dict(said).keys() and all(means[name] == mean for name, mean in said)
    ours = next(row for row in rows if row[0] == "moma-ppo")
    apart = ("moma-ppo", "model", "beyond")
    others = [row for row in rows if row[1] and not any(word in row[0] for word in apart)]
    (larger,) = (row for row in rows if row[0] == "td3-bc beyond the grid")
    assert f"has {larger[4].partition(' ')[0]} and agrees in {round(100 * float(larger[5]))}" in headline
    nearer, within = ([round(100 * float(row[rule])) for row in (ours, *others)] for rule in (5, 6))
    assert f"agree on a convention in {nearer[0]} of 100" in headline
    assert f"agree in {min(nearer[1:])} to {max(nearer[1:])} of 100" in headline
    assert f"it is {within[0]} against {min(within[1:])} to {max(within[1:])}" in headline
    again = {row[0]: row[7].partition(" ")[0] for row in rows}
    assert f"`moma-ppo` has {again['moma-ppo']} and `td3-bc` {again['td3-bc']}" in headline


def test_make_targets_in_the_pages_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    wanted = {
        target for page in PAGES for target in re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(), re.MULTILINE)
    }
    assert {"demo", "test"} <= wanted
    for target in wanted:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


TABLES = {
    "results.md": {
        "declared": "headline.py --table",
        "tipped": "headline_tipped.py --table",
        "body": "headline_body.py --table",
        "lasting": "lasting.py --table",
        "headline": "earlier_headline.py --table",
        "reacher-scripted-clockwise-v0": "table.py --wide reacher-scripted-clockwise-v0",
        "reacher-scripted-mix-v0": "table.py --wide reacher-scripted-mix-v0",
        "mixing": "mixing.py --table",
        "offline_online": "offline_online.py --table",
        "online": "online.py --table",
        "words": "words.py --table",
        "soft": "soft.py --table",
        "comparisons": "comparisons.py --table",
        "marlhf": "marlhf.py --table",
    },
    "environments.md": {"sides": "sides.py --table"},
    "pebble.md": {"pebble": "pebble.py --table"},
    "marie.md": {
        "foresight": "foresight.py --table",
        "inside": "table.py benchmarks/results/moma_in_marie.csv",
        "played": "marie_online.py --table",
    },
}
"""Tables of the pages, and the programs that print them from committed rows."""


@pytest.mark.parametrize("page", TABLES)
def test_pages_show_the_committed_rows(
    page: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / page).read_text()
    shown = re.findall(r"<!-- table (\S+) -->\n(.*?)<!-- /table -->", text, re.DOTALL)
    assert [name for name, _ in shown] == [*TABLES[page]]
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for name, table in shown:
        program, *words = TABLES[page][name].split()
        monkeypatch.setattr(sys, "argv", [program, *words])
        runpy.run_path(str(ROOT / "benchmarks" / program), run_name="__main__")
        assert table.strip() == capsys.readouterr().out.strip(), name


def test_every_table_of_a_page_is_compared() -> None:
    marked = {page.name for page in (ROOT / "docs").glob("**/*.md") if "<!-- table " in page.read_text()}
    assert marked == {*TABLES}


def test_every_row_of_the_results_is_a_presets_and_every_preset_that_is_measured_has_its_rows() -> None:
    with (ROOT / "benchmarks" / "results" / "reacher_scripted.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    measured = runpy.run_path(str(ROOT / "benchmarks" / "run.py"))["MODEL_FREE"]
    folder = ROOT / "offline_marl" / "presets"
    presets = [path for name in measured for path in folder.glob(f"{name}/*reacher-scripted-*.toml")]
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


def test_the_page_of_common_fields_lists_every_algorithm() -> None:
    text = (ROOT / "docs" / "algorithms" / "common.md").read_text()
    for entry in algorithms.listings():
        assert entry.origin != "built-in" or f"({entry.name}.md)" in text, entry.name
