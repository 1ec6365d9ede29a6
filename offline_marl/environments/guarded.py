"""An environment whose failures bear its name, and that may not take forever over a step."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from offline_marl.core.errors import BadInputError, WorkError, sentence
from offline_marl.environments.base import Flags, Floats, Frame, JointEnv, Seen, TeamActions

Answer = TypeVar("Answer")


class EnvironmentFailedError(WorkError, RuntimeError):
    """An environment that died or did not answer; the message names it."""


class Guarded:
    """A `JointEnv` that is called by its name when it fails.

    Args:
        env: The environment.
        name: What messages call it.
        seconds: Longest time of one call; 0 for any. It is watched by the system's timer, and so in the main thread
            alone; what hangs inside compiled code that never returns to Python is noticed only in worker processes.
    """

    def __init__(self, env: JointEnv, name: str, seconds: float = 0.0) -> None:
        self.env, self.name, self.seconds = env, name, seconds
        self.spec, self.copies, self.max_steps = env.spec, env.copies, env.max_steps

    def reset(self, seeds: Sequence[int]) -> Seen:
        """See `JointEnv.reset`.

        Raises:
            EnvironmentFailedError: It died, or took too long.
        """
        return self._asked("reset", self.env.reset, seeds)

    def step(self, actions: TeamActions) -> tuple[Seen, Floats, Flags, Flags]:
        """See `JointEnv.step`, and `reset`."""
        return self._asked("step", self.env.step, actions)

    def versions(self) -> dict[str, str]:
        """Those of the environment."""
        return self.env.versions() if hasattr(self.env, "versions") else {}

    def render(self, copy: int = 0) -> Frame:
        """See `JointEnv.render`."""
        return self.env.render(copy)

    def close(self) -> None:
        """Let go of the simulator's memory."""
        self.env.close()

    def _asked(self, what: str, function: Callable[[Any], Answer], argument: Any) -> Answer:
        try:
            with time_limit(self.seconds):
                return function(argument)
        except TimeLimitError:
            raise EnvironmentFailedError(
                f"The environment {self.name} hangs: a {what} has taken more than {self.seconds:g} seconds "
                "(--environment-timeout)."
            ) from None
        except BadInputError:
            raise  # it says in a sentence what is wrong
        except WorkError as error:
            raise self._failure(what, sentence(error)) from error
        except Exception as error:
            raise self._failure(what, f"{type(error).__name__}: {sentence(error)}") from error

    def _failure(self, what: str, why: str) -> EnvironmentFailedError:
        return EnvironmentFailedError(f"The environment {self.name} failed in a {what}: {why}")


class TimeLimitError(Exception):
    """Time is up."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise inside the block once it has taken so many seconds; a timer that was running before goes on behind it.

    Args:
        seconds: 0 for no limit; there is none outside the main thread either, to which alone the system's timer speaks.

    Raises:
        TimeLimitError: Inside the block.
    """
    if not seconds or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeLimitError

    handler = signal.signal(signal.SIGALRM, ring)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    began = time.monotonic()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), 1e-3), interval)
