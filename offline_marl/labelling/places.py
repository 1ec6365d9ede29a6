"""From what a person names, data or a run, to a folder of comparisons, and from that to its environment."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from offline_marl.core.errors import BadInputError
from offline_marl.core.partition import SCENARIOS, partition
from offline_marl.core.types import DataError, Spec
from offline_marl.environments.base import JointEnv
from offline_marl.labelling.replays import Replays
from offline_marl.preferences.label_store import NAME
from offline_marl.runs.folder import RewardFolder, RunFolder, kind_of
from offline_marl.runs.kinds import FIT_REWARD, TRAIN
from offline_marl.tasks.data_tasks import RecordedTask, ScoredTask, Task, open_task
from offline_marl.tasks.run_tasks import scored_task_of
from offline_marl.training.preferences.asking import Plan, Round, ask
from offline_marl.training.preferences.folders import ComparisonFolder

LONGEST_WATCHED = 60
"""Steps of a segment that people are asked to watch, unless told otherwise."""
BEGAN = "config.json"
"""What every run folder holds."""


def find_folder(place: Path) -> Path | None:
    """The folder of comparisons that a path names: itself, or that of a run; None where the path is neither.

    Raises:
        DataError: It is a run that asks nobody, or has not begun to, or one with several folders.
    """
    if (place / NAME).is_file():
        return place
    if not (place / BEGAN).is_file():
        return None
    inside = sorted(path.parent for path in place.glob(f"*/{NAME}"))
    if len(inside) > 1:
        raise DataError(f"{place} holds {len(inside)} folders of comparisons: name one, such as {inside[0]}.")
    if inside:
        return inside[0]
    kind = kind_of(place)
    folder: Any = {TRAIN: RunFolder, FIT_REWARD: RewardFolder}.get(kind)
    config = None if folder is None else folder(place).config()
    about = _preferences_of(config)
    if about is not None and (about / NAME).is_file():
        return about
    if getattr(config, "asks_people", False):
        raise DataError(f"{place} has asked nothing yet: name it again once it plays (`offline-marl resume {place}`).")
    raise DataError(f"{place} is a run that asks nobody: name a folder of comparisons, or data to compare segments of.")


def _preferences_of(config: Any) -> Path | None:
    named = getattr(config, "preferences", None)
    model = getattr(config, "reward_model", None)
    if not named and model:
        named = RewardFolder(model).config().preferences
    return Path(named) if named else None


def receiving_folder(place: Path) -> Path:
    """A folder of comparisons that are drawn elsewhere and sent here; made, empty, where there is none.

    Raises:
        DataError: The place holds something else.
    """
    if (place / NAME).is_file():
        return place
    if place.exists() and not (place.is_dir() and not any(place.iterdir())):
        raise DataError(f"{place} is there, and no folder of comparisons: name a new one to receive pairs in.")
    ComparisonFolder(place, make=True).store.close()
    return place


def begin_folder(
    path: Path, data: str, budget: int, length: int | None, seed: int, chosen: Collection[str] = ()
) -> Round | None:
    """Ask about pairs of a data set, in a folder that may be there; None where it is, and has pairs of the same data.

    Args:
        path: The folder.
        data: Name of the data set.
        budget: How many pairs.
        length: Steps of a segment, 0 for whole episodes; by the data where None.
        seed: Decides which.
        chosen: Which of these the user named; the pairs of a folder that is there are to be drawn so.

    Raises:
        DataError: The folder is of other data, or its pairs were drawn otherwise.
    """
    if (path / NAME).is_file():
        with ComparisonFolder(path) as folder:
            facts, begun = folder.store.facts(), bool(folder.store.pair_count())
        about = facts.get("task")
        # One without either was left by a start that failed, such as for a lack of data.
        if about != data and (about or begun):
            raise DataError(f"{path} asks about {about}, not about {data}: name another folder by --out.")
        for name, value in (("budget", budget), ("length", length), ("seed", seed)) if begun else ():
            if name in chosen and facts.get(name) != value:
                drawn = f"with --{name} {facts[name]}" if name in facts else "elsewhere"
                raise DataError(
                    f"{path} is there already, and its pairs were drawn {drawn}: leave --{name} {value} away, or name "
                    "another folder by --out."
                )
        if begun:
            return None
    task = open_task(data)
    longest = int(task.data.lengths.max())
    steps = length if length is not None else 0 if longest <= LONGEST_WATCHED else LONGEST_WATCHED
    with ComparisonFolder(path, make=True) as folder:
        return ask(folder, task, Plan(budget=budget, length=steps, seed=seed))


class Scene(NamedTuple):
    """Environment that a folder's segments are of."""

    env: JointEnv | None
    """One copy; None where none can be made."""
    scenario: str
    """Its name, or nothing."""
    may_come: bool = False
    """Whether one that cannot be made may be another time, when an extra or the data is there."""


def scene_of(folder: ComparisonFolder) -> Scene:
    """The environment that a folder's segments are of."""
    task = _task_of(folder)
    if task is None:
        return Scene(None, "", may_come=True)
    scenario = str(task.about.get("scenario") or (task.partition.scenario if task.partition else ""))
    try:
        env = task.make_env(1)
    except BadInputError:
        return Scene(None, scenario, may_come=True)
    return Scene(env, scenario, may_come=bool(scenario))


def replays_of(folder: ComparisonFolder, env: JointEnv) -> Replays:
    """The episodes of a folder's data, to be played again.

    Raises:
        BadInputError: The data is not there, or does not name its seeds.
    """
    return Replays(open_task(str(folder.store.facts().get("task"))).data, env)


def _task_of(folder: ComparisonFolder) -> ScoredTask | None:
    facts = folder.store.facts()
    scene, spec = facts.get("scene"), (facts.get("data") or {}).get("spec")
    try:
        if (folder.path.parent / BEGAN).is_file() and folder.path.parent != folder.path:
            return scored_task_of(RunFolder(folder.path.parent))
        if isinstance(scene, Mapping) and spec is not None:
            return _remembered(str(facts.get("task")), scene, Spec.from_plain(spec))
        task: Task = open_task(str(facts.get("task")))
    except BadInputError:
        return None
    return task


def _remembered(name: str, scene: Mapping[str, Any], spec: Spec) -> RecordedTask:
    share = None
    if scene.get("scenario") in SCENARIOS and scene.get("conf") and scene.get("view"):
        share = partition(str(scene["scenario"]), str(scene["conf"]), str(scene["view"]))
    return RecordedTask(
        id=name, spec=spec, about=scene, partition=share, reference=None, named_environment=None, random_return=None
    )
