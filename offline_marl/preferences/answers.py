"""Store of all that people answer: labels of pairs, ratings of segments, credit to agents, and why they skipped.

Its tables lie beside those of labels in one file, and are made when they are first needed. What is posted carries a
key, by which a post that arrives twice is stored once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from offline_marl.core.types import DataError
from offline_marl.preferences.label_store import LABEL_COLUMNS, LabelStore, StoreError, now, refuse_target
from offline_marl.preferences.labels import TARGET, TEAM, Label
from offline_marl.preferences.pairs import Pair, SegmentKey

Kind = Literal["rating", "credit"]
Remark = tuple[str, str, str]
"""Question, annotator and text, such as why a question was skipped."""
RATINGS = 5
"""Steps of the scale on which a segment is rated, 1 the worst."""
NO_ANSWER = ("skip", "withdrawn")
"""Answers that say nothing of a segment."""

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS judgements (
    number INTEGER PRIMARY KEY, kind TEXT NOT NULL, segment_source TEXT NOT NULL, episode INTEGER NOT NULL,
    start INTEGER NOT NULL, length INTEGER NOT NULL, target TEXT NOT NULL, annotator TEXT NOT NULL,
    repeat INTEGER NOT NULL, revision INTEGER NOT NULL, answer TEXT NOT NULL, source TEXT NOT NULL,
    answered TEXT NOT NULL, response_ms INTEGER,
    UNIQUE (kind, segment_source, episode, start, length, target, annotator, repeat, revision)
)""",
    """CREATE TABLE IF NOT EXISTS remarks (
    number INTEGER PRIMARY KEY, question TEXT NOT NULL, annotator TEXT NOT NULL, text TEXT NOT NULL,
    written TEXT NOT NULL
)""",
    "CREATE TABLE IF NOT EXISTS posts (key TEXT PRIMARY KEY, digest TEXT NOT NULL, arrived TEXT NOT NULL) "
    "WITHOUT ROWID",
    *(
        f"CREATE TRIGGER IF NOT EXISTS {table}_{verb.lower()} BEFORE {verb} ON {table} "
        "BEGIN SELECT RAISE(ABORT, 'this store only grows'); END"
        for table in ("judgements", "remarks", "posts")
        for verb in ("UPDATE", "DELETE")
    ),
)
JUDGEMENT_COLUMNS = "kind segment_source episode start length target annotator repeat revision answer source answered "
JUDGEMENT_COLUMNS += "response_ms"


@dataclass(frozen=True, slots=True)
class Judgement:
    """One answer about a single segment."""

    kind: Kind
    """A rating from 1 to `RATINGS`, or which agent did best."""
    segment: SegmentKey
    answer: str
    """rating: `1` ... `5`; credit: `agent_<index>` or `equal`; of both `skip` and `withdrawn`."""
    annotator: str
    source: str = "human"
    target: str = TEAM
    """Whose doings are rated: `team`, or `agent_<index>`; credit is always asked of the team."""
    repeat: int = 0
    revision: int = 0
    """How often this answer was taken back before; the last one counts."""
    answered: str = ""
    response_ms: int | None = None

    @property
    def asked(self) -> tuple[str, SegmentKey, str, str, int]:
        """What was asked of whom."""
        return self.kind, self.segment, self.target, self.annotator, self.repeat


@dataclass(frozen=True, slots=True)
class Post:
    """Transaction of one request: labels and judgements that are stored all or none."""

    key: str
    """The same whenever it is sent again."""
    digest: str
    """Of what it says, so that a key is not taken for something else."""
    labels: tuple[Label, ...] = ()
    judgements: tuple[Judgement, ...] = ()
    remark: Remark | None = None


class KeyReusedError(StoreError):
    """A key that came before with something else."""


