"""Desk of the questions to people: which lack answers, who is asked which next, how sides are shown, what is stored.

Everything here runs in the one thread that the store is opened in. Sides and repeats are drawn by hashing what is
asked of whom, so that a server that was killed shows the same question in the same way.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from offline_marl.labelling.leases import Leases
from offline_marl.labelling.questions import (
    AnsweredError,
    Asking,
    Question,
    QuestionKind,
    RefusedAnswerError,
    UnknownQuestionError,
)
from offline_marl.preferences.agreement import count_answers, self_agreement
from offline_marl.preferences.answers import RATINGS, Judgement, Kind
from offline_marl.preferences.labels import TEAM, AskedPair, Label
from offline_marl.preferences.pairs import SegmentKey
from offline_marl.training.preferences.folders import ComparisonFolder

SUMMARY_SECONDS = 5.0
"""For which a summary of all labels is not made anew."""
GAP = 10
"""Answers between a question and its repeat, while there are others to ask."""


@dataclass
class Annotator:
    """Record of one annotator's answers."""

    answered: dict[Question, int] = field(default_factory=dict)
    """Of questions asked the first time, how many were answered before."""
    again: dict[Question, int] = field(default_factory=dict)
    """Of these, those that they are to be asked again."""
    repeated: set[Question] = field(default_factory=set)
    given: int = 0


