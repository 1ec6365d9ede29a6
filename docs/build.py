"""Write one page per algorithm from its docstrings and config: `python docs/build.py` (or `make docs`).

Built-in algorithms only; the pages are committed, and a test compares them with what this writes.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from offline_marl.algorithms.base import Algorithm, AlgorithmConfig, algorithms
from offline_marl.algorithms.presets import preset_names
from offline_marl.core.config import Config
from offline_marl.launch.cli.parser import format_value
from offline_marl.runs.config import RunFlags

HERE = Path(__file__).resolve().parent
MARK = "<!-- Written by docs/build.py from docstrings and configs: change those, then `make docs`. -->"
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def pages() -> dict[str, str]:
    """Text of each page by its file name."""
    names = [entry.name for entry in algorithms.listings() if entry.origin == "built-in"]
    return {"common.md": common_page(names), **{f"{name}.md": algorithm_page(name) for name in names}}


def algorithm_page(name: str) -> str:
    kind = algorithms.get(name)
    about = inspect.getdoc(importlib.import_module(kind.__module__)) or ""
    head, body, departures, papers = split_docstring(about)
    title, _, summary = head.partition(":" if ":" in head else ",")
    lines = [MARK, f"# `{name}`: {escape(title.strip())}", ""]
    lines += [escape(sentence(summary)), "", escape(inspect.getdoc(kind) or ""), ""]
    lines += [linked(papers), ""] if papers else []
    lines += ["## What it computes", "", escape(body) or escape(sentence(summary)), ""]
    lines += ["## What departs from the paper", "", escape(departures) or "Nothing.", ""]
    lines += ["## What it needs", "", *needs(kind), ""]
    lines += ["## Fields", "", escape(inspect.getdoc(kind.Config) or ""), "", *own_fields(name, kind.Config)]
    lines += ["And the [common fields](common.md).", "", "## Presets", "", *presets(name), ""]
    return "\n".join(lines)


def common_page(names: Iterable[str]) -> str:
    lines = [MARK, "# Fields that every algorithm has", "", f"{inspect.getdoc(AlgorithmConfig)}", ""]
    lines += [*table(AlgorithmConfig, AlgorithmConfig.model_fields), ""]
    lines += [
        "## Fields of the run",
        "",
        f"{inspect.getdoc(RunFlags)}",
        "",
        *table(RunFlags, RunFlags.model_fields),
        "",
    ]
    lines += ["Each is a flag of `offline-marl train` (`--batch-size 128`), a keyword of `offline_marl.train` and a"]
    lines += ["line of a config file.", "", "## Algorithms", ""]
    lines += [f"- [`{name}`]({name}.md)" for name in names]
    return "\n".join([*lines, ""])


def split_docstring(text: str) -> tuple[str, str, str, str]:
    """First line, what is computed, what departs, and papers: the parts that a module docstring holds in this order."""
    head, _, rest = text.partition("\n")
    rest, _, papers = rest.partition("\nPaper")
    body, departs, departures = rest.partition("Departs from ")
    return head, body.strip(), (departs + departures).strip(), f"Paper{papers.strip()}" if papers else ""


ORIGINS = {
    "data": "",
    "environment": ", made by the current policy in the environment",
    "model": ", made by the current policy in a world model",
}


def needs(kind: type[Algorithm]) -> Iterator[str]:
    wanted = kind.needs
    yield f"- actions: {' or '.join(sorted(wanted.actions))}"
    said = ", of which somebody said which is better" if wanted.view == "pairs" else ""
    yield f"- data as {wanted.view}{said}" + ORIGINS[wanted.origin]
    yield f"- global state: {'required' if wanted.state else 'not needed'}"
    yield "- history: optional, `window` past steps of each agent"


def own_fields(name: str, config: type[AlgorithmConfig]) -> Iterator[str]:
    """Tables of the fields that a config adds, its own first and then those of each config it builds on."""
    owners = {algorithms.get(entry.name).Config: entry.name for entry in algorithms.listings()}
    seen: set[str] = set()
    for owner in config.__mro__:
        if owner is AlgorithmConfig:
            break
        added = {key: config.model_fields[key] for key in vars(owner).get("__annotations__", {}) if key not in seen}
        added = {key: info for key, info in added.items() if key in config.model_fields}
        seen |= set(added)
        if owner is not config and added:
            other = owners[owner]
            yield from [f"From [`{other}`]({other}.md):", ""]
        yield from [*table(config, added), ""] if added else (["None of its own.", ""] if owner is config else [])


def table(config: type[Config], fields: dict[str, FieldInfo]) -> Iterator[str]:
    yield "| field | type | default | what it does |"
    yield "|---|---|---|---|"
    for name in fields:
        info = config.model_fields[name]
        default = "required" if info.is_required() else f"`{format_value(info.get_default(call_default_factory=True))}`"
        about = " ".join((info.description or "").split()).replace("|", r"\|")
        yield f"| `{name}` | {type_of(info)} | {default} | {escape(about)} |"


def type_of(info: FieldInfo) -> str:
    return " ".join([kind_of(info.annotation), ", ".join(bounds(info.metadata))]).strip()


def kind_of(annotation: Any) -> str:
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in inside)
    if origin is Annotated:
        limits = [bound for field in inside[1:] for bound in bounds(getattr(field, "metadata", [field]))]
        return " ".join([kind_of(inside[0]), ", ".join(limits)]).strip()
    if origin is tuple:
        return f"list of {kind_of(inside[0])}"
    if origin in {Union, UnionType}:
        return " or ".join(map(kind_of, inside))
    return str(getattr(annotation, "__name__", annotation))


def bounds(constraints: Iterable[Any]) -> Iterator[str]:
    for constraint in constraints:
        for key, sign in BOUNDS.items():
            if hasattr(constraint, key):
                yield f"{sign} {getattr(constraint, key):g}"


def presets(name: str) -> Iterator[str]:
    yield f"`offline-marl train {name} --preset NAME`, with NAME one of:"
    yield ""
    yield from (f"- `{preset}`" for preset in preset_names(name))


def sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:]


def linked(text: str) -> str:
    return re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def escape(text: str) -> str:
    """Docstring text as Markdown shows it; code spans and *words* are left alone."""
    parts = re.split(r"(`[^`]*`|\*\w+\*)", text)
    parts[::2] = [re.sub(r"([*~<]|(?<!\w)_|_(?!\w))", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE / "algorithms", help="folder of the pages")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    written = pages()
    for old in out.glob("*.md"):
        if old.name not in written and old.read_text(encoding="utf-8").startswith(MARK):
            old.unlink()
    for name, text in written.items():
        (out / name).write_text(text, encoding="utf-8")
    print(f"{len(written)} pages in {out}")


if __name__ == "__main__":
    main()
