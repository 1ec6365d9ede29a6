"""A recipe on a real Slurm: `pytest -m slurm`."""

from __future__ import annotations

import json

import pytest
from launch.conftest import cli  # noqa: F401 - a fixture
from launch.jobs.test_slurm import cluster  # noqa: F401 - a fixture
from launch.recipes.test_recipes import pipeline

pytestmark = pytest.mark.slurm


def test_a_recipe_ends_on_slurm_and_its_jobs_are_found_again(cli, tmp_path):  # noqa: F811
    file, profile = tmp_path / "toy.json", tmp_path / "profile.toml"
    file.write_text(json.dumps(pipeline()))
    profile.write_text("minutes = 60\n")
    said = cli("recipe", "run", file, "--executor", "slurm", "--profile", profile)
    assert said.code == 0, said.err
    jobs = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("recipes/toy/*/*/job.json")}
    assert set(jobs) == {"reward", "reference", "learner"}
    assert all(job["executor"] == "slurm" for job in jobs.values())
    again = cli("recipe", "run", file, "--executor", "slurm", "--profile", profile)
    assert again.code == 0 and "train" not in again.out
