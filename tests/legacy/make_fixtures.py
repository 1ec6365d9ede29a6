"""Run folders, sweeps, data and world models for `test_legacy.py`, made by whatever offline_marl is on the path.

    PYTHONPATH=CHECKOUT python tests/legacy/make_fixtures.py

Runs begin twice: once to the end, which is written down, and once until a row of metrics, at which the process is
killed. Absolute paths and the host's name are replaced before anything is packed, see `test_legacy.unpacked`.
"""

from __future__ import annotations

import io
import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

from test_legacy import ARCHIVE, HERE, HOST, JOBS, ends_of, software

LEFT_OUT = {"lock", "picture.png", "report.png"}
SMALL = "--device cpu --hidden 8 --log-every 7 --checkpoint-every 20 --keep-checkpoints 1 --eval-every 30"
SMALL += " --eval-episodes 2 --final-episodes 4"
RUN = f"{SMALL} --steps 60 --batch-size 16"
FIT = "--device cpu --hidden 8 --members 2 --elites 1 --batch-size 16 --holdout .3 --log-every 7 --eval-every 30"
FIT += " --checkpoint-every 20 --keep-checkpoints 1"
OWN_FIT = '{"steps":60,"hidden":[8],"members":2,"elites":1,"batch_size":16,"holdout":0.3,"log_every":7,"eval_every":30,'
OWN_FIT += '"checkpoint_every":20,"keep_checkpoints":1}'
"""Without spaces: commands are split at them."""
IMAGINED = "--horizon 3 --rollouts 8 --retain 64 --refill-every 10"
TASK = "--dataset data/rendezvous.safetensors"
ROWS = 5
"""Rows of metrics that a killed run comes to: beyond its newest checkpoint."""
SWEEP = """\
algorithms = ["bc"]
datasets = ["/@HERE@/data/rendezvous.safetensors"]
seeds = [0, 1]

[fields]
device = "cpu"
hidden = [8]
batch_size = 16
steps = 60
log_every = 7
checkpoint_every = 20
keep_checkpoints = 1
eval_every = 0
final_episodes = 4

[grid]
lr = [0.001, 0.003]
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place).resolve()
        make_data(root)
        ends = {**make_models(root), **make_runs(root), **make_sweep(root), **make_jobs(root)}
        (root / "ends.json").write_text(json.dumps({"made_with": software(), "ends": ends}, indent=1) + "\n")
        for name in ("twins", "bin", "home"):
            shutil.rmtree(root / name, ignore_errors=True)
        pack(root)


def make_data(root: Path) -> None:
    few = "--episodes 12 --score-episodes 4"
    command(root, f"collect rendezvous --who left=.5,right=.5 {few} --noise 0,.3 --out data/rendezvous.safetensors")
    command(root, "collect reacher --episodes 4 --score-episodes 4 --out data/reacher.safetensors")


def make_models(root: Path) -> dict[str, Any]:
    command(root, f"fit-model ensemble {TASK} {FIT} --steps 60 --out models/finished")
    command(root, f"fit-model ensemble {TASK} {FIT} --steps 60 --seed 1 --out twins/unfinished")
    command(root, f"fit-model ensemble {TASK} {FIT} --steps 60 --seed 1 --out models/unfinished", ends="KILL")
    return {"models/unfinished": ends_of(root / "twins" / "unfinished")}


def make_runs(root: Path) -> dict[str, Any]:
    model = "--world-model models/finished"
    begun = {
        "bc": f"bc --dataset coordination-mix-v0 {RUN}",
        "body": f"ma-iql --dataset data/reacher.safetensors_2x1notip_0 {RUN}",
        "td3-bc": f"td3-bc {TASK} {RUN}",
        "ma-ppo": f"ma-ppo --environment rendezvous {RUN}",
        "mixed": f"td3-bc {TASK} {RUN} {model} {IMAGINED}",
        "moma-ppo": f"moma-ppo {TASK} {RUN} {model} {IMAGINED}",
        "own-model": f"moma-ppo {TASK} {RUN} --world-model ensemble --fit {OWN_FIT} {IMAGINED}",
        "own-model-fit": f"td3-bc {TASK} {RUN} --world-model ensemble --fit {OWN_FIT} {IMAGINED}",
    }
    for name, words in begun.items():
        command(root, f"train {words} --out twins/{name}")
        inside = "world_model" if name == "own-model-fit" else f"{name}/metrics.jsonl"
        command(root, f"train {words} --out runs/{name}", ends="KILL", inside=inside)
    command(root, f"train bc {TASK} {RUN} --out runs/finished")
    command(root, f"train bc {TASK} {RUN} --seed 1 --out runs/finished-1")
    command(root, f"train td3-bc {TASK} {RUN} {model} {IMAGINED} --out runs/finished-mixed")
    command(root, "--object finished-object")
    command(root, "--object object", ends="KILL")
    finished = ("finished", "finished-1", "finished-mixed", "finished-object")
    known = {f"runs/{name}": ends_of(root / "twins" / name) for name in begun}
    known["runs/object"] = ends_of(root / "runs" / "finished-object")
    return known | {f"runs/{name}": ends_of(root / "runs" / name) for name in finished}


def train_on_an_object(root: Path, name: str) -> None:
    import offline_marl

    data = offline_marl.load_dataset(str(root / "data" / "rendezvous.safetensors"))
    words = [word.removeprefix("--").replace("-", "_") for word in RUN.split()]
    fields: dict[str, Any] = dict(zip(words[::2], map(_plain, words[1::2]), strict=True))
    offline_marl.train("td3-bc", data, out=root / "runs" / name, **fields | {"hidden": [8]})


def _plain(word: str) -> Any:
    return int(word) if word.isdigit() else word


def make_sweep(root: Path) -> dict[str, Any]:
    """Two runs that are over, one that was killed with the launcher, and one that had not begun."""
    file = root / "sweep.toml"
    file.write_text(SWEEP.replace("/@HERE@", str(root)))
    command(root, "sweep sweep.toml --executor debug --out twins/sweep")
    names = [Path(job["folder"]) for job in json.loads((root / "twins/sweep/sweep.json").read_text())["jobs"]]
    command(root, "sweep sweep.toml --executor debug --out sweep", ends="KILL", inside=names[2].name)
    return {f"sweep/{name}": ends_of(root / "twins/sweep" / name) for name in names}


def make_jobs(root: Path) -> dict[str, Any]:
    """A job that waits in Slurm's queue, and one that waits there for its second turn."""
    commands = root / "bin"
    commands.mkdir()
    says = {"sbatch": 'echo "Submitted batch job $JOB"', "scontrol": "echo MaxArraySize = 1001", "srun": "exit 1"}
    for name, line in says.items():
        (commands / name).write_text(f"#!/bin/sh\n{line}\n")
        (commands / name).chmod(0o755)
    known = {}
    for number, name in JOBS.items():
        env = {"PATH": f"{commands}{os.pathsep}{os.environ['PATH']}", "JOB": number}
        command(root, f"submit train td3-bc {TASK} {RUN} --executor slurm --out jobs/{name}", env=env)
        known[f"jobs/{name}"] = ends_of(root / "twins" / "td3-bc")
    turn = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "4712", "SLURMD_NODENAME": "node"}
    env = {**turn, "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}
    command(root, f"--job {root / 'jobs/requeued/logs'}", ends="USR2", env=env)
    for file in root.glob("jobs/*/logs/*"):
        if file.name.endswith("_submitted.pkl"):
            replace_paths(file, root)
        else:
            file.unlink()
    return known


def replace_paths(file: Path, root: Path) -> None:
    """Pickle the job again, with the place where fixtures are unpacked in the place of `root`."""
    from submitit.core.utils import DelayedSubmission

    delayed = DelayedSubmission.load(file)
    (job,) = delayed.args
    fields = {**job.fields, "dataset": job.fields["dataset"].replace(str(root), f"/{HERE}")}
    out = Path(str(job.out).replace(str(root), f"/{HERE}"))
    delayed.args = (job.model_copy(update={"out": out, "fields": fields}),)
    delayed.dump(file)


# --- processes ----------------------------------------------------------------------------------------------------
CODES = {"": 0, "KILL": -signal.SIGKILL, "USR2": 255}
"""What a process ends with, by the signal that it gets; submitit asks for another turn at the second."""


def command(root: Path, words: str, ends: str = "", inside: str = "", env: dict[str, str] | None = None) -> None:
    """Run the command line in `root`; a signal ends it at a row of metrics whose file has `inside` in its path."""
    given = {"OMP_NUM_THREADS": "1", "OFFLINE_MARL_HOME": str(root / "home"), **(env or {})}
    given |= {"SIGNAL": ends, "INSIDE": inside or "/"} if ends else {}
    started = [sys.executable, __file__, *words.split()]
    ran = subprocess.run(started, cwd=root, env={**os.environ, **given}, text=True, capture_output=True)
    if ran.returncode != CODES[ends]:
        raise SystemExit(f"{words}\n{ran.stdout}\n{ran.stderr}\nended with {ran.returncode}")


def become(words: list[str]) -> None:
    if name := os.environ.get("SIGNAL"):
        end_at_a_row(signal.Signals[f"SIG{name}"], os.environ["INSIDE"])
    if words[0] == "--object":
        train_on_an_object(Path.cwd(), words[1])
    elif words[0] == "--job":
        sys.argv = ["submitit", words[1]]
        runpy.run_module("submitit.core._submit", run_name="__main__", alter_sys=True)
    else:
        sys.argv = ["offline-marl", *words]
        runpy.run_module("offline_marl", run_name="__main__", alter_sys=True)


def end_at_a_row(number: signal.Signals, inside: str) -> None:
    """Send this process a signal as it opens the file for a row, as files of rows alone are: to append."""
    rows = [0]

    def count(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and args[1] == "a" and str(args[0]).endswith("metrics.jsonl") and inside in str(args[0]):
            rows[0] += 1
            if rows[0] == ROWS + 1:
                os.kill(os.getpid(), number)
                time.sleep(0.3)  # until it is heard

    sys.addaudithook(count)


# --- packing ------------------------------------------------------------------------------------------------------
def pack(root: Path) -> None:
    ARCHIVE.parent.mkdir(exist_ok=True)
    with tarfile.open(ARCHIVE, "w:xz", preset=9) as archive:
        for path in sorted(root.rglob("*")):
            if path.is_file() and not path.is_symlink() and path.name not in LEFT_OUT:
                content = neutral(path, root)
                entry = tarfile.TarInfo(str(path.relative_to(root)))
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    print(f"{ARCHIVE}: {ARCHIVE.stat().st_size:,} bytes")


def neutral(path: Path, root: Path) -> bytes:
    """The file's content without what is this machine's.

    Raises:
        SystemExit: Something of it is left.
    """
    content = path.read_bytes()
    if path.suffix in {".json", ".jsonl", ".toml"} or path.name == "DONE":
        text = content.decode().replace(str(root), f"/{HERE}")
        content = text.replace(f'"host": "{socket.gethostname()}"', f'"host": "{HOST}"').encode()
    for trace in (str(root), root.name, sys.prefix, str(Path.home()), str(Path(__file__).resolve().parents[2])):
        if len(trace) > 1 and trace.encode() in content:
            raise SystemExit(f"{path.relative_to(root)} names {trace}.")
    return content


if __name__ == "__main__":
    become(sys.argv[1:]) if len(sys.argv) > 1 else main()
