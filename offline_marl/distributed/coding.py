"""Linear erasure codes over the reals: learners return weighted sums of agents' results, a controller solves for them.

With N learners, M agents and an assignment matrix C [learner, agent], learner n returns y_n = sum_m C[n, m] x_m. From
the rows I that have arrived, x is recovered once rank(C_I) = M. Everything is float64: float32 messages would turn an
exact zero into rounding noise, which Adam blows up to a whole step.
Source: coded computation for multi-agent learning, Wang et al. (2021), arXiv 2101.02308.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt

from offline_marl.core.config import ConfigError
from offline_marl.core.errors import WorkError

Floats = npt.NDArray[np.float64]

MOST_CONDITION = 1e6
"""Condition number of a system from which it is not solved: of sixteen digits ten remain."""
MOST_RESIDUAL = 1e-6
"""Share of the messages' size that a solution may leave unexplained before the messages count as inconsistent."""


class CodingError(WorkError, RuntimeError):
    """Messages that do not determine the agents' results, or that contradict one another."""


@dataclass(frozen=True)
class Code:
    """An assignment of agents to learners, with its encoder and decoder.

    Args:
        name: The scheme.
        matrix: C; learner n computes the agents whose entries in row n are not zero.
        most_condition: Sets of rows whose remaining system is worse conditioned do not count as decodable.

    Raises:
        ConfigError: A learner or an agent is left out, or not even all rows together can be decoded.
    """

    name: str
    matrix: Annotated[Floats, "learner agent"]
    most_condition: float = MOST_CONDITION

    def __post_init__(self) -> None:
        """Refuse a matrix that cannot serve."""
        matrix = self.matrix
        if matrix.ndim != 2 or not np.isfinite(matrix).all():
            raise ConfigError(f"The code {self.name} needs a table [learner, agent] of finite numbers.")
        if matrix.shape[0] < matrix.shape[1]:
            few = f"{matrix.shape[0]} learners cannot tell {matrix.shape[1]} agents apart"
            raise ConfigError(f"The code {self.name}: {few}: there must be at least as many learners as agents.")
        for what, axis in (("learner", 1), ("agent", 0)):
            empty = np.flatnonzero(~(matrix != 0).any(axis))
            if len(empty):
                raise ConfigError(f"The code {self.name} gives {what} {empty[0]} nothing to do with any other.")
        everybody = range(self.learners)
        if not self.determines(everybody):
            raise ConfigError(f"The code {self.name} has rank {self.rank(everybody)}, and {self.agents} agents.")
        if not self.decodable(everybody):
            worst = f"a condition number of {self.condition(everybody):.1e}, above {self.most_condition:.0e}"
            raise ConfigError(f"The code {self.name} cannot be decoded from all {self.learners} learners: {worst}.")

    @property
    def learners(self) -> int:
        """N, the number of rows."""
        return int(self.matrix.shape[0])

    @property
    def agents(self) -> int:
        """M, the number of columns."""
        return int(self.matrix.shape[1])

    @property
    def loads(self) -> npt.NDArray[np.int64]:
        """Agents that each learner computes."""
        counts: npt.NDArray[np.int64] = (self.matrix != 0).sum(1)
        return counts

    def assigned(self, learner: int) -> tuple[int, ...]:
        """Agents that a learner computes, in ascending order."""
        return tuple(int(agent) for agent in np.flatnonzero(self.matrix[learner]))

    def encode(self, learner: int, results: Annotated[Floats, "agent ..."]) -> Floats:
        """The message of a learner: sum_m C[n, m] x_m over the agents it computes.

        Args:
            learner: n.
            results: x of the agents of `assigned(learner)` alone, in that order.
        """
        agents = self.assigned(learner)
        if len(results) != len(agents):
            raise ConfigError(f"Learner {learner} computes {len(agents)} agents, and was given {len(results)} results.")
        message: Floats = np.tensordot(self.matrix[learner, list(agents)], np.asarray(results, np.float64), 1)
        return message

    def rank(self, rows: Sequence[int]) -> int:
        """Dimension of what these learners' messages span."""
        return int(np.linalg.matrix_rank(self.matrix[list(rows)])) if len(rows) else 0

    def determines(self, rows: Sequence[int]) -> bool:
        """Whether these rows span all agents in exact arithmetic."""
        return len(rows) >= self.agents and self.rank(rows) == self.agents

    def decodable(self, rows: Sequence[int]) -> bool:
        """Whether these rows give every agent's result, and their system is conditioned well enough."""
        return self.determines(rows) and self.condition(rows) <= self.most_condition

    def condition(self, rows: Sequence[int]) -> float:
        """Condition number of the system that is left to solve after peeling; 1 where nothing is."""
        order, left = _peel(self.matrix[list(rows)])
        lacking = _others(self.agents, [agent for _, agent in order])
        if not lacking:
            return 1.0
        return float(np.linalg.cond(self.matrix[np.ix_([rows[row] for row in left], lacking)]))

    def decode(self, rows: Sequence[int], messages: Annotated[Floats, "row ..."]) -> Annotated[Floats, "agent ..."]:
        """Every agent's result from the messages of these learners.

        Rows of zeros and ones are peeled: one with a single unknown agent gives it exactly, and it is subtracted from
        the others. What is left is solved by least squares over all rows.

        Raises:
            CodingError: The rows do not determine the results, or their messages contradict one another.
        """
        if not self.decodable(rows):
            raise CodingError(f"Messages of learners {sorted(rows)} do not determine all {self.agents} agents.")
        table, coefficients = np.asarray(messages, np.float64), self.matrix[list(rows)]
        rest = table.reshape(len(rows), -1)
        results: Floats = np.empty((self.agents, rest.shape[1]))
        order, left = _peel(coefficients)
        peeled = {row for row, _ in order}
        redundant = [row for row in range(len(rows)) if row not in peeled]
        if redundant or (np.count_nonzero(coefficients, axis=0) > 1).any():
            if not np.isfinite(rest).all():  # of a training that diverges, as its owner should see
                return np.full((self.agents, *table.shape[1:]), np.nan)
            rest = rest.copy()
        for row, agent in order:
            results[agent] = rest[row]
            others = np.flatnonzero(coefficients[:, agent])
            others = others[others != row]
            if len(others):
                rest[others] -= np.outer(coefficients[others, agent], results[agent])
        lacking = _others(self.agents, [agent for _, agent in order])
        if lacking:
            system = coefficients[np.ix_(left, lacking)]
            results[lacking] = np.linalg.lstsq(system, rest[left], rcond=None)[0]
            rest[left] -= system @ results[lacking]
        if redundant:
            off, size = np.abs(rest[redundant]).max(initial=0.0), np.abs(table).max(initial=0.0)
            if not off <= MOST_RESIDUAL * size:
                said = f"contradict one another by {off:.1e} of {size:.1e}"
                raise CodingError(f"Messages of learners {sorted(rows)} {said}.")
        return results.reshape(self.agents, *table.shape[1:])

    def with_units(self) -> Code:
        """The code with a row more for each agent, behind the learners': what its owner may compute by itself."""
        return Code(self.name, np.concatenate([self.matrix, np.eye(self.agents)]), self.most_condition)

    def missing(self, rows: Sequence[int]) -> list[int]:
        """The fewest agents, of a greedy choice, that must be known besides so that these rows give all the others."""
        spanned, chosen = self.matrix[list(rows)].reshape(-1, self.agents), list[int]()
        rank = self.rank(rows)
        for agent, unit in enumerate(np.eye(self.agents)):
            longer = np.concatenate([spanned, unit[None]])
            if np.linalg.matrix_rank(longer) > rank:
                spanned, rank = longer, rank + 1
                chosen.append(agent)
        if self.with_units().decodable([*rows, *(self.learners + agent for agent in chosen)]):
            return chosen
        return list(range(self.agents))


def _others(agents: int, known: Sequence[int]) -> list[int]:
    there = set(known)
    return [agent for agent in range(agents) if agent not in there]


def _peel(coefficients: Annotated[Floats, "row agent"]) -> tuple[list[tuple[int, int]], list[int]]:
    """Peel binary rows.

    Returns:
        Pairs of a row and the agent that it gives, in order; and the rows that still hold an unknown agent.
    """
    open_entries = coefficients != 0
    binary = ((coefficients == 0) | (coefficients == 1)).all(1)
    order: list[tuple[int, int]] = []
    while True:
        single = np.flatnonzero(binary & (open_entries.sum(1) == 1))
        if not len(single):
            return order, [int(row) for row in np.flatnonzero(open_entries.any(1))]
        agent = int(np.flatnonzero(open_entries[single[0]])[0])
        order.append((int(single[0]), agent))
        open_entries[:, agent] = False
