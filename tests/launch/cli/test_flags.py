from __future__ import annotations

import pytest

from offline_marl.launch.cli.collect import CollectFlags
from offline_marl.launch.cli.flags import read


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
