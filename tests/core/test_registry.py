from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from offline_marl.core import registry as registry_module
from offline_marl.core.registry import Listing, Registry, RegistryError

ROOM = "toolshed.gadgets"
SIX_EYES = '''"""A gadget with six eyes.

More about it.
"""
from toolshed.gadgets.base import gadgets

@gadgets.register("six-eyes")
class SixEyes:
    pass
'''
FAMILY = '''"""Several gadgets in one file."""
from toolshed.gadgets.base import gadgets

@gadgets.register("odd")
class Odd:
    """A gadget of odd size.

    More about it.
    """

class Shelf:
    def put(self):
        return gadgets.register("never-run")

gadgets.register("even", "Told in the call.")(int)
'''
HELPER = '"""Nothing that plugs in."""\n@print\ndef helper(): ...\nother.register("not-ours")(int)\n'
BASE = "from offline_marl.core.registry import Registry\ngadgets = Registry('gadget', 'toolshed.gadgets')\n"


class Here:
    """Made in a script.

    With a second paragraph.
    """


class Other:
    pass


@dataclass
class FakePoint:
    """Stands for an entry point of an installed package."""

    name: str
    thing: Any
    package: str = "nice-plugin"
    value: str = "nice_plugin.gadget:Gadget"
    loads: int = field(default=0, compare=False)

    @property
    def dist(self) -> Any:
        return SimpleNamespace(name=self.package)

    def load(self) -> Any:
        self.loads += 1
        if isinstance(self.thing, Exception):
            raise self.thing
        return self.thing


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> list[FakePoint]:
    """Entry points of the room; a test adds its own."""
    points: list[FakePoint] = []
    monkeypatch.setattr(metadata, "entry_points", lambda *, group: list(points) if group == ROOM else [])
    return points


