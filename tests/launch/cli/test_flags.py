from __future__ import annotations

import pytest

from offline_marl.launch.cli.collect import CollectFlags
from offline_marl.launch.cli.flags import EvaluateFlags, read


@pytest.mark.parametrize(
    ("words", "noise"),
    [
        (["--noise", "0,.2"], [0, 0.2]),
        (["--noise=.05,.15,0.4"], [0.05, 0.15, 0.4]),
        (["--noise", "1e-3,.5"], [0.001, 0.5]),
    ],
)
def test_numbers_of_a_list_may_begin_with_their_point(words: list[str], noise: list[float]) -> None:
    given = read(CollectFlags, "collect", "", "", ["reacher", "--out", "a.b,.c.safetensors", *words])
    assert given["noise"] == noise and given["out"] == "a.b,.c.safetensors"


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (["--env-settings", "terminate_when_unhealthy=false"], {"terminate_when_unhealthy": False}),
        (["--env-settings=N=2,local_ratio=0.2,prey=runs/tag"], {"N": 2, "local_ratio": 0.2, "prey": "runs/tag"}),
        (["--env-settings", "z=[1, 2],b=true", "--seed", "3"], {"z": [1, 2], "b": True}),
        (["--env-settings", '{"a": "1"}', "--env_settings", "b=x"], {"a": "1", "b": "x"}),
    ],
)
def test_an_object_may_be_given_by_its_entries_whose_numbers_and_truths_are_such(words, settings) -> None:
    assert read(EvaluateFlags, "evaluate", "", "", ["run", *words])["env_settings"] == settings
