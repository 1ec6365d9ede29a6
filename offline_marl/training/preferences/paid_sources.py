"""Sources of runs whose reward changes while they play: what is drawn is always paid as steps are paid now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import torch

from offline_marl.algorithms.base import Algorithm
from offline_marl.core.config import build
from offline_marl.core.seeding import derive, seeded_globally
from offline_marl.core.types import Batch, Needs, Source
from offline_marl.datasets.normalize import obs_statistics
from offline_marl.preferences import registry
from offline_marl.preferences.reward_model import RewardModel
from offline_marl.runs.combinations import replays
from offline_marl.runs.config import RunConfig
from offline_marl.runs.folder import RunFolder
from offline_marl.runs.loading import make_algorithm
from offline_marl.tasks.data_tasks import Task
from offline_marl.training.preferences.course import RewardCourse
from offline_marl.training.preferences.live_pairs import episodes_of
from offline_marl.training.preferences.live_reward import MOST_VISITED, LiveReward, StateEntropy, visited_steps
from offline_marl.training.preferences.questions import Questions, refuse_unasked
from offline_marl.training.rewards import Rewards
from offline_marl.training.sources.choose import make_plain
from offline_marl.training.sources.episode_files import flatten_episodes, unflatten_episodes
from offline_marl.training.sources.online import Replay, plan_replay
from offline_marl.training.sources.recorded import EnvironmentSource
from offline_marl.training.sources.replay import Pace, ReplaySource

POLICIES = ("actor", "policy")
"""Networks that act."""
KEPT_BY = (*POLICIES, "target_policy", "inputs", "target_inputs")
"""Modules that a policy consists of."""
POLL_EVERY = 50
"""Batches of a replay between looks for answers; a batch of fresh episodes is worth a look each."""


class PaidReplay:
    """A replay whose steps are all paid anew whenever the reward changes.

    Args:
        replay: Plays, keeps and draws; it tells `course` of its episodes.
        course: Changes the reward.
    """

    def __init__(self, replay: ReplaySource, course: RewardCourse) -> None:
        self.replay, self.course = replay, course

    def sample(self, needs: Needs) -> Batch:
        """The next batch, paid by the newest version of the reward."""
        replay, course = self.replay, self.course
        replay.play()
        steps = replay.player.steps
        if course.wants_look(steps):
            course.look(replay.played(), steps)
            self._relabel()
        if course.proceed(steps, replay.drawn, replay.ring.oldest):
            self._relabel()
        return with_bonus(replay.draw(needs), course, steps, replay.rewards.factor)

    def _relabel(self) -> None:
        """Pay every step of the replay by the reward as it is now, episode by episode, as they are when they come."""
        for number, episode in self.replay.played():
            self.course.reward.about(number)
            self.replay.ring.pay(number, self.replay.learnt(episode).rewards)

    def state_dict(self) -> dict[str, Any]:
        """The replay's state, and that of the course."""
        return {**self.replay.state_dict(), "course": self.course.state_dict()}

    def refuse_lacking(self, state: Mapping[str, Any]) -> None:
        """See `ReplaySource.refuse_lacking`."""
        self.replay.refuse_lacking(state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where the saved source stood."""
        self.course.load_state_dict(state["course"])  # first: the replay is paid by it
        self.replay.load_state_dict(state)


class PaidEpisodes:
    """Fresh episodes of an on-policy learner, paid by the newest version of the reward.

    Args:
        source: Plays.
        course: Changes the reward.
        rewards: Pays by it.
    """

    def __init__(self, source: EnvironmentSource, course: RewardCourse, rewards: Rewards) -> None:
        self.source, self.course, self.rewards = source, course, rewards
        self.drawn = self.count = 0
        self.waiting: Batch | None = None
        """What was played last, until the reward that it is paid by is there."""
        source.keeps_state = course.questions is not None  # by which people are shown what they compare

    def sample(self, needs: Needs) -> Batch:
        """The next batch.

        Raises:
            SourceInterrupted: The reward waits for people, and was asked to stop: what was played is kept.
        """
        course = self.course
        batch = self.waiting = self._play(needs) if self.waiting is None else self.waiting
        course.proceed(self.source.steps, self.drawn, 0)
        self.waiting = None
        self.drawn += 1
        course.reward.visited = True
        paid = self.rewards.of(batch.to(self.source.device))
        return with_bonus(paid, course, self.source.steps, self.rewards.factor)

    def _play(self, needs: Needs) -> Batch:
        """Fresh episodes, which the course hears of."""
        course, entropy = self.course, self.course.reward.entropy
        batch = self.source.play(needs)
        episodes = episodes_of(batch)
        for number, episode in enumerate(episodes, self.count):
            course.hear(number, episode)
        self.count += len(episodes)
        if course.reward.source == "novelty":
            points = [visited_steps(episode) for episode in episodes]
            every = [entropy.points, *points] if len(entropy.points) else points
            entropy.visit(torch.cat(every)[-MOST_VISITED:], 0, self.count)
        return replace(batch, state=None, next_state=None)

    def state_dict(self) -> dict[str, Any]:
        """The source's state, that of the course, the episodes that may be asked about, and a batch that waits."""
        recent = [episode for _, episode in self.course.recent]
        kept = {"recent": flatten_episodes(recent, self.source.env.spec)} if recent else {}
        if self.waiting is not None:
            held = {item.name: getattr(self.waiting, item.name) for item in fields(Batch)}
            kept["waiting"] = {name: value for name, value in held.items() if value is not None}
        mine = {"drawn": self.drawn, "count": self.count, **kept}
        return {**self.source.state_dict(), "course": self.course.state_dict(), "episodes": mine}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where the saved source stood."""
        self.source.load_state_dict(dict(state))
        self.course.load_state_dict(state["course"])
        mine = state["episodes"]
        self.drawn, self.count = mine["drawn"], mine["count"]
        recent = unflatten_episodes(mine["recent"]) if "recent" in mine else []
        for number, episode in enumerate(recent, self.count - len(recent)):
            self.course.hear(number, episode)
        if recent and recent[0].state is None:  # of an earlier version: segments of one run hold the same fields
            self.source.keeps_state = False
        self.waiting = Batch(**mine["waiting"]) if "waiting" in mine else None


def with_bonus(batch: Batch, course: RewardCourse, steps: int, factor: float) -> Batch:
    """The batch with the members' deviation added to its rewards, at its present weight."""
    weight = course.bonus(steps)
    if not weight:
        return batch
    rewards = batch.rewards + factor * weight * course.reward.doubt(batch)
    return replace(batch, rewards=rewards if batch.mask is None else rewards.masked_fill(~batch.mask, 0.0))


def is_paid_while_acting(config: RunConfig) -> bool:
    """Whether what a run is paid changes as it goes on."""
    return config.teacher is not None or config.explore_steps > 0


def make_live_reward(config: RunConfig, task: Task, device: torch.device | str) -> LiveReward:
    """The reward that a run begins with.

    Raises:
        BadInputError: The reward model is unknown, or has no such settings.
    """
    model: RewardModel | None = None
    if config.teacher is not None:
        kind: type[RewardModel] = registry.get(config.reward_kind)
        statistics = obs_statistics(task.data, growing=not task.recorded)
        with seeded_globally(config.seed, "reward"):
            model = kind(build(kind.Config, config.reward_fit), task.spec, *statistics)
        model.place(device, derive(config.seed, "crops"))
    entropy = StateEntropy(config.explore_neighbours, device)
    source: Any = "novelty" if config.explore_steps else "nothing"
    return LiveReward(source, model, entropy, config.reward_credit, config.reward_caution)


def plan_paid(
    config: RunConfig, folder: RunFolder, task: Task, rewards: Rewards, learner: Algorithm
) -> tuple[RewardCourse, Callable[[], Source]]:
    """The course of a run's reward, and what gives its source once the run has begun.

    Args:
        config: The run's settings.
        folder: The run folder, which keeps questions and answers.
        task: What is played.
        rewards: Pay by a `LiveReward`.
        learner: The algorithm, on its device.

    Raises:
        BadInputError: Of a kind that says what does not fit together.
    """
    reward = rewards.replacement
    assert isinstance(reward, LiveReward)
    questions = None if config.teacher is None else Questions(config, folder, task)
    replay: Replay | None = None
    if replays(config, learner.needs):
        replay = plan_replay(config, folder, task, rewards, learner)
        begin, end = config.first_steps + config.explore_steps, _played(config)
    else:
        begin, end = config.explore_steps, float(config.environment_steps or config.steps * learner.batch_size)

    if questions is not None and not folder.config_file.is_file():
        refuse_unasked(config, begin, end, questions.rounds)

    def anew() -> None:
        if learner.updates or config.init is not None:
            begin_critics_anew(learner, config)

    poll_every = 1 if replay is None else POLL_EVERY
    course = RewardCourse(config, reward, questions, begin, end, folder.path, anew, poll_every)
    plain = make_plain(config, task, rewards, learner) if replay is None else None

    def make() -> Source:
        if questions is not None and config.asks_people:
            questions.open().store.close()  # the page waits for the first round there
        if replay is not None:
            return PaidReplay(replay.source(replay.rows, course), course)
        assert isinstance(plain, EnvironmentSource)
        return PaidEpisodes(plain, course, rewards)

    return course, make


def _played(config: RunConfig) -> float:
    return Pace(config.first_steps, config.updates_per_step).due(config.steps - 1)


def begin_critics_anew(learner: Algorithm, config: RunConfig) -> None:
    """Let everything but the policy be as it was before the first update, in place; of a learner without one nothing.

    Values of one reward say nothing of another; steps that an optimiser remembers of them neither.
    """
    modules = dict(learner.named_children())
    if not modules.keys() & set(POLICIES):
        return
    fresh = dict(make_algorithm(config, learner.spec).named_children())
    for name, module in modules.items():
        if name in KEPT_BY:
            continue
        module.load_state_dict(fresh[name].state_dict())
        for optimizer in learner.optimizers.values():
            for parameter in module.parameters():
                optimizer.state.pop(parameter, None)
