"""The real minari fetches from a stand-in for its remote on this machine."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub import Hub, running
from worlds import reacher_recording

from offline_marl.core.types import DataError
from offline_marl.datasets.writers import minari as writer
from offline_marl.tasks.data_tasks import open_task

pytest.importorskip("minari")
pytest.importorskip("huggingface_hub")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    # HF_ENDPOINT and HF_HOME are read once, when the hub's client is imported.
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setenv("OFFLINE_MARL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("MINARI_REMOTE", "hf://lab")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with running() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.url + template[template.index("/{repo") :])
        yield served


def put(hub: Hub, folder: Path, name: str) -> None:
    """A set as minari uploads it: the first word of its id is a repository."""
    writer.write(folder / "made-v0", reacher_recording(), "hdf5", name)
    repo, _, inner = name.partition("/")
    for file in (folder / "made-v0").rglob("*"):
        if file.is_file():
            path = Path(inner, file.relative_to(folder / "made-v0")).as_posix()
            hub.put(f"lab/{repo}", path, file.read_bytes())
    if inner:
        hub.put(
            f"lab/{repo}",
            "namespace_metadata.json",
            json.dumps({"datasets": [name], "namespaces": [f"{repo}/deep"]}).encode(),
        )


@pytest.mark.parametrize("name", ["reacher/made-v0", "reacher/deep/made-v0"])
def test_a_set_is_fetched_once(hub: Hub, tmp_path: Path, name: str) -> None:
    if "deep" in name:
        hub.put("lab/reacher", "deep/namespace_metadata.json", b"{}")
    put(hub, tmp_path, name)
    task = open_task(f"minari://{name}_2x1_full")
    assert torch.equal(task.data.state, reacher_recording().state) and task.data.metadata["name"] == "random-numbers"
    asked = len(hub.asked)
    assert torch.equal(open_task(f"minari://{name}_2x1_full").data.state, task.data.state) and len(hub.asked) == asked
    here = tmp_path / "minari"
    assert sorted(each.name for each in (here / name).iterdir()) == ["data"]
    assert [each.name for each in here.iterdir()] == [name.partition("/")[0]]


def test_a_changed_bit_is_noticed(hub: Hub, tmp_path: Path) -> None:
    put(hub, tmp_path, "reacher/made-v0")
    etag = hub.etag

    def wrong(content: bytes) -> str:
        return etag(content + b"x") if content.startswith(b"\x89HDF") else etag(content)

    hub.etag = wrong  # type: ignore[method-assign]
    with pytest.raises(DataError, match=r"arrived damaged: main_data\.hdf5 is not what the hub says it sent"):
        open_task("minari://reacher/made-v0_2x1_full")
    assert not list((tmp_path / "minari").iterdir())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("reacher/other-v0", "Couldn't find any version for dataset reacher/other"),
        ("reacher/made-v7", "doesn't exist in the remote"),
        ("nowhere-v0", "does not give it"),
        ("no version", "does not give it"),
    ],
)
def test_what_the_remote_does_not_have_is_one_sentence(hub: Hub, tmp_path: Path, name: str, said: str) -> None:
    put(hub, tmp_path, "reacher/made-v0")
    with pytest.raises(DataError, match=said) as refusal:
        open_task(f"minari://{name}_2x1_full")
    assert "\n" not in str(refusal.value) and "hf://lab" in str(refusal.value)


def test_a_remote_that_fails_is_one_sentence(hub: Hub, tmp_path: Path) -> None:
    hub.failures = 10_000
    with pytest.raises(
        DataError, match=r"and hf://lab does not give it \(.*\): fetch it by `minari download"
    ) as refusal:
        open_task("minari://reacher/made-v0_2x1_full")
    assert "\n" not in str(refusal.value) and not list((tmp_path / "minari").iterdir())
