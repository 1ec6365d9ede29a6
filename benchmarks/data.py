"""What loading, splitting and sampling cost: `python benchmarks/data.py [--large GB]`, CPU, one thread.

1. A million transitions: a published pickle into our layout, opened, split among agents, 256 rows drawn for all
   agents from memory and from the file; the same rows out of HDF5, which is why our layout is safetensors.
2. With --large: an HDF5 file of so many gigabytes is converted and trained on by the command line while its memory
   is limited to 2 GB (a control group where this machine lets us make one) and watched.
"""

from __future__ import annotations

import argparse
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from offline_marl.core.partition import partition
from offline_marl.datasets.base import Dataset, Recording
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.datasets.files import load_data
from offline_marl.datasets.readers.convert import convert

SIZES = {"reacher": ("2x1notip", "0", 10, 2, 50), "ant": ("t4x2", "0", 27, 8, 1000)}
"""Conf, view, widths of state and joint action, steps of an episode."""
MILLION = 1_000_000
ROWS = 256
LIMIT = 2 * 10**9


def write_pickle(path: Path, size: str) -> None:
    """As MOMA-PPO's are, with a million transitions."""
    _, _, seen, moved, length = SIZES[size]
    draw, episodes = np.random.default_rng(0), MILLION // length
    rows = draw.standard_normal((episodes, length + 1, seen), np.float32)
    timed = np.ones((episodes, length, 1), np.float32)
    timed[:, -1] = 0
    arrays = {
        "observations": rows[:, :-1].reshape(MILLION, seen),
        "next_observations": rows[:, 1:].reshape(MILLION, seen),
        "actions": draw.uniform(-1, 1, (MILLION, moved)).astype(np.float32),
        "rewards": draw.standard_normal((MILLION, 1), np.float32),
        "masks": np.ones((MILLION, 1), np.float32),
        "time_out_masks": timed.reshape(MILLION, 1),
    }
    with path.open("wb") as stream:
        pickle.dump(arrays, stream, 4)


def milliseconds(draw: Callable[[], object], times: int = 2000) -> tuple[float, float]:
    """Median and lowest decile."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        draw()
        taken.append(1e3 * (time.perf_counter() - began))
    taken.sort()
    return taken[times // 2], taken[times // 10]


def drawing(data: Dataset, stays: bool) -> Callable[[], object]:
    buffer, generator = TransitionBuffer(data, state=False, stays=stays), torch.Generator().manual_seed(0)
    return lambda: buffer.transitions(buffer.draw(ROWS, generator))


def from_hdf5(recording: Recording, path: Path) -> Iterator[str]:
    import h5py

    began = time.perf_counter()
    with h5py.File(path, "w") as file:
        for name in ("state", "actions", "rewards", "terminations", "truncations"):
            file[name] = getattr(recording, name).numpy()
    yield f"  HDF5 (contiguous): written in {time.perf_counter() - began:.2f} s"
    began = time.perf_counter()
    with h5py.File(path) as file:
        held = {name: file[name][...] for name in file}
        yield f"  HDF5: read whole in {time.perf_counter() - began:.2f} s, no checksum"
        draw, steps = np.random.default_rng(0), len(held["rewards"])

        def rows() -> None:
            index = np.sort(draw.choice(steps, ROWS, replace=False))
            for name in file:
                file[name][index]

        median, low = milliseconds(rows, 20)
        yield f"  HDF5: {ROWS} rows from the file {median:.1f} ms (lowest decile {low:.1f})"


def measure_million(size: str, folder: Path) -> None:
    conf, view, *_ = SIZES[size]
    source, kept = folder / f"{size}.pkl", folder / f"{size}.safetensors"
    write_pickle(source, size)
    began = time.perf_counter()
    convert(source, kept)
    print(f"{size}, a million transitions, {source.stat().st_size / 1e6:.0f} MB of pickle")
    print(f"  converted in {time.perf_counter() - began:.2f} s, both checksums included")
    began = time.perf_counter()
    recording = load_data(kept)
    opened = time.perf_counter()
    assert isinstance(recording, Recording)
    shares = partition(size, conf, view)
    data = recording.split(shares)
    done = time.perf_counter()
    print(f"  opened and verified in {opened - began:.2f} s, split in {done - opened:.2f} s: {done - began:.2f} s")
    drawers = [drawing(data, False), drawing(recording.split(shares, mapped=True), True)]
    for draw in drawers:
        milliseconds(draw)  # the pages come into memory
    # Side by side, so that both meet the same machine.
    rounds = [[milliseconds(draw, 500) for draw in drawers] for _ in range(9)]
    (memory, low), (mapped, mapped_low) = (sorted(each)[4] for each in zip(*rounds, strict=True))
    print(f"  {ROWS} rows of all agents: memory {memory:.3f} ms (lowest decile {low:.3f}), ", end="")
    print(f"mapped {mapped:.3f} ms ({mapped_low:.3f}): {mapped / memory:.2f} times")
    for line in from_hdf5(recording, folder / f"{size}.hdf5"):
        print(line)


def write_large(path: Path, gigabytes: float) -> None:
    """Ant's steps as D4RL keeps them, written piece by piece."""
    import h5py

    _, _, seen, moved, length = SIZES["ant"]
    steps = int(gigabytes * 1e9 / (4 * (seen + moved + 1) + 2) / length) * length
    draw, ends = np.random.default_rng(0), np.arange(1, steps + 1) % length == 0
    with h5py.File(path, "w") as file:
        file["rewards"] = draw.random(steps, np.float32)
        file["terminals"], file["timeouts"] = np.zeros(steps, np.bool_), ends
        for name, width in (("observations", seen), ("actions", moved)):
            table = file.create_dataset(name, (steps, width), np.float32)
            for first in range(0, steps, 100 * length):
                count = min(100 * length, steps - first)
                table[first : first + count] = 2 * draw.random((count, width), np.float32) - 1
    with path.open("rb") as stream:  # or its pages would be charged to us, and the limit would not see them
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    print(f"large: {steps:,} transitions, {path.stat().st_size / 1e9:.1f} GB of HDF5")


