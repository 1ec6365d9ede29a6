"""Command `offline-marl prefs simulate`: a teacher that answers by the environment's reward."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from offline_marl.core.config import Config, build
from offline_marl.core.fields import NotNegative, Seed, Share
from offline_marl.launch.cli.command import PROGRAM
from offline_marl.launch.cli.flags import read

ABOUT = (
    "Labels every pair that this annotator has not labelled yet: the first is preferred with probability "
    "sigmoid(steepness (G1 - G2) / scale), G being the return of a segment. The same command gives the same labels, "
    "and a second call none."
)
USAGE = "FOLDER [--steepness X] [--target team|agents|agent_0 ...] [--annotator NAME] ..."


class SimulateFlags(Config):
    """Flags of `prefs simulate`."""

    folder: CliPositionalArg[Path]
    """Folder of comparisons."""
    annotator: str = "teacher"
    """Name of the teacher; one name has one character."""
    target: str = "team"
    """Whose doings are judged: team, agent_0 ..., or agents for each of them."""
    steepness: NotNegative | Literal["perfect"] = 5.0
    """How surely the better segment is preferred; 0 tosses a coin, perfect never errs by itself."""
    discount: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Weight of each step relative to the next: below 1 the end of a segment counts most."""
    error_rate: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """Chance that an answer for the first or the second is turned round."""
    skip: Share = 0.0
    """Skips pairs whose returns are both below this share of the mean segment return, above the least if negative."""
    equal: Share = 0.0
    """Calls segments equal whose returns differ by less than this share of the mean segment return."""
    repeats: Share = 0.0
    """Share of the questions that are asked a second time, swapped, to see how often the teacher agrees with itself."""
    seed: Seed = 0
    """Decides its answers."""


def run(args: Sequence[str]) -> None:
    """Let a teacher answer.

    Raises:
        BadInputError: There are no pairs, or the annotator was simulated otherwise before.
    """
    flags: SimulateFlags = build(SimulateFlags, read(SimulateFlags, "prefs simulate", USAGE, ABOUT, args))

    from offline_marl.preferences.agreement import count_answers
    from offline_marl.preferences.teachers import TeacherConfig
    from offline_marl.training.preferences.answering import simulate
    from offline_marl.training.preferences.folders import ComparisonFolder

    teacher = TeacherConfig(**flags.model_dump(include=set(TeacherConfig.model_fields)))
    with ComparisonFolder(flags.folder) as folder:
        new = simulate(
            folder, teacher, annotator=flags.annotator, target=flags.target, repeats=flags.repeats, seed=flags.seed
        )
        labels = [label for label in folder.store.labels() if label.annotator == flags.annotator]
        about = folder.store.facts().get("task", "ID")
    counts = ", ".join(f"{count:,} {answer}" for answer, count in count_answers(labels).items())
    print(f"{'labels':<12}{new:,} new; {flags.annotator} has given {counts}")
    print(f"{'learn':<12}{PROGRAM} fit-reward bradley-terry --dataset {about} --preferences {flags.folder}")
