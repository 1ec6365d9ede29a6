"""One update beside a peer's, one agent: `python benchmarks/peers.py [--d3rlpy PYTHON] [--only iql] [--table]`.

Peers are d3rlpy, in the interpreter of an environment where it is installed (`make peers` makes one), and plain
one-agent loops of our own writing in the style of CORL and CleanRL (loop_baselines). Rows are 256 and drawn before:
what is timed is the update alone, PPO's of 2,000 steps. Each side runs in a process of its own with one thread, ours
and the peer's in turn, round by round, and both are started anew in the middle; a ratio is the peer's processor time
over ours in one round, above 1 where ours is faster. Rows go to results/peers.csv, one of a peer, a learner and a size;
--table prints them as docs/speed.md has them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "peers.csv"
SIZES = {"hopper": (11, 3), "ant": (27, 8)}
"""Widths of what the one agent sees and does."""
ROWS, HIDDEN = 256, 256
SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("d3rlpy", "cql"): {"policy": "sac", "cql_samples": 10, "target_gap": 10.0, "bc_weight": 0.0},
}
"""Ours, where defaults compute something else than the peer's."""
PAIRS = {
    "d3rlpy": ("bc", "iql", "td3-bc", "cql"),
    "loop": ("bc", "iql", "td3-bc", "cql", "ma-ppo"),
}
FIELDS = (
    *("peer", "version", "algorithm", "size", "ratio", "least", "largest", "rounds", "ours_ms", "peer_ms"),
    *("torch", "commit", "date"),
)
KEY = ("peer", "algorithm", "size")


def ours(name: str, size: str, settings: dict[str, Any]) -> tuple[Callable[[], object], str]:
    """Two updates of ours, or one of PPO, and the package's version."""
    from speed_rows import batch_of

    from offline_marl.algorithms.base import algorithms
    from offline_marl.core.allocator import keep_memory
    from offline_marl.core.config import build
    from offline_marl.core.types import Spec

    keep_memory()  # as the command line does
    obs, act = SIZES[size]
    kind, spec = algorithms.get(name), Spec((obs,), (act,))
    learner = kind(build(kind.Config, settings), spec)
    batch = batch_of(learner, spec)
    return (lambda: [learner.update(batch) for _ in range(updates_of(name))]), ""


def loop(name: str, size: str) -> tuple[Callable[[], object], str]:
    """The same of a plain loop."""
    from loop_baselines import LOOPS, Setup
    from speed_rows import make_segments
    from timing import make_batch

    from offline_marl.algorithms.base import algorithms
    from offline_marl.core.types import Spec

    obs, act = SIZES[size]
    spec = Spec((obs,), (act,))
    batch = make_segments(spec, 0) if name == "ma-ppo" else make_batch(spec, ROWS, 0)
    learner = LOOPS[name](Setup(spec, lr=algorithms.get(name).Config().lr))
    return (lambda: [learner.update(batch) for _ in range(updates_of(name))]), ""


def d3rlpy(name: str, size: str) -> tuple[Callable[[], object], str]:
    """Two updates of d3rlpy with its defaults, at our number of rows and widths, and its version."""
    import logging

    import d3rlpy as peer
    import structlog
    import torch
    from d3rlpy.torch_utility import TorchMiniBatch

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    obs, act = SIZES[size]
    wide = peer.models.VectorEncoderFactory([HIDDEN, HIDDEN])
    both = {"actor_encoder_factory": wide, "critic_encoder_factory": wide}
    configs = {
        "bc": lambda: peer.algos.BCConfig(batch_size=ROWS, policy_type="stochastic", encoder_factory=wide),
        "iql": lambda: peer.algos.IQLConfig(batch_size=ROWS, value_encoder_factory=wide, **both),
        "td3-bc": lambda: peer.algos.TD3PlusBCConfig(batch_size=ROWS, **both),
        "cql": lambda: peer.algos.CQLConfig(batch_size=ROWS, **both),
    }
    learner = configs[name]().create(device="cpu:0")
    learner.create_impl((obs,), act)
    noise = torch.Generator().manual_seed(0)
    batch = TorchMiniBatch(
        observations=torch.randn(ROWS, obs, generator=noise),
        actions=torch.randn(ROWS, act, generator=noise).clamp(-0.9, 0.9),
        rewards=torch.randn(ROWS, 1, generator=noise),
        next_observations=torch.randn(ROWS, obs, generator=noise),
        next_actions=torch.randn(ROWS, act, generator=noise).clamp(-0.9, 0.9),
        returns_to_go=torch.zeros(ROWS, 1),
        terminals=torch.zeros(ROWS, 1),
        intervals=torch.ones(ROWS, 1),
        device="cpu:0",
    )
    return (lambda: [learner.impl.update(batch, step) for step in range(2)]), peer.__version__


def updates_of(name: str) -> int:
    """Of a call: two where the policy moves at every second one, or might."""
    return 1 if name == "ma-ppo" else 2


