"""The card of a repository on the hub: a README.md with a section for each data file, made from its metadata.

A section lies between two marks that hold what the front matter needs; other sections stay as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from offline_marl.core.partition import SCENARIOS, confs
from offline_marl.datasets.description import shown

KNOWN_LICENCES = frozenset(
    {"apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "lgpl-3.0", "mpl-2.0", "unlicense", "openrail"}
    | {"cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "odbl", "pddl"}
)
"""As the hub spells them; all others are `other` there, and named beside it."""
SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
    (1_000_000_000, "100M<n<1B"),
)
TAGS = ("reinforcement-learning", "offline-rl", "multi-agent", "offline-marl")
ROWS = {
    "episodes": "episodes",
    "transitions": "transitions",
    "episode_length": "length of episodes [steps]",
    "agents": "agents",
    "obs_widths": "widths of observations",
    "action_widths": "widths of actions, or choices",
    "state_width": "width of the state",
    "action_width": "width of the joint action",
    "action_kind": "actions",
    "action_range": "range of actions",
    "action_coverage": "share of actions that were used",
    "coverage": "coverage of observations",
    "duplicates": "repeated",
    "returns": "return",
    "normalized_returns": "normalised return",
    "reference": "reference returns",
    "reward": "reward",
}
ORIGIN = {
    "scenario": "environment",
    "how": "made by",
    "actors": "episodes of each actor",
    "action_noise": "noise on actions",
    "parts": "parts",
    "tier": "tier",
    "seed": "seed",
    "versions": "versions",
    "format": "converted from",
    "source": "source",
    "source_sha256": "sha256 of its source",
    "licence": "licence",
    "sha256": "sha256 of its content",
    "file_sha256": "sha256 of the file",
}
_BEGIN, _END = "<!-- offline-marl ", "<!-- /offline-marl -->"
_SECTION = re.compile(rf"{_BEGIN}(.*?) -->\n(.*?){_END}", re.DOTALL)


@dataclass(frozen=True)
class Section:
    """A card's section on one file."""

    file: str
    """Its path in the repository."""
    licence: str
    transitions: int
    scenario: str | None
    text: str


def section(place: str, path: str, description: Mapping[str, Any], picture: str | None) -> Section:
    """The section of a file.

    Args:
        place: Where it will be, `hf://owner/repo/path`.
        path: The last part of that.
        description: Of the data, with `licence`, and `file_sha256` of the whole file.
        picture: Path of its picture in the repository.
    """
    title = description.get("name") or path
    lines = [f"## {_plain(title)}", ""]
    if picture is not None:
        lines += [f"![Returns, lengths, actions and coverage of {_plain(title)}](<{picture}>)", ""]
    for heading, names in (("What is in it", ROWS), ("Where it came from", ORIGIN)):
        rows = [(label, shown(description.get(name))) for name, label in names.items()]
        lines += [f"| {heading} | |", "|---|---|"]
        lines += [f"| {label} | {_plain(text)} |" for label, text in rows if text]
        lines.append("")
    lines += _loading(place, description)
    return Section(
        path, description["licence"], description["transitions"], description.get("scenario"), "\n".join(lines)
    )


def card(title: str, new: Section, existing: str | None = None) -> str:
    """The whole README.md: that of the repository with the file's section put in, or in the place of its old one."""
    sections = {entry.file: entry for entry in sections_of(existing or "")}
    sections[new.file] = new
    shelf = [sections[name] for name in sorted(sections)]
    parts = [f"---\n{_front_matter(title, shelf)}---", f"# {_plain(title)}", _PREFACE]
    parts += [f"{_mark(entry)}\n{entry.text}\n{_END}" for entry in shelf]
    return "\n\n".join(parts) + "\n"


def is_ours(existing: str) -> bool:
    """Whether a README.md was written by `card`."""
    return bool(sections_of(existing))


def sections_of(existing: str) -> list[Section]:
    """The sections of a card; those whose marks cannot be read are left out."""
    sections = []
    for mark, text in _SECTION.findall(existing):
        try:
            sections.append(Section(**json.loads(mark), text=text.strip("\n")))
        except (ValueError, TypeError):
            continue
    return sections


_PREFACE = (
    "Recorded episodes for offline multi-agent reinforcement learning, in the layout of "
    "[offline-marl](https://pypi.org/project/offline-marl/): flat arrays in safetensors, metadata and a checksum in "
    "the header, no pickles."
)


def _loading(place: str, description: Mapping[str, Any]) -> list[str]:
    scenario, share = description.get("scenario"), ""
    if "agents" not in description:
        share = f"_{confs(str(scenario))[0]}_full" if scenario in SCENARIOS else "_CONF_VIEW"
    return [
        "```bash",
        "pip install 'offline-marl[data]'",
        f"offline-marl data pull {place}",
        f"offline-marl train bc --dataset {place}{share}",
        "```",
        "",
        "```python",
        "import offline_marl",
        "",
        f'offline_marl.train("bc", "{place}{share}")',
        "```",
    ]


def _front_matter(title: str, shelf: Sequence[Section]) -> str:
    licences = list(dict.fromkeys(entry.licence for entry in shelf))
    spelt = licences[0].lower() if len(licences) == 1 else ""
    licence = {"license": spelt}
    if spelt not in KNOWN_LICENCES:
        licence = {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", " and ".join(licences).lower())[:96]}
    scenarios = sorted({entry.scenario for entry in shelf if entry.scenario})
    size = sum(entry.transitions for entry in shelf)
    front = {
        **licence,
        "pretty_name": title,
        "task_categories": ["reinforcement-learning"],
        "tags": [*TAGS, *scenarios],
        "size_categories": [next((name for limit, name in SIZES if size < limit), "n>1B")],
        # The hub's viewer knows no safetensors.
        "viewer": False,
    }
    return yaml.safe_dump(front, sort_keys=False, allow_unicode=True)


def _mark(entry: Section) -> str:
    mark = {name: getattr(entry, name) for name in ("file", "licence", "transitions", "scenario")}
    # A comment ends at its first "-->".
    return f"{_BEGIN}{json.dumps(mark).replace('-', chr(92) + 'u002d').replace('>', chr(92) + 'u003e')} -->"


def _plain(text: str) -> str:
    """Text that cannot break out of its line, its cell or its page."""
    line = " ".join(str(text).split())
    return re.sub(r"([\\`|<>\[\]])", r"\\\1", line)
