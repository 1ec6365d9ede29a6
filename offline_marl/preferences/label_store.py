"""Store of pairs and their labels: one SQLite file that only grows, and is whole whenever a process is killed.

It is opened by processes of the host that it lies on; others ask a server there. Its journal is written ahead (WAL),
which needs memory that processes share, and so a local disk; elsewhere a rollback journal can be asked for.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from offline_marl.core.errors import BadInputError
from offline_marl.core.file_systems import NETWORK, file_system_of
from offline_marl.preferences.labels import TARGET, TEAM, AskedPair, Label
from offline_marl.preferences.pairs import Pair, SegmentKey

Journal = Literal["wal", "rollback"]

NAME = "labels.sqlite"
VERSION = 1
APPLICATION = 0x4F4D5052
"""Mark of our files in SQLite's header."""
PATIENCE = 30.0
"""Seconds to wait for another process that writes."""

SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE pairs (
    number INTEGER PRIMARY KEY, pair_id TEXT NOT NULL UNIQUE,
    first_source TEXT NOT NULL, first_episode INTEGER NOT NULL, first_start INTEGER NOT NULL,
    first_length INTEGER NOT NULL,
    second_source TEXT NOT NULL, second_episode INTEGER NOT NULL, second_start INTEGER NOT NULL,
    second_length INTEGER NOT NULL,
    session INTEGER NOT NULL, split TEXT NOT NULL, strategy TEXT NOT NULL, score REAL, created TEXT NOT NULL
);
CREATE TABLE labels (
    number INTEGER PRIMARY KEY, pair_id TEXT NOT NULL REFERENCES pairs (pair_id), target TEXT NOT NULL,
    annotator TEXT NOT NULL, repeat INTEGER NOT NULL, revision INTEGER NOT NULL, answer TEXT NOT NULL, label REAL,
    source TEXT NOT NULL, shown_order TEXT NOT NULL, answered TEXT NOT NULL, response_ms INTEGER,
    UNIQUE (pair_id, target, annotator, repeat, revision)
);
"""
GUARDS = "".join(
    f"CREATE TRIGGER {table}_{verb.lower()} BEFORE {verb} ON {table} "
    "BEGIN SELECT RAISE(ABORT, 'this store only grows'); END;\n"
    for table in ("facts", "pairs", "labels")
    for verb in ("UPDATE", "DELETE")
)


class StoreError(BadInputError, RuntimeError):
    """A store of labels that cannot be used as asked; the message is one sentence."""


PAIR_COLUMNS = "pair_id first_source first_episode first_start first_length second_source second_episode second_start "
PAIR_COLUMNS += "second_length session split strategy score created"
LABEL_COLUMNS = "pair_id target annotator repeat revision answer label source shown_order answered response_ms"


def now() -> str:
    """The time, in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


