"""One process's work on a run folder, whatever is learnt: loggers, progress bar, checkpoints, stop and seeding."""

from __future__ import annotations

import contextlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

import torch

from offline_marl.core.config import ConfigError
from offline_marl.core.learner import Learner
from offline_marl.core.progress import progress_bar
from offline_marl.core.seeding import seeded_globally
from offline_marl.core.types import Batch, Metrics, Source
from offline_marl.runs import checkpoint
from offline_marl.runs.config import LearnFlags
from offline_marl.runs.devices import pick_device
from offline_marl.runs.folder import Folder, final_state, newest_state, restoring
from offline_marl.runs.log_files import asked_loggers, loggers_of
from offline_marl.runs.loggers import Logger
from offline_marl.runs.stopping import StoppedEarly
from offline_marl.training.loop import (
    CheckpointHook,
    Hook,
    LogHook,
    SourceInterrupted,
    SourceStoppedError,
    StopHook,
    refuse_unfinite,
    train,
)

Settings = TypeVar("Settings", bound=LearnFlags)
Outcome = TypeVar("Outcome")


@runtime_checkable
class Stateful(Protocol):
    """A hook whose state belongs into checkpoints."""

    def state_dict(self) -> Mapping[str, Any]:
        """Nested dicts and lists of tensors, numbers and text."""
        ...

    def load_state_dict(self, state: Any) -> Any:
        """Go on where the saved hook stood."""
        ...


