"""Coverage-guided fuzzing of what parses foreign bytes: `python fuzz.py [TARGET ...] [--seconds N] [--corpus DIR]`.

Needs atheris (`make fuzz` installs it into an environment of its own). A target is given bytes, writes them where the
parser looks for them, and parses. Sentences (BadInputError, OSError) are answers; every other error is a finding, whose
input is kept in the corpus folder under `crashes`. Each target runs in a process of its own for a fixed time.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
SUPPORT = Path(__file__).resolve().parents[1] / "support"
sys.path[:0] = [str(SUPPORT), str(Path(__file__).resolve().parents[2])]
LARGEST = 1 << 16
"""Bytes of an input."""
INSTRUMENTED = (
    "offline_marl.core.files",
    "offline_marl.core.types",
    "offline_marl.datasets.base",
    "offline_marl.datasets.files",
    "offline_marl.datasets.readers",
    "offline_marl.datasets.validate",
    "offline_marl.report.gather",
    "offline_marl.runs.live",
    "offline_marl.runs.metric_rows",
    "offline_marl.training.preferences.answering",
)
Parse = Callable[[Path], object]


def prepare(name: str, place: Path) -> tuple[Path, Parse, list[bytes]]:
    """A target: where its bytes are written, what parses them, and inputs to begin with."""
    import numpy as np
    from compared import compare
    from foreign import Team, omar_arrays, vault_arrays, write_omar, write_vault
    from worlds import reacher_recording, saved, world

    from offline_marl.datasets.files import load_data, save_data
    from offline_marl.datasets.readers.convert import load_place
    from offline_marl.datasets.readers.storage.pickled import read_pickle
    from offline_marl.datasets.writers import d4rl
    from offline_marl.report.gather.tables import read_table
    from offline_marl.runs.live import plain_lines
    from offline_marl.runs.metric_rows import read_rows
    from offline_marl.training.preferences.folders import ComparisonFolder
    from offline_marl.training.preferences.label_tables import export, take_in

    if name == "pickles":
        arrays = {
            "observations": np.zeros((3, 2), np.float32),
            "rewards": np.ones(3),
            "words": ["a", 1, None, (2.5, b"x")],
        }
        return place / "x.pkl", read_pickle, [pickle.dumps(arrays, protocol=number) for number in range(2, 6)]
    if name == "ours":
        save_data(place / "one.safetensors", reacher_recording(episodes=1, length=2))
        seeds = [Path(saved(place, world("discrete", episodes=1), "two.safetensors")), place / "one.safetensors"]
        return place / "x.safetensors", load_data, [file.read_bytes() for file in seeds]
    if name == "d4rl":
        d4rl.write(place / "one.hdf5", reacher_recording(episodes=1, length=2))
        return place / "x.hdf5", load_place, [(place / "one.hdf5").read_bytes()]
    if name == "omar":
        folder = write_omar(place / "omar" / "seed_0_data", omar_arrays(Team()))
        file = sorted(folder.glob("*.npy"))[0]
        return file, lambda _: load_place(place / "omar"), [file.read_bytes()]
    if name == "vault":
        write_vault(place / "x.vlt" / "Good", vault_arrays(Team()), small=True)
        file = place / "x.vlt" / "Good" / "metadata.json"
        return file, lambda _: load_place(place / "x.vlt" / "Good"), [file.read_bytes()]
    if name == "tables":
        rows = b"algorithm,dataset,seed,step,return,normalized_return\nbc,toy,0,20,1.5,\niql,toy,1,20,-2,50\n"
        return place / "x.csv", read_table, [rows]
    if name == "labels":
        folder = compare(place / "c", saved(place, world("continuous", episodes=8)), budget=6)
        with ComparisonFolder(folder) as opened:
            export(opened, place / "x.csv")

        def parse(file: Path) -> object:
            with ComparisonFolder(folder) as opened:
                return take_in(opened, file, "me")

        return place / "x.csv", parse, [(place / "x.csv").read_bytes()]
    if name == "rows":
        lines = b'{"kind": "train", "step": 1, "loss": 0.5}\n{"kind": "eval", "step": 2, "return": null}\n'
        return place / "x.jsonl", lambda file: (read_rows(file), list(plain_lines(file.read_bytes()))), [lines]
    raise SystemExit(f"There is no target '{name}': there are {', '.join(TARGETS)}.")


TARGETS = ("pickles", "ours", "d4rl", "omar", "vault", "tables", "labels", "rows")


def attempts(name: str, place: Path) -> tuple[Callable[[bytes], None], list[bytes]]:
    """What is called with bytes, and the first ones."""
    from offline_marl.core.errors import BadInputError

    file, parse, seeds = prepare(name, place)

    def attempt(content: bytes) -> None:
        file.write_bytes(content)
        with contextlib.suppress(BadInputError, OSError):
            parse(file)

    return attempt, seeds


def fuzz(name: str, corpus: Path, seconds: int) -> None:
    """Fuzz one target in this process; does not return."""
    import atheris

    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        place = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
        attempt, seeds = attempts(name, place)
    folder, crashes = corpus / name, corpus / "crashes"
    folder.mkdir(parents=True, exist_ok=True)
    crashes.mkdir(exist_ok=True)
    for number, seed in enumerate(seeds):
        (folder / f"seed-{number}").write_bytes(seed)
    words = [f"-max_total_time={seconds}", f"-max_len={LARGEST}", "-timeout=20", "-rss_limit_mb=3000", "-seed=22"]
    atheris.Setup([sys.argv[0], *words, f"-artifact_prefix={crashes}/{name}-", str(folder)], attempt)
    atheris.Fuzz()


def again(files: list[Path]) -> Iterator[tuple[Path, Any]]:
    """What inputs that were kept come to now: the error that is no sentence, or None."""
    for file in files:
        with tempfile.TemporaryDirectory() as place:
            attempt, _ = attempts(file.name.partition("-")[0], Path(place))
            try:
                attempt(file.read_bytes())
            except Exception as error:
                yield file, error
            else:
                yield file, None


def main() -> None:
    """Fuzz every target that is named, each for a time; fails if one has a finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", default=[], help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--here", action="store_true", help="in this process")
    asked = parser.parse_args()
    if asked.here:
        fuzz(asked.targets[0], asked.corpus, asked.seconds)
    failed = []
    for name in asked.targets or TARGETS:
        words = [
            sys.executable,
            __file__,
            name,
            "--here",
            "--seconds",
            str(asked.seconds),
            "--corpus",
            str(asked.corpus),
        ]
        done = subprocess.run(words, stderr=subprocess.PIPE, text=True)
        lines = done.stderr.splitlines()
        runs = next((line for line in reversed(lines) if line.startswith("Done ")), f"ended by {done.returncode}")
        seen = next((line.split("cov:")[1].split()[0] for line in reversed(lines) if "cov:" in line), "?")
        print(f"{name:<10}{runs}; {seen} branches seen", flush=True)
        if done.returncode:
            failed.append(name)
            print("\n".join(lines[-40:]))
    if failed:
        raise SystemExit(f"findings in {', '.join(failed)}: their inputs are in {asked.corpus}/crashes")
    shutil.rmtree(asked.corpus / "crashes", ignore_errors=True)


if __name__ == "__main__":
    main()
