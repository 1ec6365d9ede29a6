"""Updates as `train --compile` makes them beside eager ones, for speed.py: eager time over compiled, by widths."""

from __future__ import annotations

import time
from collections.abc import Callable

from timing import SIZES, Patience, make_batch, medians

from offline_marl.algorithms.base import algorithms
from offline_marl.algorithms.compiled import CompiledUpdate, compilable
from offline_marl.core.config import build
from offline_marl.core.types import Batch

LEARNERS = ("bc", "iql", "td3-bc")
WIDTHS = (64, 256)


def compare_compiled(name: str, size: str, width: int, patience: Patience) -> None:
    """A row: seconds to make the code, and eager time over compiled."""
    spec, kind, rows = SIZES[size], algorithms.get(name), 64 if width < 256 else 256
    settings = {"hidden": (width, width), "batch_size": rows}
    eager, other = (kind(build(kind.Config, settings), spec) for _ in "ab")
    update, batch = CompiledUpdate(compilable(name, other)), make_batch(spec, rows, 0)

    def twice(call: Callable[[Batch], object]) -> Callable[[], object]:
        return lambda: [call(batch), call(batch)]

    began = time.perf_counter()
    twice(update)()
    spent = time.perf_counter() - began
    found = medians({"eager": twice(eager.update), "compiled": twice(update)}, *patience)
    print(
        f"compiled {name:7}  {size:8} {rows:3} rows, {width:3} wide   eager {found['eager'] * 500:6.2f} ms   "
        f"eager over compiled {found['eager'] / found['compiled']:.2f}   code made in {spent:.0f} s",
        flush=True,
    )
