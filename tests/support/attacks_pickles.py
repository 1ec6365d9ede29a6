"""Pickles that nobody wrote for reading: nested, doubled, shared, endless; the same ones from the same seed."""

from __future__ import annotations

import pickle
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from arena import Attack

ARRAY = (
    b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01%scnumpy\ndtype\nU\x02f4K\x00K"
    b"\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x04abcdtb"
)
DTYPE = b"cnumpy\ndtype\n%sK\x00K\x01\x87R"


def deep_tuple(depth: int) -> bytes:
    """`(((...),),)`."""
    return b")" + b"\x85" * depth


def deep_list(depth: int) -> bytes:
    return b"]" * depth + b"a" * (depth - 1)


def doubled(times: int, width: int = 2, tie: bytes = b"\x86") -> bytes:
    """A tuple of twice the same tuple, of twice the same ..."""
    pairs = (b"h%c" % i * width + tie + b"q%c0" % (i + 1) for i in range(times))
    return b"K\x01q\x000" + b"".join(pairs) + b"h%c" % times


def doubled_list(times: int) -> bytes:
    return b"]q\x000" + b"".join(b"(h%ch%clq%c0" % (i, i, i + 1) for i in range(times)) + b"h%c" % times


VALUES: dict[str, bytes] = {
    "a deep tuple": deep_tuple(150_000),
    "a tuple of depth 1,500": deep_tuple(1_500),
    "a deep list": deep_list(90_000),
    "a deep dict": b"}(U\x01a" * 30_000 + b"N" + b"u" * 30_000,
    "doubled tuples": doubled(100),
    "doubled lists": doubled_list(100),
    "tuples of three thirds": doubled(100, 3, b"\x87"),
    "a list that holds itself": b"]q\x00h\x00a",
    "a dict that holds itself": b"}q\x00U\x01ah\x00s",
    "lists that hold each other": b"]q\x00]q\x01h\x00ah\x01a",
    "a long of a megabyte": b"\x8b" + struct.pack("<i", 1 << 20) + b"\x7f" * (1 << 20),
    "a decimal of a megabyte": b"L" + b"9" * (1 << 20) + b"L\n",
    "a huge frozenset": b"(" + b"".join(b"M" + struct.pack("<H", i) for i in range(65_000)) + b"\x91",
    "a set of deep tuples": b"\x8f(" + deep_tuple(50_000) + b"\x90",
    "a memo of 150,000": b"N" + b"".join(b"r" + struct.pack("<I", i) for i in range(150_000)),
    "a list of 180,000 times the same list": b"]q\x00(" + b"h\x00" * 180_000 + b"l",
    "a text of four megabytes": b"X" + struct.pack("<I", 4 << 20) + b"a" * (4 << 20),
    "NaN": b"G" + struct.pack(">d", float("nan")),
}
"""What may stand where a value is read; harmless where nobody reads it."""

PLACES: dict[str, Callable[[bytes], bytes]] = {
    "as an entry": lambda value: b"}U\x01a" + value + b"s.",
    "as a key": lambda value: b"}" + value + b"Ns.",
    "as observations": lambda value: b"}U\x0cobservations" + value + b"s.",
    "as a dtype": lambda value: b"}U\x01a" + DTYPE % value + b"s.",
    "as an order": lambda value: (
        b"}U\x01a" + DTYPE % b"U\x02f4" + b"(K\x03" + value + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbs."
    ),
    "as fields of a dtype": lambda value: (
        b"}U\x01a" + DTYPE % b"U\x02f4" + b"(K\x03U\x01<" + value + b"NNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbs."
    ),
    "as a shape": lambda value: b"}U\x01a" + ARRAY % value + b"s.",
    "as a coding": lambda value: b"}U\x01ac_codecs\nencode\nU\x01a" + value + b"\x86Rs.",
    "as a module": lambda value: b"\x80\x04" + value + b"\x8c\x01a\x93.",
    "as a function": lambda value: value + b")R.",
    "as an array's class": lambda value: (
        b"}U\x01acnumpy.core.multiarray\n_reconstruct\n" + value + b"K\x00\x85U\x01b\x87Rs."
    ),
    "as an array's memory": lambda value: (
        b"\x80\x04}U\x01acnumpy.core.numeric\n_frombuffer\n(U\x04abcd"
        + DTYPE % b"U\x02f4"
        + b"K\x01\x85"
        + value
        + b"tRs."
    ),
    "as all there is": lambda value: value + b".",
}
ALPHABET = (
    b"()]}.N0125789acbdeghijklopqrstuIJKLMGSTUVX\x80\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x90\x91\x93\x94\x95\x96"
)


def grown(draw: random.Random) -> bytes:
    """Opcodes without rhyme, ones that build out of what is there more often than others."""
    parts = [b"\x80\x04}q\x00"]
    for _ in range(draw.randrange(3, 400)):
        parts.append(draw.choice(GROWING) if draw.random() < 0.9 else bytes([draw.choice(ALPHABET)]))
    return b"".join(parts) + draw.choice([b".", b"s.", b"U\x01ah\x00s.", b"t.", b""])


GROWING = [
    *(b"q%c" % i for i in range(4)), *(b"h%c" % i for i in range(4)), b"(", b"t", b"l", b"\x85", b"\x86", b"\x87", b"]",
    b"}", b")", b"a", b"e", b"s", b"u", b"0", b"2", b"K\x07", b"N", b"U\x01a", b"G" + struct.pack(">d", 1.0), b"\x94",
    b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"c_codecs\nencode\n", b"cnumpy.core.multiarray\n_reconstruct\n",
    b"cnumpy.core.multiarray\nscalar\n", b"cnumpy.core.numeric\n_frombuffer\n", b"R", b"b", DTYPE % b"U\x02f4",
    ARRAY % b"K\x01\x85", b"\x8f", b"\x90", b"\x91", b"\x93",
]  # fmt: skip


def bent(draw: random.Random) -> bytes:
    """A sound pickle of which some bytes are others, doubled or gone."""
    import numpy as np

    arrays = {name: np.zeros((5, 4), np.float32) for name in ("observations", "actions", "rewards")}
    content = bytearray(pickle.dumps(arrays, draw.randrange(6)))
    for _ in range(draw.randrange(1, 6)):
        at = draw.randrange(len(content))
        what = draw.random()
        if what < 0.6:
            content[at] = draw.randrange(256)
        elif what < 0.8:
            content[at:at] = content[draw.randrange(len(content)) :][: draw.randrange(60)]
        else:
            del content[at : at + draw.randrange(30)]
    return bytes(content)


def attacks(count: int, seed: int = 22) -> Iterator[Attack]:
    """All values in all places, and so many of each kind at random."""
    for place, put in PLACES.items():
        for name, value in VALUES.items():
            yield _attack("pickles by hand", f"{name} {place}", put(value))
    draw = random.Random(seed)
    for number in range(count):
        yield _attack("pickles grown", f"{seed}.{number}", grown(draw))
        yield _attack("pickles bent", f"{seed}.{number}", bent(draw))


def _attack(kind: str, name: str, content: bytes) -> Attack:
    def make(folder: Path) -> list[str]:
        (folder / "x.pkl").write_bytes(content)
        return ["data", "info", "x.pkl"]

    return Attack(kind, name, make)
