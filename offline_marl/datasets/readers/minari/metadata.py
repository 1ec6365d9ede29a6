"""Metadata of Minari's folders, reduced to plain values of known types."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from offline_marl.core.types import DataError
from offline_marl.datasets.readers.embedded_metadata import OURS, is_number, unpacked
from offline_marl.datasets.readers.spaces import Moves

MOST_ABOUT = 1 << 26
"""Bytes of metadata.json."""


def metadata_of(folder: Path) -> dict[str, Any]:
    """What the folder's metadata.json holds.

    Raises:
        DataError: It is missing, damaged, or no dict.
    """
    file = folder / "data" / "metadata.json"
    try:
        metadata = json.loads(file.read_text(encoding="utf-8")) if file.stat().st_size <= MOST_ABOUT else None
    except (OSError, ValueError, RecursionError):
        metadata = None
    if not isinstance(metadata, dict):
        raise DataError(f"{file} cannot be read.")
    return metadata


def env_names(metadata: dict[str, Any]) -> list[str]:
    """Id of the environment, if it is told."""
    try:
        return [str(json.loads(metadata["env_spec"])["id"])]
    except (KeyError, ValueError, TypeError, RecursionError):
        return []


def told(metadata: dict[str, Any], name: str, moves: Sequence[Moves]) -> dict[str, Any]:
    """Our own metadata, if our writer left them, and what Minari tells.

    Args:
        metadata: See `metadata_of`.
        name: The set's, if it tells none.
        moves: What each agent can do.

    Raises:
        DataError: What stands where our metadata should is something else.
    """
    known = {"name": str(metadata.get("dataset_id", name))[:200], **unpacked(metadata.get(OURS))}
    author = metadata.get("author")
    if author and "author" not in known:
        known["author"] = ", ".join(sorted(map(str, author)))[:500] if isinstance(author, list) else str(author)[:500]
    known |= {"format": "minari", "minari_version": str(metadata.get("minari_version", ""))[:40]}
    scores = [metadata.get(name) for name in ("ref_min_score", "ref_max_score")]
    if "reference" not in known and all(is_number(score) for score in scores) and scores[0] != scores[1]:
        known["reference"] = {"random": scores[0], "expert": scores[1], "note": "Minari's ref_min_score, ref_max_score"}
    bounds = [agent_moves.bounds for agent_moves in moves]
    if any(bound is not None for bound in bounds):
        known["action_bounds"] = bounds
    elif not all(agent_moves.told for agent_moves in moves):
        known["action_bounds"] = "not told; taken as [-1, 1]"
    return known
