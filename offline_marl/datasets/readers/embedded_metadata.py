"""Our metadata inside other people's files, as JSON: what our writers leave there and our readers rely on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from offline_marl.core.types import DataError

OURS = "offline_marl"
"""What they are called there."""
WORDS = ("name", "scenario", "conf", "view", "how", "licence")


def packed(metadata: Mapping[str, Any], ends_seen: Tensor | None = None) -> str:
    """The metadata as JSON, without the checksum of the file that they came from.

    Args:
        metadata: Of the set.
        ends_seen: See `Dataset.ends_seen`; kept as `unseen_ends`, the numbers of the episodes, which no format tells.
    """
    about = {key: value for key, value in metadata.items() if key != "sha256"}
    if ends_seen is not None:
        about["unseen_ends"] = (~ends_seen).nonzero().flatten().tolist()
    return json.dumps(about)


def unpacked(text: object) -> dict[str, Any]:
    """What `packed` made; nothing of None.

    Raises:
        DataError: It is something else.
    """
    if text is None:
        return {}
    try:
        metadata = json.loads(str(text))
        reference = metadata.get("reference") or {}
        scores = [reference[name] for name in ("random", "expert") if reference.get(name) is not None]
        words = [metadata[name] for name in WORDS if metadata.get(name) is not None]
        fits = all(is_number(score) for score in scores) and all(isinstance(word, str) for word in words)
        fits = fits and set(reference) <= {"random", "expert", "note"}
    except (ValueError, TypeError, AttributeError, RecursionError):
        fits = False
    if not fits:
        raise DataError(f"its '{OURS}' is not what this library writes there.")
    return dict(metadata)


def is_number(value: object) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
