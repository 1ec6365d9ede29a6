"""The comparison of golden runs can fail, and says where."""

from __future__ import annotations

import copy
import csv
from pathlib import Path

import golden_records
import pytest
import torch

RUN = {
    "run": {
        "tensor actor.weight": golden_records.digest([torch.zeros(2, 3)]),
        "metrics.csv step 20, column loss/actor": "0.1",
        "score returns": "[1.0, 2.0]",
    },
    "run/world_model": {"score errors": "[0.5]"},
}


def test_equal_runs_do_not_differ() -> None:
    assert golden_records.first_difference("bc", RUN, copy.deepcopy(RUN)) is None


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("run", "tensor actor.weight"),
        ("run", "metrics.csv step 20, column loss/actor"),
        ("run", "score returns"),
        ("run/world_model", "score errors"),
    ],
)
def test_a_value_that_changed_is_told_by_name_with_both_values(place: str, what: str) -> None:
    now = copy.deepcopy(RUN)
    now[place][what] = "changed"
    told = golden_records.first_difference("bc", RUN, now)
    assert told == f"bc: {place}: {what}: recorded {RUN[place][what]}, now changed"


def test_what_is_gone_and_what_is_new_is_told_by_name() -> None:
    less = copy.deepcopy(RUN)
    del less["run"]["score returns"]
    assert golden_records.first_difference("bc", RUN, less) == "bc: run: score returns is gone (recorded: [1.0, 2.0])"
    assert golden_records.first_difference("bc", less, RUN) == "bc: run: score returns is new (now: [1.0, 2.0])"
    alone = {"run": RUN["run"]}
    assert "run/world_model" in (golden_records.first_difference("bc", RUN, alone) or "")
    assert "run/world_model" in (golden_records.first_difference("bc", alone, RUN) or "")


def test_one_bit_of_a_tensor_and_its_kind_and_shape_change_its_digest() -> None:
    zeros = torch.zeros(2, 3)
    other = zeros.clone()
    other[1, 2] = -0.0
    variants = [zeros, other, zeros.reshape(3, 2), zeros.view(torch.int32)]
    assert len({golden_records.digest([each]) for each in variants}) == len(variants)


def test_a_nested_part_of_a_state_is_digested_with_all_its_tensors() -> None:
    state = {"_extra_state": {"optimizer": {"state": {0: {"moment": torch.zeros(2)}, 1: {"moment": torch.ones(2)}}}}}
    before = dict(golden_records.tensor_values(state))
    state["_extra_state"]["optimizer"]["state"][1]["moment"][0] = 2
    assert before != dict(golden_records.tensor_values(state)) and list(before) == ["tensors of _extra_state/optimizer"]


def test_rows_are_read_as_they_are_written_and_clocks_are_left_out(tmp_path: Path) -> None:
    with (tmp_path / "metrics.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["step", "wall_s", "loss"], [20, 1.5, 0.1 + 0.2]])
    assert dict(golden_records.table_values(tmp_path / "metrics.csv")) == {
        "metrics.csv step 20, column loss": "0.30000000000000004"
    }


def test_a_commit_that_the_history_lacks_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="git"):
        golden_records.unpack("0" * 40, tmp_path)
