"""The schema of metadata: what every part of the library may rely on, whoever wrote the set. Imports no torch.

Metadata are anybody's words: a checksum says that they are as they were written, not by whom. They are validated as a
whole, once, before anything uses them; names that this library does not know stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from offline_marl.core.reference import Reference
from offline_marl.core.small_files import MOST_NESTED, nests_deeper, shown

LONGEST_WORD = 1_000
LONGEST_TEXT = 100_000
MOST_STEPS = 1_000_000
"""Length of an episode that a file may ask for."""
MOST_SETTING = 1_000
"""Whole number that a file may ask an environment for, such as its number of agents; lengths go to `MOST_STEPS`."""
LENGTHS = frozenset({"max_cycles", "max_steps", "max_episode_steps", "episode_limit", "horizon"})
LARGEST_SETTING = 1e9
MOST_ENTRIES = 1_000
"""Entries of settings, all levels together."""
LARGEST_NUMBER = 1 << 63
LARGEST_RETURN = 1e30
"""Beyond it squares overflow in single precision."""


def _one_line(word: str) -> str:
    if any(not letter.isprintable() for letter in word):
        raise ValueError("it should be printable text in one line")
    return word


def _printable(text: str) -> str:
    if any(not (letter.isprintable() or letter in "\n\t") for letter in text):
        raise ValueError("it should be printable text")
    return text


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("it should be a number")
    return value


Word = Annotated[str, Field(max_length=LONGEST_WORD), AfterValidator(_one_line)]
Text = Annotated[str, Field(max_length=LONGEST_TEXT), AfterValidator(_printable)]
Whole = Annotated[int, Field(ge=-LARGEST_NUMBER, lt=LARGEST_NUMBER, strict=True), BeforeValidator(_no_boolean)]
Count = Annotated[int, Field(ge=0, lt=LARGEST_NUMBER, strict=True), BeforeValidator(_no_boolean)]
Number = Annotated[
    float, Field(allow_inf_nan=False, strict=True, ge=-LARGEST_RETURN, le=LARGEST_RETURN), BeforeValidator(_no_boolean)
]
Table = dict[Word, Any]


def _settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Refuse what would make a world that nobody can wait for."""
    level: list[tuple[str, Any]] = list(settings.items())
    count = 0
    while level:
        count += len(level)
        if count > MOST_ENTRIES:
            raise ValueError(f"it holds more than {MOST_ENTRIES:,} entries")
        inner: list[tuple[str, Any]] = []
        for name, value in level:
            if isinstance(value, dict):
                inner += [(str(key), entry) for key, entry in value.items()]
            elif isinstance(value, list | tuple):
                inner += [(name, entry) for entry in value]
            else:
                _refuse_setting(name, value)
        level = inner
    return settings


def _refuse_setting(name: str, value: Any) -> None:
    most = MOST_STEPS if name in LENGTHS else MOST_SETTING
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > most:
        raise ValueError(
            f"it asks for {name[:40]} = {shown(value)}, and a file may ask for {most:,} at most (if you trust it, name "
            "the environment by --environment and --env-settings)"
        )
    if isinstance(value, float) and not abs(value) <= LARGEST_SETTING:
        raise ValueError(f"it asks for {name[:40]} = {value:g}, and a file may ask for {LARGEST_SETTING:g} at most")
    if isinstance(value, str) and len(value) > LONGEST_WORD:
        raise ValueError(f"its {name[:40]} has {len(value):,} letters")


FileSettings = Annotated[dict[str, Any], AfterValidator(_settings)]
"""What an environment is made with, as a file asks for it."""
FileSteps = Annotated[int, Field(ge=1, le=MOST_STEPS, strict=True), BeforeValidator(_no_boolean)]
"""Length of an environment's episodes, as a file asks for it."""


