"""DeepMind Control (suite, locomotion, manipulation) as tasks of one agent, through shimmy; owns these two imports.

They need a MuJoCo before 4, hence an environment of their own: `pip install 'offline-marl[dmcontrol]'`. Whoever has no
display and no library that draws without one can still play what draws nothing.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import metadata
from typing import Any, ClassVar

import numpy as np

from offline_marl.core.config import suggest
from offline_marl.core.partition import Partition
from offline_marl.core.types import DataError
from offline_marl.environments.base import Environment, Frame, MissingSimulatorError, State, environments
from offline_marl.environments.clocked import refuse_partition
from offline_marl.environments.drawing import ADVICE, choose_library
from offline_marl.environments.painting import FPS
from offline_marl.environments.spaces import WIDEST
from offline_marl.environments.split import GymnasiumSimulator, SplitEnv, make_env

PREFIX = "dm_control/"
"""Before the name of a task, as Gymnasium's ids have it."""
INSTALL = "pip install 'offline-marl[dmcontrol]' in an environment of its own"
WIDE = 1e9
"""Bounds beyond this stand for none."""
HIGH, BROAD = 480, 640
"""Pixels of a picture."""
PATIENCE = 120.0
"""Seconds that a task has to start and to play a few steps, when all are tried."""


@environments.register("dm-control")
class DmControl(Environment):
    """DeepMind Control, one agent: dm_control/DOMAIN-TASK, as dm_control/cheetah-run; `list dm-control` tries all."""

    task: ClassVar[str] = ""
    """Its name, without `dm_control/` and version."""
    limit: ClassVar[int | None] = None
    """Steps of an episode, where they were chosen."""

    @classmethod
    def member(cls, task: str) -> type[DmControl]:
        """The task of this name, see `Registry.get`; nothing is imported before it is built."""
        return _variant(task.removesuffix("-v0"), None)

    @classmethod
    def told(cls, settings: Mapping[str, Any], max_steps: int | None = None) -> type[Environment]:
        """The task with episodes of this length.

        Raises:
            DataError: There are settings.
        """
        if settings:
            raise DataError(f"{PREFIX}{cls.task} takes no settings but the length of its episodes, --max-steps.")
        return cls if max_steps is None else _variant(cls.task, max_steps)

    @classmethod
    def make(cls, partition: Partition | None, copies: int) -> SplitEnv:
        """The task in many copies, as its only agent sees it.

        Raises:
            DataError: There is a partition, or no such task.
            MissingSimulatorError: shimmy, dm_control or a MuJoCo that fits is not installed.
        """
        if not cls.task:
            raise DataError(f"dm-control has many tasks: name one, such as {PREFIX}cheetah-run.")
        name = f"{PREFIX}{cls.task}"
        refuse_partition(name, partition)
        simulator = SuiteSimulator(cls.task, copies, cls.limit)
        seen, moved = range(simulator.state_dim), range(simulator.action_dim)
        whole = Partition(name, f"1x{len(moved)}", "full", ("agent_0",), (tuple(seen),), (tuple(moved),))
        return SplitEnv(simulator, whole)


@cache
def _variant(task: str, limit: int | None) -> type[DmControl]:
    attributes = {"__doc__": DmControl.__doc__, "__module__": __name__, "task": task, "limit": limit}
    return type(DmControl.__name__, (DmControl,), attributes)


