"""Worker processes that record chunks of episodes, each with simulators of its own.

On Linux they are forked, and have at once what this process has imported; elsewhere they are new processes, which
import torch and the simulator first, for seconds.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from offline_marl.collection.recorder import Recorder, RecordingPlan
from offline_marl.core.errors import BadInputError, WorkError
from offline_marl.core.plugin_files import load_plugin, loaded_plugins
from offline_marl.core.types import DataError
from offline_marl.environments.checks import BadNumbersError

PATIENCE = 5.0
"""Seconds that a worker has to end before it is killed."""


class WorkerError(WorkError):
    """A worker that ended early; the message is one sentence."""


Worker = tuple[BaseProcess, Any]
"""A process and this end of its pipe."""


def record_side_by_side(
    plan: RecordingPlan, chunks: Sequence[range], workers: int, advance: Callable[[int], object]
) -> None:
    """Record chunks of episodes in processes of their own; none is left behind, however this ends.

    Args:
        plan: What they record.
        chunks: Episodes of each chunk.
        workers: How many processes.
        advance: Told the number of episodes of each chunk that was stored.

    Raises:
        DataError: The environment shows or pays what no learner could use; chunks that are whole stay.
        WorkerError: A worker died or could not go on; chunks that are whole stay.
    """
    waiting, busy = deque(chunks), dict[Any, tuple[BaseProcess, range]]()
    with _started(plan, min(workers, len(chunks))) as started:
        for process, channel in started:
            busy[channel] = process, _hand_over(channel, waiting.popleft())
        while busy:
            for channel in wait(list(busy)):
                process, numbers = busy.pop(channel)
                _refuse_failure(process, channel, numbers)
                advance(len(numbers))
                if waiting:
                    busy[channel] = process, _hand_over(channel, waiting.popleft())


def _hand_over(channel: Any, numbers: range) -> range:
    with contextlib.suppress(BrokenPipeError):  # its death is told where its answer is awaited
        channel.send(numbers)
    return numbers


def _refuse_failure(process: BaseProcess, channel: Any, numbers: range) -> None:
    where = f"episodes {numbers[0]} to {numbers[-1]}"
    try:
        failure = channel.recv()
    except (EOFError, OSError):
        process.join(PATIENCE)
        code = process.exitcode
        how = f"was killed ({signal.Signals(-code).name})" if code is not None and code < 0 else f"died (code {code})"
        raise WorkerError(
            f"A worker {how} while it recorded {where}: chunks that are whole are kept, the same command goes on."
        ) from None
    if failure is not None:
        expected, message = failure
        if not expected:
            raise RuntimeError(f"A worker failed while it recorded {where}:\n{message}")
        if expected == "input":
            raise DataError(message)
        raise WorkerError(f"A worker could not record {where}: {message}")


@contextlib.contextmanager
def _started(plan: RecordingPlan, count: int) -> Iterator[list[Worker]]:
    started: list[Worker] = []
    try:
        # Blocked while they are born, which they inherit: an interruption is told to this process alone, which ends
        # them. The tracker of new processes goes first: where it starts later, it unblocks what it finds blocked.
        if not forks():
            resource_tracker.ensure_running()
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
        try:
            for _ in range(count):
                _start(started)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)
        for _, channel in started:
            # Not an argument of theirs: who starts them would wait until they have read it.
            with contextlib.suppress(BrokenPipeError):
                channel.send(plan)
        yield started
        for _, channel in started:
            with contextlib.suppress(OSError):
                channel.send(None)
        for process, _ in started:
            process.join(PATIENCE)
    finally:
        _end(started)


def forks() -> bool:
    """Whether workers are forked: not where that is unsafe, as on macOS, beside a GPU in use or plugins' threads."""
    on_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return sys.platform == "linux" and not on_gpu and not loaded_plugins()


def _start(started: list[Worker]) -> None:
    context: Any = multiprocessing.get_context("fork" if forks() else "spawn")
    here, there = context.Pipe()
    if forks():
        ours = [channel for _, channel in started] + [here]
        process = context.Process(target=_serve_forked, args=(there, ours), daemon=True)
    else:
        process = context.Process(target=_serve, args=(there, loaded_plugins()), daemon=True)
    started.append((process, here))  # known before it runs, so that an interruption finds it
    with warnings.catch_warnings():
        # Python warns of forks beside threads: torch's sleep, and a worker, which computes with one, never calls them.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    there.close()


def _end(started: Sequence[Worker]) -> None:
    alive = [process for process, _ in started if process.pid is not None]
    for _, channel in started:
        channel.close()
    for process in alive:
        process.terminate()
    for process in alive:
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()


def _serve_forked(channel: Any, ours: Sequence[Any]) -> None:
    """Serve with what a fork brings along, but for its parent's ends of pipes and its parent's answer to SIGTERM."""
    for end in ours:  # while a sibling held one, nobody would notice that the parent has gone
        end.close()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _serve(channel)


def _serve(channel: Any, plugins: Sequence[str] = ()) -> None:
    """Receive the plan, record the chunks that are asked for until there are no more, or nobody asks."""
    torch.set_num_threads(1)
    gone = (EOFError, BrokenPipeError, ConnectionResetError)
    with contextlib.suppress(*gone):
        try:
            for file in plugins:
                load_plugin(file)
            _record(channel)
        except gone:
            raise
        except BadNumbersError as error:
            channel.send(("input", str(error)))
        except (BadInputError, WorkError) as error:
            channel.send((True, str(error)))
        except OSError as error:
            channel.send((True, f"{error.strerror or error}: {error.filename}."))
        except Exception:
            channel.send((False, traceback.format_exc()))


def _record(channel: Any) -> None:
    plan: RecordingPlan = channel.recv()
    recorder = Recorder(plan.config, plan.assignment.names, plan.assignment.deviate)
    try:
        if recorder.describe() != plan.behaviours:
            raise DataError("a run has changed since the collection began.")
        while (numbers := channel.recv()) is not None:
            recorder.record(plan, numbers)
            channel.send(None)
    finally:
        recorder.close()
