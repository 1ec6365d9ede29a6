"""A stand-in for the hub on this machine: repositories in memory, the routes that the client asks for.

Downloads are answered here, uploads in `hub_uploads.py`.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hub_uploads import Uploads

COMMIT = "c0ffee" + "0" * 34


class Hub:
    """What it holds and how it misbehaves; `asked` lists the requests."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.revisions = {"main", COMMIT}
        self.asked: list[str] = []
        self.tokens: set[str] = set()
        self.failures = 0
        """So many more requests are answered 503."""
        self.flips = 0
        """So many more files are sent with one bit changed."""
        self.large = 0
        """Files from this size on carry a sha256, as large files do; 0 is none."""
        self.token: str | None = None
        self.refusals: dict[str, int] = {}
        """Uploads to a path with this part are answered by this status."""
        self.spoils = 0
        """So many more files are stored with one bit changed."""
        self.hangs = 0.0
        """Seconds before an upload is answered."""
        self.heads: dict[str, str] = {}
        self.blobs: dict[str, bytes] = {}
        self.private: set[str] = set()
        self.url = ""

    def put(self, repo: str, path: str, content: bytes, kind: str = "datasets") -> None:
        self.files.setdefault(f"{kind}/{repo}", {})[path] = content

    def head(self, repo: str) -> str:
        """The newest commit of a repository."""
        return self.heads.get(repo, COMMIT)

    def etag(self, content: bytes) -> str:
        if self.large and len(content) >= self.large:
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(Uploads, BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, code: int, reason: str) -> None:
        self.answer(code, b"{}", {"X-Error-Code": reason, "X-Error-Message": reason})

    def do_GET(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.asked.append(f"{self.command} {path}")
        hub.tokens.add(self.headers.get("Authorization", ""))
        if hub.failures > 0:
            hub.failures -= 1
            return self.refuse(503, "Busy")
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.refuse(401, "GatedRepo")
        listed = re.fullmatch(r"/api/(datasets|models)/([^/]+/[^/]+)/(revision|tree)/(.+)", path)
        listed = listed or re.fullmatch(r"/api/(datasets|models)/([^/]+/[^/]+)()()", path)
        file = re.fullmatch(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        found = listed or file
        if path == "/api/datasets":
            return self.search(parse_qs(urlsplit(self.path).query))
        if found is None:
            return self.refuse(404, "NotFound")
        repo = hub.files.get(f"{found[1] or 'models'}/{found[2]}")
        if repo is None:
            return self.refuse(404, "RepoNotFound")
        if (found[4] if listed else found[3]) not in {*hub.revisions, ""}:
            return self.refuse(404, "RevisionNotFound")
        return self.list(found[2], found[3], repo) if listed else self.send(found[2], repo, found[4])

    do_HEAD = do_GET

    def search(self, query: dict[str, list[str]]) -> None:
        names = sorted(name.removeprefix("datasets/") for name in self.hub.files if name.startswith("datasets/"))
        author, words = query.get("author", [""])[0], query.get("search", [])
        found = [name for name in names if name.startswith(f"{author}/") and all(word in name for word in words)]
        self.answer(200, json.dumps([{"id": name} for name in found]).encode(), {"Content-Type": "application/json"})

    def list(self, name: str, what: str, repo: dict[str, bytes]) -> None:
        if what == "tree":
            said: Any = [
                {"type": "file", "path": path, "size": len(content), "oid": self.hub.etag(content)}
                for path, content in repo.items()
            ]
        else:
            said = {"id": name, "sha": self.hub.head(name), "siblings": [{"rfilename": path} for path in repo]}
        self.answer(200, json.dumps(said).encode(), {"Content-Type": "application/json"})

    def send(self, name: str, repo: dict[str, bytes], path: str) -> None:
        if path not in repo:
            return self.refuse(404, "EntryNotFound")
        content, etag = repo[path], self.hub.etag(repo[path])
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": self.hub.head(name), "Accept-Ranges": "bytes"}
        if len(etag) == 64:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content))}
        if self.command == "GET" and self.hub.flips > 0:
            self.hub.flips -= 1
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.answer(200, content, headers)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away before it was answered is no news."""


@contextmanager
def running() -> Iterator[Hub]:
    """A hub that answers on a free port of this machine."""
    hub = Hub()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
