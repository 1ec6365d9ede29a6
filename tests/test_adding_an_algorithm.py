"""Adding an algorithm costs what CONTRIBUTING says: no test asks for more than its files hold."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALGORITHM = '''\
"""Rewarded cloning: each agent's policy maximises the likelihood of the data's actions, weighed by their rewards.

max sum_i E[exp(r_i) log pi_i(a_i | o_i)].

Departs from the paper: there is none.
"""

from __future__ import annotations

from offline_marl.algorithms.base import Algorithm, AlgorithmConfig, algorithms, masked_mean
from offline_marl.core.types import Batch, Metrics, Needs, Spec
from offline_marl.networks.actors import Actor


class RewardedCloningConfig(AlgorithmConfig):
    """The common fields and a weight, of exp(r / temperature)."""

    temperature: float = 1.0
    """Divides the rewards in the exponent."""


@algorithms.register("rewarded-cloning")
class RewardedCloning(Algorithm):
    """Maximum likelihood of the data's actions, weighed by exp(r / temperature)."""

    Config = RewardedCloningConfig
    needs = Needs()

    def __init__(self, config: RewardedCloningConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.config = config
        self.actor = Actor(act_dims=spec.act_dims, discrete=spec.discrete, **self.shape)
        self.optimize("actor", lr=config.lr)

    def update(self, batch: Batch) -> Metrics:
        """Take one step up the weighed likelihood."""
        log_probs = self.actor(self.inputs(batch.obs, batch.history), batch.avail_actions).log_prob(batch.actions)
        weights = (batch.rewards / self.config.temperature).exp()
        loss = -masked_mean(weights * log_probs, batch.mask)
        self.descend(loss)
        return {"loss/actor": loss.detach()}
'''
TEST = '''\
import math

import pytest
import torch

from offline_marl.algorithms.rewarded_cloning import RewardedCloning, RewardedCloningConfig
from offline_marl.core.types import Batch, Spec


def test_the_loss_by_hand():
    """Of two equally likely choices each agent takes one: exp(0) log 2 and exp(1) log 2, in the mean."""
    learner = RewardedCloning(RewardedCloningConfig(hidden=(4,)), Spec((1, 1), (2, 2), action_kind="discrete"))
    for parameter in learner.actor.parameters():
        torch.nn.init.zeros_(parameter)
    obs, flags = torch.zeros(1, 2, 1), torch.zeros(1, 2, dtype=torch.bool)
    batch = Batch(obs, torch.tensor([[0, 1]]), torch.tensor([[0.0, 1.0]]), obs, flags, flags)
    assert float(learner.update(batch)["loss/actor"]) == pytest.approx((1 + math.e) / 2 * math.log(2))
'''
FILES = {
    "offline_marl/algorithms/rewarded_cloning.py": ALGORITHM,
    "offline_marl/presets/rewarded_cloning/published.toml": "steps = 20_000\n",
    "tests/algorithms/test_rewarded_cloning.py": TEST,
}
"""All that CONTRIBUTING asks for, but for a line in the changelog and what `make docs` writes."""
OVER_THE_REGISTRY = [
    "tests/test_docs.py",
    "tests/test_public_names.py",
    "tests/core/test_registry.py",
    "tests/launch/cli/test_presets.py",
    "tests/launch/cli/test_cli.py::test_list_names_everything_with_its_first_docstring_line",
    "tests/test_loop_baselines.py::test_every_loop_has_a_row_and_a_row_can_be_asked_for",
]
"""Tests that look at all algorithms at once; those with a case for each are found by the name of the case."""
ANYWHERE = "not network and not gpu and not slurm and not browser"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the repository with one algorithm more."""
    leave = shutil.ignore_patterns("__pycache__", "legacy", "slurm", "browser")
    for folder in ("offline_marl", "tests", "docs", "benchmarks", "examples"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=leave)
    for name in ("pyproject.toml", "Makefile", "README.md", "CONTRIBUTING.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def python(copy: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_one_file_its_published_settings_and_one_test_worked_by_hand_are_all_that_tests_ask_for(copy: Path) -> None:
    python(copy, "docs/build.py")
    page = (copy / "docs" / "algorithms" / "rewarded-cloning.md").read_text()
    assert "`temperature`" in page and "exp(r" in page
    pytest_ = ("-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider")
    cases = python(copy, *pytest_, "tests", "-m", ANYWHERE, "-k", "rewarded-cloning or rewarded_cloning")
    assert int(re.findall(r"(\d+) passed", cases)[0]) > 50, "the contract alone has more cases"
    python(copy, *pytest_, *OVER_THE_REGISTRY)


@pytest.mark.slow
def test_an_algorithm_without_published_settings_is_told_so(copy: Path) -> None:
    """The copy's tests do look at what is added to it."""
    shutil.rmtree(copy / "offline_marl" / "presets" / "rewarded_cloning")
    with pytest.raises(AssertionError, match="rewarded-cloning"):
        python(copy, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "tests/launch/cli/test_presets.py")
