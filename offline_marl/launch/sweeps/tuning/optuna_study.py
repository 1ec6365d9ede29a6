"""Optuna: what it proposes, and what it is told; its storage is a journal in the sweep's folder.

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
from offline_marl.launch.sweeps.studies import Study, spelt

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

JOURNAL = "optuna.journal"


@dataclass(frozen=True)
class Trial:
    """One proposal."""

    number: int
    drawn: dict[str, Any]
    """Its fields."""
    over: bool
    """Whether Optuna was told what became of it."""
    value: float | None
    """What it was told; None if the trial failed, or is not over."""


def refuse_missing() -> None:
    """Make sure that Optuna is there.

    Raises:
        ConfigError: It is not installed.
    """
    if find_spec("optuna") is None:
        raise ConfigError("A sweep with [optuna] needs optuna: pip install 'offline-marl[tune]'.")


class Journal:
    """The file in which Optuna remembers trials; for who holds the sweep.

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
            _mend(path)
            from optuna.storages import JournalStorage
            from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

            # Its other lock is a symbolic link, which some shared disks refuse.
            self.storage = JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))

    @contextlib.contextmanager
    def read(self) -> Iterator[None]:
        """Optuna at work, in silence.

        Raises:
            SweepError: What the file says makes no sense.
        """
        try:
            with _silence():
                yield
        except (OSError, SweepError):
            raise
        except Exception as error:  # a damaged journal is replayed into errors of every kind
            why = " ".join(str(error).split()) or type(error).__name__
            raise SweepError(f"{self.path} was damaged or edited: {why}") from None


class Asker:
    """One study, in Optuna's words.

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

            # Asked to make one that is there, Optuna would add a line each time.
            if study.name in optuna.get_all_study_names(journal.storage):
                self._optuna = optuna.load_study(study_name=study.name, storage=journal.storage)
            else:
                self._optuna = optuna.create_study(study_name=study.name, storage=journal.storage, direction="maximize")

    def trials(self) -> list[Trial]:
        """All trials so far, in order.

        Raises:
            SweepError: The journal was damaged or edited.
        """
        with self.journal.read():
            return [self._read(frozen) for frozen in self._optuna.get_trials(deepcopy=False)]

    def ask(self) -> Trial:
        """One trial more, proposed after all that was told; those that are not over count as bad ones."""
        import optuna

        with self.journal.read():
            places = {name: _place(source) for name, source in self.sources.items()}
            # Optuna would write a trial field by field: drawn aside and added whole, none is ever half a trial.
            aside = optuna.create_study(direction="maximize")
            aside.add_trials(self._optuna.get_trials(deepcopy=False))
            aside.sampler = self._sampler(len(aside.trials))
            drawn = aside.ask(places).params
            running = optuna.trial.TrialState.RUNNING
            self._optuna.add_trial(optuna.trial.create_trial(state=running, params=drawn, distributions=places))
        return self.trials()[-1]

    def tell(self, number: int, value: float | None) -> None:
        """What became of a trial; None, or a value that is not finite, if it failed."""
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
        drawn = {name: _taken(source, frozen.params[name]) for name, source in self.sources.items()}
        over = frozen.state.is_finished()
        return Trial(frozen.number, drawn, over, frozen.value if over else None)


def _place(source: Distribution) -> BaseDistribution:
    """Where a field is drawn from, as Optuna says it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if source.distribution == "choice":
        # Optuna knows no lists: all values are told as text.
        return CategoricalDistribution(tuple(dict.fromkeys(map(_text, source.values))))
    low, high, log = float(source.low or 0), float(source.high or 0), source.distribution == "log-uniform"
    if source.integer:
        return IntDistribution(max(round(low), 1) if log else round(low), round(high), log=log)
    return FloatDistribution(low, high, log=log)


def _taken(source: Distribution, told: Any) -> Any:
    if source.distribution == "choice":
        return {_text(value): value for value in source.values}[told]
    return spelt(source, told)


def _text(value: Any) -> str:
    return json.dumps(value, default=str)


def _mend(path: Path) -> None:
    """Remove what a killed launcher leaves: half a line, which none may follow, and a lock that nobody holds."""
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    if not path.exists():
        return
    held = path.read_bytes()
    if held and not held.endswith(b"\n"):
        with open_own(path, "r+b") as stream:
            stream.truncate(held.rfind(b"\n") + 1)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without Optuna's own lines, and without its warnings of what is new in it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from optuna import logging

        before = logging.get_verbosity()
        logging.set_verbosity(logging.ERROR)
        try:
            yield
        finally:
            logging.set_verbosity(before)
