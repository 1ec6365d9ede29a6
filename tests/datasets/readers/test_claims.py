"""Columns of files: what their own headers say they take in memory, compared with what is stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offline_marl.core.types import DataError
from offline_marl.datasets.readers.storage import arrow_claims, parquet_claims
from offline_marl.datasets.readers.storage.claims import MOST_SHRUNK, UNSUSPECTED, Ledger

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def test_all_arrays_of_a_set_are_counted_together_and_once() -> None:
    ledger = Ledger("x.hdf5", 10)
    ledger.charge("a", UNSUSPECTED)
    ledger.charge("a", UNSUSPECTED)
    ledger.charge("b", MOST_SHRUNK * 10)
    with pytest.raises(DataError, match=r"x\.hdf5 claims 67,109,865 bytes of numbers, but only 10 are stored"):
        ledger.charge("c", 1)


def write_arrow(path: Path, values: np.ndarray, packing: str | None) -> None:
    table = pa.table({"x": values})
    options = pa.ipc.IpcWriteOptions(compression=packing)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table)


@pytest.mark.parametrize("packing", [None, "lz4", "zstd"])
def test_arrow_buffers_are_counted_as_they_are_in_memory(tmp_path: Path, packing: str | None) -> None:
    write_arrow(tmp_path / "x.arrow", np.zeros(100_000), packing)
    assert 800_000 <= arrow_claims.claimed_by(tmp_path / "x.arrow") <= 800_100


@pytest.mark.parametrize("packing", ["NONE", "snappy", "zstd", "gzip"])
@pytest.mark.parametrize("dictionary", [True, False])
def test_parquet_values_are_counted_however_few_bytes_hold_them(tmp_path: Path, packing: str, dictionary: bool) -> None:
    table = pa.table({"x": np.zeros(10_000), "y": pa.array([[0.0] * 10] * 10_000)})
    parquet.write_table(table, tmp_path / "x.parquet", compression=packing, use_dictionary=dictionary)
    claimed = parquet_claims.claimed_by(tmp_path / "x.parquet")
    assert 110_000 * parquet_claims.PER_VALUE <= claimed <= 110_000 * (parquet_claims.PER_VALUE + 9)


def test_a_word_that_stands_often_is_counted_as_often(tmp_path: Path) -> None:
    words = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1_000, np.int8)), pa.array(["x" * 10_000]))
    parquet.write_table(pa.table({"x": words}), tmp_path / "x.parquet")
    assert parquet_claims.claimed_by(tmp_path / "x.parquet") > 1_000 * 10_000


@pytest.mark.parametrize("module", [arrow_claims, parquet_claims])
def test_bent_headers_are_an_error_of_their_own(tmp_path: Path, module: object) -> None:
    file = tmp_path / "x"
    if module is arrow_claims:
        write_arrow(file, np.arange(50.0), "zstd")
    else:
        parquet.write_table(pa.table({"x": np.arange(50.0)}), file)
    content, draw = file.read_bytes(), np.random.default_rng(0)
    for _ in range(400):
        changed = bytearray(content)
        for at in draw.integers(0, len(content), 4):
            changed[at] = draw.integers(256)
        file.write_bytes(changed[: draw.integers(1, len(content) + 1)])
        try:
            claimed = module.claimed_by(file)  # type: ignore[attr-defined]
        except ValueError:
            continue
        assert isinstance(claimed, int)
