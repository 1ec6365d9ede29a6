"""Records golden runs anew: `python tests/golden/record.py [NAMES]`, without names all of them.

Only for a change that is declared performance-impacting, or for runs that have no record yet. The commit that is
written down is the last one that touched the library, so the change must be committed first.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import golden_records
import golden_runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="golden runs")
    parser.add_argument("--into", type=Path, help="folder for the records of a library without a history")
    parser.add_argument("--library", type=Path, help="folder that the library has to come from")
    asked = parser.parse_args()
    if asked.library not in (None, golden_records.library()):
        parser.error(f"the library in use is that of {golden_records.library()}, not of {asked.library}")
    known = golden_runs.runs()
    names = asked.names or list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"no golden run is called {unknown[0]}; there are {', '.join(known)}")
    try:
        commit = None if asked.into else golden_records.library_commit()
    except RuntimeError as error:
        parser.error(str(error))
    folder = asked.into or golden_records.RECORDS
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        for name in names:
            found = golden_records.outcome(golden_runs.play(name, Path(home)))
            golden_records.write(folder, name, commit, found)
            print(name, flush=True)
    if not asked.into and not asked.names:
        for path in golden_records.RECORDS.glob("*.json"):
            if path.stem not in known:
                path.unlink()
                print(f"{path.stem} is no golden run any more: removed")


if __name__ == "__main__":
    main()
