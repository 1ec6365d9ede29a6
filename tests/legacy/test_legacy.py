"""What an earlier commit left on a disk or in a queue opens, goes on and is reported on.

`make_fixtures.py` made the archive with that commit, and wrote down how every run ends that it had stopped.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import pickletools
import runpy
import socket
import sys
import tarfile
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_records import processor
from safetensors import safe_open

import offline_marl
from offline_marl.core.files import load_tree, save_tree
from offline_marl.runs import checkpoint
from offline_marl.training import training_run
from offline_marl.training.models import fit as fitting

ARCHIVE = Path(__file__).parent / "fixtures" / "base.tar.xz"
ENDS_SINCE = ARCHIVE.with_name("ends_since.json")
"""Other ends than those in the archive, of runs that a performance-impacting change concerns: `record_ends.py`."""
HERE = "@HERE@"
"""Stands in files for the folder that they were unpacked into, without its first slash."""
HOST = "@HOST@"
MADE_ON = "GenuineIntel"
"""Maker of the processor that the archive and the ends were made on."""
JOBS = {"4711": "queued", "4712": "requeued"}
"""Ids of jobs that were pickled for Slurm, and their folders."""
CLOCKS = {"wall_s"}
COUNTED_SINCE = {"environment_steps", "online"}
"""What rows and scores of runs that play tell beside what they told then."""
DONE = ("steps", "best", "score", "returns", "errors")
FINISHED = ["finished", "finished-1", "finished-mixed", "finished-object"]
UNFINISHED = ["bc", "td3-bc", "ma-ppo", "mixed", "moma-ppo", "own-model", "object"]
UNFINISHED += [pytest.param("body", marks=pytest.mark.mujoco)]


# --- ends ---------------------------------------------------------------------------------------------------------
def software() -> dict[str, str]:
    """What the last digits of a run depend on: the processor, and packages."""
    versions = {name: metadata.version(name) for name in ("torch", "numpy", "mujoco")}
    return {"capability": torch.backends.cpu.get_cpu_capability(), **versions}


def as_then(root: Path) -> bool:
    """Whether the archive was made with what is here, so that ends are the same bit for bit."""
    made_with: dict[str, str] = json.loads((root / "ends.json").read_text())["made_with"]
    # The archive does not say whose processor it was, and another maker's rounds otherwise at the same capability.
    return made_with == software() and MADE_ON in processor()


def ends_of(folder: Path) -> dict[str, Any]:
    """What a run or a fit came to: the digest of every parameter, its rows, its score; without the clock."""
    newest = max((folder / "checkpoints").glob("step_*.safetensors"))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    done = json.loads((folder / "DONE").read_text())
    return {
        "parameters": parameters_of(newest),
        "rows": [_as_told_then(row) for row in rows],
        "done": {name: _as_told_then(done[name]) for name in DONE if name in done},
    }


def _as_told_then(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: _as_told_then(part) for name, part in value.items() if name not in CLOCKS | COUNTED_SINCE}


def parameters_of(checkpoint: Path) -> dict[str, str]:
    """Parameters and buffers by name, from the header of the file, which is a tree in JSON, and its tensors."""
    with safe_open(checkpoint, framework="pt") as opened:
        tree = dict(json.loads(json.loads(opened.metadata()["offline_marl"])["tree"])["__dict__"])
        own = tree["algorithm"] if "algorithm" in tree else tree["model"]
        places = {name: node["__tensor__"] for name, node in own["__dict__"] if _is_tensor(node)}
        return {name: digest(opened.get_tensor(place)) for name, place in places.items()}


def _is_tensor(node: Any) -> bool:
    return isinstance(node, dict) and "__tensor__" in node


def digest(tensor: torch.Tensor) -> str:
    content = f"{tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes()
    return hashlib.sha256(content).hexdigest()[:16]


# --- unpacking ----------------------------------------------------------------------------------------------------
@cache
def archived() -> dict[str, bytes]:
    """Every file of the archive by its name."""
    files = {}
    with tarfile.open(ARCHIVE) as archive:
        for entry in archive:
            stream = archive.extractfile(entry)
            assert stream is not None
            files[entry.name] = stream.read()
    return files


def unpacked(root: Path) -> Path:
    """The archive in a folder, which every file and pickle in it names."""
    for name, content in archived().items():
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".pkl":
            content = renamed(content, HERE, str(root)[1:])
        elif target.suffix != ".safetensors":
            content = content.replace(HERE.encode(), str(root)[1:].encode())
            content = content.replace(HOST.encode(), socket.gethostname().encode())
        target.write_bytes(content)
    return root


def renamed(pickled: bytes, old: str, new: str) -> bytes:
    """A pickle in whose strings `new` stands for `old`; frames, which say how long they are, are left away."""
    ops = [*pickletools.genops(pickled)]
    ends = [*(start for _, _, start in ops[1:]), len(pickled)]
    out = b""
    for (op, value, start), end in zip(ops, ends, strict=True):
        if op.name in {"SHORT_BINUNICODE", "BINUNICODE"} and old in value:
            text = value.replace(old, new).encode()
            out += b"X" + len(text).to_bytes(4, "little") + text
        elif op.name != "FRAME":
            out += pickled[start:end]
    return out


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for drawing in ((training_run, "draw_run"), (fitting, "draw_report")):  # no end tells of pictures
        monkeypatch.setattr(*drawing, lambda *_: None)
    return unpacked(tmp_path.resolve())


# --- what is asked of them ----------------------------------------------------------------------------------------
def command(*words: str) -> int:
    """`python -m offline_marl`, in this process; its exit code."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", ["offline-marl", *words])
        runpy.run_module("offline_marl", run_name="__main__", alter_sys=True)
    return int(end.value.code or 0)


