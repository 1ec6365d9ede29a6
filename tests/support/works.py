"""All kinds of work that the library does, small, for campaigns that kill it and fill its disk.

Work is begun, or gone on with, wherever an earlier process left it; its end is compared with an undisturbed one's.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import pkgutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from campaign import SHORT
from compared import SMALL_REWARD, compare, small_reward
from runs import SMALL_FIT, ending, score_in_point_env, small_run
from worlds import reacher_recording, saved, world

import offline_marl
from offline_marl.collection import recorder
from offline_marl.collection.collect import collect
from offline_marl.collection.config import CollectConfig
from offline_marl.core.config import build
from offline_marl.launch.cli import main
from offline_marl.launch.jobs.disk import Backoff
from offline_marl.preferences.label_store import LabelStore
from offline_marl.runs.kinds import FIT_REWARD
from offline_marl.tasks import environment_tasks
from offline_marl.tasks.data_tasks import ScoredTask
from offline_marl.training import training_run
from offline_marl.training.kinds import fit_reward, procedure_of
from offline_marl.training.models.fit import fit_model, resume_fit
from offline_marl.training.run import resume

KILLS = 3 if SHORT else 18
"""Of each kind of work."""
STEP = "offline_marl.core.learner:Learner.step_optimizer"
MINIBATCH = "offline_marl.core.adam:FusedAdam.step"
"""Also of learners that step their optimiser themselves, several times an update."""
DISK = ("os:replace", "os:fsync")
ROLLOUT = "offline_marl.training.sources.imagined:rollout"
PLAY = "offline_marl.training.sources.playing:Player.advance"

HEAVY = ("arch", "h5py", "imageio_ffmpeg", "minari", "mpe2", "optuna", "pandas", "pyarrow", "rliable", "scipy.stats")
make_env = ScoredTask.make_env
"""The environment that a task names, whatever `shrink` gives it."""
RECORDED = "offline_marl.training.sources.recorded:DatasetSource.sample"
PLAYED = "offline_marl.training.sources.recorded:EnvironmentSource.sample"
REPLAY = "offline_marl.training.sources.replay:ReplaySource.sample"
BESIDE = "offline_marl.training.sources.replay:LiveMixture.sample"
IMAGINED = "offline_marl.training.sources.imagined:RolloutSource.sample"
MIXED = "offline_marl.training.sources.imagined:MixedSource.sample"
MEMBERS = "offline_marl.training.models.rows:MemberSource.sample"
ROWS = "offline_marl.training.models.rows:RowSource.sample"
COMPARED = "offline_marl.training.preferences.labelled:ComparisonSource.sample"

Data = dict[str, str]
Work = Callable[[Path, Data], object]


def begun(out: Path) -> bool:
    return (out / "config.json").exists()


def length(data: Data) -> int:
    """Steps of a run or a fit: enough for the kills, where nothing else is said."""
    return int(data.get("steps", 60 + 12 * KILLS))


def training(dataset: str | None, **fields: Any) -> Work:
    """Begin a run, or go on with it; a field may name what is there beforehand: `{comparisons}`."""
    settings = {"checkpoint_every": 10, "log_every": 7, "eval_every": 35, "seed": 7, **fields}

    def work(out: Path, data: Data) -> object:
        named = {key: value.format(**data) if isinstance(value, str) else value for key, value in settings.items()}
        named["steps"] = length(data)
        return resume(out) if begun(out) else small_run(out, dataset and data[dataset], **named)

    return work


def fitting(kind: str, dataset: str, **fields: Any) -> Work:
    """Begin a fit, or go on with it."""

    def work(out: Path, data: Data) -> object:
        steps = {"steps": length(data)}
        return resume_fit(out) if begun(out) else fit_model(kind, data[dataset], out=out, **{**fields, **steps})

    return work


def fitting_rewards(out: Path, data: Data) -> object:
    if begun(out):
        return procedure_of(FIT_REWARD).resume(out)
    steps = {"steps": length(data), "eval_every": 15, "checkpoint_every": 10}
    return fit_reward(data["team"], Path(data["comparisons"]), out=out, **{**SMALL_REWARD, **steps})


def collecting(workers: int) -> Work:
    def work(out: Path, _: Data) -> object:
        file = out / "data.safetensors"
        settings = {"environment": "rendezvous", "episodes": 30 + 4 * KILLS, "who": ("left", "random=0.5"), "seed": 3}
        out.mkdir(exist_ok=True)
        return file.exists() or collect(
            build(CollectConfig, {**settings, "noise": (0.0, 0.2), "out": file, "workers": workers, "copies": 3})
        )

    return work


def command(text: str, rest: Callable[[Path], bool] = lambda _: False) -> Work:
    """A command of the command line, again from its beginning, unless it is over."""

    def work(out: Path, data: Data) -> None:
        out.mkdir(exist_ok=True)
        if not rest(out):
            run_command(text.format(out=out, **data))

    return work


def run_command(text: str, codes: frozenset[int] = frozenset({0})) -> None:
    """Run a command in this process; one that fails ends it, with its exit code."""
    try:
        main(text.split())
    except SystemExit as end:
        if end.code not in codes:
            raise


def sweeping(out: Path, data: Data) -> None:
    """Begin a sweep, or go on with it; what failed in it is tried again by a command of its own."""
    out.mkdir(exist_ok=True)
    if (out / "s" / "sweep.json").exists():
        run_command(f"sweep retry {out}/s --executor debug")
    run_command(f"sweep {data['place']}/sweep.toml --executor debug --out {out}/s")


def labelling(out: Path, data: Data) -> None:
    """Ask about pairs, and answer."""
    out.mkdir(exist_ok=True)
    if not (out / "c" / "labels.sqlite").exists() or not asked_of(out):
        run_command(f"prefs pairs {out}/c --dataset {data['team']} --budget {20 + KILLS} --length 3")
    run_command(f"prefs simulate {out}/c --steepness 5")


def asked_of(out: Path) -> int:
    """How many pairs are asked about."""
    with LabelStore(out / "c" / "labels.sqlite") as store:
        return len(store.pairs())


# --- ends ---------------------------------------------------------------------------------------------------------
def end_of_files(out: Path) -> dict[str, bytes]:
    """What all files hold, but locks and clocks."""
    skipped = {"lock", "starts.jsonl", "job.json"}
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in skipped
    }


def end_of_labels(out: Path) -> list[Any]:
    """All pairs, all answers."""
    with LabelStore(out / "c" / "labels.sqlite") as store:
        assert store._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        pairs = [replace(asked, created="") for asked in store.pairs()]
        return [pairs, [replace(label, answered="", response_ms=None) for label in store.labels()]]


@dataclass(frozen=True)
class Case:
    """Work, where it is killed, and what is compared."""

    work: Work
    functions: tuple[str, ...]
    end: Callable[[Path], Any] = ending
    period: float = 0.05
    """Share of the whole that lies between two moments from which it goes on."""
    kills: int = KILLS
    kind: str = "train"
    """The kind of run: the command that begins it, of fits with the registry name of what is fitted; empty for none."""
    sources: tuple[str, ...] = ()
    """Where its rows come from, as `module:Class.sample`; each is called in an undisturbed run."""


SWEEP = """
algorithms = ["bc", "td3-bc"]
datasets = ["{team}"]
seeds = [0, 1]

