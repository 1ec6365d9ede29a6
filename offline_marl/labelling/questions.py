"""Question as a value: kind, item and target, its name in answers, and the plan of which are asked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, cast

from offline_marl.core.errors import BadInputError
from offline_marl.preferences.labels import TARGET, TEAM

QuestionKind = Literal["pair", "rating", "credit"]
NAMED = re.compile(rf"(pair|rating|credit)\.([0-9a-f]{{32}})\.({TARGET.pattern})\.(0|[1-9][0-9]{{0,2}})")


class UnknownQuestionError(BadInputError, LookupError):
    """A question that this store does not ask."""


class RefusedAnswerError(BadInputError, ValueError):
    """An answer that its question does not have."""


class AnsweredError(BadInputError, RuntimeError):
    """A question that was answered otherwise before, or of which nothing can be taken back."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question: one pair or segment, its target and kind, whoever is asked."""

    kind: QuestionKind
    item: str
    """Id of the pair, or of the segment."""
    target: str = TEAM
    repeat: int = 0

    @property
    def id(self) -> str:
        """Its name, by which answers speak of it."""
        return f"{self.kind}.{self.item}.{self.target}.{self.repeat}"

    @property
    def first_time(self) -> Question:
        """The same, asked for the first time."""
        return Question(self.kind, self.item, self.target)

    @classmethod
    def parse(cls, text: str) -> Question:
        """The question of a name.

        Raises:
            UnknownQuestionError: It is none.
        """
        found = NAMED.fullmatch(text)
        if found is None:
            raise UnknownQuestionError("That is no question.")
        return cls(cast(Any, found[1]), found[2], found[3], int(found[4]))


@dataclass(frozen=True)
class Asking:
    """Plan of the questions: which kinds, how many annotators, which share again."""

    kinds: tuple[QuestionKind, ...] = ("pair",)
    targets: tuple[str, ...] = (TEAM,)
    answers: int = 1
    """People that each question is put to."""
    repeats: float = 0.05
    """Share of the answered pairs that the same person is asked about again, swapped."""
    lease: float = 600.0
    """Seconds for which a question is kept for who has it."""
