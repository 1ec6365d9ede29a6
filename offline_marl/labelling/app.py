"""The server's addresses; owns the import of starlette.

`/` is the page. Below `/api/`: `lease`, `answers`, `undo`, `release`, `progress` and `clips/NAME` are for the page, and
`labels` and `rounds` for trainers.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from offline_marl.core.errors import BadInputError
from offline_marl.labelling.clerk import Clerk, status_of
from offline_marl.labelling.guard import LOCAL, App, Guard
from offline_marl.labelling.posts import (
    AnswerRequest,
    LeaseRequest,
    ReleaseRequest,
    RoundRequest,
    UndoRequest,
    read_post,
)
from offline_marl.labelling.questions import Desk, Question, UnknownQuestionError
from offline_marl.labelling.rounds import enter_round, rows_since
from offline_marl.labelling.shelf import Shelf

ASSETS = {
    "/": ("label.html", "text/html; charset=utf-8"),
    "/label.css": ("label.css", "text/css; charset=utf-8"),
    "/label.js": ("label.js", "text/javascript; charset=utf-8"),
    "/players.js": ("players.js", "text/javascript; charset=utf-8"),
    "/queue.js": ("queue.js", "text/javascript; charset=utf-8"),
}
AHEAD = 2
"""Pages of questions whose clips are rendered before they are asked for."""


class MissingServerError(BadInputError, ImportError):
    """The packages of the extra `label` are not installed."""


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
                    desk.leases.release(Question.parse(name).first_time.id, request.annotator)

        await self.clerk.ask(give)
        return {"released": len(request.held)}

    async def progress(self) -> dict[str, Any]:
        """How far all questions are, with agreement and counts."""

        def tell(desk: Desk) -> dict[str, Any]:
            desk.refresh()
            return {**desk.progress(), **desk.summary()}

        return await self.clerk.ask(tell)


def _known(desk: Desk, name: str, annotator: str) -> Question | None:
    try:
        question = Question.parse(name)
        desk.sides(question, annotator)
    except UnknownQuestionError:
        return None
    return question


def build_app(server: Server, token: str | None, hosts: frozenset[str] = LOCAL) -> App:
    """The ASGI application, guarded.

    Args:
        server: What it answers from.
        token: See `Guard`.
        hosts: See `Guard`.

    Raises:
        MissingServerError: starlette is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.requests import Request
        from starlette.responses import JSONResponse, Response
        from starlette.routing import Route
    except ImportError:
        raise MissingServerError("The page needs starlette and uvicorn: pip install 'offline-marl[label]'.") from None
    fresh = {"cache-control": "no-store"}

    def reply(content: Any, status: int = 200) -> Response:
        return JSONResponse(content, status, headers=fresh)

    async def told(work: Awaitable[dict[str, Any]]) -> Response:
        try:
            return reply(await work)
        except BadInputError as error:
            return reply({"error": str(error)}, status_of(error))

    def posting(kind: type[Any], act: Callable[[Any], Awaitable[dict[str, Any]]]) -> Callable[..., Any]:
        async def endpoint(request: Request) -> Response:
            try:
                message = read_post(kind, await request.body())
            except BadInputError as error:
                return reply({"error": str(error)}, 422)
            return await told(act(message))

        return endpoint

    async def asset(request: Request) -> Response:
        name, media = ASSETS[request.url.path]
        content = files("offline_marl.labelling").joinpath("page").joinpath(name).read_bytes()
        return Response(content, media_type=media, headers={"cache-control": "no-cache"})

    async def clip(request: Request) -> Response:
        name = request.path_params["name"]
        if not server.clerk.desk.has_clip(name):
            return reply({"error": "There is no such clip."}, 404)
        content = await server.shelf.read(name)
        if content is None and server.shelf.broken:
            return reply({"error": "Clips cannot be rendered here: the process that renders them ends at once."}, 503)
        if content is None:
            return reply({"error": "It is being rendered: ask again."}, 202)
        return Response(content, media_type="application/json", headers={"cache-control": "private, max-age=3600"})

    async def labels(request: Request) -> Response:
        try:
            since = [int(request.query_params.get(name, "0")) for name in ("since", "judged_since")]
        except ValueError:
            return reply({"error": "since and judged_since are numbers of rows."}, 422)
        return await told(server.clerk.ask(lambda desk: rows_since(desk, *since)))

    async def enter(message: RoundRequest) -> dict[str, Any]:
        return await server.clerk.ask(lambda desk: enter_round(desk, message))

    async def progress(request: Request) -> Response:
        return await told(server.progress())

    async def health(request: Request) -> Response:
        return reply({"ok": True})

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        await server.clerk.open()
        await server.shelf.want(await server.clerk.ask(lambda desk: desk.ahead(server.ahead)))
        yield
        await server.shelf.close()
        await server.clerk.close()

    routes = [
        *(Route(path, asset) for path in ASSETS),
        Route("/healthz", health),
        Route("/api/lease", posting(LeaseRequest, server.lease), methods=["POST"]),
        Route("/api/answers", posting(AnswerRequest, server.answer), methods=["POST"]),
        Route("/api/undo", posting(UndoRequest, server.answer), methods=["POST"]),
        Route("/api/release", posting(ReleaseRequest, server.release), methods=["POST"]),
        Route("/api/rounds", posting(RoundRequest, enter), methods=["POST"]),
        Route("/api/progress", progress),
        Route("/api/labels", labels),
        Route("/api/clips/{name}", clip),
    ]
    return Guard(Starlette(routes=routes, lifespan=lifespan), token, hosts)
