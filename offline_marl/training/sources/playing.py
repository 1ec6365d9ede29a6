"""Episodes that a policy plays step by step, between updates, and that go on after a restart from seed and actions."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offline_marl.algorithms.base import Algorithm
from offline_marl.collection.recordable import uniform_actions
from offline_marl.core.types import Episode, Memory, Spec
from offline_marl.datasets.arrays.presence import blanked, free
from offline_marl.environments.base import Floats, Seen, TeamActions
from offline_marl.environments.episodes import PolicyController, Step, run_episodes
from offline_marl.environments.guarded import Guarded

STEP_FIELDS = ("actions", "rewards", "terminations", "truncations", "running")
SEEN_FIELDS = tuple(item.name for item in fields(Seen))


class Explorer(PolicyController):
    """A policy that explores, and before it has warmed up acts uniformly at random over what is available.

    Args:
        policy: Acts; asked during the warm-up too, so that a memory of its own follows the episode.
        spec: The team.
        copies: Episodes side by side.
        device: Where the policy is.
        warm: Number of environment steps from which the policy's actions are taken.
        generator: Draws the uniform actions; on the CPU.
    """

    def __init__(
        self, policy: Algorithm, spec: Spec, copies: int, device: torch.device, warm: int, generator: torch.Generator
    ) -> None:
        super().__init__(policy, spec, copies, device, explore=True)
        self.learner, self.spec, self.warm, self.generator = policy, spec, warm, generator

    def act(self, seen: Seen, step: int) -> TeamActions:
        """The policy's actions, or uniform ones."""
        chosen = super().act(seen, step)
        if self.learner.environment_steps >= self.warm:
            return chosen
        shape = (len(seen.obs), self.spec.n_agents, self.spec.act_dim)
        uniform = uniform_actions(self.spec, torch.rand(shape, generator=self.generator).numpy(), seen)
        if seen.present is not None:
            away = ~seen.present
            uniform = np.where(away.reshape(*away.shape, *[1] * (uniform.ndim - 2)), 0, uniform).astype(uniform.dtype)
        self._last = self._last[0], torch.from_numpy(uniform).to(self._last[1].device)
        return uniform


class Retracing:
    """A controller that repeats recorded actions first, while the one behind it neither acts nor remembers."""

    def __init__(self, actions: Sequence[TeamActions], behind: Explorer) -> None:
        self.actions, self.behind, self.left = actions, behind, len(actions)

    def act(self, seen: Seen, step: int) -> TeamActions:
        """The recorded actions of this step, or those of the one behind."""
        return self.actions[step] if step < len(self.actions) else self.behind.act(seen, step)

    def remember(self, rewards: Floats) -> None:
        """Nothing of what is repeated."""
        if self.left:
            self.left -= 1
        else:
            self.behind.remember(rewards)


@dataclass
class Round:
    """Episodes under way side by side, one for each seed, until the last one has ended."""

    seeds: list[int]
    explorer: Explorer
    steps: Iterator[Step]
    taken: list[Step]

    def episode(self, copy: int, length: int, cut: bool = False) -> Episode:
        """The first steps of one copy as an episode; `cut` where it goes on in the environment."""
        steps = self.taken[:length]
        seen = [*(step.seen for step in steps), steps[-1].next_seen]

        def stacked(name: str, parts: Sequence[Any]) -> Tensor:
            return torch.from_numpy(np.stack([getattr(part, name)[copy] for part in parts]))

        flags = [step.agent_flags(self.explorer.spec.n_agents) for step in steps]
        over, cuts = (torch.from_numpy(np.stack([flag[kind][copy] for flag in flags])) for kind in range(2))
        present = None
        if seen[0].present is not None:
            present = stacked("present", seen[:-1])
        if cut:
            cuts[-1] |= (~over[-1]) & (torch.ones_like(over[-1]) if present is None else present[-1])
        return _with_absence(
            Episode(
                obs=stacked("obs", seen),
                actions=stacked("actions", steps),
                rewards=stacked("rewards", steps),
                terminations=over,
                truncations=cuts & ~over,
                state=None if seen[0].state is None else stacked("state", seen),
                avail_actions=_avail(seen, copy, self.explorer.spec),
                mask=_absence(present, over),
            ),
            self.explorer.spec,
        )


