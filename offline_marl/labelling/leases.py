"""Leases: which question is kept for whom, and until when; they outlive a server that is killed."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from offline_marl.core.files import write_atomically
from offline_marl.core.locks import open_own, refuse_special

MOST_LINES = 20_000
"""Of the file, before it is written anew."""
SLACK = 1.0
"""Seconds by which a clock is set back now and then."""


class Leases:
    """Questions that people hold.

    Args:
        path: File that remembers them, a line for each change; nothing is remembered without one.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._until: dict[str, dict[str, float]] = {}
        self._lines = 0
        if path is not None:
            self._until = _read(path)
            self._rewrite()

    def grant(self, questions: Sequence[str], annotator: str, until: float) -> None:
        """Keep questions for somebody."""
        for name in questions:
            self._until.setdefault(name, {})[annotator] = until
        if questions:
            self._note(questions, annotator, until)

    def release(self, question: str, annotator: str) -> None:
        """Give a question back."""
        holders = self._until.get(question)
        if holders is not None and holders.pop(annotator, None) is not None:
            if not holders:
                del self._until[question]
            self._note([question], annotator, 0.0)

    def others(self, question: str, annotator: str) -> list[str]:
        """Who else holds a question."""
        return [name for name in self._until.get(question, ()) if name != annotator]

    def expire(self, now: float, longest: float = math.inf) -> None:
        """Forget leases whose time is over; one that would last longer than any was granted while the clock was ahead.

        Args:
            now: Seconds of the clock that leases are granted by.
            longest: Seconds for which one is granted; what is left of others is cut to these.
        """
        ahead = False
        for name, holders in list(self._until.items()):
            left = {who: min(until, now + longest) for who, until in holders.items() if until > now}
            ahead = ahead or any(until > now + longest + SLACK for until in holders.values())
            if left:
                self._until[name] = left
            else:
                del self._until[name]
        if ahead and self.path is not None:
            self._rewrite()  # else whoever reads it next would begin with the long ones again

    def count(self, now: float) -> int:
        """How many are held."""
        return sum(until > now for holders in self._until.values() for until in holders.values())

    def _note(self, questions: Sequence[str], annotator: str, until: float) -> None:
        """Append a line, not flushed: a power cut ends every lease, and costs no answer."""
        if self.path is None:
            return
        if self._lines >= MOST_LINES:
            self._rewrite()
            return
        with open_own(self.path, "a") as stream:
            stream.write(json.dumps([list(questions), annotator, until]) + "\n")
        self._lines += 1

    def _rewrite(self) -> None:
        """Begin the file anew with what is held; it is flushed to the disk, so this is seldom."""
        assert self.path is not None
        held = [([name], who, until) for name, holders in self._until.items() for who, until in holders.items()]
        write_atomically(self.path, "".join(f"{json.dumps(line)}\n" for line in held).encode())
        self._lines = len(held)


def _read(path: Path) -> dict[str, dict[str, float]]:
    """What a file remembers; they are a courtesy, so that lines which were cut off or damaged are passed over."""
    known: dict[str, dict[str, float]] = {}
    refuse_special(path)  # a pipe would be waited for
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return known
    for line in lines:
        try:
            names, who, until = json.loads(line)
            for name in names:
                known.setdefault(str(name), {})[str(who)] = float(until)
        except (ValueError, TypeError):
            continue
    held = {name: {who: until for who, until in holders.items() if until} for name, holders in known.items()}
    return {name: holders for name, holders in held.items() if holders}
