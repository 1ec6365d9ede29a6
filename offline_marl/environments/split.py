"""Gymnasium tasks with box spaces: in many copies, and split among the agents of a partition.

Copies are stepped one after another in this process: the physics is the cost, so callers gain by acting for many
copies in one call. Owns the import of gymnasium and, through it, of mujoco.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from importlib import metadata
from typing import Any

import numpy as np
import numpy.typing as npt

from offline_marl.core.partition import Partition
from offline_marl.core.types import DataError, Spec
from offline_marl.environments.base import (
    Flags,
    Floats,
    Frame,
    JointActions,
    MissingSimulatorError,
    Outcome,
    Seen,
    Simulator,
    State,
)
from offline_marl.environments.drawing import draw_body, import_mujoco, keep_warnings_here
from offline_marl.environments.painting import FPS, Color, Painted, paint_body


def make_env(env_id: str, **kwargs: Any) -> Any:
    """One plain Gymnasium environment, without the wrappers that only check its caller.

    Raises:
        MissingSimulatorError: Gymnasium or the physics behind the environment is not installed.
    """
    try:
        import gymnasium
    except ImportError as error:
        raise _missing(env_id, error) from error
    spec = deepcopy(gymnasium.spec(env_id))
    spec.order_enforce = False
    import_mujoco()
    if "mujoco" in str(spec.entry_point):
        keep_warnings_here()
    try:
        return gymnasium.make(spec, disable_env_checker=True, **kwargs)
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        raise _missing(env_id, error) from error


def _missing(env_id: str, error: Exception) -> MissingSimulatorError:
    reason = str(error).partition("\n")[0].rstrip(".")
    return MissingSimulatorError(
        f"{env_id} cannot be simulated here ({reason}): pip install 'offline-marl[environments]'."
    )


ToPhysics = Callable[[npt.NDArray[np.float32]], tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]


class GymnasiumSimulator(Painted):
    """Many copies of a Gymnasium task whose observations and actions are flat boxes.

    Copies are built when first needed. The time limit of the task shows up as truncation, and actions in [-1, 1] are
    stretched to the bounds of its action box.

    Args:
        env_id: Name in Gymnasium's registry, such as "Reacher-v5".
        copies: How many episodes can run side by side.
        to_physics: Positions and velocities (MuJoCo's qpos and qvel) of a state; with it, copies can be restored.
        kwargs: Passed on to `gymnasium.make`.

    Raises:
        DataError: The task has no time limit, or its spaces are not flat, bounded boxes.
    """

    def __init__(self, env_id: str, copies: int, to_physics: ToPhysics | None = None, **kwargs: Any) -> None:
        if copies < 1:
            raise DataError(f"{env_id} needs at least 1 copy, but {copies} were asked for.")
        self.env_id = env_id
        self.copies = copies
        self._to_physics = to_physics
        self._kwargs = kwargs
        self._envs = [self.make_one()]
        first = self._envs[0]
        self.state_dim = _width(env_id, "observations", first.observation_space)
        self.action_dim = _width(env_id, "actions", first.action_space)
        self._middle, self._half = _stretch(env_id, first.action_space)
        limit = self.limit_of(first)
        if limit is None:
            raise DataError(f"{env_id} never ends by itself: give it a time limit, --max-steps.")
        self.max_steps = limit
        self._start(running=0)

    def make_one(self) -> Any:
        """One copy; an environment of Gymnasium with flat spaces."""
        return make_env(self.env_id, **self._kwargs)

    def limit_of(self, env: Any) -> int | None:
        """Steps after which an episode is truncated; None where there is no limit."""
        limit = env.spec.max_episode_steps
        return None if limit is None else int(limit)

    def reset(self, seeds: Sequence[int]) -> State:
        """Start one episode per seed, in the first copies; the others rest.

        Raises:
            DataError: There are no seeds, more seeds than copies, or the same seed twice.
        """
        running = len(seeds)
        if not 1 <= running <= self.copies:
            raise DataError(f"{self.env_id} has {self.copies} copies, but was reset with {running} seeds.")
        if len(set(seeds)) < running:
            twice = next(seed for i, seed in enumerate(seeds) if seed in seeds[:i])
            raise DataError(f"Each copy of {self.env_id} needs its own seed, but {twice} is given twice.")
        self._build(running)
        self._start(running)
        for i, seed in enumerate(seeds):
            self._state[i] = self._envs[i].reset(seed=int(seed))[0]
        return np.array(self._state)

    def restore(self, state: State) -> State:
        """Start one episode from each of these states, in the first copies; its clock begins anew.

        Raises:
            DataError: A state of this task does not tell positions and velocities, or there are too many.
        """
        if self._to_physics is None:
            raise DataError(f"The states of {self.env_id} do not tell all positions and velocities.")
        if not 1 <= len(state) <= self.copies:
            raise DataError(f"{self.env_id} has {self.copies} copies, but was given {len(state)} states.")
        self._build(len(state))
        self._start(len(state))
        for env, row in zip(self._envs, state, strict=False):
            env.unwrapped.set_state(*self._to_physics(row))
            clocked = env
            while not hasattr(clocked, "_max_episode_steps"):
                clocked = clocked.env
            clocked._elapsed_steps = 0
        self._state[:] = state
        return np.array(self._state)

    def _build(self, running: int) -> None:
        while len(self._envs) < running:
            self._envs.append(self.make_one())

    def step(self, actions: JointActions) -> Outcome:
        """Move every running copy that has not finished.

        Raises:
            DataError: The actions are not [running copies, joint_act], or one is not finite.
        """
        scaled = self._scale(actions)
        rewards = np.zeros(len(scaled), np.float32)
        for i in np.flatnonzero(~(self._terminations | self._truncations)).tolist():
            state, rewards[i], over, cut, self._infos[i] = self._envs[i].step(scaled[i])
            self._terminations[i], self._truncations[i] = over, cut
            self._state[i] = state
        return Outcome(np.array(self._state), rewards, np.array(self._terminations), np.array(self._truncations))

    def infos(self) -> list[dict[str, Any]]:
        """What each running copy told beside its last step."""
        return list(self._infos)

    def versions(self) -> dict[str, str]:
        """The task's id, and the versions of gymnasium and mujoco."""
        versions = {"env_id": self.env_id}
        for package in ("gymnasium", "mujoco"):
            try:
                versions[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                continue  # some tasks of Gymnasium need no MuJoCo
        return versions

    def render(self, copy: int = 0) -> Frame:
        """Render one copy, off screen.

        Raises:
            DataError: There is no such copy, or its task draws no pictures.
            MissingSimulatorError: No library that draws off screen works here.
        """
        if not 0 <= copy < len(self._envs):
            raise DataError(f"{self.env_id} has {len(self._envs)} copies, but copy {copy} was to be drawn.")
        paint_body(self._envs[copy], self.colors)
        return draw_body(self.env_id, self._envs[copy])

    def close(self) -> None:
        """Close all copies; the simulator cannot be used after that."""
        while self._envs:
            self._envs.pop().close()

    def _start(self, running: int) -> None:
        self._state: Floats = np.zeros((running, self.state_dim), np.float32)
        self._terminations: Flags = np.zeros(running, np.bool_)
        self._truncations: Flags = np.zeros(running, np.bool_)
        self._infos: list[dict[str, Any]] = [{} for _ in range(running)]

    def _scale(self, actions: JointActions) -> JointActions:
        shape = (len(self._state), self.action_dim)
        if actions.shape != shape:
            raise DataError(f"{self.env_id} expects actions [copy, joint_act] of shape {shape}, got {actions.shape}.")
        # MuJoCo would answer NaN with a silent reset and a log file in the working folder.
        if not np.isfinite(actions).all():
            bad = int(np.flatnonzero(~np.isfinite(actions).all(axis=1))[0])
            raise DataError(f"The actions of copy {bad} of {self.env_id} are not finite: {actions[bad].tolist()}.")
        clipped = np.clip(actions, -1, 1).astype(np.float32, copy=False)
        return clipped * self._half + self._middle


def _width(env_id: str, what: str, space: Any) -> int:
    from gymnasium.spaces import Box

    if not isinstance(space, Box) or len(space.shape) != 1:
        raise DataError(f"The {what} of {env_id} are {space}, but only flat boxes can be shared among agents.")
    return int(space.shape[0])


def _stretch(env_id: str, space: Any) -> tuple[Floats, Floats]:
    """Middle and half width of the action box; exactly 0 and 1 where its bounds are -1 and 1."""
    low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    if not np.isfinite([low, high]).all():
        raise DataError(f"The actions of {env_id} have no bounds, so [-1, 1] cannot be stretched to them.")
    return (high + low) / 2, (high - low) / 2


class SplitEnv(Painted):
    """A simulator as the agents of a partition see it: every agent gets its columns, all get the same reward.

    Args:
        simulator: The whole task.
        partition: Which columns each agent sees and moves.

    Raises:
        DataError: The partition belongs to another body.
    """

    def __init__(self, simulator: Simulator, partition: Partition) -> None:
        seen, moved = max(map(max, partition.obs_index)), sum(partition.act_dims)
        if seen >= simulator.state_dim or moved != simulator.action_dim:
            raise DataError(
                f"Partition {partition.key} of {partition.scenario} sees column {seen} and moves {moved} joints, "
                f"but the simulator shows {simulator.state_dim} columns and moves {simulator.action_dim} joints."
            )
        self.simulator = simulator
        self.partition, self.agents = partition, partition.agents
        self.spec = Spec(partition.obs_dims, partition.act_dims, simulator.state_dim)
        self.copies = simulator.copies
        self.max_steps = simulator.max_steps
        self._joint_act = partition.join_index()
        self._obs_index, present = partition.padded_obs_index()
        self._obs_padding = ~present

    def reset(self, seeds: Sequence[int]) -> Seen:
        """Start one episode per seed, see `Simulator.reset`."""
        return self._see(self.simulator.reset(seeds))

    def restore(self, state: State) -> Seen:
        """Start one episode from each of these states.

        Raises:
            DataError: The simulator cannot be put into a state.
        """
        if not hasattr(self.simulator, "restore"):
            raise DataError(f"{self.partition.scenario} cannot be put into recorded states.")
        restored: State = self.simulator.restore(state)
        return self._see(restored)

    def step(self, actions: Floats) -> tuple[Seen, Floats, Flags, Flags]:
        """Let all agents act at once; what stands in the padding of `actions` is ignored.

        Returns:
            What they see next, rewards [copy, agent], terminations [copy] and truncations [copy].

        Raises:
            DataError: The actions are not [running copies, agent, act], or one is not finite.
        """
        expected = (self.spec.n_agents, self.spec.act_dim)
        if actions.ndim != 3 or actions.shape[1:] != expected:
            raise DataError(f"Actions [copy, agent, act] should end in {expected}, but have shape {actions.shape}.")
        agent, position = self._joint_act
        outcome = self.simulator.step(actions[:, agent, position])
        rewards = np.repeat(outcome.rewards[:, None], self.spec.n_agents, axis=1)
        return self._see(outcome.state), rewards, outcome.terminations, outcome.truncations

    def infos(self) -> list[dict[str, dict[str, Any]]]:
        """What the simulator told, the same for every agent; nothing where it tells nothing."""
        told = self.simulator.infos() if isinstance(self.simulator, GymnasiumSimulator) else []
        return [dict.fromkeys(self.partition.agents, info) for info in told]

    def versions(self) -> dict[str, str]:
        """Those of the simulator."""
        return self.simulator.versions()

    def paint(self, colors: Sequence[Color]) -> None:
        """Show the joints of each agent in its colour."""
        if isinstance(self.simulator, Painted):
            self.simulator.paint([colors[agent] for agent in self._joint_act[0]])

    @property
    def fps(self) -> float:
        """Steps in a second of the simulated world."""
        return self.simulator.fps if isinstance(self.simulator, Painted) else FPS

    def render(self, copy: int = 0) -> Frame:
        """Render one copy, see `JointEnv.render`."""
        return self.simulator.render(copy)

    def close(self) -> None:
        """Close the simulator."""
        self.simulator.close()

    def _see(self, state: State) -> Seen:
        # Assigned, not multiplied: padding is zero even where column 0 is not finite.
        obs = state[:, self._obs_index]
        obs[:, self._obs_padding] = 0
        return Seen(obs, state)
