"""What `make speed` and benchmarks/apart.py time: everything that learns, and ratios that say what they should."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from offline_marl.algorithms.base import algorithms
from offline_marl.preferences import registry as reward_models
from offline_marl.worldmodels.base import worldmodels

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def test_every_learner_and_model_has_a_row(bench: Any) -> None:
    rows = bench("speed_rows").names()
    registered = {*algorithms.names(), *worldmodels.names(), *reward_models.names()}
    assert registered - {*rows} == {"oracle"}, "which learns nothing"


@pytest.mark.parametrize("name", ["bc", "qmix", "o-mapl", "bradley-terry"])
def test_a_row_makes_as_many_updates_as_it_says(bench: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = bench("speed_rows")
    monkeypatch.setattr(rows, "ROWS", 8)
    monkeypatch.setattr(rows, "SEGMENT", 4)
    made: list[Any] = []
    from offline_marl.core.learner import Learner

    step = Learner.step_optimizer
    monkeypatch.setattr(Learner, "step_optimizer", lambda self, name="": (made.append(self), step(self, name))[1])
    row = rows.prepare(name, "reacher")
    row.call()
    assert made and made[0].updates == row.updates


def test_times_and_footprints_are_those_of_the_call(bench: Any) -> None:
    timing = bench("timing")
    calls: list[int] = []
    assert timing.time_calls(lambda: calls.append(1), 0.0) < 0.1 and len(calls) == 3
    kept: list[torch.Tensor] = []
    faults, megabytes = timing.footprint(lambda: kept.append(torch.ones(5_000_000)))
    assert faults > 5 and megabytes > 60, "20 MB are 4,883 pages of 4 kB, or ten huge ones"


def test_the_ratio_is_the_median_over_pairs_of_processes(bench: Any, capsys: Any, monkeypatch: Any) -> None:
    apart: ModuleType = bench("apart")
    pairs = [[apart.Cost(ours, 7.0, 9.0), apart.Cost(other, 7.0, 9.0)] for ours, other in ((1, 2), (1, 1.5), (4, 4))]
    monkeypatch.setattr(apart, "take_turns", lambda sides, servers, seconds: pairs.pop(0))
    assert apart.compare("row", (), (), 3, 1.0) == 1.5
    assert "other over ours 1.50 [1.00, 2.00]" in capsys.readouterr().out


def test_both_processes_take_turns(bench: Any) -> None:
    apart: ModuleType = bench("apart")
    order: list[str] = []

    class Server:
        def begin(self, side: str) -> None:
            self.side = side

        def turn(self) -> None:
            order.append(self.side)

        def end(self) -> str:
            return self.side

    assert apart.take_turns(("a", "b"), (Server(), Server()), 0.0) == ["a", "b"]
    assert order == ["b", "a", "a", "b", "b", "a"]


def test_a_process_that_is_timed_answers_each_turn_and_says_what_it_needed(bench: Any, monkeypatch: Any) -> None:
    apart, rows = bench("apart"), bench("speed_rows")
    calls: list[int] = []
    monkeypatch.setattr(rows, "prepare", lambda name, size: rows.Row(lambda: calls.append(1), 2))
    monkeypatch.setattr("offline_marl.core.allocator.keep_memory", lambda: calls.append(7))
    monkeypatch.setattr("sys.stdin", io.StringIO("\n\n\nend\n"))
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        apart.call_in_turn("bc", "reacher", "ours")
    ready, *seconds, needed = said.getvalue().splitlines()
    assert calls == [7] + [1] * (2 + 3 + 1), "two calls to warm up, three turns, one for the faults"
    assert ready == "ready" and len(seconds) == 3 and all(float(word) >= 0 for word in seconds)
    assert json.loads(needed).keys() == {"faults", "megabytes"}


@pytest.mark.slow
def test_children_of_a_process_are_timed_one_after_another_and_one_that_cannot_says_why(bench: Any) -> None:
    apart: ModuleType = bench("apart")
    server = apart.Server(BENCHMARKS.parent)
    try:
        for kind in ("ours", "loop"):
            server.begin(apart.Side("bc", "reacher", kind))
            server.turn()
            server.turn()
            cost = server.end()
            assert 0 < cost.seconds < 60 and cost.megabytes > 50 and len(server.times) == 2
        with pytest.raises(RuntimeError, match="no such size"):
            server.begin(apart.Side("bc", "no such size", "ours"))
    finally:
        server.stop()


def test_a_ratio_below_the_limit_fails(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    apart: ModuleType = bench("apart")
    stopped: list[str] = []
    monkeypatch.setattr(apart, "Server", lambda checkout: SimpleNamespace(stop=lambda: stopped.append(checkout.name)))
    monkeypatch.setattr(apart, "compare", lambda title, *_: 0.96 if title.startswith("iql") else 1.0)
    words = ["commits", "--before", ".", "--only", "bc", "iql", "--size", "ant", "--limit", "0.97"]
    with pytest.raises(SystemExit, match=r"Below 0.97: iql at ant size: 0.96"):
        apart.main(words)
    assert len(stopped) == 2


def test_rows_of_peers_are_medians_of_rounds_in_turn(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers: ModuleType = bench("peers")
    monkeypatch.setattr(peers, "RESULTS", tmp_path / "peers.csv")
    seconds = {"ours": [1.0, 2.0, 1.0, 1.0], "loop": [3.0, 2.0, 1.5, 1.2]}
    order: list[str] = []

    class Side:
        def __init__(self, python: str, side: str, name: str, size: str, settings: dict[str, Any]) -> None:
            self.side, self.versions = side, {"version": "9", "torch": "8"}
            order.append(f"{side} begins")

        def ask(self, wanted: float) -> float:
            order.append(self.side)
            return seconds[self.side].pop(0)

        def close(self) -> None:
            order.append(f"{self.side} ends")

    monkeypatch.setattr(peers, "Side", Side)
    peers.main(["--only", "iql", "--size", "ant", "--peer", "loop", "--rounds", "4"])
    (row,) = bench("rows").read(tmp_path / "peers.csv")
    assert (row["ratio"], row["least"], row["largest"], row["rounds"]) == ("1.35", "1.00", "3.00", "4")
    half = ["ours begins", "loop begins", "ours", "loop", "loop", "ours", "ours ends", "loop ends"]
    assert order == half + half


@pytest.mark.slow
def test_a_side_of_peers_answers_rounds_in_a_process_of_its_own(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    peers: ModuleType = bench("peers")
    call, _ = peers.ours("bc", "hopper", {"hidden": (8,)})
    call()
    call, _ = peers.loop("td3-bc", "ant")
    call()
    with pytest.raises(RuntimeError, match="KeyError: 'nobody'"):
        peers.Side(peers.sys.executable, "nobody", "bc", "hopper", {})


def test_products_of_rows_in_blocks_are_found_and_can_be_made_again(bench: Any) -> None:
    from offline_marl.networks.blocks import WORTHWHILE
    from offline_marl.networks.ensembles import StackedMLP

    net, x = StackedMLP(1, 3, [4], 2), torch.zeros(1, WORTHWHILE, 3)
    with bench("timing").ProductRecorder() as recorder:
        net(x, many=True).sum().backward()
    blocks = len(recorder.calls) // 5
    assert blocks > 1 and len(recorder.calls) == 5 * blocks, "two forwards, two for weights, one for what is between"
    for again, tensors in recorder.calls:
        again(*tensors)
