"""The server's addresses as an ASGI application; owns the import of starlette, which only `serve` asks for.

`/` is the page. Below `/api/`: `lease`, `answers`, `undo`, `release`, `progress` and `clips/NAME` are for the page, and
`labels` and `rounds` for trainers.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from offline_marl.core.errors import BadInputError
from offline_marl.labelling.clerk import status_of
from offline_marl.labelling.guard import LOCAL, App, Guard
from offline_marl.labelling.handlers import Server
from offline_marl.labelling.posts import (
    AnswerRequest,
    LeaseRequest,
    ReleaseRequest,
    RoundRequest,
    UndoRequest,
    read_post,
)

ASSETS = {
    "/": ("label.html", "text/html; charset=utf-8"),
    "/label.css": ("label.css", "text/css; charset=utf-8"),
    "/label.js": ("label.js", "text/javascript; charset=utf-8"),
    "/players.js": ("players.js", "text/javascript; charset=utf-8"),
    "/queue.js": ("queue.js", "text/javascript; charset=utf-8"),
}


def build_app(server: Server, token: str | None, hosts: frozenset[str] = LOCAL) -> App:
    """The ASGI application, guarded.

    Args:
        server: What it answers from.
        token: See `Guard`.
        hosts: See `Guard`.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        await server.open()
        yield
        await server.close()

    async def health(request: Request) -> Response:
        return _reply({"ok": True})

    async def progress(request: Request) -> Response:
        return await _told(server.progress())

    async def labels(request: Request) -> Response:
        given = {"since": "0", "judged_since": "0", **request.query_params}
        try:
            since = {name: int(given[name]) for name in ("since", "judged_since", "remarked_since") if name in given}
        except ValueError:
            return _reply({"error": "since, judged_since and remarked_since are numbers of rows."}, 422)
        return await _told(server.rows(**since))

    routes = [
        *(Route(path, _asset) for path in ASSETS),
        Route("/healthz", health),
        Route("/api/lease", _posting(LeaseRequest, server.lease), methods=["POST"]),
        Route("/api/answers", _posting(AnswerRequest, server.answer), methods=["POST"]),
        Route("/api/undo", _posting(UndoRequest, server.answer), methods=["POST"]),
        Route("/api/release", _posting(ReleaseRequest, server.release), methods=["POST"]),
        Route("/api/rounds", _posting(RoundRequest, server.enter), methods=["POST"]),
        Route("/api/progress", progress),
        Route("/api/labels", labels),
        Route("/api/clips/{name}", _clip(server)),
    ]
    return Guard(Starlette(routes=routes, lifespan=lifespan), token, hosts)


def _clip(server: Server) -> Callable[..., Any]:
    """The endpoint of clips: one that is there, 202 while it is rendered, 404 or 503 where none will be."""

    async def endpoint(request: Request) -> Response:
        name, shelf = request.path_params["name"], server.shelf
        if not server.clerk.desk.has_clip(name):
            return _reply({"error": "There is no such clip."}, 404)
        found = await shelf.read(name)
        if found is None and shelf.broken:
            return _reply({"error": "Clips cannot be rendered here: the process that renders them ends at once."}, 503)
        if found is None:
            return _reply({"error": "It is being rendered: ask again."}, 202)
        content, lasts = found
        if not lasts:
            return Response(content, media_type="application/json", headers={"cache-control": "no-store"})
        # Another folder may be served at this address next, with a segment of the same name: asked for every time.
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        headers = {"cache-control": "private, no-cache", "etag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type="application/json", headers=headers)

    return endpoint


def _reply(content: Any, status: int = 200) -> Response:
    return JSONResponse(content, status, headers={"cache-control": "no-store"})


async def _told(work: Awaitable[dict[str, Any]]) -> Response:
    try:
        return _reply(await work)
    except BadInputError as error:
        return _reply({"error": str(error)}, status_of(error))


def _posting(kind: type[Any], act: Callable[[Any], Awaitable[dict[str, Any]]]) -> Callable[..., Any]:
    """The endpoint that reads a message of this kind and answers with what `act` returns."""

    async def endpoint(request: Request) -> Response:
        try:
            message = read_post(kind, await request.body())
        except BadInputError as error:
            return _reply({"error": str(error)}, 422)
        return await _told(act(message))

    return endpoint


async def _asset(request: Request) -> Response:
    name, media = ASSETS[request.url.path]
    content = files("offline_marl.labelling").joinpath("page").joinpath(name).read_bytes()
    return Response(content, media_type=media, headers={"cache-control": "no-cache"})
