"""Fields of config classes, read from their source."""

import sys

import pytest

from offline_marl import algorithms, preferences, worldmodels
from offline_marl.core import declared_fields as module
from offline_marl.core.declared_fields import config_of, declared_fields

ROOMS = {"algorithm": algorithms, "world model": worldmodels, "reward model": preferences}
OF_FILE = """
from typing import ClassVar
from offline_marl.core.config import Config as Base
from other import Foreign

class Mixed(Base):
    shared: int = 1
    also: str = "a"

class Left(Base):
    shared: float = 2.0

class Both(Left, Mixed):
    own: bool = False
    _hidden: int = 0
    constant: ClassVar[int] = 3
    unannotated = 4

class Abroad(Foreign):
    own: int = 0

class Computed(make_base()):
    own: int = 0

class Conditional(Base):
    if sys.platform:
        own: int = 0

@things.register("thing", "a thing")
class Thing(Parent):
    Config = Both

@things.register("heir")
class Heir(Thing): ...

@things.register("mute")
class Mute:
    Config = make()

@things.register("lost")
class Lost(Abroad): ...
"""


@pytest.fixture
def written(tmp_path, monkeypatch):
    (tmp_path / "declared_package.py").write_text(OF_FILE)
    monkeypatch.setattr(module, "PACKAGE", "declared_package")
    monkeypatch.setattr(module, "ROOT", ("declared_package", "Base"))
    (tmp_path / "declared_package.py").write_text(
        OF_FILE.replace("from offline_marl.core.config import Config as Base", "class Base: ...")
    )
    monkeypatch.syspath_prepend(tmp_path)
    module._parse.cache_clear()
    yield "declared_package"
    module._parse.cache_clear()
    assert "declared_package" not in sys.modules  # nothing was run


@pytest.mark.parametrize(
    ("room", "name"), [(room, name) for room, registry in ROOMS.items() for name in registry.registry.names()]
)
def test_the_source_tells_the_fields_that_pydantic_finds(room, name) -> None:
    registry = ROOMS[room].registry
    of_class = registry.get(name).Config.model_fields
    where = config_of(registry.module_of(name), name)
    declared = None if where is None else declared_fields(*where)
    if declared is None:
        assert not registry.get(name).__module__.startswith("offline_marl.")  # of another package
        return
    assert set(declared) == set(of_class)
    assert {field for field, text in declared.items() if text == "bool"} == {
        field for field, info in of_class.items() if info.annotation is bool
    }


def test_bases_are_read_and_the_first_one_counts(written) -> None:
    assert declared_fields(written, "Both") == {"shared": "float", "also": "str", "own": "bool"}


@pytest.mark.parametrize("name", ["Abroad", "Computed", "Conditional", "Nowhere"])
def test_where_the_source_does_not_tell_nothing_is_said(written, name) -> None:
    assert declared_fields(written, name) is None


def test_the_config_is_that_of_the_registered_class_or_of_its_base(written) -> None:
    assert config_of(written, "thing") == config_of(written, "heir") == (written, "Both")
    assert config_of(written, "mute") is config_of(written, "lost") is config_of(written, "unknown") is None


def test_no_other_package_is_read() -> None:
    assert declared_fields("pydantic", "BaseModel") is None
