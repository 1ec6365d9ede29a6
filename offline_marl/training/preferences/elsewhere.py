"""A folder of comparisons and a labelling server elsewhere, kept in step: pairs go there, answers come here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from offline_marl.core.types import DataError
from offline_marl.preferences.label_server import LabelServer
from offline_marl.preferences.labels import Label
from offline_marl.preferences.names import respelled, respelled_remarks
from offline_marl.preferences.revisions import Answered, question_of
from offline_marl.training.preferences.folders import ComparisonFolder


@dataclass(frozen=True)
class Exchanged:
    """Counts of pairs and labels that one exchange with a server moved."""

    pairs: int
    """Pairs that are new on the server."""
    labels: int
    """Answers that are new in the folder, judgements among them."""


@dataclass
class Reached:
    """How far exchanges of one folder with one server have come, so that the next does only what is left."""

    rounds: set[int] = field(default_factory=set)
    """Rounds that are on the server."""
    since: int = 0
    judged_since: int = 0
    remarked_since: int = 0


def exchange(folder: ComparisonFolder, server: LabelServer, reached: Reached | None = None) -> Exchanged:
    """Send the rounds that the server lacks, and store the answers and remarks that the folder lacks.

    Calling it again, after whatever stopped it, does what is left to do.

    Args:
        folder: Here.
        server: Elsewhere.
        reached: By earlier calls in this process, and by this one; without it all is looked at again.

    Raises:
        LabelServerRefusal: The server asks about other data.
        LabelServerError: It does not answer.
        DataError: A person answered one question otherwise there than here; none of the new answers is stored.
    """
    reached = Reached() if reached is None else reached
    sent = _send(folder, server, reached.rounds)
    fetched = server.fetch(reached.since, reached.judged_since, reached.remarked_since)
    new = 0
    if fetched.labels or fetched.judgements or fetched.remarks:
        names = folder.store.annotators()
        labels = _lacking(respelled(fetched.labels, names), [label for _, label in folder.store.history()])
        judged = _lacking(respelled(fetched.judgements, names), [one for _, one in folder.store.judgement_history()])
        new = folder.store.take_in(labels, judged, respelled_remarks(fetched.remarks, names))
    reached.since, reached.judged_since = fetched.since, fetched.judged_since
    reached.remarked_since = fetched.remarked_since
    return Exchanged(sent, new)


def _send(folder: ComparisonFolder, server: LabelServer, there: set[int]) -> int:
    """Send rounds that are not there, which are then; returns how many pairs were new."""
    facts, asked, sent = folder.store.facts(), folder.store.pairs(), 0
    told: dict[str, Any] = {name: facts[name] for name in ("data", "task", "scene", "scale") if name in facts}
    for session in sorted({one.session for one in asked} - there):
        pairs = [one for one in asked if one.session == session]
        sent += server.enter(session, pairs, folder.file_of(session), told)
        there.add(session)
    return sent


def _lacking(fetched: Sequence[Answered], held: Sequence[Answered]) -> list[Answered]:
    """Answers that are not held here, but for those that a correction which is held here came after.

    Raises:
        DataError: Of one revision another is held, and neither the server nor the folder knows better since.
    """
    known = {(question_of(one), one.revision): one.answer for one in held}
    newest = {question_of(one): one for one in sorted(held, key=lambda one: one.revision)}
    last = {question_of(one): one.revision for one in sorted(fetched, key=lambda one: one.revision)}
    made = list[Answered]()
    for one in fetched:
        question = question_of(one)
        here = known.get((question, one.revision))
        if here is None:
            if question not in newest or one.revision > newest[question].revision:
                made.append(one)
        elif one.answer not in (here, newest[question].answer) and last[question] == one.revision:
            what = f"pair {one.pair_id}" if isinstance(one, Label) else f"segment {one.segment.text}"
            did, way = f"answered '{one.answer}'", "take it back there, and answer again"
            if one.answer == "withdrawn":
                did, way = "took back the answer", "answer it again there"
            raise DataError(
                f"{one.annotator} {did} about {what} ({one.target}) on the server and answered '{here}' here, so that "
                f"no new answer was stored: {way}."
            )
    return made
