"""The real client of the hub, up and down, against a stand-in on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hub import Hub

from offline_marl.datasets.files import load_data, save_data
from offline_marl.datasets.writers import hub as writer

Cli = Callable[..., Any]
PLACE = "hf://me/data/team.safetensors"
LICENCE = ("--licence", "cc-by-4.0")

# The client's own use of httpx2, where large files are uploaded.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")


@pytest.fixture(autouse=True)
def quick_picture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "drawn" not in request.node.name:
        monkeypatch.setattr("offline_marl.datasets.picture.draw_data", lambda *_: b"\x89PNG")


def held(hub: Hub, repo: str = "me/data") -> dict[str, bytes]:
    return hub.files[f"datasets/{repo}"]


@pytest.mark.parametrize("large", [0, 1])
def test_up_then_down_then_train(hub: Hub, cli: Cli, team: Path, large: int) -> None:
    hub.large = large
    content = team.read_bytes()
    pushed = cli("data", "push", team, "hf://me/data", *LICENCE)
    assert pushed.code == 0, pushed.err
    digest = hashlib.sha256(content).hexdigest()
    assert f"pushed      {PLACE}\n" in pushed.out and f"sha256      {digest}, the hub's is the same" in pushed.out
    assert held(hub)["team.safetensors"] == content and held(hub)["team.png"].startswith(b"\x89PNG")
    pulled = cli("data", "pull", PLACE, "sub/mine.safetensors")
    assert pulled.code == 0, pulled.err
    assert Path("sub/mine.safetensors").read_bytes() == content
    assert "same already" in cli("data", "pull", PLACE).out, "team.safetensors lies here"
    trained = cli("train", "bc", "--dataset", "sub/mine.safetensors", "--steps", 1, "--batch-size", 4, "--hidden", "4")
    assert trained.code == 0
    assert cli("data", "verify", PLACE).code == 0


def test_the_card_that_is_drawn_tells_all_there_is_to_know(hub: Hub, cli: Cli, recording: str) -> None:
    pytest.importorskip("matplotlib")
    arm = Path(recording.removesuffix("_2x1notip_0"))
    data = load_data(arm)
    about = {**data.metadata, "licence": "Apache-2.0", "how": "by | hand", "versions": {"mujoco": "3.1"}, "name": "arm"}
    save_data(arm, replace(data, metadata={**about, "who": [0] * 6, "actors": [{"name": "left", "episodes": 6}]}))
    assert cli("data", "push", arm, "hf://me/arms/sub/").code == 0
    readme = held(hub, "me/arms")["README.md"].decode()
    front = yaml.safe_load(readme.split("---")[1])
    assert (front["license"], front["size_categories"]) == ("apache-2.0", ["n<1K"])
    assert {"offline-rl", "multi-agent", "reacher"} <= set(front["tags"])
    said = (
        "| environment | reacher |",
        "| made by | by \\| hand |",
        "| versions | mujoco = 3.1 |",
        "| transitions | 30 |",
    )
    said += ("| episodes of each actor | left = 6 |", load_data(arm).metadata["sha256"], "](<sub/arm.png>)")
    said += (
        hashlib.sha256(arm.read_bytes()).hexdigest(),
        "hf://me/arms/sub/arm.safetensors_2x1_full",
        "| return | mean ",
    )
    for each in said:
        assert each in readme, each
    assert held(hub, "me/arms")["sub/arm.png"].startswith(b"\x89PNG")


def test_another_file_of_the_same_name_stays_unless_told(hub: Hub, cli: Cli, team: Path, discrete_team: Path) -> None:
    assert cli("data", "push", team, "hf://me/data", *LICENCE).code == 0
    commit = hub.head("me/data")
    assert cli("data", "push", team, "hf://me/data", *LICENCE).code == 0, "the same file again is fine"
    assert hub.head("me/data") == commit
    refused = cli("data", "push", discrete_team, PLACE, *LICENCE)
    assert refused.code == 2
    assert refused.error == f"error: {PLACE} holds another file already: choose another name, or say --overwrite."
    assert held(hub)["team.safetensors"] == team.read_bytes()
    assert cli("data", "push", discrete_team, PLACE, *LICENCE, "--overwrite").code == 0
    assert held(hub)["team.safetensors"] == discrete_team.read_bytes()


def test_a_picture_of_somebody_else_stays_too(hub: Hub, cli: Cli, team: Path) -> None:
    hub.put("me/data", "team.png", b"theirs")
    refused = cli("data", "push", team, "hf://me/data", *LICENCE)
    assert refused.code == 2 and "me/data holds another team.png already" in refused.error
    assert held(hub) == {"team.png": b"theirs"}
    assert cli("data", "push", team, "hf://me/data", *LICENCE, "--overwrite").code == 0


def test_cards_of_several_files_and_of_others(hub: Hub, cli: Cli, team: Path, discrete_team: Path) -> None:
    assert cli("data", "push", team, "hf://me/data", *LICENCE).code == 0
    assert cli("data", "push", discrete_team, "hf://me/data", "--licence", "mit").code == 0
    readme = held(hub)["README.md"].decode()
    assert readme.count("\n## ") == 2 and "license: other" in readme and "license_name: mit-and-cc-by-4.0" in readme
    hub.put("me/theirs", "README.md", b"# Mine, by hand\n")
    kept = cli("data", "push", team, "hf://me/theirs", *LICENCE)
    assert kept.code == 0 and "was left as it is" in kept.out
    assert held(hub, "me/theirs")["README.md"] == b"# Mine, by hand\n"
    assert cli("data", "push", team, "hf://me/theirs", *LICENCE, "--overwrite").code == 0
    assert b"cc-by-4.0" in held(hub, "me/theirs")["README.md"]


def test_a_licence_is_needed_and_not_contradicted(hub: Hub, cli: Cli, team: Path) -> None:
    assert "names no licence: say --licence" in cli("data", "push", team, "hf://me/data").error
    data = load_data(team)
    save_data(team, replace(data, metadata={**data.metadata, "licence": "MIT"}))
    assert "says that its licence is MIT, not cc-by-4.0" in cli("data", "push", team, "hf://me/data", *LICENCE).error
    assert not hub.files and cli("data", "push", team, "hf://me/data", "--licence", "mit").code == 0


def test_token_and_private(hub: Hub, cli: Cli, team: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "hf_secret"
    refused = cli("data", "push", team, "hf://me/data", *LICENCE)
    assert refused.code == 2 and "log in with `hf auth login`, or set HF_TOKEN, with a token that may" in refused.error
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert cli("data", "push", team, "hf://me/data", *LICENCE, "--private").code == 0
    assert hub.private == {"me/data"}
    assert cli("data", "pull", PLACE, "again.safetensors").code == 0
    assert "hf_secret" not in held(hub)["README.md"].decode() + refused.out + refused.err


@pytest.mark.parametrize(
    ("part", "code", "said"),
    [
        ("create", 403, "does not let you write to me/data."),
        ("commit", 403, "does not let you write to me/data."),
        ("commit", 401, "log in with `hf auth login`"),
        ("commit", 409, "was changed by somebody else meanwhile; push again."),
        ("commit", 412, "was changed by somebody else meanwhile; push again."),
        ("commit", 429, "answered 429, 3 times; push again later."),
        ("commit", 503, "answered 503, 3 times; push again later."),
        ("paths-info", 500, "answered 500, 3 times; push again later."),
        ("preupload", 404, "has no data set me/data that you may see."),
        ("validate", 400, "cannot be written: "),
    ],
)
def test_refusals_are_told_in_one_sentence(hub: Hub, cli: Cli, team: Path, part: str, code: int, said: str) -> None:
    hub.refusals = {part: code}
    failed = cli("data", "push", team, "hf://me/data", *LICENCE)
    assert failed.code == 2 and said in failed.error and failed.error.startswith(f"error: {PLACE} ")
    assert "team.safetensors" not in hub.files.get("datasets/me/data", {})


@pytest.mark.parametrize("failures", [1, 2])
def test_what_passes_is_tried_again(hub: Hub, cli: Cli, team: Path, failures: int) -> None:
    hub.failures = failures
    assert cli("data", "push", team, "hf://me/data", *LICENCE).code == 0
    assert held(hub)["team.safetensors"] == team.read_bytes()


def test_a_hub_that_does_not_answer(hub: Hub, cli: Cli, team: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.hangs = 0.3
    monkeypatch.setattr(writer, "PATIENCE", 0.05)
    monkeypatch.setattr(writer, "TRIES", 2)
    slow = cli("data", "push", team, "hf://me/data", *LICENCE)
    assert slow.code == 2 and "did not answer; push again later." in slow.error


def test_a_closed_door(hub: Hub, cli: Cli, team: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    closed = cli("data", "push", team, "hf://me/data", *LICENCE)
    assert closed.code == 2 and "http://127.0.0.1:9 did not answer; push again later." in closed.error


@pytest.mark.parametrize("large", [0, 1])
def test_bytes_that_changed_on_the_way_up_are_noticed(hub: Hub, cli: Cli, team: Path, large: int) -> None:
    hub.large, hub.spoils = large, 9
    failed = cli("data", "push", team, "hf://me/data", *LICENCE)
    assert failed.code == 2 and "arrived damaged: the hub holds another content than" in failed.error
    hub.spoils = 0
    hub.blobs.clear()
    assert cli("data", "push", team, "hf://me/data", *LICENCE, "--overwrite").code == 0


def test_bytes_that_changed_on_the_way_down_are_noticed(hub: Hub, cli: Cli, team: Path) -> None:
    assert cli("data", "push", team, "hf://me/data", *LICENCE).code == 0
    hub.flips = 9
    failed = cli("data", "pull", PLACE, "x.safetensors")
    assert failed.code == 2 and "arrived damaged 3 times" in failed.error and not Path("x.safetensors").exists()
    hub.flips = 1
    assert cli("data", "pull", PLACE, "x.safetensors").code == 0
    assert Path("x.safetensors").read_bytes() == team.read_bytes()


def test_pull_overwrites_only_when_told_and_takes_folders(hub: Hub, cli: Cli, team: Path) -> None:
    hub.put("me/data", "sub/a.txt", b"a")
    hub.put("me/data", "team.safetensors", team.read_bytes())
    Path("old.safetensors").write_text("old")
    assert "exists already" in cli("data", "pull", PLACE, "old.safetensors").error
    assert cli("data", "pull", PLACE, "old.safetensors", "--overwrite").code == 0
    assert cli("data", "pull", "hf://me/data/sub", "folder").code == 0 and Path("folder/a.txt").read_text() == "a"
    assert "a folder with something in it" in cli("data", "pull", "hf://me/data/sub", "folder", "--overwrite").error
    assert (
        cli("data", "pull", "coordination-single-v0").code == 0 and Path("coordination-single-v0.safetensors").exists()
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("push {team} me/data --licence mit", "should be hf://owner/repo"),
        ("push {team} hf://me/data/x.pkl --licence mit", "should end in .safetensors, as team.safetensors does."),
        ("push {team} hf://me/data/../x.safetensors --licence mit", "should be hf://owner/repo"),
        ("push {team} hf://me/data/x.safetensors@v1 --licence mit", "without a revision"),
        ("push gone.safetensors hf://me/data", "There is no file gone.safetensors."),
        ("pull hf://me/data", "should be hf://owner/repo/path"),
        ("pull hf://me/gone/x.safetensors", "has no dataset me/gone that you may see."),
        ("pull nosuch", "Unknown data set 'nosuch'"),
        ("pull {team}", "it should be hf://owner/repo/path, or a name of the catalogue."),
    ],
)
def test_words_that_cannot_be_followed(hub: Hub, cli: Cli, team: Path, words: str, said: str) -> None:
    failed = cli("data", *words.format(team=team).split())
    assert failed.code == 2 and said in failed.error


@pytest.mark.parametrize(
    ("password", "host", "part"),
    [("s3cret", "127.0.0.1:9", None), ("s3:c@r/et", "HUB", "commit"), ("s3cret?x#y", "no such host", None)],
)
def test_a_password_in_the_hubs_address_is_never_printed(
    hub: Hub, cli: Cli, team: Path, monkeypatch: pytest.MonkeyPatch, password: str, host: str, part: str | None
) -> None:
    hub.refusals = {} if part is None else {part: 403}
    host = hub.url.partition("://")[2] if host == "HUB" else host
    monkeypatch.setenv("HF_ENDPOINT", f"http://me:{password}@{host}")
    monkeypatch.setattr(writer, "TRIES", 1)
    for words in (
        ["data", "push", team, "hf://me/data", *LICENCE],
        ["data", "pull", "hf://me/data/absent.safetensors"],
        ["data", "info", "hf://me/data/absent.pkl"],
    ):
        said = cli(*words)
        assert "s3" not in said.out + said.err and "Traceback" not in said.err, said.err
        assert said.code in {0, 1, 2}
