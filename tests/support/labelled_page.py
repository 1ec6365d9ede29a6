"""A server of the labelling page in this process, and a client that speaks to it as the page does."""

from __future__ import annotations

import http.client
import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from offline_marl.labelling.questions import Asking
from offline_marl.labelling.serve import Address, alone, bind, make_server

TOKEN = "a-token-of-the-tests-0123456789abcdef"


class Client:
    """One person, or one attacker.

    Args:
        port: Of the server.
        annotator: Its name.
    """

    def __init__(self, port: int, annotator: str = "ann") -> None:
        self.port, self.annotator = port, annotator

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, content and headers of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            own = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
            connection.request(method, path, body, {**own, **(headers or {})})
            reply = connection.getresponse()
            content = reply.read()
        finally:
            connection.close()
        kind = reply.headers.get_content_type()
        return reply.status, json.loads(content) if kind == "application/json" else content, dict(reply.headers)

    def get(self, path: str) -> Any:
        status, content, _ = self.ask("GET", path)
        assert status == 200, content
        return content

    def post(self, path: str, content: Any, status: int = 200) -> Any:
        found, answer, _ = self.ask("POST", path, json.dumps(content).encode())
        assert found == status, (found, answer)
        return answer

    def lease(self, count: int = 1, held: list[str] | None = None) -> list[dict[str, Any]]:
        made = self.post("/api/lease", {"annotator": self.annotator, "count": count, "held": held or []})
        questions: list[dict[str, Any]] = made["questions"]
        return questions

    def key(self) -> str:
        return uuid.uuid4().hex

    def answer(self, question: str, answer: str = "first", status: int = 200, **more: Any) -> Any:
        body = {"key": self.key(), "annotator": self.annotator, "question": question, "answer": answer, **more}
        return self.post("/api/answers", body, status)

    def undo(self, question: str, status: int = 200, **more: Any) -> Any:
        return self.post(
            "/api/undo", {"key": self.key(), "annotator": self.annotator, "question": question, **more}, status
        )


@contextmanager
def serving(
    folder: Path, asking: Asking | None = None, token: str | None = TOKEN, port: int = 0, **more: Any
) -> Iterator[int]:
    """A real server on a real port, which is ended and waited for."""
    with alone(folder):
        listening = bind(Address(port=port))
        server = make_server(folder, asking or Asking(), token, ahead=more.pop("ahead", 0), **more)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            assert server.started
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(20)
            listening.close()
