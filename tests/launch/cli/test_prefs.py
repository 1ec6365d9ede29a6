"""From pairs to a learned reward on the command line, and what is wrong with input on the way."""

from __future__ import annotations

import csv
import json
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import score_in_point_env
from worlds import saved, world

from offline_marl.preferences import label_store as stores
from offline_marl.preferences.label_store import LabelStore
from offline_marl.preferences.labels import Label

Cli = Callable[..., Any]

FIT = ("--steps", 20, "--eval-every", 10, "--batch-size", 8, "--hidden", "8", "--members", 2, "--min-labels", 3)
TRAIN = ("--steps", 4, "--eval-every", 0, "--final-episodes", 2, "--batch-size", 8, "--hidden", "8", "--device", "cpu")
PAIRS = ("--budget", 40, "--length", 3)


@pytest.fixture(autouse=True)
def _scored(monkeypatch: pytest.MonkeyPatch) -> None:
    score_in_point_env(monkeypatch)


@pytest.fixture
def data(tmp_path: Path) -> str:
    return saved(tmp_path, world("continuous", episodes=20))


@pytest.fixture
def labelled(cli: Cli, data: str) -> str:
    """A folder of labelled pairs of the data."""
    assert cli("prefs", "pairs", "c", "--dataset", data, *PAIRS).code == 0
    assert cli("prefs", "simulate", "c", "--steepness", "perfect").code == 0
    return "c"


@pytest.fixture
def model(cli: Cli, data: str, labelled: str) -> str:
    """A reward model of these."""
    assert (
        cli("fit-reward", "bradley-terry", "--dataset", data, "--preferences", labelled, *FIT, "--out", "r").code == 0
    )
    return "r"


def test_from_pairs_to_a_policy(cli: Cli, data: str, model: str) -> None:
    done = cli("train", "bc", "--dataset", data, *TRAIN, "--out", "bc")
    assert done.code == 0, done.err
    done = cli(
        "train", "ma-iql", "--dataset", data, *TRAIN, "--out", "run", "--reward-model", model, "--reference", "bc",
        "--reference-weight", 10, "--reward-caution", ".5",
    )  # fmt: skip
    assert done.code == 0, done.err
    config = json.loads(Path("run/config.json").read_text())
    assert (config["reward_model"], config["reference_policy"]) == (
        str(Path("r").absolute()),
        str(Path("bc").absolute()),
    )
    assert config["reference"] is None and json.loads(Path("run/reward.json").read_text())["reference_weight"] == 10
    again = cli("resume", "run")
    assert again.code == 0, again.err


def test_the_fit_says_how_it_did_and_is_seen_again(cli: Cli, data: str, labelled: str) -> None:
    done = cli("fit-reward", "bradley-terry", "--dataset", data, "--preferences", labelled, *FIT, "--out", "r")
    assert done.code == 0, done.err
    for word in ("accuracy", "the best possible 1.000", "true return", "verdict", "--reward-model r"):
        assert word in done.out, word
    again = cli("resume", "r")
    assert again.code == 0 and again.out == done.out
    assert cli("fit-reward", "bradley-terry", "--dataset", data, "--preferences", labelled, *FIT).code == 0
    assert Path("rewards/bradley-terry_data.safetensors_seed0/DONE").exists()


def test_rounds_remember_what_the_first_was_told(cli: Cli, data: str) -> None:
    first = cli(
        "prefs", "pairs", "c", "--dataset", data, "--budget", 30, "--rounds", 2, "--length", 2, "--holdout", 0.3
    )
    assert first.code == 0 and "15 in round 1 of 2" in first.out and "15 of the budget are left" in first.out
    Path(data).rename("moved.safetensors")
    data = "moved.safetensors"  # the same data under another name
    second = cli("prefs", "pairs", "c", "--dataset", data)
    assert second.code == 0 and "15 in round 2 of 2" in second.out and "30 pairs; 0 of" in second.out
    spent = cli("prefs", "pairs", "c", "--dataset", data)
    assert spent.code == 2 and "budget of 30 pairs is spent" in spent.error
    other = cli("prefs", "pairs", "c", "--dataset", data, "--budget", 31)
    assert other.code == 2 and "was begun with budget = 30, not 31" in other.error