class SuiteSimulator(GymnasiumSimulator):
    """Many copies of a task of dm_control; what it shows by name is flattened, in the order of the names.

    Args:
        task: Its name.
        copies: How many episodes can run side by side.
        limit: Every episode is truncated after so many steps; without it by the task's own clock.

    Raises:
        DataError: There is no such task, it shows pictures, its actions have no bounds, or it never ends by itself.
        MissingSimulatorError: A package is missing, or the task draws and there is nothing to draw with.
    """

    def __init__(self, task: str, copies: int, limit: int | None = None) -> None:
        self.task = task
        length = {} if limit is None else {"max_episode_steps": limit}
        super().__init__(f"{PREFIX}{task}", copies, None, **length)

    def make_one(self) -> Any:
        """One copy, see `GymnasiumSimulator.make_one`."""
        _refuse_unknown(self.task)
        with _needing_to_draw(self.env_id):
            env = make_env(f"{self.env_id}-v0", **self._kwargs)
        _refuse_pictures(self.env_id, env.observation_space)
        if np.abs([env.action_space.low, env.action_space.high]).max() > WIDE:
            raise DataError(f"The actions of {self.env_id} have no bounds, so [-1, 1] cannot be stretched to them.")
        return importlib.import_module("gymnasium.wrappers").FlattenObservation(env)

    def reset(self, seeds: Sequence[int]) -> State:
        """Start one episode per seed, see `GymnasiumSimulator.reset`.

        Raises:
            MissingSimulatorError: The task draws as it starts, and there is nothing to draw with.
        """
        with _needing_to_draw(self.env_id):
            return super().reset(seeds)

    def limit_of(self, env: Any) -> int | None:
        """Steps of an episode by the task's clock, or those that were chosen."""
        chosen = super().limit_of(env)
        inner = env.unwrapped._env
        steps = getattr(inner, "_step_limit", getattr(inner, "_time_limit", np.inf) / inner.control_timestep())
        own = None if not np.isfinite(steps) else int(np.ceil(steps - 1e-6))
        limits = [limit for limit in (chosen, own) if limit is not None]
        return min(limits) if limits else None

    def versions(self) -> dict[str, str]:
        """The task's id, and the versions of all that moves it."""
        packages = ("gymnasium", "mujoco", "dm_control", "shimmy")
        return {"env_id": self.env_id, **{name: metadata.version(name) for name in packages}}

    @property
    def fps(self) -> float:
        """Steps in a second of the simulated world."""
        return 1 / float(self._envs[0].unwrapped._env.control_timestep()) if self._envs else FPS

    def render(self, copy: int = 0) -> Frame:
        """Render one copy, off screen, by its first camera.

        Raises:
            DataError: There is no such copy.
            MissingSimulatorError: No library that draws off screen works here.
        """
        if not 0 <= copy < len(self._envs):
            raise DataError(f"{self.env_id} has {len(self._envs)} copies, but copy {copy} was to be drawn.")
        choose_library()
        physics = self._envs[copy].unwrapped._env.physics
        camera = 0 if physics.model.ncam else -1
        return np.ascontiguousarray(physics.render(height=HIGH, width=BROAD, camera_id=camera), np.uint8)


@contextlib.contextmanager
def _needing_to_draw(name: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "OpenGL" not in str(error):
            raise
        raise MissingSimulatorError(f"{name} draws to be played, and nothing can be drawn here: {ADVICE}.") from error


def _refuse_pictures(name: str, space: Any) -> None:
    for part, seen in space.items():
        if seen.dtype == np.uint8 and len(seen.shape) >= 3:
            shape = " x ".join(map(str, seen.shape))
            raise DataError(f"{name} shows pictures ({part}: {shape}), which no learner here knows.")
    width = sum(int(np.prod(seen.shape)) for seen in space.values())
    if width > WIDEST:
        raise DataError(f"{name} shows {width:,} numbers, more than the {WIDEST:,} that learners here can take.")


def task_names() -> list[str]:
    """All tasks that there are, without `dm_control/` and version.

    Raises:
        MissingSimulatorError: shimmy, dm_control or a MuJoCo that fits is not installed.
    """
    ids = _import_suite().registry
    return sorted(
        name.removeprefix(PREFIX).removesuffix("-v0")
        for name in ids
        if name.startswith(PREFIX) and "compatibility-env" not in name
    )


def _refuse_unknown(task: str) -> None:
    names = task_names()
    if task not in names:
        raise DataError(f"dm_control has no task '{task}': {suggest(task, names)}.")


@cache
def _import_suite() -> Any:
    """Gymnasium, with shimmy's tasks in its registry."""
    try:
        mujoco = metadata.version("mujoco")
        gymnasium = importlib.import_module("gymnasium")
        if int(mujoco.partition(".")[0]) >= 4:
            raise MissingSimulatorError(f"dm_control needs a mujoco before 4, and {mujoco} is installed: {INSTALL}.")
        _import_quietly()
    except (ImportError, metadata.PackageNotFoundError) as error:
        if isinstance(error, MissingSimulatorError):
            raise
        reason = str(error).partition("\n")[0].rstrip(".")
        raise MissingSimulatorError(f"dm_control cannot be played here ({reason}): {INSTALL}.") from error
    return gymnasium


def _import_quietly() -> None:
    """Import shimmy and dm_control, which look for a display, or for what MUJOCO_GL says, as they are imported."""
    asked = os.environ.get("MUJOCO_GL")
    try:
        choose_library()
    except MissingSimulatorError:  # told when something is drawn
        os.environ["MUJOCO_GL"] = "disabled"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                _import_both()
            except Exception:  # each library fails in its own way, and what is not installed fails again
                os.environ["MUJOCO_GL"] = "disabled"
                _import_both()
    finally:
        if os.environ.get("MUJOCO_GL") == "disabled" != asked:
            os.environ.pop("MUJOCO_GL")
            os.environ.update({} if asked is None else {"MUJOCO_GL": asked})


def _import_both() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in {"dm_control", "shimmy"}]:
        del sys.modules[name]
    importlib.import_module("dm_control.suite")
    importlib.import_module("shimmy")


