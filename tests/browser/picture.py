"""Take the picture of a page that the README shows: `python tests/browser/picture.py PAGE PNG`."""

from __future__ import annotations

import sys
from pathlib import Path

from chromium import MissingBrowserError, chromium

SIZE = (1200, 1000)


def main(page: Path, picture: Path) -> None:
    try:
        with chromium() as window:
            window.look(SIZE)
            window.open(page)
            picture.write_bytes(window.png())
    except MissingBrowserError as error:
        sys.exit(f"no picture: {error}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
