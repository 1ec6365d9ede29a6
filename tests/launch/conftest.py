"""Tiny data for the command line: made from random numbers, so that no simulator is needed to make it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from offline_marl.algorithms.base import Algorithm, algorithms
from offline_marl.core.types import Spec
from offline_marl.datasets.base import Dataset, Recording
from offline_marl.datasets.files import save_data
from offline_marl.launch.cli import main

EPISODES, LENGTH = 6, 5


@dataclass(frozen=True)
class Said:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one sentence of a failure."""
        lines = [line for line in self.err.splitlines() if line.startswith("error:")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        assert self.err.rstrip().endswith(lines[0]), "the sentence comes last"
        return lines[0]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """Runs a command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")

    def run(*args: Any) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(arg) for arg in args])
        said = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return Said(end.value.code, said.out, said.err)

    return run


@pytest.fixture
def register() -> Iterator[Callable[[str, type[Algorithm]], None]]:
    """Enters toy algorithms into the registry for one test."""
    entered = []

    def enter(name: str, kind: type[Algorithm]) -> None:
        algorithms.register(name)(kind)
        entered.append(name)

    yield enter
    for name in entered:
        algorithms._loaded.pop(name)


def flags_of_episodes() -> dict[str, torch.Tensor]:
    ends = torch.zeros(EPISODES * LENGTH, dtype=torch.bool)
    ends[LENGTH - 1 :: LENGTH] = True
    return {"terminations": torch.zeros_like(ends), "truncations": ends}


def make_recording() -> Recording:
    """Random numbers in the shape of reacher's."""
    draw = torch.Generator().manual_seed(0)
    return Recording(
        state=torch.randn(EPISODES * (LENGTH + 1), 10, generator=draw),
        actions=torch.rand(EPISODES * LENGTH, 2, generator=draw) * 2 - 1,
        rewards=torch.randn(EPISODES * LENGTH, generator=draw),
        **flags_of_episodes(),
        lengths=torch.full((EPISODES,), LENGTH),
        metadata={"scenario": "reacher", "reference": {"random": -11.0, "expert": -4.0, "note": "made up"}},
    )


def make_team(discrete: bool) -> Dataset:
    """Two agents in no known environment."""
    draw = torch.Generator().manual_seed(0)
    steps = EPISODES * LENGTH
    continuous = torch.rand(steps, 2, 3, generator=draw) * 2 - 1
    return Dataset(
        obs=torch.randn(EPISODES * (LENGTH + 1), 2, 4, generator=draw),
        actions=continuous.argmax(-1) if discrete else continuous,
        rewards=torch.randn(steps, 1, generator=draw).expand(-1, 2).contiguous(),
        **{name: ends.unsqueeze(-1).expand(-1, 2).contiguous() for name, ends in flags_of_episodes().items()},
        lengths=torch.full((EPISODES,), LENGTH),
        spec=Spec((4, 4), (3, 3), action_kind="discrete" if discrete else "continuous"),
    )


@pytest.fixture
def recording(tmp_path: Path) -> str:
    """A task on a recording of reacher's shape, in a file."""
    path = tmp_path / "arm.safetensors"
    save_data(path, make_recording())
    return f"{path}_2x1notip_0"


@pytest.fixture
def team(tmp_path: Path) -> Path:
    """A file of continuous team data."""
    path = tmp_path / "team.safetensors"
    save_data(path, make_team(discrete=False))
    return path


@pytest.fixture
def discrete_team(tmp_path: Path) -> Path:
    """A file of discrete team data."""
    path = tmp_path / "choices.safetensors"
    save_data(path, make_team(discrete=True))
    return path
