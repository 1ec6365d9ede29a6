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
        ("reacher3d.hdf5", None),
        ("walker2d8x1", "walker2d"),
    ],
)
def test_a_body_is_a_word(name: str, body: str | None) -> None:
    assert body_in(name) == body


def test_a_name_that_only_holds_the_letters_contradicts_nothing() -> None:
    assert scenario_of(["important_v1.hdf5"], 11, 3) is None
    with pytest.raises(DataError, match="names ant, which shows 27 or 105"):
        scenario_of(["ant_v1.hdf5"], 11, 3)


@pytest.mark.parametrize("name", ["", "data.hdf5", "mine-medium_v2.hdf5", "x", "MyExpertReplay-v0.h5", "1.hdf5"])
def test_a_guess_by_widths_alone_is_told(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert scenario_of([name], 11, 3) == "hopper"
    told = capsys.readouterr().err
    assert told.startswith(f"warning: {name!r} does not say which body it is of: taken as hopper's, by its 11 numbers")
    assert scenario_of([name, "Hopper-v5"], 11, 3) == "hopper" and not capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "seen", "moved"),
    [
        (["mydrone.hdf5"], 10, 2),
        (["mydrone.hdf5"], 11, 2),
        (["myrobot.hdf5"], 105, 8),
        (["drone/hover-v0"], 10, 2),
        (["Drone-v0", "data.hdf5"], 10, 2),
        (["reacher3d.hdf5"], 20, 3),
        (["données_дрон.hdf5"], 10, 2),
        (["data.hdf5"], 11, 2),
        (["data.hdf5"], 105, 8),
        (["data.hdf5"], 111, 8),
    ],
)
def test_what_names_something_else_or_would_lose_columns_is_not_guessed(
    names: list[str], seen: int, moved: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scenario_of(names, seen, moved) is None and not capsys.readouterr().err


def test_the_body_that_a_format_is_used_for_needs_no_name() -> None:
    assert scenario_of(["expert.pkl"], 11, 2, usual="reacher") == "reacher"
    assert scenario_of(["drone.pkl"], 11, 2, usual="reacher") is None
    assert scenario_of(["data"], 10, 2, guess=False) is None and scenario_of(["Reacher-v5"], 11, 2) == "reacher"


def test_bodies_whose_widths_are_nothing_special_need_a_name_and_another_tasks_is_no_contradiction() -> None:
    assert scenario_of(["Pusher-v5"], 23, 7) == "pusher" and scenario_of(["mine"], 23, 7) is None
    assert scenario_of(["Humanoid-v5"], 348, 17) == "humanoid"
    assert scenario_of(["HumanoidStandup-v5"], 348, 17) == "humanoidstandup"
    assert scenario_of(["humanoid_run"], 67, 21) is None
