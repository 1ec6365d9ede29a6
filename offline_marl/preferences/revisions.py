"""Revisions of answers that come from elsewhere: which corrects the stored one, which is older, which contradicts."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, TypeVar

from offline_marl.preferences.answers import Judgement
from offline_marl.preferences.labels import Label

Answered = TypeVar("Answered", Label, Judgement)
UNKNOWN = -1
"""Revision of an answer from a file that does not say it."""


def onward(given: Answered, stored: Answered | None) -> Answered | None:
    """The row by which an answer from elsewhere goes on from the newest one here, of the same person and question.

    What was taken back here is answered anew. An answer that is newer, by its time or by its revision there, corrects;
    the same answer, newer, is stored again, so that what came between the two is older than it here as well.

    Args:
        given: Its revision is that of the place it comes from, or `UNKNOWN`.
        stored: None where nothing is.

    Returns:
        None where nothing changes: the same is stored, or a correction of it. A contradiction keeps the revision of
        what is stored, by which the store refuses it.
    """
    if stored is None:
        return None if given.answer == "withdrawn" else replace(given, revision=max(given.revision, 0))
    newer = _order(given, stored)
    if given.answer == stored.answer and (newer <= 0 or given.answer == "withdrawn"):
        return None
    if newer > 0 or stored.answer == "withdrawn":
        return replace(given, revision=max(given.revision, stored.revision + 1))
    if newer < 0 or given.answer == "withdrawn":
        return None
    return replace(given, revision=stored.revision)


def _order(given: Answered, stored: Answered) -> int:
    """Above 0 where the given answer is the newer one, below where it is older, 0 where nobody knows."""
    if _later(given.answered, stored.answered):
        return 1
    # First answers from files may bear the time at which they came in: what corrects one goes by its revision.
    if stored.revision and _later(stored.answered, given.answered):
        return -1
    return 0 if given.revision == UNKNOWN else given.revision - stored.revision


def question_of(one: Label | Judgement) -> tuple[Any, ...]:
    """What was asked of whom, and how often before."""
    return (*one.asked, one.repeat) if isinstance(one, Label) else one.asked


def _later(one: str, other: str) -> bool:
    """Whether a time is after another; of what is no time nobody knows."""
    moments = [_moment(text) for text in (one, other)]
    return moments[0] is not None and moments[1] is not None and moments[0] > moments[1]


def _moment(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=timezone.utc)
