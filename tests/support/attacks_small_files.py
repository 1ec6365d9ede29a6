"""Small files of runs, sweeps, recipes, models and comparisons: empty, cut, bent, of other types, nested, huge."""

from __future__ import annotations

import atexit
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from arena import WORK, Attack
from attacks_metadata import ODD
from worlds import saved, world

from offline_marl import train
from offline_marl.launch.jobs.job import Job, note_start, write_submitted
from offline_marl.launch.sweeps.folder import Sweep
from offline_marl.launch.sweeps.plan import Planned

RUN: dict[str, Any] = {
    "steps": 2,
    "device": "cpu",
    "hidden": [8],
    "batch_size": 4,
    "log_every": 1,
    "eval_every": 1,
    "eval_episodes": 2,
    "final_episodes": 2,
    "checkpoint_every": 1,
    "max_steps": 5,
}
RECIPE = """
out = "made"
[stages.play]
command = "collect"
"""
SWEEP = """
algorithms = ["bc"]
datasets = ["coordination-mix-v0"]
seeds = [0]
[fields]
steps = 2
"""
CONTENTS: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \n",
    "a number": b"3",
    "null": b"null",
    "a word": b'"words"',
    "a list": b"[1, [2]]",
    "an empty table": b"{}",
    "a table of tables": b'{"a": {"b": {}}}',
    "a nest": b"[" * 1_000_000,
    "a whole nest": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "NaN": b'{"steps": NaN, "step": Infinity, "score": {"return": NaN}}',
    "huge numbers": b'{"steps": 1' + b"0" * 4000 + b', "step": 1e400}',
    "too many digits": b'{"steps": 1' + b"0" * 9000 + b"}",
    "not UTF-8": b"\xff\xfe\x00{}",
    "nothing but nulls": b"\x00" * 4096,
    "a pickle": b"\x80\x04cposix\nsystem\n\x8c\x0dtouch ./pwned\x85R.",
    "TOML": b'a = "b"\n[c]\nd = 1\n',
    "TOML, nested": b"a = " + b"[" * 100_000,
    "YAML that names Python": b"!!python/object/apply:os.system ['touch pwned']",
}
MAKES: dict[str, tuple[str, ...]] = {
    "DONE": ("report", "resume", "watch", "status", "evaluate"),
    "versions.json": ("report", "evaluate", "resume"),
    "metrics.jsonl": ("report", "watch", "status", "resume"),
    "config.json": ("report", "resume", "evaluate", "watch", "status"),
    "task.json": ("evaluate", "report", "resume"),
    "job.json": ("status", "report"),
    "starts.jsonl": ("status", "report", "watch"),
    "tuned.json": ("report",),
    "report.json": ("report",),
    "sweep.json": ("sweep status", "sweep collect", "report", "watch"),
}
"""Files of a run, and the commands that read them."""
WORDS: dict[str, tuple[str, ...]] = {
    "report": ("report", "run", "--out", WORK, "--reps", "100"),
    "resume": ("resume", "run"),
    "watch": ("watch", "run", "--once"),
    "status": ("submit", "status", "run"),
    "evaluate": ("evaluate", "run", "--episodes", "2"),
    "sweep status": ("sweep", "status", "run"),
    "sweep collect": ("sweep", "collect", "run", "--out", f"{WORK}/t.csv"),
}


@cache
def base() -> Path:
    """A finished run with all that a job leaves in it, a sweep, comparisons; made once."""
    folder = Path(tempfile.mkdtemp(prefix="small-"))
    atexit.register(shutil.rmtree, folder, True)
    fields = {name: value for name, value in RUN.items() if name != "max_steps"}
    train("ma-ppo", environment="coordination", out=folder / "run", **fields)
    job = Job(command="train", name="ma-ppo", fields={**fields, "environment": "coordination"}, out=folder / "run")
    write_submitted(job, "local", "1_0", folder)
    note_start(folder / "run", {"event": "start", "id": "1_0", "host": "elsewhere", "pid": 3, "born": 1})
    note_start(folder / "run", {"event": "end", "how": "done"})
    (folder / "run" / "tuned.json").write_text(json.dumps({"seeds": [1], "metric": "return", "configurations": 3}))
    sweep = Sweep(folder / "sweep")
    planned = {"folder": "runs/a", "command": "train", "name": "bc"}
    sweep.path.mkdir()
    sweep.write_manifest("x.toml", "local", None, [Planned(**planned, fields={"dataset": "x", "seed": 0, "steps": 2})])
    shutil.copytree(folder / "run", folder / "sweep" / "runs" / "a")
    saved(folder, world("discrete", 6), "x.safetensors")
    # In a process of its own, for the lock and the database that the command leaves open.
    words = ["prefs", "pairs", "prefs", "--dataset", "x.safetensors", "--budget", "4", "--length", "2"]
    subprocess.run([sys.executable, "-m", "offline_marl", *words], cwd=folder, check=True, capture_output=True)
    return folder