def try_task(task: str) -> str:
    """Play a few steps of a task, twice from the same seed.

    Returns:
        What there is to see and to do, and whether episodes repeat.

    Raises:
        Exception: Of any kind, that says why it does not work.
    """
    env = DmControl.member(task).make(None, 1)
    rows = []
    for _ in range(2):
        seen, draw = env.reset([7]), np.random.default_rng(0)
        row = [seen.obs]
        for _ in range(3):
            seen, rewards, _, _ = env.step(draw.uniform(-1, 1, (1, 1, env.spec.act_dim)).astype(np.float32))
            row += [seen.obs, rewards]
        rows.append(np.concatenate([part.ravel() for part in row]))
    width, moved, steps = env.spec.obs_dim, env.spec.act_dim, env.max_steps
    env.close()
    if not np.isfinite(rows).all():
        raise DataError(f"{PREFIX}{task} shows or pays what is not finite.")
    again = "" if np.array_equal(rows[0], rows[1]) else "; episodes of one seed differ"
    return f"{width} numbers seen, {moved} moved, {steps} steps{again}"


def try_all(tasks: list[str]) -> Iterator[tuple[str, bool, str]]:
    """Try tasks in a process of their own, which some of them end.

    Yields:
        Name, whether it works, and what it is or why it does not.
    """
    worker: tuple[Any, Any] | None = None
    try:
        for task in tasks:
            worker = worker or _start()
            process, channel = worker
            channel.send(task)
            if channel.poll(PATIENCE) and (answer := _answer(channel)) is not None:
                yield task, *answer
                continue
            if channel.poll():  # what it said was its end
                process.join(5)
            yield task, False, _death(process)
            _end(*worker)
            worker = None
    finally:
        if worker is not None:
            _end(*worker)


def _start() -> tuple[Any, Any]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there,), daemon=True)
    process.start()
    there.close()
    return process, here


def _answer(channel: Any) -> tuple[bool, str] | None:
    try:
        works, words = json.loads(channel.recv())
    except (EOFError, OSError):
        return None
    return works, words


def _death(process: Any) -> str:
    if process.exitcode is None:
        return f"says nothing for {PATIENCE:.0f} seconds"
    killed = f" ({signal.Signals(-process.exitcode).name})" if process.exitcode < 0 else ""
    return f"ends the process{killed}"


def _end(process: Any, channel: Any) -> None:
    channel.close()
    process.kill()
    process.join()


def _serve(channel: Any) -> None:
    while True:
        try:
            task = channel.recv()
        except EOFError:
            return
        try:
            answer = True, try_task(task)
        except Exception as error:  # of a simulator: it may be of any kind
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            answer = False, reason.replace(f" of {PREFIX}{task}", "").removeprefix(f"{PREFIX}{task} ")
        channel.send(json.dumps(answer))
