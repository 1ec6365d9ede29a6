"""One self-contained HTML page that says what the runs say: no network, no framework, readable without its script."""

from __future__ import annotations

from offline_marl.evidence.page.assemble import TITLE, render, write_page

__all__ = ["TITLE", "render", "write_page"]
