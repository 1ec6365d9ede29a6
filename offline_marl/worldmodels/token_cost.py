"""Multiplications of a token world model's updates and of its imagination, counted from its sizes."""

from __future__ import annotations

from offline_marl.worldmodels.token_members import Layout

TRAINED = 3
"""Products of an update for each of its forward pass: that one, and two of the backward pass."""


def model_multiplications(layout: Layout, members: int, width: int, layers: int, depth: int, rows: int) -> float:
    """Multiplications of one update of the transformers on so many segments."""
    places = rows * layout.n_agents * (layout.steps * layout.block + layout.tokens - layout.pending)
    in_blocks = layers * (12 * width**2 + 2 * width * layout.steps * layout.block)
    told = _heads(layout, width) + (0 if layout.parallel else (layout.tokens - 1) * _obs_head(layout, width))
    of_steps = _summaries(layout, width, depth) + layout.n_agents * told
    return float(TRAINED * members * (places * in_blocks + rows * layout.steps * of_steps))


def step_multiplications(layout: Layout, members: int, width: int, layers: int, depth: int) -> float:
    """Multiplications of one imagined step of one row, half of the positions being in the cache."""
    places = layout.n_agents * layout.block
    in_blocks = layers * (12 * width**2 + width * layout.steps * layout.block)
    told = _heads(layout, width) + (0 if layout.parallel else (layout.tokens - 1) * _obs_head(layout, width))
    return float(members * (places * in_blocks + _summaries(layout, width, depth) + layout.n_agents * told))


def _summaries(layout: Layout, width: int, depth: int) -> int:
    """Of all agents' summaries of a step."""
    agents, tokens = layout.n_agents, layout.n_agents * (layout.tokens + layout.act_tokens)
    read = 2 * tokens * width**2 + agents * (2 * width**2 + 2 * tokens * width)
    among = depth * agents * (12 * width**2 + 2 * agents * width)
    wide = 4 * width
    sight = wide * (layout.exact + wide + agents * width) if layout.exact else 0
    return read + among + sight


def _obs_head(layout: Layout, width: int) -> int:
    return width**2 + width * layout.vocabulary * (layout.tokens if layout.parallel else 1)


def _heads(layout: Layout, width: int) -> int:
    """Of all that is told at one summary."""
    reward, end = width**2 + width * layout.reward_numbers, (width**2 + width) * layout.terminates
    avail = width**2 + width * layout.choices if layout.choices else 0
    return _obs_head(layout, width) + reward + end + avail