def test_a_reward_models_doubt_asks_the_next_round(cli: Cli, data: str, model: str) -> None:
    done = cli("prefs", "pairs", "d", "--dataset", data, *PAIRS, "--select", "disagree", "--reward-model", model)
    assert done.code == 0, done.err
    with LabelStore(Path("d/labels.sqlite")) as store:
        assert {one.strategy for one in store.pairs() if one.split == "train"} == {"disagree"}
    flags = ("prefs", "pairs", "e", "--dataset", data, *PAIRS, "--reward-model", model)
    for more, message in (
        ((), "--select disagree or"),
        (("--select", "entropy", "--action-scale", 2), "scale 1, .* not 2"),
    ):
        refused = cli(*flags, *more)
        assert refused.code == 2 and re.search(message, refused.error) and not Path("e/labels.sqlite").exists()


def test_labels_go_out_and_come_in_and_are_reported(cli: Cli, data: str, labelled: str) -> None:
    assert cli("prefs", "export", labelled, "out.csv").code == 0
    assert "exists already" in cli("prefs", "export", labelled, "out.csv").error
    with open("out.csv", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == 40
    turned = {"first": "second", "second": "first", "equal": "equal"}
    with open("in.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["pair_id", "answer", "annotator"])
        writer.writerows([line["pair_id"], line["answer"], "ann"] for line in lines)
        writer.writerows([line["pair_id"], turned[line["answer"]], "ann"] for line in lines[:2])
    done = cli("prefs", "import", labelled, "in.csv")
    assert done.code == 0 and "42 new, 0 known" in done.out and "2 questions were answered in two ways" in done.err
    assert "0 new, 42 known" in cli("prefs", "import", labelled, "in.csv").out
    said = cli("prefs", "report", labelled, "--json-file", "report.json")
    assert said.code == 0 and "ann and teacher  1.000  40" in said.out and "0.000 of 2 answered as before" in said.out
    assert len(json.loads(Path("report.json").read_text())["contradictions"]) == 2


def test_jobs_and_sweeps_know_the_kind(cli: Cli, data: str, labelled: str) -> None:
    flags = ("--dataset", data, "--preferences", labelled, *FIT)
    done = cli("submit", "fit-reward", "bradley-terry", *flags, "--out", "job", "--executor", "debug")
    assert done.code == 0, done.err
    assert Path("job/DONE").exists()
    fields = "\n".join(
        f"{flag[2:].replace('-', '_')} = {value}" for flag, value in zip(FIT[::2], FIT[1::2], strict=True)
    )
    fields = fields.replace("hidden = 8", "hidden = [8]")
    Path("sweep.toml").write_text(
        f'command = "fit-reward"\nalgorithms = ["bradley-terry"]\ndatasets = ["{data}"]\nseeds = [0]\n'
        f'[fields]\npreferences = "{labelled}"\n{fields}\n[grid]\nalpha = [0.0, 1.0]\n'
    )
    done = cli("sweep", "sweep.toml", "--executor", "debug", "--out", "swept")
    assert done.code == 0, done.err
    alphas = {json.loads(path.read_text())["settings"]["alpha"] for path in Path("swept").rglob("config.json")}
    assert alphas == {0.0, 1.0}


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("prefs pears", "Unknown command 'prefs pears': did you mean 'pairs'?"),
        ("prefs pairs c", "prefs pairs needs --dataset ID"),
        ("prefs pairs c --dataset {data} --length 99", "No episode of .* has 99 steps to compare: the longest has"),
        ("prefs pairs c --dataset {data} --budget 100000 --length 3", "There are not .* pairs of different segments"),
        ("prefs pairs c --dataset {data} --select entropy", "name its folder by --reward-model"),
        ("prefs pairs c --dataset {data} --budget 0", "Field 'budget' cannot be"),
        ("prefs simulate none", "There is no store of labels none/labels.sqlite"),
        ("prefs export none out.csv", "There is no store of labels"),
        ("prefs import none in.csv", "There is no store of labels"),
        ("prefs report none", "There is no store of labels"),
        ("prefs simulate c --error-rate .7", "Field 'error_rate' cannot be"),
        ("fit-reward", ""),
        ("fit-reward bradly-terry --dataset x", "Unknown reward model 'bradly-terry': did you mean 'bradley-terry'?"),
        ("fit-reward --dataset x bradley-terry", "fit-reward needs the KIND first"),
        ("fit-reward bradley-terry --dataset {data}", "needs --preferences FOLDER, which `offline-marl prefs"),
        ("fit-reward bradley-terry --dataset {data} --preferences none", "There is no store of labels"),
        ("train iql --dataset {data} --reference bc", "--reference-policy adds to a learned reward"),
        ("train iql --dataset {data} --reward-model none --out run", "none holds no run"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_sentence(cli: Cli, data: str, words: str, message: str) -> None:
    failed = cli(*words.format(data=data).split())
    if message:
        assert failed.code == 2
        assert re.search(message, failed.error), failed.error
    else:
        assert failed.code == 0 and "bradley-terry" in failed.out


def test_names_that_steer_a_terminal_are_shown_without(cli: Cli, labelled: str) -> None:
    with LabelStore(Path(labelled) / stores.NAME) as store:
        people = ("evil\x1b[31m\nname", "می\u200cخواهم", "क्\u200dष")
        store.add([Label(store.pairs()[0].pair.id, "first", name) for name in people])
    done = cli("prefs", "report", labelled)
    assert all(name in done.out for name in people[1:])
    assert done.code == 0 and "evil?[31m?name" in done.out and "\x1b" not in done.out


def test_pairs_of_two_data_sets_are_refused(cli: Cli, tmp_path: Path, labelled: str) -> None:
    other = saved(tmp_path, world("continuous", episodes=20, seed=5), "other.safetensors")
    failed = cli("fit-reward", "bradley-terry", "--dataset", other, "--preferences", labelled, *FIT, "--out", "r")
    assert failed.code == 2 and "pairs of two data sets are not learnt from together" in failed.error
    assert not Path("r/config.json").exists()
    failed = cli("prefs", "pairs", labelled, "--dataset", other)
    assert failed.code == 2 and "was begun with data" in failed.error


def test_fewer_labels_than_a_class_needs_are_refused(cli: Cli, data: str, labelled: str) -> None:
    flags = ("--dataset", data, "--preferences", labelled, *FIT[:-2], "--out", "r", "--min-labels", 30)
    failed = cli("fit-reward", "bradley-terry", *flags)
    assert failed.code == 2 and "30 of each are needed" in failed.error and not Path("r/config.json").exists()


def test_a_label_for_a_pair_that_is_not_there_is_refused(cli: Cli, labelled: str) -> None:
    Path("in.csv").write_text("pair_id,answer,annotator\nabc,first,ann\n")
    failed = cli("prefs", "import", labelled, "in.csv")
    assert failed.code == 2 and "There is no pair abc in c: line 2 of in.csv labels it" in failed.error


def test_a_store_of_a_newer_version_is_refused(cli: Cli, data: str, labelled: str) -> None:
    connection = sqlite3.connect("c/labels.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    failed = cli("fit-reward", "bradley-terry", "--dataset", data, "--preferences", labelled, *FIT, "--out", "r")
    assert failed.code == 2 and "was written by a newer version of this library" in failed.error


def test_a_network_file_system_needs_another_journal(cli: Cli, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "file_system_of", lambda path: "nfs4")
    failed = cli("prefs", "pairs", "c", "--dataset", data, *PAIRS)
    assert failed.code == 2 and "say --journal rollback" in failed.error
    assert cli("prefs", "pairs", "c", "--dataset", data, *PAIRS, "--journal", "rollback").code == 0
    assert cli("prefs", "simulate", "c").code == 0, "the folder remembers"


def test_a_model_of_another_team_is_refused(cli: Cli, tmp_path: Path, model: str) -> None:
    other = saved(tmp_path, world("discrete", episodes=20), "discrete.safetensors")
    failed = cli("train", "iql", "--dataset", other, *TRAIN, "--reward-model", model, "--out", "run")
    assert failed.code == 2 and "The reward model in" in failed.error and "is of a team with" in failed.error
    failed = cli("prefs", "pairs", "d", "--dataset", other, *PAIRS, "--select", "disagree", "--reward-model", model)
    assert failed.code == 2 and "is of a team with" in failed.error


def test_a_reference_that_tells_no_log_probability_is_refused(cli: Cli, data: str, model: str) -> None:
    assert cli("train", "td3-bc", "--dataset", data, *TRAIN, "--out", "td3").code == 0
    flags = ("--reward-model", model, "--reference-policy", "td3", "--out", "run")
    failed = cli("train", "iql", "--dataset", data, *TRAIN, *flags)
    assert failed.code == 2 and "cannot tell how likely an action is" in failed.error


def test_comparisons_of_a_body_name_who_sees_what(cli: Cli, recording: str) -> None:
    recording = recording.removesuffix("_2x1notip_0")
    for view, folder in (("full", "a"), ("0", "b")):
        flags = ("--dataset", recording, "--conf", "2x1", "--view", view, "--budget", 6, "--length", 2)
        done = cli("prefs", "pairs", folder, *flags, "--holdout", 0.4)
        assert done.code == 0, done.err
    failed = cli("prefs", "pairs", "a", "--dataset", recording, "--conf", "2x1", "--view", "0")
    assert failed.code == 2 and "was begun with data" in failed.error
