"""Parameters that sbatch is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from offline_marl.launch.jobs import slurm
from offline_marl.launch.jobs.executors import dry_run
from offline_marl.launch.jobs.job import Job
from offline_marl.launch.jobs.profile import Profile

RUN = Job(name="bc", fields={"steps": 5}, out=Path("/there/run"))


def lines(**fields) -> list[str]:
    pytest.importorskip("submitit")
    return dry_run([RUN], Profile(**fields), Path("/there/logs"), ["7", "7", "8"]).splitlines()


def test_what_is_false_is_left_away_and_a_forbidden_requeue_has_a_flag_of_its_own():
    given = {"requeue": False, "exclusive": False, "overcommit": True, "dependency": "singleton", "comment": "ours"}
    said = lines(sbatch=given)
    assert not any("False" in line or "exclusive" in line or line == "#SBATCH --requeue" for line in said)
    for flag in ("no-requeue", "overcommit", "dependency=singleton,afterok:7:8", "comment=ours"):
        assert f"#SBATCH --{flag}" in said
    assert {"#SBATCH --requeue", "#SBATCH --dependency=afterok:7:8"} <= set(lines())


def test_a_site_without_arrays_is_given_one_job_at_a_time(monkeypatch):
    monkeypatch.setattr(slurm, "run_command", lambda *words: "MaxArraySize            = 0\n")
    assert slurm.array_limit() == 1
