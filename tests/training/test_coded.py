"""Coded training: parameters are those of an uncoded run, whoever is late, dead or hanging."""

from __future__ import annotations

import copy
import os
import random
import signal
import threading
import time

import numpy as np
import pytest
import torch
from worlds import SPECS, random_batch_index, world

from offline_marl.algorithms.base import algorithms
from offline_marl.algorithms.split import splitting
from offline_marl.core.config import build
from offline_marl.core.seeding import seeded_globally
from offline_marl.core.types import DataError
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.distributed.arrivals import Pace, mean_iteration_s
from offline_marl.distributed.engine import ScriptedEngine
from offline_marl.distributed.local import LocalEngine
from offline_marl.distributed.schemes import make_code
from offline_marl.runs import stopping
from offline_marl.training.coded import Controller, GradientProgram, Stragglers

DATA = world("continuous")
AGENTS = SPECS["continuous"].n_agents
LEARNERS = AGENTS + 3
PACE_S = 0.6
"""Long beside what a busy machine takes to wake six learners up."""
CODES = ("replication", "ldpc", "systematic", "chebyshev", "gaussian", "vandermonde", "random-sparse", "uncoded")


def learner_of(name="td3-bc", **settings):
    kind = algorithms.get(name)
    with seeded_globally(0, "initialisation"):
        made = kind(build(kind.Config, {"hidden": [16, 16], "batch_size": 16} | settings), SPECS["continuous"])
    made.place("cpu", 0)
    return made


def batches(learner, count):
    buffer = TransitionBuffer(DATA, learner.window)
    return [buffer.view(random_batch_index(DATA, 16, seed), learner.needs) for seed in range(count)]


def code_named(name):
    return make_code(name, AGENTS, AGENTS if name == "uncoded" else LEARNERS)


def program_of(learner, code):
    other = copy.deepcopy(learner)
    return lambda: GradientProgram(splitting(other), code)


def uncoded_end(count, name="td3-bc", **settings):
    learner = learner_of(name, **settings)
    return learner, [learner.update(batch) for batch in batches(learner, count)]


def assert_close(learner, other, tolerance=1e-5):
    for name, value in learner.named_parameters():
        assert torch.allclose(value, other.get_parameter(name), atol=tolerance), name
    assert learner.updates == other.updates
    assert torch.equal(learner.generator.get_state(), other.generator.get_state())


def random_erasures(code, count, seed=0):
    draw = random.Random(seed)
    script = []
    for _ in range(count):
        order = draw.sample(range(code.learners), code.learners)
        script.append([-1 - n if draw.random() < 0.2 else n for n in order[: draw.randint(0, code.learners)]])
    return script


@pytest.mark.long
@pytest.mark.parametrize("name", CODES)
def test_the_end_is_that_of_an_uncoded_run(name):
    count = 20 if name == "systematic" else 4
    plain, metrics = uncoded_end(count)
    learner = learner_of()
    code = code_named(name)
    with ScriptedEngine(code.learners, program_of(learner, code)) as engine:
        controller = Controller(learner, code, engine)
        coded = [controller.update(batch) for batch in batches(learner, count)]

    assert_close(learner, plain)
    for ours, theirs in zip(coded, metrics, strict=True):
        assert all(float(ours[key]) == pytest.approx(float(theirs[key]), abs=1e-4) for key in theirs)


@pytest.mark.long
@pytest.mark.parametrize("name", CODES)
def test_erasures_change_nothing(name):
    count = 20 if name == "systematic" else 8
    plain, _ = uncoded_end(count)
    learner, accounts = learner_of(), []
    code = code_named(name)
    with ScriptedEngine(code.learners, program_of(learner, code), random_erasures(code, count)) as engine:
        controller = Controller(learner, code, engine, on_iteration=accounts.append)
        for batch in batches(learner, count):
            controller.update(batch)

    assert_close(learner, plain)
    assert any(account.local for account in accounts)
    assert name == "uncoded" or any(account.lost for account in accounts)  # there one loss is enough


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("iql", {}),
        ("cql", {"cql_samples": 3}),
        ("omar", {"cql_samples": 3}),
        ("td3-bc", {"grad_clip": 0.1}),
        ("maddpg", {"good_policy": "ddpg"}),
        ("maddpg", {}),
    ],
)
def test_every_learner_whose_agents_are_independent_can_be_coded(name, settings):
    plain, _ = uncoded_end(6, name, **settings)
    learner = learner_of(name, **settings)
    code = code_named("systematic")
    with ScriptedEngine(code.learners, program_of(learner, code), random_erasures(code, 6, seed=3)) as engine:
        controller = Controller(learner, code, engine)
        for batch in batches(learner, 6):
            controller.update(batch)

    assert_close(learner, plain)


def test_learners_that_share_a_mixer_are_refused():
    learner = learner_of("ma-iql")
    code = code_named("systematic")
    with pytest.raises(DataError, match="cannot be split"):
        Controller(learner, code, ScriptedEngine(code.learners, lambda: None))


