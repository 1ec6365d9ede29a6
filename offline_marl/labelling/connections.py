"""HTTP connections that are cut where a request, or its answer, takes too long; extends uvicorn's protocol."""

from __future__ import annotations

import time
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS = 128
REQUEST_SECONDS = 30.0
"""From the first byte of a request to the last of its answer; slower clients are cut off."""
LARGE_SECONDS = 180.0
"""The same of a round of pairs."""
LOOK_SECONDS = 5.0
"""Between two looks at how long a connection takes."""
HEAD_BYTES = 16_384


class Watched(H11Protocol):
    """A connection that is cut where a request, or its answer, takes too long."""

    _since: float | None = None
    _watch: Any = None

    def connection_made(self, transport: Any) -> None:
        """Begin to watch."""
        super().connection_made(transport)
        self._since = time.monotonic()
        self._watch = self.loop.call_later(LOOK_SECONDS, self._look)

    def data_received(self, data: bytes) -> None:
        """Note when a request began."""
        if self._since is None:
            self._since = time.monotonic()
        super().data_received(data)

    def on_response_complete(self) -> None:
        """Nothing is under way any more."""
        super().on_response_complete()
        self._since = None

    def connection_lost(self, exc: Exception | None) -> None:
        """End to watch."""
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        unsent = 0 if self.transport is None else self.transport.get_write_buffer_size()
        if unsent and self._since is None:
            self._since = time.monotonic()
        scope = getattr(self, "scope", None) or {}
        most = LARGE_SECONDS if scope.get("path") == "/api/rounds" else REQUEST_SECONDS
        if self._since is not None and time.monotonic() - self._since > most:
            self.transport.abort()
            return
        self._watch = self.loop.call_later(LOOK_SECONDS, self._look)
