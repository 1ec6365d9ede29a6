"""Bytes that arrays claim to hold, compared with those that are stored: compression shrinks recorded numbers so far."""

from __future__ import annotations

from collections.abc import Hashable

from offline_marl.core.types import DataError

MOST_SHRUNK = 100
"""Times that all arrays of a set together may be larger than what is stored of them."""
UNSUSPECTED = 1 << 26
"""Bytes that any set may claim, however little is stored: rewards of a million steps may all be zero."""
LEAST_ROW = 8
"""Bytes that a row is counted with at least: whatever its own width, numbers and flags are kept for each step."""


class Ledger:
    """Account of what the arrays of one set claim.

    Args:
        what: The set, for messages.
        stored: Bytes that are stored of it.
    """

    def __init__(self, what: str, stored: int = 0) -> None:
        self.what, self.stored, self._claims = what, stored, dict[Hashable, int]()
        self._claimed = 0

    def __contains__(self, key: Hashable) -> bool:
        return key in self._claims

    def charge(self, key: Hashable, claimed: int, stored: int = 0) -> None:
        """Count an array, once, before anything is made of it.

        Args:
            key: Which it is.
            claimed: Bytes that it says it has.
            stored: Bytes that were not counted yet, and hold it.

        Raises:
            DataError: All of them together claim more than can be stored.
        """
        if key in self._claims:
            return
        self._claims[key] = claimed
        self._claimed += claimed
        self.stored += stored
        if claimed < 0 or self._claimed > MOST_SHRUNK * self.stored + UNSUSPECTED:
            raise DataError(
                f"{self.what} claims {self._claimed:,} bytes of numbers, but only {self.stored:,} are stored."
            )
