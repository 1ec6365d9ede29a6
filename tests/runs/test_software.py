"""The commit of the running code: absent without git, marked where the package was changed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from offline_marl.runs.software import describe_commit, short_commit


def test_a_commit_is_marked_where_the_package_was_changed_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package"
    assert describe_commit(package) is None
    package.mkdir()
    code, table = package / "code.py", tmp_path / "table.csv"
    for file in (code, table):
        file.write_text("1")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=me", "-c", "user.email=me@here"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    commit = describe_commit(package)
    assert commit is not None and len(commit) == 40
    (package / "new.py").write_text("untracked")
    table.write_text("2")
    assert describe_commit(package) == commit
    code.write_text("2")
    assert describe_commit(package) == f"{commit}-dirty"
    assert short_commit(f"{commit}-dirty") == f"{commit[:10]}-dirty" and short_commit(commit) == commit[:10]
    monkeypatch.setenv("PATH", "")
    assert describe_commit(package) is None
