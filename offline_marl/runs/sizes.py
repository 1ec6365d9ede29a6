"""Estimate of the memory that a learner and one of its batches take, compared with what there is before it is built."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from offline_marl.core.config import ConfigError
from offline_marl.core.types import Spec

LARGE = 4_096
"""Whole number among settings from which on an estimate is worth its time."""
TRAINED = 16
"""Bytes of a trained parameter: itself, its gradient and Adam's two moments."""
WIDTHS = ("hidden", "window", "batch_size", "frame_stack")


def refuse_too_large(name: str, build: Callable[[], nn.Module], settings: Mapping[str, Any], spec: Spec) -> None:
    """Refuse a learner that cannot be in memory together with one batch.

    Args:
        name: What is learnt, for the message.
        build: Makes it; called without memory for its numbers, and only where the settings or the team are large.
        settings: Its config's fields.
        spec: The team's widths.

    Raises:
        ConfigError: The sentence has what it would take and what there is.
    """
    numbers = [*_whole_numbers(settings), spec.obs_dim, spec.act_dim, spec.state_dim]
    if max(numbers) < LARGE:
        return
    free = memory_there_is()
    batch = batch_bytes(settings, spec)
    parameters, taken = _parameters(build, settings, spec)
    if free is not None and taken + batch > free:
        given = ", ".join(f"{field} = {settings[field]}"[:80] for field in WIDTHS if field in settings)
        raise ConfigError(
            f"{name} would take about {_gigabytes(taken + batch)} of memory ({parameters:.3g} parameters with what "
            f"trains them {_gigabytes(taken)}, one batch {_gigabytes(batch)}), and there are {_gigabytes(free)}: "
            f"choose smaller settings ({given})."
        )


def batch_bytes(settings: Mapping[str, Any], spec: Spec) -> int:
    """Bytes of one batch: rows of what is seen and done, before and after, with histories and widest activations."""
    rows, window = _count(settings, "batch_size"), _count(settings, "window", 0)
    hidden = settings.get("hidden")
    wide = max(_whole_numbers(hidden), default=0) if isinstance(hidden, list | tuple) else 0
    seen = spec.obs_dim * _count(settings, "frame_stack") + window * spec.step_dim
    return 4 * rows * (spec.n_agents * (2 * seen + spec.act_dim + wide + 6) + 2 * spec.state_dim)


def memory_there_is() -> int | None:
    """Bytes that may be asked for, by the system, its control group and this process's limits; None if none tells."""
    told = [*_system(), *_control_group(), *_limits()]
    return min(told) if told else None


def _parameters(build: Callable[[], nn.Module], settings: Mapping[str, Any], spec: Spec) -> tuple[float, int]:
    """Parameters, and the bytes of those and of what trains them."""
    least = _least_parameters(settings, spec)
    if TRAINED * least > 1 << 50:  # beyond any machine, and perhaps beyond what torch counts
        return float(least), TRAINED * least
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            learner = build()
    except (RuntimeError, NotImplementedError, TypeError, ValueError):  # it reads its numbers while it is built
        return float(least), TRAINED * least
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in learner.parameters()]
    taken = sum(count * (TRAINED if trained else 4) for count, trained in sizes)
    return float(sum(count for count, _ in sizes)), taken


def _least_parameters(settings: Mapping[str, Any], spec: Spec) -> int:
    """Parameters of one network for each agent, of these hidden layers."""
    hidden = settings.get("hidden")
    widths = [width for width in hidden if type(width) is int] if isinstance(hidden, list | tuple) else []
    layers = [spec.obs_dim, *widths, spec.act_dim]
    agents = 1 if settings.get("share_parameters") else spec.n_agents
    return agents * sum(one * other for one, other in itertools.pairwise(layers))


def _whole_numbers(value: Any) -> list[int]:
    if isinstance(value, Mapping):
        return [number for inner in value.values() for number in _whole_numbers(inner)]
    if isinstance(value, list | tuple):
        return [number for inner in value for number in _whole_numbers(inner)]
    return [value] if type(value) is int else []


def _count(settings: Mapping[str, Any], name: str, default: int = 1) -> int:
    value = settings.get(name, default)
    return value if type(value) is int else default


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"


def _system() -> Iterator[int]:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024


def _control_group() -> Iterator[int]:
    folder = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):
        most = int((folder / "memory.max").read_text(encoding="utf-8"))
        yield most - int((folder / "memory.current").read_text(encoding="utf-8"))


def _limits() -> Iterator[int]:
    try:
        import resource
    except ImportError:  # only Unix has it
        return
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        yield soft
