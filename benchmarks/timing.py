"""How two ways of computing the same are timed, for the rows of speed.py.

The rounds of all contestants alternate, and medians of processor time count (of wall time with more than one
thread), so that a noisy machine shifts all alike.
"""

from __future__ import annotations

import contextlib
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from offline_marl.core.types import Batch, Spec

SIZES = {
    "one": Spec((17,), (6,)),
    "reacher": Spec((8, 8), (1, 1)),
    "ant": Spec((27,) * 4, (2,) * 4),
    "8x64": Spec((64,) * 8, (2,) * 8),
    "32": Spec((16,) * 32, (2,) * 32),
}
"""One agent of the size of HalfCheetah, two real tasks, eight agents that see 64 numbers each, and 32 agents."""
PRODUCTS = {getattr(torch.ops.aten, name) for name in ("mm", "bmm", "addmm", "addmm_", "baddbmm")}


class Patience(NamedTuple):
    rounds: int
    """Counted rounds of each comparison, at most."""
    seconds: float
    """Time for each comparison, about."""


class ProductRecorder(TorchDispatchMode):
    """Keeps the shapes of every matrix product, the backward pass included."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in PRODUCTS:
            tensors = [a for a in args if isinstance(a, Tensor)]
            # By its packet: one that wrote into a tensor of its caller's is called again without it.
            self.calls.append((func.overloadpacket, [look_alike(a) for a in tensors]))
        return func(*args, **(kwargs or {}))


def look_alike(tensor: Tensor) -> Tensor:
    """Noise of the same shape and strides, overlaps included."""
    reach = 1 + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return torch.empty(reach).uniform_(-0.2, 0.2).as_strided(tensor.shape, tensor.stride())


def make_batch(spec: Spec, rows: int, window: int) -> Batch:
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    lead = (rows, spec.n_agents)
    flags = torch.zeros(lead, dtype=torch.bool)
    histories = noise(*lead, window + 1, spec.step_dim) if window else None
    return Batch(
        obs=noise(*lead, spec.obs_dim),
        actions=noise(*lead, spec.act_dim).clamp(-0.9, 0.9),
        rewards=noise(*lead),
        next_obs=noise(*lead, spec.obs_dim),
        terminations=flags,
        truncations=flags,
        history=None if histories is None else histories[:, :, :-1],
        next_history=None if histories is None else histories[:, :, 1:],
    )


def medians(contestants: dict[str, Callable[[], object]], rounds: int, seconds: float) -> dict[str, float]:
    """Median seconds of one call of each, the contestants taking turns; fewer calls where they are slow."""
    # One thread's own time does not count what other programs take from it.
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter

    def time_round(calls: int) -> dict[str, float]:
        found = {}
        for name, call in contestants.items():
            began = clock()
            for _ in range(calls):
                call()
            found[name] = (clock() - began) / calls
        return found

    warm_up = sum(time_round(1).values())
    repeats = min(max(int(seconds / warm_up / rounds), 1), 20)
    times = [time_round(repeats) for _ in range(min(max(int(seconds / warm_up / repeats), 3), rounds))]
    return {name: statistics.median(found[name] for found in times) for name in contestants}


def time_calls(call: Callable[[], object], seconds: float) -> float:
    """Median processor seconds of a call, of about so many seconds' worth, two left out."""
    times = []
    for _ in range(2):
        call()
    while not times or (sum(times) < seconds and len(times) < 200):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return statistics.median(times)


def footprint(call: Callable[[], object], calls: int = 3) -> tuple[float, float]:
    """Page faults of one call, and the process's peak of memory in megabytes while it makes some."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak begins anew
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(calls):
        call()
    after = resource.getrusage(resource.RUSAGE_SELF)
    peak = after.ru_maxrss / 1024
    with contextlib.suppress(OSError):
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        peak = int(status["VmHWM"].split()[0]) / 1024
    return (after.ru_minflt - before) / calls, peak


def print_ratios(
    title: str,
    ours: Callable[[], object],
    loop: Callable[[], object] | None,
    patience: Patience,
    updates: int = 1,
    others: Mapping[str, Callable[[], object]] | None = None,
) -> None:
    """A row: our time, over the bare products that a call makes, and the loop's over ours; over others', if any.

    Args:
        title: What is timed.
        ours: The call that is timed; one is made before, to record its products.
        loop: The same mathematics the plain way, where somebody wrote it.
        patience: Rounds and time.
        updates: How many a call makes; the time printed is of one.
        others: By name, calls that take their turns in the same rounds.
    """
    with ProductRecorder() as recorder:
        ours()

    @torch.no_grad()
    def bare() -> None:
        for func, tensors in recorder.calls:
            func(*tensors)

    others = {**({} if loop is None else {"loop": loop}), **(others or {})}
    faults, megabytes = footprint(ours)
    found = medians({"ours": ours, "bare": bare, **others}, *patience)
    ratios = [
        f"{faults / updates:6.0f} faults {megabytes:5.0f} MB   over bare products {found['ours'] / found['bare']:.2f}"
    ]
    if loop is not None:
        ratios += [f"loop over ours {found['loop'] / found['ours']:.2f}"]
    ratios += [f"over {name} {found['ours'] / found[name]:.2f}" for name in others if name != "loop"]
    print(f"{title}   ours {found['ours'] / updates * 1e3:6.1f} ms   {'   '.join(ratios)}", flush=True)
