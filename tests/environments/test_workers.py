from __future__ import annotations

import os
import time

import numpy as np
import pytest
from worlds import SPECS, PointEnv

from offline_marl.core.types import DataError
from offline_marl.environments.base import Seen
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
