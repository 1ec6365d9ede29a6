"""A whole body and a task made for a team, alike to whoever records them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from offline_marl.core.partition import SCENARIOS, Partition
from offline_marl.core.seeding import derive
from offline_marl.core.types import Spec
from offline_marl.datasets.base import Dataset, Recording
from offline_marl.environments.base import Environment, Flags, JointEnv, Seen, Simulator, TeamActions


class Stage:
    """Many copies of a task to be recorded.

    A body is moved as a whole, so that its recording can be shared among agents in every way; a team acts as such.

    Args:
        world: The whole body, or the task as its team sees it.
        spec: The team; None for a body.
        name: The environment's.
        kind: Its entry in the registry.
    """

    def __init__(
        self, world: Any, spec: Spec | None, name: str = "a task", kind: type[Environment] = Environment
    ) -> None:
        self._world, self.spec, self.name, self.kind = world, spec, name, kind
        self.body = spec is None
        self.copies: int = world.copies
        """How many episodes can run side by side."""
        self.steps: int = world.max_steps
        """Of the longest episode."""
        self.wide: tuple[int, ...] = (world.action_dim,) if spec is None else (spec.n_agents, spec.act_dim)
        """Axes of one joint action as numbers; where actions are choices, of a number for each choice."""
        self._owned: npt.NDArray[np.bool_] = np.zeros((0, *self.wide), np.bool_)
        if spec is not None:
            own = np.eye(spec.n_agents, dtype=np.bool_)
            self._owned = own if spec.discrete else own[..., None]

    @classmethod
    def of_body(cls, simulator: Simulator) -> Stage:
        """A whole body."""
        return cls(simulator, None)

    @classmethod
    def of_team(cls, env: JointEnv) -> Stage:
        """A task as its team sees it."""
        return cls(env, env.spec)

    @classmethod
    def built(cls, name: str, kind: type[Environment], copies: int) -> Stage:
        """An environment of the registry, or one by its import path."""
        if name in SCENARIOS:
            return cls(kind.simulator(copies), None, name, kind)
        env = kind.make(None, copies)
        return cls(env, env.spec, name, kind)

    @property
    def versions(self) -> dict[str, str]:
        """The task's id and the versions of what its episodes depend on, as far as it tells."""
        return self._world.versions() if hasattr(self._world, "versions") else {}

    @property
    def agents(self) -> int:
        """How many there are; 0 on a body that nobody has shared out."""
        return len(self._owned)

    def share(self, partition: Partition) -> None:
        """Say who the agents of a body are."""
        self._owned = np.zeros((len(partition.agents), *self.wide), np.bool_)
        for agent, columns in enumerate(partition.act_index):
            self._owned[agent, list(columns)] = True

    def exchanged(self, actions: TeamActions, others: TeamActions, agents: Sequence[int]) -> TeamActions:
        """The actions, those of one agent of each episode taken from `others`."""
        taken: TeamActions = np.where(self._owned[list(agents)], others, actions).astype(actions.dtype, copy=False)
        return taken

    def reset(self, seeds: Sequence[int]) -> Seen:
        """Start one episode per seed."""
        return self._seen(self._world.reset(seeds))

    def step(self, actions: TeamActions) -> tuple[Seen, dict[str, Any], Flags]:
        """What is seen next, what a recording keeps of the step, and which copies have ended."""
        found: Any = self._world.step(actions)
        kept: Any
        flags: Any
        if self.spec is None:
            flags, rewards, seen = (found.terminations, found.truncations), found.rewards, self._seen(found.state)
            kept = flags
        else:
            seen, rewards, *flags = found
            kept = [np.repeat(flag[:, None], self.spec.n_agents, axis=1) for flag in flags]
        done = {"actions": actions, "rewards": rewards, "terminations": kept[0], "truncations": kept[1]}
        ended: Flags = flags[0] | flags[1]
        return seen, done, ended

    def shown(self, seen: Seen) -> dict[str, Any]:
        """What a recording keeps of what is seen."""
        if self.spec is None:
            return {"state": seen.state}
        return {"obs": seen.obs, "state": seen.state, "avail_actions": seen.avail_actions}

    def recorded(self, tensors: dict[str, Any]) -> Recording | Dataset:
        """What was kept, as data."""
        return Recording(**tensors) if self.spec is None else Dataset(**tensors, spec=self.spec)

    def uniform(self, lots: npt.NDArray[np.floating[Any]], seen: Seen) -> TeamActions:
        """Uniform actions from uniform lots in [0, 1)."""
        if self.spec is None:
            return 2 * lots - 1
        return uniform_actions(self.spec, lots, seen)

    def disturb(self, seeds: Sequence[int], levels: Sequence[float]) -> Any:
        """A function of actions, what was seen and the step: the actions with each episode's own noise.

        Gaussian of deviation `level`; where actions are choices, any choice with the chance `level`.
        """
        draws = [np.random.default_rng(derive(seed, "noise")) for seed in seeds]
        if self.spec is not None and self.spec.discrete:
            scale = np.array(levels)[:, None, None]
            slips = np.stack([draw.random((self.steps, self.spec.n_agents)) for draw in draws]) < scale
            lots = np.stack([draw.random((self.steps, *self.wide), np.float32) for draw in draws])
            return lambda actions, seen, step: np.where(slips[:, step], self.uniform(lots[:, step], seen), actions)
        present = 1 if self.spec is None else self.spec.present("act").numpy()
        each = zip(draws, levels, strict=True)
        shakes = np.stack([level * draw.standard_normal((self.steps, *self.wide)) * present for draw, level in each])
        shakes = shakes.astype(np.float32)
        return lambda actions, seen, step: np.clip(actions + shakes[:, step], -1, 1)

    def close(self) -> None:
        """Let go of the simulator's memory."""
        self._world.close()

    def _seen(self, shown: Any) -> Seen:
        return Seen(shown[:, None], shown) if self.spec is None else shown


def uniform_actions(spec: Spec, lots: npt.NDArray[np.floating[Any]], seen: Seen) -> TeamActions:
    """Uniform actions, or uniform choices among those that can be made, from lots in [0, 1)."""
    present = spec.present("act").numpy()
    if not spec.discrete:
        spread: TeamActions = (2 * lots - 1) * present
        return spread
    # The largest of uniform draws over the choices that can be made is any of them.
    chosen: TeamActions = np.where(present if seen.avail_actions is None else seen.avail_actions, lots, -1.0).argmax(-1)
    return chosen
