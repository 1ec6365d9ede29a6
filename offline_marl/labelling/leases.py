"""Leases: which question is kept for whom, and until when; they outlive a server that is killed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path


class Leases:
    """Questions that people hold.

    Args:
        path: File that remembers them; nothing is remembered without one.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._until: dict[str, dict[str, float]] = {}
        if path is not None and path.is_file():
            self._until = _read(path)

    def grant(self, questions: Sequence[str], annotator: str, until: float) -> None:
        """Keep questions for somebody."""
        for name in questions:
            self._until.setdefault(name, {})[annotator] = until
        if questions:
            self._write()

    def release(self, question: str, annotator: str) -> None:
        """Give a question back."""
        holders = self._until.get(question)
        if holders is not None and holders.pop(annotator, None) is not None:
            if not holders:
                del self._until[question]
            self._write()

    def others(self, question: str, annotator: str) -> list[str]:
        """Who else holds a question."""
        return [name for name in self._until.get(question, ()) if name != annotator]

    def expire(self, now: float) -> None:
        """Forget leases whose time is over."""
        for name, holders in list(self._until.items()):
            left = {who: until for who, until in holders.items() if until > now}
            if left:
                self._until[name] = left
            else:
                del self._until[name]

    def count(self, now: float) -> int:
        """How many are held."""
        return sum(until > now for holders in self._until.values() for until in holders.values())

    def _write(self) -> None:
        """Renamed, so that it is whole, but not flushed: a power cut ends every lease, and costs no answer."""
        if self.path is None:
            return
        beside = self.path.with_name(f".{self.path.name}.part")
        beside.write_text(json.dumps(self._until), encoding="utf-8")
        os.replace(beside, self.path)


def _read(path: Path) -> dict[str, dict[str, float]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            str(name): {str(who): float(until) for who, until in holders.items()} for name, holders in content.items()
        }
    except (OSError, ValueError, AttributeError, TypeError):
        return {}  # they are a courtesy: whoever was there asks again