class LabelStore:
    """Pairs and labels in one file.

    Args:
        path: The file.
        make: Make it if it is not there.
        journal: `wal`; or `rollback`, for a file system that several hosts write to. What a file has stays unless said.

    Raises:
        StoreError: It is missing or no store, was written by a newer version, or lies on a network file system.
    """

    def __init__(self, path: Path, make: bool = False, journal: Journal | None = None) -> None:
        self.path = path
        journal = journal or journal_of(path)
        if not path.exists() and not make:
            raise StoreError(f"There is no store of labels {path}: `offline-marl prefs pairs` makes one.")
        refuse_network(path, journal)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
        except sqlite3.Error as error:
            raise StoreError(f"{path} cannot be opened: {error}.") from None
        try:
            self._open(journal)
        except sqlite3.OperationalError as error:
            self.close()
            raise StoreError(f"{path} cannot be read or written: {error}.") from None
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            self.close()
            raise StoreError(f"{path} is no store of labels, or is damaged: {error}.") from None
        except StoreError:
            self.close()
            raise

    def _open(self, journal: Journal) -> None:
        ask = self._connection.execute
        # Tables first: they come with the mark, at once, perhaps from another process between the two questions.
        tables = ask("SELECT count(*) FROM sqlite_master").fetchone()[0]
        mark, version = (ask(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
        if tables and mark != APPLICATION:
            raise StoreError(f"{self.path} is a database of something else, no store of labels.")
        if version > VERSION:
            raise StoreError(
                f"{self.path} was written by a newer version of this library (layout {version}, this one knows "
                f"{VERSION}): update the library."
            )
        ask(f"PRAGMA journal_mode = {'WAL' if journal == 'wal' else 'DELETE'}")
        ask("PRAGMA synchronous = FULL")
        ask("PRAGMA foreign_keys = ON")
        if version == 0:
            with self._writing():
                if ask("PRAGMA user_version").fetchone()[0] == 0:  # nobody else made it meanwhile
                    for statement in _statements(SCHEMA + GUARDS):
                        ask(statement)
                    ask(f"PRAGMA application_id = {APPLICATION}")
                    ask(f"PRAGMA user_version = {VERSION}")

    def copy_to(self, path: Path) -> None:
        """Copy the file as it stands, whatever another process writes meanwhile."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path)) as copy:
            self._connection.backup(copy)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> LabelStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """All or nothing: what is written inside is there as a whole once this has ended."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise StoreError(f"{self.path} cannot be written to: {error}.") from None
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException as error:
            if self._connection.in_transaction:  # a full disk may have ended it already
                self._connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError):
                raise StoreError(f"{self.path} cannot be written to, and nothing was: {error}.") from None
            raise

    def state(self, facts: Mapping[str, Any]) -> None:
        """Write down facts about the comparisons once, all or none; saying the same again changes nothing.

        Raises:
            StoreError: One was stated otherwise before.
        """
        with self._writing():
            self.refuse_other_facts(facts)
            for name, value in facts.items():
                text = json.dumps(value, sort_keys=True)
                self._connection.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, text))

    def refuse_other_facts(self, facts: Mapping[str, Any]) -> None:
        """Refuse facts that were stated otherwise before.

        Raises:
            StoreError: Names one.
        """
        known = self.facts()
        for name, value in facts.items():
            if name in known and known[name] != json.loads(json.dumps(value)):
                raise StoreError(
                    f"{self.path} was begun with {name} = {json.dumps(known[name])}, not {json.dumps(value)}: begin "
                    "another one."
                )

    def facts(self) -> dict[str, Any]:
        """All facts that were stated."""
        return {name: json.loads(text) for name, text in self._connection.execute("SELECT name, value FROM facts")}

    def ask_new_session(self, pairs: Sequence[AskedPair], put: Callable[[], None]) -> None:
        """Enter the pairs of a session that no pair is of yet; no other process enters one meanwhile.

        Args:
            pairs: Of one session.
            put: Puts what they name into its place, before they are there.

        Raises:
            StoreError: Another process was first, or one pair is there the other way round.
        """
        session = pairs[0].session
        with self._writing():
            found = self._connection.execute("SELECT 1 FROM pairs WHERE session = ?", (session,)).fetchone()
            if found is not None:
                raise StoreError(
                    f"Another process has entered round {session} of {self.path.parent} meanwhile: ask again."
                )
            put()
            self._enter(pairs)

    def ask_about(self, pairs: Iterable[AskedPair]) -> int:
        """Enter pairs; those that are there already stay as they are.

        Returns:
            How many were new.

        Raises:
            StoreError: One is there the other way round, where first and second would change places.
        """
        with self._writing():
            return self._enter(list(pairs))

    def _enter(self, pairs: Sequence[AskedPair]) -> int:
        if pairs:
            known = {one.pair.id: one.pair for one in self.pairs()}
            for asked in pairs:
                if known.get(asked.pair.id, asked.pair) != asked.pair:
                    raise StoreError(f"{self.path} holds the pair {asked.pair.id} the other way round.")
        rows = [_pair_row(asked) for asked in pairs]
        marks = ", ".join("?" * len(PAIR_COLUMNS.split()))
        columns = ", ".join(PAIR_COLUMNS.split())
        statement = f"INSERT OR IGNORE INTO pairs ({columns}) VALUES ({marks})"
        before = self._connection.total_changes
        self._connection.executemany(statement, rows)
        return self._connection.total_changes - before

    def pairs(self) -> list[AskedPair]:
        """All pairs, in the order in which they were entered."""
        columns = ", ".join(PAIR_COLUMNS.split())
        rows = self._connection.execute(f"SELECT {columns} FROM pairs ORDER BY number").fetchall()
        return [AskedPair(Pair(SegmentKey(*row[1:5]), SegmentKey(*row[5:9])), *row[9:]) for row in rows]

    def add(self, labels: Iterable[Label]) -> int:
        """Append labels, all or none; one that is there already is not stored twice.

        Returns:
            How many were new.

        Raises:
            StoreError: One is for a pair that is not there, or the same question was answered otherwise before.
        """
        with self._writing():
            return sum(self._add(label) for label in labels)

    def _add(self, label: Label) -> bool:
        if self._connection.execute("SELECT 1 FROM pairs WHERE pair_id = ?", (label.pair_id,)).fetchone() is None:
            raise StoreError(f"There is no pair {label.pair_id} in {self.path}: its label was not stored.")
        refuse_target(label.target)
        place = (*label.asked, label.repeat, label.revision)
        found = self._connection.execute(
            "SELECT answer FROM labels WHERE pair_id = ? AND target = ? AND annotator = ? AND repeat = ? "
            "AND revision = ?",
            place,
        ).fetchone()
        if found is not None and found[0] != label.answer:
            raise StoreError(
                f"{label.annotator} answered '{found[0]}' to pair {label.pair_id} ({label.target}) before, not "
                f"'{label.answer}': a second opinion is a repeat, a correction a revision."
            )
        if found is None:
            marks, columns = ", ".join("?" * len(LABEL_COLUMNS.split())), ", ".join(LABEL_COLUMNS.split())
            self._connection.execute(f"INSERT INTO labels ({columns}) VALUES ({marks})", _label_row(label))
        return found is None

    def labels(self, since: int = 0, until: int | None = None) -> list[Label]:
        """Answers that count, in the order in which they came; of one that was revised, the last.

        Args:
            since: Only those that came after the row of this number; see `cursor`.
            until: As they stood when this row was the newest.
        """
        names = [name for name in LABEL_COLUMNS.split() if name != "label"]
        last = self.cursor() if until is None else until
        rows = self._connection.execute(
            f"SELECT {', '.join(names)} FROM labels AS one WHERE number > ? AND number <= ? AND revision = (SELECT "
            "max(revision) FROM labels AS every WHERE every.pair_id = one.pair_id AND every.target = one.target AND "
            "every.annotator = one.annotator AND every.repeat = one.repeat AND every.number <= ?) ORDER BY number",
            (since, last, last),
        ).fetchall()
        return [Label(**dict(zip(names, row, strict=True))) for row in rows]

    def cursor(self) -> int:
        """Number of the newest row of labels; 0 without any."""
        return int(self._connection.execute("SELECT coalesce(max(number), 0) FROM labels").fetchone()[0])


