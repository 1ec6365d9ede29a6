"""Schemes of codes by name: uncoded, replication, MDS codes, random sparse and regular LDPC.

An MDS code is decodable from any M of its N rows; the published one has powers of nodes between .1 and .5 as its
entries, of which M rows may be conditioned as badly as 1e13, so the default is a systematic one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations, islice
from math import comb

import numpy as np
import numpy.typing as npt

from offline_marl.core.config import ConfigError, suggest
from offline_marl.distributed.coding import MOST_CONDITION, Code, Floats

DEFAULT = "systematic"
DENSITY = 0.8
"""Share of the entries of a random sparse code that are not zero, as published."""
DRAWS = 20
"""Matrices of which the best conditioned one is taken."""
SUBSETS = 200
"""Sets of M rows by which the conditioning of a drawn matrix is judged."""
MOST_DRAWS = 1_000
"""Draws of a sparse matrix before its density is called too low."""

MOST_LISTED = 200
"""Learners up to which it is said for how many agents there are LDPC codes."""

Table = npt.NDArray[np.int64]


def make_code(
    name: str,
    agents: int,
    learners: int,
    *,
    seed: int = 0,
    density: float = DENSITY,
    parameters: tuple[int, int, int] | None = None,
    most_condition: float = MOST_CONDITION,
) -> Code:
    """Make the code of a scheme.

    Args:
        name: One of `SCHEMES`.
        agents: M.
        learners: N.
        seed: Draws the entries of the random ones.
        density: Of `random-sparse`.
        parameters: (p, rho, gamma) of `ldpc`; without them the first that fit.
        most_condition: See `Code`.

    Raises:
        ConfigError: The scheme is unknown, or has no such code.
    """
    if name not in SCHEMES:
        raise ConfigError(f"Unknown code '{name}': {suggest(name, SCHEMES)}.")
    if agents < 1 or learners < agents:
        raise ConfigError(f"A code of {learners} learners for {agents} agents: there must be as many, or more.")
    if name == "random-sparse":
        matrix = random_sparse(agents, learners, seed, density)
    elif name == "ldpc":
        matrix = ldpc(agents, learners, parameters)
    else:
        matrix = SCHEMES[name](agents, learners, seed)
    return Code(name, np.asarray(matrix, np.float64), most_condition)


def uncoded(agents: int, learners: int, seed: int = 0) -> Floats:
    """One learner for each agent; there are no others."""
    if learners != agents:
        raise ConfigError(f"Uncoded, {agents} agents take {agents} learners, not {learners}.")
    return np.eye(agents)


def replication(agents: int, learners: int, seed: int = 0) -> Floats:
    """Unit rows in turn: each agent is computed by the same number of learners, or by one more.

    The published code stops at two copies; this one goes round as often as there are learners.
    """
    return np.eye(agents)[np.arange(learners) % agents]


def vandermonde(agents: int, learners: int, seed: int = 0) -> Floats:
    """The published MDS code: C[n, m] = x_m^(N-1-n), x_m evenly from .1 to .5."""
    nodes = np.linspace(0.1, 0.5, agents)
    powers: Floats = nodes[None, :] ** np.arange(learners - 1, -1, -1)[:, None]
    return powers


def chebyshev(agents: int, learners: int, seed: int = 0) -> Floats:
    """An MDS code of Chebyshev polynomials: C[n, m] = sqrt(2) cos(m (2n + 1) pi / 2N), with 1 for m = 0."""
    angles = np.outer(2 * np.arange(learners) + 1, np.arange(agents)) * np.pi / (2 * learners)
    rows: Floats = np.where(np.arange(agents) == 0, 1.0, np.sqrt(2) * np.cos(angles))
    return rows


def gaussian(agents: int, learners: int, seed: int = 0) -> Floats:
    """Standard normal entries: any M rows are independent with probability 1; the best conditioned of some draws."""
    rng = np.random.default_rng(seed)
    return _best([rng.standard_normal((learners, agents)) for _ in range(DRAWS)], rng)


def systematic(agents: int, learners: int, seed: int = 0) -> Floats:
    """Unit rows first, then normal ones of the same length: nothing to solve while the first M learners answer."""
    rng = np.random.default_rng(seed)
    drawn = [rng.standard_normal((learners - agents, agents)) for _ in range(DRAWS)]
    return _best([np.concatenate([np.eye(agents), rows]) for rows in drawn], rng)


def random_sparse(agents: int, learners: int, seed: int = 0, density: float = DENSITY) -> Floats:
    """Normal entries, each kept with probability `density`; drawn until no row is empty and the rank is full.

    Raises:
        ConfigError: The density is no share, or so low that no draw serves.
    """
    if not 0.0 < density <= 1.0:
        raise ConfigError(f"The density of a random sparse code lies between 0 and 1, and is not {density}.")
    rng = np.random.default_rng(seed)
    for _ in range(MOST_DRAWS):
        matrix: Floats = rng.standard_normal((learners, agents)) * (rng.random((learners, agents)) < density)
        busy = bool((matrix != 0).any(1).all())
        if busy and np.linalg.matrix_rank(matrix) == agents and np.linalg.cond(matrix) <= MOST_CONDITION:
            return matrix
    raise ConfigError(
        f"No random sparse code of density {density} gives {learners} learners something to do and tells "
        f"{agents} agents apart: raise its density."
    )


def ldpc(agents: int, learners: int, parameters: tuple[int, int, int] | None = None) -> Floats:
    """A regular LDPC code's systematic generator, its zeros and ones taken as real numbers.

    The parity matrix has gamma x rho blocks, block (i, j) the cyclic shift A^(ij) of p entries (array code); N = p rho,
    and M is what its rank over two elements leaves.

    Raises:
        ConfigError: No parameters, or not those given, make a code of this size.
    """
    if parameters is not None:
        if min(parameters) < 1:
            raise ConfigError(f"Parameters of an LDPC code are counts from 1 on, not {parameters}.")
        generator = _generator(*parameters)
        if generator.shape != (learners, agents):
            there = f"{generator.shape[0]} learners and {generator.shape[1]} agents"
            raise ConfigError(f"The LDPC code {parameters} is one of {there}, not of {learners} and {agents}.")
        return generator.astype(np.float64)
    sizes: set[int] = set()
    for choice in _ldpc_choices(learners):
        # So many rows of checks leave more agents than these; sizes of small codes are listed all the same.
        if learners > MOST_LISTED and choice[0] * choice[2] < learners - agents:
            continue
        generator = _generator(*choice)
        if generator.shape[1] == agents:
            return generator.astype(np.float64)
        sizes.add(generator.shape[1])
    listed = ", ".join(str(size) for size in sorted(sizes - {0})) or "none"
    raise ConfigError(f"There is no LDPC code of {learners} learners for {agents} agents; there is one for {listed}.")


def _ldpc_choices(learners: int) -> Iterator[tuple[int, int, int]]:
    """(p, rho, gamma) with p rho = N, few parity blocks last, since more of them leave fewer agents."""
    for p in range(2, learners + 1):
        if learners % p == 0:
            rho = learners // p
            yield from ((p, rho, gamma) for gamma in range(min(rho, p), 0, -1))


def _generator(p: int, rho: int, gamma: int) -> Table:
    """Generator [unit rows; parity rows] of the array code, by elimination over two elements."""
    # Rows are the bits of whole numbers: one operation adds two of them.
    rows = [
        sum(1 << (j * p + (entry + i * j) % p) for j in range(rho)) for i in range(gamma) for entry in range(p)
    ]  # fmt: skip
    pivots: list[int] = []
    for column in range(p * rho):
        at, bit = len(pivots), 1 << column
        below = next((row for row in range(at, len(rows)) if rows[row] & bit), None)
        if below is None:
            continue
        rows[at], rows[below] = rows[below], rows[at]
        rows = [number ^ rows[at] if number & bit and row != at else number for row, number in enumerate(rows)]
        pivots.append(column)
        if len(pivots) == len(rows):
            break
    taken = set(pivots)
    free = [column for column in range(p * rho) if column not in taken]
    parity = [rows[at] >> column & 1 for at in range(len(pivots)) for column in free]
    table = np.array(parity, np.int64).reshape(len(pivots), len(free))
    return np.concatenate([np.eye(len(free), dtype=np.int64), table])


def _best(matrices: list[Floats], rng: np.random.Generator) -> Floats:
    """The matrix whose worst set of M rows, of some, is conditioned best."""
    learners, agents = matrices[0].shape
    if learners == agents:
        return matrices[0] if (matrices[0] == np.eye(agents)).all() else min(matrices, key=np.linalg.cond)
    subsets = row_sets(learners, agents, SUBSETS, rng)
    return min(matrices, key=lambda matrix: float(np.linalg.cond(matrix[subsets]).max()))


def row_sets(learners: int, size: int, most: int, rng: np.random.Generator) -> Table:
    """Sets of rows of one size: all of them, or so many that are drawn, `[set, row]`."""
    if comb(learners, size) <= most:
        return np.array(list(islice(combinations(range(learners), size), most)), np.int64)
    return np.argsort(rng.random((most, learners)), axis=1)[:, :size]


SCHEMES: dict[str, Callable[..., Floats]] = {
    "uncoded": uncoded,
    "replication": replication,
    "systematic": systematic,
    "chebyshev": chebyshev,
    "gaussian": gaussian,
    "vandermonde": vandermonde,
    "random-sparse": random_sparse,
    "ldpc": ldpc,
}