[fields]
steps = 30
device = "cpu"
hidden = [8]
batch_size = 8
eval_every = 0
final_episodes = 2
checkpoint_every = 10
log_every = 5
"""
RECIPE = """
[stages.data]
command = "collect"
name = "rendezvous"
fields = { who = ["left"], episodes = 20, noise = [0.1] }

[stages.learner]
command = "train"
name = "bc"
fields.dataset = "{data}"
fields.steps = 40
fields.hidden = [8]
fields.device = "cpu"
fields.eval_every = 0
fields.final_episodes = 2
fields.checkpoint_every = 10
"""
PERIOD = 10 / (60 + 12 * KILLS)
FIT = {"steps": 20, "eval_every": 20, "hidden": [8], "members": 2, "elites": 1, "batch_size": 8}
MARIE = {
    "tokenizer_steps": 30,
    "hidden": [8],
    "tokens": 2,
    "vocabulary": 4,
    "width": 8,
    "length": 3,
    "window": 1,
    "action_bins": 4,
    "reward_bins": 8,
    "batch_size": 4,
    "holdout": 0.3,
    "eval_every": 20,
    "checkpoint_every": 10,
    "log_every": 6,
    "device": "cpu",
}
ENSEMBLE = {**SMALL_FIT, "checkpoint_every": 10}
MODEL = {"world_model": "ensemble", "fit": FIT, "horizon": 3, "rollouts": 8, "retain": 64, "refill_every": 5}
CASES = {
    "a run on data": Case(training("team", algorithm="ma-iql"), (STEP, *DISK), period=PERIOD, sources=(RECORDED,)),
    "a mixed run": Case(
        training("team", algorithm="iql", real_fraction=0.5, **MODEL),
        (STEP, ROLLOUT, *DISK),
        period=PERIOD,
        sources=(MIXED,),
    ),
    "moma-ppo": Case(
        training(
            "team", algorithm="moma-ppo", **{k: v for k, v in MODEL.items() if k not in ("retain", "refill_every")}
        ),
        (MINIBATCH, ROLLOUT, *DISK),
        period=PERIOD,
        sources=(IMAGINED,),
    ),
    "a run that plays": Case(
        training(None, algorithm="vdn", environment="coordination", warmup_steps=40, replay_capacity=80),
        (STEP, PLAY, *DISK),
        period=PERIOD,
        sources=(REPLAY,),
    ),
    "a run beside its data": Case(
        training("team", algorithm="ma-iql", online=True, replay_copies=3, window=2, updates_per_step=0.7),
        (STEP, PLAY, *DISK),
        period=PERIOD,
        sources=(BESIDE,),
    ),
    "ma-ppo": Case(
        training(None, algorithm="ma-ppo", environment="rendezvous", epochs=2),
        (MINIBATCH, *DISK),
        period=PERIOD,
        sources=(PLAYED,),
    ),
    "coded training": Case(
        training("team", algorithm="td3-bc", engine="local", learners=3, code="vandermonde"),
        ("offline_marl.training.coded:Controller.update", *DISK),
        end=lambda out: json.loads((out / "DONE").read_text())["steps"],
        period=PERIOD,
        sources=(RECORDED,),
    ),
    "a fit of an ensemble": Case(
        fitting("ensemble", "team", **ENSEMBLE),
        (STEP, *DISK),
        period=PERIOD,
        kind="fit-model ensemble",
        sources=(MEMBERS,),
    ),
    "a fit of marie": Case(
        fitting("marie", "team", **MARIE), (STEP, *DISK), period=PERIOD, kind="fit-model marie", sources=(ROWS,)
    ),
    "a fit of rewards": Case(
        fitting_rewards, (STEP, *DISK), period=PERIOD, kind="fit-reward bradley-terry", sources=(COMPARED,)
    ),
    "a collection": Case(
        collecting(1),
        ("offline_marl.environments.rendezvous:RendezvousGame.move", *DISK),
        end_of_files,
        period=0.1,
        kind="",
    ),
    "labels": Case(
        labelling, ("offline_marl.preferences.label_store:LabelStore._add", "os:fspath"), end_of_labels, 0.5, kind=""
    ),
    "a sweep": Case(
        sweeping,
        (STEP, *DISK),
        lambda out: {path.name: ending(path) for path in sorted((out / "s" / "runs").iterdir())},
        0.3,
        kind="",
    ),
    "a recipe": Case(
        command("recipe run {place}/recipe.toml --out {out}/r"),
        ("offline_marl.environments.rendezvous:RendezvousGame.move", STEP, *DISK),
        lambda out: sorted(str(path.relative_to(out)) for path in out.rglob("DONE")),
        0.3,
        kind="",
    ),
    "a page": Case(
        command("report {run} {run} --out {out}/page --reps 100", lambda out: (out / "page" / "report.html").exists()),
        ("offline_marl.core.parts:_open_part", *DISK),
        lambda out: sorted(path.name for path in (out / "page").iterdir() if not path.name.startswith(".")),
        0.5,
        kills=min(KILLS, 6),
        kind="",
    ),
    "a conversion": Case(
        command("data convert {team} {out}/x.safetensors --author me", lambda out: (out / "x.safetensors").exists()),
        ("offline_marl.core.files:_pieces", *DISK),
        end_of_files,
        0.5,
        kind="",
    ),
}


# --- what is there beforehand -------------------------------------------------------------------------------------
def make_data(place: Path) -> Data:
    """Data, comparisons, runs and a sweep file for the work."""
    preload()
    team, body = saved(place, world("continuous", episodes=20)), saved(place, reacher_recording(), "body.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        run = small_run(place / "run", None, algorithm="td3-bc", environment="rendezvous", warmup_steps=20)
        comparisons = compare(place / "comparisons", team)
        small_reward(place / "reward", team, comparisons)
    (place / "sweep.toml").write_text(SWEEP.format(team=team))
    (place / "recipe.toml").write_text(RECIPE)
    (place / "mix.toml").write_text(f'parts = [{{data = "{team}"}}, {{data = "{team}", episodes = 5}}]\n')
    names = {"team": team, "body": body, "run": str(run.folder), "comparisons": str(comparisons)}
    return names | {"reward": str(place / "reward"), "place": str(place)}


def preload() -> None:
    """Import what commands import when they are called, so that no fork has to."""
    mine = [found.name for found in pkgutil.walk_packages(offline_marl.__path__, "offline_marl.")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ["matplotlib.pyplot", *HEAVY, *(name for name in mine if not name.endswith("__main__"))]:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)


def shrink(patch: pytest.MonkeyPatch) -> None:
    """Make everything small that no flag makes small."""
    score_in_point_env(patch)
    patch.setattr(training_run, "draw_run", lambda *_: None)
    patch.setattr("offline_marl.training.models.fit.draw_report", lambda *_: None)
    patch.setattr(environment_tasks, "UNIFORM_STEPS", 100)
    patch.setattr(recorder, "CHUNK", 4)
    patch.setattr(Backoff.__init__, "__defaults__", (0.1, 0.05))  # how long a job waits for room
