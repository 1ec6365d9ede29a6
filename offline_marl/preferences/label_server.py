"""Client of a labelling server elsewhere: pairs go to it, answers come from it; needs nothing but the standard library.

The folder of comparisons stays where the trainer is, and is whole without the server: whatever is sent or fetched twice
changes nothing.
"""

from __future__ import annotations

import base64
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offline_marl.core.errors import BadInputError, WorkError
from offline_marl.preferences.answers import Judgement, Remark
from offline_marl.preferences.labels import AskedPair, Label
from offline_marl.preferences.pairs import SegmentKey

TOKEN_VARIABLE = "OFFLINE_MARL_LABEL_TOKEN"
"""Environment variable of the token, where the address does not say it: addresses end up in logs."""
SECONDS = 60.0
LARGEST = 64_000_000
"""Bytes of one answer that are read."""


class LabelServerError(WorkError):
    """A server that does not answer, or not as it should; the message is one sentence."""


class LabelServerRefusal(BadInputError, RuntimeError):
    """A request that a label server refused; the message is its sentence."""


@dataclass(frozen=True)
class Fetched:
    """Answers that came since, and where the next call goes on."""

    labels: tuple[Label, ...]
    judgements: tuple[Judgement, ...]
    since: int
    judged_since: int
    remarks: tuple[Remark, ...] = ()
    remarked_since: int = 0


class LabelServer:
    """A server, by the address that `offline-marl label` printed.

    Args:
        url: `http://host:port/#token=...`; the token may come from the environment instead.

    Raises:
        LabelServerRefusal: It is no such address, or says no token.
    """

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        token = urllib.parse.parse_qs(parts.fragment).get("token", [os.environ.get(TOKEN_VARIABLE, "")])[0]
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise LabelServerRefusal("--label-server should be the address that `offline-marl label` prints.")
        self.base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._headers = {"Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    def enter(self, session: int, pairs: Sequence[AskedPair], copies: Path, facts: Mapping[str, Any]) -> int:
        """Enter a round of pairs; one that is there already changes nothing.

        Args:
            session: Number of the round.
            pairs: All of it.
            copies: File of the copies of their segments.
            facts: What the folder states of its data.

        Returns:
            How many pairs were new there.
        """
        rows = [
            {
                "first": _list(one.pair.first),
                "second": _list(one.pair.second),
                "split": one.split,
                "strategy": one.strategy,
                "score": one.score,
            }
            for one in pairs
        ]
        content = base64.b64encode(copies.read_bytes()).decode()
        told = {"session": session, "facts": dict(facts), "pairs": rows, "copies": content}
        return int(self._ask("/api/rounds", told)["pairs"])

    def fetch(self, since: int = 0, judged_since: int = 0, remarked_since: int = 0) -> Fetched:
        """All answers and remarks after the rows of these numbers, those that take others back among them."""
        labels, judgements, remarks = list[Label](), list[Judgement](), list[Remark]()
        for part in self._parts(since, judged_since, remarked_since):
            labels += [Label(**row) for row in part["labels"]]
            judgements += [Judgement(**{**row, "segment": SegmentKey(*row["segment"])}) for row in part["judgements"]]
            # A server of an earlier version sends no remarks.
            remarks += [(question, annotator, text) for question, annotator, text in part.get("remarks", [])]
            since, judged_since = part["since"], part["judged_since"]
            remarked_since = part.get("remarked_since", remarked_since)
        return Fetched(tuple(labels), tuple(judgements), since, judged_since, tuple(remarks), remarked_since)

    def _parts(self, since: int, judged_since: int, remarked_since: int) -> Iterator[dict[str, Any]]:
        more = True
        while more:
            where = f"since={since}&judged_since={judged_since}&remarked_since={remarked_since}"
            part = self._ask(f"/api/labels?{where}")
            yield part
            since, judged_since, more = part["since"], part["judged_since"], part["more"]
            remarked_since = part.get("remarked_since", remarked_since)

    def progress(self) -> dict[str, Any]:
        """How many questions are answered, and how many are open."""
        return self._ask("/api/progress")

    def _ask(self, path: str, content: Any = None) -> dict[str, Any]:
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self.base + path, body, self._headers)
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as reply:
                answer = json.loads(reply.read(LARGEST))
        except urllib.error.HTTPError as error:
            with error:
                raise LabelServerRefusal(f"The server at {self.base} refused: {_reason(error)}") from None
        except (OSError, ValueError) as error:
            reason = str(getattr(error, "reason", error)).rstrip(".")
            raise LabelServerError(f"The label server at {self.base} does not answer: {reason}.") from None
        if not isinstance(answer, dict):
            raise LabelServerError(f"{self.base} is no label server.")
        return answer


def _list(key: SegmentKey) -> list[str | int]:
    return [key.source, key.episode, key.start, key.length]


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read(10_000))["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"{error.code} {error.reason}."
