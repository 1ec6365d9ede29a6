"""The plan of the headline: headline.toml, counts of updates, and which jobs there are, in the order of their use."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import rows as rows_of

from offline_marl.core.config import load_settings

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "headline"
PROTOCOL = load_settings(HERE / "headline.toml")
TUNED_ON = PROTOCOL["data"]["tune"]
Row = dict[str, str]
WITH_HISTORY = " with history"
BEYOND = " beyond the grid"


def bare(learner: str) -> str:
    """A learner's name without where its setting comes from."""
    return learner.removesuffix(WITH_HISTORY).removesuffix(BEYOND)


@dataclass(frozen=True)
class Setting:
    """One of the settings that are tried of a learner."""

    learner: str
    label: str
    """What is varied, such as `window=0 alpha=2.5`."""
    algorithm: str
    fields: dict[str, Any] = field(hash=False)
    """Of the run and the algorithm, all that is not a default."""

    @property
    def cost(self) -> tuple[str, str, str]:
        """What of it decides the time of an update, as text."""
        learner = self.learner.removesuffix(" oracle")
        return bare(learner), str(self.fields["window"]), str(self.fields.get("horizon", ""))


@dataclass(frozen=True)
class Job:
    """One training run."""

    stage: str
    """`tune`, `beyond` (the grid), or `final`."""
    dataset: str
    setting: Setting
    factor: float
    """Budget, in units of that of the tuning."""
    seed: int
    starts: int
    """Seed of the starts that it is scored on."""
    updates: int

    @property
    def key(self) -> str:
        """Its folder below that of all jobs; names it in the tables, too."""
        return folder_of(self.stage, self.dataset, self.setting.learner, self.setting.label, self.factor, self.seed)

    @property
    def fields(self) -> dict[str, Any]:
        """All that `offline_marl.train` is given, but for the folder."""
        fields = {**self.setting.fields, "steps": self.updates, "cosine_steps": self.updates}
        fields |= _adapted(self.dataset, fields)
        episodes = PROTOCOL["episodes"]["score"]
        return {**fields, "seed": self.seed, "eval_every": 0, "eval_seed": self.starts, "final_episodes": episodes}

    @property
    def label(self) -> str:
        """The setting's label with the values that hold here, such as a shorter horizon."""
        return _with(
            self.setting.label, {name: self.fields[name] for name in ("window", "horizon") if name in self.fields}
        )

    @property
    def command(self) -> str:
        """The same on the command line."""
        words = ["offline-marl", "train", self.setting.algorithm, "--dataset", self.dataset]
        for name, value in self.fields.items():
            words += [f"--{name.replace('_', '-')}", _spell(value)]
        return shlex.join(words)


def folder_of(stage: str, dataset: str, learner: str, setting: str, factor: float, seed: int | str) -> str:
    """The folder of a job, by what its row says."""
    label = setting.replace(" ", "_") or "one"
    return f"{stage}/{dataset}/{learner.replace(' ', '-')}/{label}_x{factor:g}_seed{seed}"


def _spell(value: Any) -> str:
    if isinstance(value, dict):
        return json.dumps(value)
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _adapted(dataset: str, fields: dict[str, Any]) -> dict[str, Any]:
    """What the length of a game's episodes asks for: no history is longer, and imagined ones begin and end with it."""
    length = PROTOCOL["data"]["games"].get(dataset)
    if length is None:
        return {}
    imagined = {"horizon": length, "start_share": 1.0} if "world_model" in fields else {}
    return {"window": min(fields["window"], length), **imagined}


def settings() -> list[Setting]:
    """All settings of all learners, in the order of the file."""
    return [setting for learner in PROTOCOL["learners"] for setting in _of_learner(learner)]


