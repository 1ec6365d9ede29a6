from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from offline_marl.core import allocator

FAULTS = """
import resource, sys, torch
from offline_marl.core.allocator import keep_memory
if sys.argv[1] == "kept":
    assert keep_memory()
def work():
    return [torch.ones(1_000_000) for _ in range(20)]
work(), work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


class Library:
    """A C library that notes what it is told, and takes no threshold above 32 MB."""

    def __init__(self, glibc: bool) -> None:
        self.told: list[tuple[int, int]] = []
        self.mallopt = FakeFunction(self.take)
        if glibc:
            self.gnu_get_libc_version = object()

    def take(self, option: int, value: int) -> int:
        self.told.append((option, value))
        return int(option != -3 or value <= 32 * 2**20)


class FakeFunction(SimpleNamespace):
    def __init__(self, call: Any) -> None:
        super().__init__(call=call)

    def __call__(self, *values: int) -> int:
        return int(self.call(*values))


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (*allocator.OWN, "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    return monkeypatch


def test_a_threshold_that_is_refused_is_lowered(plain: pytest.MonkeyPatch) -> None:
    library = Library(glibc=True)
    plain.setattr(ctypes, "CDLL", lambda _: library)
    assert allocator.keep_memory()
    megabytes = [(option, value // 2**20) for option, value in library.told]
    assert megabytes == [(-3, 256), (-3, 32), (-1, 512), (-2, 16)]


def test_other_libraries_and_systems_are_left_alone(plain: pytest.MonkeyPatch) -> None:
    musl = Library(glibc=False)
    plain.setattr(ctypes, "CDLL", lambda _: musl)
    assert not allocator.keep_memory() and musl.told == []
    plain.setattr(ctypes, "CDLL", lambda _: pytest.fail("asked"))
    plain.setattr(sys, "platform", "darwin")
    assert not allocator.keep_memory()


@pytest.mark.parametrize("name", [*allocator.OWN, "GLIBC_TUNABLES"])
def test_what_the_user_decided_stands(plain: pytest.MonkeyPatch, name: str) -> None:
    plain.setenv(name, "glibc.malloc.mmap_threshold=1" if name == "GLIBC_TUNABLES" else "131072")
    plain.setattr(ctypes, "CDLL", lambda _: pytest.fail("asked"))
    assert not allocator.keep_memory()


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_memory_that_is_kept_costs_no_page_faults() -> None:
    """Twenty tensors of 4 MB are 19,532 pages."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    returned, kept = (
        int(
            subprocess.run(
                [sys.executable, "-c", FAULTS, way], check=True, capture_output=True, text=True, env=env
            ).stdout
        )
        for way in ("returned", "kept")
    )
    assert kept < 1_000 < 10_000 < returned


@pytest.mark.slow
def test_commands_that_learn_keep_their_memory_and_imports_do_not() -> None:
    code = """
import sys
import offline_marl.core.allocator as allocator
calls = []
allocator.keep_memory = lambda: calls.append(1)
import offline_marl, offline_marl.launch.cli.entry, offline_marl.training.kinds, offline_marl.launch.jobs.worker
assert not calls
from offline_marl.launch.cli import main
try:
    main(["train", "bc", "--dataset", "nothing.safetensors"])
except SystemExit as end:
    assert end.code == 2 and calls == [1], calls
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
