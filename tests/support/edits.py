"""Edits of small text files, as hands, editors, half-finished copies and bad disks make them; from a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

ODD: list[Any] = [None, True, -1, 0, 1.5, 1e308, "", "x", "../..", "\x00", [], [[]], {}, {"a": {}}, 10**400]
"""Values in the place of others."""


def edits(content: bytes, seed: int, count: int, plain: int | None = None) -> Iterator[tuple[str, bytes]]:
    """Edited copies of a file, each with the name of the edit: all plain ones, then random ones."""
    yield from islice(plain_edits(content), plain)
    chance = random.Random(seed)
    kinds: list[Callable[[bytes, random.Random], bytes]] = [_cut, _flip, _drop_line, _repeat_line, _swap, _value]
    for number in range(count):
        kind = kinds[number % len(kinds)]
        yield f"{kind.__name__.strip('_')} {number}", kind(content, chance)


def plain_edits(content: bytes) -> Iterator[tuple[str, bytes]]:
    """What happens to any file."""
    yield "empty", b""
    yield "half", content[: len(content) // 2]
    yield "without its last byte", content[:-1]
    yield "twice", content * 2
    yield "with a byte-order mark", b"\xef\xbb\xbf" + content
    yield "with Windows' ends of lines", content.replace(b"\n", b"\r\n")
    yield "zeros", bytes(len(content))
    yield "not UTF-8", content + b"\xff\xfe\n"
    yield "a long line", content + b"x" * 1_000_000 + b"\n"
    yield "nested", b"[" * 100_000
    yield "nested maps", b'{"a":' * 100_000
    yield "another kind", b"# A page\n\nof words.\n"


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def _flip(content: bytes, chance: random.Random) -> bytes:
    edited = bytearray(content or b"x")
    for _ in range(chance.choice((1, 1, 5, 50))):
        edited[chance.randrange(len(edited))] ^= 1 << chance.randrange(8)
    return bytes(edited)


def _drop_line(content: bytes, chance: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    if lines:
        del lines[chance.randrange(len(lines))]
    return b"".join(lines)


def _repeat_line(content: bytes, chance: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    if lines:
        lines.insert(chance.randrange(len(lines)), chance.choice(lines))
    return b"".join(lines)


def _swap(content: bytes, chance: random.Random) -> bytes:
    words = content.split(b",")
    first, second = (chance.randrange(len(words)) for _ in range(2))
    words[first], words[second] = words[second], words[first]
    return b",".join(words)


def _value(content: bytes, chance: random.Random) -> bytes:
    """Another value somewhere in a line or a whole of JSON, or in a cell of a table."""
    lines = content.splitlines(keepends=True) or [b""]
    try:
        parts, whole = [json.loads(content)], True
    except ValueError:
        parts, whole = [], False
    if not whole:
        number = chance.randrange(len(lines))
        try:
            parts = [json.loads(lines[number])]
        except ValueError:
            cells = lines[number].rstrip(b"\n").split(b",")
            cells[chance.randrange(len(cells))] = str(chance.choice(ODD)).encode()
            lines[number] = b",".join(cells) + b"\n"
            return b"".join(lines)
    edited = json.dumps(_replaced(parts[0], chance)).encode()
    if whole:
        return edited
    lines[number] = edited + b"\n"
    return b"".join(lines)


def _replaced(node: Any, chance: random.Random) -> Any:
    if isinstance(node, dict) and node and chance.random() < 0.85:
        key = chance.choice(list(node))
        if chance.random() < 0.15:
            return {name: value for name, value in node.items() if name != key}
        return {**node, key: _replaced(node[key], chance)}
    if isinstance(node, list) and node and chance.random() < 0.85:
        number = chance.randrange(len(node))
        return [*node[:number], _replaced(node[number], chance), *node[number + 1 :]]
    return chance.choice(ODD)