class Player:
    """Whole episodes of a learner in an environment, rounds of them side by side, one step at a time.

    A round ends with its last episode; copies whose episode ends before wait for it.

    Args:
        learner: Acts with exploration; its `environment_steps` is kept here.
        env: Where it plays.
        copies: Episodes side by side.
        seeds: Draws the seeds of episodes; on the CPU.
        uniform: Draws the actions of the warm-up; on the CPU.
        device: Where the learner is.
        warm: Environment steps of uniform actions before its own.
    """

    def __init__(
        self,
        learner: Algorithm,
        env: Guarded,
        copies: int,
        seeds: torch.Generator,
        uniform: torch.Generator,
        device: torch.device,
        warm: int,
    ) -> None:
        self.learner, self.env, self.copies, self.device, self.warm = learner, env, copies, device, warm
        self.seeds, self.uniform = seeds, uniform
        self.steps = 0
        """Environment steps so far, of all episodes together."""
        self.round: Round | None = None
        learner.plays = True

    def advance(self) -> list[Episode]:
        """Take one step of every episode under way, beginning new ones if there are none.

        Where the environment fails, whatever was drawn for the step is drawn again by who takes it later.

        Returns:
            The episodes that ended with it.
        """
        draws = self.uniform, self.learner.generator, *(() if self.round else (self.seeds,))
        before = [generator.get_state() for generator in draws]
        try:
            if self.round is None:
                self.round = self._begin(self._new_seeds(), [])
            step = next(self.round.steps)
        except Exception:
            for generator, state in zip(draws, before, strict=True):
                generator.set_state(state)
            raise
        self.round.taken.append(step)
        self._count(self.steps + int(np.count_nonzero(step.running)))
        ended = step.ended
        if not ended.any():
            return []
        copies = np.flatnonzero(step.running & ended).tolist()
        finished = [self.round.episode(copy, len(self.round.taken)) for copy in copies]
        if ended.all():
            self.round = None
        return finished

    def _count(self, steps: int) -> None:
        self.steps = steps
        # Past the module's own way of setting attributes, which costs as much as a small simulator's step.
        self.learner.__dict__["environment_steps"] = steps

    def _new_seeds(self) -> list[int]:
        seeds: dict[int, None] = {}
        while len(seeds) < self.copies:
            seeds[int(torch.randint(2**31, (), generator=self.seeds))] = None
        return list(seeds)

    def _begin(self, seeds: list[int], actions: Sequence[TeamActions]) -> Round:
        explorer = Explorer(self.learner, self.env.spec, len(seeds), self.device, self.warm, self.uniform)
        controller = Retracing(actions, explorer) if actions else explorer
        return Round(seeds, explorer, run_episodes(self.env, seeds, controller), [])

    def state_dict(self) -> dict[str, Any]:
        """Counts, generators, and of the episodes under way their seeds, what was done and what came of it."""
        state: dict[str, Any] = {
            "steps": self.steps,
            "seeds": self.seeds.get_state(),
            "uniform": self.uniform.get_state(),
        }
        if self.round is not None:
            state["round"] = {"seeds": self.round.seeds}
        if self.round is not None and self.round.taken:
            taken = self.round.taken
            state["round"] |= {
                "steps": {name: _stacked([getattr(step, name) for step in taken]) for name in STEP_FIELDS},
                "seen": _seen_state([taken[0].seen, *(step.next_seen for step in taken)]),
                "memory": memory_state(self.round.explorer.memory),
            }
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> list[Episode]:
        """Go on where the saved one stood: episodes under way are played again from their seeds and actions.

        Returns:
            Those that cannot go on, because the environment did not repeat them, as episodes that were cut.
        """
        self._count(state["steps"])
        self.seeds.set_state(state["seeds"].cpu())
        self.uniform.set_state(state["uniform"].cpu())
        saved = state.get("round")
        if saved is None:
            return []
        then = _steps_of(saved) if "steps" in saved else []
        retraced = self._begin(list(saved["seeds"]), [step.actions for step in then])
        for step in then:
            again = next(retraced.steps, None)
            if again is None or not _same(step, again):
                print(
                    f"warning: {self.env.name} does not repeat an episode from its seed and actions: this run's "
                    "resumes are not equal bit for bit; the episodes that were under way end where the run was saved.",
                    file=sys.stderr,
                )
                retraced.taken = then
                return [retraced.episode(int(copy), len(then), True) for copy in np.flatnonzero(~then[-1].ended)]
            retraced.taken.append(again)
        if then:
            restore_memory(retraced.explorer, saved["memory"], then)
        self.round = retraced
        return []


