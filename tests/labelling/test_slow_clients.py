from __future__ import annotations

import contextlib
import socket
import time

import pytest
from labelled_page import TOKEN, Client, serving
from worlds import saved, world

from offline_marl.labelling import connections, guard
from offline_marl.tasks.data_tasks import open_task
from offline_marl.training.preferences.asking import Plan, ask
from offline_marl.training.preferences.folders import ComparisonFolder

HEAD = f"POST /api/answers HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n"
BODY = f"{HEAD}Content-Type: application/json\r\nContent-Length: 400\r\n\r\n"


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    place = tmp_path_factory.mktemp("slow")
    data = saved(place, world("continuous", episodes=20))
    with ComparisonFolder(place / "pairs", make=True) as opened:
        ask(opened, open_task(data), Plan(budget=20, length=3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "REQUEST_SECONDS", 0.6)
        patch.setattr(connections, "LOOK_SECONDS", 0.1)
        patch.setattr(guard, "BODY_SECONDS", 0.3)
        with serving(place / "pairs") as port:
            yield port


def drip(port: int, first: str, piece: bytes, seconds: float) -> tuple[float, bytes]:
    """Send a byte at a time; how long that was borne, and what was answered."""
    begun, said = time.monotonic(), b""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as raw, contextlib.suppress(OSError):
        raw.sendall(first.encode())
        raw.settimeout(0.05)
        while time.monotonic() - begun < seconds:
            with contextlib.suppress(TimeoutError):
                said = raw.recv(1000)
                break
            raw.sendall(piece)
    return time.monotonic() - begun, said


def test_a_head_that_does_not_end_a_body_that_does_not_come_and_silence_are_cut_off(port) -> None:
    for first, piece, answer in [("GET / HTTP/1.1\r\n", b"X: y\r\n", b""), ("", b"", b""), (BODY, b" ", b"408")]:
        took, said = drip(port, first, piece, 5.0)
        assert took < 2.5, first[:20]
        assert answer in said[:20]


def test_many_slow_clients_keep_nobody_else_waiting(port) -> None:
    held = []
    for _ in range(60):
        raw = socket.create_connection(("127.0.0.1", port), timeout=5)
        raw.sendall(HEAD.encode())
        held.append(raw)
    begun = time.monotonic()
    client = Client(port)
    client.answer(client.lease()[0]["id"], "first")
    assert time.monotonic() - begun < 2.0
    time.sleep(1.2)
    cut = 0
    for raw in held:
        raw.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            try:
                cut += raw.recv(100) == b"" or 1
            except ConnectionError:
                cut += 1
        raw.close()
    assert cut == 60, "all were cut off"


def test_who_reads_slowly_is_cut_off_too(port) -> None:
    raw = socket.create_connection(("127.0.0.1", port), timeout=5)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    request = f"GET /label.js HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
    with contextlib.suppress(OSError):
        for _ in range(400):  # pipelined, and nothing is read: some megabytes would wait to be sent
            raw.sendall(request)
    begun, ended = time.monotonic(), False
    while time.monotonic() - begun < 6 and not ended:
        time.sleep(0.1)
        try:
            raw.sendall(b"G")
        except OSError:
            ended = True
    raw.close()
    assert ended and Client(port).get("/healthz") == {"ok": True}