class Desk:
    """Questions of one folder of comparisons.

    Args:
        folder: Opened in this thread.
        asking: What is asked.
        leases: Who has which question.
        clock: Seconds since the epoch.
    """

    def __init__(
        self, folder: ComparisonFolder, asking: Asking, leases: Leases, clock: Callable[[], float] = time.time
    ) -> None:
        self.folder, self.asking, self.leases, self.clock = folder, asking, leases, clock
        self.pairs: dict[str, AskedPair] = {}
        self.segments: dict[str, SegmentKey] = {}
        self.homes: dict[str, int] = {}
        """Round that the copy of each segment lies in."""
        self.open: dict[Question, set[str]] = {}
        """Questions that lack answers, in the order in which they are asked, with who answered."""
        self.answered: dict[Question, set[str]] = {}
        """Questions that lack none."""
        self.people: dict[str, Annotator] = {}
        self.revisions: dict[tuple[Question, str], tuple[int, str]] = {}
        """Of each question and annotator, the last revision and its answer."""
        self._labels = self._judgements = self._pairs = 0
        self._agents, self._salt = 0, ""
        self._summary: dict[str, Any] = {}
        self._summed = -SUMMARY_SECONDS
        self.refresh()

    @property
    def n_agents(self) -> int:
        """Agents of the team; 0 before there are pairs."""
        if not self._agents:
            about = self.folder.store.facts().get("data") or {"spec": {"obs_dims": []}}
            self._agents = len(about["spec"]["obs_dims"])
        return self._agents

    @property
    def store_id(self) -> str:
        """A name of what is asked about, so that answers which wait in a browser reach no other folder."""
        first = next(iter(self.pairs.values()), None)
        return "" if first is None else hashlib.sha256(f"{self.salt}\n{first.created}".encode()).hexdigest()[:16]

    def has_clip(self, name: str) -> bool:
        """Whether there is such a segment, and such an agent."""
        segment, _, target = name.partition(".")
        if segment not in self.segments:
            return False
        return target == TEAM or target in {f"agent_{index}" for index in range(self.n_agents)}

    @property
    def salt(self) -> str:
        """What draws depend on beside what is asked of whom."""
        if not self._salt:
            self._salt = str((self.folder.store.facts().get("data") or {}).get("key", ""))
        return self._salt

    def refresh(self) -> None:
        """Take in what was entered and answered since, by whatever process."""
        count = self.folder.store.pair_count()
        if count > self._pairs:
            self._take_pairs(self.folder.store.pairs()[self._pairs :])
            self._pairs = count
        for number, label in self.folder.store.history(self._labels):
            question = Question("pair", label.pair_id, label.target, label.repeat)
            self._note(question, label.annotator, label.revision, label.answer)
            self._labels = number
        for number, one in self.folder.store.judgement_history(self._judgements):
            question = Question(_kind_of(one.kind), one.segment.id, one.target, one.repeat)
            self._note(question, one.annotator, one.revision, one.answer)
            self._judgements = number

    def _take_pairs(self, asked: Sequence[AskedPair]) -> None:
        _ = self.n_agents  # read in the thread of the store; clips are asked for from another
        # A round enters its held-out pairs first: shuffled, a few answers are some of both.
        for one in sorted(asked, key=lambda one: (one.session, self._lot(one.pair.id, "order"))):
            self.pairs[one.pair.id] = one
            for key in (one.pair.first, one.pair.second):
                self.segments.setdefault(key.id, key)
                self.homes.setdefault(key.id, one.session)
            for question in self._questions_about(one):
                if question not in self.answered:
                    self.open.setdefault(question, set())

    def _questions_about(self, asked: AskedPair) -> Iterator[Question]:
        sides = (asked.pair.first.id, asked.pair.second.id)
        for kind in self.asking.kinds:
            for item in (asked.pair.id,) if kind == "pair" else sides:
                for target in (TEAM,) if kind == "credit" else self.asking.targets:
                    yield Question(kind, item, target)

    def _note(self, question: Question, annotator: str, revision: int, answer: str) -> None:
        if revision < self.revisions.get((question, annotator), (-1, ""))[0]:
            return  # an older row of an answer whose correction came first, from a file
        self.revisions[question, annotator] = revision, answer
        person, base = self.people.setdefault(annotator, Annotator()), question.first_time
        if answer != "withdrawn":
            self.leases.release(question.id, annotator)
        if question.repeat:
            (person.repeated.discard if answer == "withdrawn" else person.repeated.add)(base)
            return
        who = self.open.get(base)
        if who is None:
            who = self.answered.get(base, set())
        if answer == "withdrawn":
            who.discard(annotator)
            person.answered.pop(base, None)
            person.again.pop(base, None)
        else:
            who.add(annotator)
            person.answered.setdefault(base, person.given)
            if (
                base.kind == "pair"
                and answer != "skip"
                and self._lot(annotator, base.id, "again") < self.asking.repeats
            ):
                person.again[base] = person.given
            person.given += 1
        if base not in self.open and base not in self.answered:
            return  # it is not asked here
        self.open.pop(base, None)
        self.answered.pop(base, None)
        if len(who) >= self.asking.answers:
            self.answered[base] = who
        elif answer == "withdrawn":
            self.open = {base: who, **self.open}  # asked again first
        else:
            self.open[base] = who

    def lease(self, annotator: str, count: int, held: Sequence[Question] = ()) -> list[Question]:
        """Questions for one person: those that they hold and may keep, then others, until there are so many.

        No question is put to more people at a time than are to answer it; a repeat is leased under its own name,
        because nobody else has to wait for it.
        """
        now, chosen = self.clock(), list[Question]()
        self.leases.expire(now, self.asking.lease)
        for question in (*held, *self._due(annotator), *self.open, *self._due(annotator, soon=True)):
            if len(chosen) >= count:
                break
            if question not in chosen and self._may_have(question, annotator):
                chosen.append(question)
        self.leases.grant([question.id for question in chosen], annotator, now + self.asking.lease)
        return chosen

    def keep(self, question: Question, annotator: str) -> None:
        """Lease a question to one person whose page shows it, such as after an undo, if they may have it."""
        now = self.clock()
        self.leases.expire(now, self.asking.lease)
        if self._may_have(question, annotator):
            self.leases.grant([question.id], annotator, now + self.asking.lease)

    def _may_have(self, question: Question, annotator: str) -> bool:
        base = question.first_time
        person = self.people.get(annotator)
        if question.repeat:
            return person is not None and base in person.answered and base not in person.repeated
        who = self.open.get(base)
        if who is None or annotator in who:
            return False
        return len(who) + len(self.leases.others(base.id, annotator)) < self.asking.answers

    def _due(self, annotator: str, soon: bool = False) -> Iterator[Question]:
        """Repeats that are due; `soon` also those that would better wait, for when nothing else is left."""
        person = self.people.get(annotator, Annotator())
        for base, given in person.again.items():
            if base not in person.repeated and (soon or person.given - given > GAP):
                yield Question(base.kind, base.item, base.target, 1)

    def swapped(self, question: Question, annotator: str) -> bool:
        """Whether this person is shown the second side first; a repeat is shown the other way round."""
        return (self._lot(annotator, question.first_time.id, "side") < 0.5) != bool(question.repeat % 2)

    def sides(self, question: Question, annotator: str) -> list[SegmentKey]:
        """The segments that are shown, in the order in which they are.

        Raises:
            UnknownQuestionError: It is about nothing here.
        """
        if question.kind != "pair":
            key = self.segments.get(question.item)
            if key is None:
                raise UnknownQuestionError("There is no such segment here: it may be of another run.")
            return [key]
        asked = self.pairs.get(question.item)
        if asked is None:
            raise UnknownQuestionError("There is no such pair here: it may be of another run.")
        both = [asked.pair.first, asked.pair.second]
        return both[::-1] if self.swapped(question, annotator) else both

    def about(self, question: Question, annotator: str) -> dict[str, Any]:
        """What the page needs to ask it."""
        names = [f"{key.id}.{question.target}" for key in self.sides(question, annotator)]
        return {
            "id": question.id,
            "kind": question.kind,
            "target": question.target,
            "repeat": question.repeat,
            "segments": names,
        }

    def answer(
        self, question: Question, annotator: str, answer: str, response_ms: int | None
    ) -> Label | Judgement | None:
        """The row of an answer, as it is to be stored; None if it is stored already.

        Args:
            question: What was asked.
            annotator: Of whom.
            answer: first and second are as they were shown.
            response_ms: How long it took.

        Raises:
            UnknownQuestionError: Nothing here is called so.
            RefusedAnswerError: The question has no such answer.
            AnsweredError: It was answered otherwise before, and that was not taken back.
        """
        self._refuse_unknown(question, annotator)
        stored = self._as_stored(question, annotator, answer)
        revision, before = self.revisions.get((question, annotator), (-1, "withdrawn"))
        if before == stored:
            return None
        if before != "withdrawn":
            raise AnsweredError(f"{annotator} answered this before, otherwise: take that back first.")
        return self._row(question, annotator, stored, revision + 1, response_ms)

    def undo(self, question: Question, annotator: str) -> Label | Judgement:
        """The row that takes an answer back.

        Raises:
            UnknownQuestionError: Nothing here is called so.
            AnsweredError: There is nothing to take back.
        """
        self._refuse_unknown(question, annotator)
        revision, before = self.revisions.get((question, annotator), (-1, "withdrawn"))
        if before == "withdrawn":
            raise AnsweredError(f"{annotator} has no answer to this that could be taken back.")
        return self._row(question, annotator, "withdrawn", revision + 1, None)

    def _refuse_unknown(self, question: Question, annotator: str) -> None:
        try:
            self.sides(question, annotator)
        except UnknownQuestionError:
            self.refresh()
            self.sides(question, annotator)
        agents = {f"agent_{index}" for index in range(self.n_agents)}
        if question.target != TEAM and (question.kind == "credit" or question.target not in agents):
            raise UnknownQuestionError("There is no such agent here: the question may be of another run.")
        if question.repeat and (question.first_time, annotator) not in self.revisions:
            raise UnknownQuestionError(f"{annotator} was not asked this before.")

    def _as_stored(self, question: Question, annotator: str, answer: str) -> str:
        known = {"pair": ("first", "second", "equal"), "rating": tuple(map(str, range(1, RATINGS + 1)))}
        agents = tuple(f"agent_{index}" for index in range(self.n_agents))
        choices = (*known.get(question.kind, (*agents, "equal")), "skip")
        if answer not in choices:
            raise RefusedAnswerError(f"That is no answer to a {question.kind}: there are {', '.join(choices)}.")
        if question.kind == "pair" and answer in ("first", "second") and self.swapped(question, annotator):
            return "second" if answer == "first" else "first"
        return answer

    def _row(
        self, question: Question, annotator: str, stored: str, revision: int, response_ms: int | None
    ) -> Label | Judgement:
        rest: dict[str, Any] = {
            "target": question.target,
            "repeat": question.repeat,
            "revision": revision,
            "response_ms": response_ms,
        }
        if question.kind == "pair":
            order = "swapped" if self.swapped(question, annotator) else "as stored"
            return Label(question.item, cast(Any, stored), annotator, shown_order=order, **rest)
        kind: Kind = "rating" if question.kind == "rating" else "credit"
        return Judgement(kind, self.segments[question.item], stored, annotator, **rest)

    def progress(self, annotator: str = "") -> dict[str, Any]:
        """How far the questions are answered, by everybody and by this person."""
        person = self.people.get(annotator, Annotator())
        return {
            "answered": len(self.answered),
            "open": len(self.open),
            "yours": len(person.answered) + len(person.repeated),
            "people": len(self.people),
            "held": self.leases.count(self.clock()),
        }

    def summary(self) -> dict[str, Any]:
        """How often each answer was given to pairs, and self-agreement; some seconds old perhaps."""
        if self.clock() - self._summed > SUMMARY_SECONDS:
            labels = self.folder.store.labels()
            agreement, repeated = self_agreement(labels)
            self._summary = {"answers": count_answers(labels), "self_agreement": agreement, "repeated": repeated}
            self._summed = self.clock()
        return self._summary

    def ahead(self, count: int) -> list[str]:
        """Names of clips of the questions that are asked next."""
        names = dict.fromkeys(
            f"{key.id}.{question.target}"
            for question, _ in zip(self.open, range(count), strict=False)
            for key in self.sides(question, "")
        )
        return list(names)

    def _lot(self, *words: str) -> float:
        digest = hashlib.sha256("\n".join((self.salt, *words)).encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2.0**64


def _kind_of(kind: Kind) -> QuestionKind:
    return "rating" if kind == "rating" else "credit"
