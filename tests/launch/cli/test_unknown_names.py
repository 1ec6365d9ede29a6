"""Unknown names on the command line are refused before torch is imported, in the words of the full parser."""

import json
import subprocess
import sys

import pytest

from offline_marl.core.config import ConfigError
from offline_marl.launch.cli.flags import read_other, read_training
from offline_marl.launch.cli.unknown_names import refuse_unknown_names
from offline_marl.runs.kinds import BUILT_IN, TRAIN
from offline_marl.training.kinds import procedure_of

WORDS = (
    "--datset x",
    "--dataset x --hiden 64,64",
    "--dataset x --stpes=3",
    "--dataset",
    "--dataset x --quite-another-thing",
    "--dataset x --steps 3 4",
    "--dataset x --reference -30,-5 --no-clip-actions=3",
    "--seeed 1 --dataset x --env-settings N=5,b=c",
    "--dataset x --config missing.toml",
    "--dataset x --config wrong.toml",
)
OTHERS = (["train", "bcc", "--dataset", "x"], ["submit", "train", "bc", "--datset", "x"])
WITHOUT_TORCH = """
import contextlib, io, json, sys

class Poisoned:
    def find_spec(self, name, path=None, target=None):
        assert name.partition(".")[0] != "torch", "torch is imported"

sys.meta_path.insert(0, Poisoned())
from offline_marl.launch.cli import main

answers = []
for words in json.load(sys.stdin):
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.suppress(SystemExit):
        main(words)
    answers.append(said.getvalue().strip())
print(json.dumps(answers))
"""


def sentence_of_the_full_parser(kind, name, words):
    learnt = procedure_of(kind).names.get(name)
    with pytest.raises(ConfigError) as refused:
        if kind is TRAIN:
            read_training(name, learnt.Config, "", words)
        else:
            read_other(kind, name, learnt.Config, "", words)
    return f"error: {refused.value}"


@pytest.mark.long
def test_mistyped_flags_of_all_learners_load_no_torch_and_are_answered_as_ever(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.toml").write_text("datset = 'x'\n")
    runs = [(kind, name) for kind in BUILT_IN for name in kind.names.names() if kind.names.module_of(name)]
    runs = [(kind, name) for kind, name in runs if kind.names.module_of(name).startswith("offline_marl.")]
    # All sorts of words for one of them, some for one of each other kind of run, the first sort for the rest.
    sorts = {"omar": len(WORDS), "ensemble": 4, "bradley-terry": 4}
    asked = [(kind, name, words.split()) for kind, name in runs for words in WORDS[: sorts.get(name, 1)]]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        input=json.dumps([*([kind.command, name, *words] for kind, name, words in asked), *OTHERS]),
        capture_output=True,
        text=True,
        check=True,
    )
    *answers, unknown, of_job = json.loads(done.stdout)
    assert len(runs) >= 18
    assert unknown.startswith("error: Unknown algorithm 'bcc': did you mean 'bc'?")
    assert of_job.startswith("error: Unknown flag '--datset' of train bc: did you mean '--dataset'?")
    assert answers == [sentence_of_the_full_parser(kind, name, words) for kind, name, words in asked]


@pytest.mark.parametrize("name", ["bc", "omar"])
def test_what_is_right_passes_and_help_is_left_to_the_full_parser(name) -> None:
    words = "--dataset x --hidden 64,64 --reference -30,-5 --env-settings N=5 --no-clip-actions --action-scale .4"
    refuse_unknown_names(TRAIN, name, words.split())
    refuse_unknown_names(TRAIN, name, ["--datset", "x", "--help"])


def test_learners_of_this_process_are_left_to_their_configs(monkeypatch) -> None:
    learnt = TRAIN.names.get("bc")
    monkeypatch.setitem(TRAIN.names._loaded, "mine", learnt)
    refuse_unknown_names(TRAIN, "mine", ["--datset", "x"])
