"""Handlers of the server's requests: leases, answers, undo, release and progress, on the clerk's thread."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_marl.labelling.clerk import Clerk
from offline_marl.labelling.desk import Desk
from offline_marl.labelling.posts import AnswerRequest, LeaseRequest, ReleaseRequest, RoundRequest, UndoRequest
from offline_marl.labelling.questions import Question, UnknownQuestionError
from offline_marl.labelling.rounds import enter_round, rows_since
from offline_marl.labelling.shelf import Shelf


@dataclass(frozen=True)
class Server:
    """Handlers of the server's requests, on a clerk who owns the store and a shelf of clips."""

    clerk: Clerk
    shelf: Shelf
    ahead: int
    """Questions whose clips are rendered ahead."""

    async def lease(self, request: LeaseRequest) -> dict[str, Any]:
        """Questions for one person, and how far all are."""

        def take(desk: Desk) -> dict[str, Any]:
            desk.refresh()
            held = [question for name in request.held if (question := _known(desk, name, request.annotator))]
            chosen = desk.lease(request.annotator, request.count, held)
            return {
                "questions": [desk.about(question, request.annotator) for question in chosen],
                "progress": desk.progress(request.annotator),
                "agents": desk.n_agents,
                "store": desk.store_id,
                "title": Path(str(desk.folder.store.facts().get("task", ""))).name,
                "ahead": desk.ahead(self.ahead),
            }

        answer = await self.clerk.ask(take)
        now = [name for question in answer["questions"] for name in question["segments"]]
        await self.shelf.want([*now, *answer.pop("ahead")])
        return answer

    async def answer(self, request: AnswerRequest | UndoRequest) -> dict[str, Any]:
        """Store an answer, or take one back."""
        stored = await self.clerk.post(request)
        return {"stored": stored.new, "progress": stored.progress}

    async def release(self, request: ReleaseRequest) -> dict[str, Any]:
        """Give questions back."""

        def give(desk: Desk) -> None:
            for name in request.held:
                with contextlib.suppress(UnknownQuestionError):
                    desk.leases.release(Question.parse(name).id, request.annotator)

        await self.clerk.ask(give)
        return {"released": len(request.held)}

    async def progress(self) -> dict[str, Any]:
        """How far all questions are, with agreement and counts."""

        def tell(desk: Desk) -> dict[str, Any]:
            desk.refresh()
            return {**desk.progress(), **desk.summary()}

        return await self.clerk.ask(tell)

    async def enter(self, request: RoundRequest) -> dict[str, Any]:
        """Take in a round of pairs, of a trainer."""
        return await self.clerk.ask(lambda desk: enter_round(desk, request))

    async def rows(self, since: int, judged_since: int, remarked_since: int | None = None) -> dict[str, Any]:
        """Labels, judgements and remarks behind these numbers of rows."""
        return await self.clerk.ask(lambda desk: rows_since(desk, since, judged_since, remarked_since))

    async def open(self) -> None:
        """Open the store, and render the clips that are asked for first."""
        await self.clerk.open()
        await self.shelf.want(await self.clerk.ask(lambda desk: desk.ahead(self.ahead)))

    async def close(self) -> None:
        """End the renderer, and close the store."""
        await self.shelf.close()
        await self.clerk.close()


def _known(desk: Desk, name: str, annotator: str) -> Question | None:
    try:
        question = Question.parse(name)
        desk.sides(question, annotator)
    except UnknownQuestionError:
        return None
    return question
