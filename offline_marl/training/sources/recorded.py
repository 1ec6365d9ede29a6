"""Sources of real rows: a data set's, and episodes that the policy plays in the environment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from offline_marl.algorithms.base import Algorithm
from offline_marl.core.errors import BadInputError, sentence
from offline_marl.core.types import Batch, History, Needs, Policy, Spec
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.environments.episodes import PolicyController, Step, run_episodes, seen_tensors
from offline_marl.environments.guarded import EnvironmentFailedError, Guarded
from offline_marl.training.loop import SourceStoppedError
from offline_marl.training.rewards import Rewards


class DatasetSource:
    """Rows of a data set, drawn uniformly with replacement.

    Args:
        buffer: The transitions, on the training device.
        batch_size: Rows of a batch; segments of a batch if segments are asked for.
        generator: Draws the rows; on the buffer's device.
    """

    def __init__(self, buffer: TransitionBuffer, batch_size: int, generator: torch.Generator) -> None:
        self.buffer = buffer
        self.batch_size = batch_size
        self.generator = generator
        self.drawn: Tensor | None = None
        """Numbers of the rows, or of the first steps, of the newest batch."""

    def sample(self, needs: Needs) -> Batch:
        """The next batch."""
        return self.draw(self.batch_size, needs)

    def draw(self, rows: int, needs: Needs) -> Batch:
        """So many rows, or whole episodes if these are asked for, each as likely as any other."""
        whole = needs.view == "segments" and not needs.length
        draw = self.buffer.draw_first if whole else self.buffer.draw
        self.drawn = draw(rows, self.generator, needs)
        return self.buffer.view(self.drawn, needs)

    def held(self, needs: Needs) -> float:
        """Number of rows there are to draw: transitions, segments that share no step, or whole episodes."""
        if needs.view == "transitions":
            return len(self.buffer)
        return len(self.buffer) / needs.length if needs.length else len(self.buffer.first)

    def masks(self, needs: Needs) -> bool:
        """See `TransitionBuffer.masks`."""
        return self.buffer.masks(needs)

    def state_dict(self) -> dict[str, Any]:
        """The generator's state is the whole cursor."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where the saved source stood."""
        self.generator.set_state(state["generator"].cpu())


