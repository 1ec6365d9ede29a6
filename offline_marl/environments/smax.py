"""SMAX of JaxMARL: teams of units against a heuristic enemy, stepped by an interpreter of its own.

jaxmarl asks for other packages than this library, so that it lives in another environment of Python, which
`--smax-python` names, or OFFLINE_MARL_SMAX_PYTHON; `make smax` makes one.
"""

from __future__ import annotations

import json
import os
import subprocess
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from offline_marl.core.errors import WorkError
from offline_marl.core.interpreters import SMAX_PYTHON
from offline_marl.core.partition import Partition
from offline_marl.core.small_files import shown
from offline_marl.core.types import DataError, Spec
from offline_marl.environments.base import (
    Environment,
    Flags,
    Floats,
    Frame,
    JointEnv,
    MissingSimulatorError,
    Seen,
    TeamActions,
    environments,
)
from offline_marl.environments.clocked import refuse_partition
from offline_marl.environments.smax_server import read_message, write_message

SERVER = Path(__file__).with_name("smax_server.py")
SCENARIO = "3m"
LONGEST = 10_000
"""Steps of an episode, at most."""
LARGEST = 1_000
"""Number among settings: they may come with data, and nobody can wait for a larger world."""


class SMAXDiedError(WorkError, RuntimeError):
    """The process that stepped SMAX ended by itself."""


