"""Names for tensor axes, written once in the type and checked at run time.

`Annotated[Tensor, "*lead agent obs"]` is read by people, by mypy (as Tensor) and by the checker
here. Within one check a name always means one length; `*lead` stands for any number of axes.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

from torch import Tensor

from offline_marl.core.errors import BadInputError

PerAgent = Annotated[Tensor, "*lead agent"]
PerTeam = Annotated[Tensor, "*lead"]
Features = Annotated[Tensor, "*lead agent feature"]

P = ParamSpec("P")
R = TypeVar("R")


class AxisError(BadInputError, ValueError):
    """A tensor whose shape contradicts the names of its axes."""


def axes_of(hint: Any) -> tuple[str, ...] | None:
    """The axis names in a type such as `Annotated[Tensor, "batch agent"] | None`; None if it names none."""
    if get_origin(hint) is Annotated:
        base, *notes = get_args(hint)
        if base is Tensor:
            return next((tuple(note.split()) for note in notes if isinstance(note, str)), None)
        return axes_of(base)
    for argument in get_args(hint):
        names = axes_of(argument)
        if names is not None:
            return names
    return None


@functools.cache
def axes_of_fields(owner: type) -> Mapping[str, tuple[str, ...]]:
    """Axis names of each annotated field of a class."""
    hints = get_type_hints(owner, include_extras=True)
    named = {name: axes_of(hint) for name, hint in hints.items()}
    return {name: axes for name, axes in named.items() if axes is not None}


def bind(name: str, shape: tuple[int, ...], axes: tuple[str, ...], bound: dict[str, Any]) -> None:
    """Match a shape with axis names, adding what it teaches to `bound`.

    Args:
        name: What to call the tensor in an error.
        shape: The tensor's shape.
        axes: Axis names; a first name with a star takes all leading axes.
        bound: Lengths known so far; changed in place.

    Raises:
        AxisError: The number of axes is wrong, or a name would mean two lengths.
    """
    starred = bool(axes) and axes[0].startswith("*")
    fixed = axes[1:] if starred else axes
    lead = len(shape) - len(fixed)
    if lead < 0 or (lead and not starred):
        raise AxisError(f"{name} has shape {shape}, but its axes are '{' '.join(axes)}'.")
    if starred and bound.setdefault(axes[0], shape[:lead]) != shape[:lead]:
        raise AxisError(f"{name} has shape {shape}: its leading axes should be {bound[axes[0]]}.")
    for axis, length in zip(fixed, shape[lead:], strict=True):
        if bound.setdefault(axis, length) != length:
            raise AxisError(f"{name} has shape {shape}: its axis '{axis}' should have length {bound[axis]}.")


def check_fields(record: object) -> dict[str, Any]:
    """Check every annotated field of a dataclass instance against one binding of names.

    Returns:
        The length of each axis; `*lead` maps to a tuple.

    Raises:
        AxisError: Two fields disagree, or a field has the wrong number of axes.
    """
    bound: dict[str, Any] = {}
    kind: Any = type(record)
    for name, axes in axes_of_fields(kind).items():
        value = getattr(record, name)
        if value is not None:
            bind(name, tuple(value.shape), axes, bound)
    return bound


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Wrap a function so that its annotated tensors, and its result, are checked at each call."""
    signature = inspect.signature(function)
    hints = get_type_hints(function, include_extras=True)
    named = {name: axes_of(hint) for name, hint in hints.items()}

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        bound: dict[str, Any] = {}
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            axes = named.get(name)
            if axes is not None and isinstance(value, Tensor):
                bind(f"{function.__name__}({name})", tuple(value.shape), axes, bound)
        result = function(*args, **kwargs)
        axes = named.get("return")
        if axes is not None and isinstance(result, Tensor):
            bind(f"the result of {function.__name__}", tuple(result.shape), axes, bound)
        return result

    return wrapper
