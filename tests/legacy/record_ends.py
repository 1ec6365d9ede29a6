"""Writes down how stopped runs of the archive end now: `python tests/legacy/record_ends.py runs/mixed sweep ...`.

Only for a change that is declared performance-impacting; all other runs end as when the archive was made.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

from test_legacy import ENDS_SINCE, as_then, command, ends_of, unpacked


def main() -> None:
    ends = json.loads(ENDS_SINCE.read_text()) if ENDS_SINCE.exists() else {}
    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as place:
            os.environ["OFFLINE_MARL_HOME"] = f"{place}/home"
            root = unpacked(Path(place).resolve() / "root")
            if not as_then(root):
                raise SystemExit("the archive was made with other software, or on another processor")
            if name == "sweep":
                ends |= ends_of_sweep(root, ends)
                continue
            if command("resume", str(root / name)):
                raise SystemExit(f"{name} cannot be resumed")
            ends[name] = ends_of(root / name)
    ENDS_SINCE.write_text(json.dumps(ends, indent=1) + "\n")


def ends_of_sweep(root: Path, ends: dict[str, Any]) -> dict[str, Any]:
    """Those of its runs that end otherwise than it was written down."""
    known = json.loads((root / "ends.json").read_text())["ends"] | ends
    sweep = root / "sweep"
    if command("sweep", str(root / "sweep.toml"), "--out", str(sweep), "--executor", "debug"):
        raise SystemExit("the sweep does not go on")
    jobs = json.loads((sweep / "sweep.json").read_text())["jobs"]
    now = {name: ends_of(root / name) for name in (f"sweep/{job['folder']}" for job in jobs)}
    return {name: end for name, end in now.items() if end != known[name]}


if __name__ == "__main__":
    main()
