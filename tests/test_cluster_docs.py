"""What docs/clusters.md tells people to write and type is taken by the library."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from worlds import saved, world

from offline_marl.launch.cli import main
from offline_marl.launch.jobs.job import JOB_FILE, STARTS_FILE
from offline_marl.launch.jobs.profile import Profile, read_profile
from offline_marl.runs.folder import ALLOWED_BEFORE_START

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "clusters.md").read_text()


def block(language: str) -> str:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[0]


def test_the_profile_of_the_page_is_one_and_names_every_key(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(block("toml"))
    assert read_profile(tmp_path / "site.toml").sbatch == {"mail-type": "FAIL"}
    assert not [name for name in Profile.model_fields if name not in block("toml")]


def test_submissions_of_the_page_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("submitit")
    saved(tmp_path, world("continuous"), "mine.safetensors")
    (tmp_path / "site.toml").write_text(block("toml"))
    monkeypatch.chdir(tmp_path)
    lines = [line for line in block("bash").splitlines() if re.search("submit (train|fit-model)", line)]
    assert len(lines) == 5 and len(block("bash").splitlines()) == 10
    for line in lines:
        with pytest.raises(SystemExit) as end:
            main([*shlex.split(line, comments=True)[1:], "--dry-run"])
        assert end.value.code == 0, capsys.readouterr().err


def test_files_of_a_job_may_lie_in_its_folder_before_the_run_begins() -> None:
    assert {JOB_FILE, STARTS_FILE, "logs"} <= ALLOWED_BEFORE_START
    assert JOB_FILE in PAGE and STARTS_FILE in PAGE