def serve(side: str, name: str, size: str, settings: dict[str, Any]) -> None:
    """Answer each line of the input, the seconds of a round, by the processor seconds of one update."""
    prepare = {"ours": lambda: ours(name, size, settings), "loop": lambda: loop(name, size)}
    prepare["d3rlpy"] = lambda: d3rlpy(name, size)
    chosen = prepare[side]
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    call, version = chosen()
    for _ in range(2):
        call()
    print(json.dumps({"version": version, "torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        times: list[float] = []
        while sum(times) < float(line) and len(times) < 300:
            began = time.process_time()
            call()
            times.append(time.process_time() - began)
        print(json.dumps({"seconds": statistics.median(times) / updates_of(name)}), flush=True)


class Side:
    """A process of this interpreter that makes updates when it is asked to.

    Raises:
        RuntimeError: It does not start; the message is its last line.
    """

    def __init__(self, python: str, side: str, name: str, size: str, settings: dict[str, Any]) -> None:
        words = [python, str(Path(__file__).resolve()), "serve", side, name, size, json.dumps(settings)]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(words, env=env, cwd=HERE, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        self.versions = self._answer()

    def ask(self, seconds: float) -> float:
        """Processor seconds of one update, the median of so many seconds' worth."""
        assert self._process.stdin is not None
        print(seconds, file=self._process.stdin, flush=True)
        return float(self._answer()["seconds"])

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        _, told = self._process.communicate()
        raise RuntimeError(next(reversed(told.strip().splitlines()), f"ended with {self._process.returncode}"))


def compare(peer: str, python: str, name: str, size: str, rounds: int, seconds: float) -> dict[str, object]:
    """A row: both sides in turn."""
    mine, theirs, versions = [], [], dict[str, str]()
    for half in (rounds - rounds // 2, rounds // 2):
        own = Side(sys.executable, "ours", name, size, SETTINGS.get((peer, name), {}))
        other = Side(python, peer, name, size, {})
        for number in range(half):
            sides = [(own, mine), (other, theirs)]
            for side, found in sides if number % 2 == 0 else sides[::-1]:  # so that neither always goes first
                found.append(side.ask(seconds))
        versions = {"version": other.versions["version"], "torch": own.versions["torch"]}
        own.close()
        other.close()
    ratios = [b / a for a, b in zip(mine, theirs, strict=True)]
    return {
        "peer": peer,
        **versions,
        "algorithm": name,
        "size": size,
        "ratio": f"{statistics.median(ratios):.2f}",
        "least": f"{min(ratios):.2f}",
        "largest": f"{max(ratios):.2f}",
        "rounds": rounds,
        "ours_ms": f"{statistics.median(mine) * 1e3:.2f}",
        "peer_ms": f"{statistics.median(theirs) * 1e3:.2f}",
        "commit": commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def commit() -> str:
    """Of the repository; empty outside of one."""
    words = ["git", "-C", str(HERE), "rev-parse", "--short=10", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True).stdout.strip() if shutil.which("git") else ""


def print_table() -> None:
    """A row for each learner, a column for each peer and size."""
    from rows import read

    rows = {tuple(row[field] for field in KEY): row for row in read(RESULTS)}
    columns = [(peer, size) for peer in PAIRS for size in SIZES]
    print("| update of | " + " | ".join(f"{peer}, {size}" for peer, size in columns) + " |")
    print("|---|" + "---|" * len(columns))
    for name in PAIRS["loop"]:
        cells = [rows.get((peer, name, size)) for peer, size in columns]
        shown = ["" if row is None else f"{row['ratio']} [{row['least']}, {row['largest']}]" for row in cells]
        print(f"| `{name}` | " + " | ".join(shown) + " |")


def main(arguments: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["serve"]:
        side, name, size, settings = words[1:]
        serve(side, name, size, json.loads(settings))
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--d3rlpy", help="interpreter of an environment that has d3rlpy; its rows are left out without")
    parser.add_argument("--only", nargs="+", choices=PAIRS["loop"], default=PAIRS["loop"], help="learners")
    parser.add_argument("--peer", nargs="+", choices=PAIRS, default=[*PAIRS], help="peers")
    parser.add_argument("--size", nargs="+", choices=SIZES, default=[*SIZES], help="widths of the agent")
    parser.add_argument("--rounds", type=int, default=8, help="rounds of both sides")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each side in a round, about")
    parser.add_argument("--table", action="store_true", help="measure nothing: print the committed rows")
    options = parser.parse_args(words)
    if not options.table:
        for peer in options.peer:
            # Not resolved: the link is how an interpreter knows its environment.
            python = sys.executable if peer != "d3rlpy" else options.d3rlpy and str(Path(options.d3rlpy).absolute())
            if not python:
                print("d3rlpy is not installed in an environment of its own: its rows are left out.", file=sys.stderr)
                continue
            run(peer, python, options)
    print_table()


def run(peer: str, python: str, options: argparse.Namespace) -> None:
    """Measure one peer's rows, each stored as it is there."""
    from rows import replace

    for name in (name for name in options.only if name in PAIRS[peer]):
        for size in options.size:
            try:
                row = compare(peer, python, name, size, options.rounds, options.seconds)
            except RuntimeError as error:
                print(f"{peer} {name} {size}: not measured: {error}", file=sys.stderr)
                continue
            replace(RESULTS, [row], FIELDS, KEY)
            print(f"{peer} {name} {size}: {row['ratio']} [{row['least']}, {row['largest']}]", file=sys.stderr)


if __name__ == "__main__":
    main()
