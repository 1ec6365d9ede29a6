"""Being asked to stop: a run that is saves what it has after the update that it is in, and ends."""

from __future__ import annotations

import threading
from collections.abc import Callable

from offline_marl.core.types import Metrics
from offline_marl.networks.learner import Learner
from offline_marl.training.trainer import LogHook, refuse_unfinite

asked = threading.Event()
"""Set by whoever wants the work of this process to stop: a signal's handler, a scheduler that needs the machine."""


class StoppedEarly(Exception):
    """The run was asked to stop and has saved where it stands."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after update {step:,}, which is saved")
        self.step = step


class StopHook:
    """Saves and ends the run once that is asked for.

    Args:
        save: Writes a checkpoint of this step.
        last: The last step, after which nothing is left to stop.
        log: Keeps the metrics of a period that is not over; they go into the checkpoint.
    """

    def __init__(self, save: Callable[[int], None], last: int, log: LogHook) -> None:
        self.save, self.last, self.log = save, last, log

    def __call__(self, step: int, learner: Learner, metrics: Metrics) -> None:
        """Stop if that is asked for.

        Raises:
            StoppedEarly: It was.
            DivergedError: There is nothing to save: a loss or a parameter is not finite any more.
        """
        if asked.is_set() and step != self.last:
            self.log.refuse_pending(step)
            refuse_unfinite(learner, step)
            self.save(step)
            raise StoppedEarly(step)
