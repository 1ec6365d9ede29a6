"""The real client of the hub against a stand-in on this machine."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign import Team, vault_arrays, write_vault, zipped
from hub import COMMIT, Hub, _Handler, running
from worlds import reacher_recording

from offline_marl.core.types import DataError
from offline_marl.datasets.catalog import CATALOG, path_of
from offline_marl.datasets.files import save_data
from offline_marl.datasets.places import absolute
from offline_marl.datasets.readers.catalogue_sets import MIRRORS, places
from offline_marl.datasets.readers.storage import huggingface
from offline_marl.datasets.readers.storage.huggingface import HubPlace, fetch
from offline_marl.tasks.data_tasks import open_task

huggingface_hub = pytest.importorskip("huggingface_hub")
HUB_1 = metadata.version("huggingface-hub").startswith("1.")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("OFFLINE_MARL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client waits seconds between its tries
    with running() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


def reacher_pickle(seed: int = 0) -> bytes:
    import numpy as np

    draw, episodes, length = np.random.default_rng(seed), 4, 5
    rows = draw.standard_normal((episodes, length + 1, 11)).astype(np.float32)
    rows[..., 10] = 0
    ones = np.ones((episodes * length, 1), np.float32)
    timed = ones.copy()
    timed[length - 1 :: length] = 0
    held = {
        "observations": rows[:, :-1].reshape(-1, 11),
        "actions": draw.uniform(-1, 1, (len(ones), 2)).astype(np.float32),
        "rewards": -ones,
        "masks": ones,
        "next_observations": rows[:, 1:].reshape(-1, 11),
        "time_out_masks": timed,
    }
    return pickle.dumps(held)


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("hf://a/b/c.pkl", HubPlace("a/b", "c.pkl", None, "dataset")),
        ("hf://a/b/c/d.pkl@v1", HubPlace("a/b", "c/d.pkl", "v1", "dataset")),
        ("hf://models/a/b/c/", HubPlace("a/b", "c", None, "model")),
        ("hf://datasets/a/b/c@refs/pr/1", HubPlace("a/b", "c", "refs/pr/1", "dataset")),
    ],
)
def test_places_on_the_hub(uri: str, place: HubPlace) -> None:
    assert HubPlace.parse(uri) == place


@pytest.mark.parametrize("uri", ["hf://", "hf://a", "hf://a/b", "hf://a/b/../../c.pkl", "hf://a b/c/d"])
def test_places_of_another_form_are_refused(uri: str) -> None:
    with pytest.raises(DataError, match="should be hf://owner/repo/path"):
        HubPlace.parse(uri)


@pytest.mark.parametrize("large", [0, 1])
def test_a_task_names_a_file_on_the_hub(hub: Hub, large: int) -> None:
    hub.large = large
    hub.put("lab/sets", "some_where/x.pkl", reacher_pickle())
    task = open_task("hf://lab/sets/some_where/x.pkl@main_2x1notip_0")
    assert task.data.spec.n_agents == 2 and task.partition is not None
    assert absolute(task.id) == task.id


def test_a_file_in_our_layout_and_a_folder(hub: Hub, tmp_path: Path) -> None:
    save_data(tmp_path / "x.safetensors", reacher_recording())
    content = (tmp_path / "x.safetensors").read_bytes()
    hub.put("lab/sets", "deep/x.safetensors", content)
    hub.put("lab/sets", "other/y.bin", b"y")
    assert torch.equal(
        open_task("hf://lab/sets/deep/x.safetensors_2x1_full").data.actions[:, 0, 0], reacher_recording().actions[:, 0]
    )
    folder = fetch("hf://lab/sets/deep")
    assert [each.name for each in folder.iterdir()] == ["x.safetensors"] and huggingface.commit_of(folder) == COMMIT
    with pytest.raises(DataError, match="has no such folder"):
        fetch("hf://lab/sets/nowhere")


def test_a_set_in_an_archive_on_the_hub(hub: Hub, tmp_path: Path) -> None:
    pytest.importorskip("tensorstore")
    for uid in ("Good", "Poor"):
        write_vault(tmp_path / "x.vlt" / uid, vault_arrays(Team()), small=True)
    hub.put("lab/sets", "core/x.zip", zipped(tmp_path / "x.vlt", tmp_path / "x.zip").read_bytes())
    task = open_task("hf://lab/sets/core/x.zip/Poor@main")
    assert task.data.metadata["name"] == "x/Poor" and task.data.spec.n_agents == 2


def test_a_folder_may_have_a_dot_in_its_name(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorstore")
    write_vault(tmp_path / "x.vlt" / "Good", vault_arrays(Team()), small=True)
    for file in sorted(each for each in (tmp_path / "x.vlt").rglob("*") if each.is_file()):
        hub.put("lab/sets", f"core/{file.relative_to(tmp_path).as_posix()}", file.read_bytes())
    hub.put("lab/sets", "medium-v0.1/data/metadata.json", b"{}")
    assert open_task("hf://lab/sets/core/x.vlt").data.metadata["name"] == "x/Good"
    folder = fetch("hf://lab/sets/medium-v0.1")
    assert folder.is_dir() and (folder / "data" / "metadata.json").is_file()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    if HUB_1:
        with pytest.raises(DataError, match="did not answer"):
            fetch("hf://lab/sets/medium-v0.1")
    else:
        assert fetch("hf://lab/sets/medium-v0.1") == folder


@pytest.mark.parametrize("folder", ["set", "set-v0.1"])
def test_a_folder_that_was_fetched_in_part_is_not_taken_for_whole(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    hub.put("lab/sets", f"{folder}/part_0.h5", b"one")
    hub.put("lab/sets", f"{folder}/part_1.h5", b"two")
    send = _Handler.send

    def cut_short(self: Any, name: str, repo: dict[str, bytes], path: str) -> None:
        self.refuse(503, "Busy") if path == f"{folder}/part_1.h5" else send(self, name, repo, path)

    with monkeypatch.context() as patch:
        patch.setattr(_Handler, "send", cut_short)
        with pytest.raises(DataError, match="answered 503"):
            fetch(f"hf://lab/sets/{folder}")
    hub.failures = 10_000
    with pytest.raises(DataError, match="cannot be fetched"):
        fetch(f"hf://lab/sets/{folder}")
    hub.failures = 0
    assert len(list(fetch(f"hf://lab/sets/{folder}").iterdir())) == 2


def test_a_page_in_place_of_the_hub_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def page(self: Any) -> None:
        self.answer(200, b"<html>Log in to the network</html>", {"Content-Type": "text/html"})

    for name in ("do_GET", "do_HEAD"):
        monkeypatch.setattr(_Handler, name, page)
    with pytest.raises(DataError, match="what answered is no hub"):
        fetch("hf://lab/sets/folder")


def test_the_cache_answers_when_the_hub_does_not(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.put("lab/sets", "x.pkl", reacher_pickle())
    path = fetch("hf://lab/sets/x.pkl")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert fetch("hf://lab/sets/x.pkl") == path
    with pytest.raises(DataError, match=r"127\.0\.0\.1:9 did not answer, and the cache does not hold it\.$"):
        fetch("hf://lab/sets/other.pkl")


@pytest.mark.skipif(HUB_1, reason="huggingface-hub 1 asks once")
def test_a_busy_hub_is_asked_again(hub: Hub) -> None:
    hub.put("lab/sets", "x.pkl", b"content")
    hub.failures = 2
    assert fetch("hf://lab/sets/x.pkl").read_bytes() == b"content"
    hub.failures = 10_000
    with pytest.raises(DataError, match=r"cannot be fetched: http://.* (answered 503|did not answer), and the cache"):
        fetch("hf://lab/sets/other.pkl")


@pytest.mark.parametrize("large", [0, 1])
def test_a_changed_bit_is_noticed_and_fetched_again(hub: Hub, large: int) -> None:
    hub.large = large
    hub.put("lab/sets", "x.pkl", b"content")
    hub.flips = 1
    assert fetch("hf://lab/sets/x.pkl").read_bytes() == b"content"
    hub.put("lab/sets", "y.pkl", b"other content")
    hub.flips = 100
    with pytest.raises(DataError, match="arrived damaged 3 times"):
        fetch("hf://lab/sets/y.pkl")


def test_the_token_is_the_usual_one(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.put("lab/sets", "x.pkl", b"content")
    hub.token = "secret"
    with pytest.raises(DataError, match="is closed to you"):
        fetch("hf://lab/sets/x.pkl")
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert fetch("hf://lab/sets/x.pkl").read_bytes() == b"content"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("hf://lab/nothing/x.pkl", "has no dataset lab/nothing"),
        ("hf://lab/sets/y.pkl", "lab/sets has no file y.pkl"),
        ("hf://lab/sets/x.pkl@v9", "lab/sets has no revision 'v9'"),
        ("hf://models/lab/sets/x.pkl", "has no model lab/sets"),
    ],
)
def test_what_is_not_there_is_one_sentence(hub: Hub, uri: str, said: str) -> None:
    hub.put("lab/sets", "x.pkl", b"content")
    with pytest.raises(DataError, match=said) as refusal:
        fetch(uri)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["reacher-expert-C-v0", "reacher-expert-D-v0", "reacher-expert-mix-v0"])
@pytest.mark.parametrize("kind", ["datasets", "models"])
def test_a_published_set_is_fetched_once(hub: Hub, name: str, kind: str) -> None:
    path = CATALOG[name].places[0].removeprefix("hf://pbarde1/moma-ppo/")
    hub.put("pbarde1/moma-ppo", path, reacher_pickle(), kind)
    task = open_task(f"{name}_2x1_full")
    assert task.reference is not None and task.reference.expert == CATALOG[name].reference.expert
    about = task.data.metadata
    assert about["revision"] == COMMIT and path in about["source"] and about["source_sha256"] != about["sha256"]
    asked = len(hub.asked)
    assert torch.equal(open_task(f"{name}_2x1_full").data.obs, task.data.obs) and len(hub.asked) == asked


def test_a_hostile_copy_is_passed_over(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "reacher-expert-C-v0"
    (tmp_path / f"{name}.pkl").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    save_data(tmp_path / "good" / f"{name}.safetensors", reacher_recording())
    monkeypatch.setenv(MIRRORS, f"{tmp_path} {tmp_path / 'good'} hf://lab/copies")
    assert places(CATALOG[name])[:2] == [f"{tmp_path}/{name}.safetensors", f"{tmp_path}/{name}.pkl"]
    task = open_task(f"{name}_2x1_full")
    assert torch.equal(task.data.state, reacher_recording().state) and not hub.asked


def test_none_of_the_places_is_one_sentence_that_says_where(hub: Hub) -> None:
    with pytest.raises(DataError) as refusal:
        open_task("reacher-expert-mix-v0_2x1_full")
    said = str(refusal.value)
    assert "\n" not in said and said.startswith("reacher-expert-mix-v0 was found at none of its places (hf://pbarde1/")
    assert all(place in said for place in CATALOG["reacher-expert-mix-v0"].places) and "HF_ENDPOINT" in said
    assert not path_of("reacher-expert-mix-v0").exists()
