"""The runs of a comparison, finished or not, each under a name of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from offline_marl.core.config import ConfigError
from offline_marl.report.gather.run_folders import evaluations_of, figures, names_of, read_json_object, unusable
from offline_marl.report.gather.scales import Scale, scale_of, unlike_tasks, without_normalized
from offline_marl.report.gather.scores import EvidenceError, Figures
from offline_marl.runs.folder import RunFolder, RunFolderError, kind_of

FEWEST, MOST = 2, 4


@dataclass(frozen=True)
class Side:
    """A run that is compared: its folder, curve and configuration."""

    name: str
    folder: Path
    algorithm: str
    task: str
    seed: int
    settings: Mapping[str, Any]
    curve: tuple[Figures, ...] = ()
    score: Figures | None = None
    """None of a run that has not ended."""
    note: str = ""
    reward_model: Path | None = None
    scale: Scale | None = None
    """Returns of random play and of an expert by which its score is normalised, where known."""
    films: tuple[Path, ...] = field(default=())


def read_sides(paths: Sequence[Path]) -> list[Side]:
    """The runs in these folders, in this order.

    Raises:
        ConfigError: They are not two to four.
        EvidenceError: One holds no run, or the same one twice.
    """
    if not FEWEST <= len(paths) <= MOST:
        raise ConfigError(f"--compare puts {FEWEST} to {MOST} runs side by side, and {len(paths)} were named.")
    if len({path.resolve() for path in paths}) < len(paths):
        raise EvidenceError("The same run is named twice: --compare wants different ones.")
    return [_read(path, name) for path, name in zip(paths, names_of(paths), strict=True)]


def drop_unlike_scales(sides: Sequence[Side]) -> tuple[list[Side], list[str]]:
    """Drop the normalised figures of a task where its runs were normalised by different reference scores.

    Returns:
        The sides, and a note where figures were dropped.
    """
    unlike, notes = unlike_tasks(sides, lambda side: [*side.curve, *([] if side.score is None else [side.score])])
    return [_without_scale(side) if side.task in unlike else side for side in sides], notes


def _without_scale(side: Side) -> Side:
    score = None if side.score is None else without_normalized(side.score)
    return replace(side, score=score, curve=tuple(without_normalized(row) for row in side.curve))


def _read(path: Path, name: str) -> Side:
    kind = kind_of(path)
    if kind is None or not kind.scored:
        raise EvidenceError(f"{path} holds no run that learned to act: name run folders.")
    folder = RunFolder(path)
    try:
        config = folder.unedited_config()
    except RunFolderError as error:
        raise EvidenceError(str(error)) from None
    plain = config.model_dump(mode="json")
    rows, reached = evaluations_of(path / "metrics.jsonl")
    done = read_json_object(folder.done_file) if folder.done else None
    told = (done or {}).get("score")
    score = figures(told) if isinstance(told, Mapping) and unusable(told) is None else None
    note = "" if done is not None else f"unfinished: {reached:,.0f} of {plain['steps']:,} updates"
    model = plain.get("reward_model")
    return Side(
        name=name,
        folder=path,
        algorithm=plain["algorithm"],
        task=Path(plain["dataset"] or plain["environment"]).name,
        seed=plain["seed"],
        settings={**{key: value for key, value in plain.items() if key != "settings"}, **plain["settings"]},
        curve=tuple(figures(row) for row in rows if unusable(row) is None),
        score=score,
        note=note,
        reward_model=None if model is None else Path(model),
        scale=scale_of((read_json_object(folder.task_file) or {}).get("reference"), plain["reference"]),
        films=tuple(sorted(file for file in path.glob("*.mp4"))),
    )