class Session(ABC, Generic[Settings, Outcome]):
    """The loop around a learner in a run folder: it begins, or goes on from the newest checkpoint, to the end.

    A kind of run gives the parts in `__init__` (`learner`, on its device; `own_hooks`), `make_source`, and the end:
    `conclude` while loggers are open, `finish` after it, `read` for a folder that is finished already. Hooks are called
    in this order: the log, the kind's own, those that were given, those behind them, the checkpoint, the stop.

    Args:
        folder: The run folder, held by this process.
        config: The run's settings.
        name: What the bar says is learnt.
        steps: Updates to make, at most.
        loggers: Besides those that the settings name.
        hooks: Besides the kind's own.
    """

    learner_key: ClassVar[str] = "learner"
    """Where checkpoints keep the learner."""
    at_most: bool = False
    """Whether a hook may end the run before its last step; `conclude` then saves the end."""

    learner: Learner
    source: Source

    def __init__(
        self,
        folder: Folder[Settings],
        config: Settings,
        name: str,
        steps: int,
        loggers: Sequence[Logger] = (),
        hooks: Sequence[Hook] = (),
    ) -> None:
        self.folder, self.config, self.name, self.steps = folder, config, name, steps
        self.loggers = [] if folder.done else asked_loggers(config, loggers)
        self.hooks, self._stateful = list(hooks), stateful(hooks)
        self.own_hooks: dict[str, Any] = {}
        """The kind's hooks, each Stateful, by the names under which checkpoints keep them."""
        self.log = LogHook((), config.log_every)
        self.device = pick_device(config.device)
        self.step, self.elapsed, self.ended = 0, 0.0, False
        torch.set_num_threads(config.threads)

    @abstractmethod
    def make_source(self) -> Source:
        """What the learner is fed; called once the run has begun."""

    def announce(self) -> None:
        """Say what is about to be done."""
        of = f"{self.steps - self.step:,} of {self.steps:,} updates{' at most' if self.at_most else ''}"
        print(f"{self.title}: {of} on {self.config.device}, in {self.folder.path}", file=sys.stderr)

    @property
    def title(self) -> str:
        """What is learnt, and from what."""
        return f"{self.name} on {self.config.dataset}"

    def hooks_behind(self) -> list[Hook]:
        """Hooks that are called behind those given, such as one that ends the run; made as the loop begins."""
        return []

    def conclude(self) -> None:
        """Do what belongs to the run after its last update, while its loggers are open."""

    @abstractmethod
    def finish(self) -> Outcome:
        """Mark the folder as done, and give what the run came to."""

    @abstractmethod
    def read(self) -> Outcome:
        """What a finished run came to, its learner restored."""

    def run(self) -> Outcome:
        """Go from the newest checkpoint, or the beginning, to the end."""
        # Seeded for learners that draw from torch's own generator, which the caller gets back as it was.
        with seeded_globally(self.config.seed, "run"):
            if self.folder.done:
                self.load_state_dict(final_state(self.folder))
                return self.read()
            self.restore()
            return self.finish() if self.ended else self._learn()

    def restore(self) -> None:
        """Make the source, and stand where the newest checkpoint, if there is one, does."""
        self.source = self.make_source()
        state = newest_state(self.folder, self._refuse_lacking)
        if state is not None:
            self.load_state_dict(state)
            self._warn_of_missing(state)
            checkpoint.restore_torch(state)

    def _refuse_lacking(self, state: Mapping[str, Any]) -> None:
        """Make sure that the source's own files are there, of a run that still needs them."""
        check = getattr(self.source, "refuse_lacking", None)
        if check is not None and not state.get("ended", False):
            with restoring(self.folder.path):
                check(state["source"])

    def _learn(self) -> Outcome:
        self.announce()
        with self.logging() as loggers:
            with self.hooked(loggers) as hooks:
                self._update(hooks)
                self.conclude()
                self.elapsed = self.log.elapsed
            # Before the loggers are closed: one that hangs or ends the process then costs nothing.
            return self.finish()

    @contextlib.contextmanager
    def logging(self) -> Iterator[list[Logger]]:
        """The run's loggers, started, and closed behind it."""
        with contextlib.ExitStack() as closing:
            loggers = loggers_of(self.config, self.folder.path, self.step, self.steps, self.loggers)
            for logger in loggers:
                closing.callback(logger.close)
            yield loggers

    @contextlib.contextmanager
    def hooked(self, loggers: Sequence[Logger], quiet: bool = False) -> Iterator[list[Hook]]:
        """All hooks in the order in which they are called, the log's with these loggers and, unless quiet, a bar."""
        with contextlib.nullcontext() if quiet else progress_bar(self.steps, self.name, "update", self.step) as bar:
            self.log.open(loggers, bar, self.elapsed)
            # The others come before the checkpoint, so that none misses this step where a run goes on from it, and
            # before the stop, so that a run which is over is not saved as one that goes on.
            last = 0 if self.at_most else self.steps
            saving = CheckpointHook(self.save, self.config.checkpoint_every, last, self.log)
            stopping = StopHook(self.save, last, self.log)
            yield [
                self.log,
                *self.own_hooks.values(),
                *self.hooks,
                *self.hooks_behind(),
                saving,
                stopping,
            ]

    def _update(self, hooks: Sequence[Hook]) -> None:
        """Make the updates that are left."""
        try:
            with self.updating() as update:
                train(self.learner, self.source, hooks, range(self.step + 1, self.steps + 1), update)
        except SourceStoppedError as error:
            raise self.stopped(error) from error
        except SourceInterrupted:
            raise StoppedEarly(self._save_as_it_stands()) from None

    def stopped(self, error: SourceStoppedError) -> SourceStoppedError:
        """Save the run as it stands, and say so behind why it cannot go on.

        Raises:
            DivergedError: There is nothing to save: a loss or a parameter is not finite any more.
        """
        reached = self._save_as_it_stands()
        return SourceStoppedError(f"{error} The run stops and is saved as it stands, after update {reached:,}.")

    def _save_as_it_stands(self) -> int:
        reached = max(self.step, self.log.last)
        self.log.refuse_pending(reached)
        refuse_unfinite(self.learner, reached)
        self.save(reached)
        return reached

    def updating(self) -> contextlib.AbstractContextManager[Callable[[Batch], Metrics]]:
        """What makes the updates, for as long as they are made: the learner."""
        return contextlib.nullcontext(self.learner.update)

    def save(self, step: int) -> None:
        """Write the checkpoint of this step."""
        self.step = step
        checkpoint.save(self.folder.checkpoints, step, self.state_dict(), self.config.keep_checkpoints)

    def state_dict(self) -> dict[str, Any]:
        """All that decides the run's future, torch's own generators aside."""
        kept = {name: dict(hook.state_dict()) for name, hook in self._stateful.items()}
        return {
            self.learner_key: self.learner.state_dict(),
            "source": self.source.state_dict(),
            **{name: hook.state_dict() for name, hook in self.own_hooks.items()},
            "log": self.log.state_dict(),
            "elapsed": self.log.elapsed,
            **({"ended": self.ended} if self.at_most else {}),
            **({"hooks": kept} if kept else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a checkpoint stands; of a run that has ended, only what can be read on any device."""
        with restoring(self.folder.path):
            self._restore(state)
        restore_hooks(self._stateful, state)

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.step, self.elapsed = state["step"], state["elapsed"]
        self.ended = state.get("ended", False)
        self.learner.load_state_dict(state[self.learner_key])
        for name, hook in self.own_hooks.items():
            hook.load_state_dict(state[name])
        if not (self.ended or self.folder.done):
            self.source.load_state_dict(state["source"])
            self.log.load_state_dict(state.get("log", {"pending": []}), self.config.device)

    def _warn_of_missing(self, state: Mapping[str, Any]) -> None:
        missing = sorted(set(state.get("hooks", {})) - set(self._stateful))
        if missing:
            one = len(missing) == 1
            print(
                f"warning: the run was begun with the hook{'' if one else 's'} {', '.join(missing)}, which "
                f"{'is' if one else 'are'} not given now: it goes on without, and without what was saved of "
                f"{'it' if one else 'them'}.",
                file=sys.stderr,
            )


def restore_hooks(hooks: Mapping[str, Stateful], state: Mapping[str, Any]) -> None:
    """Give hooks by name what a checkpoint holds of them."""
    for name, hook in hooks.items():
        if name in state.get("hooks", {}):
            hook.load_state_dict(state["hooks"][name])


def stateful(hooks: Sequence[Hook]) -> dict[str, Stateful]:
    """The hooks whose state is saved, by their `name` or, without one, their class.

    Raises:
        ConfigError: One is not callable, or two would be saved under one name.
    """
    named: dict[str, Stateful] = {}
    for hook in hooks:
        name = str(getattr(hook, "name", type(hook).__name__))
        if not callable(hook):
            raise ConfigError(f"The hook {name} cannot be called with (step, learner, metrics).")
        if isinstance(hook, Stateful):
            if name in named:
                raise ConfigError(f"Two hooks with a state are called {name}: give each a `name` of its own.")
            named[name] = hook
    return named
