"""From gathered runs to all that a report shows."""

from __future__ import annotations

from offline_marl.evidence.estimates import Evidence
from offline_marl.evidence.scores import Gathered

REPS = 2_000


def summarize(gathered: Gathered, *, reps: int = REPS, seed: int = 0, best: bool = False) -> Evidence:
    """Statistics of the runs, their intervals, and the notes that belong beside them.

    Args:
        gathered: The runs.
        reps: Bootstrap resamples.
        seed: Of the resampling; the same one gives the same intervals.
        best: Score each run's best evaluation in place of its last, and say so.

    Raises:
        EvidenceError: There are no runs.
        MissingRliableError: rliable is not installed.
    """
    raise NotImplementedError