def test_an_exact_zero_gradient_moves_nothing():
    """Rounding noise in place of a zero would be blown up by Adam to a whole step."""
    plain, _ = uncoded_end(3)
    learner = learner_of()
    before = copy.deepcopy(learner.state_dict())
    code = code_named("chebyshev")
    script = [[5, 3, 4, 1], [2, 1, 3, 0], [4, 3, 2, 0]]
    with ScriptedEngine(code.learners, program_of(learner, code), script) as engine:
        controller = Controller(learner, code, engine)
        for batch in batches(learner, 3):
            controller.update(batch)

    still = [name for name, value in plain.named_parameters() if torch.equal(value, before[name])]
    for name in still:
        assert torch.equal(learner.get_parameter(name), before[name])
    for name, value in plain.named_parameters():
        frozen = value == before[name]
        moved = (learner.get_parameter(name) - before[name]).abs()[frozen]
        assert moved.max() < 1e-5 if len(moved) else True


def test_what_was_written_down_can_be_replayed_bit_for_bit():
    code = code_named("gaussian")
    ends, accounts = [], []
    for script in (random_erasures(code, 8), None):
        learner = learner_of()
        script = [account.rows for account in accounts] if script is None else script
        with ScriptedEngine(code.learners, program_of(learner, code), script) as engine:
            controller = Controller(learner, code, engine, on_iteration=accounts.append)
            for batch in batches(learner, 8):
                controller.update(batch)
        ends.append(learner.state_dict())

    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0] if isinstance(ends[0][key], torch.Tensor))


def test_beyond_the_tolerance_the_living_are_awaited_and_only_the_rest_is_computed_here():
    """Learner 1 dies and does not come back; what the others answer is used, and a replay of the log ends alike."""
    code, plain = code_named("uncoded"), uncoded_end(3)[0]
    ends, accounts = [], []
    for script in ([[-2, 0, 2], [2, 0], [0, 2]], None):
        learner = learner_of()
        script = [account.rows for account in accounts] if script is None else script
        engine = ScriptedEngine(code.learners, program_of(learner, code), script)
        engine.restart = lambda number: None
        with engine:
            controller = Controller(learner, code, engine, on_iteration=accounts.append)
            for batch in batches(learner, 3):
                controller.update(batch)
        ends.append(learner.state_dict())
        assert_close(learner, plain)

    assert [account.rows for account in accounts] == [[0, 2], [2, 0], [0, 2]] * 2
    assert [account.local for account in accounts] == [[1]] * 6
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0] if isinstance(ends[0][key], torch.Tensor))


def run_local(code, count, stragglers=None, disturb=None, patience_s=20.0):
    learner, accounts = learner_of(), []
    with LocalEngine(code.learners, program_of(learner, code)) as engine:
        controller = Controller(learner, code, engine, stragglers, patience_s, accounts.append)
        controller.await_learners(20.0)
        for step, batch in enumerate(batches(learner, count)):
            if disturb is not None:
                disturb(engine, step)
            controller.update(batch)
    return learner, accounts


@pytest.mark.long
def test_processes_give_the_uncoded_end():
    plain, _ = uncoded_end(10)
    learner, accounts = run_local(code_named("systematic"), 10)

    assert_close(learner, plain)
    assert all(not account.local for account in accounts)


@pytest.mark.long
def test_killed_and_stopped_learners_change_nothing():
    plain, _ = uncoded_end(12)

    def disturb(engine, step):
        if step == 3:
            os.kill(engine.process_of(0), signal.SIGKILL)
        if step == 5:
            os.kill(engine.process_of(1), signal.SIGSTOP)
        if step > 3:  # updates go on without it, and should not be over before its death has been seen
            time.sleep(0.05)

    learner, accounts = run_local(code_named("systematic"), 12, disturb=disturb)
    assert_close(learner, plain)
    assert sum(account.lost for account in accounts) == 1
    assert all(1 not in account.rows for account in accounts[5:])


@pytest.mark.long
def test_emulated_stragglers_within_the_tolerance_are_not_waited_for():
    code = code_named("systematic")
    stragglers = Stragglers(code.learners, 3, 5.0, torch.Generator().manual_seed(0))
    begun = time.monotonic()
    learner, accounts = run_local(code, 4, stragglers)

    assert time.monotonic() - begun < 15
    assert all(len(account.rows) == AGENTS for account in accounts)
    assert_close(learner, uncoded_end(4)[0])


def test_one_straggler_too_many_costs_the_delay():
    code = code_named("uncoded")
    _, accounts = run_local(code, 2, Stragglers(code.learners, 1, 0.5, torch.Generator().manual_seed(0)))

    assert all(account.seconds >= 0.5 for account in accounts)


