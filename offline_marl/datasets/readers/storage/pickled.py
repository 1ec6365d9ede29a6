"""Plain pickles of numpy arrays, read without Python's unpickler: nothing that a file names is ever imported or called.

Opcodes are followed one by one. A name is only a word here: the few by which numpy writes arrays and dtypes are
understood, any other is refused. What is claimed is compared with the file's size before anything is made of it. No
value is hashed, compared or shown before its type is known: a tuple may nest without end, or hold itself 2**100 times.
"""

from __future__ import annotations

import mmap
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from offline_marl.core.types import DataError

MOST_OPCODES = 200_000
MOST_AXES = 8
MOST_NESTED = 32
"""Containers within one another."""
LONGEST_NUMBER = 64
"""Bytes of a whole number."""
PLAIN = frozenset({f"{kind}{size}" for kind in "iuf" for size in (1, 2, 4, 8)} - {"f1"} | {"b1"})
"""Dtypes that are numbers."""
ORDERS = frozenset("<>=|")
LATIN = frozenset({"latin1", "latin-1"})
CONTAINERS = frozenset({dict, list, tuple})
MARK = object()


@dataclass(frozen=True)
class Named:
    """A class or function that the file names; never looked up."""

    module: str
    name: str


@dataclass
class Dtype:
    """Placeholder of a numpy dtype, as the pickle describes it."""

    code: str
    order: str = "="

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.code if self.order in "=|" else self.order + self.code)


@dataclass
class Array:
    """An array as it comes together."""

    values: npt.NDArray[Any] | None = None