@pytest.fixture
def gadgets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plugins: list[FakePoint]
) -> Iterator[Registry[type[object]]]:
    """A registry over a room of its own: package `toolshed`, with the built-in gadget `six-eyes`."""
    room = tmp_path / "toolshed" / "gadgets"
    room.mkdir(parents=True)
    (tmp_path / "toolshed" / "__init__.py").write_text("")
    files = {
        "__init__": "",
        "base": BASE,
        "six_eyes": SIX_EYES,
        "family": FAMILY,
        "helper": HELPER,
        "_private": "1 / 0",
    }
    for name, text in files.items():
        (room / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    # The registry finds the built-in files beside its own.
    monkeypatch.setattr(registry_module, "__file__", str(tmp_path / "toolshed" / "core" / "registry.py"))
    from toolshed.gadgets.base import gadgets as made  # type: ignore[import-not-found]

    yield made
    for name in [name for name in sys.modules if name.split(".")[0] == "toolshed"]:
        del sys.modules[name]


def refusal(registry: Registry[type[object]], name: str) -> str:
    with pytest.raises(RegistryError) as caught:
        registry.get(name)
    return str(caught.value)


def test_a_file_in_the_room_is_found_by_its_name(gadgets: Registry[type[object]]) -> None:
    assert gadgets.get("six-eyes").__name__ == "SixEyes"
    assert gadgets.get("six-eyes") is gadgets.get("six-eyes")


def test_the_decorator_enters_a_thing_and_returns_it(gadgets: Registry[type[object]]) -> None:
    assert gadgets.register("my-own")(Here) is Here
    assert gadgets.get("my-own") is Here


def test_an_entry_point_is_loaded_when_asked_for_and_once(
    gadgets: Registry[type[object]], plugins: list[FakePoint]
) -> None:
    plugins.append(FakePoint("plugged", Here))
    assert "plugged" in gadgets.names() and plugins[0].loads == 0
    assert gadgets.get("plugged") is Here and gadgets.get("plugged") is Here
    assert plugins[0].loads == 1


def test_a_plugin_may_use_the_decorator_too(gadgets: Registry[type[object]], plugins: list[FakePoint]) -> None:
    class Decorating(FakePoint):
        def load(self) -> Any:
            return gadgets.register("plugged")(Here)

    plugins.append(Decorating("plugged", None))
    assert gadgets.get("plugged") is Here


def test_names_and_listings_of_all_doors_import_nothing(
    gadgets: Registry[type[object]], plugins: list[FakePoint]
) -> None:
    plugins.append(FakePoint("plugged", Here))
    gadgets.register("my-own")(Here)
    before = set(sys.modules)
    assert gadgets.names() == ["even", "my-own", "odd", "plugged", "six-eyes"]
    assert gadgets.listings() == [
        Listing("even", "Told in the call.", "built-in"),
        Listing("my-own", "Made in a script.", "here"),
        Listing("odd", "A gadget of odd size.", "built-in"),
        Listing("plugged", "plugin of nice-plugin", "nice-plugin"),
        Listing("six-eyes", "A gadget with six eyes.", "built-in"),
    ]
    assert set(sys.modules) == before and plugins[0].loads == 0


def test_a_helper_file_in_the_room_is_not_listed(gadgets: Registry[type[object]]) -> None:
    assert gadgets.names() == ["even", "odd", "six-eyes"]
    assert gadgets.module_of("odd") == f"{ROOM}.family" and gadgets.module_of("helper") is None


def test_two_files_that_register_one_name_are_both_named(gadgets: Registry[type[object]], tmp_path: Path) -> None:
    (tmp_path / "toolshed" / "gadgets" / "twin.py").write_text(SIX_EYES)
    with pytest.raises(RegistryError, match=r"'six-eyes': toolshed.gadgets.six_eyes, toolshed.gadgets.twin"):
        gadgets.names()


def test_an_unknown_name_is_answered_with_the_closest_and_the_list(
    gadgets: Registry[type[object]], plugins: list[FakePoint]
) -> None:
    plugins.append(FakePoint("plugged", Here))
    assert refusal(gadgets, "six-eye") == (
        "Unknown gadget 'six-eye': did you mean 'six-eyes'? (there are: even, odd, plugged, six-eyes)."
    )
    assert refusal(gadgets, "zzzz") == "Unknown gadget 'zzzz': there are: even, odd, plugged, six-eyes."


@pytest.mark.parametrize("name", ["../etc/passwd", "six_eyes", "Six-Eyes", "base", "--init--", ""])
def test_a_strange_name_imports_nothing(gadgets: Registry[type[object]], name: str) -> None:
    before = set(sys.modules)
    assert refusal(gadgets, name).startswith(f"Unknown gadget '{name}'")
    assert set(sys.modules) == before


@pytest.mark.parametrize("name", ["Loud", "under_score", "-dash", "dash-", "", "two words"])
def test_names_are_kebab_case(gadgets: Registry[type[object]], name: str) -> None:
    with pytest.raises(RegistryError, match="kebab-case"):
        gadgets.register(name)


def test_a_kind_of_two_words_suggests_a_name_that_would_do() -> None:
    with pytest.raises(RegistryError, match="The world model name 'Loud' .* such as 'my-world-model'"):
        Registry("world model", ROOM).register("Loud")


def test_two_things_of_one_name_are_refused_naming_both(gadgets: Registry[type[object]]) -> None:
    gadgets.register("mine")(Here)
    gadgets.register("mine")(Here)  # a module that is reloaded
    with pytest.raises(RegistryError, match=r"Two gadgets are called 'mine': .*\.Here and .*\.Other"):
        gadgets.register("mine")(Other)
    assert gadgets.get("mine") is Here


def test_a_built_in_name_cannot_be_taken(gadgets: Registry[type[object]]) -> None:
    with pytest.raises(RegistryError, match=r"'six-eyes' belongs to .*toolshed.gadgets.six_eyes; .*\.Here needs"):
        gadgets.register("six-eyes")(Here)
    assert gadgets.get("six-eyes").__name__ == "SixEyes"


def test_two_plugins_of_one_name_are_refused_naming_both(
    gadgets: Registry[type[object]], plugins: list[FakePoint]
) -> None:
    plugins += [FakePoint("plugged", Here, "one", "one:Gadget"), FakePoint("plugged", Other, "two", "two:Gadget")]
    message = refusal(gadgets, "plugged")
    assert "one (one:Gadget)" in message and "two (two:Gadget)" in message
    assert gadgets.names().count("plugged") == 1
    assert [entry.origin for entry in gadgets.listings() if entry.name == "plugged"] == ["one, two"]


def test_one_plugin_seen_twice_on_the_path_is_one_plugin(
    gadgets: Registry[type[object]], plugins: list[FakePoint]
) -> None:
    plugins += [FakePoint("plugged", Here), FakePoint("plugged", Here)]
    assert gadgets.get("plugged") is Here


@pytest.mark.parametrize(
    "reason", [ImportError("No module named 'quantum'"), SyntaxError("invalid syntax"), AttributeError("no Gadget")]
)
def test_a_broken_plugin_is_named_with_its_reason_and_harms_nobody_else(
    gadgets: Registry[type[object]], plugins: list[FakePoint], reason: Exception
) -> None:
    plugins += [FakePoint("broken", reason, "bad-package"), FakePoint("plugged", Here)]
    message = refusal(gadgets, "broken")
    assert "'broken' of the plugin bad-package does not import" in message
    assert type(reason).__name__ in message and str(reason) in message
    assert gadgets.get("plugged") is Here and gadgets.get("six-eyes").__name__ == "SixEyes"
    assert "broken" in gadgets.names() and len(gadgets.listings()) == 5


def test_a_name_that_its_file_does_not_register_when_it_runs_is_told_so(
    gadgets: Registry[type[object]], tmp_path: Path
) -> None:
    source = SIX_EYES.replace("six-eyes", "shy").replace(
        "@gadgets", "gadgets = type('Not', (), {'register': staticmethod(lambda name: lambda thing: thing)})\n@gadgets"
    )
    (tmp_path / "toolshed" / "gadgets" / "shy.py").write_text(source)
    assert refusal(gadgets, "shy") == "Importing the gadget 'shy' did not register it."


def test_the_librarys_own_algorithms_are_found_by_their_files() -> None:
    from offline_marl.algorithms.base import algorithms

    assert {"bc", "iql", "ma-iql"} <= set(algorithms.names())
    assert algorithms.get("ma-iql").__name__ == "MAIQL"
    summaries = {entry.name: entry.summary for entry in algorithms.listings()}
    assert summaries["bc"].startswith("Behaviour cloning")


def test_every_built_in_algorithm_lives_in_the_file_of_its_name() -> None:
    from offline_marl.algorithms.base import algorithms

    for entry in algorithms.listings():
        if entry.origin == "built-in":
            assert algorithms.module_of(entry.name) == f"offline_marl.algorithms.{entry.name.replace('-', '_')}"
