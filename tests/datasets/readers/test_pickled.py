"""Pickles from anybody: plain arrays are read as numpy reads them, all else is refused and nothing executed."""

from __future__ import annotations

import builtins
import os
import pickle
import pickletools
import random
import struct
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offline_marl.core.types import DataError
from offline_marl.datasets.readers.storage.pickled import KNOWN, read_pickle

DRAW = np.random.default_rng(0)
ARRAYS = {
    "a": DRAW.standard_normal((7, 3)).astype(np.float32),
    "b": np.asfortranarray(DRAW.standard_normal((4, 5))),
    "c": np.array([True, False, True]),
    "d": np.arange(6, dtype=">i4").reshape(2, 3),
    "e": np.zeros((0, 4), np.float32),
    "f": np.float32(3.5),
    "g": [1, 2.5, "words", None, (True, b"bytes")],
    "h": np.arange(300, dtype=np.uint8)[::2],
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_are_read_as_they_were_written(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(ARRAYS, protocol))
    found = read_pickle(tmp_path / "x.pkl")
    assert list(found) == list(ARRAYS) and found["f"] == 3.5 and found["g"] == ARRAYS["g"]
    for name in "abcdeh":
        assert found[name].dtype == ARRAYS[name].dtype
        np.testing.assert_array_equal(found[name], ARRAYS[name])


def test_names_of_numpy_1_and_2_are_the_same(tmp_path: Path) -> None:
    content = pickle.dumps(ARRAYS, 2)
    other = content.replace(b"numpy._core.", b"numpy.core.")
    assert other != content
    (tmp_path / "x.pkl").write_bytes(other)
    np.testing.assert_array_equal(read_pickle(tmp_path / "x.pkl")["a"], ARRAYS["a"])


def test_bytes_of_python_2_are_arrays_too(tmp_path: Path) -> None:
    raw = np.arange(40, dtype=np.float32).tobytes()
    content = (
        b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x28\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tbs."
    )
    (tmp_path / "x.pkl").write_bytes(content)
    np.testing.assert_array_equal(read_pickle(tmp_path / "x.pkl")["a"], np.arange(40))


class Calls:
    """Pickles as a call of what it is given."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.made = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.made


class Own(np.ndarray):
    pass


CALLED: list[Any] = []


def note(*arguments: Any) -> Any:
    CALLED.append(arguments)
    return np.zeros(3)


def glob(module: str, name: str, tail: bytes = b"(tR.") -> bytes:
    return f"c{module}\n{name}\n".encode() + tail


def claim(size: int, opcode: bytes) -> bytes:
    return b"\x80\x05}\x8c\x01a" + opcode + struct.pack("<Q", size) + b"abc" + b"s."


def array_of(shape: bytes, raw: bytes = b"abcd", code: bytes = b"f4") -> bytes:
    return (
        b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01" + shape
        + b"cnumpy\ndtype\nU\x02" + code
        + b"K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U"
        + bytes([len(raw)]) + raw + b"tbs."
    )  # fmt: skip


NAMES = [
    ("os", "system"), ("posix", "system"), ("builtins", "eval"), ("builtins", "exec"), ("builtins", "open"),
    ("builtins", "getattr"), ("builtins", "__import__"), ("__builtin__", "eval"), ("subprocess", "Popen"),
    ("numpy.testing._private.utils", "runstring"), ("numpy", "load"), ("numpy", "save"),
    ("numpy.core.multiarray", "fromfile"),
    ("numpy", "memmap"), ("numpy._core.multiarray", "_reconstruct.__globals__"), ("numpy", "ndarray.tofile"),
    ("torch", "load"), ("importlib", "import_module"), ("pickle", "loads"), ("marshal", "loads"), ("types", "CodeType"),
    ("operator", "attrgetter"), ("functools", "partial"), ("collections", "OrderedDict"), ("copyreg", "_reconstructor"),
    ("_codecs", "decode"), ("", ""), ("a" * 5000, "b" * 5000), ("numpy\tx", "dtype"),
]  # fmt: skip

HOSTILE: dict[str, bytes] = {
    **{f"names {module[:30]}.{name[:30]}": glob(module, name) for module, name in NAMES},
    **{f"only names {module}.{name}": glob(module, name, b".") for module, name in NAMES[:4]},
    "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R.",
    "stack global of numbers": b"\x80\x04K\x01K\x02\x93.",
    "os.system": pickle.dumps({"a": Calls(os.system, "touch pwned")}),
    "eval": pickle.dumps({"a": Calls(builtins.eval, "note()")}),
    "chain": pickle.dumps(Calls(Calls(getattr, os, "system") and getattr, Calls(__import__, "os"), "system")),
    "our own": pickle.dumps({"a": Calls(note, 1)}),
    "our own with state": pickle.dumps({"a": Calls(note, 1, state={"x": 1})}),
    "subclass": pickle.dumps({"a": np.zeros(3).view(Own)}),
    "object array": pickle.dumps({"a": np.array([{}, []], object)}),
    "object array with a call": pickle.dumps({"a": np.array([Calls(note, 2)], object)}),
    "structured array": pickle.dumps({"a": np.zeros(3, [("x", "f4")])}),
    "array of words": pickle.dumps({"a": np.array(["x", "y"])}),
    "array of dates": pickle.dumps({"a": np.zeros(3, "M8[s]")}),
    "complex array": pickle.dumps({"a": np.zeros(3, complex)}),
    "ordered dict": pickle.dumps(OrderedDict(a=np.zeros(3))),
    "set": pickle.dumps({"a": {1, 2}}),
    "instance": b"(i__main__\nX\n.",
    "instance of os": b"(S'id'\nios\nsystem\n.",
    "obj": b"(cos\nsystem\nS'id'\no.",
    "new object": b"\x80\x02cnumpy\nndarray\n)\x81.",
    "new object with words": b"\x80\x04cnumpy\nndarray\n)}\x92.",
    "persistent": b"Pid\n.",
    "persistent on the stack": b"K\x01Q.",
    "extension": b"\x80\x02\x82\x01.",
    "extension of four bytes": b"\x80\x02\x84\x01\x00\x00\x00.",
    "buffer outside": b"\x80\x05\x97.",
    "calls a class": b"cnumpy\nndarray\n(tR.",
    "calls a call": b"cnumpy\ndtype\n(tR(tR.",
    "state of a name": b"cnumpy\ndtype\n}U\x01xK\x01sb.",
    "state of a dict": b"}}b.",
    "codec": b"\x80\x02}U\x01ac_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00zlib\x86Rs.",
    "huge bytes": claim(1 << 60, b"\x8e"),
    "huge text": claim(1 << 60, b"\x8d"),
    "huge bytearray": claim(1 << 62, b"\x96"),
    "huge memo": b"\x80\x02}r\xff\xff\xff\xffh\x07.",
    "huge array": array_of(b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86"),
    "negative array": array_of(b"J\xff\xff\xff\xff\x85"),
    "array of many axes": array_of(b"(" + b"K\x01" * 70 + b"t"),
    "array of too few bytes": array_of(b"K\x02\x85"),
    "array of objects by hand": array_of(b"K\x01\x85", code=b"O8"),
    "array of a code of its own": array_of(b"K\x01\x85", code=b"??"),
    "shared out often": b"\x80\x05}C\xff" + b"x" * 255 + b"\x940"
    + b"".join(
        b"\x8c\x02%02dcnumpy.core.numeric\n_frombuffer\n(h\x00cnumpy\ndtype\n\x8c\x02u1\x85RK\xff\x8c\x01CtRs" % i
        for i in range(99)
    ) + b".",
    "many objects": b"]" * 300_000 + b".",
    "nested": b"\x80\x02}" + b")" + b"\x86" * 3 + b"s.",
    "laughs": b"\x80\x02}K\x01q\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(100)) + b"K\x01s.",
    "no dict": pickle.dumps([np.zeros(3)]),
    "array alone": pickle.dumps(np.zeros(3)),
    "number": pickle.dumps(3),
    "empty": b"",
    "text": b"hello there\n" * 9,
    "no end": pickle.dumps({"a": 1})[:-1],
    "zip": b"PK\x03\x04" + b"x" * 99,
    "end alone": b".",
    "number of a mile": b"I" + b"9" * 100_000 + b"\n.",
}  # fmt: skip


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_pickle(path)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and path.name in message and len(message) < 700
    return message


@pytest.mark.long
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_pickle_is_one_sentence_and_executes_nothing(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(HOSTILE) >= 30
    path = tmp_path / "x.pkl"
    path.write_bytes(HOSTILE[kind])
    monkeypatch.chdir(tmp_path)
    CALLED.clear()
    tracemalloc.start()
    try:
        refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    assert not CALLED and [each.name for each in tmp_path.iterdir()] == ["x.pkl"]


@pytest.mark.parametrize(("module", "name"), NAMES[:9])
def test_what_it_names_is_told(tmp_path: Path, module: str, name: str) -> None:
    (tmp_path / "x.pkl").write_bytes(glob(module, name))
    assert f"it names {module}.{name}, which is not loaded" in refusal(tmp_path / "x.pkl")


@pytest.mark.parametrize("protocol", range(6))
def test_changed_bytes_are_read_or_refused_in_one_sentence(tmp_path: Path, protocol: int) -> None:
    for seed in range(protocol, 60, 6):
        draw = random.Random(seed)
        content = bytearray(pickle.dumps(ARRAYS, protocol))
        for _ in range(1 + seed % 5):
            content[draw.randrange(len(content))] = draw.randrange(256)
        path = tmp_path / "x.pkl"
        path.write_bytes(content[: draw.randrange(len(content))] if seed % 7 == 0 else content)
        try:
            found = read_pickle(path)
        except DataError as error:
            assert "\n" not in str(error) and "x.pkl" in str(error), seed
        else:
            assert all(type(name) is str for name in found), seed


def test_no_python_object_is_ever_looked_up() -> None:
    """Every opcode that reaches Python's own import or call machinery is either ours or unknown."""
    assert {module.partition(".")[0] for module, _ in KNOWN} == {"numpy", "_codecs", "__builtin__"}
    reaching = {"INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER"}
    from offline_marl.datasets.readers.storage import pickled

    followed = {*pickled.VALUES, *pickled.CONSTANTS, *pickled.ACTIONS}
    assert followed <= {opcode.name for opcode in pickletools.opcodes} and not followed & reaching
