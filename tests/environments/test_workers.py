from __future__ import annotations

import os
import pickle
import threading
import time

import numpy as np
import pytest
from worlds import SPECS, PointEnv

from offline_marl.core.errors import WorkError
from offline_marl.core.permissions import ImportPath
from offline_marl.core.types import DataError
from offline_marl.environments.base import Seen
from offline_marl.environments.checks import BadNumbersError
from offline_marl.environments.guarded import EnvironmentFailedError, Guarded
from offline_marl.environments.parallel.entry import environment_of
from offline_marl.environments.workers import SideBySide, WorkerDiedError, ended_behind

SEEDS = [5, 3, 8, 1, 4, 9, 2]


class Odd(PointEnv):
    """Its last copies say nothing of what can be chosen; it dies of seed 13 and complains about seed 12."""

    def reset(self, seeds):
        if 13 in seeds:
            os._exit(1)
        if 12 in seeds:
            raise DataError("Seed 12 is unlucky.")
        seen = super().reset(seeds)
        return seen if 5 in seeds else Seen(seen.obs)


def played(env, seeds=SEEDS):
    seen, draw, rows = env.reset(seeds), np.random.default_rng(0), []
    for _ in range(env.max_steps):
        shape = (len(seeds), env.spec.n_agents)
        rest = () if env.spec.discrete else (env.spec.act_dim,)
        actions = draw.integers(0, 2, shape) if env.spec.discrete else draw.uniform(-1, 1, (*shape, *rest))
        step = env.step(actions)
        rows.append((seen.obs, seen.avail_actions, *step[1:]))
        seen = step[0]
    return rows