class AnswerStore(LabelStore):
    """A `LabelStore` that takes ratings, credit and remarks too."""

    def record(self, posts: Sequence[Post]) -> list[bool | StoreError]:
        """Store posts in one transaction: what this has returned for is on the disk.

        Returns:
            For each whether it was new, or why it was refused, which leaves the others alone.

        Raises:
            StoreError: Nothing could be written at all, and nothing was.
        """
        made: list[bool | StoreError] = []
        self._make_tables()
        with self._writing():
            for post in posts:
                self._connection.execute("SAVEPOINT post")
                try:
                    made.append(self._record(post))
                except (StoreError, sqlite3.IntegrityError) as error:
                    self._connection.execute("ROLLBACK TO post")
                    made.append(error if isinstance(error, StoreError) else StoreError(f"It was not stored: {error}."))
                self._connection.execute("RELEASE post")
        return made

    def _record(self, post: Post) -> bool:
        ask = self._connection.execute
        known = ask("SELECT digest FROM posts WHERE key = ?", (post.key,)).fetchone()
        if known is not None:
            if known[0] != post.digest:
                raise KeyReusedError(f"The key {post.key} came before with something else: nothing was stored.")
            return False
        ask("INSERT INTO posts VALUES (?, ?, ?)", (post.key, post.digest, now()))
        new = sum(self._add(label) for label in post.labels) + sum(self._judge(one) for one in post.judgements)
        if post.remark is not None and new:
            self._remark(post.remark)
        return bool(new)

    def _remark(self, remark: Remark) -> None:
        values = (*remark, now())
        self._connection.execute("INSERT INTO remarks (question, annotator, text, written) VALUES (?, ?, ?, ?)", values)

    def digest_of_post(self, key: str) -> str | None:
        """What came with this key; None if nothing did."""
        if not self._has("posts"):
            return None
        known = self._connection.execute("SELECT digest FROM posts WHERE key = ?", (key,)).fetchone()
        return None if known is None else str(known[0])

    def judge(self, judgements: Iterable[Judgement]) -> int:
        """Append ratings and credit, all or none; one that is there already is not stored twice.

        Returns:
            How many were new.

        Raises:
            StoreError: The segment is of no pair here, or the same question was answered otherwise before.
        """
        self._make_tables()
        with self._writing():
            return sum(self._judge(one) for one in judgements)

    def _judge(self, one: Judgement) -> bool:
        key = (one.segment.source, one.segment.episode, one.segment.start, one.segment.length)
        sides = [f"({side}_source, {side}_episode, {side}_start, {side}_length)" for side in ("first", "second")]
        known = " OR ".join(f"{side} = (?, ?, ?, ?)" for side in sides)
        if self._connection.execute(f"SELECT 1 FROM pairs WHERE {known}", (*key, *key)).fetchone() is None:
            raise StoreError(f"There is no segment {one.segment.text} in {self.path}: nothing was stored about it.")
        refuse_answer(one)
        refuse_target(one.target)
        place = (one.kind, *key, one.target, one.annotator, one.repeat, one.revision)
        names = JUDGEMENT_COLUMNS.split()
        where = " AND ".join(f"{name} = ?" for name in names[:9])
        found = self._connection.execute(f"SELECT answer FROM judgements WHERE {where}", place).fetchone()
        if found is not None and found[0] != one.answer:
            raise StoreError(
                f"{one.annotator} answered '{found[0]}' about segment {one.segment.text} before, not '{one.answer}': a "
                "correction is a revision."
            )
        if found is None:
            values = (*place, one.answer, one.source, one.answered or now(), one.response_ms)
            marks = ", ".join("?" * len(names))
            self._connection.execute(f"INSERT INTO judgements ({', '.join(names)}) VALUES ({marks})", values)
        return found is None

    def take_in(self, labels: Iterable[Label], judgements: Iterable[Judgement], remarks: Iterable[Remark] = ()) -> int:
        """Append labels and judgements, all or none, and remarks that are not there yet; see `add` and `judge`.

        Returns:
            How many labels and judgements were new.
        """
        self._make_tables()
        with self._writing():
            known = set(self.remarks())
            for remark in dict.fromkeys(remarks):
                if remark not in known:
                    self._remark(remark)
            return sum(self._add(label) for label in labels) + sum(self._judge(one) for one in judgements)

    def judgements(self, until: int | None = None) -> list[Judgement]:
        """Ratings and credit that count, in the order in which they came; of one that was revised, the last.

        Args:
            until: As they stood when this row was the newest; see `judgement_cursor`.
        """
        return [one for _, one in self._newest(until)]

    def _newest(self, until: int | None = None) -> list[tuple[int, Judgement]]:
        """Of each question and person the last revision, with the number of its row, which older ones may follow."""
        last: dict[Any, tuple[int, Judgement]] = {}
        for number, one in self.judgement_history():
            before = last.get(one.asked)
            if (until is None or number <= until) and (before is None or one.revision > before[1].revision):
                last[one.asked] = number, one
        return sorted(last.values(), key=lambda row: row[0])

    def judgement_history(self, since: int = 0) -> list[tuple[int, Judgement]]:
        """Every row after that of this number, also those that were revised since."""
        if not self._has("judgements"):
            return []
        rows = self._connection.execute(
            f"SELECT number, {', '.join(JUDGEMENT_COLUMNS.split())} FROM judgements WHERE number > ? ORDER BY number",
            (since,),
        )
        return [
            (row[0], Judgement(row[1], SegmentKey(*row[2:6]), row[10], row[7], row[11], row[6], *row[8:10], *row[12:]))
            for row in rows
        ]

    def standing(self, since: int = 0, judged_since: int = 0) -> int:
        """How many labels and judgements count that came after the rows of these numbers; none that was taken back."""
        judged = [one.answer for number, one in self._newest() if number > judged_since]
        answers = [label.answer for label in self.labels(since)] + judged
        return sum(answer != "withdrawn" for answer in answers)

    def judgement_cursor(self) -> int:
        """Number of the newest row of ratings and credit; 0 without any."""
        if not self._has("judgements"):
            return 0
        return int(self._connection.execute("SELECT coalesce(max(number), 0) FROM judgements").fetchone()[0])

    def history(self, since: int = 0) -> list[tuple[int, Label]]:
        """Every row of labels after that of this number, also those that were revised since."""
        names = [name for name in LABEL_COLUMNS.split() if name != "label"]
        rows = self._connection.execute(
            f"SELECT number, {', '.join(names)} FROM labels WHERE number > ? ORDER BY number", (since,)
        )
        return [(row[0], Label(**dict(zip(names, row[1:], strict=True)))) for row in rows]

    def remarks(self) -> list[Remark]:
        """Every remark, in the order in which they came."""
        return [remark for _, remark in self.remark_history()]

    def remark_history(self, since: int = 0) -> list[tuple[int, Remark]]:
        """Every remark after that of this number."""
        if not self._has("remarks"):
            return []
        rows = self._connection.execute(
            "SELECT number, question, annotator, text FROM remarks WHERE number > ? ORDER BY number", (since,)
        )
        return [(row[0], (row[1], row[2], row[3])) for row in rows]

    def annotators(self) -> set[str]:
        """Names of all who answered, as they are written here."""
        tables = ["labels", *(["judgements"] if self._has("judgements") else [])]
        asked = " UNION ".join(f"SELECT annotator FROM {table}" for table in tables)
        return {name for (name,) in self._connection.execute(asked)}

    def pair_count(self) -> int:
        """How many pairs there are."""
        return int(self._connection.execute("SELECT count(*) FROM pairs").fetchone()[0])

    def _has(self, table: str) -> bool:
        asked = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
        return self._connection.execute(asked, (table,)).fetchone() is not None

    def _make_tables(self) -> None:
        if not self._has("posts"):
            with self._writing():
                for statement in SCHEMA:
                    self._connection.execute(statement)


