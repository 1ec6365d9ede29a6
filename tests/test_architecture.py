"""The architecture picture is the import graph's, as it is now."""

from __future__ import annotations

import importlib.util
import re
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("grimp")
ROOT = Path(__file__).resolve().parents[1]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def architecture() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_architecture", ROOT / "docs" / "architecture.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look their module up.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def drawn(architecture: ModuleType) -> str:
    text: str = architecture.svg()
    return text


def unsized(text: str) -> str:
    return re.sub(r"[\d,]+ files, [\d,]+ lines", "", text)


def sizes(text: str) -> dict[str, tuple[int, ...]]:
    found = re.findall(r'data-size="(\w+)">([\d,]+) files, ([\d,]+) lines', text)
    return {room: tuple(int(each.replace(",", "")) for each in numbers) for room, *numbers in found}


def test_the_committed_picture_is_what_the_imports_say(drawn: str) -> None:
    committed = (ROOT / "docs" / "pictures" / "architecture.svg").read_text(encoding="utf-8")
    advice = "docs/pictures/architecture.svg is out of date: `make docs` draws it anew"
    assert unsized(committed) == unsized(drawn), advice
    now = sizes(drawn)
    for room, shown in sizes(committed).items():
        # Not every line that is written should ask for a new picture.
        assert shown == pytest.approx(now[room], rel=0.2, abs=3), f"{room}: {advice}"


def test_it_holds_every_room_and_every_arrow(architecture: ModuleType, drawn: str) -> None:
    picture = ET.fromstring(drawn)
    folders = {path.parent.name for path in (ROOT / "offline_marl").glob("*/__init__.py")}
    assert {each.text for each in picture.iter(f"{SVG}text") if each.get("class") == "name"} == folders
    shown = {(each.get("data-from"), each.get("data-to")) for each in picture.iter(f"{SVG}path")}
    for room in folders:
        files = (ROOT / "offline_marl" / room).rglob("*.py")
        text = "\n".join(path.read_text(encoding="utf-8") for path in files)
        named = set(re.findall(r"^\s*from offline_marl\.(\w+)[. ]", text, re.MULTILINE))
        named |= set(re.findall(r"^\s*from offline_marl import (\w+)", text, re.MULTILINE)) & folders
        assert named - {room} <= {to for start, to in shown if start == room}, room
    assert shown == set(architecture.arrows(folders))


def test_arrows_point_down_and_boxes_do_not_touch(architecture: ModuleType) -> None:
    levels = architecture.floors()
    rows, paths = architecture.laid_out(levels, architecture.arrows({room for level in levels for room in level}))
    for nodes in paths.values():
        assert [node.floor for node in nodes] == list(range(nodes[0].floor, nodes[-1].floor + 1))
    for row in rows:
        for one, other in pairwise(row):
            assert other.x - one.x >= (one.width + other.width) / 2 + 10


def test_it_is_for_light_and_dark_and_for_those_who_do_not_see_it(drawn: str) -> None:
    assert "prefers-color-scheme: dark" in drawn
    picture = ET.fromstring(drawn)
    assert picture.findtext(f"{SVG}title") and "launch imports" in (picture.findtext(f"{SVG}desc") or "")


def test_an_import_that_points_up_is_refused(architecture: ModuleType) -> None:
    with pytest.raises(SystemExit, match="core imports launch, which is not below it"):
        architecture.laid_out([["launch"], ["core"]], [("core", "launch")])
