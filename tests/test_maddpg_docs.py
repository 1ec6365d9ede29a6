"""The page of MADDPG: its example runs, and its flags exist."""

from __future__ import annotations

import re
from pathlib import Path

from offline_marl.algorithms.base import algorithms
from offline_marl.environments.base import environments
from offline_marl.launch.cli.flags import EvaluateFlags, TrainFlags

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "maddpg.md").read_text(encoding="utf-8")


def test_the_example_of_a_split_update_runs(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(compile(example, "maddpg.md", "exec"), {})
    shape, names = capsys.readouterr().out.split("]) ")
    assert shape.startswith("torch.Size([3, ") and names.strip() == "['loss/actor', 'loss/critic', 'q/mean']"


def test_the_flags_of_the_table_exist_and_none_of_the_published_ones_is_left_out():
    table = [line.split("|")[1:3] for line in PAGE.splitlines() if line.startswith("| `--")]
    theirs = {flag for left, _ in table for flag in re.findall(r"--[\w-]+", left)}
    assert theirs == {
        *("--scenario", "--max-episode-len", "--num-episodes", "--num-adversaries", "--good-policy", "--adv-policy"),
        *("--lr", "--gamma", "--batch-size", "--num-units", "--exp-name", "--save-dir", "--save-rate", "--load-dir"),
        *("--restore", "--display", "--benchmark", "--benchmark-iters", "--benchmark-dir", "--plots-dir"),
    }
    known = {*TrainFlags.model_fields, *EvaluateFlags.model_fields, *algorithms.get("maddpg").Config.model_fields}
    ours = {flag for _, right in table for flag in re.findall(r"--[\w-]+", right)} - {"--out"}
    assert ours and {flag[2:].replace("-", "_") for flag in ours} <= known


def test_the_scenarios_of_the_table_are_registered_in_both_kinds():
    (row,) = [line for line in PAGE.splitlines() if line.startswith("| `--scenario")]
    named = {name for name in re.findall(r"simple[\w-]*", row.split("|")[2])}
    assert len(named) == 9
    assert {kind for name in named for kind in (name, f"{name}-continuous")} <= set(environments.names())
