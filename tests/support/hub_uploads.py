"""What the stand-in for the hub answers to those who upload: repositories, commits, large files, and refusals."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class Uploads:
    """Routes of POST and PUT, for the handler of `hub.py`."""

    hub: Any
    headers: Any
    rfile: Any
    path: str
    command: str
    answer: Any
    refuse: Any

    def do_POST(self) -> None:
        hub, path, body = self.hub, unquote(urlsplit(self.path).path), self._body()
        hub.asked.append(f"{self.command} {path}")
        hub.tokens.add(self.headers.get("Authorization", ""))
        threading.Event().wait(hub.hangs)  # tests may have stopped time.sleep
        if hub.failures > 0:
            hub.failures -= 1
            return self.refuse(503, "Busy")
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.refuse(401, "Unauthorized")
        for part, code in hub.refusals.items():
            if part in path:
                return self.refuse(code, "No")
        if path == "/api/validate-yaml":
            return self.json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        batch = re.fullmatch(r"/datasets/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path)
        if batch:
            return self._batch(json.loads(body))
        stored = re.fullmatch(r"/lfs/([0-9a-f]{64})", path)
        if stored:
            hub.blobs[stored[1]] = self._spoilt(body)
            return self.json({})
        found = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/(preupload|commit|paths-info)/(.+)", path)
        if found is None:
            return self.refuse(404, "NotFound")
        repo = hub.files.get(f"datasets/{found[1]}")
        if repo is None:
            return self.refuse(404, "RepoNotFound")
        if found[2] == "paths-info":
            return self._infos(repo, body)
        if found[2] == "preupload":
            return self._modes(repo, json.loads(body))
        return self._commit(found[1], repo, body)

    do_PUT = do_POST

    def json(self, said: Any, code: int = 200) -> None:
        self.answer(code, json.dumps(said).encode(), {"Content-Type": "application/json"})

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return bytes(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        content = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _spoilt(self, content: bytes) -> bytes:
        if self.hub.spoils <= 0:
            return content
        self.hub.spoils -= 1
        return content[:-1] + bytes([content[-1] ^ 1])

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        said = {"url": f"{self.hub.url}/datasets/{name}", "id": name, "name": name}
        if f"datasets/{name}" in self.hub.files:
            return self.json({**said, "error": "You already created this dataset repo"}, 409)
        self.hub.files[f"datasets/{name}"] = {}
        if asked.get("private") or asked.get("visibility") == "private":
            self.hub.private.add(name)
        return self.json(said)

    def _batch(self, asked: dict[str, Any]) -> None:
        def told(each: dict[str, Any]) -> dict[str, Any]:
            upload = {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}", "header": {}}}
            return {**each, **({} if each["oid"] in self.hub.blobs else {"actions": upload})}

        self.json({"transfer": "basic", "objects": [told(each) for each in asked["objects"]]})

    def _modes(self, repo: dict[str, bytes], asked: dict[str, Any]) -> None:
        def told(path: str, size: int) -> dict[str, Any]:
            mode = "lfs" if self.hub.large and size >= self.hub.large else "regular"
            known = {"oid": self.hub.etag(repo[path])} if path in repo else {}
            return {"path": path, "uploadMode": mode, "shouldIgnore": False, **known}

        self.json({"files": [told(each["path"], each["size"]) for each in asked["files"]]})

    def _infos(self, repo: dict[str, bytes], body: bytes) -> None:
        paths = json.loads(body)["paths"] if body[:1] == b"{" else parse_qs(body.decode())["paths"]
        self.json([self._entry(path, repo[path]) for path in paths if path in repo])

    def _entry(self, path: str, content: bytes) -> dict[str, Any]:
        etag = self.hub.etag(content)
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        large = (
            {"lfs": {"oid": etag, "sha256": etag, "size": len(content), "pointerSize": 134}} if len(etag) == 64 else {}
        )
        return {"type": "file", "path": path, "size": len(content), "oid": git, **large}

    def _commit(self, name: str, repo: dict[str, bytes], body: bytes) -> None:
        hub, made = self.hub, dict(repo)
        for line in body.splitlines():
            said = json.loads(line)
            key, value = said["key"], said["value"]
            if key == "header" and value.get("parentCommit") not in {None, hub.head(name)}:
                return self.refuse(412, "A commit has happened since")
            if key == "file":
                made[value["path"]] = self._spoilt(base64.b64decode(value["content"]))
            elif key == "lfsFile":
                made[value["path"]] = hub.blobs[value["oid"]]
        commit = hashlib.sha1(repr(sorted(made.items())).encode() + hub.head(name).encode()).hexdigest()
        hub.files[f"datasets/{name}"], hub.heads[name] = made, commit
        hub.revisions.add(commit)
        url = f"{hub.url}/datasets/{name}/commit/{commit}"
        self.json({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})
