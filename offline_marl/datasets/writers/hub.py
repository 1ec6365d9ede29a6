"""Uploads to the Hugging Face hub: one commit with file, card and picture, compared after it has arrived."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from offline_marl.core.types import DataError
from offline_marl.datasets.readers.storage.huggingface import (
    CHUNK,
    PAUSE,
    TRIES,
    fetch,
    is_passing,
    reason_of,
    shown_endpoint,
    status_of,
)
from offline_marl.datasets.writers.card import Section, card, is_ours, section

README = "README.md"
PATIENCE = 120.0
"""Seconds that the hub may be silent; the client alone would wait for ever."""
_PLACE = re.compile(r"hf://(?:datasets/)?([\w.-]+/[\w.-]+)(?:/([^@]*))?")

T = TypeVar("T")


@dataclass(frozen=True)
class Target:
    """A file to be in a repository of data sets."""

    repo: str
    path: str

    @classmethod
    def parse(cls, uri: str, name: str) -> Target:
        """From `hf://owner/repo[/path]`; without a path, or with a folder's (`.../`), the file keeps its name.

        Raises:
            DataError: It has another form.
        """
        parts = _PLACE.fullmatch(uri)
        path = (parts[2] or "") if parts else ""
        path = f"{path}{name}" if not path or path.endswith("/") else path
        if parts is None or {"", ".", ".."} & set(path.split("/")) or path == README:
            raise DataError(f"'{uri}' should be hf://owner/repo or hf://owner/repo/path, without a revision.")
        if Path(path).suffix != Path(name).suffix:
            raise DataError(f"'{uri}' should end in {Path(name).suffix}, as {name} does.")
        return cls(parts[1], path)

    @property
    def uri(self) -> str:
        """Where it will be read from."""
        return f"hf://{self.repo}/{self.path}"


@dataclass(frozen=True)
class Upload:
    """The content of an upload."""

    file: Path
    description: Mapping[str, Any]
    """Of the data, with its licence."""
    picture: bytes | None = None
    """PNG; laid beside the file."""
    private: bool = False
    """Whether a repository that is not there yet is made private."""
    overwrite: bool = False
    """Whether another file of the same name, or a README.md of somebody else, is replaced."""


@dataclass(frozen=True)
class Pushed:
    """The result of an upload."""

    uri: str
    commit: str
    sha256: str
    """Of the file, here and there."""
    left_readme: bool
    """Whether somebody else's README.md was left as it is."""


def push(upload: Upload, target: Target) -> Pushed:
    """Upload a file with its card and picture, then ask the hub what it holds and compare.

    Raises:
        DataError: The hub refuses, does not answer, holds another file of that name already, or holds another content
            than was sent; one sentence each.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise DataError(f"{target.uri} needs huggingface_hub: pip install 'offline-marl[data]'.") from None
    with _patience():
        return _push(HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None), upload, target)


def _push(api: Any, upload: Upload, target: Target) -> Pushed:
    where: dict[str, Any] = {"repo_id": target.repo, "repo_type": "dataset"}
    sums = Sums.of(upload.file)
    _asked(target, lambda: api.create_repo(**where, private=upload.private or None, exist_ok=True))
    head = _asked(target, lambda: api.repo_info(**where)).sha
    picture = str(Path(target.path).with_suffix(".png")) if upload.picture else None
    present = {
        entry.path: entry
        for entry in _asked(target, lambda: api.get_paths_info(paths=[target.path, README, picture or README], **where))
    }
    if target.path in present and not sums.match(present[target.path]) and not upload.overwrite:
        raise DataError(f"{target.uri} holds another file already: choose another name, or say --overwrite.")
    if picture in present and target.path not in present and not upload.overwrite:
        raise DataError(f"{target.repo} holds another {picture} already: choose another name, or say --overwrite.")
    new_section = section(target.uri, target.path, {**upload.description, "file_sha256": sums.sha256}, picture)
    readme = _readme(target, new_section, README in present, upload.overwrite)
    contents = {target.path: upload.file, picture: upload.picture, README: readme}
    commit = _asked(target, lambda: _commit(api, where, head, target, contents)).oid
    arrived = _asked(target, lambda: api.get_paths_info(paths=[target.path], revision=commit, **where))
    if not arrived or not sums.match(arrived[0]):
        raise DataError(f"{target.uri} arrived damaged: the hub holds another content than {upload.file}; push again.")
    return Pushed(target.uri, commit, sums.sha256, readme is None)


@dataclass(frozen=True)
class Sums:
    """Checksums of a file, as the hub tells them: sha256 of large files, git's sha1 of small ones."""

    sha256: str
    git: str

    @classmethod
    def of(cls, file: Path) -> Sums:
        """Of a file on this disk."""
        sha256 = hashlib.sha256()
        git = hashlib.sha1(b"blob %d\0" % file.stat().st_size, usedforsecurity=False)
        with file.open("rb") as stream:
            while content := stream.read(CHUNK):
                sha256.update(content)
                git.update(content)
        return cls(sha256.hexdigest(), git.hexdigest())

    def match(self, entry: Any) -> bool:
        """Whether the hub's entry of a file is of the same content."""
        large = getattr(entry, "lfs", None)
        if large is not None:
            return bool(large.sha256 == self.sha256)
        return bool(getattr(entry, "blob_id", None) == self.git)