def placed(folder: Path, sweep: bool) -> Path:
    shutil.copytree(base() / ("sweep" if sweep else "run"), folder / "run")
    return folder / "run"


def spoilt(file: str, change: Callable[[Path], None], command: str, folder: Path) -> tuple[str, ...]:
    change(placed(folder, file == "sweep.json") / file)
    return WORDS[command]


def written(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def bent(draw: random.Random, path: Path) -> None:
    """One entry of a table, at any depth, is another; or bytes are; or the file is cut."""
    content = path.read_bytes() if path.exists() else b"{}"
    lot = draw.random()
    if lot < 0.15:
        path.write_bytes(content[: draw.randrange(len(content) + 1)])
    elif lot < 0.3:
        changed = bytearray(content)
        changed[draw.randrange(len(changed))] = draw.randrange(256)
        path.write_bytes(changed)
    else:
        lines = content.decode().splitlines() if path.suffix == ".jsonl" else [content.decode()]
        at = draw.randrange(len(lines))
        lines[at] = json.dumps(_other(json.loads(lines[at]), draw))
        path.write_text("\n".join(lines) + "\n")


def _other(value: Any, draw: random.Random) -> Any:
    if isinstance(value, dict) and value and draw.random() < 0.85:
        name = draw.choice(sorted(value))
        if draw.random() < 0.1:
            return {key: inner for key, inner in value.items() if key != name}
        return {**value, name: _other(value[name], draw)}
    if isinstance(value, list) and value and draw.random() < 0.7:
        at = draw.randrange(len(value))
        return [*value[:at], _other(value[at], draw), *value[at + 1 :]]
    return draw.choice(list(ODD.values()))


# --- files that users write ---------------------------------------------------------------------------------------
USERS: dict[str, tuple[str, ...]] = {
    "sweep.toml": ("sweep", "x.toml", "--dry-run"),
    "sweep.yaml": ("sweep", "x.yaml", "--dry-run"),
    "sweep.json": ("sweep", "x.json", "--dry-run"),
    "recipe.toml": ("recipe", "status", "x.toml"),
    "recipe.yaml": ("recipe", "status", "x.yaml"),
    "config.toml": ("train", "bc", "--dataset", "x.safetensors", "--config", "x.toml", "--out", WORK, "--steps", "2"),
    "config.yaml": ("train", "bc", "--dataset", "x.safetensors", "--config", "x.yaml", "--out", WORK, "--steps", "2"),
    "profile.toml": ("submit", "train", "bc", "--dataset", "x.safetensors", "--profile", "x.toml", "--dry-run"),
    "mixture.toml": ("data", "mix", f"{WORK}/m.safetensors", "--recipe", "x.toml"),
    "table.csv": ("report", "x.csv", "--out", WORK, "--reps", "100"),
}


def given(file: str, content: bytes, folder: Path) -> tuple[str, ...]:
    shutil.copy(base() / "x.safetensors", folder)
    (folder / f"x{Path(file).suffix}").write_bytes(content)
    return USERS[file]


LABELS: dict[str, bytes] = {
    **CONTENTS,
    "names alone": b"pair_id,answer,annotator\n",
    "no such pair": b"pair_id,answer,annotator\n999,first,me\n",
    "pairs that are words": b"pair_id,answer,annotator\nx,first,me\n",
    "pairs beyond": b"pair_id,answer,annotator\n" + b"9" * 400 + b",first,me\n",
    "an answer that is none": b"pair_id,answer,annotator\n1,both,me\n",
    "a label that is none": b"pair_id,label,annotator\n1,nan,me\n",
    "too few columns": b"pair_id,answer,annotator\n1\n",
    "too many columns": b"pair_id,answer,annotator\n1,first,me,1,2,3\n",
    "a field of a megabyte": b'pair_id,answer,annotator\n1,first,"' + b"x" * 1_000_000 + b'"\n',
    "an open quotation": b'pair_id,answer,annotator\n1,"first,me\n',
    "escapes": b"pair_id,answer,annotator\n1,first,\x1b[2J\r\n",
    "nobody's": b"pair_id,answer,annotator\n1,first,\n",
}
"""Exports of labels."""


def labelled(content: bytes, folder: Path) -> tuple[str, ...]:
    shutil.copytree(base() / "prefs", folder / "run")
    (folder / "x.csv").write_bytes(content)
    return ("prefs", "import", "run", "x.csv")


def compared(draw: random.Random, command: str, folder: Path) -> tuple[str, ...]:
    """Comparisons of which some bytes are others."""
    shutil.copytree(base() / "prefs", folder / "run")
    file = draw.choice([file for file in sorted((folder / "run").rglob("*")) if file.stat().st_size and file.is_file()])
    content = bytearray(file.read_bytes())
    for _ in range(draw.randrange(1, 30)):
        at = draw.choice([draw.randrange(200), draw.randrange(len(content))])
        content[min(len(content) - 1, at)] = draw.randrange(256)
    file.write_bytes(content[: draw.randrange(len(content))] if draw.random() < 0.2 else content)
    return ("prefs", command, "run", *((f"{WORK}.csv",) if command == "export" else ()))


# --- sizes that do not fit ----------------------------------------------------------------------------------------
def misfit(changes: Mapping[str, Any], command: str, folder: Path) -> tuple[str, ...]:
    """Settings of a config.json that are not those of the checkpoint beside it."""
    path = placed(folder, False) / "config.json"
    config = json.loads(path.read_text())
    config["settings"].update(changes)
    path.write_text(json.dumps(config))
    return WORDS[command]


MISFITS: dict[str, dict[str, Any]] = {
    "another width": {"hidden": [16]},
    "another depth": {"hidden": [8, 8]},
    "no layer": {"hidden": []},
    "a window": {"window": 3},
    "another key": {"nothing": 1},
}


def attacks(count: int, seed: int = 22) -> Iterator[Attack]:
    """Each content for each file by one command in turn, files bent at random, and configs that do not fit."""
    number = 0
    for file, commands in MAKES.items():
        for what, content in CONTENTS.items():
            number += 1
            make = partial(spoilt, file, partial(written, content), commands[number % len(commands)])
            yield _attack(f"{file} of a stranger", what, make, commands[number % len(commands)])
    for file, _ in USERS.items():
        for what, content in CONTENTS.items():
            yield _attack("files of settings", f"{file}: {what}", partial(given, file, content), "")
    for what, changes in MISFITS.items():
        for command in ("evaluate", "resume", "report"):
            yield _attack("settings beside another checkpoint", f"{what}", partial(misfit, changes, command), command)
    for what, content in LABELS.items():
        yield _attack("exports of labels", what, partial(labelled, content), "")
    draw = random.Random(seed)
    for number in range(count // 3):
        command, lot = draw.choice(["report", "export"]), random.Random(draw.random())
        yield _attack("comparisons bent", f"{seed}.{number}", partial(compared, lot, command), command)
    for number in range(count):
        file = draw.choice(list(MAKES))
        command, lot = draw.choice(MAKES[file]), random.Random(draw.random())
        make = partial(spoilt, file, partial(bent, lot), command)
        yield _attack(f"{file} bent", f"{seed}.{number}", make, command)


def _attack(kind: str, name: str, make: Callable[[Path], tuple[str, ...]], command: str) -> Attack:
    return Attack(kind, f"{name} by {command}" if command else name, make, may_pass=True, seconds=60.0, left=("run",))
