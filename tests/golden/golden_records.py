"""Records of golden runs: what a run left behind as one flat table, how two tables differ, and where they were made.

Reads the plain formats of the folders (safetensors with a JSON header, CSV, JSON) and nothing of the library's inside.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import json
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

import offline_marl

RECORDS = Path(__file__).parent / "records"
REPOSITORY = Path(__file__).resolve().parents[2]
CLOCKS = {"wall_s"}
"""Columns and fields that tell time."""
COUNTS = {"environment_steps", "online"}
"""Columns that say what a run played, which came after the first records; what it learnt says the same."""
STATES = ("algorithm", "model")
"""Where the checkpoint of a run, and of a fit, keeps the learner."""

Outcome = dict[str, dict[str, str]]
"""For each folder or file that a run left: its values, each under the words that name it."""


# --- what a run left behind ---------------------------------------------------------------------------------------
def outcome(out: Path) -> Outcome:
    """All that is compared of a golden run's folder."""
    found = {}
    for checkpoints in sorted(out.rglob("checkpoints")):
        folder = checkpoints.parent
        found[folder.relative_to(out).as_posix()] = dict(run_values(folder))
    for file in sorted(out.glob("*.safetensors")):
        found[file.name] = dict(data_values(file))
    return found


def run_values(folder: Path) -> Iterator[tuple[str, str]]:
    """Final parameters, rows and scores of a run, or a fit."""
    newest = max((folder / "checkpoints").glob("step_*.safetensors"), key=lambda path: path.name)
    yield "final checkpoint", newest.stem
    state = read_tree(newest)
    yield from tensor_values(next(state[name] for name in STATES if name in state))
    for name in ("metrics.csv", "eval.csv"):
        yield from table_values(folder / name)
    done = json.loads((folder / "DONE").read_text())
    for name in ("returns", "errors", "conventions"):
        if name in done:
            yield from plain_values(f"score {name}", done[name])
    if "return" in done.get("data", {}):
        yield "score data return", repr(done["data"]["return"])
    if "returns" in done:
        again = offline_marl.evaluate(folder, episodes=3, seed=7)
        yield "score evaluated anew, returns", repr(again.returns.tolist())
    if (folder / "report.json").exists():
        yield from plain_values("report", json.loads((folder / "report.json").read_text()))