def _readme(target: Target, new_section: Section, is_there: bool, overwrite: bool) -> bytes | None:
    """The card; None where a README.md of somebody else stays."""
    existing = fetch(f"hf://{target.repo}/{README}").read_text(encoding="utf-8", errors="replace") if is_there else ""
    if existing.strip() and not is_ours(existing) and not overwrite:
        return None
    return card(target.repo.partition("/")[2], new_section, existing).encode()


def _commit(
    api: Any, where: Mapping[str, Any], head: str | None, target: Target, contents: Mapping[str | None, Any]
) -> Any:
    from huggingface_hub import CommitOperationAdd

    # Anew for each try: the client refuses to send an operation twice.
    sent = [
        CommitOperationAdd(path, str(content) if isinstance(content, Path) else content)
        for path, content in contents.items()
        if path is not None and content is not None
    ]
    return api.create_commit(operations=sent, commit_message=f"Add {target.path}", parent_commit=head, **where)


@contextmanager
def _patience() -> Iterator[None]:
    from huggingface_hub import get_session

    client: Any = get_session()
    before, client.timeout = client.timeout, PATIENCE
    try:
        yield
    finally:
        client.timeout = before


def _asked(target: Target, ask: Callable[[], T]) -> T:
    """The hub's answer, asked again where that may help.

    Raises:
        DataError: It refuses, or does not answer.
    """
    for attempt in range(TRIES):
        try:
            return ask()
        except DataError:
            raise
        except Exception as told:
            # Of a large file the client only says that it failed, and keeps why behind it.
            error = told.__cause__ if isinstance(told, RuntimeError) and told.__cause__ else told
            if not is_passing(error) or attempt == TRIES - 1:
                reason = _sentence(error, target)
                if reason is None:
                    raise
                raise DataError(f"{target.uri} {reason}") from None
            time.sleep(PAUSE * 2**attempt)
    raise AssertionError("the last try returns or raises")


def _sentence(error: BaseException, target: Target) -> str | None:
    """What went wrong; None where it is not the hub's doing."""
    from huggingface_hub import errors as known

    endpoint, status = shown_endpoint(), status_of(error)
    if status == 401 or isinstance(error, known.LocalTokenNotFoundError):
        return "cannot be written: log in with `hf auth login`, or set HF_TOKEN, with a token that may write."
    if status == 403:
        return f"cannot be written: {endpoint} does not let you write to {target.repo}."
    if status in {409, 412}:
        return f"was not written: {target.repo} was changed by somebody else meanwhile; push again."
    if isinstance(error, known.RepositoryNotFoundError) or status == 404:
        return f"cannot be written: {endpoint} has no data set {target.repo} that you may see."
    if status is not None and (status >= 500 or status == 429):
        return f"was not written: {endpoint} answered {status}, {TRIES} times; push again later."
    if is_passing(error):
        return f"was not written: {endpoint} did not answer; push again later."
    if isinstance(error, known.HfHubHTTPError | ValueError):
        return f"cannot be written: {reason_of(error)}."
    return None
