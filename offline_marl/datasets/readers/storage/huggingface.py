"""Files and folders of the Hugging Face hub, kept in its own cache and compared with the checksums it tells."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_marl.core.types import DataError

TRIES = 3
PAUSE = 1.0
"""Seconds before the second try; twice as long before each further one."""
CHUNK = 1 << 20
KINDS = {"datasets": "dataset", "models": "model"}

_PLACE = re.compile(r"hf://(?:(datasets|models)/)?([\w.-]+/[\w.-]+)/([^@]+?)/?(?:@(.+))?")


@dataclass(frozen=True)
class HubPlace:
    """A file or folder in a repository."""

    repo: str
    path: str
    revision: str | None
    kind: str

    @classmethod
    def parse(cls, uri: str) -> HubPlace:
        """From `hf://owner/repo/path[@revision]`; `hf://models/owner/repo/path` is in a model's repository.

        Raises:
            DataError: It has another form.
        """
        parts = _PLACE.fullmatch(uri)
        if parts is None or ".." in parts[3].split("/"):
            raise DataError(f"'{uri}' should be hf://owner/repo/path, and may end with @revision.")
        return cls(parts[2], parts[3], parts[4], KINDS[parts[1] or "datasets"])


def fetch(uri: str) -> Path:
    """Where the file or folder is on this disk, fetched if the cache does not hold it.

    The endpoint is `HF_ENDPOINT`, the token the one that `hf auth login` or `HF_TOKEN` left; without the network, or
    with `HF_HUB_OFFLINE=1`, the cache answers.

    Raises:
        DataError: The hub has no such thing, refuses, or does not answer and the cache holds nothing; or what came is
            not what the hub says it sent.
    """
    place = HubPlace.parse(uri)
    try:
        import huggingface_hub
    except ImportError:
        raise DataError(f"{uri} needs huggingface_hub: pip install 'offline-marl[data]'.") from None
    for attempt in range(TRIES):
        try:
            path = _download(huggingface_hub, place)
        except Exception as error:
            if not is_passing(error) or attempt == TRIES - 1:
                known = _sentence(error, place)
                if known is None:
                    raise
                raise DataError(f"{uri} {known}") from None
            time.sleep(PAUSE * 2**attempt)
            continue
        damaged = [file for file in _files(path) if not _is_whole(file)]
        if not damaged:
            return path
        for file in damaged:
            file.resolve().unlink(missing_ok=True)
            file.unlink(missing_ok=True)
    raise DataError(f"{uri} arrived damaged {TRIES} times: its content is not what the hub says it sent.")


def commit_of(path: Path) -> str | None:
    """The commit that a fetched file or folder belongs to."""
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts[:-1] else None


def shown_endpoint() -> str:
    """Address of the hub, without the name and password that `HF_ENDPOINT` may hold."""
    return without_password(os.environ.get("HF_ENDPOINT") or "huggingface.co")


def without_password(address: str) -> str:
    """An address without the name and password before its host."""
    scheme, separator, rest = address.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else scheme.rpartition("@")[2]


def reason_of(error: BaseException) -> str:
    """What an error of a hub's client says, shortened, without the passwords of addresses that we were given."""
    if isinstance(error, json.JSONDecodeError):
        return "what answered is no hub, perhaps a page to log in to the network"
    text = " ".join(str(error).split())
    for name in ("HF_ENDPOINT", "MINARI_REMOTE"):
        given = os.environ.get(name, "")
        shown = without_password(given)
        secret = given[given.find("://") + 3 if "://" in given else 0 : given.rfind("@")] if shown != given else ""
        for part in filter(None, (f"{secret}@" if secret else "", secret, secret.partition(":")[2])):
            text = text.replace(part, "")
    return text[:200].rstrip(".")


def _download(hub: Any, place: HubPlace) -> Path:
    missing: Exception | None = None
    if Path(place.path).suffix:
        try:
            path = Path(hub.hf_hub_download(place.repo, place.path, **_where(place)))
            if path.is_file():  # else a folder, of which the cache may hold a part
                return path
        except hub.errors.EntryNotFoundError as error:
            missing = error
    try:
        return _download_folder(hub, place)  # `x.vlt` and `medium-v0.1` are folders, too
    except DataError as error:
        raise missing or error from None


def _download_folder(hub: Any, place: HubPlace) -> Path:
    where = _where(place)
    if hub.__version__.startswith("1."):
        # Where the hub does not answer, it takes what its cache holds of a folder for all of it: the hub must answer.
        hub.HfApi(endpoint=where["endpoint"]).repo_info(place.repo, repo_type=place.kind, revision=place.revision)
    root = hub.snapshot_download(place.repo, allow_patterns=[f"{place.path}/*"], **where)
    folder = Path(root) / place.path
    if not folder.is_dir():
        raise DataError(f"hf://{place.repo}/{place.path} is not there: the repository has no such folder.")
    return folder


def _where(place: HubPlace) -> dict[str, Any]:
    return {
        "repo_type": place.kind,
        "revision": place.revision,
        "endpoint": os.environ.get("HF_ENDPOINT") or None,
    }


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _is_whole(file: Path) -> bool:
    """Whether the content is what the cache calls it: sha256 of large files, git's sha1 of small ones."""
    return matches(file, file.resolve().name)


def matches(file: Path, etag: str) -> bool:
    """Whether a file's content is what the hub's etag says; true where the etag is no checksum."""
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", etag):
        return True
    size = file.stat().st_size
    digest = hashlib.sha256() if len(etag) == 64 else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with file.open("rb") as stream:
        while content := stream.read(CHUNK):
            digest.update(content)
    return digest.hexdigest() == etag


def status_of(error: BaseException) -> int | None:
    """The status that the hub answered with; None where it answered nothing."""
    return getattr(getattr(error, "response", None), "status_code", None)


def is_passing(error: BaseException) -> bool:
    """Whether another try may help: the hub is overloaded, or the line was cut."""
    status = status_of(error)
    if status is not None:
        return status >= 500 or status == 429
    return type(error).__module__.partition(".")[0].startswith(("httpx", "httpcore", "requests", "urllib3"))


def _sentence(error: BaseException, place: HubPlace) -> str | None:
    """What went wrong; None where it is not the hub's doing."""
    from huggingface_hub import errors as known

    endpoint = shown_endpoint()
    if isinstance(error, known.GatedRepoError) or status_of(error) in {401, 403}:
        return "is closed to you: log in with `hf auth login`, and accept its terms on its page."
    if isinstance(error, known.RepositoryNotFoundError):
        return f"is not there: {endpoint} has no {place.kind} {place.repo} that you may see."
    if isinstance(error, known.RevisionNotFoundError):
        return f"is not there: {place.repo} has no revision '{place.revision}'."
    if isinstance(error, known.LocalEntryNotFoundError | known.OfflineModeIsEnabled) or is_passing(error):
        status = status_of(error) or status_of(error.__cause__ or error)
        answer = f"answered {status}" if status else "did not answer"
        return f"cannot be fetched: {endpoint} {answer}, and the cache does not hold it."
    if isinstance(error, known.EntryNotFoundError):
        return f"is not there: {place.repo} has no file {place.path}."
    if isinstance(error, known.HfHubHTTPError | ValueError):
        return f"cannot be fetched: {reason_of(error)}."
    return None
