"""What every test stands on: one torch thread, and one cache folder a session for data made on first use."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import sys
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

# Before torch is imported, here and in the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
from warm import Warm


def pytest_configure(config: pytest.Config) -> None:
    # Modules are compiled once, not by every worker and every process that a test starts: a tenth of the suite's time.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    if config.getoption("dist", "no") != "no":
        return  # xdist's controller, which runs no test
    try:
        import torch
    except ImportError:  # tests that need no torch still run
        return
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Points OFFLINE_MARL_HOME away from the user's cache; built-in data is made once and shared by all tests.

    Session-wide, so that session fixtures see it too. A test that wants an empty cache sets its own with `monkeypatch`.
    """
    home = tmp_path_factory.mktemp("offline_marl_home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OFFLINE_MARL_HOME", str(home))
        yield home


# --- time ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="session", autouse=True)
def quick_disk() -> Iterator[None]:
    """Nothing waits for the disk: no test pulls the plug. Tests of what happens when it fails put their own in place.

    Processes that tests start, those that are killed among them, wait as ever.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # a closed or foreign file is still an error
        yield


@pytest.fixture(scope="session", autouse=True)
def packages_read_once() -> Iterator[None]:
    """What is installed is looked up once for each state of sys.path, not at every command and every run."""
    looked_up, version = metadata.entry_points, metadata.version

    @cache
    def known(path: tuple[str, ...], **wanted: str) -> metadata.EntryPoints:
        return looked_up(**wanted)

    @cache
    def known_version(path: tuple[str, ...], name: str) -> str:
        return version(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metadata, "version", lambda name: known_version(tuple(sys.path), name))
        patch.setattr(metadata, "entry_points", lambda **wanted: known(tuple(sys.path), **wanted))
        yield


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """Starts Python processes that have torch already."""
    server = Warm()
    yield server
    server.close()


@pytest.fixture(scope="session", autouse=True)
def torch_of_one_processor() -> Iterator[None]:
    """What torch does for devices and machines that no test has takes no time."""
    try:
        import torch
        from torch.testing import _comparison
    except ImportError:  # tests that need no torch still run
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        if not torch.cuda.is_available():
            # It would keep a formatted stack for each kind of device that is absent: a tenth of a small update's test.
            patch.setattr(torch, "manual_seed", torch.default_generator.manual_seed)
        # `assert_close` would import all of torch.distributed, to ask whether a tensor is spread over machines.
        patch.setattr(_comparison, "_HAS_DTENSOR", False, raising=False)
        yield


# --- axes ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="session", autouse=True)
def checked_losses() -> Iterator[None]:
    """Every public function of every module of offline_marl.losses checks its axes, for algorithms that call it too."""
    try:
        from offline_marl import losses
        from offline_marl.core.axes import checked
    except ImportError:  # tests that need no torch still run
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        for found in pkgutil.iter_modules(losses.__path__):
            module = importlib.import_module(f"{losses.__name__}.{found.name}")
            for name, function in inspect.getmembers(module, inspect.isfunction):
                if function.__module__ == module.__name__ and not name.startswith("_"):
                    patch.setattr(module, name, checked(function))
        yield