def _of_learner(learner: dict[str, Any]) -> Iterator[Setting]:
    common = {**PROTOCOL["fields"], **learner.get("fields", {})}
    if learner.get("model"):
        common |= {"world_model": "ensemble", "fit": PROTOCOL["fit"]}
    for window, tried in itertools.product(PROTOCOL["windows"]["tried"], learner["tried"]):
        varied = {"window": window, **tried}
        label = _with("", varied)
        yield Setting(learner["name"], label, learner["algorithm"], {**common, **varied})


def _with(label: str, varied: dict[str, Any]) -> str:
    """A setting's label with other values of some fields."""
    values = dict(part.split("=") for part in label.split())
    values |= {name: _spell(value) for name, value in varied.items()}
    return " ".join(f"{name}={value}" for name, value in values.items())


def learners() -> list[str]:
    """Names of those that are tuned, in the order of the file."""
    return [learner["name"] for learner in PROTOCOL["learners"]]


def read(name: str, folder: Path | None = None) -> list[Row]:
    """Rows of a table below results/headline; none where it is not there yet."""
    return rows_of.read((folder or RESULTS) / f"{name}.csv")


def write(name: str, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    """A table below results/headline."""
    rows_of.write(RESULTS / f"{name}.csv", columns, rows)


def updates_of(setting: Setting, factor: float) -> int:
    """Updates that a budget pays for, by results/headline/updates.csv."""
    for row in read("updates"):
        if (row["learner"], row["window"], row["horizon"]) == setting.cost:
            seconds = factor * float(row["budget_s"]) - float(row["fit_s"])
            return rounded(seconds / float(row["ms_per_update"]) * 1e3)
    raise LookupError(f"The cost of {setting.learner} {setting.label} was not measured: say --budget.")


def rounded(count: float) -> int:
    """To two digits that count, and at least ten."""
    size = 10 ** max(len(str(int(count))) - 2, 0)
    return max(round(count / size) * size, 10)


def tuning(learner: str) -> list[Job]:
    """All runs that choose a learner's setting."""
    seeds, starts = PROTOCOL["seeds"]["tune"], PROTOCOL["starts"]["tune"]
    return [
        Job("tune", TUNED_ON, setting, 1, seed, starts, updates_of(setting, 1))
        for setting in settings()
        if setting.learner == learner
        for seed in seeds
    ]


def chosen(learner: str, rows: Sequence[Row], history: bool = False) -> Setting | None:
    """The setting with the best mean score over the seeds of the tuning; None before all of its runs have ended.

    Args:
        learner: Its name.
        rows: Of the runs that have ended.
        history: Choose among those with a history alone.
    """
    tried = [setting for setting in settings() if setting.learner == learner]
    scores = {setting.label: _tuned(learner, setting.label, rows) for setting in tried}
    if any(len(found) < len(PROTOCOL["seeds"]["tune"]) for found in scores.values()):
        return None
    allowed = [setting for setting in tried if setting.fields["window"] or not history]
    return max(allowed, key=lambda setting: fmean(scores[setting.label]))


def with_history(learner: str, rows: Sequence[Row]) -> Setting:
    """The best of a learner's settings with a history, under a name of its own."""
    setting = chosen(learner, rows, history=True)
    assert setting is not None, learner
    return replace(setting, learner=learner + WITH_HISTORY)


def beyond(setting: Setting) -> list[Job]:
    """Runs one step out of the grid around a chosen setting, on the seeds and starts of the tuning."""
    seeds, starts = PROTOCOL["seeds"]["tune"], PROTOCOL["starts"]["tune"]
    steps = [step for each in PROTOCOL["beyond"] if each["learner"] == setting.learner for step in each["tried"]]
    tried = [replace(setting, label=_with(setting.label, step), fields={**setting.fields, **step}) for step in steps]
    return [Job("beyond", TUNED_ON, each, 1, seed, starts, updates_of(each, 1)) for each in tried for seed in seeds]


def better_beyond(setting: Setting, rows: Sequence[Row]) -> Setting | None:
    """The best of what was tried beyond the grid, under a name of its own.

    Returns:
        None where the chosen setting is as good, and before all runs that decide it have ended.
    """
    tried = {job.setting.label: job.setting for job in beyond(setting)}
    scores = {label: _tuned(setting.learner, label, rows) for label in (setting.label, *tried)}
    if not tried or any(len(found) < len(PROTOCOL["seeds"]["tune"]) for found in scores.values()):
        return None
    label = max(scores, key=lambda each: fmean(scores[each]))
    return replace(tried[label], learner=setting.learner + BEYOND) if label in tried else None


def _tuned(learner: str, label: str, rows: Iterable[Row]) -> list[float]:
    """Scores of a setting on the seeds and starts of the tuning."""
    return [
        float(row["normalized_return"])
        for row in rows
        if row["stage"] in {"tune", "beyond"} and (row["learner"], row["setting"]) == (learner, label)
    ]


def oracle(setting: Setting) -> Setting:
    """The same learner in the simulator itself."""
    fields = {name: value for name, value in setting.fields.items() if name != "fit"}
    return Setting(f"{setting.learner} oracle", setting.label, setting.algorithm, {**fields, "world_model": "oracle"})


def scoring(setting: Setting, dataset: str, factor: float) -> list[Job]:
    """The runs of one cell of a table."""
    updates, starts, seeds = updates_of(setting, factor), PROTOCOL["starts"]["final"], PROTOCOL["seeds"]["final"]
    return [Job("final", dataset, setting, factor, seed, starts, updates) for seed in seeds]


def best(rows: list[Row]) -> list[str]:
    """Learners that get the larger budget: the best without a model, by the score of the first, and moma-ppo."""
    plain = [learner["name"] for learner in PROTOCOL["learners"] if not learner.get("model")]
    means = {}
    for name in plain:
        scores = [float(row["normalized_return"]) for row in rows if _is_cell(row, name, TUNED_ON, 1)]
        if len(scores) < len(PROTOCOL["seeds"]["final"]):
            return []
        means[name] = fmean(scores)
    return [*sorted(means, key=lambda name: -means[name])[: PROTOCOL["budget"]["best"]], "moma-ppo"]


def _is_cell(row: Row, learner: str, dataset: str, factor: float) -> bool:
    cell = row["stage"], row["learner"], row["dataset"], float(row["factor"])
    return cell == ("final", learner, dataset, factor)


def jobs(rows: list[Row]) -> Iterator[Job]:
    """All jobs whose settings are known by now, the most telling first.

    Learner by learner the tuning and the scores of the own-joint view; then what lies beyond the grid, with the scores
    of what is better there, the games, the larger budget for the best and for the same with a history, and the other
    views.
    """
    fixed = {}
    for name in learners():
        yield from tuning(name)
        setting = chosen(name, rows)
        if setting is not None:
            fixed[name] = setting
            yield from scoring(setting, TUNED_ON, 1)
    if "moma-ppo" in fixed:
        fixed["moma-ppo oracle"] = oracle(fixed["moma-ppo"])
        yield from scoring(fixed["moma-ppo oracle"], TUNED_ON, 1)
    for setting in fixed.values():
        yield from beyond(setting)
    for setting in fixed.values():
        if (better := better_beyond(setting, rows)) is not None:
            yield from scoring(better, TUNED_ON, 1)
    for dataset in PROTOCOL["data"]["games"]:
        for setting in fixed.values():
            if dataset not in PROTOCOL["unfit"] or setting.algorithm not in PROTOCOL["unfit"][dataset]:
                yield from scoring(setting, dataset, PROTOCOL["budget"]["games"])
    for name in best(rows):
        yield from scoring(fixed[name], TUNED_ON, PROTOCOL["budget"]["larger"])
    for name in best(rows)[:-1]:
        yield from scoring(with_history(name, rows), TUNED_ON, PROTOCOL["budget"]["larger"])
    for dataset in PROTOCOL["data"]["views"]:
        for setting in fixed.values():
            yield from scoring(setting, dataset, 1)
