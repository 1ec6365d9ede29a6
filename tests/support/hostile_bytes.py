"""Hostile bytes: arrays of numpy's and zip archives that somebody made up. Nothing here does harm unless unpickled."""

from __future__ import annotations

import io
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Make = Callable[[Path], Path]
"""Makes a place in an empty folder."""


class Calls:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return (os.system, ("touch pwned",))


# --- .npy ----------------------------------------------------------------------------------------------------------
def npy(header: str | bytes, content: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode() if isinstance(header, str) else header
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + content


def head(shape: str, descr: str = "'<f4'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"


def pickled() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([Calls()], object), allow_pickle=True)
    return stream.getvalue()


NPY: dict[str, bytes] = {
    "a pickle": pickle.dumps(Calls()),
    "pickled objects": pickled(),
    "objects by hand": npy(head("(18, 4)", "'|O'"), pickle.dumps(Calls())),
    "code in the header": npy("{'descr': __import__('os').system('touch pwned'), 'shape': ()}\n"),
    "code as a dtype": npy(head("(18, 4)", "[('x', __import__('os'))]"), b"x" * 400),
    "a shape of quintillions": npy(head(f"({1 << 60}, 4)"), b"x" * 400),
    "a shape beyond words": npy(head(f"({10**400}, 4)"), b"x" * 400),
    "a negative shape": npy(head("(-18, 4)"), b"x" * 400),
    "a shape of words": npy(head("('a', 4)"), b"x" * 400),
    "no rows": npy(head("(0, 4)")),
    "too short": npy(head("(18, 4)"), b"x" * 100),
    "no end of header": npy(head("(18, 4)"))[:30],
    "nested header": npy("(" * 5000 + ")" * 5000),
    "large header": npy("{" + " " * 60_000 + "}\n"),
    "another version": npy(head("(18, 4)"), b"x" * 400, b"\x09\x09"),
    "structures": npy(head("(18, 4)", "[('x', '<f4')]"), b"x" * 400),
    "complex numbers": npy(head("(18, 4)", "'<c8'"), b"x" * 800),
    "dates": npy(head("(18, 4)", "'<M8[s]'"), b"x" * 800),
    "no name": npy(head("(18, 4)", "'nothing'"), b"x" * 400),
    "empty": b"",
    "text": b"hello\n" * 99,
    "a zip": b"PK\x03\x04" + b"x" * 99,
}


# --- zip -----------------------------------------------------------------------------------------------------------
def archive(*entries: tuple[str | zipfile.ZipInfo, bytes]) -> Make:
    def make(folder: Path) -> Path:
        with warnings.catch_warnings(), zipfile.ZipFile(folder / "x.zip", "w", zipfile.ZIP_DEFLATED) as held:
            warnings.simplefilter("ignore")  # of names that are there twice
            for name, content in entries:
                held.writestr(name, content, zipfile.ZIP_DEFLATED)
        return folder / "x.zip"

    return make


def link(name: str, mode: int, target: bytes) -> tuple[zipfile.ZipInfo, bytes]:
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, (mode | 0o777) << 16
    return entry, target


def patched(*changes: tuple[bytes, bytes]) -> Make:
    """An archive of one text of which bytes are changed afterwards."""

    def make(folder: Path) -> Path:
        place = archive(("x.vlt/a/manifest.ocdbt", b"some words " * 20))(folder)
        content = place.read_bytes()
        for old, new in changes:
            assert old in content and len(old) == len(new)
            content = content.replace(old, new)
        place.write_bytes(content)
        return place

    return make


def field(signature: bytes, at: int, value: bytes) -> Make:
    """An archive in whose header (local or central) some bytes are others."""

    def make(folder: Path) -> Path:
        place = archive(("x.vlt/a/manifest.ocdbt", b"some words " * 20))(folder)
        content = bytearray(place.read_bytes())
        first = content.index(signature) + at
        content[first : first + len(value)] = value
        place.write_bytes(content)
        return place

    return make


def overlapping(folder: Path) -> Path:
    """Many entries that all point to the same bytes."""
    place = archive(("0.hdf5", b"\0" * 100_000))(folder)
    content = place.read_bytes()
    start = content.index(b"PK\x01\x02")
    end = content.index(b"PK\x05\x06")
    entries = b"".join(content[start:end].replace(b"0.hdf5", b"%06d" % i) for i in range(2000))
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 2000, 2000, len(entries), start, 0)
    place.write_bytes(content[:start] + entries + tail)
    return place


LOCAL, CENTRAL = b"PK\x03\x04", b"PK\x01\x02"
ZIP: dict[str, Make] = {
    "an entry above": archive(("../x.vlt/a/manifest.ocdbt", b"x")),
    "an entry far above": archive(("a/../../../../../../tmp/pwned", b"x")),
    "an absolute entry": archive(("/tmp/pwned", b"x")),
    "a drive": archive(("c:/x", b"x")),
    "a backslash": archive(("..\\x", b"x")),
    "a symbolic link": archive(link("x.vlt", 0o120000, b"/etc")),
    "a link and what is behind it": archive(link("x", 0o120000, b"/tmp"), ("x/pwned", b"x")),
    "a device": archive(link("x.vlt", 0o020000, b"")),
    "a bomb": archive(("x.hdf5", b"\0" * (1 << 25))),
    "overlapping entries": overlapping,
    "a name twice": archive(("x.hdf5", b"x"), ("x.hdf5", b"y")),
    "a file that is a folder too": archive(("x", b"x"), ("x/y.hdf5", b"y")),
    "an archive in it": archive(("y.zip", b"PK\x05\x06" + b"\0" * 18)),
    "nothing": archive(),
    "no set": archive(("readme.txt", b"hello")),
    "two sets": archive(("x.hdf5", b"x"), ("y.hdf5", b"y")),
    "no HDF5": archive(("x.hdf5", b"x" * 99)),
    "a pickle that calls": archive(("x.pkl", pickle.dumps(Calls()))),
    "an encrypted entry": field(CENTRAL, 8, b"\x01\x00"),
    "another compression": field(CENTRAL, 10, b"\x0e\x00"),
    "a wrong checksum": field(CENTRAL, 16, b"\0\0\0\0"),
    "a longer claim": field(CENTRAL, 24, struct.pack("<I", 300)),
    "a claim of gigabytes": field(CENTRAL, 24, struct.pack("<I", 0xFFFFFFF0)),
    "more than the archive": field(CENTRAL, 20, struct.pack("<I", 0x7FFFFFFF)),
    "another name outside than inside": field(LOCAL, 30, b"y"),
    "an offset beyond": field(CENTRAL, 42, struct.pack("<I", 0x7FFFFFFF)),
    "no archive": lambda folder: _file(folder / "x.zip", b"hello" * 99),
    "an empty file": lambda folder: _file(folder / "x.zip", b""),
    "an end alone": lambda folder: _file(folder / "x.zip", b"PK\x05\x06" + b"\xff" * 18),
}


def _file(place: Path, content: bytes) -> Path:
    place.write_bytes(content)
    return place
