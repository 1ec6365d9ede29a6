"""Estimate of the time that a world model's updates take on a CPU, told before a fit begins where it is long."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

import torch

from offline_marl.worldmodels.base import Phase, WorldModel

LONG = 2.0
"""Hours from which on something is said."""
SHORT = 1e13
"""Multiplications that take minutes on any machine, for which nothing is timed."""
SHARE = 0.3
"""Speed of a whole update as a share of that of bare products: .29 at the default sizes, .31 at the published ones."""
PROBE, TRIALS = (256, 256, 512), 30
"""Sizes of the products that are timed, each a millisecond, and how many are; the fastest counts."""


def tell_cost(
    name: str, model: WorldModel, updates: Mapping[Phase, int], imagined: int, device: torch.device | str
) -> None:
    """Say on standard error how many hours a model of this size takes here, where that is long and there is no GPU.

    Args:
        name: The kind of model.
        model: Not yet begun.
        updates: Of each phase, over the whole run.
        imagined: Steps of a row that the run imagines in all.
        device: Where it is to compute.
    """
    if torch.device(device).type != "cpu":
        return
    counted = sum(count * model.multiplications(phase) for phase, count in updates.items())
    counted += imagined * model.multiplications("step")
    if counted < SHORT:
        return
    hours = counted / (SHARE * products_a_second()) / 3_600
    if hours >= LONG:
        beside = f" and {imagined:,} imagined steps" if imagined else ""
        print(
            f"note: {name} of this size takes about {hours:,.0f} hours on this CPU for {sum(updates.values()):,} "
            f"updates of the model{beside} (estimated from {counted:.1e} multiplications); --device cuda on a machine "
            "with a GPU is faster, and the defaults are sized for a CPU.",
            file=sys.stderr,
        )


def products_a_second() -> float:
    """Multiplications a second in products of large matrices, on as many threads as torch takes here."""
    rows, inner, columns = PROBE
    one, other = torch.ones(rows, inner), torch.ones(inner, columns)
    taken = []
    for _ in range(TRIALS):
        began = time.perf_counter()
        torch.mm(one, other)
        taken.append(time.perf_counter() - began)
    return rows * inner * columns / min(taken)
