"""Work that is killed again and again, at places by progress, ends as work that was never disturbed.

Every kind of work has functions that its main loop calls; the calls are counted in an undisturbed run first, so that
kills lie within the loop, between checkpoints, and in the writing of files.
"""

from __future__ import annotations

import pytest
from campaign import SHORT
from every_work import CASES
from kills import count_in, kill_again_and_again
from runs import leftovers, refuse_difference
from works import Data, make_data, shrink

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)


@pytest.mark.parametrize("name", CASES)
def test_work_that_is_killed_again_and_again_ends_as_if_it_had_not_been(tmp_path, data, name, record_property):
    case = CASES[name]
    log = tmp_path / "log"
    named = dict.fromkeys([*case.functions, *case.sources], 0)
    counts = count_in(lambda: case.work(tmp_path / "straight", data), named, log, tmp_path)
    assert all(counts.values()), f"a function that is never called: {counts}"
    spans = {function: max(2, round(2 * case.period * counts[function])) for function in case.functions}
    died, ends = kill_again_and_again(
        lambda end: case.work(tmp_path / f"killed-{end}", data), spans, case.kills, 20_261, log
    )
    assert {place.function for place in died} >= set(case.functions[:2] if SHORT else case.functions)
    for end in range(ends):
        refuse_difference(case.end(tmp_path / "straight"), case.end(tmp_path / f"killed-{end}"))
        assert not leftovers(tmp_path / f"killed-{end}")
    record_property(f"kills of {name}", len(died))