def refuse_other_end(root: Path, name: str) -> None:
    """Bit for bit what was written down, where torch and the processor are those of then; else whole all the same."""
    known = json.loads((root / "ends.json").read_text())["ends"] | json.loads(ENDS_SINCE.read_text())
    wanted, ended = known[name], ends_of(root / name)
    if as_then(root):
        assert ended == wanted
    else:
        assert ended["done"].keys() == wanted["done"].keys() and ended["done"]["steps"] == wanted["done"]["steps"]
        assert ended["parameters"].keys() == wanted["parameters"].keys()
        assert [(row["kind"], row["step"]) for row in ended["rows"]] == [
            (row["kind"], row["step"]) for row in wanted["rows"]
        ]


@pytest.mark.long
@pytest.mark.parametrize("name", UNFINISHED)
def test_a_run_that_was_killed_goes_on_to_its_known_end(root: Path, name: str) -> None:
    folder = root / "runs" / name
    assert (folder / "checkpoints" / "step_000000020.safetensors").exists() and not (folder / "DONE").exists()
    assert offline_marl.resume(folder).score is not None
    refuse_other_end(root, f"runs/{name}")


@pytest.mark.long
def test_a_run_that_was_killed_as_its_own_world_model_was_fitted_goes_on_to_its_known_end(root: Path) -> None:
    folder = root / "runs/own-model-fit"
    assert [*folder.glob("world_model/checkpoints/*")] and not (folder / "checkpoints").exists()
    assert command("resume", str(folder)) == 0
    refuse_other_end(root, "runs/own-model-fit")


@pytest.mark.long
def test_a_fit_that_was_killed_goes_on_to_its_known_end(root: Path) -> None:
    assert command("resume", str(root / "models/unfinished")) == 0
    refuse_other_end(root, "models/unfinished")


@pytest.mark.parametrize("name", FINISHED)
def test_a_finished_run_is_seen_again_and_changes_no_file(root: Path, name: str) -> None:
    folder = root / "runs" / name
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    score = offline_marl.resume(folder).score
    assert score is not None and score.returns.tolist() == json.loads((folder / "DONE").read_text())["returns"]
    assert {path: path.read_bytes() for path in before} == before
    refuse_other_end(root, f"runs/{name}")


@pytest.mark.parametrize("name", FINISHED)
def test_a_finished_run_is_scored_as_it_was(root: Path, name: str) -> None:
    then = json.loads((root / "runs" / name / "DONE").read_text())["returns"]
    returns = offline_marl.evaluate(root / "runs" / name, episodes=len(then), seed=0).returns.tolist()
    assert returns == then if as_then(root) else len(returns) == len(then)


