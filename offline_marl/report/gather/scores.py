"""Scores of finished runs, and the runs that were left out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offline_marl.core.errors import BadInputError

Figures = Mapping[str, float | None]
"""Named as in `Score.row()`: return, return_low, normalized_return, agreement, episodes ..."""

FIGURES = (
    "return",
    "return_low",
    "return_high",
    "normalized_return",
    "normalized_low",
    "normalized_high",
    "agreement",
    "random_return",
    "online",
    "environment_steps",
    "episodes",
)
"""Columns of a score in tables; agreement, random_return and what was played only where a run has them."""

CONTROL_CHARACTERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Characters that control a terminal, or turn the direction of the text behind them."""


def strip_control_characters(text: str) -> str:
    """Replace control characters, so that text from outside cannot alter a terminal or the text around it."""
    return CONTROL_CHARACTERS.sub("\ufffd", text)


class EvidenceError(BadInputError, ValueError):
    """Lack of runs to make a statement about; the message is one sentence."""


@dataclass(frozen=True)
class Run:
    """Finished run with its score: a run folder, or a row of a committed table."""

    name: str
    """As shown: the folder's name, or algorithm, task and seed of a row. May hold anything: escape it."""
    folder: Path | None
    """None for a row of a table."""
    algorithm: str
    """Registry name."""
    label: str
    """What is compared: the algorithm, and the settings other than the seed that differ among the gathered runs."""
    task: str
    """Data set or environment."""
    seed: int
    budget: int
    """Declared updates."""
    step: int
    """Updates at which the score was taken."""
    score: Figures
    curve: tuple[Figures, ...] = ()
    """Evaluations over updates, in order: step, return, normalized_return ..."""
    best: Figures | None = None
    """The evaluation with the highest return, its step among the figures; chosen on the test environment."""
    evaluations: int = 1
    """Among how many evaluations the best one was chosen."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """config.json, the algorithm's own settings beside the run's; of a row, what its columns say."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """versions.json: commit, dataset_sha256, packages; of a row, its commit and checksum."""
    tuned_on: str | None = None
    """How its settings were chosen, if other runs chose them: "tuned on seeds 0, 1: best ..."."""
    data_return: float | None = None
    """Mean return of the episodes that it learned from, where known."""
    data_normalized: float | None = None
    scale: tuple[float, float] | None = None
    """Returns of random play and of an expert by which its score is normalised, where known."""
    from_data: bool = True
    """Whether it learned from a data set, beside which it may have played."""
    pinned: Mapping[str, str] = field(default_factory=dict)
    """Checksums of the networks from elsewhere that it went by, by what and where they are: `world model in m`."""

    @property
    def online(self) -> bool:
        """Whether it played its environment to learn."""
        return bool(self.score.get("online"))


@dataclass(frozen=True)
class LeftOut:
    """Run or file that was asked for and is in no average."""

    name: str
    why: str


@dataclass(frozen=True)
class Gathered:
    """Runs under the given paths, and the ones left out."""

    runs: tuple[Run, ...]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    """Sentences that belong beside the numbers, such as that budgets differ."""
    varied: tuple[str, ...] = ()
    """Settings other than the seed that differ among the runs."""
