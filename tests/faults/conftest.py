"""The arena, one a session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from arena import Arena


@pytest.fixture(scope="session")
def arena() -> Iterator[Arena]:
    """Runs commands against hostile input."""
    opened = Arena()
    yield opened
    opened.close()