def memory_state(memory: Memory) -> dict[str, Any] | None:
    """What a memory of episodes under way says of itself; None of one that has no `state_dict`."""
    told = getattr(memory, "state_dict", None)
    return None if told is None else dict(told())


def restore_memory(explorer: Explorer, state: Mapping[str, Any] | None, steps: Sequence[Step]) -> None:
    """Remember again: what was saved, or step by step what was seen, done and earned."""
    restore = getattr(explorer.memory, "load_state_dict", None)
    if state is not None and restore is not None:
        restore(state)
        return
    for step in steps:
        values = (step.seen.obs, step.actions, step.rewards)
        explorer.memory.remember(*(torch.from_numpy(value).to(explorer.device) for value in values))


def _avail(seen: Sequence[Seen], copy: int, spec: Spec) -> Tensor | None:
    """Available actions of one copy; an environment that tells none at a step allows all there."""
    if all(part.avail_actions is None for part in seen):
        return None
    every = spec.present("act").numpy()
    rows = [every if part.avail_actions is None else part.avail_actions[copy] for part in seen]
    return torch.from_numpy(np.stack(rows))


def _absence(present: Tensor | None, over: Tensor) -> Tensor | None:
    """Where agents are there; None where nobody leaves, or terminates alone."""
    if present is not None and not bool(present.all()):
        return present
    return torch.ones_like(over) if bool((over != over[:, :1]).any()) else None


def _with_absence(episode: Episode, spec: Spec) -> Episode:
    """The episode with zeros where agents are away, and all choices allowed there."""
    if episode.mask is None:
        return episode
    there = torch.cat([episode.mask, episode.mask[-1:]])
    changed = {
        "obs": blanked(episode.obs, there),
        "actions": blanked(episode.actions, episode.mask),
        "rewards": blanked(episode.rewards, episode.mask),
        "terminations": episode.terminations & episode.mask,
        "truncations": episode.truncations & episode.mask,
    }
    if episode.avail_actions is not None:
        changed["avail_actions"] = free(episode.avail_actions, there, spec)
    return Episode(**{**{item.name: getattr(episode, item.name) for item in fields(Episode)}, **changed})


def _stacked(parts: Sequence[Any]) -> Tensor:
    return torch.from_numpy(np.stack(parts))


def _seen_state(seen: Sequence[Seen]) -> dict[str, Any]:
    """What was seen, each field a list of its arrays, None where there was none."""
    return {
        name: [None if (value := getattr(part, name)) is None else torch.from_numpy(value) for part in seen]
        if any(getattr(part, name) is None for part in seen)
        else _stacked([getattr(part, name) for part in seen])
        for name in SEEN_FIELDS
        if any(getattr(part, name) is not None for part in seen)
    }


def _steps_of(saved: Mapping[str, Any]) -> list[Step]:
    count = len(saved["steps"]["rewards"])
    steps = {name: saved["steps"][name].numpy() for name in STEP_FIELDS}

    def seen(number: int) -> Seen:
        values = {name: column[number] for name, column in saved["seen"].items()}
        shown: dict[str, Any] = {name: None if value is None else value.numpy() for name, value in values.items()}
        return Seen(**shown)

    return [
        Step(seen=seen(number), next_seen=seen(number + 1), **{name: steps[name][number] for name in STEP_FIELDS})
        for number in range(count)
    ]


def _same(then: Step, now: Step) -> bool:
    """Whether two steps are equal in all that running copies showed, to the bit."""
    return all(_equal(getattr(then, name), getattr(now, name), then.running) for name in STEP_FIELDS) and all(
        _equal(getattr(one, name), getattr(other, name), then.running)
        for one, other in ((then.seen, now.seen), (then.next_seen, now.next_seen))
        for name in SEEN_FIELDS
    )


def _equal(one: npt.NDArray[Any] | None, other: npt.NDArray[Any] | None, running: npt.NDArray[np.bool_]) -> bool:
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and one.dtype == other.dtype and np.array_equal(one[running], other[running])
