"""Optuna studies with a journal in the sweep's folder as storage; the only import of Optuna.

A proposal depends on the study's seed, the trial's number and the trials before it, on no state of a process.
"""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offline_marl.core.config import ConfigError
from offline_marl.core.locks import open_own
from offline_marl.core.seeding import derive
from offline_marl.launch.sweeps.file import Distribution
from offline_marl.launch.sweeps.folder import SweepError
from offline_marl.launch.sweeps.plan import round_value
from offline_marl.launch.sweeps.studies import Study

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

JOURNAL = "optuna.journal"


@dataclass(frozen=True)
class Trial:
    """Trial of a study: the fields that Optuna proposed, and its value."""

    number: int
    drawn: dict[str, Any]
    """Its fields."""
    over: bool
    """Whether its result was reported to Optuna."""
    value: float | None
    """The result; None if the trial failed, or is not over."""


def refuse_missing() -> None:
    """Make sure that Optuna is there.

    Raises:
        ConfigError: It is not installed.
    """
    if find_spec("optuna") is None:
        raise ConfigError("A sweep with [optuna] needs optuna: pip install 'offline-marl[tune]'.")


class Journal:
    """Journal file of Optuna's storage, repaired on opening; the caller holds the sweep's lock.

    Args:
        path: The file; made where it is missing.

    Raises:
        ConfigError: Optuna is not installed.
        SweepError: The file was damaged or edited.
    """

    def __init__(self, path: Path) -> None:
        refuse_missing()
        self.path = path
        with self.read():
            _repair_journal(path)
            from optuna.storages import JournalStorage
            from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

            # Optuna's other lock is a symbolic link, which some shared disks refuse.
            self.storage = JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))

    @contextlib.contextmanager
    def read(self) -> Iterator[None]:
        """Run Optuna's code without its log lines, and with its errors as one sentence.

        Raises:
            SweepError: What the file says makes no sense.
        """
        try:
            with _silenced():
                yield
        except (OSError, SweepError):
            raise
        except Exception as error:  # a damaged journal is replayed into errors of every kind
            why = " ".join(str(error).split()) or type(error).__name__
            raise SweepError(f"{self.path} was damaged or edited: {why}") from None


class OptunaStudy:
    """Ask-and-tell interface to one study in the journal.

    Args:
        study: What is tuned.
        journal: Where it is remembered.

    Raises:
        SweepError: The journal was damaged or edited.
    """

    def __init__(self, study: Study, journal: Journal) -> None:
        self.study, self.journal = study, journal
        # A field may be spelt with - or _ in the file.
        self.sources = {name.replace("-", "_"): source for name, source in study.asked.fields.items()}
        with journal.read():
            import optuna

            # `load_if_exists` would add a line to the journal each time.
            if study.name in optuna.get_all_study_names(journal.storage):
                self._optuna = optuna.load_study(study_name=study.name, storage=journal.storage)
            else:
                self._optuna = optuna.create_study(study_name=study.name, storage=journal.storage, direction="maximize")

    def trials(self) -> list[Trial]:
        """Read all trials so far, in order.

        Raises:
            SweepError: The journal was damaged or edited.
        """
        with self.journal.read():
            return [self._read(frozen) for frozen in self._optuna.get_trials(deepcopy=False)]

    def ask(self) -> Trial:
        """Propose one trial more from all results so far; running ones count as bad (`constant_liar`)."""
        import optuna

        with self.journal.read():
            distributions = {name: _optuna_distribution(source) for name, source in self.sources.items()}
            # `ask` writes a trial to the journal field by field, and a kill would leave half of one: it is drawn in a
            # copy of the study in memory, and added to the journal whole.
            scratch = optuna.create_study(direction="maximize")
            scratch.add_trials(self._optuna.get_trials(deepcopy=False))
            scratch.sampler = self._sampler(len(scratch.trials))
            drawn = scratch.ask(distributions).params
            running = optuna.trial.TrialState.RUNNING
            self._optuna.add_trial(optuna.trial.create_trial(state=running, params=drawn, distributions=distributions))
        return self.trials()[-1]

    def tell(self, number: int, value: float | None) -> None:
        """Report the result of a trial; None, or a value that is not finite, if it failed."""
        from optuna.trial import TrialState

        with self.journal.read():
            if value is None or not math.isfinite(value):
                self._optuna.tell(number, state=TrialState.FAIL)
            else:
                self._optuna.tell(number, value)

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        from optuna.samplers import RandomSampler, TPESampler

        asked = self.study.asked
        seed = derive(asked.seed, "optuna", number) % 2**32
        if asked.sampler == "random":
            return RandomSampler(seed=seed)
        return TPESampler(seed=seed, n_startup_trials=asked.startup, multivariate=True, constant_liar=True)

    def _read(self, frozen: optuna.trial.FrozenTrial) -> Trial:
        if set(frozen.params) != set(self.sources):
            raise ValueError(f"trial {frozen.number} of {self.study.title} has other fields than the sweep")
        drawn = {name: _sampled_value(source, frozen.params[name]) for name, source in self.sources.items()}
        over = frozen.state.is_finished()
        return Trial(frozen.number, drawn, over, frozen.value if over else None)


def _optuna_distribution(source: Distribution) -> BaseDistribution:
    """Convert a field's distribution to Optuna's."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if source.distribution == "choice":
        # Optuna's categories cannot be lists: all values are stored as JSON.
        return CategoricalDistribution(tuple(dict.fromkeys(map(_text, source.values))))
    low, high, log = float(source.low or 0), float(source.high or 0), source.distribution == "log-uniform"
    if source.integer:
        return IntDistribution(max(round(low), 1) if log else round(low), round(high), log=log)
    return FloatDistribution(low, high, log=log)


def _sampled_value(source: Distribution, sampled: Any) -> Any:
    if source.distribution == "choice":
        return {_text(value): value for value in source.values}[sampled]
    return round_value(source, sampled)


def _text(value: Any) -> str:
    return json.dumps(value, default=str)


def _repair_journal(path: Path) -> None:
    """Remove the half line and the lock that a killed launcher leaves; a line after half a line would be unreadable."""
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    if not path.exists():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        with open_own(path, "r+b") as stream:
            stream.truncate(content.rfind(b"\n") + 1)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Silence Optuna's log lines and its warnings of experimental features."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from optuna import logging

        before = logging.get_verbosity()
        logging.set_verbosity(logging.ERROR)
        try:
            yield
        finally:
            logging.set_verbosity(before)
