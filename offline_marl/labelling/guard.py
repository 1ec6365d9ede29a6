"""ASGI middleware for access control: token, Host and Origin checks, size and time limits. Imports no framework."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SMALL, LARGE = 16_384, 96_000_000
"""Bytes of a body: of what the page posts, and of a round of pairs."""
LARGE_PATH = "/api/rounds"
BODY_SECONDS, LARGE_BODY_SECONDS = 10.0, 120.0
"""In which a body has to arrive."""
LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        b"manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
)


class RefusedRequest(Exception):
    """A request that is not answered as asked, with its status."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


@dataclass(frozen=True)
class Guard:
    """ASGI middleware that lets through what comes from this server's own page, or with its token.

    Args:
        app: What is guarded.
        token: Has to come with everything below `/api/`; None asks for none.
        hosts: Names by which this server is called; any port, as it may be reached through a tunnel.
    """

    app: App
    token: str | None
    hosts: frozenset[str] = LOCAL

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or say why not."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        try:
            body = await self._admit(scope, receive)
        except RefusedRequest as refusal:
            return await _refuse(send_guarded, refusal)
        sent = False

        async def receive_read() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, receive_read, send_guarded)

    async def _admit(self, scope: Scope, receive: Receive) -> bytes:
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.lower(), []).append(value)
        for name in (b"host", b"origin", b"authorization", b"content-length", b"content-type"):
            if len(headers.get(name, ())) > 1:
                raise RefusedRequest(400, f"There is more than one {name.decode()}.")
        first = {name: values[0].decode("latin-1") for name, values in headers.items()}
        self._refuse_strangers(first)
        if scope["path"].startswith("/api/"):
            self._refuse_tokenless(first.get(b"authorization", ""))
        if scope["method"] not in {"GET", "HEAD", "POST"}:
            raise RefusedRequest(405, "Only GET and POST are answered.")
        if scope["method"] != "POST":
            return b""
        if first.get(b"content-type", "").partition(";")[0].strip() != "application/json":
            raise RefusedRequest(415, "Posts are JSON (Content-Type: application/json).")
        large = scope["path"] == LARGE_PATH
        try:
            read = _read_body(receive, first.get(b"content-length"), LARGE if large else SMALL)
            return await asyncio.wait_for(read, LARGE_BODY_SECONDS if large else BODY_SECONDS)
        except asyncio.TimeoutError:
            raise RefusedRequest(408, "The body took too long to arrive.") from None

    def _refuse_strangers(self, headers: dict[bytes, str]) -> None:
        host = headers.get(b"host", "")
        # A page elsewhere may let its own name point here (DNS rebinding): it then calls us by that name.
        if _name_of(f"//{host}") not in self.hosts:
            raise RefusedRequest(421, "This server is not called so; `label --allow-host NAME` gives it another name.")
        origin = headers.get(b"origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise RefusedRequest(403, "Pages of other origins are not answered.")
        if headers.get(b"sec-fetch-site") in {"cross-site", "same-site"}:
            raise RefusedRequest(403, "Pages of other origins are not answered.")

    def _refuse_tokenless(self, authorization: str) -> None:
        if self.token is None:
            return
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() != "bearer" or not given:
            raise RefusedRequest(401, "The token is missing: open the whole address that `label` printed.")
        if not hmac.compare_digest(given.strip().encode(), self.token.encode()):
            raise RefusedRequest(401, "The token is wrong: open the address that `label` printed last.")


def _name_of(address: str) -> str:
    try:
        return (urlsplit(address).hostname or "").lower()
    except ValueError:
        return ""


async def _read_body(receive: Receive, stated: str | None, most: int) -> bytes:
    if stated is not None and (not stated.isdecimal() or int(stated) > most):
        raise RefusedRequest(413, f"A post may have {most:,} bytes.")
    pieces, size = list[bytes](), 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RefusedRequest(400, "The post broke off.")
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > most:
            raise RefusedRequest(413, f"A post may have {most:,} bytes.")
        if not message.get("more_body"):
            return b"".join(pieces)


async def _refuse(send: Send, refusal: RefusedRequest) -> None:
    content = json.dumps({"error": refusal.why}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if refusal.status in {400, 408, 413}:  # what is left of the body is not waited for
        headers.append((b"connection", b"close"))
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
