"""Command `offline-marl codes`: what codes of distributed training cost and bear. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from offline_marl.core.config import Config, ConfigError, build
from offline_marl.core.fields import Count, CountOrZero, NotNegative, Positive, Seed, Share
from offline_marl.distributed.arrivals import Pace, advice, mean_iteration_s
from offline_marl.distributed.coding import MOST_CONDITION, Code
from offline_marl.distributed.measures import decodability, measures
from offline_marl.distributed.schemes import DENSITY, SCHEMES, make_code
from offline_marl.launch.cli.flags import read
from offline_marl.launch.cli.text import print_lines, table

ABOUT = (
    "What the codes of distributed training cost and bear. Load: agents that a learner computes, mean/most; updates: "
    "all of these over the number of agents; bears: learners that may be lost, whichever they are; then the share of "
    "sets of so many lost learners after which every agent's gradient is still known; condition: of the systems left "
    "to solve when the fewest learners have answered, median/worst. Dense codes bear the most, and their learners gain "
    "nothing by sharing the work. Uncoded stands beside them with one learner an agent."
)
USAGE = "--agents M --learners N [--code NAME] [--lost K,K,...]"


class CodesFlags(Config):
    """Flags of the command `codes`."""

    agents: Count
    """Agents whose updates are shared out (M)."""
    learners: Count
    """Processes that they are shared among (N), at least as many."""
    code: str | None = None
    """One scheme; without it all."""
    lost: tuple[CountOrZero, ...] = (1, 2, 4, 5, 7)
    """Numbers of lost learners to show."""
    seed: Seed = 0
    """Draws the entries of random codes, and the sets that are looked at where there are too many."""
    density: Share = DENSITY
    """Share of the entries of random-sparse that are not zero."""
    ldpc: tuple[Count, Count, Count] | None = None
    """Parameters p,rho,gamma of the LDPC code; without them the first that fit."""
    most_condition: Positive = MOST_CONDITION
    """Condition number beyond which a system is not solved."""
    compute: Positive | None = None
    """Seconds for the gradients of one agent: then the seconds of an iteration are shown for each of --lost and 0 late
    learners, simulated with a core for each learner, and which code to take."""
    spread: NotNegative = 0.0
    """Deviation of the logarithm of a learner's time."""
    delay: NotNegative = 1.0
    """Seconds by which late learners are late."""


def run(args: Sequence[str]) -> None:
    """Print a row for each code.

    Raises:
        ConfigError: There is no such code, or not of this size.
    """
    flags: CodesFlags = build(CodesFlags, read(CodesFlags, "codes", USAGE, ABOUT, args))
    if flags.learners < flags.agents:
        raise ConfigError(f"{flags.learners} learners for {flags.agents} agents: there must be as many, or more.")
    rows = [("code", "load", "updates", "bears", *(f"{lost} lost" for lost in flags.lost), "condition")]
    refusals, codes = [], list[Code]()
    for name in SCHEMES if flags.code is None else [flags.code]:
        try:
            codes.append(_make(name, flags))
            rows.append(_row(codes[-1], flags))
        except ConfigError as error:
            if flags.code is not None:
                raise
            refusals.append(f"{name}: {error}")
    print_lines(table(rows))
    print_lines(refusals)
    if flags.compute is not None:
        print_lines(_times(codes, flags, flags.compute))


def _make(name: str, flags: CodesFlags) -> Code:
    return make_code(
        name,
        flags.agents,
        flags.agents if name == "uncoded" and flags.code is None else flags.learners,
        seed=flags.seed,
        density=flags.density,
        parameters=flags.ldpc,
        most_condition=flags.most_condition,
    )


def _times(codes: Sequence[Code], flags: CodesFlags, compute_s: float) -> list[str]:
    """Simulated seconds of an iteration, and which code to take."""
    pace, numbers = Pace(compute_s, flags.spread), sorted({0, *flags.lost})
    rows = [("seconds an iteration", *(f"{late} late" for late in numbers))]
    for code in codes:
        bearable = [late for late in numbers if late <= code.learners]
        seconds = [f"{mean_iteration_s(code, pace, late, flags.delay, flags.seed):.3g}" for late in bearable]
        rows.append((code.name, *seconds, *["-"] * (len(numbers) - len(bearable))))
    able = [code for code in codes if code.learners == flags.learners]
    said = [advice(able, pace, late, flags.delay, flags.seed) for late in numbers if late <= flags.learners and able]
    return ["", *table(rows), *said]


def _row(code: Code, flags: CodesFlags) -> tuple[str, ...]:
    costs = measures(code, flags.seed)
    bears = f"{costs.tolerance}{'' if costs.tolerance_exact else ' (of those drawn)'}"
    shares = (decodability(code, lost, flags.seed) for lost in flags.lost)
    return (
        code.name,
        f"{costs.mean_load:.2f}/{costs.most_load}",
        f"{costs.updates:.1f}",
        bears,
        *("-" if code.learners - each.lost < code.agents else f"{each.share:.3f}" for each in shares),
        "-" if math.isnan(costs.median_condition) else f"{costs.median_condition:.3g}/{costs.most_condition:.3g}",
    )
