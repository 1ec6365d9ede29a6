"""Assembly of the page: head, table of contents, sections. The same evidence gives the same bytes."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path

from offline_marl.core.files import write_atomically
from offline_marl.report.gather.scores import LeftOut
from offline_marl.report.page.answer import answer_section
from offline_marl.report.page.comparing import aggregates_section, improvement_section, profiles_section, scores_section
from offline_marl.report.page.coordination import agreement_section
from offline_marl.report.page.crossplay import crossplay_section
from offline_marl.report.page.markup import Markup, tag
from offline_marl.report.page.material import MATRIX, REPORT, Material, collect_material
from offline_marl.report.page.media import media_section
from offline_marl.report.page.models import models_section
from offline_marl.report.page.origin import left_out_section, origin_section, settings_section
from offline_marl.report.page.sections import Section, count_of
from offline_marl.report.page.training import curves_section, losses_section
from offline_marl.report.statistics.estimates import Evidence

EDITED = "its {} was edited: it does not hold what it should"
TITLE = "Offline multi-agent RL: what the runs say"


def write_page(
    evidence: Evidence,
    paths: Sequence[Path],
    out: Path,
    *,
    title: str = TITLE,
    videos: bool = False,
    filmed: Sequence[Path] = (),
) -> Path:
    """Write the page of some evidence.

    Args:
        evidence: Statistics of the runs.
        paths: What was gathered from: world models, cross-play and videos are looked for there too.
        out: The HTML file; replaced whole or not at all.
        title: Of the page.
        videos: Whether videos and contact sheets that lie there become part of it.
        filmed: Others that do.

    Returns:
        `out`.
    """
    material = collect_material(evidence, paths, videos=videos)
    every = dict.fromkeys([*(file.resolve() for file in filmed), *material.media])
    material = replace(material, media=tuple(every))
    write_atomically(out, render(evidence, material, title=title).encode(errors="replace"))
    return out


def render(evidence: Evidence, material: Material | None = None, *, title: str = TITLE) -> str:
    """Render the page as text."""
    sections = _sections(evidence, material or Material())
    links = tag("ul", [tag("li", tag("a", section.title, href=f"#{section.name}")) for section in sections])
    body = tag(
        "body",
        tag("a", "Skip to the answer", href="#answer", class_="skip"),
        tag("header", tag("h1", title), tag("p", _summary_line(evidence))),
        tag("nav", links, aria_label="Contents"),
        tag("main", [section.drawn() for section in sections]),
        tag("footer", tag("p", "Made by offline-marl report. This file is complete: it fetches nothing.")),
        tag("script", _asset("page.js")),
    )
    return f"<!doctype html>\n{tag('html', head(title, _asset('page.js')), body, lang='en')}\n"


def _sections(evidence: Evidence, material: Material) -> list[Section]:
    models = [part for part in material.models if _drawable(partial(models_section, [part]))]
    drawable = [part for part in material.matrices if _drawable(partial(crossplay_section, part))]
    matrices = [crossplay_section(part, number) for number, part in enumerate(drawable, 1)]
    damaged = [
        *material.damaged,
        *(LeftOut(part.name, EDITED.format(REPORT)) for part in material.models if part not in models),
        *(LeftOut(str(part.get("task")), EDITED.format(MATRIX)) for part in material.matrices if part not in drawable),
    ]
    sections = [
        answer_section(evidence),
        scores_section(evidence),
        aggregates_section(evidence),
        improvement_section(evidence),
        profiles_section(evidence),
        agreement_section(evidence, material.ends),
        *matrices,
        curves_section(evidence),
        models_section(models),
        media_section(material.media),
        losses_section(evidence),
        settings_section(evidence),
        left_out_section(evidence, damaged),
        origin_section(evidence),
    ]
    return [part for part in sections if part is not None]


def _drawable(draw: Callable[[], object]) -> bool:
    """Check whether a section can be drawn from a file, which may have been edited by hand."""
    try:
        draw()
    except (TypeError, KeyError, ValueError, AttributeError, IndexError, ArithmeticError):
        return False
    return True


def _summary_line(evidence: Evidence) -> str:
    counts = (
        count_of(len(evidence.gathered.runs), "run"),
        count_of(len(evidence.labels), "label"),
        count_of(len(evidence.tasks), "task"),
    )
    return " · ".join(counts)


def head(title: str, code: str, style: str = "") -> Markup:
    """Build the head of a page that may run this one script, and fetch nothing."""
    # The policy forbids fetching and every script but ours, whatever a run's name holds.
    script = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{script}'; img-src data:; media-src data:"
    )
    return tag(
        "head",
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="color-scheme" content="light dark">'),
        tag("title", title),
        tag("style", _asset("page.css"), Markup(style)),
    )


def _asset(name: str) -> Markup:
    return Markup(files(__package__).joinpath(name).read_text(encoding="utf-8"))
