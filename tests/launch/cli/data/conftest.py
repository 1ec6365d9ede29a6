"""A hub on this machine that the real client talks to, without leaving this test's folder."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub import Hub, running


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    pytest.importorskip("huggingface_hub")
    folder: Path = tmp_path_factory.mktemp("hub")
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None, raising=False)
    monkeypatch.setattr("offline_marl.datasets.readers.storage.huggingface.PAUSE", 0.0)
    monkeypatch.setattr("offline_marl.datasets.writers.hub.PAUSE", 0.0)
    with running() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served