def limited() -> Path | None:
    """A control group that may use `LIMIT` bytes, page cache included; None where we may make none."""
    for root in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")):
        name = "memory.limit_in_bytes" if root.name == "memory" else "memory.max"
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, kinds, place = line.split(":", 2)
            group = root / place.lstrip("/") / "offline_marl_limit"
            if ("memory" in kinds.split(",")) == (root.name == "memory") and group.parent.is_dir():
                try:
                    group.mkdir(exist_ok=True)
                    (group / name).write_text(str(LIMIT))
                    return group
                except OSError:
                    continue
    return None


def measure_large(folder: Path, gigabytes: float, steps: int) -> None:
    path, group = folder / "ant-large.hdf5", limited()
    write_large(path, gigabytes)
    command = [sys.executable, "-m", "offline_marl", "train", "td3-bc", "--dataset", f"{path}_t4x2_0"]
    command += ["--steps", str(steps), "--out", str(folder / "run"), "--device", "cpu", "--memory", "1"]
    command += ["--final-episodes", "1", "--eval-every", "0", "--log-every", str(max(1, steps // 10))]

    def enter() -> None:
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    home = {**os.environ, "OFFLINE_MARL_HOME": str(folder / "home")}
    began, peak = time.perf_counter(), dict.fromkeys(("RssAnon", "VmRSS"), 0)
    process = subprocess.Popen(command, preexec_fn=enter, env=home)
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        for name in peak:
            found = [int(line.split()[1]) for line in status.splitlines() if line.startswith(name)]
            peak[name] = max(peak[name], *found, 0)
        time.sleep(0.05)
    taken, code = time.perf_counter() - began, process.wait()
    told = f"limited to {LIMIT / 1e9:.0f} GB, page cache included" if group else "not limited: no control group"
    print(f"large: converted, {steps} updates of td3-bc in {taken:.0f} s, {told}; exit {code}")
    print(f"  its own memory at most {peak['RssAnon'] / 1e6:.2f} GB, with pages of files {peak['VmRSS'] / 1e6:.2f} GB")
    if group is not None:
        group.rmdir()


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", type=float, default=0.0, metavar="GB", help="train on a set of so many gigabytes")
    parser.add_argument("--steps", type=int, default=1000, help="updates of that training")
    parser.add_argument("--folder", type=Path, help="where files go; a temporary folder unless said")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        for size in SIZES:
            measure_million(size, Path(folder))
        if asked.large:
            measure_large(Path(folder), asked.large, asked.steps)


if __name__ == "__main__":
    main()
