"""JSON from anybody: bounded depth, finite numbers, one ValueError for all else; values shown in a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from offline_marl.core.small_files import MOST_NESTED, nests_deeper, parse, read_table, shown


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[" * 1_000_000, b"[" * 100 + b"]" * 100, b"\xff\xfe{}", b'{"a": NaN}', b"Infinity", b"9" * 10_000],
)
def test_what_is_no_json_is_one_error(text: bytes) -> None:
    with pytest.raises(ValueError):
        parse(text)


def test_nan_is_read_where_it_is_expected() -> None:
    value = parse('{"loss": NaN}', finite=False)["loss"]
    assert value != value


def test_a_table_is_asked_for_by_name(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(ValueError, match="it holds a list, it should hold named entries"):
        read_table(tmp_path / "x.json")
    (tmp_path / "x.json").write_text('{"a": 1}')
    assert read_table(tmp_path / "x.json") == {"a": 1}


def test_depth_is_counted_without_recursion() -> None:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    assert nests_deeper(value, MOST_NESTED) and not nests_deeper([[{"a": (1,)}]], 4) and nests_deeper([[[]]], 2)


def test_values_are_shown_in_a_short_line() -> None:
    nest: Any = []
    for _ in range(10_000):
        nest = [nest, nest]
    for value in (nest, "x" * 10**6, 10**5_000, {"a": "b" * 10**6}, list(range(10**5)), "a\nb"):
        line = shown(value)
        assert len(line) < 300 and "\n" not in line
    assert shown("word") == "'word'" and shown([1, 2]) == "[1, 2]" and shown(10**40).startswith("a number of more")
