"""Real commands against hostile input: each in a fork of one process that has the library, watched for memory and time.

An `Attack` is an input and the command that is given it; `Arena.run` runs it, and `Outcome.fault` says what it did
wrong: anything but one sentence, a non-zero exit, nothing executed and nothing left behind.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MEMORY = 1 << 30
"""Bytes at the peak, of the whole process, that a small file may take a command to."""
BEYOND = 3 << 30
"""Bytes at which a process is ended."""
SECONDS = 20.0
BESIDE = re.compile(r"^warning: |\d+%\||\?\w+/s\]|\d(MB|s|set)/s\]")
"""Lines on stderr that are no sentences about the input: warnings of what was passed over, and bars of progress."""
WORK = "work"
"""Folder of an attack that commands may write their results into; all else stays as it was."""


@dataclass(frozen=True)
class Attack:
    """Input that somebody made up, and a command that meets it."""

    kind: str
    """Class that it is counted in."""
    name: str
    make: Callable[[Path], Sequence[str]]
    """Makes the input in an empty folder, and gives the command's words; it is run in that folder."""
    may_pass: bool = False
    """Whether the input may turn out to be harmless: nothing is asked then but no traceback and no excess."""
    told: tuple[str, ...] = ()
    """Words that its sentence holds."""
    memory: int = MEMORY
    seconds: float = SECONDS
    left: tuple[str, ...] = ()
    """Names at the top of its folder that the command may leave, such as a run folder that it began."""


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str
    peak: int
    seconds: float
    ended: str
    """`itself`, or what it was ended for: `memory` or `time`."""
    changed: list[str] = field(default_factory=list)

    def fault(self, attack: Attack) -> str | None:
        """What is wrong with it; None of one that did as it should."""
        if self.ended != "itself":
            return f"ended for {self.ended}"
        if self.code < 0:
            return f"crashed by signal {-self.code}"
        if "Traceback" in self.err or "Traceback" in self.out:
            return "traceback"
        if self.peak > attack.memory:
            return "memory"
        if any("pwned" in name for name in self.changed):
            return "executed"
        if self.code == 0:
            return None if attack.may_pass else "accepted"
        lines = [line for line in self.err.replace("\r", "\n").splitlines() if line.strip() and not BESIDE.search(line)]
        if len(lines) != 1 or not lines[0].startswith("error: ") or len(lines[0]) > 10_100:
            return "no one sentence"
        if self.changed:
            return f"left {self.changed[0]}"
        return next((f"does not say '{word}'" for word in attack.told if word not in lines[0]), None)


class Arena:
    """The process that is forked, and a cache of data of its own."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="arena-")
        paths = [str(Path(__file__).parents[2]), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=env
        )

    def run(self, attack: Attack) -> Outcome:
        """Run one attack in an empty folder."""
        base = Path(tempfile.mkdtemp(dir=self._folder.name))
        here, home = base / "here", base / "home"
        here.mkdir()
        home.mkdir()
        args = [str(arg) for arg in attack.make(here)]
        before = _tree(base)
        words = {"args": args, "cwd": str(here), "home": str(home), "base": str(base)}
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps({**words, "seconds": attack.seconds}) + "\n")
        answer = json.loads(self._server.stdout.readline())
        changed = sorted(name for name in _tree(base) ^ before if not _expected(name, attack))
        out, err = ((base / name).read_text("utf-8", "replace") for name in ("out", "err"))
        shutil.rmtree(base, ignore_errors=True)
        return Outcome(answer["code"], out, err, answer["peak"], answer["seconds"], answer["ended"], changed)

    def faults(self, attacks: Iterable[Attack]) -> tuple[Counter[str], list[tuple[Attack, str, Outcome]]]:
        """How many attacks there were of each class, and those that did harm."""
        counts, faults = Counter[str](), []
        for attack in attacks:
            counts[attack.kind] += 1
            outcome = self.run(attack)
            fault = outcome.fault(attack)
            if fault is not None:
                faults.append((attack, fault, outcome))
        return counts, faults

    def close(self) -> None:
        """End the server."""
        self._server.communicate()
        self._folder.cleanup()


def described(faults: Sequence[tuple[Attack, str, Outcome]], most: int = 10) -> str:
    """Faults for people who read a failed test."""
    lines = [f"{len(faults)} attacks did harm:"]
    for attack, fault, outcome in faults[:most]:
        tail = " | ".join(outcome.err.strip().splitlines()[-3:])[-500:]
        lines.append(
            f"- {attack.kind}: {attack.name}: {fault} ({outcome.peak >> 20} MiB, {outcome.seconds:.1f} s) {tail}"
        )
    return "\n".join(lines)


def _tree(base: Path) -> set[str]:
    """Names and contents of files, so that one that is changed is seen; caches that are whole are no harm."""
    return {
        f"{path.relative_to(base).as_posix()} {'' if path.is_dir() else path.lstat().st_size}"
        for path in base.rglob("*")
    }


def _expected(name: str, attack: Attack) -> bool:
    place, *parts = name.partition(" ")[0].split("/")
    if place in {"out", "err"}:
        return True
    if place == "home":  # made or converted sets that are whole stay, and so do folders and locks
        return not any(part.startswith((".", "verifying-")) and not part.endswith(".lock") for part in parts)
    return place == "here" and bool(parts) and parts[0].partition(".")[0] in {WORK, *attack.left}


# --- the process that is forked -----------------------------------------------------------------------------------
def _serve() -> None:
    for line in sys.stdin:
        words = json.loads(line)
        began, pid = time.monotonic(), os.fork()
        if pid == 0:
            _become(words)
        print(json.dumps(_watched(pid, began, words["seconds"])), flush=True)


def _watched(pid: int, began: float, seconds: float) -> dict[str, Any]:
    ended, peak = "itself", 0
    while True:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            peak = max(peak, usage.ru_maxrss * 1024)
            code = os.waitstatus_to_exitcode(status)
            return {"code": code, "peak": peak, "seconds": time.monotonic() - began, "ended": ended}
        try:
            resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
        except (OSError, IndexError):
            resident = 0
        peak = max(peak, resident)
        if ended == "itself" and (peak > BEYOND or time.monotonic() - began > seconds):
            ended = "memory" if peak > BEYOND else "time"
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.003)


def _become(words: dict[str, Any]) -> None:
    code: Any = 1
    try:
        os.setsid()
        os.chdir(words["cwd"])
        os.environ["OFFLINE_MARL_HOME"] = words["home"]
        for number, name in ((0, os.devnull), (1, f"{words['base']}/out"), (2, f"{words['base']}/err")):
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            os.dup2(os.open(name, flags, 0o644), number)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, "r" if n == 0 else "w") for n in range(3))
        from offline_marl.launch.cli.entry import main

        main(words["args"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    import gc
    import importlib

    import torch

    torch.set_num_threads(1)
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    for module in ("h5py", "pyarrow", "pyarrow.parquet", "tensorstore", "offline_marl.tasks.data_tasks", "scipy.stats"):
        try:
            importlib.import_module(module)
        except ImportError:
            continue
    for module in ("verify", "info", "describe", "convert"):
        importlib.import_module(f"offline_marl.launch.cli.data.{module}")
    gc.collect()
    gc.freeze()
    _serve()
