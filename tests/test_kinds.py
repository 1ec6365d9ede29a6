"""A third kind of run, brought by an installed package: its command, resume, jobs and sweeps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from warm import Warm
from worlds import saved, world

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "toy-package"
version = "1.0"

[project.entry-points."offline_marl.kinds"]
fit-mean = "toy_kind:KIND"
broken-kind = "no_such_module_anywhere:KIND"

[tool.setuptools]
py-modules = ["toy_kind", "toy_work"]
"""
KIND = '''
"""The kind, free of torch."""

from typing import Any

from offline_marl.runs.config import LearnFlags
from offline_marl.runs.kinds import RunKind


class MeanFlags(LearnFlags):
    """Flags of a fit of means."""

    steps: int = 30
    """Updates."""


class MeanConfig(MeanFlags):
    """Settings of a fit of means."""

    estimator: str
    """Registry name."""
    settings: dict[str, Any] = {}
    """Fields of the estimator's config."""


KIND = RunKind(
    command="fit-mean",
    config=MeanConfig,
    flags=MeanFlags,
    mark="estimator",
    noun="a fitted mean",
    procedure="toy_work:Averaging",
    plural="means",
    argument="ESTIMATOR",
)
'''
WORK = '''
"""Its work, which needs torch."""

from dataclasses import dataclass
from pathlib import Path

import torch

from offline_marl.core.config import Config, build
from offline_marl.core.learner import Learner
from offline_marl.core.registry import Registry
from offline_marl.core.seeding import Generators
from offline_marl.datasets.buffer import TransitionBuffer
from offline_marl.training.kinds import Procedure
from offline_marl.training.session import Session
from offline_marl.training.sources.recorded import DatasetSource
from offline_marl.tasks.data_tasks import open_task

estimators = Registry("estimator", "toy_package.estimators")


class GradientConfig(Config):
    """Settings of the estimator."""

    lr: float = 0.1
    """Step size."""


@estimators.register("gradient")
class Gradient(Learner):
    """The mean reward by gradient descent."""

    Config = GradientConfig

    def __init__(self, config):
        super().__init__(config.lr)
        self.mean = torch.nn.Linear(1, 1, bias=False)
        self.optimize("mean", lr=config.lr)

    def update(self, batch):
        loss = (self.mean.weight.squeeze() - batch.rewards).square().mean()
        self.descend(loss)
        return {"loss/mean": loss.detach()}


@dataclass
class Mean:
    folder: Path
    value: float


class MeanSession(Session):
    learner_key = "estimator"

    def __init__(self, folder, config):
        super().__init__(folder, config, config.estimator, config.steps)
        kind = estimators.get(config.estimator)
        self.learner = kind(build(kind.Config, config.settings))
        self.learner.place(self.device, config.seed)

    def make_source(self):
        buffer = TransitionBuffer(open_task(self.config.dataset).data, 0, self.device, state=False)
        return DatasetSource(buffer, 8, Generators(self.config.seed, self.device).get("batches"))

    def finish(self):
        self.folder.finish({"steps": self.step, "mean": self.read().value})
        return self.read()

    def read(self):
        return Mean(self.folder.path, self.learner.mean.weight.item())


class Averaging(Procedure):
    names = estimators

    def session(self, folder, config):
        return MeanSession(folder, config)

    def lines(self, outcome):
        return [f"the mean is {outcome.value:.6f}"]
'''
FLAGS = ["--steps", "20", "--log-every", "5", "--checkpoint-every", "5", "--device", "cpu"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the package is installed."""
    place = tmp_path_factory.mktemp("kinds")
    (place / "source").mkdir()
    for name, text in (("pyproject.toml", PROJECT), ("toy_kind.py", KIND), ("toy_work.py", WORK)):
        (place / "source" / name).write_text(text)
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "-q"]
    command = [sys.executable, "-m", "pip", "install", *offline, "--target", str(place / "site")]
    done = subprocess.run([*command, str(place / "source")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return place / "site"


@pytest.fixture
def data(tmp_path: Path) -> str:
    return saved(tmp_path, world("continuous"))


@pytest.fixture
def beside(site: Path) -> dict[str, str]:
    paths = [str(site), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


@pytest.fixture
def offline(warm: Warm, beside: dict[str, str], tmp_path: Path):
    """Runs the command line where the package is installed; its output and errors."""

    def run(*words: object, code: int = 0) -> tuple[str, str]:
        done = warm.run("-m", "offline_marl", *map(str, words), env=beside, cwd=tmp_path)
        assert done.returncode == code, done.stderr
        return done.stdout, done.stderr

    return run


def mean_in(folder: Path) -> float:
    return json.loads((folder / "DONE").read_text())["mean"]


@pytest.mark.long
def test_a_kind_is_a_command_with_the_flags_of_its_run_and_of_what_it_learns(offline):
    assert "fit-mean NAME" in offline("--help")[0]
    assert "gradient" in offline("fit-mean")[0]
    shown = offline("fit-mean", "gradient", "--help")[0]
    assert "--steps" in shown and "Step size. [default: 0.1]" in shown
    refused = offline("fit-mean", "gradiant", "--dataset", "x", code=2)[1]
    assert "Unknown estimator 'gradiant': did you mean 'gradient'?" in refused


def test_kinds_are_listed_without_importing_them_or_torch(beside):
    code = (
        "import sys\nfrom offline_marl.launch.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'toy_kind', 'toy_work'} & set(sys.modules)\n"
        "from offline_marl.runs.kinds import kinds\nkinds.get('fit-mean')\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], env=beside, capture_output=True, text=True)
    assert done.returncode == 0 and "fit-mean" in done.stdout, done.stderr


def test_one_that_does_not_import_is_named_by_its_command_and_harms_no_other(offline, data):
    refused = offline("broken-kind", "x", code=2)[1]
    assert "no_such_module_anywhere" in refused and "toy-package" in refused and len(refused.splitlines()) == 1
    offline("fit-mean", "gradient", "--dataset", data, "--out", "run", *FLAGS)
    offline("resume", "run")


def test_a_run_of_the_kind_ends_and_is_shown_again(offline, data, tmp_path):
    said = offline("fit-mean", "gradient", "--dataset", data, "--out", "run", "--lr", "0.05", *FLAGS)[0]
    assert f"the mean is {mean_in(tmp_path / 'run'):.6f}" in said
    assert json.loads((tmp_path / "run" / "config.json").read_text())["settings"] == {"lr": 0.05}
    assert offline("resume", "run")[0].splitlines()[0] == said.splitlines()[0]


def test_resume_goes_on_with_one_that_was_cut_off(offline, data, tmp_path):
    offline("fit-mean", "gradient", "--dataset", data, "--out", "straight", *FLAGS)
    offline("fit-mean", "gradient", "--dataset", data, "--out", "run", *FLAGS, "--keep-checkpoints", "0")
    (tmp_path / "run" / "DONE").unlink()
    for step in (15, 20):
        (tmp_path / "run" / "checkpoints" / f"step_{step:09d}.safetensors").unlink()
    said = offline("resume", "run")[1]
    assert "10 of 20 updates" in said and mean_in(tmp_path / "run") == mean_in(tmp_path / "straight")


def test_it_is_no_training_run_to_those_who_ask(offline, data):
    offline("fit-mean", "gradient", "--dataset", data, "--out", "run", *FLAGS)
    assert "run holds a fitted mean, not a training run." in offline("evaluate", "run", code=2)[1]


@pytest.mark.parametrize("executor", ["debug", "local"])
def test_it_is_submitted_as_a_job(offline, data, tmp_path, executor):
    assert "fit-mean NAME" in offline("submit")[0]
    words = ("fit-mean", "gradient", "--dataset", data, "--out", "run", *FLAGS)
    offline("submit", *words, "--executor", executor)
    assert json.loads((tmp_path / "run" / "DONE").read_text())["steps"] == 20
    assert json.loads((tmp_path / "run" / "config.json").read_text())["estimator"] == "gradient"


def test_a_sweep_runs_it(offline, data, tmp_path):
    file = tmp_path / "sweep.toml"
    file.write_text(
        f'command = "fit-mean"\nalgorithms = ["gradient"]\ndatasets = ["{data}"]\nseeds = [0, 1]\n'
        '[fields]\nsteps = 20\ndevice = "cpu"\n[grid]\nlr = [0.1, 0.2]\n'
    )
    offline("sweep", file, "--out", "sweep", "--executor", "debug")
    runs = sorted((tmp_path / "sweep" / "runs").iterdir())
    assert len(runs) == 4 and len({mean_in(run) for run in runs}) == 4
    said = offline("sweep", "status", "sweep")[0]
    assert "4" in said and "done" in said
    before = [(run / "DONE").stat().st_mtime_ns for run in runs]
    offline("sweep", file, "--out", "sweep", "--executor", "debug")
    assert [(run / "DONE").stat().st_mtime_ns for run in runs] == before, "typed again, it does nothing twice"
