"""Interfaces of an environment: one task in many copies, as a whole body (Simulator) or for a team (JointEnv).

Arrays at this border are numpy float32. No simulator is imported before a copy of it is built.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from offline_marl.core.config import suggest
from offline_marl.core.errors import BadInputError
from offline_marl.core.partition import Partition
from offline_marl.core.registry import Registry, RegistryError
from offline_marl.core.types import DataError, Spec
from offline_marl.environments import registry

Floats = npt.NDArray[np.float32]
State = Annotated[Floats, "copy state"]
JointActions = Annotated[Floats, "copy joint_act"]
PerCopy = Annotated[Floats, "copy"]
TeamActions = npt.NDArray[Any]
"""Float32 [copy, agent, act] in [-1, 1], or int64 choices [copy, agent]."""
Flags = Annotated[npt.NDArray[np.bool_], "copy"]
AgentFlags = Annotated[npt.NDArray[np.bool_], "copy agent"]
Frame = Annotated[npt.NDArray[np.uint8], "height width 3"]
"""A picture, red, green and blue."""


NOTHING = -1
"""The label of an agent that follows none of the conventions."""


class NoPictureError(DataError):
    """An environment of which nothing can make a frame, whatever is installed; the message is one sentence."""


class MissingSimulatorError(BadInputError, ImportError):
    """The simulator of an environment is not installed; the message says what to install."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of one step of a simulator's copies; the arrays belong to the caller."""

    state: State
    rewards: PerCopy
    terminations: Flags
    truncations: Flags


@dataclass(frozen=True, slots=True)
class Seen:
    """Observations of the teams in all running copies; the arrays belong to the caller."""

    obs: Annotated[Floats, "copy agent obs"]
    """Zero-padded to the widest agent."""
    state: State | None = None
    avail_actions: Annotated[npt.NDArray[np.bool_], "copy agent choice"] | None = None
    present: AgentFlags | None = None
    """Who is there and acts; None where all always are.

    Whoever is away sees zeros and has all choices, once it has seen what its last step led to.
    """
    terminated: AgentFlags | None = None
    """Goes with `present`: whose last step was the one before, by a termination.

    At the end of an episode it speaks of all who were there: those for whom it is false were truncated, whatever the
    flags of the copy say.
    """


class Simulator(Protocol):
    """Many copies of one task, with the joint observation as state and the joint action.

    A finished copy stays as it is: its state repeats, its rewards are 0 and its flags stay set until the next reset.
    """

    copies: int
    """How many episodes can run side by side."""
    max_steps: int
    """After so many steps an episode is truncated."""
    state_dim: int
    action_dim: int

    def reset(self, seeds: Sequence[int]) -> State:
        """Start one episode per seed; with fewer seeds than copies only the first ones run.

        An episode depends on its seed and its actions alone, never on which copies run beside it.
        """
        ...

    def step(self, actions: JointActions) -> Outcome:
        """Move every running copy that has not finished; actions lie in [-1, 1] and are clipped to it."""
        ...

    def versions(self) -> dict[str, str]:
        """The task's id and the versions of all that its trajectories depend on."""
        ...

    def render(self, copy: int = 0) -> Frame:
        """Render one copy, see `JointEnv.render`."""
        ...

    def close(self) -> None:
        """Let go of the simulator's memory."""
        ...


@dataclass(frozen=True, slots=True)
class Conventions:
    """The convention each agent followed by the end of its episode, where equally good ones exclude each other."""

    names: tuple[str, ...]
    followed: Annotated[npt.NDArray[np.int64], "episode agent"]
    """Position in `names`, or `NOTHING`."""
    targets: Annotated[npt.NDArray[np.float64], "episode xy"] | None = None
    """Where the episode was to lead, for pictures."""

    @property
    def agreed(self) -> Annotated[npt.NDArray[np.bool_], "episode"]:
        """Whether all agents followed the same convention."""
        first = self.followed[:, :1]
        same: npt.NDArray[np.bool_] = ((self.followed == first) & (first != NOTHING)).all(axis=1)
        return same

    def plain(self) -> dict[str, Any]:
        """As JSON can hold it."""
        targets = None if self.targets is None else self.targets.tolist()
        return {"names": list(self.names), "followed": self.followed.tolist(), "targets": targets}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Conventions:
        """From what `plain` returned."""
        targets = None if plain["targets"] is None else np.array(plain["targets"])
        return cls(tuple(plain["names"]), np.array(plain["followed"]), targets)

    def counts(self) -> dict[str, int]:
        """Episodes in which all followed each convention, and in which they did not agree (`apart`)."""
        agreed, choice = self.agreed, self.followed[:, 0]
        counts = {name: int((agreed & (choice == number)).sum()) for number, name in enumerate(self.names)}
        return {**counts, "apart": int((~agreed).sum())}