def refuse_answer(one: Judgement) -> None:
    """Refuse an answer that its question does not have.

    Raises:
        StoreError: Says which there are.
    """
    answers = {str(number) for number in range(1, RATINGS + 1)}
    fits = one.answer in answers if one.kind == "rating" else one.answer == "equal" or _names_agent(one.answer)
    if one.kind not in ("rating", "credit") or not (fits or one.answer in NO_ANSWER):
        wanted = f"1 to {RATINGS}" if one.kind == "rating" else "agent_0 ..., equal"
        raise StoreError(f"'{one.answer}' is no {one.kind}, which are {wanted} and skip.")


def _names_agent(answer: str) -> bool:
    return answer != TEAM and TARGET.fullmatch(answer) is not None


def oriented(label: Label, given: Pair | None, stored: Pair) -> Label:
    """A label that was given about a pair in its own order, as one about the pair as it is stored.

    Args:
        label: Of the pair as it was given.
        given: Its order; None where nobody said, which is taken for that of the stored one.
        stored: The pair of that id here.

    Raises:
        DataError: The segments are others.
    """
    if given is None or given == stored:
        return label
    if given != Pair(stored.second, stored.first):
        raise DataError(f"it names other segments than those of pair {stored.id}")
    return label.turned()


def plain(one: Label | Judgement) -> dict[str, Any]:
    """As JSON can hold it."""
    values = {field.name: getattr(one, field.name) for field in fields(one)}
    if isinstance(one, Judgement):
        key = one.segment
        values["segment"] = [key.source, key.episode, key.start, key.length]
    return values
