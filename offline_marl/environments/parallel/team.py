"""Team of a parallel environment of PettingZoo: many copies, stepped one after another in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import Any

import numpy as np
import numpy.typing as npt

from offline_marl.core.permissions import ImportPath
from offline_marl.core.small_files import shown
from offline_marl.core.types import DataError, Spec
from offline_marl.environments.base import (
    AgentFlags,
    Flags,
    Floats,
    Frame,
    Seen,
    TeamActions,
)
from offline_marl.environments.checks import BadNumbersError
from offline_marl.environments.guarded import let_go
from offline_marl.environments.painting import Painted, painted_world, unwrapped
from offline_marl.environments.parallel.actions import NativeActions
from offline_marl.environments.parallel.factories import factory_of, packages_of
from offline_marl.environments.parallel.particles import infos_of, lightened
from offline_marl.environments.spaces import (
    MASK,
    WIDEST,
    NotNumbersError,
    flattened,
    is_flat,
    number_of,
    own_limit,
    refuse_widths,
    row_of,
    shown_space,
    state_of,
)


class PettingZooTeam(Painted):
    """A `JointEnv` of many copies of a parallel environment of PettingZoo.

    Observations of any fixed size are flattened and padded with zeros to the widest. Continuous actions in [-1, 1] are
    stretched to each agent's own bounds. An agent that leaves before the others, or comes later, sees zeros and earns 0
    while it is away, and what it does then is ignored; one that comes back is refused. The episode ends when all have
    left, with a termination if the last ones to leave did not leave by a truncation.

    Args:
        path: See `factory_of`.
        copies: How many episodes can run side by side.
        settings: What the function is told.
        max_steps: Every episode is truncated after so many; without it, what the environment says of itself as
            `max_cycles` or `max_steps`.
        name: What errors call the task.

    Raises:
        DataError: There is no copy or no agent, two agents have one name, episodes may have no end, or agents' actions
            are of no kind that learners know.
        MissingSimulatorError: A package is not installed.
    """

    def __init__(
        self,
        path: ImportPath,
        copies: int,
        settings: Mapping[str, Any] | None = None,
        max_steps: int | None = None,
        name: str | None = None,
    ) -> None:
        self.name = name or path.text
        if copies < 1:
            raise DataError(f"{self.name} needs at least 1 copy, but {copies} were asked for.")
        factory = factory_of(path)
        self._make: Callable[[], Any] = lambda: lightened(factory(**(settings or {})))
        try:
            first = self._make()
        except (TypeError, ValueError, AssertionError) as error:
            if not settings:
                raise
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise DataError(f"{self.name} cannot be made with the settings {dict(settings)}: {reason}.") from error
        if not hasattr(first, "possible_agents"):
            raise DataError(
                f"{self.name} makes {type(first).__name__}, which is no parallel environment of PettingZoo."
            )
        self._envs, self.copies = [first], copies
        self.agents: tuple[str, ...] = tuple(first.possible_agents)
        """PettingZoo's names of the agents, in the order of the agent axis."""
        _refuse_names(self.name, self.agents)
        self.max_steps = max_steps or own_limit(first, self.name)
        self._spaces = [shown_space(first.observation_space(agent)) for agent in self.agents]
        first.reset(seed=0)
        shown = state_of(first)
        # A state that nobody could learn from, often a picture, is left out: agents do not need it.
        self._stateful = shown is not None and 0 < shown.size <= WIDEST
        self.spec = self._describe(first)
        self._present = self.spec.present("act").numpy()
        self._flat = [is_flat(space) for space in self._spaces]
        self._steps = 0

    def reset(self, seeds: Sequence[int]) -> Seen:
        """Start one episode per seed, in the first copies; the others rest.

        Raises:
            DataError: There are no seeds, more seeds than copies, or the same seed twice.
        """
        running = len(seeds)
        if not 1 <= running <= self.copies or len(set(seeds)) < running:
            raise DataError(f"{self.name} has {self.copies} copies and needs as many seeds at most, all different.")
        while len(self._envs) < running:
            self._envs.append(self._make())
        spec, self._steps = self.spec, 0
        self._obs = np.zeros((running, spec.n_agents, spec.obs_dim), np.float32)
        self._state = np.zeros((running, spec.state_dim), np.float32)
        self._avail = np.broadcast_to(self._present, (running, spec.n_agents, spec.act_dim)).copy()
        self._masked = False
        self._terminations: Flags = np.zeros(running, np.bool_)
        self._truncations: Flags = np.zeros(running, np.bool_)
        self._there: AgentFlags = np.zeros((running, spec.n_agents), np.bool_)
        self._left, self._over = self._there.copy(), self._there.copy()
        self._vanished = self._there.copy()
        self._seeds = list(seeds)
        self._infos: list[Mapping[str, Any]] = [{} for _ in range(running)]
        for copy, seed in enumerate(seeds):
            with self._naming(copy):
                obs, infos = self._envs[copy].reset(seed=int(seed))
                self._there[copy] = [agent in self._envs[copy].agents for agent in self.agents]
                self._look(copy, obs, infos, self._there[copy])
        return self._see()

    def step(self, actions: TeamActions) -> tuple[Seen, Floats, Flags, Flags]:
        """Let all agents act at once; what stands in the padding of `actions` is ignored.

        Returns:
            What they see next, rewards [copy, agent], terminations [copy] and truncations [copy].

        Raises:
            DataError: The actions are of another shape, not finite, or choices that there are not.
            BadNumbersError, if the environment shows or pays something else than its spaces say.
        """
        done = self._native.of(actions, len(self._obs))
        rewards = np.zeros((len(done), self.spec.n_agents), np.float32)
        self._steps += 1
        for copy in np.flatnonzero(~(self._terminations | self._truncations)).tolist():
            env = self._envs[copy]
            chosen = {agent: done[copy][i] for i, agent in enumerate(self.agents) if agent in env.agents}
            obs, paid, over, cut, infos = env.step(chosen)
            self._infos[copy] = infos
            acted = self._there[copy].copy()
            with self._naming(copy):
                self._leave(copy, over, cut)
            if not self._there[copy].any():
                self._truncations[copy] = any(cut.get(agent) for i, agent in enumerate(self.agents) if acted[i])
                self._terminations[copy] = not self._truncations[copy]
            elif self._steps >= self.max_steps:
                self._truncations[copy] = True
            with self._naming(copy):
                for i, agent in enumerate(self.agents):
                    if acted[i]:
                        rewards[copy, i] = number_of(_of(paid, agent, "paid"), f"the reward of {agent}")
                self._look(copy, obs, infos, acted | self._there[copy])
        return self._see(), rewards, self._terminations.copy(), self._truncations.copy()

    def infos(self) -> list[dict[str, dict[str, Any]]]:
        """What each running copy told of each agent beside the last step; of MPE's also what its world shows."""
        return [
            {agent: {**(told.get(agent) or {}), **infos_of(env, agent)} for agent in self.agents}
            for told, env in zip(self._infos, self._envs, strict=False)
        ]

    def versions(self) -> dict[str, str]:
        """Versions of the packages that the episodes depend on."""
        modules = {type(unwrapped(self._envs[0])).__module__.split(".")[0], "pettingzoo", "gymnasium"}
        return {name: metadata.version(name) for name in sorted({p for m in modules for p in packages_of(m)})}

    def render(self, copy: int = 0) -> Frame:
        """Render one copy, off screen.

        Raises:
            DataError: There is no such copy, or the environment draws no pictures.
        """
        if not 0 <= copy < len(self._envs):
            raise DataError(f"{self.name} has {len(self._envs)} copies, but copy {copy} was to be drawn.")
        env = self._envs[copy]
        if getattr(unwrapped(env), "render_mode", None) is None:
            unwrapped(env).render_mode = "rgb_array"
        with painted_world(env, self.colors):
            frame = env.render()
        if not isinstance(frame, np.ndarray) or frame.ndim != 3:
            raise DataError(f"{self.name} draws no pictures as arrays (its render_mode should be rgb_array).")
        return np.ascontiguousarray(frame[..., :3], np.uint8)

    def close(self) -> None:
        """Close all copies."""
        while self._envs:
            let_go(self._envs.pop(), self.name)

    def _describe(self, env: Any) -> Spec:
        from gymnasium.spaces import flatdim

        moves = [env.action_space(agent) for agent in self.agents]
        self._native = NativeActions(self.name, self.agents, moves)
        state = state_of(env)
        refuse_widths(self.name, self.agents, self._spaces, moves)
        return Spec(
            obs_dims=tuple(flatdim(space) for space in self._spaces),
            act_dims=self._native.widths,
            state_dim=state.size if self._stateful and state is not None else 0,
            action_kind=self._native.kind,
        )

    @contextmanager
    def _naming(self, copy: int) -> Iterator[None]:
        try:
            yield
        except NotNumbersError as error:
            seed = f"the episode with seed {self._seeds[copy]}"
            raise BadNumbersError(str(error), self._steps, copy, seed) from None

    def _leave(self, copy: int, over: Mapping[str, Any], cut: Mapping[str, Any]) -> None:
        """Note who has ended or vanished, and who has come.

        Raises:
            NotNumbersError: Somebody was gone from the list of agents, and is in it again.
        """
        there, here = self._there[copy], self._envs[copy].agents
        for i, agent in enumerate(self.agents):
            ended = bool(over.get(agent) or cut.get(agent))
            leaves = there[i] and (ended or agent not in here)
            self._over[copy, i] = leaves and bool(over.get(agent) or not cut.get(agent))
            self._left[copy, i] |= leaves
            # An environment may keep agents that have ended in its list until the episode is over.
            if agent in here and self._vanished[copy, i]:
                raise NotNumbersError(f"{agent}, who had left, comes back")
            self._vanished[copy, i] |= self._left[copy, i] and agent not in here
            there[i] = agent in here and not self._left[copy, i]

    def _look(self, copy: int, obs: Mapping[str, Any], infos: Mapping[str, Any], seeing: npt.NDArray[np.bool_]) -> None:
        if len(obs) < len(self.agents) or not seeing.all():
            self._obs[copy] = 0
        if self._masked:
            self._avail[copy] = self._present
        for i, agent in enumerate(self.agents):
            # What an agent is cut off from begins where it stands; behind its end there is nothing to be seen.
            if not seeing[i] or (agent not in obs and self._over[copy, i]):
                continue
            shown, mask = _of(obs, agent, "shown"), (infos.get(agent) or {}).get(MASK)
            if isinstance(shown, Mapping) and MASK in shown:
                shown, mask = shown["observation"], shown[MASK]
            self._obs[copy, i, : self.spec.obs_dims[i]] = row_of(
                shown if self._flat[i] else flattened(self._spaces[i], shown),
                self.spec.obs_dims[i],
                f"the observation of {agent}",
            )
            if mask is not None and self.spec.discrete:
                width = self.spec.act_dims[i]
                allowed = row_of(mask, width, f"the {MASK} of {agent}") != 0
                # With its last observation an agent often shows that it has no choice any more: that restricts nothing.
                if self._there[copy, i] or allowed.any():
                    self._avail[copy, i, :width] = allowed
                self._masked = True
        if self._stateful:
            self._state[copy] = row_of(state_of(self._envs[copy]), self.spec.state_dim, "the state")

    def _see(self) -> Seen:
        state = self._state.copy() if self._stateful else None
        avail = self._avail.copy() if self._masked else None
        return Seen(self._obs.copy(), state, avail, self._there.copy(), self._over.copy())

    @property
    def action_bounds(self) -> Sequence[tuple[Floats, Floats]]:
        """Least and largest entries of each agent's actions, which -1 and 1 stand for; none of choices."""
        return self._native.bounds


def _of(told: Mapping[str, Any], agent: str, how: str) -> Any:
    """What an environment tells of an agent.

    Raises:
        NotNumbersError: Nothing, though it is there.
    """
    if agent not in told:
        raise NotNumbersError(f"{agent} is there and is {how} nothing")
    return told[agent]


def _refuse_names(name: str, agents: Sequence[str]) -> None:
    """Refuse agents that cannot be told apart: of two with one name, only the action of one would be taken.

    Raises:
        DataError: There are such, or there are no agents at all.
    """
    if not agents:
        raise DataError(f"{name} has no agents: its possible_agents is empty.")
    twice = next((agent for agent in agents if agents.count(agent) > 1), None)
    if twice is not None:
        raise DataError(f"{name} has {agents.count(twice)} agents named {shown(twice)}: give each its own name.")
