"""`conf` and `view` as settings beside a task's name, and `action_scale`."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
from runs import score_in_point_env, small_run
from worlds import saved, world

from offline_marl.core.config import ConfigError
from offline_marl.core.partition import SCENARIOS, PartitionError, confs, explain_conf, explain_view, partition, views
from offline_marl.core.types import DataError
from offline_marl.datasets.base import Recording
from offline_marl.datasets.files import save_data
from offline_marl.launch.cli import main
from offline_marl.runs.places import with_share
from offline_marl.training.run import load_dataset, prepare, resume


@pytest.mark.parametrize(
    ("conf", "view", "ends"),
    [
        ("2x1", "full", "2x1_full"),
        ("2x1notip", "0", "2x1notip_0"),
        ("2x1", "notip_0", "2x1notip_0"),
        ("4x2", "0tnv", "4x2_0tnv"),
    ],
)
def test_conf_and_view_are_the_ends_of_a_name(conf, view, ends):
    assert with_share({"dataset": "x-v0", "conf": conf, "view": view, "steps": 3}) == {
        "dataset": f"x-v0_{ends}",
        "steps": 3,
    }
    assert with_share({"environment": "ant", "conf": conf, "view": view}) == {"environment": f"ant_{ends}"}
    both = with_share({"dataset": "x", "environment": "a.b:c", "conf": conf, "view": view})
    assert both == {"dataset": f"x_{ends}", "environment": "a.b:c"}


def test_a_run_takes_them_and_remembers_the_name():
    config = prepare("bc", "reacher-scripted-mix-v0", {"conf": "2x1", "view": "notip_0"})
    assert config.dataset == "reacher-scripted-mix-v0_2x1notip_0"
    assert config == prepare("bc", "reacher-scripted-mix-v0_2x1notip_0", {})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dataset": "x", "conf": "2x1"}, "go together"),
        ({"dataset": "x", "view": "0"}, "go together"),
        ({"dataset": "x_2x1_0", "conf": "2x1", "view": "0"}, "says who moves and sees what already"),
        ({"environment": "simple-spread", "conf": "2x1", "view": "0"}, "name its data or environment"),
    ],
)
def test_half_a_share_or_two_of_them_are_refused(fields, words):
    with pytest.raises(ConfigError, match=words):
        with_share(fields)


def test_the_command_line_takes_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flat = torch.zeros(8)
    ends = torch.arange(8) % 4 == 3
    body = Recording(
        torch.randn(10, 10), torch.rand(8, 2), flat, ends & False, ends, torch.tensor([4, 4]), {"scenario": "reacher"}
    )
    save_data(tmp_path / "mine.safetensors", body)
    words = "train bc --dataset mine.safetensors --conf 2x1 --view full --steps 1 --batch-size 4 --final-episodes 1"
    with pytest.raises(SystemExit) as end:
        main([*words.split(), "--hidden", "8", "--out", "run"])
    assert not end.value.code, capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "config.json").read_text())["dataset"].endswith("mine.safetensors_2x1_full")


def test_every_conf_and_view_is_explained():
    for body in SCENARIOS:
        for conf in confs(body):
            agents, joints = len(partition(body, conf, "full").agents), len(partition(body, conf, "full").act_index[0])
            assert re.match(rf"{agents} agents?, {joints} joints?\b", explain_conf(conf))
            assert all(explain_view(view) != view for view in views(body, conf))
    assert len({explain_conf(conf) for conf in confs("reacher")}) == len(confs("reacher"))
    assert len({explain_conf(conf) for conf in confs("ant")}) == len(confs("ant"))
    with pytest.raises(PartitionError, match="0tnv: the torso's pose, not its velocity"):
        partition("ant", "4x2", "0tmv")
    with pytest.raises(PartitionError, match="2x1notip: 2 agents, 1 joint each, which see the target, but not"):
        partition("reacher", "2x2", "0")


@pytest.fixture
def wide(tmp_path):
    """A set whose actions reach 2.5 times too far."""
    data = world("continuous")
    return saved(tmp_path, replace(data, actions=data.actions * 2.5)), data


def test_actions_are_divided_and_the_run_remembers_by_what(tmp_path, monkeypatch, wide):
    score_in_point_env(monkeypatch)
    path, data = wide
    with pytest.raises(DataError, match="scale them by action_scale"):
        small_run(tmp_path / "plain", path, steps=1)
    read = load_dataset(str(path), action_scale=2.5)
    torch.testing.assert_close(read.actions, data.actions)
    assert read.metadata["action_scale"] == 2.5
    small_run(tmp_path / "run", path, steps=5, action_scale=2.5)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["action_scale"] == 2.5
    assert resume(tmp_path / "run").score is not None


def test_a_set_given_as_an_object_is_scaled_once(tmp_path, monkeypatch):
    score_in_point_env(monkeypatch)
    data = world("continuous")
    small_run(tmp_path / "run", replace(data, actions=data.actions * 4), steps=1, action_scale=4.0)
    kept = load_dataset(str(tmp_path / "run" / "dataset.safetensors"))
    torch.testing.assert_close(kept.actions, data.actions)


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_a_scale_that_is_none_is_refused(scale, wide):
    with pytest.raises(ConfigError, match="action_scale"):
        prepare("bc", str(wide[0]), {"action_scale": scale})
    with pytest.raises(DataError, match="action_scale"):
        load_dataset(str(wide[0]), action_scale=scale)


def test_choices_have_no_scale(tmp_path):
    with pytest.raises(DataError, match="these are choices"):
        load_dataset(str(saved(tmp_path, world("discrete"))), action_scale=2.0)
