"""Learners of kinds that the library has none of keep the contract: `next_actions`, and recorded segments burnt in."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    "cases",
    [
        "toy and window0 and (imagined or behind or termination or truncations or metrics)",
        pytest.param("toy", marks=pytest.mark.slow),
    ],
    ids=["what-they-are-fed", "all"],
)
def test_a_learner_of_next_actions_and_one_of_recorded_segments_keep_the_contract(cases, warm):
    # In a process of its own, where alone they are registered.
    paths = [str(HERE.parent / "support"), os.environ.get("PYTHONPATH", "")]
    settings = ["-p", "no:cacheprovider", "-p", "toy_learners", "-n0"]
    done = warm.run(
        *("-m", "pytest", "-q", *settings, str(HERE / "test_contract.py"), "-k", cases),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    assert done.returncode == 0, done.stdout
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) >= 16
