"""A pytest plugin that counts attacks by class, and keeps which tests have passed, so that a stopped campaign goes on.

A test tells its attacks by pytest's `record_property(CLASS, NUMBER)`. With `--campaign FILE` tests that passed before,
with the same files, are not run again, and their counts are added.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

SHORT = bool(os.environ.get("FAULTS_SHORT"))
"""Whether only the minutes of a campaign are asked for."""
FOLDERS = ("offline_marl", "tests")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--campaign", metavar="FILE", default=None, help="file of attacks that are done with")


def pytest_configure(config: pytest.Config) -> None:
    file = config.getoption("campaign")
    config.pluginmanager.register(Campaign(file and Path(file).absolute(), hasattr(config, "workerinput")), "attacks")


class Campaign:
    """What has been done, and by whom it is written down: one process alone."""

    def __init__(self, file: Path | None, is_worker: bool) -> None:
        self.file, self.is_worker = file, is_worker
        self.earlier: dict[str, dict[str, int]] = {}
        self.counts: Counter[str] = Counter()
        self.failed: list[str] = []
        if file is None:
            return
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        state = state_of_the_files()
        if lines and lines[0] == {"state": state}:
            self.earlier = {line["test"]: line["counts"] for line in lines[1:]}
        elif not is_worker:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"state": state}) + "\n")

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        done = [item for item in items if item.nodeid in self.earlier]
        if done:
            config.hook.pytest_deselected(items=done)
            items[:] = [item for item in items if item.nodeid not in self.earlier]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)
        if report.when != "call" or not report.passed or self.is_worker:
            return
        counts = {kind: number for kind, number in report.user_properties if isinstance(number, int)}
        self.counts.update(counts)
        if self.file is not None:
            with self.file.open("a") as stream:
                stream.write(json.dumps({"test": report.nodeid, "counts": counts}) + "\n")

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.is_worker:
            return
        every = sum((Counter(counts) for counts in self.earlier.values()), self.counts)
        terminalreporter.section("attacks by class")
        for kind, number in sorted(every.items()):
            terminalreporter.write_line(f"{number:7,}  {kind}")
        before = f", {len(self.earlier)} tests of an earlier call among them" if self.earlier else ""
        terminalreporter.write_line(f"{sum(every.values()):7,}  in all{before}; tests that failed: {len(self.failed)}")


def state_of_the_files() -> str:
    """A digest of all that is attacked and of the attacks, whether committed or not."""
    digest = hashlib.sha256()
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *FOLDERS], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in sorted(listed):
        path = Path(name)
        digest.update(name.encode() + (path.read_bytes() if path.is_file() else b""))
    return digest.hexdigest()
