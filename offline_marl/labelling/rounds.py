"""Exchange with remote trainers: rounds of pairs go in, labels come out."""

from __future__ import annotations

import base64
import binascii
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor

from offline_marl.labelling.desk import Desk
from offline_marl.labelling.posts import MalformedPostError, PairRow, RoundRequest
from offline_marl.preferences.answers import plain
from offline_marl.preferences.labels import AskedPair
from offline_marl.preferences.pairs import HELD, Copies, Pair, SegmentKey
from offline_marl.training.preferences.asking import enter

FACTS = {"data", "task", "scene", "scale"}
"""What a trainer may state of its data."""
ROWS = 1_000
"""Of labels, of judgements, and of remarks, in one answer; whoever wants more asks again."""


def rows_since(desk: Desk, since: int, judged_since: int, remarked_since: int | None = None) -> dict[str, Any]:
    """Rows of labels and judgements after those of these numbers, also those that were revised since, and remarks.

    Trainers of earlier versions do not ask for remarks, and would never come to the end of them.
    """
    store = desk.folder.store
    labels, judged = store.history(since)[:ROWS], store.judgement_history(judged_since)[:ROWS]
    remarks = [] if remarked_since is None else store.remark_history(remarked_since)[:ROWS]
    return {
        "labels": [plain(one) for _, one in labels],
        "judgements": [plain(one) for _, one in judged],
        "remarks": [list(remark) for _, remark in remarks],
        "since": labels[-1][0] if labels else since,
        "judged_since": judged[-1][0] if judged else judged_since,
        "remarked_since": remarks[-1][0] if remarks else remarked_since or 0,
        "more": ROWS in (len(labels), len(judged), len(remarks)),
    }


def enter_round(desk: Desk, message: RoundRequest) -> dict[str, Any]:
    """Enter a round of pairs with copies of their segments; one that is there already changes nothing.

    Raises:
        BadInputError: The folder is of other data, the round is another one, or its copies cannot be read.
    """
    pairs = [AskedPair(_pair_of(row), message.session, row.split, row.strategy, row.score) for row in message.pairs]
    if set(message.facts) - FACTS:
        raise MalformedPostError(f"Facts of a round are {', '.join(sorted(FACTS))}.")
    store = desk.folder.store
    store.refuse_other_facts(message.facts)
    known = {one.pair.id for one in store.pairs() if one.session == message.session}
    if known:
        if known != {one.pair.id for one in pairs}:
            raise MalformedPostError(f"Round {message.session} is there already, with other pairs.")
        if not _same(_copies(message.copies), Copies.load(desk.folder.file_of(message.session))):
            raise MalformedPostError(
                f"Round {message.session} is there already, with other play under the same names: it is of another run."
            )
        return {"pairs": 0}
    copies = _copies(message.copies)
    lacking = {key for one in pairs for key in (one.pair.first, one.pair.second)} - set(copies.keys)
    if lacking:
        raise MalformedPostError(f"The copies lack the segment {next(iter(lacking)).text}.")
    store.state(message.facts)
    enter(desk.folder, pairs, copies)
    desk.refresh()
    return {"pairs": len(pairs)}


def _pair_of(row: PairRow) -> Pair:
    return Pair(SegmentKey(*row.first), SegmentKey(*row.second))


def _same(one: Copies, other: Copies) -> bool:
    """Whether copies hold the same segments, value by value."""
    if (one.spec, one.keys) != (other.spec, other.keys):
        return False
    tensors = ((getattr(one.segments, name), getattr(other.segments, name)) for name in HELD)
    return all(mine is theirs if mine is None or theirs is None else _equal(mine, theirs) for mine, theirs in tensors)


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    same = one == other
    return bool((same | ((one != one) & (other != other))).all())  # data may hold NaN


def _copies(text: str) -> Copies:
    try:
        content = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise MalformedPostError("The copies are no base64.") from None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "copies.safetensors"
        file.write_bytes(content)
        return Copies.load(file)
