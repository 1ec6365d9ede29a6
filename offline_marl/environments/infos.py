"""Per-step infos that environments tell of themselves, as one flat row of each agent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

MOST_ENTRIES = 16
"""Entries of an array that become columns of their own, `name_0` onwards."""


def flat(infos: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Plain values by name: a table within is `outer.inner`, entries of a short array `name_0` onwards.

    Numbers and truths stay such; longer arrays are lists, and whatever else there is becomes text.
    """
    return dict(_entries(infos, prefix))


def _entries(infos: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in infos.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _entries(value, f"{name}.")
            continue
        array = _numbers(value)
        if array is None:
            yield name, value if isinstance(value, str) or value is None else str(value)
        elif array.ndim == 0:
            yield name, array.item()
        elif array.size <= MOST_ENTRIES:
            yield from ((f"{name}_{place}", entry) for place, entry in enumerate(array.ravel().tolist()))
        else:
            yield name, array.tolist()


def _numbers(value: Any) -> np.ndarray[Any, Any] | None:
    if not isinstance(value, bool | int | float | np.generic | np.ndarray | Sequence) or isinstance(value, str | bytes):
        return None
    try:
        array = np.asarray(value)
    except ValueError:  # lists of unequal lengths
        return None
    return array if array.dtype.kind in "biuf" else None


def particle_infos(world: Any, agent: Any) -> dict[str, Any]:
    """Collisions and occupied landmarks of one agent of MPE, from where its world stands.

    `collisions` counts the other agents that it touches, where both can collide. `occupied_landmarks` counts the
    landmarks that an agent, whichever, stands within `NEAR` of, the same for all; where landmarks are obstacles there
    is none. `on_landmarks` counts those that it stands on itself.
    """
    place, touched = agent.state.p_pos, 0
    for other in world.agents:
        if other is not agent and other.collide and agent.collide:
            touched += bool(np.linalg.norm(other.state.p_pos - place) < other.size + agent.size)
    goals = [landmark.state.p_pos for landmark in world.landmarks if not landmark.collide]
    if not goals:
        return {"collisions": touched}
    everybody = np.array([other.state.p_pos for other in world.agents])
    distances = np.linalg.norm(everybody[:, None] - np.array(goals), axis=-1)
    return {
        "collisions": touched,
        "occupied_landmarks": int((distances.min(0) < NEAR).sum()),
        "on_landmarks": int((np.linalg.norm(np.array(goals) - place, axis=-1) < NEAR).sum()),
    }


NEAR = 0.1
"""Distance from a landmark within which MPE's own benchmark calls it occupied."""