class Paced:
    """Real gradients, after which a learner sleeps as if it had been slower; a maker that may be sent to any engine."""

    def __init__(self, code, pace_s):
        self.code, self.pace_s = code, pace_s

    def __call__(self):
        program = GradientProgram(splitting(learner_of()), self.code)

        def paced(learner, payload):
            message = program(learner, payload)
            time.sleep(self.pace_s)
            return message

        return paced


def seconds_with_late(make_engine, late, count, delay_s=0.5, pace_s=PACE_S):
    """Median seconds of an iteration with so many late learners, and how the run ended."""
    code, learner, accounts = code_named("chebyshev"), learner_of(), []
    stragglers = Stragglers(code.learners, late, delay_s, torch.Generator().manual_seed(0)) if late else None
    with make_engine(code.learners, Paced(code, pace_s)) as engine:
        controller = Controller(learner, code, engine, stragglers, on_iteration=accounts.append)
        assert controller.await_learners(60.0) == code.learners
        for batch in batches(learner, count):
            controller.update(batch)
    return float(np.median([account.seconds for account in accounts])), learner


def assert_late_ones_cost_nothing_up_to_the_tolerance(make_engine):
    plain, _ = uncoded_end(5)
    nobody, first = seconds_with_late(make_engine, 0, 5)
    tolerated, second = seconds_with_late(make_engine, LEARNERS - AGENTS, 5)
    too_many, third = seconds_with_late(make_engine, LEARNERS - AGENTS + 1, 5)

    assert tolerated < 1.3 * nobody, (nobody, tolerated)
    assert too_many >= 0.5 + PACE_S, too_many
    # The simulator says the same of learners that take a share of it for an agent.
    for late, measured in ((0, nobody), (3, tolerated), (4, too_many)):
        simulated = mean_iteration_s(code_named("chebyshev"), Pace(PACE_S / AGENTS), late, 0.5)
        assert simulated - 1e-6 <= measured < simulated + 0.5 * PACE_S, (late, simulated, measured)
    for learner in (first, second, third):
        assert_close(learner, plain)


@pytest.mark.slow
def test_a_delay_costs_nothing_within_the_tolerance_and_its_whole_length_beyond():
    assert_late_ones_cost_nothing_up_to_the_tolerance(LocalEngine)


def test_nobody_waits_longer_than_patience_for_those_that_hang(capsys):
    plain, _ = uncoded_end(3)

    def disturb(engine, step):
        if step == 1:
            for learner in range(LEARNERS):
                os.kill(engine.process_of(learner), signal.SIGSTOP)

    learner, accounts = run_local(code_named("replication"), 3, disturb=disturb, patience_s=1.0)
    assert_close(learner, plain)
    assert accounts[1].local == accounts[2].local == list(range(AGENTS))
    assert accounts[2].seconds < 1.0, "nobody was at work on it, so nobody was waited for"
    assert capsys.readouterr().err.count("did not answer within 1 s") == 1


def test_a_learner_that_dies_again_and_again_is_started_ever_more_rarely_and_told_of_once(capsys):
    code, learner, accounts, restarts = code_named("replication"), learner_of(), [], []
    deaths = {1, 2, 3, 6, 13, 28}  # whenever it has a task: 0, 1, 3, 7, 15 updates after the one before
    script = [[-1] * (version in deaths) + list(range(1, LEARNERS)) for version in range(1, 41)]
    engine = ScriptedEngine(code.learners, program_of(learner, code), script)
    engine.restart = lambda number: (
        restarts.append((number, learner.updates + 1)),
        ScriptedEngine.restart(engine, number),
    )
    with engine:
        controller = Controller(learner, code, engine, on_iteration=accounts.append)
        for batch in batches(learner, 40):
            controller.update(batch)

    assert restarts == [(0, version) for version in (1, 3, 6, 13, 28)]
    assert sum(account.lost for account in accounts) == 6
    assert {reason for account in accounts for reason in account.reasons} == {"as the script says"}
    assert capsys.readouterr().err.count("as the script says") == 1
    assert_close(learner, uncoded_end(40)[0])


def test_an_update_that_was_asked_to_stop_waits_for_nobody(monkeypatch):
    def disturb(engine, step):
        for learner in range(LEARNERS):
            os.kill(engine.process_of(learner), signal.SIGSTOP)

    asked = threading.Event()
    asked.set()
    monkeypatch.setattr(stopping, "asked", asked)
    _, accounts = run_local(code_named("replication"), 1, disturb=disturb, patience_s=60.0)
    assert accounts[0].seconds < 30


def test_stragglers_are_drawn_anew_and_exactly_so_many():
    drawn = Stragglers(9, 4, 1.0, torch.Generator().manual_seed(1))
    sets = [frozenset(drawn.draw()) for _ in range(20)]

    assert all(len(late) == 4 for late in sets)
    assert len(set(sets)) > 10
    assert np.unique([n for late in sets for n in late]).tolist() == list(range(9))
