"""Requests to stop: a run that gets one saves after its current update, and ends."""

from __future__ import annotations

import threading

asked = threading.Event()
"""Set by whoever wants the work of this process to stop: a signal's handler, a scheduler that needs the machine."""


class StoppedEarly(Exception):
    """The run was asked to stop and has saved where it stands."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after update {step:,}, which is saved")
        self.step = step
