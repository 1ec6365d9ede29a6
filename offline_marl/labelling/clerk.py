"""The one thread that a store is used in, and answers that are stored together: one flush for all that wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from offline_marl.core.errors import BadInputError
from offline_marl.labelling.desk import Desk
from offline_marl.labelling.leases import Leases
from offline_marl.labelling.posts import AnswerRequest, UndoRequest, digest_of
from offline_marl.labelling.questions import AnsweredError, Asking, Question
from offline_marl.preferences.answers import Judgement, KeyReusedError, Post
from offline_marl.preferences.label_store import StoreError
from offline_marl.preferences.labels import Label
from offline_marl.training.preferences.folders import ComparisonFolder

T = TypeVar("T")
MOST_WAITING = 256
"""Answers that wait for the disk; of more, the rest is refused and sent again by the page."""
LEASES = "leases.jsonl"


class BusyStoreError(BadInputError, RuntimeError):
    """So many answers wait for the disk that no more are taken."""


@dataclass(frozen=True)
class Stored:
    """Outcome of storing an answer."""

    new: bool
    """Whether it was not there before."""
    progress: dict[str, Any]


class Clerk:
    """Everything that is done with a folder's store, from the event loop.

    Args:
        path: The folder of comparisons.
        asking: What is asked.
    """

    def __init__(self, path: Path, asking: Asking) -> None:
        self.path, self.asking = path, asking
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._waiting: asyncio.Queue[tuple[AnswerRequest | UndoRequest, asyncio.Future[Stored]]]
        self._writer: asyncio.Task[None] | None = None
        self.desk: Desk

    async def open(self) -> None:
        """Open the store, and begin to write."""
        self._waiting = asyncio.Queue(MOST_WAITING)
        self.desk = await self._call(self._open)
        self._writer = asyncio.create_task(self._write())

    def _open(self) -> Desk:
        return Desk(ComparisonFolder(self.path), self.asking, Leases(self.path / LEASES))

    async def close(self) -> None:
        """End writing, and close the store."""
        if self._writer is not None:
            self._writer.cancel()
        await self._call(lambda: self.desk.folder.store.close())
        self._thread.shutdown(wait=True)

    async def ask(self, function: Callable[[Desk], T]) -> T:
        """What a function of the desk returns."""
        return await self._call(function, self.desk)

    async def _call(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(function, *args))

    async def post(self, request: AnswerRequest | UndoRequest) -> Stored:
        """Store an answer, or take one back; when this returns, it is on the disk.

        Raises:
            BadInputError: It was refused, or could not be written.
        """
        done: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        try:
            self._waiting.put_nowait((request, done))
        except asyncio.QueueFull:
            raise BusyStoreError("Too many answers wait for the disk: send it again soon.") from None
        return await done

    async def _write(self) -> None:
        while True:
            waiting = [await self._waiting.get()]
            while not self._waiting.empty():
                waiting.append(self._waiting.get_nowait())
            try:
                outcomes = await self._call(self._record, [request for request, _ in waiting])
            except Exception as error:  # told to each of those that wait
                outcomes = [error] * len(waiting)
            for (_, done), outcome in zip(waiting, outcomes, strict=True):
                if not done.done():
                    if isinstance(outcome, Exception):
                        done.set_exception(outcome)
                    else:
                        done.set_result(outcome)

    def _record(self, requests: list[AnswerRequest | UndoRequest]) -> list[Stored | Exception]:
        """Store what can be stored, in the order in which it came.

        Of one question and person there is one in a transaction, because the next depends on what it left.
        """
        outcomes: list[Stored | Exception] = []
        while len(outcomes) < len(requests):
            part, seen = list[AnswerRequest | UndoRequest](), set[tuple[str, str]]()
            for request in requests[len(outcomes) :]:
                if (request.question, request.annotator) in seen:
                    break
                seen.add((request.question, request.annotator))
                part.append(request)
            outcomes += self._record_apart(part)
        return outcomes

    def _record_apart(self, requests: list[AnswerRequest | UndoRequest]) -> list[Stored | Exception]:
        posts = list[Post | Exception]()
        for request in requests:
            try:
                posts.append(self._post_of(request))
            except BadInputError as error:
                posts.append(error)
        stored = iter(self.desk.folder.store.record([post for post in posts if isinstance(post, Post)]))
        outcomes = [post if isinstance(post, Exception) else next(stored) for post in posts]
        self.desk.refresh()
        for request, outcome in zip(requests, outcomes, strict=True):
            if isinstance(request, UndoRequest) and not isinstance(outcome, Exception):
                # Sent again, too: a server that was killed may have stored the undo without the lease.
                self.desk.keep(Question.parse(request.question), request.annotator)
        return [
            outcome if isinstance(outcome, Exception) else Stored(outcome, self.desk.progress(request.annotator))
            for request, outcome in zip(requests, outcomes, strict=True)
        ]

    def _post_of(self, request: AnswerRequest | UndoRequest) -> Post:
        digest = digest_of(request)
        known = self.desk.folder.store.digest_of_post(request.key)
        if known is not None:
            if known != digest:
                raise KeyReusedError("This key came before with something else: nothing was stored.")
            return Post(request.key, digest)
        question = Question.parse(request.question)
        row: Label | Judgement | None
        remark = None
        if isinstance(request, UndoRequest):
            row = self.desk.undo(question, request.annotator)
        else:
            row = self.desk.answer(question, request.annotator, request.answer, request.response_ms)
            if request.answer == "skip" and request.reason:
                remark = (question.id, request.annotator, request.reason)
        labels = (row,) if isinstance(row, Label) else ()
        judgements = (row,) if isinstance(row, Judgement) else ()
        return Post(request.key, digest, labels, judgements, remark)


def status_of(error: Exception) -> int:
    """HTTP's number for what was refused."""
    if isinstance(error, AnsweredError | KeyReusedError):
        return 409
    if isinstance(error, LookupError):
        return 404
    if isinstance(error, BusyStoreError):
        return 503
    if isinstance(error, StoreError):
        return 507 if "cannot be written" in str(error) else 409
    return 422
