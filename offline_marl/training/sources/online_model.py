"""Learning in imagination of what is played: rounds of acting, of fitting a world model to the replay, of imagining.

Each round the current policy plays, the model learns on from the replay, and the learner makes its updates on
episodes that its policies act out in the model from replayed steps. The model lies in the run's checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from offline_marl.algorithms.base import Algorithm
from offline_marl.core.config import ConfigError, build
from offline_marl.core.progress import progress_bar
from offline_marl.core.seeding import Generators, derive, seeded_globally
from offline_marl.core.types import Batch, Metrics, Needs, Source
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.datasets.episode_ring import EpisodeRing
from offline_marl.runs.config import RunConfig
from offline_marl.runs.folder import RunFolder
from offline_marl.runs.sizes import refuse_too_large
from offline_marl.runs.stopping import asked
from offline_marl.runs.unused_flags import warn_unread
from offline_marl.tasks.data_tasks import Task
from offline_marl.training.loop import SourceInterrupted
from offline_marl.training.models.cost import tell_cost
from offline_marl.training.models.fit import facts_of, held_out_errors
from offline_marl.training.models.foresight import evenly
from offline_marl.training.models.rows import RowSource, Visits, source_for
from offline_marl.training.rewards import Rewards
from offline_marl.training.sources.imagined import Imagination, Plan
from offline_marl.training.sources.online import plan_replay
from offline_marl.training.sources.replay import Pace, ReplaySource
from offline_marl.worldmodels.base import Phase, WorldModel, worldmodels
from offline_marl.worldmodels.rollout import Caution

MOST_ASKED = 1_024
"""New steps of a round on which the model's error is measured before it learns from them."""
OF_FITS = ("steps", "eval_every", "holdout", "patience", "min_improvement", "tokenizer_steps", "cosine_steps")
"""Settings of a fit that ends."""
SILENT = 3.0
"""Seconds of a round's fit before a bar shows how far it is."""

CautionOf = Callable[[WorldModel, TransitionBuffer | None], Caution]
"""How much doubt costs, and where it cuts, given the model and rows that it is measured on, if there are some."""


