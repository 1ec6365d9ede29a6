"""Schemas of the messages that the page and trainers post; strict, so that nothing unknown passes."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from offline_marl.core.errors import BadInputError
from offline_marl.preferences.names import composed

Key = Annotated[str, Field(pattern=r"^[0-9A-Za-z-]{8,64}$")]
"""Chosen by who posts; the same when it is sent again."""


def _composed(name: Any) -> Any:
    return composed(name) if isinstance(name, str) else name


LETTERS = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}"
NAME = rf"^[{LETTERS}.@\-][{LETTERS} .@\-]{{0,63}}$"
"""As `page/label.html` has it: letters of all scripts, with their marks, digits, and few signs."""
Name = Annotated[str, Field(pattern=NAME), BeforeValidator(_composed)]
"""Of a person."""
QuestionId = Annotated[str, Field(max_length=80)]


class MalformedPostError(BadInputError, ValueError):
    """A body that is not what its address takes; the message is one sentence."""


class Message(BaseModel):
    """Base of all that is posted."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class LeaseRequest(Message):
    """Request for a lease of questions."""

    annotator: Name
    count: Annotated[int, Field(ge=1, le=10)] = 1
    held: Annotated[list[QuestionId], Field(max_length=20)] = []
    """Questions that the page has already and would keep."""


class AnswerRequest(Message):
    """Answer to one question, under a key of its own."""

    key: Key
    annotator: Name
    question: QuestionId
    answer: Annotated[str, Field(max_length=16)]
    """first and second are as they were shown."""
    reason: Annotated[str, Field(max_length=200, pattern=r"^\P{C}*$")] = ""
    """Why it was skipped; without characters that control a terminal, on which it is shown."""
    response_ms: Annotated[int, Field(ge=0, le=86_400_000)] | None = None


class UndoRequest(Message):
    """Withdrawal of an answer."""

    key: Key
    annotator: Name
    question: QuestionId


class ReleaseRequest(Message):
    """Gives questions back that nobody looks at any more."""

    annotator: Name
    held: Annotated[list[QuestionId], Field(max_length=20)]


class PairRow(Message):
    """One pair of a round that a trainer enters."""

    first: tuple[str, int, int, int]
    second: tuple[str, int, int, int]
    split: Literal["train", "held-out"]
    strategy: Annotated[str, Field(max_length=32)]
    score: float | None = None


class RoundRequest(Message):
    """A round of pairs, with copies of their segments."""

    session: Annotated[int, Field(ge=1)]
    facts: dict[str, Any]
    pairs: Annotated[list[PairRow], Field(min_length=1, max_length=100_000)]
    copies: str
    """The file of segments, in base64."""


def read_post(kind: type[Message], body: bytes) -> Any:
    """The message in a body.

    Raises:
        MalformedPostError: Says what is wrong, without repeating what was sent.
    """
    try:
        return kind.model_validate_json(body)
    except ValueError as error:
        problems: list[dict[str, Any]] = getattr(error, "errors", list)()
        first = problems[0] if problems else {"loc": (), "msg": "it is no JSON"}
        where = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or str(part).isidentifier())
        raise MalformedPostError(f"The post cannot be read: {where + ': ' if where else ''}{first['msg']}.") from None


def digest_of(message: Message) -> str:
    """Checksum of what a post says."""
    return hashlib.sha256(json.dumps(message.model_dump(), sort_keys=True).encode()).hexdigest()[:32]