class Scores(BaseModel):
    """Returns that normalise scores; of a set that tells one of them alone there are none."""

    model_config = ConfigDict(extra="forbid")

    random: Number | None = None
    expert: Number | None = None
    note: Text = ""


class Acted(BaseModel):
    """An entry of `actors` or `parts`: who acted, and in how many episodes."""

    model_config = ConfigDict(extra="allow")

    name: Word | None = None
    kind: Word | None = None
    episodes: Count | None = None


class Metadata(BaseModel):
    """Metadata of a set: each field that some part of the library reads."""

    model_config = ConfigDict(extra="allow")

    name: Word | None = None
    scenario: Word | None = None
    conf: Word | None = None
    view: Word | None = None
    task: Word | None = None
    quality: Word | None = None
    format: Word | None = None
    licence: Text | None = None
    author: Text | list[Text] | None = None
    how: Text | None = None
    source: Text | None = None
    source_sha256: Word | None = None
    sha256: Word | None = None
    episodes_end: Text | None = None
    minari_version: Word | None = None
    versions: dict[Word, Word | Number | None] | None = None
    settings: FileSettings | None = None
    max_steps: FileSteps | None = None
    reference: Scores | None = None
    random_return: Number | None = None
    random_interval: list[Number] | None = None
    action_noise: Number | list[Number] | None = None
    action_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    clipped_actions: Count | None = None
    dropped_steps: Count | None = None
    seed: Whole | None = None
    actors: list[Acted] | None = None
    parts: list[Acted] | None = None
    who: list[Count | None] | None = None
    noise_levels: list[Number | None] | None = None
    deviators: list[Whole | None] | None = None
    seeds: list[Whole | None] | None = None
    origin_parts: list[Count | None] | None = None
    origin_episodes: list[Count | None] | None = None
    unseen_ends: list[Count] | None = None
    recipe: Table | None = None
    deviate: Table | None = None
    vault: Table | None = None
    tier: Table | Word | None = None
    reward: Any = None
    """Judged beside the rewards, see `validate`."""


def reference_of(metadata: Mapping[str, Any]) -> Reference | None:
    """The returns that normalise scores, of metadata without mistakes; None where no expert is above random play."""
    scores = metadata.get("reference") or {}
    low, high = scores.get("random"), scores.get("expert")
    if low is None or high is None or high <= low:
        return None
    return Reference(low, high, scores.get("note") or "")


def mistake(metadata: Any) -> str | None:
    """The first mistake of metadata in a sentence; None where there is none."""
    if not isinstance(metadata, Mapping):
        return f"The metadata are a {type(metadata).__name__}, they should be named entries."
    odd = next((name for name in metadata if not isinstance(name, str) or len(name) > LONGEST_WORD), None)
    if odd is not None:
        return f"The metadata name an entry {shown(odd)}, which is no word."
    if nests_deeper(dict(metadata), MOST_NESTED):
        return f"The metadata are nested more than {MOST_NESTED} deep."
    unkept = next((name for name, value in metadata.items() if not _is_plain(value)), None)
    if unkept is not None:
        return (
            f"The metadata's '{unkept[:40]}' cannot be {shown(metadata[unkept])}: no file keeps it; there are words, "
            "Python's own numbers, None, and lists and dicts of these."
        )
    try:
        Metadata.model_validate(dict(metadata))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part)[:40] for part in first["loc"][:3] if str(part) in metadata or isinstance(part, int))
        name = name or str(first["loc"][0])
        message = first["msg"].removeprefix("Value error, ")
        return f"The metadata's '{name}' cannot be {shown(first['input'])}: {message[0].lower()}{message[1:]}."
    return None


def _is_plain(value: Any) -> bool:
    """Whether a file of ours can hold it; arrays of numbers in a file of somebody else's are tensors."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str | int) and _is_plain(inner) for key, inner in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(inner) for inner in value)
    return value is None or isinstance(value, bool | int | float | str) or hasattr(value, "untyped_storage")