@pytest.mark.parametrize(("kind", "workers"), [("continuous", 1), ("discrete", 2), ("continuous", 3)])
def test_episodes_do_not_depend_on_how_many_processes_step_them(kind, workers):
    whole = played(PointEnv(SPECS[kind], len(SEEDS)))
    env = SideBySide(lambda copies: PointEnv(SPECS[kind], copies), len(SEEDS), workers)
    assert (env.spec, env.max_steps, env.copies, env.versions()) == (SPECS[kind], 4, 7, {})
    for _ in range(2):
        for one, other in zip(whole, played(env), strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert env.reset(SEEDS[:1]).obs.shape[0] == 1
    env.close()


@pytest.mark.parametrize("high", [1, 2])
def test_bounds_of_actions_are_told_as_the_environment_tells_them(high):
    pytest.importorskip("pettingzoo")
    acts = pytest.importorskip("gymnasium.spaces").Box(-0.5, high, (1,), np.float32)
    kind = environment_of(ImportPath("odd_worlds:make"), {"acts": acts})
    env, alone = SideBySide(lambda copies: kind.make(None, copies), 2, 2), kind.make(None, 2)
    assert len(env.action_bounds) == 2
    for told, own in zip(env.action_bounds, alone.action_bounds, strict=True):
        assert np.array_equal(told, own)
    env.close()
    silent = SideBySide(lambda copies: PointEnv(SPECS["continuous"], copies), 1, 1)
    assert not silent.action_bounds
    silent.close()


def test_copies_that_say_nothing_may_choose_anything():
    env = SideBySide(lambda copies: Odd(SPECS["discrete"], copies), 4, 2)
    seen = env.reset([5, 3, 8, 1])
    assert np.array_equal(seen.avail_actions, np.broadcast_to(SPECS["discrete"].present("act"), (4, 3, 4)))
    env.close()


def test_mistakes_and_deaths_are_told_in_a_sentence():
    env = SideBySide(lambda copies: Odd(SPECS["discrete"], copies), 4, 2)
    with pytest.raises(DataError, match="Seed 12 is unlucky"):
        env.reset([12, 3, 8, 1])
    assert len(env.reset([5, 3, 8, 1]).obs) == 4  # nobody is left with an answer to the last question
    with pytest.raises(DataError, match="4 copies are running, but there are actions of 3"):
        env.step(np.zeros((3, 3), np.int64))
    with pytest.raises(DataError, match="There are 4 copies"):
        env.reset([1, 1])
    with pytest.raises(WorkerDiedError, match="has ended by itself"):
        env.reset([1, 2, 13, 4])
    env.close()
    with pytest.raises(DataError, match="2 steps"):
        SideBySide(lambda copies: (_ for _ in ()).throw(DataError("2 steps")), 4, 2)


def test_processes_end_with_who_made_them():
    import multiprocessing

    env = SideBySide(lambda copies: PointEnv(SPECS["continuous"], copies), 4, 2)
    other = SideBySide(lambda copies: PointEnv(SPECS["continuous"], copies), 4, 2)
    assert len(multiprocessing.active_children()) >= 4
    before = len(multiprocessing.active_children())
    del env
    for _ in range(100):
        if len(multiprocessing.active_children()) == before - 2:
            break
        time.sleep(0.02)
    assert len(multiprocessing.active_children()) == before - 2
    other.close()


def test_processes_end_behind_a_failure_that_somebody_keeps():
    import multiprocessing

    before = set(multiprocessing.active_children())
    with pytest.raises(DataError, match="unlucky") as kept, ended_behind():
        env = SideBySide(lambda copies: Odd(SPECS["discrete"], copies), 4, 2)
        ours = set(multiprocessing.active_children()) - before
        env.reset([12, 3, 8, 1])
    for process in ours:
        process.join(10)
    assert len(ours) == 2 and not any(process.is_alive() for process in ours) and kept.tb is not None


class OwnError(Exception):
    """Made again of its message alone, it would take that for the part."""

    def __init__(self, part):
        super().__init__(f"the {part} is loose")


class Particular(DataError):
    def __init__(self, part, side):
        super().__init__(f"The {side} {part} is missing.")


class Held(Exception):
    """Cannot be pickled."""

    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()


FAULTS = {
    1: lambda: BadNumbersError("the reward of agent 1 is not finite (nan)", 3, 0, "the episode with seed 5", "kept"),
    2: lambda: OwnError("wheel"),
    3: lambda: Particular("wheel", "left"),
    4: lambda: Held("it is stuck"),
    5: lambda: ValueError("plain"),
}


class Faulty(PointEnv):
    """Fails in each of its copies as the first seed says; answers of seed 6 cannot be pickled."""

    def reset(self, seeds):
        if seeds[0] in FAULTS:
            raise FAULTS[seeds[0]]()
        return threading.Lock() if 6 in seeds else super().reset(seeds)


def test_bad_numbers_come_out_of_a_process_as_they_are():
    error = FAULTS[1]()
    same = pickle.loads(pickle.dumps(error.of_episode("episode 7", "said")))
    assert type(same) is BadNumbersError and (same.what, same.step, same.row) == (error.what, 3, 0)
    assert str(same) == str(error.of_episode("episode 7", "said"))


def test_whatever_fails_in_a_process_is_told_in_the_words_of_a_single_one(capfd):
    env = Guarded(SideBySide(lambda copies: Faulty(SPECS["discrete"], copies), 4, 2), "odd")
    alone = Guarded(Faulty(SPECS["discrete"], 4), "odd")
    for seed in FAULTS:
        with pytest.raises((DataError, EnvironmentFailedError)) as expected:
            alone.reset([seed, 7, 8, 9])
        with pytest.raises((DataError, EnvironmentFailedError)) as told:
            env.reset([seed, 7, 8, 9])
        assert str(told.value) == str(expected.value)
        assert isinstance(told.value, DataError) is isinstance(expected.value, DataError)
        assert len(env.reset([10, 11, 12, 13]).obs) == 4  # no answer to the last question is left
    with pytest.raises(EnvironmentFailedError, match="odd failed in a reset: TypeError: cannot pickle"):
        env.reset([6, 7, 8, 9])
    env.close()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("seed", [2, 4])
def test_what_fails_while_copies_are_made_is_told_too(seed):
    with pytest.raises(WorkError, match="OwnError: the wheel is loose|Held: it is stuck"):
        SideBySide(lambda copies: (_ for _ in ()).throw(FAULTS[seed]()), 2, 1)


def test_a_process_that_answers_to_nobody_ends_without_a_word(capfd):
    import multiprocessing

    class Slow(PointEnv):
        def reset(self, seeds):
            time.sleep(0.2)
            return super().reset(seeds)

    before = set(multiprocessing.active_children())
    env = SideBySide(lambda copies: Slow(SPECS["discrete"], copies), 4, 2)
    ours = set(multiprocessing.active_children()) - before
    for pipe in env._pipes:
        pipe.send(("reset", [1, 2]))
    env.close()
    for process in ours:
        process.join(10)
    assert len(ours) == 2 and {process.exitcode for process in ours} == {0}
    assert capfd.readouterr().err == ""
