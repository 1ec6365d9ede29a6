"""Copies of an environment shared among worker processes; episodes are equal to those of a single process.

Processes are forked, so that whatever made the environment need not be importable, and end with the one that made
them. They step simulators alone: policies act in the process that made them, for all copies at once.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import signal
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from offline_marl.core.errors import BadInputError, WorkError, sentence
from offline_marl.core.types import DataError
from offline_marl.environments.base import Flags, Floats, Frame, JointEnv, Seen, TeamActions

_OPEN: weakref.WeakSet[Connection] = weakref.WeakSet()
"""Our ends of all pipes: a fork inherits them, and would keep its siblings from noticing that we have gone."""

_GONE = (EOFError, BrokenPipeError, ConnectionResetError)
"""What a worker meets at a pipe whose other end has gone."""

_WITHIN: ContextVar[list[SideBySide] | None] = ContextVar("within", default=None)
"""What was made since `ended_behind` was entered."""


class WorkerDiedError(WorkError, RuntimeError):
    """A process that stepped simulators ended by itself; the message says which."""


class WorkerFailedError(WorkError, RuntimeError):
    """A failure inside a process that steps simulators, in place of an exception that cannot leave it."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """An exception on its way out of a process, with its words for where it cannot be made again."""

    bad_input: bool
    said: str
    words: str
    """The message alone, by which an exception is known to have come through as it was."""
    pickled: bytes | None

    @classmethod
    def of(cls, error: Exception) -> _Failure:
        words = sentence(error)
        bad_input = isinstance(error, BadInputError)
        said = words if isinstance(error, BadInputError | WorkError) else f"{type(error).__name__}: {words}"
        try:
            pickled = pickle.dumps(error)
        except Exception:
            pickled = None
        return cls(bad_input, said, words, pickled)

    def exception(self) -> Exception:
        """The exception as it was; a sound one that says the same where it cannot be, or would say something else."""
        try:
            error = None if self.pickled is None else pickle.loads(self.pickled)
        except Exception:  # of the user's own class: whatever its __init__ raises, or its module cannot be found here
            error = None
        if isinstance(error, Exception) and sentence(error) == self.words:
            return error
        return DataError(self.said) if self.bad_input else WorkerFailedError(self.said)


class SideBySide:
    """A `JointEnv` whose copies are shared among processes.

    Args:
        make: Makes so many copies of the environment.
        copies: How many episodes can run side by side, over all processes.
        workers: Processes; no more than copies.

    Raises:
        BadInputError: Whatever making the environment raises.
    """

    def __init__(self, make: Callable[[int], JointEnv], copies: int, workers: int) -> None:
        workers = min(workers, copies)
        share = -(-copies // workers)
        self._pipes = [_fork(make, share) for _ in range(workers)]
        self._end = weakref.finalize(self, _close, list(self._pipes))
        made = _WITHIN.get()
        if made is not None:
            made.append(self)
        self.copies = copies
        answers = [_received(pipe) for pipe in self._pipes]
        self.spec, self.max_steps, self._versions, self.action_bounds = answers[0]
        self._shares: list[int] = []

    def reset(self, seeds: Sequence[int]) -> Seen:
        """Start one episode per seed, see `Simulator.reset`.

        Raises:
            DataError: There are no seeds, more seeds than copies, or the same seed twice.
        """
        if not 1 <= len(seeds) <= self.copies or len(set(seeds)) < len(seeds):
            raise DataError(f"There are {self.copies} copies, which need as many seeds at most, all different.")
        self._shares = [len(part) for part in np.array_split(np.arange(len(seeds)), len(self._pipes)) if len(part)]
        return self._joined(self._all("reset", self._split(list(seeds))))

    def step(self, actions: TeamActions) -> tuple[Seen, Floats, Flags, Flags]:
        """Let all agents act at once, in every process; see `JointEnv.step`.

        Raises:
            DataError: The actions are not those of all running copies, or one is wrong.
        """
        if len(actions) != sum(self._shares):
            raise DataError(f"{sum(self._shares)} copies are running, but there are actions of {len(actions)}.")
        answers = self._all("step", self._split(actions))
        seen, *rest = zip(*answers, strict=True)
        rewards, terminations, truncations = (np.concatenate(parts) for parts in rest)
        return self._joined(seen), rewards, terminations, truncations

    def versions(self) -> dict[str, str]:
        """Those of the environment."""
        return dict(self._versions)

    def render(self, copy: int = 0) -> Frame:
        """Render one copy, see `JointEnv.render`."""
        for pipe, share in zip(self._pipes, self._shares, strict=False):
            if copy < share:
                pipe.send(("render", copy))
                frame: Frame = _received(pipe)
                return frame
            copy -= share
        raise DataError(f"{sum(self._shares)} copies are running, but another one was to be drawn.")

    def close(self) -> None:
        """End the processes."""
        self._end()

    def _split(self, rows: Any) -> list[Any]:
        borders = np.cumsum([0, *self._shares]).tolist()
        return [rows[first:last] for first, last in pairwise(borders)]

    def _joined(self, parts: Sequence[Seen]) -> Seen:
        def together(name: str) -> Any:
            values = [getattr(part, name) for part in parts]
            return None if values[0] is None else np.concatenate(values)

        avail = None
        if any(part.avail_actions is not None for part in parts):
            # Told by some processes only: copies of the others may choose anything.
            free = self.spec.present("act").numpy()
            masks = [(part.avail_actions, (len(part.obs), *free.shape)) for part in parts]
            avail = np.concatenate([np.broadcast_to(free, shape) if mask is None else mask for mask, shape in masks])
        return Seen(together("obs"), together("state"), avail, together("present"), together("terminated"))

    def _all(self, what: str, parts: Sequence[Any]) -> list[Any]:
        for pipe, part in zip(self._pipes, parts, strict=False):
            _send(pipe, (what, part))
        # All are heard before one is judged: what was answered must not be taken for the next answer.
        answers = [_answer(pipe) for pipe, _ in zip(self._pipes, parts, strict=False)]
        return [_judged(answer) for answer in answers]


@contextlib.contextmanager
def ended_behind() -> Iterator[None]:
    """End the worker processes of all copies made within, however it is left.

    Without it they wait for the garbage collector, which an exception that somebody keeps puts off for as long.
    """
    made: list[SideBySide] = []
    before = _WITHIN.set(made)
    try:
        yield
    finally:
        _WITHIN.reset(before)
        for copies in made:
            copies.close()


def _fork(make: Callable[[int], JointEnv], copies: int) -> Connection:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    _OPEN.add(ours)
    with warnings.catch_warnings():
        # Python warns of forks beside threads: torch's sleep, and what is forked never calls them.
        warnings.simplefilter("ignore", DeprecationWarning)
        context.Process(target=_serve, args=(theirs, make, copies), daemon=True).start()
    theirs.close()
    return ours


def _serve(pipe: Connection, make: Callable[[int], JointEnv], copies: int) -> None:
    for name in ("SIGINT", "SIGHUP"):  # told to all of a terminal's processes; who made us decides when we end
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    for other in list(_OPEN):
        other.close()
    # Whoever made us may have gone, at any time: that is no failure of ours.
    with contextlib.suppress(*_GONE):
        try:
            env = make(copies)
            versions = env.versions() if hasattr(env, "versions") else {}
            made = env.spec, env.max_steps, versions, getattr(env, "action_bounds", ())
        except Exception as error:
            pipe.send(_Failure.of(error))
            return
        _tell(pipe, made)
        while True:
            what, argument = pipe.recv()
            try:
                answer = getattr(env, what)(argument)
            except Exception as error:
                answer = _Failure.of(error)
            _tell(pipe, answer)


def _tell(pipe: Connection, answer: Any) -> None:
    try:
        pipe.send(answer)
    except _GONE:
        raise
    except Exception as error:  # it cannot be pickled
        pipe.send(_Failure.of(error))


def _send(pipe: Connection, message: Any) -> None:
    try:
        pipe.send(message)
    except (BrokenPipeError, OSError):
        raise WorkerDiedError("A process that steps the simulator has ended by itself: is memory short?") from None


def _answer(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except (EOFError, OSError):
        return WorkerDiedError("A process that steps the simulator has ended by itself: is memory short?")


def _judged(answer: Any) -> Any:
    if isinstance(answer, _Failure):
        raise answer.exception()
    if isinstance(answer, WorkerDiedError):
        raise answer
    return answer


def _received(pipe: Connection) -> Any:
    return _judged(_answer(pipe))


def _close(pipes: Sequence[Connection]) -> None:
    for pipe in pipes:
        pipe.close()