def test_checkpoints_from_before_versions_were_noted_are_taken_further_and_those_of_the_future_refused(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = root / "runs/finished"
    file = max((folder / "checkpoints").iterdir())
    then, _ = load_tree(file, checkpoint.KIND)
    assert "schema" not in then
    assert list(checkpoint.read(file.parent, then["step"])) == list(then)
    save_tree(file, {**then, "schema": checkpoint.SCHEMA + 1}, checkpoint.KIND)
    for words in (
        ["evaluate", str(folder), "--episodes", "1"],
        ["crossplay", str(folder), str(root / "runs/finished-1")],
    ):
        assert command(*words) == 2
        said = capsys.readouterr().err.splitlines()
        assert said[-1].startswith("error:") and said[-1].endswith("update the library.")


def test_a_policy_is_loaded_and_begins_another_run(root: Path) -> None:
    assert offline_marl.load(root / "runs/finished").spec.n_agents == 2
    begun = offline_marl.train("bc", str(root / "data/rendezvous.safetensors"), out=root / "new", steps=1, hidden=[8],
                               final_episodes=1, init=str(root / "runs/finished"))  # fmt: skip
    assert begun.score is not None


def test_a_finished_world_model_is_seen_again_and_feeds_a_new_run(root: Path) -> None:
    model = root / "models/finished"
    assert command("resume", str(model)) == 0
    words = ["--hidden=8", "--steps=20", "--final-episodes=2", "--horizon=3", "--rollouts=8", "--device=cpu"]
    data = str(root / "data/rendezvous.safetensors")
    words += ["--dataset", data, "--world-model", str(model), "--out", str(root / "new")]
    assert command("train", "td3-bc", *words) == 0
    assert json.loads((root / "new/config.json").read_text())["world_model"] == str(model)


def test_finished_runs_are_reported_on_and_the_others_are_in_no_average(root: Path) -> None:
    words = (str(root / "runs"), str(root / "sweep"), "--out", str(root / "report"), "--reps", "100")
    assert command("report", *words) == 0
    page = (root / "report/report.html").read_text()
    assert "td3-bc" in page
    with (root / "report/scores.csv").open(newline="") as stream:
        assert len([*csv.DictReader(stream)]) == len(FINISHED) + 2


def test_runs_play_together_and_are_recorded(root: Path) -> None:
    runs = [str(root / "runs" / name) for name in FINISHED[:2]]
    assert command("crossplay", *runs, "--episodes", "2", "--out", str(root / "crossplay")) == 0
    out = root / "new.safetensors"
    words = ("--who", runs[0], "--episodes", "2", "--score-episodes", "0", "--out", str(out))
    assert command("collect", "rendezvous", *words) == 0
    assert offline_marl.load_dataset(str(out)).lengths.numel() == 2


@pytest.mark.parametrize("name", ["rendezvous.safetensors", "reacher.safetensors"])
def test_data_is_told_of_and_found_whole(root: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("data", "info", str(root / "data" / name)) == 0
    assert "episodes" in capsys.readouterr().out
    assert command("data", "verify", str(root / "data" / name)) == 0


def test_a_recording_is_seen_by_agents_of_a_partition(root: Path) -> None:
    data = offline_marl.load_dataset(str(root / "data/reacher.safetensors_2x1notip_0"))
    assert data.spec.n_agents == 2 and len(data.lengths) == 4


@pytest.mark.long
def test_a_sweep_that_was_killed_goes_on_to_its_known_end(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = root / "sweep"
    assert states(sweep, capsys) == ["done", "done", "failed", "waiting"]
    finished = {path: path.stat().st_mtime_ns for path in sweep.glob("runs/*/checkpoints/step_000000060.safetensors")}
    assert command("sweep", str(root / "sweep.toml"), "--out", str(sweep), "--executor", "debug") == 0
    assert states(sweep, capsys) == ["done"] * 4
    assert len(finished) == 2 and {path: path.stat().st_mtime_ns for path in finished} == finished
    names = [job["folder"] for job in json.loads((sweep / "sweep.json").read_text())["jobs"]]
    for name in names:
        refuse_other_end(root, f"sweep/{name}")
    assert command("sweep", "collect", str(sweep)) == 0


def states(sweep: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    assert command("sweep", "status", str(sweep), "--json") == 0
    return [job["state"] for job in json.loads(capsys.readouterr().out)["each"]]


@pytest.mark.parametrize("number", JOBS)
def test_a_job_that_was_pickled_for_slurm_runs(
    root: Path, number: str, warm: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("submitit")
    folder = root / "jobs" / JOBS[number]
    env = {**os.environ, "SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": number, "SLURMD_NODENAME": "node"}
    ran = warm.run("-m", "submitit.core._submit", str(folder / "logs"), env=env, cwd=root)
    assert ran.returncode == 0, ran.stderr
    refuse_other_end(root, f"jobs/{JOBS[number]}")
    starts = [json.loads(line) for line in (folder / "starts.jsonl").read_text().splitlines()]
    first = [("start", None), ("end", "preempted")] if JOBS[number] == "requeued" else []
    assert [(row["event"], row.get("how")) for row in starts] == [*first, ("start", None), ("end", "done")]
    assert {row["id"] for row in starts if row["event"] == "start"} == {number}
    assert command("submit", "status", str(folder)) == 0
    assert "done" in capsys.readouterr().out


# --- names that code elsewhere imports ----------------------------------------------------------------------------
OTHERS_LOGGER = """
import sys, offline_marl
from offline_marl.training.loggers import Logger, loggers

@loggers.register("mine")
class Mine(Logger):
    def write(self, kind, row):
        print(kind, row["step"])

offline_marl.train("bc", sys.argv[1], out=sys.argv[2], loggers=["mine", Mine()], steps=2, log_every=2, hidden=[8],
                   final_episodes=1, device="cpu")
"""


def test_a_logger_of_a_plugin_finds_its_base_class_where_it_was(root: Path, warm: Any) -> None:
    ran = warm.run("-c", OTHERS_LOGGER, str(root / "data/rendezvous.safetensors"), str(root / "new"))
    assert ran.stdout.splitlines() == ["train 2"] * 2 + ["eval 2"] * 2, ran.stderr


def test_the_command_line_begins_where_an_installed_script_looks_for_it(warm: Any) -> None:
    ran = warm.run("-c", "from offline_marl.launch.cli import main; main(['list', 'algorithms'])")
    assert ran.returncode == 0 and "td3-bc" in ran.stdout, ran.stderr
