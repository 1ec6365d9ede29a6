"""A folder of comparisons and a labelling server elsewhere, kept in step: pairs go there, answers come here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from offline_marl.preferences.label_server import LabelServer
from offline_marl.preferences.labels import Label
from offline_marl.training.preferences.folders import ComparisonFolder


@dataclass(frozen=True)
class Exchanged:
    """Counts of pairs and labels that one exchange with a server moved."""

    pairs: int
    """Pairs that are new on the server."""
    labels: int
    """Answers that are new in the folder, judgements among them."""


def exchange(folder: ComparisonFolder, server: LabelServer) -> Exchanged:
    """Send the rounds that the server lacks, and store the answers that the folder lacks.

    Calling it again, after whatever stopped it, does what is left to do.

    Raises:
        LabelServerRefusal: The server asks about other data.
        LabelServerError: It does not answer.
    """
    store, sent = folder.store, 0
    facts = store.facts()
    told: dict[str, Any] = {name: facts[name] for name in ("data", "task", "scene", "scale") if name in facts}
    asked = store.pairs()
    for session in sorted({one.session for one in asked}):
        pairs = [one for one in asked if one.session == session]
        sent += server.enter(session, pairs, folder.file_of(session), told)
    fetched = server.fetch()
    known: set[Any] = {_place(label) for _, label in store.history()}
    labels = [label for label in fetched.labels if _place(label) not in known]
    judged_known = {(*one.asked, one.revision) for _, one in store.judgement_history()}
    judged = [one for one in fetched.judgements if (*one.asked, one.revision) not in judged_known]
    return Exchanged(sent, store.take_in(labels, judged))


def _place(label: Label) -> tuple[Any, ...]:
    return (*label.asked, label.repeat, label.revision)
