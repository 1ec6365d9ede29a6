"""Course of a reward that is learnt while acting: novelty first, then rounds of questions, fits and new versions."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offline_marl.core.files import write_atomically
from offline_marl.core.seeding import Generators
from offline_marl.core.types import Batch, Episode
from offline_marl.preferences.reward_model import RewardModel
from offline_marl.runs.config import RunConfig
from offline_marl.runs.stopping import asked
from offline_marl.training.loop import SourceInterrupted
from offline_marl.training.preferences.labelled import ComparisonSource, Labelled
from offline_marl.training.preferences.live_reward import MOST_VISITED, LiveReward, visited_steps
from offline_marl.training.preferences.questions import Fitting, Questions, marks
from offline_marl.training.sources.replay import whole_episode

ROUNDS = "rounds.jsonl"
"""In a run folder: a line for each version of the learned reward."""
REFRESH_EVERY = 1_000
"""Environment steps between looks at what is new by now."""
POLL_S = 0.5
"""Seconds between looks for answers while a run waits for people."""
CHECK_EVERY = 20
"""Updates of the reward model between looks at how much it tells right."""
UNLABELLED = 1_024
"""Segments that nobody is asked about, for pseudo-labels."""


class RewardCourse:
    """Changes what a run is paid for as it goes on.

    Args:
        config: The run's settings.
        reward: What is paid.
        questions: Of the run; None where nobody compares.
        begin: Environment steps after which the exploration is over.
        end: Environment steps of the whole run.
        place: The run folder.
        begin_anew: Called when the learned reward replaces another one that was learnt from.
        poll_every: Batches between looks for answers while a run goes on learning.
    """

    def __init__(
        self,
        config: RunConfig,
        reward: LiveReward,
        questions: Questions | None,
        begin: int,
        end: float,
        place: Path,
        begin_anew: Callable[[], None],
        poll_every: int,
    ) -> None:
        self.config, self.reward, self.questions, self.place = config, reward, questions, place
        self.begin_anew, self.poll_every = begin_anew, poll_every
        self.begin, self.end = begin, end
        self.marks = marks(config, begin, end, 0 if questions is None else questions.rounds)
        self.recent: deque[tuple[int, Episode]] = deque(maxlen=config.query_recent)
        generators = Generators(config.seed)
        self.unlabelled = generators.get("unlabelled")
        self.batches = Generators(config.seed, config.device).get("comparisons")
        self.rounds = self.fits = self.used = self.labels = 0
        self.refreshed, self._tried = -1, -1
        self.rows: list[dict[str, Any]] = []

    def hear(self, number: int, episode: Episode) -> None:
        """Remember an episode as it was played, and say whose steps are paid next."""
        self.recent.append((number, episode))
        self.reward.about(number)

    def proceed(self, steps: int, drawn: int, oldest: int) -> bool:
        """Do what is due before a batch is drawn.

        Args:
            steps: Environment steps so far.
            drawn: Batches so far.
            oldest: Number of the oldest episode that is still there.

        Returns:
            Whether steps are paid otherwise now.

        Raises:
            SourceInterrupted: It waited for people, and was asked to stop.
        """
        while self.recent and self.recent[0][0] < oldest:  # as after a restart, when nobody hears of them again
            self.recent.popleft()
        if self.questions is None:
            return self._end_exploration(steps)
        if self.config.queries == 0:
            return self.reward.version == 0 and steps >= self.begin and self._renew(None, steps)
        changed = False
        while self.rounds < len(self.marks) and steps >= self.marks[self.rounds]:
            newest = self.recent[-1][0] if self.recent else -1
            if newest == self._tried:  # nothing more to ask about than when too little had been played
                break
            # Once old episodes go as new ones come, there will hardly be more to ask about than there is now.
            full = len(self.recent) == self.recent.maxlen or oldest > 0
            if not self._round(self.questions, dict(self.recent), steps, drawn, full):
                self._tried = newest
                break
            changed = changed or self.config.query_wait
        if not self.config.query_wait and self._answers_came(self.questions, drawn):
            changed = self._fit(self.questions, steps, drawn)
        return changed and self.reward.source == "learned"

    def _end_exploration(self, steps: int) -> bool:
        # A run that does nothing but explore is never paid otherwise, whatever its last step is.
        if self.reward.source != "novelty" or steps < self.begin or self.begin >= self.end:
            return False
        self.reward.source = "environment"
        if self.config.reset_critic:
            self.begin_anew()
        return True

    def wants_look(self, steps: int) -> bool:
        """Whether it is time to see what is new by now."""
        since = steps - self.refreshed
        return self.reward.source == "novelty" and (self.refreshed < 0 or since >= REFRESH_EVERY)

    def look(self, played: Iterable[tuple[int, Episode]], steps: int) -> None:
        """See what is new among these episodes, of which the newest count."""
        newest: deque[tuple[int, Tensor]] = deque()
        held = 0
        for number, episode in played:
            newest.append((number, visited_steps(episode)))
            held += len(episode)
            while len(newest) > 1 and held - len(newest[0][1]) >= MOST_VISITED:
                held -= len(newest.popleft()[1])
        if newest:
            self.reward.entropy.visit(torch.cat([points for _, points in newest]), newest[0][0], newest[-1][0] + 1)
        self.refreshed = steps

    def _round(self, questions: Questions, episodes: Mapping[int, Episode], steps: int, drawn: int, full: bool) -> bool:
        """Ask the next round, and where answers are waited for, learn from them; false where it has to be put off."""
        assert self.reward.model is not None
        session = self.rounds + 1
        if not questions.ask(session, episodes, self.reward.model, full):
            return False
        if self.config.teacher == "simulated":
            questions.answer()
        elif self.config.query_wait:
            self._wait(questions, session)
        self.rounds = session
        if self.config.query_wait:
            self._fit(questions, steps, drawn)
        return True

    def _wait(self, questions: Questions, session: int) -> None:
        """Stand still until all questions are answered."""
        told = False
        while questions.fitting(self.fits + 1) is None and (still := questions.unanswered(session)):
            if asked.is_set():
                raise SourceInterrupted
            if not told:
                print(
                    f"{still} questions are open, and the run waits for people: `offline-marl label {self.place}`",
                    file=sys.stderr,
                )
                told = True
            time.sleep(POLL_S)

    def _answers_came(self, questions: Questions, drawn: int) -> bool:
        """Whether there are enough new answers to learn from while the run goes on."""
        if drawn % self.poll_every:
            return False
        known = questions.fitting(self.fits + 1)
        if known is not None:
            return known.at <= drawn
        if not self.rounds:
            return False
        new = questions.cursor() - self.used
        return new >= self.config.queries_per_round or (new > 0 and not questions.unanswered(self.rounds))

    def _fit(self, questions: Questions, steps: int, drawn: int) -> bool:
        """Learn from the labels there are; those that a fit before a restart learnt from, if there was one."""
        number = self.fits + 1
        known = questions.fitting(number)
        fitting = Fitting(drawn, questions.cursor(), questions.judgement_cursor()) if known is None else known
        if known is None:
            questions.note(number, fitting)
        labelled, new = questions.labelled(fitting, self.config.device), questions.count_new(self.used, fitting)
        self.used, self.fits = fitting.until, number
        return labelled is not None and self._renew(labelled, steps, new)

    def _renew(self, labelled: Labelled | None, steps: int, new: int = 0) -> bool:
        """Fit the model to labels, of which the last so many are new, and pay by it from now on."""
        reward, model = self.reward, self.reward.model
        assert model is not None
        before = None if labelled is None else _told_right(labelled.since(len(labelled) - new), model)
        updates = 0 if labelled is None else self._descend(model, labelled)
        first = reward.version == 0
        reward.version += 1
        reward.agents = None if labelled is None else labelled.agents
        self.labels = 0 if labelled is None else len(labelled)
        episodes = [whole_episode(episode).to(self.config.device) for _, episode in self.recent]
        reward.measure(episodes)
        reward.source = "learned"
        after = None if labelled is None else _told_right(labelled, model)
        self.rows.append(
            {
                "version": reward.version,
                "environment_steps": steps,
                "round": self.rounds,
                "labels": self.labels,
                "updates": updates,
                "accuracy_of_new": before,
                "accuracy": after,
                "correlation": _correlation(reward, episodes),
                "scale": reward.scale,
            }
        )
        self.write()
        if first and self.config.reset_critic:
            self.begin_anew()
        return True

    def _descend(self, model: RewardModel, labelled: Labelled) -> int:
        """Updates of the model, until it tells enough of the labels right."""
        settings, unlabelled = model.config, None
        if settings.surf_weight:
            assert self.questions is not None
            drawn = self.questions.pairs.unlabelled(dict(self.recent), UNLABELLED, self.unlabelled)
            unlabelled = drawn.to(self.config.device)
        source = ComparisonSource(
            labelled,
            settings.members,
            settings.batch_size,
            self.batches,
            settings.sampling,
            unlabelled,
            labelled.judged,
        )
        for update in range(1, self.config.reward_updates + 1):
            model.update(source.sample(model.needs))
            if update % CHECK_EVERY == 0:
                right = _told_right(labelled, model)
                if right is not None and right >= self.config.reward_accuracy:
                    return update
        return self.config.reward_updates

    def warn_of_nothing_learnt(self) -> None:
        """Say so if a run is over that was to learn its reward, and none has ever paid."""
        if self.questions is not None and self.reward.version == 0:
            paid = "for what is new alone" if self.reward.source == "novelty" else "nothing at all"
            print(
                f"warning: the run ended before any learned reward paid for a step: it was paid {paid}.",
                file=sys.stderr,
            )

    def bonus(self, steps: int) -> float:
        """Weight of the members' deviation now."""
        if not self.config.reward_bonus or self.reward.source != "learned":
            return 0.0
        return float(self.config.reward_bonus * (1.0 - self.config.reward_bonus_decay) ** steps)

    def write(self) -> None:
        """Write down the versions there have been."""
        if self.rows:
            text = "".join(json.dumps(row) + "\n" for row in self.rows)
            write_atomically(self.place / ROUNDS, text.encode())

    def state_dict(self) -> dict[str, Any]:
        """What decides all that follows; questions and answers lie in the store."""
        return {
            "reward": self.reward.state_dict(),
            "rounds": self.rounds,
            "fits": self.fits,
            "used": self.used,
            "labels": self.labels,
            "refreshed": self.refreshed,
            "unlabelled": self.unlabelled.get_state(),
            "batches": self.batches.get_state(),
            "rows": self.rows,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the saved one stood; the newest episodes are heard of again."""
        self.reward.load_state_dict(state["reward"])
        self.rounds, self.used, self.labels = state["rounds"], state["used"], state["labels"]
        self.fits, self.refreshed = state["fits"], state["refreshed"]
        self.unlabelled.set_state(state["unlabelled"].cpu())
        self.batches.set_state(state["batches"].cpu())
        self.rows = [dict(row) for row in state["rows"]]
        self.write()


def _told_right(labelled: Labelled, model: RewardModel) -> float | None:
    """Share of labels for one of two segments that members tell right on average; None of none.

    Labels about an agent that is away in both are left out.
    """
    decided = (labelled.values != 0.5) & labelled.there
    if not bool(decided.any()):
        return None
    right = labelled.margins(model) * (labelled.values - 0.5) > 0
    return float(right[:, decided].double().mean())


def _correlation(reward: LiveReward, episodes: Sequence[Batch]) -> float | None:
    """Pearson's, over steps and agents, between what is paid and what the environment pays: for diagnosis alone."""
    pairs = []
    for batch in episodes:
        there = torch.ones_like(batch.rewards, dtype=torch.bool) if batch.mask is None else batch.mask
        pairs.append(torch.stack([reward(batch)[there], batch.rewards[there]]).double())
    table = torch.cat(pairs, dim=1) if pairs else torch.zeros(2, 0)
    if table.shape[1] < 2 or bool((table.std(1) < 1e-12).any()):
        return None
    return float(torch.corrcoef(table)[0, 1])
