"""Labels of pairs: what was asked, of whom, about whom, and what was answered."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from offline_marl.core.types import DataError
from offline_marl.preferences.pairs import Pair

Answer = Literal["first", "second", "equal", "skip", "withdrawn"]

VALUES: Mapping[str, float | None] = {"first": 1.0, "second": 0.0, "equal": 0.5, "skip": None, "withdrawn": None}
"""The label that each answer is; a skipped pair has none, and is not asked about again."""
TEAM = "team"
"""Target of a label that speaks of all agents together; others are `agent_<index>`."""
TARGET = re.compile(r"team|agent_(?:0|[1-9][0-9]{0,2})")
"""How targets are written: each in one way, whatever digits other scripts have."""
SHOWN_ORDERS = ("as stored", "swapped")
LARGEST_COUNT = 2**31
"""Above all counts that a file of labels may hold."""


@dataclass(frozen=True, slots=True)
class AskedPair:
    """A pair in the store, with why it was asked about."""

    pair: Pair
    session: int
    """Annotation round."""
    split: str
    """`train` or `held-out`: no episode is in both."""
    strategy: str
    score: float | None = None
    """What the strategy made of it."""
    created: str = ""


@dataclass(frozen=True, slots=True)
class Label:
    """One answer about a pair."""

    pair_id: str
    answer: Answer
    annotator: str
    source: str = "human"
    """human, simulated or imported."""
    target: str = TEAM
    """`team`, or `agent_<index>`."""
    repeat: int = 0
    """How often this annotator was asked about this pair and target before."""
    revision: int = 0
    """How often this answer was taken back before; the last one counts."""
    shown_order: str = "as stored"
    """`as stored`, or `swapped` where the second was shown first."""
    answered: str = ""
    response_ms: int | None = None

    @property
    def value(self) -> float | None:
        """1, 0 or 1/2; None for a pair that was skipped."""
        return VALUES[self.answer]

    @property
    def asked(self) -> tuple[str, str, str]:
        """What was asked of whom."""
        return self.pair_id, self.target, self.annotator

    def turned(self) -> Label:
        """The same opinion about the same pair the other way round."""
        opposite: dict[str, Answer] = {"first": "second", "second": "first"}
        order = "swapped" if self.shown_order == "as stored" else "as stored"
        return replace(self, answer=opposite.get(self.answer, self.answer), shown_order=order)


def index_of(target: str, n_agents: int) -> int:
    """The agent that a label speaks of, or -1 for the team.

    Raises:
        DataError: There is no such agent.
    """
    if target == TEAM:
        return -1
    names = [f"agent_{index}" for index in range(n_agents)]
    if target not in names:
        raise DataError(f"'{target}' is no target of a label: there are {TEAM}, {', '.join(names)}.")
    return names.index(target)