class SMAXTeam:
    """A `JointEnv` of SMAX in another process.

    Units that have died stay in the team: they see zeros, may only stop, and are paid what the team is. The episode
    ends with a termination where one side is dead, with a truncation by the scenario's clock or `max_steps`.

    Args:
        copies: How many episodes can run side by side.
        scenario: Name of a map, such as 3m, 2s3z or smacv2_5_units.
        settings: What jaxmarl's HeuristicEnemySMAX is made with besides.
        max_steps: Every episode is truncated after so many; without it after the scenario's own number.

    Raises:
        MissingSimulatorError: No interpreter is named, or it has no jaxmarl.
        DataError: There is no copy, or no such scenario.
    """

    def __init__(
        self,
        copies: int,
        scenario: str = SCENARIO,
        settings: Mapping[str, Any] | None = None,
        max_steps: int | None = None,
    ) -> None:
        if copies < 1:
            raise DataError(f"smax needs at least 1 copy, but {copies} were asked for.")
        python = os.environ.get(SMAX_PYTHON)
        if not python:
            raise MissingSimulatorError(
                "SMAX runs in a Python of its own, which has jaxmarl: make one with `make smax`, or `python3.11 -m "
                "venv smax` and `smax/bin/pip install jaxmarl==0.2.0`; name it by --smax-python smax/bin/python."
            )
        self._process = _started(python, [scenario, json.dumps(dict(settings or {}))])
        self._end = weakref.finalize(self, _stop, self._process)
        told, _ = self._answer()
        if "error" in told:
            raise _refusal(str(told["error"]), scenario, python)
        self.copies, self.name = copies, f"smax {scenario}"
        agents, own_steps = int(told["agents"]), int(told["max_steps"])
        self.max_steps = min(max_steps or own_steps, own_steps)
        self._versions = {"smax": scenario, **{str(name): str(value) for name, value in told["versions"].items()}}
        self.spec = Spec(
            obs_dims=(int(told["obs"]),) * agents,
            act_dims=(int(told["choices"]),) * agents,
            state_dim=int(told["state"]),
            action_kind="discrete",
        )
        self._over = self._cut = self._won = np.zeros(0, np.bool_)
        self._steps = 0

    def reset(self, seeds: Sequence[int]) -> Seen:
        """Start one episode per seed, in the first copies.

        Raises:
            DataError: There are no seeds, more seeds than copies, or the same seed twice.
            SMAXDiedError: The other process has ended.
        """
        if not 1 <= len(seeds) <= self.copies or len(set(seeds)) < len(seeds):
            raise DataError(f"{self.name} has {self.copies} copies and needs as many seeds at most, all different.")
        self._steps = 0
        self._over, self._cut, self._won = (np.zeros(len(seeds), np.bool_) for _ in range(3))
        self._last = self._ask({"do": "reset", "seeds": [int(seed) for seed in seeds]})
        return self._see()

    def step(self, actions: TeamActions) -> tuple[Seen, Floats, Flags, Flags]:
        """Let all agents act at once; copies whose episode is over stay as they are.

        Returns:
            What they see next, rewards [copy, agent], terminations [copy] and truncations [copy].

        Raises:
            DataError: The actions are of another shape, or choices that there are not.
            SMAXDiedError: The other process has ended.
        """
        shape = (len(self._over), self.spec.n_agents)
        if actions.shape != shape:
            raise DataError(f"{self.name} expects actions of shape {shape}, got {actions.shape}.")
        if ((actions < 0) | (actions >= self.spec.act_dim)).any():
            raise DataError(f"Some actions in {self.name} are choices that their agent does not have.")
        going = ~(self._over | self._cut)
        # Choices that are not allowed are played as stopping, which always is.
        allowed = np.take_along_axis(self._last["avail"], actions[..., None].astype(np.int64), -1)[..., 0]
        done = np.where(allowed, actions, self._stop_choice(actions.shape)).astype(np.int32)
        told = self._ask({"do": "step"}, actions=done)
        self._steps += 1
        for name in ("obs", "state", "avail"):
            kept = going.reshape(-1, *[1] * (told[name].ndim - 1))
            self._last[name] = np.where(kept, told[name], self._last[name])
        over, late = told["over"] & going, self._steps >= self.max_steps
        self._over, self._won = self._over | over, self._won | (told["won"] & going)
        self._cut |= going & ~over & (late | told["done"])
        paid = np.where(going, told["rewards"], 0).astype(np.float32)
        rewards = np.repeat(paid[:, None], self.spec.n_agents, 1)
        return self._see(), rewards, self._over.copy(), self._cut.copy()

    def infos(self) -> list[dict[str, dict[str, Any]]]:
        """Of each running copy and agent: `won`, whether the enemies are dead."""
        names = [f"agent_{number}" for number in range(self.spec.n_agents)]
        return [{name: {"won": float(won)} for name in names} for won in self._won]

    def versions(self) -> dict[str, str]:
        """Scenario, and versions of jaxmarl and jax."""
        return dict(self._versions)

    def render(self, copy: int = 0) -> Frame:
        """Raises DataError: it cannot be drawn."""
        raise DataError(f"{self.name} runs in another process and draws no pictures.")

    def close(self) -> None:
        """End the other process."""
        self._end()

    def _stop_choice(self, shape: tuple[int, ...]) -> Any:
        """What is always allowed: the fifth choice, behind the four directions."""
        return np.full(shape, 4, np.int32)

    def _see(self) -> Seen:
        last = self._last
        return Seen(last["obs"].copy(), last["state"].copy(), last["avail"].copy())

    def _ask(self, line: Mapping[str, Any], **arrays: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            write_message(self._process.stdin, dict(line), **arrays)
        except OSError:
            raise self._died() from None
        return self._answer()[1]

    def _answer(self) -> tuple[dict[str, Any], dict[str, Any]]:
        assert self._process.stdout is not None
        try:
            message = read_message(self._process.stdout)
        except (ValueError, OSError, AttributeError, TypeError):
            message = None
        if message is None:
            raise self._died()
        return message

    def _died(self) -> SMAXDiedError:
        code = self._process.poll()
        return SMAXDiedError(
            f"The Python of SMAX stopped answering{'' if code is None else f' and ended with {code}'}; what it says of "
            "that stands above."
        )


def _started(python: str, words: Sequence[str]) -> subprocess.Popen[bytes]:
    # Of the library's own packages the other Python sees none.
    kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
    try:
        return subprocess.Popen(
            [python, str(SERVER), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=kept,
            bufsize=1 << 20,
            start_new_session=True,  # a terminal's Ctrl-C is for the run, which saves before this ends with it
        )
    except OSError as error:
        raise MissingSimulatorError(f"--smax-python {python} cannot be run: {error.strerror or error}.") from error


def _stop(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            try:
                stream.close()
            except OSError:
                continue
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _refusal(reason: str, scenario: str, python: str) -> Exception:
    if reason.startswith(("ModuleNotFoundError", "ImportError")):
        return MissingSimulatorError(f"--smax-python {python} has no jaxmarl that can be imported ({reason}).")
    return DataError(f"smax cannot be made with the scenario {scenario!r} and these settings: {reason}.")


@environments.register("smax")
class SMAX(Environment):
    """StarCraft-like battles in JAX, by jaxmarl in a Python of its own (--smax-python): 3m unless settings say."""

    settings: ClassVar[dict[str, Any]] = {}
    limit: ClassVar[int | None] = None

    @classmethod
    def make(cls, partition: Partition | None, copies: int) -> JointEnv:
        """The scenario in many copies.

        Raises:
            DataError: There is a partition, or no such scenario.
            MissingSimulatorError: See `SMAXTeam`.
        """
        refuse_partition("smax", partition)
        settings = dict(cls.settings)
        for name, value in settings.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not isinstance(value, bool | str) and not (number and -LARGEST <= value <= LARGEST):
                raise DataError(
                    f"smax cannot be made with {name} = {shown(value)}: it takes words and smaller numbers."
                )
        return SMAXTeam(copies, str(settings.pop("scenario", SCENARIO)), settings, cls.limit)

    @classmethod
    def told(cls, settings: Mapping[str, Any], max_steps: int | None = None) -> type[Environment]:
        """The task with this `scenario`, and what else jaxmarl's environment takes."""
        if max_steps is not None and not 1 <= max_steps <= LONGEST:
            raise DataError(f"smax cannot have episodes of {max_steps:,} steps: 1 to {LONGEST:,}.")
        given = {"settings": {**cls.settings, **settings}, "limit": max_steps or cls.limit}
        return type(cls.__name__, (cls,), given) if settings or max_steps else cls