def tensor_values(state: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """A digest of each tensor of a learner's state, and one of all the tensors of each nested part."""
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            yield f"tensor {name}", digest([value])
    for name, value in state.items():
        for part, node in value.items() if isinstance(value, dict) else ():
            inside = list(tensors_of(node))
            if inside:
                yield f"tensors of {name}/{part}", digest(inside)


def data_values(file: Path) -> Iterator[tuple[str, str]]:
    """A digest of each tensor of a data set, and its metadata but for the versions of packages."""
    for name, value in read_tree(file).items():
        if isinstance(value, torch.Tensor):
            yield f"tensor {name}", digest([value])
        elif name == "metadata":
            told = {key: node for key, node in value.items() if key != "versions"}
            # Runs are named by their place.
            text = json.dumps(told).replace(str(file.parent), "OUT")
            yield from plain_values("metadata", json.loads(text))
        else:
            yield from plain_values(name, value)


def table_values(file: Path) -> Iterator[tuple[str, str]]:
    """Every number of a CSV file as it is written there."""
    with file.open(newline="") as stream:
        for row in csv.DictReader(stream):
            for column, value in row.items():
                if column not in CLOCKS | COUNTS and column != "step":
                    yield f"{file.name} step {row['step']}, column {column}", value


def plain_values(name: str, node: Any) -> Iterator[tuple[str, str]]:
    """The leaves of JSON; a long list as a digest."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from plain_values(f"{name} {key}", value)
    else:
        text = repr(node)
        yield name, text if len(text) <= 200 else f"{text[:60]}... {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def digest(tensors: list[torch.Tensor]) -> str:
    """Kind, shape and a digest of the bytes."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    shape = "x".join(map(str, tensors[0].shape)) or "scalar"
    kind = f"{str(tensors[0].dtype).removeprefix('torch.')} {shape}" if len(tensors) == 1 else f"{len(tensors)} tensors"
    return f"{kind} {total.hexdigest()[:16]}"


def tensors_of(node: Any) -> Iterator[torch.Tensor]:
    """All tensors below a node, in order."""
    if isinstance(node, torch.Tensor):
        yield node
    elif isinstance(node, dict | list):
        for value in node.values() if isinstance(node, dict) else node:
            yield from tensors_of(value)


def read_tree(path: Path) -> Any:
    """The content of a checkpoint or a data set."""
    with safe_open(path, "pt") as file:
        tree = json.loads(json.loads(file.metadata()["offline_marl"])["tree"])
        return _attach(tree, file)


def _attach(node: Any, file: Any) -> Any:
    if isinstance(node, list):
        return [_attach(value, file) for value in node]
    if isinstance(node, dict):
        if "__tensor__" in node:
            return file.get_tensor(node["__tensor__"])
        return {key: _attach(value, file) for key, value in node["__dict__"]}
    return node


# --- how two outcomes differ --------------------------------------------------------------------------------------
def first_difference(name: str, recorded: Outcome, now: Outcome) -> str | None:
    """The first place where a run no longer does what it did, by name; None where all is equal."""
    for place, values in recorded.items():
        if place not in now:
            return f"{name}: {place} was left behind when it was recorded, and is not now"
        for what, value in values.items():
            if what not in now[place]:
                return f"{name}: {place}: {what} is gone (recorded: {value})"
            if now[place][what] != value:
                return f"{name}: {place}: {what}: recorded {value}, now {now[place][what]}"
        for what, value in now[place].items():
            if what not in values:
                return f"{name}: {place}: {what} is new (now: {value})"
    for place in now:
        if place not in recorded:
            return f"{name}: {place} is left behind now, and was not when it was recorded"
    return None


# --- records and where they were made -----------------------------------------------------------------------------
def recorded(folder: Path = RECORDS) -> dict[str, dict[str, Any]]:
    """Every record of a folder, by the name of its run."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def write(folder: Path, name: str, commit: str | None, found: Outcome) -> None:
    """Keep a record."""
    content = {"commit": commit, "platform": here(), "outcome": found}
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def here() -> dict[str, str]:
    """All that decides bits besides the library: what computes, and what simulates."""
    packages = {name: importlib.metadata.version(name) for name in ("numpy", "gymnasium", "mujoco")}
    capability = torch.backends.cpu.get_cpu_capability()
    return {"torch": torch.__version__, **packages, "capability": capability, "processor": processor()}


def processor() -> str:
    """Machine, maker, family and model: libraries choose their arithmetic by these."""
    told = [platform.machine()]
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().partition("\n\n")[0].splitlines() if cpuinfo.exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    told += [fields[key] for key in ("vendor_id", "cpu family", "model") if key in fields]
    return " ".join(told if len(told) > 1 else [*told, platform.processor()])


def library_commit() -> str:
    """The last commit that touched the library.

    Raises:
        RuntimeError: There is no history, or the library holds changes that no commit has.
    """
    if not (REPOSITORY / ".git").exists():
        raise RuntimeError(f"{REPOSITORY} is no git checkout: a record names the commit that it was made at.")
    if library() != REPOSITORY:
        raise RuntimeError(f"The library in use is that of {library()}: set PYTHONPATH={REPOSITORY}.")
    if git("status", "--porcelain", "--", "offline_marl"):
        raise RuntimeError("The library holds changes that no commit has: commit them before recording.")
    return git("log", "-1", "--format=%H", "--", "offline_marl")


def library() -> Path:
    """The folder that the library in use was imported from."""
    return Path(offline_marl.__file__).resolve().parents[1]


def git(*words: str) -> str:
    """What git answers in this repository.

    Raises:
        RuntimeError: It refuses, with its own message, or is not installed.
    """
    try:
        done = subprocess.run(["git", "-C", str(REPOSITORY), *words], capture_output=True, text=True)
    except OSError as error:
        raise RuntimeError(f"git does not run: {error}") from None
    if done.returncode:
        raise RuntimeError(f"git {words[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def unpack(commit: str, folder: Path) -> None:
    """Put the library as it was at a commit into a folder.

    Raises:
        RuntimeError: There is no git history here, or it does not reach back to that commit.
    """
    if not (REPOSITORY / ".git").exists():
        raise RuntimeError(f"{REPOSITORY} is no git checkout")
    archive = folder / "library.zip"
    git("archive", f"--output={archive}", commit, "offline_marl")
    shutil.unpack_archive(archive, folder)
