"""Spelling of annotators' names: keyboards differ in how they write é, and who has two is to be one person."""

from __future__ import annotations

import unicodedata
from collections.abc import Container, Iterable
from dataclasses import replace

from offline_marl.preferences.answers import Remark
from offline_marl.preferences.revisions import Answered


def composed(name: str) -> str:
    """A name in Unicode's form NFC."""
    return unicodedata.normalize("NFC", name)


def has_controls(text: str) -> bool:
    """Whether a text has characters that control a terminal or begin a line, or halves of one that no file can hold."""
    return any(unicodedata.category(letter) in {"Cc", "Cs", "Zl", "Zp"} for letter in text)


def respelled(answers: Iterable[Answered], held: Container[str]) -> list[Answered]:
    """Answers under the composed names of who gave them.

    Args:
        answers: From elsewhere.
        held: Names in the store: one of another form stays, so that what came under it is not stored twice.
    """
    return [replace(one, annotator=_spelled(one.annotator, held)) for one in answers]


def respelled_remarks(remarks: Iterable[Remark], held: Container[str]) -> list[Remark]:
    """Remarks under such names."""
    return [(question, _spelled(annotator, held), text) for question, annotator, text in remarks]


def _spelled(name: str, held: Container[str]) -> str:
    return name if name in held else composed(name)