def _pair_row(asked: AskedPair) -> tuple[Any, ...]:
    sides = [(key.source, key.episode, key.start, key.length) for key in (asked.pair.first, asked.pair.second)]
    rest = (asked.session, asked.split, asked.strategy, asked.score, asked.created or now())
    return (asked.pair.id, *sides[0], *sides[1], *rest)


def _label_row(label: Label) -> tuple[Any, ...]:
    values = {field.name: getattr(label, field.name) for field in fields(Label)}
    values |= {"label": label.value, "answered": label.answered or now()}
    return tuple(values[name] for name in LABEL_COLUMNS.split())


def _statements(script: str) -> Iterator[str]:
    """The statements of a script; `executescript` would commit between them."""
    statement = ""
    for line in script.strip().splitlines():
        statement += f"{line}\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def journal_of(path: Path) -> Journal:
    """The journal that a file was last written with; `wal` of one that is yet to be made."""
    try:
        with path.open("rb") as stream:
            head = stream.read(20)
    except OSError:
        return "wal"
    # Bytes 18 and 19 of SQLite's header: 2 for a write-ahead log, 1 for a rollback journal.
    return "rollback" if head.startswith(b"SQLite format 3") and head[18] == 1 else "wal"


def refuse_network(path: Path, journal: Journal = "wal") -> None:
    """Refuse a write-ahead journal on a file system that several hosts write to.

    Raises:
        StoreError: It is one.
    """
    kind = file_system_of(path)
    if journal == "wal" and kind in NETWORK:
        raise StoreError(
            f"{path} lies on a network file system ({kind}), where processes of several hosts would damage it: keep it "
            "on a local disk, or say --journal rollback."
        )


def refuse_target(target: str) -> None:
    """Refuse what is no way to write a target; whether there is such an agent `index_of` says.

    Raises:
        StoreError: It is none.
    """
    if TARGET.fullmatch(target) is None:
        raise StoreError(f"'{target}' is no target of an answer, which are {TEAM}, agent_0, agent_1 and so on.")
