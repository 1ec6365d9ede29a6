"""Videos of a report: an episode of one run of every label on every task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from offline_marl.core.attempts import said
from offline_marl.core.errors import BadInputError, WorkError
from offline_marl.films.videos import film
from offline_marl.report.gather.scores import Run
from offline_marl.report.side_by_side.sides import Side

MOST = 12
"""Videos of one report."""


def film_sides(sides: Sequence[Side], folder: Path) -> tuple[list[Side], list[str]]:
    """Film the newest checkpoint of each run of a comparison, in the same episode, into a folder.

    Returns:
        The runs with their films, and a sentence for each that could not be filmed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made, reasons = list[Side](), list[str]()
    for number, side in enumerate(sides, 1):
        try:
            shown = film(side.folder, folder / f"compare_{number}.mp4")
        except (BadInputError, WorkError) as error:
            reasons.append(f"No film of {side.name}: {error}")
            made.append(side)
        except Exception as error:
            reasons.append(f"No film of {side.name}: {said(error)}.")
            made.append(side)
        else:
            made.append(replace(side, films=(shown.path,)))
    return made, reasons


def film_runs(runs: Sequence[Run], folder: Path) -> tuple[list[Path], list[str]]:
    """Film the run of the lowest seed of each label and task, newest checkpoint, into a folder.

    Args:
        runs: Those of the report; rows of a table have nothing to film.
        folder: Made if it is missing; videos of an earlier report in it are replaced.

    Returns:
        Videos and sheets that were written, and a sentence for each reason why some were not.
    """
    chosen: dict[tuple[str, str], Run] = {}
    for run in sorted((run for run in runs if run.folder is not None), key=lambda run: run.seed):
        chosen.setdefault((run.task, run.label), run)
    folder.mkdir(parents=True, exist_ok=True)
    files, reasons = list[Path](), dict[str, None]()
    for number, run in enumerate(list(chosen.values())[:MOST], 1):
        assert run.folder is not None
        try:
            made = film(run.folder, folder / f"{number:02}_{run.algorithm}_seed{run.seed}.mp4")
        except (BadInputError, WorkError) as error:
            reasons[f"No video of {run.algorithm} on {run.task}: {error}"] = None
        except Exception as error:
            reasons[f"No video of {run.algorithm} on {run.task}: {said(error)}."] = None
        else:
            files += [made.path, made.sheet]
    if len(chosen) > MOST:
        reasons[f"{MOST} videos were made, of the first {MOST} of {len(chosen)} labels and tasks."] = None
    return files, list(reasons)
