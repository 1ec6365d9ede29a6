"""Work that is killed again and again, at places by progress, ends as work that was never disturbed.

Every kind of work has functions that its main loop calls; the calls are counted in an undisturbed run first, so that
kills lie within the loop, between checkpoints, and in the writing of files.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from campaign import SHORT
from compared import SMALL_REWARD, compare
from kills import count_in, kill_again_and_again
from runs import SMALL_FIT, ending, leftovers, refuse_difference, score_in_point_env, small_run
from worlds import saved, world

from offline_marl.collection import recorder
from offline_marl.collection.collect import collect
from offline_marl.collection.config import CollectConfig
from offline_marl.core.config import build
from offline_marl.launch.cli import main
from offline_marl.preferences.labels import LabelStore
from offline_marl.runs.kinds import FIT_REWARD
from offline_marl.tasks import environment_tasks
from offline_marl.training import training_run
from offline_marl.training.kinds import fit_reward, procedure_of
from offline_marl.training.models.fit import fit_model, resume_fit
from offline_marl.training.run import resume

pytestmark = pytest.mark.faults

KILLS = 3 if SHORT else 18
"""Of each kind of work."""
STEP = "offline_marl.core.learner:Learner.step_optimizer"
DISK = ("os:replace", "os:fsync")
ROLLOUT = "offline_marl.training.sources.imagined:rollout"
PLAY = "offline_marl.training.sources.playing:Player.advance"

Data = dict[str, str]
Work = Callable[[Path, Data], object]


def begun(out: Path) -> bool:
    return (out / "config.json").exists()


def training(dataset: str | None, **fields: Any) -> Work:
    """Begin a run, or go on with it."""
    settings = {"steps": 60 + 12 * KILLS, "checkpoint_every": 10, "log_every": 7, "eval_every": 35, "seed": 7, **fields}

    def work(out: Path, data: Data) -> object:
        return resume(out) if begun(out) else small_run(out, dataset and data[dataset], **settings)

    return work


def fitting(kind: str, dataset: str, **fields: Any) -> Work:
    """Begin a fit, or go on with it."""

    def work(out: Path, data: Data) -> object:
        return resume_fit(out) if begun(out) else fit_model(kind, data[dataset], out=out, **fields)

    return work


def fitting_rewards(out: Path, data: Data) -> object:
    if begun(out):
        return procedure_of(FIT_REWARD).resume(out)
    steps = {"steps": 60 + 12 * KILLS, "eval_every": 15, "checkpoint_every": 10}
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
            with pytest.raises(SystemExit) as end:
                main(text.format(out=out, **data).split())
            assert end.value.code == 0

    return work


def labelling(out: Path, data: Data) -> None:
    """Ask about pairs, and answer."""
    out.mkdir(exist_ok=True)
    for words, codes in (
        (f"prefs pairs {out}/c --dataset {data['team']} --budget {20 + KILLS} --length 3", {0, 2}),  # 2: all are there
        (f"prefs simulate {out}/c --steepness 5", {0}),
    ):
        with pytest.raises(SystemExit) as end:
            main(words.split())
        assert end.value.code in codes


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


def end_of_sweep(out: Path) -> dict[str, Any]:
    """What each run came to."""
    return {path.name: ending(path) for path in sorted((out / "runs").iterdir())}


@dataclass(frozen=True)
class Case:
    """Work, where it is killed, and what is compared."""

    work: Work
    functions: tuple[str, ...]
    end: Callable[[Path], Any] = ending
    period: float = 0.05
    """Share of the whole that lies between two moments from which it goes on."""
    kills: int = KILLS
    fields: dict[str, Any] = field(default_factory=dict)


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
    "steps": 60 + 12 * KILLS,
}
ENSEMBLE = {**SMALL_FIT, "steps": 60 + 12 * KILLS, "checkpoint_every": 10}
IMAGINED = {"world_model": "ensemble", "fit": FIT, "horizon": 3, "rollouts": 8, "retain": 64, "refill_every": 5}
CASES = {
    "a run on data": Case(training("team", algorithm="ma-iql"), (STEP, *DISK), period=PERIOD),
    "a mixed run": Case(
        training("team", algorithm="iql", real_fraction=0.5, **IMAGINED), (STEP, ROLLOUT, *DISK), period=PERIOD
    ),
    "moma-ppo": Case(
        training(
            "team", algorithm="moma-ppo", **{k: v for k, v in IMAGINED.items() if k not in ("retain", "refill_every")}
        ),
        (STEP, ROLLOUT, *DISK),
        period=PERIOD,
    ),
    "a run that plays": Case(
        training(None, algorithm="vdn", environment="coordination", warmup_steps=40, replay_capacity=80),
        (STEP, PLAY, *DISK),
        period=PERIOD,
    ),
    "a run beside its data": Case(
        training("team", algorithm="ma-iql", online=True, replay_copies=3, window=2, updates_per_step=0.7),
        (STEP, PLAY, *DISK),
        period=PERIOD,
    ),
    "ma-ppo": Case(training(None, algorithm="ma-ppo", environment="rendezvous"), (STEP, *DISK), period=PERIOD),
    "coded training": Case(
        training("team", algorithm="td3-bc", engine="local", learners=3, code="vandermonde"),
        ("offline_marl.training.coded:Controller.update", *DISK),
        end=lambda out: json.loads((out / "DONE").read_text())["steps"],
        period=PERIOD,
    ),
    "a fit of an ensemble": Case(fitting("ensemble", "team", **ENSEMBLE), (STEP, *DISK), period=PERIOD),
    "a fit of marie": Case(fitting("marie", "team", **MARIE), (STEP, *DISK), period=PERIOD),
    "a fit of rewards": Case(fitting_rewards, (STEP, *DISK), period=PERIOD),
    "a collection": Case(
        collecting(1), ("offline_marl.environments.rendezvous:RendezvousGame.move", *DISK), end_of_files, period=0.1
    ),
    "labels": Case(labelling, ("offline_marl.preferences.labels:LabelStore._add", "os:fspath"), end_of_labels, 0.5),
    "a conversion": Case(
        command("data convert {team} {out}/x.safetensors --author me", lambda out: (out / "x.safetensors").exists()),
        ("offline_marl.core.files:_pieces", *DISK),
        end_of_files,
        0.5,
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    place = tmp_path_factory.mktemp("data")
    team = saved(place, world("continuous", episodes=20))
    return {"team": team, "comparisons": str(compare(place / "comparisons", team)), "place": str(place)}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    score_in_point_env(monkeypatch)
    monkeypatch.setattr(training_run, "draw_run", lambda *_: None)
    monkeypatch.setattr("offline_marl.training.models.fit.draw_report", lambda *_: None)
    monkeypatch.setattr(environment_tasks, "UNIFORM_STEPS", 100)
    monkeypatch.setattr(recorder, "CHUNK", 4)


@pytest.mark.parametrize("name", CASES)
def test_work_that_is_killed_again_and_again_ends_as_if_it_had_not_been(tmp_path, data, name, record_property):
    case = CASES[name]
    log = tmp_path / "log"
    counts = count_in(lambda: case.work(tmp_path / "straight", data), dict.fromkeys(case.functions, 0), log, tmp_path)
    assert all(counts.values()), f"a function that is never called: {counts}"
    spans = {function: max(2, round(2 * case.period * count)) for function, count in counts.items()}
    died, ends = kill_again_and_again(
        lambda end: case.work(tmp_path / f"killed-{end}", data), spans, case.kills, 20_261, log
    )
    assert {place.function for place in died} >= set(case.functions[:2] if SHORT else case.functions)
    for end in range(ends):
        refuse_difference(case.end(tmp_path / "straight"), case.end(tmp_path / f"killed-{end}"))
        assert not leftovers(tmp_path / f"killed-{end}")
    record_property(f"kills of {name}", len(died))
