"""Bodies are told by words of a name."""

from __future__ import annotations

import pytest

from offline_marl.core.types import DataError
from offline_marl.datasets.readers.scenarios import body_in, scenario_of


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("important_v1.hdf5", None),
        ("giant.hdf5", None),
        ("grasshopper-v2", None),
        ("antmaze-umaze-v2", None),
        ("significantly", None),
        ("ant-medium-v2", "ant"),
        ("Ant-v5", "ant"),
        ("ant8x1.hdf5", "ant"),
        ("2ant/Good", "ant"),
        ("MyAntData", "ant"),
        ("HalfCheetah-v5", "halfcheetah"),
        ("half-cheetah_medium", "halfcheetah"),
        ("6halfcheetah", "halfcheetah"),
        ("Walker2d-v5", "walker2d"),
        ("Walker2D-Medium", "walker2d"),
        ("hopperv2", "hopper"),
        ("hoppervalley", None),
        ("mujoco/reacher", "reacher"),
        ("HumanoidStandup-v5", "humanoidstandup"),
        ("mujoco/humanoid/expert-v0", "humanoid"),
        ("InvertedDoublePendulum-v5", "inverteddoublependulum"),
        ("inverted_pendulum", "invertedpendulum"),
        ("Pusher-v5", "pusher"),
        ("swimmers", None),
    ],
)
def test_a_body_is_a_word(name: str, body: str | None) -> None:
    assert body_in(name) == body


def test_a_name_that_only_holds_the_letters_contradicts_nothing() -> None:
    assert scenario_of(["important_v1.hdf5"], 11, 3) == "hopper"
    with pytest.raises(DataError, match="names ant, which shows 27 or 105"):
        scenario_of(["ant_v1.hdf5"], 11, 3)


def test_bodies_whose_widths_are_nothing_special_need_a_name_and_another_tasks_is_no_contradiction() -> None:
    assert scenario_of(["Pusher-v5"], 23, 7) == "pusher" and scenario_of(["mine"], 23, 7) is None
    assert scenario_of(["Humanoid-v5"], 348, 17) == "humanoid"
    assert scenario_of(["HumanoidStandup-v5"], 348, 17) == "humanoidstandup"
    assert scenario_of(["humanoid_run"], 67, 21) is None
