"""Speed as ratios inside one run: `python benchmarks/speed.py [--rounds N]`.

1. Our update over the bare matrix products it makes: every product of one real update, forward and
   backward, is recorded with its shapes and strides and replayed alone.
2. The same mathematics as a loop over agents (loop_baseline.py) over our update.
3. Seconds per million transitions to load, split among agents, and window.

The rounds of all contestants alternate, and medians are printed, so a noisy machine shifts all alike.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from loop_baseline import LoopMAIQL
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from offline_marl.algorithms.base import algorithms
from offline_marl.core.partition import partition
from offline_marl.core.types import Batch, Spec
from offline_marl.datasets.base import Recording
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.datasets.files import load_data, save_data

SIZES = {"reacher": Spec((8, 8), (1, 1)), "ant": Spec((27,) * 4, (2,) * 4)}
PRODUCTS = {torch.ops.aten.mm, torch.ops.aten.bmm, torch.ops.aten.addmm, torch.ops.aten.baddbmm}


class ProductRecorder(TorchDispatchMode):
    """Keeps the shapes of every matrix product, the backward pass included."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in PRODUCTS:
            tensors = [a for a in args if isinstance(a, Tensor)]
            self.calls.append((func, [look_alike(a) for a in tensors]))
        return func(*args, **(kwargs or {}))


def look_alike(tensor: Tensor) -> Tensor:
    """Noise of the same shape and strides, overlaps included."""
    reach = 1 + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return torch.randn(reach).mul_(0.1).as_strided(tensor.shape, tensor.stride())


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


def medians(
    contestants: dict[str, Callable[[], object]],
    rounds: int,
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of one call of each, the contestants taking turns."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, call in contestants.items():
            began = clock()
            for _ in range(repeats):
                call()
            if number:  # the first round warms up
                times[name].append((clock() - began) / repeats)
    return {name: statistics.median(values) for name, values in times.items()}


def compare(size: str, window: int, rounds: int) -> None:
    spec = SIZES[size]
    batch = make_batch(spec, 256, window)
    kind = algorithms.get("ma-iql")
    ours = kind(kind.Config(window=window), spec)
    loop = LoopMAIQL(spec, window)
    with ProductRecorder() as recorder:
        ours.update(batch)

    @torch.no_grad()
    def bare() -> None:
        for func, tensors in recorder.calls:
            func(*tensors)

    found = medians({"ours": lambda: ours.update(batch), "bare": bare, "loop": lambda: loop.update(batch)}, rounds, 5)
    print(
        f"ma-iql  {size:8} history {window:2}   ours {found['ours'] * 1e3:6.1f} ms   "
        f"over bare products {found['ours'] / found['bare']:.2f}   loop over ours {found['loop'] / found['ours']:.2f}"
    )


def time_data(size: str, scenario: str, conf: str, view: str) -> None:
    """Seconds per million transitions, each step on its own."""
    shares = partition(scenario, conf, view)
    episodes, length = 10_000, 100
    width = 1 + max(column for row in shares.obs_index for column in row)
    steps = episodes * length
    ends = torch.zeros(steps, dtype=torch.bool)
    ends[length - 1 :: length] = True
    recording = Recording(
        state=torch.randn(steps + episodes, width),
        actions=torch.rand(steps, sum(shares.act_dims)) * 2 - 1,
        rewards=torch.randn(steps),
        terminations=torch.zeros(steps, dtype=torch.bool),
        truncations=ends,
        lengths=torch.full((episodes,), length),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "million.safetensors"
        save_data(path, recording)
        began = time.perf_counter()
        loaded = load_data(path)
        assert isinstance(loaded, Recording)
        read = time.perf_counter()
    data = loaded.split(shares)
    split = time.perf_counter()
    buffer = TransitionBuffer(data, window=10)
    windowed = time.perf_counter()
    index = torch.randint(len(buffer), (256,))
    drawn = time.perf_counter()
    for _ in range(100):
        buffer.transitions(index)
    sample = (time.perf_counter() - drawn) / 100
    print(
        f"data    {size:8} 1M transitions   load and verify {read - began:.2f} s   split {split - read:.2f} s   "
        f"window {windowed - split:.2f} s   a batch of 256 with history {sample * 1e3:.2f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="counted rounds of each comparison")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} thread(s), batch 256, hidden 2 x 256, float32, CPU")
    for size in SIZES:
        for window in (0, 10):
            compare(size, window, options.rounds)
    time_data("reacher", "reacher", "2x1notip", "0")
    time_data("ant", "ant", "t4x2", "0")


if __name__ == "__main__":
    main()
