"""Golden runs: short runs of every learner and every command that computes, by the command line alone.

The learners come from the registry, so that a new one has runs as soon as it is registered. `{data}` stands for the
folder of the data that the runs share, `{out}` for the run's own.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import sys
from pathlib import Path

import offline_marl

Command = tuple[str, ...]


def command(line: str, *more: str) -> Command:
    """The words of a command, then arguments that hold spaces."""
    return (*line.split(), *more)


DATA = {
    "reacher": command("collect reacher --who clockwise=1,counterclockwise=1 --noise 0.1,0.4 --episodes 20"),
    "rendezvous": command("collect rendezvous --who left=1,right=1 --noise 0.1,0.4 --episodes 40"),
    "coordination": command("collect coordination --who red=1,blue=1 --noise 0.1,0.4 --episodes 40"),
}
"""What makes the data that runs share, each `NAME.safetensors`."""
TASKS = {"continuous": "{data}/reacher.safetensors_2x1first_0", "discrete": "{data}/coordination.safetensors"}
"""The agents of the continuous one are of unequal width."""
WORLDS = {"continuous": "reacher_2x1first_0", "discrete": "coordination"}
"""Environments to learn in without data."""
COMMON = command("--device cpu --hidden 16 --eval-episodes 2 --final-episodes 4 --out {out}/run")
OFF_POLICY = command("--steps 40 --batch-size 16 --log-every 20 --eval-every 20")
ON_POLICY = command("--steps 3 --batch-size 60 --minibatch-size 20 --epochs 2 --log-every 1 --eval-every 2")
FIT = {
    "steps": 30,
    "hidden": [16],
    "members": 3,
    "elites": 2,
    "batch_size": 16,
    "holdout": 0.2,
    "log_every": 15,
    "eval_every": 10,
}
MODEL = command("--world-model ensemble --horizon 4 --fit", json.dumps(FIT))
MIXED = command("--real-fraction 0.5 --rollouts 16 --refill-every 10 --retain 64")
SWEEP = """\
algorithms = ["bc", "iql"]
datasets = ["{data}/reacher.safetensors_2x1first_0"]
seeds = [0, 1]

[fields]
steps = 20
hidden = [16]
batch_size = 16
device = "cpu"
log_every = 10
eval_every = 0
final_episodes = 3
"""


def runs() -> dict[str, list[Command]]:
    """The commands of every golden run, by its name."""
    sweep = command("sweep {out}/sweep.toml --executor debug --out {out}/sweep")
    return {**_learners(), **_fits(), **_variants(), **_collections(), "sweep": [sweep]}


def _learners() -> dict[str, list[Command]]:
    """Each registered learner on each kind of action that it takes."""
    found = {}
    for listing in offline_marl.algorithms.listings():
        if listing.origin == "built-in":
            needs = offline_marl.algorithms.get(listing.name).needs
            for kind in sorted(needs.actions):
                before, more = _comparing(kind) if needs.view == "pairs" else ([], ())
                found[f"{listing.name}-{kind}"] = [*before, _train(listing.name, kind, needs.origin, *more)]
    return found


def _comparing(kind: str) -> tuple[list[Command], Command]:
    """Commands that make comparisons of a task's data, and the flags of a run that learns from them."""
    pairs = command("prefs pairs {out}/comparisons --budget 30 --length 5 --dataset")
    return [(*pairs, TASKS[kind]), command("prefs simulate {out}/comparisons")], command(
        "--preferences {out}/comparisons"
    )


def _train(name: str, kind: str, origin: str, *more: str) -> Command:
    place = ("--environment", WORLDS[kind]) if origin == "environment" else ("--dataset", TASKS[kind])
    model = MODEL if origin == "model" else ()
    return ("train", name, *place, *(OFF_POLICY if origin == "data" else ON_POLICY), *model, *COMMON, *more)