def read_pickle(path: Path) -> dict[str, Any]:
    """The dict of arrays and plain values in a pickle of any protocol.

    Raises:
        DataError: The file is missing, truncated, holds anything but containers, plain values and arrays of numbers,
            or claims more than its size can hold; what it names otherwise is told and not touched.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    size = path.stat().st_size
    if size == 0:
        raise DataError(f"{path} is empty.")
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:4] == b"PK\x03\x04":
            raise DataError(f"{path} is a zip archive, such as torch writes, not a plain pickle of arrays.")
        try:
            tree = _Reader(size).follow(content)
        except DataError as error:
            raise DataError(f"{path} is refused: {error}") from None
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, AttributeError) as error:
            raise DataError(f"{path} is no pickle, or a damaged one: {_line(error)}.") from None
    if type(tree) is not dict:
        raise DataError(f"{path} holds a {type(tree).__name__.lower()}, it should hold a dict of arrays.")
    if not _is_flat(tree):
        raise DataError(f"{path} is refused: it holds more, and deeper, containers than a dict of arrays needs.")
    return {name: value.values if isinstance(value, Array) else value for name, value in tree.items()}


def _is_flat(tree: dict[str, Any]) -> bool:
    """Whether all that can be reached, as often as it can be, is in bounds of depth and number."""
    level: list[Any] = [tree]
    seen = 0
    for _ in range(MOST_NESTED):
        seen += sum(len(container) for container in level)
        if seen > MOST_OPCODES:
            return False
        inner = (value for each in level for value in (each.values() if type(each) is dict else each))
        level = [value for value in inner if type(value) in CONTAINERS]
        if not level:
            return True
    return False


class _Reader:
    """The stack and the memo of one file."""

    def __init__(self, size: int) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.size = size
        self.made = 0

    def follow(self, content: Any) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if count > MOST_OPCODES:
                raise DataError("it holds more objects than a dict of arrays needs.")
            if opcode.name == "STOP":
                return self.pop()
            if opcode.name in VALUES:
                if type(argument) is int and argument.bit_length() > 8 * LONGEST_NUMBER:
                    raise DataError("it holds a whole number that nobody counts with.")
                self.stack.append(argument)
            elif opcode.name in CONSTANTS:
                self.stack.append(CONSTANTS[opcode.name]())
            elif opcode.name in ACTIONS:
                ACTIONS[opcode.name](self, argument)
            elif opcode.name not in {"PROTO", "FRAME"}:
                raise DataError(f"arrays need no {opcode.name}, so it may not ask for one.")
        raise DataError("it has no end.")

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is MARK:
            raise ValueError("a mark in place of a value")
        return value

    def pop_to_mark(self) -> list[Any]:
        at = len(self.stack) - 1
        while self.stack[at] is not MARK:
            at -= 1
            if at < 0:
                raise ValueError("no mark")
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    def spend(self, count: int) -> None:
        """Count bytes made of the file against its size, once as text, once as bytes and once as arrays."""
        self.made += count
        if self.made > 3 * self.size:
            raise DataError(f"its arrays claim more than the {self.size:,} bytes that it has.")

    # --- containers ----------------------------------------------------------------------------------------------
    def remember(self, argument: int | None) -> None:
        self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]

    def recall(self, argument: int) -> None:
        self.stack.append(self.memo[argument])

    def tuple_of(self, count: int) -> None:
        values = [self.pop() for _ in range(count)][::-1]
        self.stack.append(tuple(values))

    def append(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("an append to what is no list")
        self.stack[-1].extend(values)

    def set_items(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not dict or len(values) % 2:
            raise ValueError("an entry for what is no dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if type(key) is not str:
                raise DataError(f"a {type(key).__name__.lower()} names an entry; arrays are named by words.")
            self.stack[-1][key] = value

    # --- what numpy writes ---------------------------------------------------------------------------------------
    def name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise ValueError("a name that is no word")
        if (module, name) not in KNOWN:
            raise DataError(f"it names {_line(module)[:80]}.{_line(name)[:80]}, which is not loaded.")
        self.stack.append(Named(module, name))

    def call(self) -> None:
        arguments, named = self.pop(), self.pop()
        if not isinstance(named, Named) or type(arguments) is not tuple:
            raise DataError("it calls what is no function.")
        made = KNOWN[named.module, named.name]
        if made is None:
            raise DataError(f"it calls {named.module}.{named.name}, which writes no array.")
        self.stack.append(made(self, *arguments))

    def build(self) -> None:
        state, made = self.pop(), self.stack[-1]
        if isinstance(made, Dtype) and type(state) is tuple and len(state) >= 8:
            if not _is_word(state[1], ORDERS) or any(part is not None for part in state[2:5]):
                raise DataError("it holds an array of something else than numbers.")
            made.order = state[1]
        elif isinstance(made, Array) and made.values is None and type(state) is tuple and len(state) == 5:
            _, shape, dtype, fortran, values = state
            if type(fortran) not in {bool, int}:
                raise DataError("it holds an array in an order that is none.")
            made.values = self.array(values, dtype, shape, "F" if fortran else "C")
        else:
            raise DataError("it sets the state of what is neither an array nor a dtype.")

    def array(self, values: Any, dtype: Any, shape: Any, order: str) -> npt.NDArray[Any]:
        if isinstance(values, str):  # as Python 2 wrote bytes
            values = self.encode(values, "latin1")
        if not isinstance(dtype, Dtype) or not isinstance(values, bytes | bytearray):
            raise DataError("it holds an array of something else than numbers.")
        if type(shape) is int:
            shape = (shape,)
        if (
            type(shape) is not tuple
            or len(shape) > MOST_AXES
            or any(type(n) is not int or not 0 <= n <= self.size for n in shape)
        ):
            raise DataError("it holds an array of no shape that can be.")
        kind, claimed = dtype.numpy(), 1
        for length in shape:
            claimed *= length
        if claimed * kind.itemsize != len(values):
            raise DataError(
                f"it claims {claimed * kind.itemsize:,} bytes for an array of which {len(values):,} are there."
            )
        self.spend(len(values))
        return np.frombuffer(values, dtype=kind).reshape(shape, order="F" if order == "F" else "C")

    def empty(self, kind: Any, shape: Any, code: Any) -> Array:
        if type(kind) is not Named or (kind.module, kind.name) != ("numpy", "ndarray"):
            raise DataError("it holds an array of a class of its own.")
        return Array()

    def whole(self, values: Any, dtype: Any, shape: Any, order: Any) -> Array:
        if not _is_word(order, frozenset("CF")):
            raise DataError("it holds an array in an order that is none.")
        return Array(self.array(values, dtype, shape, order))

    def dtype(self, code: Any, *flags: Any) -> Dtype:
        if not _is_word(code, PLAIN):
            shown = f"'{_line(code)[:40]}'" if type(code) is str else f"a {type(code).__name__.lower()}"
            raise DataError(f"it holds an array of {shown}, which are no numbers.")
        return Dtype(code)

    def scalar(self, dtype: Any, values: Any) -> Any:
        return self.array(values, dtype, (), "C").item()

    def encode(self, text: Any, coding: Any) -> bytes:
        if type(text) is not str or not _is_word(coding, LATIN):
            raise DataError("it calls _codecs.encode for something else than bytes.")
        self.spend(len(text))
        return text.encode("latin-1")

    def no_bytes(self) -> bytes:
        return b""


Made = Callable[..., Any] | None
KNOWN: Mapping[tuple[str, str], Made] = {
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): _Reader.dtype,
    ("_codecs", "encode"): _Reader.encode,
    ("__builtin__", "bytes"): _Reader.no_bytes,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Reader.empty for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Reader.scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _Reader.whole for core in ("core", "_core")},
}
"""Names that are understood, as numpy 1 and 2 write them, and what is done in place of a call."""

VALUES = (
    frozenset({"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"})
    | {"STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
    | {"UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
    | {"FLOAT", "BINFLOAT"}
)
CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: MARK,
}


def _pairs(values: list[Any]) -> dict[str, Any]:
    reader = _Reader(0)
    reader.stack.append({})
    reader.set_items(values)
    made: dict[str, Any] = reader.stack[-1]
    return made


ACTIONS: Mapping[str, Callable[[_Reader, Any], Any]] = {
    "POP": lambda reader, _: reader.stack.pop(),
    "POP_MARK": lambda reader, _: reader.pop_to_mark(),
    "PUT": lambda reader, at: reader.remember(at),
    "BINPUT": lambda reader, at: reader.remember(at),
    "LONG_BINPUT": lambda reader, at: reader.remember(at),
    "MEMOIZE": lambda reader, _: reader.remember(None),
    "GET": lambda reader, at: reader.recall(at),
    "BINGET": lambda reader, at: reader.recall(at),
    "LONG_BINGET": lambda reader, at: reader.recall(at),
    "TUPLE1": lambda reader, _: reader.tuple_of(1),
    "TUPLE2": lambda reader, _: reader.tuple_of(2),
    "TUPLE3": lambda reader, _: reader.tuple_of(3),
    "TUPLE": lambda reader, _: reader.stack.append(tuple(reader.pop_to_mark())),
    "LIST": lambda reader, _: reader.stack.append(reader.pop_to_mark()),
    "DICT": lambda reader, _: reader.stack.append(_pairs(reader.pop_to_mark())),
    "APPEND": lambda reader, _: reader.append([reader.pop()]),
    "APPENDS": lambda reader, _: reader.append(reader.pop_to_mark()),
    "SETITEM": lambda reader, _: reader.set_items([reader.pop(), reader.pop()][::-1]),
    "SETITEMS": lambda reader, _: reader.set_items(reader.pop_to_mark()),
    "GLOBAL": lambda reader, both: reader.name(*both.split(" ", 1)),
    "STACK_GLOBAL": lambda reader, _: reader.name(*[reader.pop(), reader.pop()][::-1]),
    "REDUCE": lambda reader, _: reader.call(),
    "BUILD": lambda reader, _: reader.build(),
}


def _is_word(value: Any, words: frozenset[str]) -> bool:
    """Whether it is one of these words; what is no word is not even hashed."""
    return type(value) is str and value in words


def _line(error: object) -> str:
    return " ".join(str(error)[:300].split()).rstrip(".")