class JointEnv(Protocol):
    """Many copies of one task as a team of agents sees them; finished copies stay as they are."""

    spec: Spec
    copies: int
    max_steps: int

    def reset(self, seeds: Sequence[int]) -> Seen:
        """Start one episode per seed, see `Simulator.reset`."""
        ...

    def step(self, actions: TeamActions) -> tuple[Seen, Floats, Flags, Flags]:
        """Let all agents act at once.

        Returns:
            What they see next, rewards [copy, agent], terminations [copy] and truncations [copy].
        """
        ...

    def versions(self) -> dict[str, str]:
        """The task's id, where it has one, and the versions of all that its episodes depend on."""
        ...

    def render(self, copy: int = 0) -> Frame:
        """Render one copy, off screen.

        Raises:
            DataError: It cannot be drawn.
        """
        ...

    def close(self) -> None:
        """Let go of the simulator's memory."""
        ...


class ScriptedExpert(Protocol):
    """A hand-written policy that data is made with."""

    @property
    def name(self) -> str:
        """What its environment calls it."""
        ...

    def act(self, seen: Floats, /) -> npt.NDArray[Any]:
        """Joint actions in [-1, 1] from whole states, without noise; where a task is made for a team, from its obs."""
        ...


class Environment(ABC):
    """Factory of one task's copies and scripted experts, as the registry holds it; its methods belong to the class.

    A task is either one body, which a partition shares among agents, or made for a team.
    """

    experts: ClassVar[tuple[str, ...]] = ()
    """Names that `scripted` knows."""
    for_scores: ClassVar[str] = ""
    """Setting that it is made with under which other actions are taken than are told: for scores, not for recording."""

    @classmethod
    def simulator(cls, copies: int) -> Simulator:
        """The whole body in many copies.

        Raises:
            DataError: The task is made for a team.
        """
        raise DataError(f"{cls.__name__} is made for a team: there is no whole body to move.")

    @classmethod
    @abstractmethod
    def make(cls, partition: Partition | None, copies: int) -> JointEnv:
        """The body shared among agents as the partition says; with None, the task that is made for a team."""

    @classmethod
    def told(cls, settings: Mapping[str, Any], max_steps: int | None = None) -> type[Environment]:
        """The task made with these settings, and with episodes of this length.

        Raises:
            DataError: It takes none.
        """
        if settings or max_steps:
            raise DataError(f"{cls.__name__} is what it is: it takes no settings and no length of episodes.")
        return cls

    @classmethod
    def scripted(cls, name: str) -> ScriptedExpert:
        """The scripted expert called `name`.

        Raises:
            RegistryError: There is none of that name; the answer lists all.
        """
        raise RegistryError(f"{cls.__name__} has no scripted expert '{name}': {suggest(name, cls.experts)}.")

    @classmethod
    def conventions(cls, ends: State, partition: Partition | None) -> Conventions | None:
        """Which convention each agent followed, from the last states of episodes; None where there are none."""
        return None


def refuse_scores_only(name: str, kind: type[Environment]) -> None:
    """Refuse to keep steps whose actions are not those that were taken.

    Raises:
        DataError: The environment is made for scores.
    """
    if kind.for_scores:
        raise DataError(
            f"{name} with {kind.for_scores} is for scores alone: some agents do not what they are told, so that its "
            "steps cannot be recorded or learnt from."
        )


environments: Registry[type[Environment]] = registry