class EnvironmentSource:
    """Whole episodes that the current policy plays in the environment, as many as an update eats.

    Every batch begins with fresh episodes, so that nothing of a simulator needs to be saved.

    Args:
        policy: Acts, with exploration.
        env: Its copies play side by side.
        rows: Transitions wanted of each batch; rounds of episodes are played until there are so many.
        generator: Draws the seeds of episodes; on the CPU.
        device: Where batches go.
        rewards: Converts what the environment pays to what is learnt from.
    """

    def __init__(
        self,
        policy: Policy,
        env: Guarded,
        rows: int,
        generator: torch.Generator,
        device: torch.device | str,
        rewards: Rewards,
    ) -> None:
        self.policy, self.env, self.rows, self.device = policy, env, rows, device
        self.generator, self.rewards = generator, rewards
        self.steps = 0
        """Environment steps so far."""
        self.keeps_state = False
        """Whether batches hold the environment's global state, which no on-policy learner reads."""

    def sample(self, needs: Needs) -> Batch:
        """Segments [episode, time], as long as the longest; `mask` is false after an episode's end."""
        return self.rewards.of(self.play(needs).to(self.device))

    def play(self, needs: Needs) -> Batch:
        """The same with the rewards that the environment pays, on the CPU.

        Raises:
            SourceStoppedError: The environment died, hung, or showed what nobody could learn from; all stands as before
                the batch, which is played again.
        """
        before, draws = self.state_dict(), self._exploration()
        try:
            return self._play_enough(needs)
        except (EnvironmentFailedError, BadInputError) as error:
            self.load_state_dict(before)
            if draws is not None:
                draws[0].set_state(draws[1])
            failed = "" if isinstance(error, EnvironmentFailedError) else f"The environment {self.env.name} failed: "
            raise SourceStoppedError(f"{failed}{sentence(error)}") from error

    def _exploration(self) -> tuple[torch.Generator, Tensor] | None:
        """The generator that the policy explores by, and its state."""
        drawing = self.policy.generator if isinstance(self.policy, Algorithm) else None
        return None if drawing is None else (drawing, drawing.get_state())

    def _play_enough(self, needs: Needs) -> Batch:
        rounds: list[Batch] = []
        played = episodes = 0
        while played < self.rows:
            count = self._episodes(played, episodes)
            rounds.append(self._play(count))
            steps = int(rounds[-1].mask.any(-1).sum())  # type: ignore[union-attr]
            played += steps
            self._count(self.steps + steps)
            episodes += count
        longest = max(batch.rewards.shape[1] for batch in rounds)
        batch = Batch.cat([lengthened(batch, longest) for batch in _with_choices(rounds, self.env.spec)])
        if needs.next_actions:
            assert batch.mask is not None
            following = torch.cat([batch.mask[:, 1:], torch.zeros_like(batch.mask[:, :1])], dim=1)
            batch = batch.with_next_actions(torch.zeros_like(batch.actions[:, 0]), following)
        return batch

    def _episodes(self, played: int, episodes: int) -> int:
        """Of the next round: as many as are likely to be enough, from the mean length so far."""
        lacking = self.rows - played
        if not episodes:
            return min(self.env.copies, -(-lacking // self.env.max_steps))
        # Growing slowly: the first episodes of a round that is too small say little of the others.
        return min(self.env.copies, -(-lacking * episodes // played), 4 * episodes)

    def _play(self, copies: int) -> Batch:
        seeds: dict[int, None] = {}
        while len(seeds) < copies:
            seeds[int(torch.randint(2**31, (), generator=self.generator))] = None
        controller = PolicyController(self.policy, self.env.spec, copies, self.device, explore=True)
        steps = [
            _rows(step, controller.read.get("history"), controller.memory.read().get("history"), self.keeps_state)
            for step in run_episodes(self.env, list(seeds), controller)
        ]
        return Batch.stack(_with_choices(steps, self.env.spec), dim=1)

    def state_dict(self) -> dict[str, Any]:
        """The generator's state is the whole cursor; beside it stands what has been played."""
        return {"generator": self.generator.get_state(), "environment_steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where the saved source stood."""
        self.generator.set_state(state["generator"].cpu())
        self._count(state.get("environment_steps", 0))

    def _count(self, steps: int) -> None:
        self.steps = steps
        if isinstance(self.policy, Algorithm):
            self.policy.environment_steps = steps


def _rows(step: Step, history: History | None, next_history: History | None, keeps_state: bool = False) -> Batch:
    """One step of each episode; histories lie where the policy is, all else on the CPU."""
    (obs, avail), (next_obs, next_avail) = (seen_tensors(seen, "cpu") for seen in (step.seen, step.next_seen))
    running = torch.from_numpy(step.running)
    agents = obs.shape[:2]
    over, cut = (torch.from_numpy(flags) & running.unsqueeze(-1) for flags in step.agent_flags(agents[1]))
    there = running.unsqueeze(-1).expand(agents)
    if step.seen.present is not None:
        present = torch.from_numpy(step.seen.present)
        obs, there = obs.masked_fill(~present.unsqueeze(-1), 0.0), there & present
    after = there & ~over
    if step.next_seen.present is not None:  # late-comers among them
        coming = torch.from_numpy(step.next_seen.present) & running.unsqueeze(-1)
        after = torch.where(torch.from_numpy(step.ended).unsqueeze(-1), after, coming)
    states = (step.seen.state, step.next_seen.state) if keeps_state else (None, None)
    state, next_state = (None if each is None else torch.from_numpy(each) for each in states)
    return Batch(
        obs=obs,
        actions=torch.from_numpy(step.actions),
        rewards=torch.from_numpy(step.rewards),
        next_obs=next_obs,
        terminations=over,
        truncations=cut & ~over,
        history=history,
        next_history=next_history,
        state=state,
        next_state=next_state,
        avail_actions=avail,
        next_avail_actions=next_avail,
        mask=there,
        next_present=after,
    )


UNCOUNTED = ("rewards", "terminations", "truncations", "mask", "present", "next_present", "next_mask", "next_actions")
"""Fields that are 0 where nothing counts."""


def _with_choices(parts: list[Batch], spec: Spec) -> list[Batch]:
    """Batches with available actions where any has them; an environment that tells none allows all."""
    names = ("avail_actions", "next_avail_actions")
    if all(getattr(part, name) is None for part in parts for name in names):
        return parts
    every = spec.present("act")
    return [
        replace(
            part,
            **{name: every.expand(*part.rewards.shape, -1) for name in names if getattr(part, name) is None},
        )
        for part in parts
    ]


def lengthened(batch: Batch, length: int) -> Batch:
    """Segments with their last step repeated up to this length, where nothing counts."""
    lacking = length - batch.rewards.shape[1]
    if not lacking:
        return batch
    longer = batch.map(lambda value: torch.cat([value, value[:, -1:].expand(-1, lacking, *value.shape[2:])], dim=1))
    for name in UNCOUNTED:
        value = getattr(longer, name)
        if value is not None:
            value[:, -lacking:] = 0
    return longer
