"""A second look at the scored runs of the headline: five times as many episodes, on starts that nobody has used.

Says, too, how often agents of different runs would follow the same convention on the same starts. These never met, so
that is what the starts alone make them do; what agents of one run agree more often is what they learned together.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import headline_plan as plan
import numpy as np
import numpy.typing as npt
import torch
from headline_job import COPIES, figures
from headline_plan import PROTOCOL, TUNED_ON, Job

import offline_marl
from offline_marl.core.locks import BusyError, locked
from offline_marl.environments.base import NOTHING, Conventions
from offline_marl.environments.episodes import episode_seeds, play
from offline_marl.runs.folder import write_json
from offline_marl.tasks.data_tasks import open_task

KEY = ("dataset", "learner", "setting", "factor", "seed")
COLUMNS = (
    *KEY,
    "starts",
    "episodes",
    "normalized_return",
    "agreement",
    "agreement_strict",
    "data",
    "data_return",
    "followed",
)
LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"
Choices = npt.NDArray[np.int64]
"""The convention that each agent followed, an episode a row."""


def look_again(job: Job, folder: Path) -> None:
    """Play the last checkpoint of a finished run, and leave what it came to beside its row."""
    torch.set_num_threads(1)
    task = open_task(job.dataset)
    env = task.make_envs(COPIES, 1)
    assert env is not None, f"no environment belongs to {job.dataset}"
    again = PROTOCOL["again"]
    episodes = play(offline_marl.load(folder), env, episode_seeds(again["starts"], again["episodes"]))
    conventions = None if episodes.ends is None else task.conventions(episodes.ends)
    assert conventions is not None, f"{job.dataset} has nothing to agree on"
    row = {
        **{name: json.loads((folder / "row.json").read_text())[name] for name in KEY},
        "starts": again["starts"],
        "episodes": len(episodes.returns),
        **figures(episodes, task),
        "followed": packed(conventions),
    }
    if conventions.targets is not None:
        write_json(folder / "targets.json", np.round(conventions.targets, 4).tolist())
    write_json(folder / "again.json", row)
    print(f"{job.key}: {row['normalized_return']}, agreement {row['agreement']}", file=sys.stderr)


def of_data(folder: Path) -> dict[str, float]:
    """What the data of a finished run returns itself."""
    told = json.loads((folder / "DONE").read_text())["data"]
    return {"data": told["normalized_return"], "data_return": told["return"]}


def look_at_all(jobs: Iterable[Job], runs: Path) -> None:
    """A second look at all scored runs that have ended and left a checkpoint."""
    for job in jobs:
        folder = runs / job.key
        if job.stage != "final" or (folder / "again.json").exists() or not (folder / "DONE").exists():
            continue
        try:
            with locked(folder.with_name(f"{folder.name}.again.lock")):
                look_again(job, folder)
        except BusyError:
            continue


def collect(runs: Path) -> None:
    """Bring what was seen into the committed table; rows of runs that are not there stay."""
    rows = {tuple(row[name] for name in KEY): row for row in plan.read("again")}
    for path in sorted(runs.glob("final/*/*/*/again.json")):
        row = {name: str(value) for name, value in {**json.loads(path.read_text()), **of_data(path.parent)}.items()}
        rows[tuple(row[name] for name in KEY)] = row
    plan.write("again", COLUMNS, [rows[key] for key in sorted(rows)])
    found = next(iter(runs.glob(f"final/{TUNED_ON}/*/*/targets.json")), None)
    if found is not None:
        plan.write("targets", ("x", "y"), [{"x": x, "y": y} for x, y in json.loads(found.read_text())])


def width(names: int, count: int) -> int:
    """How many letters tell the choices of `count` agents apart, each among `names` conventions or none."""
    return next(width for width in itertools.count(1) if len(LETTERS) ** width >= (names + 1) ** count)


def packed(conventions: Conventions) -> str:
    """What every agent followed in each episode, in as few letters an episode as its choices fit into."""
    names, count = len(conventions.names), conventions.followed.shape[1]
    codes = (conventions.followed - NOTHING) @ (names + 1) ** np.arange(count)
    digits = codes[:, None] // len(LETTERS) ** np.arange(width(names, count)) % len(LETTERS)
    return f"{names}x{count}:" + "".join(LETTERS[digit] for digit in digits.ravel())


def unpacked(text: str) -> Choices:
    """The conventions that `packed` wrote down, by episode and agent."""
    size, _, letters = text.partition(":")
    names, count = map(int, size.split("x"))
    wide = width(names, count)
    digits = np.array([LETTERS.index(letter) for letter in letters]).reshape(-1, wide)
    codes = digits @ len(LETTERS) ** np.arange(wide)
    return codes[:, None] // (names + 1) ** np.arange(count) % (names + 1) + NOTHING


def agreed(choices: Choices) -> npt.NDArray[np.bool_]:
    """Whether all agents followed the same convention, by episode."""
    return Conventions((), choices).agreed


def of_strangers(runs: Sequence[Choices]) -> float:
    """How often agents agree of whom no two are of the same run.

    Every agent is taken from another run, as far along the list for each as for the one before, for all such steps that
    bring no two together; each acted among its own.
    """
    count, agents = len(runs), runs[0].shape[1]
    shares = []
    for first, step in itertools.product(range(count), range(1, count)):
        places = [(first + agent * step) % count for agent in range(agents)]
        if len(set(places)) == agents:
            team = np.stack([runs[place][:, agent] for agent, place in enumerate(places)], axis=1)
            shares.append(agreed(team).mean())
    return float(np.mean(shares)) if shares else float("nan")
