"""An environment whose failures bear its name, and that may not take forever over a step."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, ClassVar, TypeVar

from offline_marl.core.attempts import said
from offline_marl.core.errors import BadInputError, WorkError, sentence
from offline_marl.environments.base import (
    Flags,
    Floats,
    Frame,
    JointActions,
    JointEnv,
    Outcome,
    Seen,
    Simulator,
    State,
    TeamActions,
)

Answer = TypeVar("Answer")
BUILD_SECONDS = 120.0
"""Longest time that building an environment may take."""
RINGS = 10
"""Parts of a limit after each of which the timer rings."""


class EnvironmentFailedError(WorkError, RuntimeError):
    """An environment that died or did not answer; the message names it."""


class _Named:
    """The calls of a simulator under its name.

    Args:
        env: The simulator.
        name: What messages call it.
        seconds: Longest time of one call; 0 for any. It is watched by the system's timer, and so in the main thread
            alone; what hangs inside compiled code that never returns to Python is noticed only in worker processes.
    """

    def __init__(self, env: Any, name: str, seconds: float = 0.0) -> None:
        self.env, self.name, self.seconds, self.watch = env, name, seconds, Watch(seconds)
        self.copies: int = env.copies
        self.max_steps: int = env.max_steps

    def versions(self) -> dict[str, str]:
        """Those of the environment."""
        return self.env.versions() if hasattr(self.env, "versions") else {}

    def render(self, copy: int = 0) -> Frame:
        """See `JointEnv.render`."""
        frame: Frame = self.env.render(copy)
        return frame

    def close(self) -> None:
        """Let go of the simulator's memory, see `let_go`."""
        let_go(self.env, self.name)

    def _asked(self, what: str, function: Callable[[Any], Answer], argument: Any) -> Answer:
        try:
            return self.watch(function, argument)
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


class Guarded(_Named):
    """A `JointEnv` that is called by its name when it fails.

    Args:
        env: The environment.
        name: What messages call it.
        seconds: Longest time of one call, see `_Named`.
    """

    def __init__(self, env: JointEnv, name: str, seconds: float = 0.0) -> None:
        super().__init__(env, name, seconds)
        self.env: JointEnv = env
        self.spec = env.spec
        if hasattr(env, "fps"):  # steps of a second, where films should pass as fast as the world
            self.fps = env.fps

    def reset(self, seeds: Sequence[int]) -> Seen:
        """See `JointEnv.reset`.

        Raises:
            EnvironmentFailedError: It died, or took too long.
        """
        return self._asked("reset", self.env.reset, seeds)

    def step(self, actions: TeamActions) -> tuple[Seen, Floats, Flags, Flags]:
        """See `JointEnv.step`, and `reset`."""
        return self._asked("step", self.env.step, actions)


class GuardedBody(_Named):
    """A `Simulator` that is called by its name when it fails.

    Args:
        body: The whole body in many copies.
        name: What messages call it.
    """

    def __init__(self, body: Simulator, name: str) -> None:
        super().__init__(body, name)
        self.env: Simulator = body
        self.state_dim, self.action_dim = body.state_dim, body.action_dim

    def reset(self, seeds: Sequence[int]) -> State:
        """See `Simulator.reset`.

        Raises:
            EnvironmentFailedError: It died.
        """
        return self._asked("reset", self.env.reset, seeds)

    def step(self, actions: JointActions) -> Outcome:
        """See `Simulator.step`, and `reset`."""
        return self._asked("step", self.env.step, actions)


_LEFT_OPEN: set[str] = set()
"""Environments of which `let_go` has told."""


def let_go(env: Any, name: str) -> None:
    """Close an environment; where it cannot be closed, say so once, as its work is done and should not be lost.

    Args:
        env: The environment.
        name: What the warning calls it.
    """
    try:
        env.close()
    except Exception as error:
        if name not in _LEFT_OPEN:
            _LEFT_OPEN.add(name)
            print(f"warning: the environment {name} could not be closed ({said(error)}).", file=sys.stderr)


def build_in_time(make: Callable[[], Answer], name: str, seconds: float = BUILD_SECONDS) -> Answer:
    """The environment that a function makes, unless that takes forever.

    Args:
        make: Builds it.
        name: What messages call it.
        seconds: Longest time, watched as `Guarded` does.

    Raises:
        EnvironmentFailedError: It was not ready in time, asked for more memory than there is, or failed otherwise.
    """
    try:
        return Watch(seconds)(lambda _: make(), None)
    except TimeLimitError:
        raise EnvironmentFailedError(
            f"The environment {name} was not built in {seconds:g} seconds, the most that is waited for: its settings "
            "ask for too large a world."
        ) from None
    except MemoryError:
        raise EnvironmentFailedError(
            f"The environment {name} needs more memory than there is: its settings ask for too large a world."
        ) from None
    except (BadInputError, WorkError):
        raise  # it says in a sentence what is wrong
    except Exception as error:
        why = f"{type(error).__name__}: {sentence(error)}"
        raise EnvironmentFailedError(f"The environment {name} failed when it was made: {why}") from error


class TimeLimitError(Exception):
    """Expiry of the limit on a call to an environment."""


class Watch:
    """A limit of seconds on calls, one after another, by the system's timer.

    It speaks to the main thread alone: elsewhere there is no limit. A timer that somebody else has set goes on behind
    each call. While a process is suspended, as by a cluster or a closed laptop, real time goes on, but of all rings in
    that time only one is delivered: time is up when the timer has rung `RINGS` times.

    Args:
        seconds: Of one call; 0 for no limit.
    """

    rings: ClassVar[int] = 0
    """How often the timer has rung in the present call."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._handled = False

    def __call__(self, function: Callable[[Any], Answer], argument: Any) -> Answer:
        """Call the function.

        Raises:
            TimeLimitError: Inside it, once time is up.
        """
        if not self.seconds or threading.current_thread() is not threading.main_thread():
            return function(argument)
        began = time.monotonic()
        outer, Watch.rings, each = Watch.rings, 0, self.seconds / RINGS
        left, interval = signal.setitimer(signal.ITIMER_REAL, each, each)
        # To ask for the handler at each call would cost more than all else here: ours stays where nobody has another.
        other = signal.signal(signal.SIGALRM, _ring) if left or not self._handled else None
        self._handled = not left
        try:
            return function(argument)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            Watch.rings = outer
            if left:
                signal.signal(signal.SIGALRM, other)
                signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), 1e-3), interval)


def _ring(number: int, frame: FrameType | None) -> None:
    Watch.rings += 1
    if Watch.rings >= RINGS:
        signal.setitimer(signal.ITIMER_REAL, 0)  # none into what the call cleans up
        raise TimeLimitError