def _variants() -> dict[str, list[Command]]:
    """What single learners do besides: histories, mixtures, other models, scaled and capped values, a taken-up run."""
    scaled = ("--reward-scale", "range", "--clip-target", "--share-parameters")
    gru = ("--window", "3", "--history-encoder", "gru")
    found = {
        "ma-iql-window": _train("ma-iql", "continuous", "data", "--window", "3"),
        "iql-scaled": _train("iql", "continuous", "data", *scaled),
        "cql-centralised": _train("cql", "continuous", "data", "--critic", "centralised"),
        "td3-bc-mixed": _train("td3-bc", "continuous", "data", *MODEL, *MIXED, "--reward-scale", "0.1"),
        "iql-mixed-discrete": _train("iql", "discrete", "data", *MODEL, *MIXED, "--window", "2"),
        "moma-ppo-window": _train("moma-ppo", "continuous", "model", "--window", "3", "--reward-scale", "0.1"),
        "moma-ppo-gru": _train("moma-ppo", "discrete", "model", *gru),
        "iql-gru": _train("iql", "continuous", "data", *gru, "--frame-stack", "5"),
        "moma-ppo-oracle": _train("moma-ppo", "continuous", "oracle", "--world-model", "oracle", "--horizon", "4"),
        "vdn-cql": _train(
            "vdn", "discrete", "data", "--conservative", "cql", "--segment-length", "3", "--burn-in", "2"
        ),
        "qmix-bcq-mixed": _train("qmix", "discrete", "data", *MODEL, *MIXED, "--conservative", "bcq"),
        "ma-ppo-window": _train("ma-ppo", "continuous", "environment", "--window", "3", "--reward-scale", "0.1"),
    }
    return {name: [line] for name, line in found.items()}


def _fits() -> dict[str, list[Command]]:
    """A world model of each kind of member, one that reads histories, and one of tokens."""
    settings = command(
        "--device cpu --steps 30 --hidden 16 --members 3 --elites 2 --batch-size 16 --holdout 0.2 --log-every 15 "
        "--eval-every 10 --out {out}/model --dataset"
    )
    found = {
        f"fit-{kind}": [("fit-model", "ensemble", *settings, TASKS["continuous"], "--kind", kind)]
        for kind in ("gaussian", "mixture", "deterministic", "vae")
    }
    tokens = command(
        "--device cpu --steps 30 --tokenizer-steps 12 --hidden 16 --width 16 --action-bins 8 --batch-size 8 --length 4 "
        "--window 2 --holdout 0.2 --log-every 15 --eval-every 10 --out {out}/model --tokenizer vq --dropout 0.1 "
        "--tokens-of observations --dataset"
    )
    found |= {f"fit-marie-{kind}": [("fit-model", "marie", *tokens, task)] for kind, task in TASKS.items()}
    found["fit-window"] = [("fit-model", "ensemble", *settings, TASKS["discrete"], "--window", "2")]
    return found


def _collections() -> dict[str, list[Command]]:
    """Recordings by two processes, of scripted experts, chance and a run with a history."""
    workers = command("--workers 2 --copies 8 --score-episodes 4 --out {out}/collected.safetensors")
    clone = command("train bc --dataset {data}/rendezvous.safetensors --window 2")
    return {
        "collect-workers": [
            command("collect rendezvous --who left=2,random=1 --noise 0.0,0.2 --episodes 140 --deviate right", *workers)
        ],
        "collect-run": [
            (*clone, *OFF_POLICY, *COMMON),
            command("collect rendezvous --who {out}/run=1,left=1 --noise 0.1 --episodes 70 --deviate random", *workers),
        ],
    }


def play(name: str, home: Path) -> Path:
    """Carry out a golden run.

    Args:
        name: Of the run.
        home: Folder of all runs and their data, which is made there if it is missing.

    Returns:
        The folder with what the run left behind.
    """
    data, out = home / "data", home / name
    for known, words in DATA.items():
        if not (data / f"{known}.safetensors").exists():
            call((*words, "--out", str(data / f"{known}.safetensors")))
    out.mkdir(parents=True)
    (out / "sweep.toml").write_text(SWEEP.replace("{data}", str(data)))
    for words in runs()[name]:
        call(tuple(word.replace("{data}", str(data)).replace("{out}", str(out)) for word in words))
    return out


def call(words: Command) -> None:
    """Do what `python -m offline_marl WORDS` does, in this process; what it prints is shown if it fails."""
    before, printed = (sys.argv, os.environ.get("PYTHONPATH")), io.StringIO()
    # For processes that it starts: the same library as here.
    os.environ["PYTHONPATH"] = str(Path(offline_marl.__file__).parents[1])
    try:
        sys.argv = ["offline-marl", *words]
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            runpy.run_module("offline_marl", run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise RuntimeError(
                f"`offline-marl {' '.join(words)}` ended with {end.code}:\n{printed.getvalue()}"
            ) from None
    finally:
        sys.argv, path = before
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path
