"""Paths among the fields of configs: an annotation says that a field holds one, and of what. Imports no torch.

Who starts a run elsewhere, plans many or compares them asks here which fields are paths, instead of knowing names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import getitem
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

PlaceKind = Literal["run", "file", "dataset", "model", "acting run"]
"""An acting run is a path only where there is such a folder: the same field takes other words too."""


@dataclass(frozen=True)
class Place:
    """Annotation of a text that is a path, or may be one."""

    kind: PlaceKind


@dataclass(frozen=True)
class PlacesWithin:
    """Annotation of a table some of whose entries are paths."""

    names: tuple[str, ...]
    kind: PlaceKind


RunPlace = Annotated[str, Place("run")]
"""The folder of a run."""
FilePlace = Annotated[str, Place("file")]
"""Any file or folder."""
DatasetPlace = Annotated[str, Place("dataset")]
"""A task id: a file of data, or a name of the catalogue, which stays as it is."""
ModelPlace = Annotated[str, Place("model")]
"""The folder of a world model, or the name of a kind, which stays as it is."""

Whole = Callable[[PlaceKind, str], str]
"""From a path as it was given to one that means the same from any folder."""


def place_fields(*configs: type[BaseModel]) -> frozenset[str]:
    """Names of the fields that hold paths."""
    return frozenset(
        name for config in configs for name, field in config.model_fields.items() if any(_marks(_annotated(field)))
    )


def with_whole_places(fields: Mapping[str, Any], config: type[BaseModel], whole: Whole) -> dict[str, Any]:
    """Loose fields, the paths among them made whole; what is no text is left to the config to refuse.

    A default that is a path is written out: it would mean something else in another folder.
    """
    made = dict(fields)
    for name in place_fields(config):
        field = config.model_fields[name]
        if name in fields:
            made[name] = _mapped(_annotated(field), fields[name], whole)
        elif not field.is_required() and (default := field.get_default(call_default_factory=True)):
            made[name] = _mapped(_annotated(field), default, whole)
    return made


def _annotated(field: FieldInfo) -> Any:
    """The whole annotation of a field, whose outermost marks pydantic takes apart."""
    parts = (field.annotation, *field.metadata)
    return getitem(Annotated, parts) if field.metadata else field.annotation


def _marks(annotation: Any) -> Iterator[Place | PlacesWithin]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for field in annotation.model_fields.values():
            yield from _marks(_annotated(field))
    for part in get_args(annotation):
        if isinstance(part, Place | PlacesWithin):
            yield part
        else:
            yield from _marks(part)


def _mapped(annotation: Any, value: Any, whole: Whole) -> Any:
    """The value, every text that the annotation marks made whole."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        for mark in parts[1:]:
            value = _marked(mark, value, whole)
        return _mapped(parts[0], value, whole)
    if origin in {Union, UnionType}:
        for part in parts:
            value = _mapped(part, value, whole)
        return value
    if origin in {list, tuple} and isinstance(value, list | tuple):
        several = parts if origin is tuple and parts[-1] is not Ellipsis else parts[:1] * len(value)
        return [_mapped(part, item, whole) for part, item in zip(several, value, strict=False)] + [
            *value[len(several) :]
        ]
    if origin in {dict, Mapping} and isinstance(value, Mapping):
        return {key: _mapped(parts[1], item, whole) for key, item in value.items()}
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if isinstance(value, annotation):
            value = value.model_dump()
        return with_whole_places(value, annotation, whole) if isinstance(value, Mapping) else value
    return value


def _marked(mark: Any, value: Any, whole: Whole) -> Any:
    if isinstance(mark, Place) and isinstance(value, str | os.PathLike):
        return whole(mark.kind, os.fspath(value))
    if isinstance(mark, Place) and isinstance(value, list | tuple):
        return [_marked(mark, item, whole) for item in value]
    if isinstance(mark, PlacesWithin) and isinstance(value, Mapping):
        place = Place(mark.kind)
        return {name: _marked(place, item, whole) if name in mark.names else item for name, item in value.items()}
    return value