@dataclass(frozen=True, slots=True)
class RoundPace(Pace):
    """Play before rounds of updates instead of before each one."""

    together: int
    """Updates of a round."""

    def due(self, update: int) -> float:
        """Environment steps that are played before this update, the same for all of its round."""
        updates = (update // self.together + 1) * self.together
        return self.warm + round(updates / self.updates_per_step)


class GrowingFit:
    """A world model that learns on, round by round, from a replay that grows.

    Args:
        model: On the training device.
        ring: The replay, with the environment's own rewards.
        updates: Of each phase in a round.
        first_rounds: Rounds' updates that are made in the first one.
        visits: Counts how often each step was drawn, for each phase, where seldom drawn ones come first; empty
            where all come alike.
        generator: Draws the rows; on the ring's device.
    """

    def __init__(
        self,
        model: WorldModel,
        ring: EpisodeRing,
        updates: Mapping[Phase, int],
        first_rounds: int,
        visits: dict[Phase, Visits],
        generator: torch.Generator,
    ) -> None:
        self.model, self.ring, self.updates, self.first_rounds = model, ring, updates, first_rounds
        self.visits, self.generator = visits, generator
        self.rounds = self.known = 0
        self.made: int | None = None
        """Updates of the round that is under way; None between rounds."""
        self.loss = self.error = torch.zeros(())
        self.parts: Metrics = {}
        """What the model says of its parts on each round's new steps, such as `model/tokenizer/in_use`."""

    def proceed(self) -> None:
        """One round: the error on what is new, then the updates; one that was interrupted goes on where it stood.

        Raises:
            SourceInterrupted: The process was asked to stop; what has been learnt by then is part of the state.
        """
        model, ring = self.model, self.ring.windowed(self.model.window)
        if self.made is None:
            self._meet(ring)
            self.made = 0
        rounds = 1 if self.rounds else self.first_rounds
        plan = [phase for phase in model.phases for _ in range(self.updates[phase] * rounds)]
        sources = {phase: self._rows(phase, ring) for phase in model.phases}
        what = f"model, round {self.rounds + 1}"
        with progress_bar(len(plan), what, "update", self.made, leave=False, silent=SILENT) as bar:
            for phase in plan[self.made :]:
                if asked.is_set():
                    raise SourceInterrupted
                metrics = model.learn(phase, sources[phase].sample(model.needs))
                self.loss = metrics["loss/model"] if phase == "model" else self.loss
                self.made += 1
                bar.update()
        self.made = None
        self.rounds += 1

    def _rows(self, phase: Phase, ring: EpisodeRing) -> RowSource:
        rows = source_for(self.model, ring, self.generator)
        if phase in self.visits:
            rows.visits = self.visits[phase]
            rows.visits.follow(ring)
        return rows

    def _meet(self, ring: EpisodeRing) -> None:
        """Take note of the episodes that have come since the round before."""
        held = len(ring.first)
        new = min(ring.count - self.known, held)
        self.known = ring.count
        if not new:
            return
        index = torch.arange(int(ring.first[held - new]), len(ring), device=ring.device)
        self.model.widen(ring.transitions(index))
        asked_of = evenly(index, MOST_ASKED)
        errors = held_out_errors(self.model, ring, asked_of)
        self.model.choose(errors)
        self.error = errors.mean()
        with torch.no_grad():
            told = self.model.describe(ring.transitions(asked_of))
        self.parts = {
            f"model/{part}/{name}": torch.tensor(value)
            for part, numbers in told.items()
            for name, value in numbers.items()
            if isinstance(value, float)
        }

    def state_dict(self) -> dict[str, Any]:
        """The model, and all that decides its next updates."""
        return {
            "model": self.model.state_dict(),
            "generator": self.generator.get_state(),
            "visits": {phase: visits.state_dict() for phase, visits in self.visits.items()},
            "counts": [self.rounds, self.known],
            "made": self.made,
            "told": [self.loss, self.error],
            "parts": self.parts,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where the saved one stood."""
        self.model.load_state_dict(state["model"])
        self.generator.set_state(state["generator"].cpu())
        for phase, visits in self.visits.items():
            visits.load_state_dict(state["visits"][phase], self.ring.device)
        self.rounds, self.known = state["counts"]
        self.made = state.get("made")
        self.loss, self.error = (value.to(self.ring.device) for value in state["told"])
        self.parts = dict(state.get("parts", {}))


class OnlineModelSource:
    """Fresh rollouts of the current policy, from steps that it played, in a model that is fitted to them.

    Args:
        replay: Plays, and keeps what the environment paid.
        fit: Learns from the replay.
        imagination: Makes the rollouts; its policy plays, too.
        together: Updates of a round.
        caution_of: How cautious rollouts are, from the first round on.
        remeasured: Whether that is measured anew in each round.
    """

    def __init__(
        self,
        replay: ReplaySource,
        fit: GrowingFit,
        imagination: Imagination,
        together: int,
        caution_of: CautionOf,
        remeasured: bool,
    ) -> None:
        self.replay, self.fit, self.imagination, self.together = replay, fit, imagination, together
        self.caution_of, self.remeasured, self.learner = caution_of, remeasured, replay.player.learner
        self.window = imagination.buffer.window
        # Of choices; in imagination they are drawn from the policy as it is, whose likelihoods are learnt from.
        self.temperature = float(getattr(self.learner.config, "behaviour_temperature", 1.0))

    @property
    def metrics(self) -> Metrics:
        """How the model did in this round: its loss; its error and its parts on what was new, before it learnt that."""
        return {"model/loss": self.fit.loss, "model/error": self.fit.error, **self.fit.parts}

    def sample(self, needs: Needs) -> Batch:
        """Segments [row, time], after a round's play and fit where one begins.

        Raises:
            SourceInterrupted: The process was asked to stop in the middle of a fit.
            SourceStoppedError: The environment died, hung, or showed what nobody could learn from.
            BrokenModelError: Too many imagined rows stop being finite.
        """
        if self.replay.drawn % self.together == 0:
            if self.fit.made is None:
                self._play()
            self.fit.proceed()
            self._look()
            if self.remeasured or not self.replay.drawn:
                caution = self.caution_of(self.fit.model, self.imagination.buffer)
                self.imagination.plan = replace(self.imagination.plan, caution=caution)
        self.replay.drawn += 1
        return self.imagination.imagine(needs.next_actions).batch

    def _play(self) -> None:
        self.learner.behaviour_temperature = self.temperature
        try:
            self.replay.play()
        finally:
            self.learner.behaviour_temperature = 1.0

    def _look(self) -> None:
        """Let imagination start from what the replay holds now."""
        self.imagination.buffer = self.replay.ring.windowed(self.window)

    def state_dict(self) -> dict[str, Any]:
        """The replay's state, the model, and what decides the next rollout."""
        return {
            **self.replay.state_dict(),
            "fit": self.fit.state_dict(),
            "imagination": self.imagination.state_dict(),
            "cutoff": self.imagination.plan.caution.cutoff,
        }

    def refuse_lacking(self, state: Mapping[str, Any]) -> None:
        """See `ReplaySource.refuse_lacking`."""
        self.replay.refuse_lacking(state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where the saved source stood."""
        self.replay.load_state_dict(state)
        self.fit.load_state_dict(state["fit"])
        self.imagination.load_state_dict(state["imagination"])
        plan = self.imagination.plan
        self.imagination.plan = replace(plan, caution=replace(plan.caution, cutoff=state["cutoff"]))
        self._look()


def plan_online_model(
    config: RunConfig,
    folder: RunFolder,
    task: Task,
    rewards: Rewards,
    learner: Algorithm,
    plan: Plan,
    caution_of: CautionOf,
) -> Callable[[], Source]:
    """Gives the source of a run that plays and imagines, once it has begun; what can be refused is refused here.

    Args:
        config: The run's settings.
        folder: The run folder, which keeps the episodes.
        task: Uniform play, and its environment.
        rewards: What converts imagined rewards to those that are learnt from.
        learner: Plays, and acts in imagination.
        plan: Of rollouts; how cautious they are is measured in each round.
        caution_of: Measures it.

    Raises:
        BadInputError: Of a kind that says what does not fit together.
    """
    device = torch.device(config.device)
    model = _make_model(config, task, learner)
    # The replay holds what the environment paid, as a model is fitted to it; imagined steps are paid by `rewards`.
    together = config.imagined_updates
    # A round that the run ends in is played whole.
    whole = -(-config.steps // together) * together
    paced = config.model_copy(update={"updates_per_step": together / config.round_steps, "steps": whole})
    live = plan_replay(paced, folder, task, Rewards(task.data, device=device), learner)
    ring = live.ring.windowed(max(learner.window, model.window, rewards.window))
    generators = Generators(config.seed, live.ring.device)
    temperature = config.balanced_sampling
    visits = {phase: Visits(temperature, ring.device) for phase in model.phases} if temperature else {}
    updates: dict[Phase, int] = {"tokenizer": config.tokenizer_updates, "model": config.model_updates}
    fit = GrowingFit(model, live.ring, updates, config.first_rounds, visits, generators.get("model rows"))
    plan = replace(plan, caution=caution_of(model, None))
    imagination = Imagination(model, learner, ring, plan, rewards, generators.get("starts"))

    def make() -> Source:
        name = config.world_model or learner.imagines_in
        warn_unread(name, model.config.unread())
        _tell_cost(name, config, model, plan)
        replay = live.source(live.rows)
        replay.pace = RoundPace(config.first_steps, paced.updates_per_step, together)
        anew = config.cutoff_quantile is not None
        return OnlineModelSource(replay, fit, imagination, together, caution_of, anew)

    return make


def _tell_cost(name: str, config: RunConfig, model: WorldModel, plan: Plan) -> None:
    """Say how long all rounds' updates and imagination take, where that is long."""
    rounds = -(-config.steps // config.imagined_updates)
    fits = rounds - 1 + config.first_rounds
    updates: dict[Phase, int] = {"tokenizer": fits * config.tokenizer_updates, "model": fits * config.model_updates}
    updates = {phase: updates[phase] for phase in model.phases}
    imagined = rounds * config.imagined_updates * plan.rows * plan.horizon
    tell_cost(name, model, updates, imagined, config.device)


def _make_model(config: RunConfig, task: Task, learner: Algorithm) -> WorldModel:
    """The model before its first update, by the statistics of uniform play.

    Raises:
        ConfigError: The model is none that can learn on, or a setting makes no sense here.
    """
    name = config.world_model or learner.imagines_in
    if name not in worldmodels.names() or not worldmodels.get(name).fitted:
        raise ConfigError(
            f"Without --dataset the world model is fitted to what is played: --world-model names a kind that learns, "
            f"such as marie or ensemble, not {name}."
        )
    kind = worldmodels.get(name)
    if found := [field for field in OF_FITS if field in config.fit]:
        raise ConfigError(
            f"--fit {found[0]} is of a fit that ends; this one goes on with the run, by --round-steps, "
            "--tokenizer-updates, --model-updates and --first-rounds."
        )
    given = {**config.fit, **({"tokenizer_steps": 0} if "tokenizer_steps" in kind.Config.model_fields else {})}
    settings = build(kind.Config, given)
    if settings.sampling == "bootstrap":
        raise ConfigError("--fit sampling=bootstrap resamples data that is there; a replay grows: leave it away.")
    if settings.rewrites_observations:
        raise ConfigError(
            "--fit tokens_of=observations would show policies other observations in imagination than in the "
            "environment: a run that plays and imagines takes tokens of residuals."
        )
    with seeded_globally(config.seed, "world model"):
        facts = facts_of(task.data, growing=True)
        refuse_too_large(name, lambda: kind(settings, facts), settings.model_dump(), task.data.spec)
        model = kind(settings, facts)
    model.place(config.device, derive(config.seed, "imagination"))
    return model
