"""The server as a process: its socket, lock and token; imports what the extra `label` installs where it begins."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_marl.core.config import ConfigError
from offline_marl.core.errors import BadInputError
from offline_marl.core.locks import BusyError, locked, open_own
from offline_marl.labelling.clerk import Clerk
from offline_marl.labelling.guard import LOCAL
from offline_marl.labelling.handlers import Server
from offline_marl.labelling.questions import Asking
from offline_marl.labelling.shelf import Shelf

LOCK, TOKEN = ".label.lock", "label_token"


class MissingServerError(BadInputError, ImportError):
    """The packages of the extra `label` are not installed."""


class BusyStoreFolderError(BadInputError, RuntimeError):
    """Another server has this folder."""


@dataclass(frozen=True)
class Address:
    """Network address of a server: host, port, further names, and whether it asks for a token."""

    host: str = "127.0.0.1"
    port: int = 8765
    names: tuple[str, ...] = ()
    """Further names by which it is called."""
    token: bool = True

    @property
    def hosts(self) -> frozenset[str]:
        """All names that it is called by."""
        own = () if self.host in {"0.0.0.0", "::"} else (self.host.lower(),)
        return LOCAL | {name.lower() for name in (*own, *self.names)}


def token_of(folder: Path, new: bool = False) -> str:
    """The folder's token: the same after a restart, so that pages which are open go on; only its owner can read it."""
    file = folder / TOKEN
    if file.is_file() and not new:
        known = file.read_text(encoding="ascii").strip()
        if len(known) >= 32:
            return known
    with contextlib.suppress(FileNotFoundError):
        file.unlink()
    token = secrets.token_urlsafe(32)
    with open_own(file, "a") as stream:
        os.chmod(file, 0o600)
        stream.write(f"{token}\n")
    return token


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the only server of a folder.

    Raises:
        BusyStoreFolderError: There is one already.
    """
    try:
        with locked(folder / LOCK):
            yield
    except BusyError:
        raise BusyStoreFolderError(f"Another server asks about {folder} already: open its page, or end it.") from None


def bind(address: Address) -> socket.socket:
    """A socket that listens.

    Raises:
        ConfigError: The port is taken, or the host is not of this machine.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    taken = socket.socket(family, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((address.host, address.port))
        taken.listen()  # so that who opens the address as it is printed waits for the server instead of being refused
    except OSError as error:
        taken.close()
        reason = error.strerror or str(error)
        raise ConfigError(f"Nothing can listen on {address.host}:{address.port} ({reason}): say --port N.") from None
    return taken


def refuse_missing() -> None:
    """Make sure that there is something to serve with.

    Raises:
        MissingServerError: A package is not installed.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise MissingServerError("The page needs starlette and uvicorn: pip install 'offline-marl[label]'.") from None


def make_server(
    folder: Path,
    asking: Asking,
    token: str | None,
    hosts: frozenset[str] = LOCAL,
    room: int = 512_000_000,
    ahead: int = 20,
) -> Any:
    """A server of uvicorn's; `run(sockets=[...])` answers requests until the process is told to end.

    Args:
        folder: Of comparisons.
        asking: What is asked.
        token: See `Guard`.
        hosts: See `Guard`.
        room: Bytes that clips may take.
        ahead: Questions whose clips are rendered before somebody asks for them.
    """
    import uvicorn

    from offline_marl.labelling.app import build_app
    from offline_marl.labelling.connections import HEAD_BYTES, MOST_CONNECTIONS, Watched

    config = uvicorn.Config(
        build_app(Server(Clerk(folder, asking), Shelf(folder, room), ahead), token, hosts),
        http=Watched,
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )
    return uvicorn.Server(config)
