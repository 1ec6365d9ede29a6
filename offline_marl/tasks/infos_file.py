"""A table of what an environment tells of each step and agent, with summaries of each episode; CSV or JSON lines."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

from offline_marl.core.config import ConfigError
from offline_marl.core.files import refuse_unwritable, writing
from offline_marl.environments.base import JointEnv
from offline_marl.environments.episodes import Step
from offline_marl.environments.infos import flat

KEYS = ("row", "episode", "seed", "step", "agent", "reward")
"""First columns; the environment's own follow, in the order in which it first told them."""
ENDINGS = (".csv", ".jsonl")


class Statistic:
    """Sum, count and last of what one agent was told in one episode."""

    def __init__(self) -> None:
        self.total, self.count, self.last = 0.0, 0, 0.0

    def add(self, value: float) -> None:
        """Take in the value of one step."""
        self.total, self.count, self.last = self.total + value, self.count + 1, value


class InfosFile:
    """Rows of steps, gathered while episodes are played, and written whole when they are over.

    A row `step` holds one agent's reward and infos of one step. Behind an episode's steps stand three rows for each
    agent, with the `sum`, the `mean` and the `last` of its numbers; at the end of the file a row `episodes` for each
    agent, the mean over all episodes of these sums, which are 0 where it was away or told nothing.

    Args:
        path: The file, .csv or .jsonl.

    Raises:
        ConfigError: It has another ending, is a folder, or its folder cannot be written to.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() not in ENDINGS:
            raise ConfigError(f"--infos {path} should end in .csv or .jsonl.")
        if self.path.is_dir():
            raise ConfigError(f"--infos {path} is a folder: name a file.")
        refuse_unwritable(self.path.parent, "--infos' folder")
        self._columns = dict.fromkeys(KEYS)
        self._lines: dict[int, list[str]] = {}
        self._statistics: dict[tuple[int, str], dict[str, Statistic]] = {}
        self._sums: dict[str, dict[str, Statistic]] = {}
        self._seeds: dict[int, int] = {}
        self._steps: dict[int, int] = {}
        self._spool: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - closed by `maybe`
        self.rows = 0

    @classmethod
    @contextmanager
    def maybe(cls, path: str | Path | None) -> Iterator[InfosFile | None]:
        """The file, written when all went well; None where there is no path."""
        if path is None:
            yield None
            return
        file = cls(path)
        with file._spool:
            yield file
            file.write()

    def add(self, env: JointEnv, seeds: Sequence[int], step: Step) -> None:
        """Take in a step of episodes side by side, see `episodes.Watch`."""
        names = getattr(env, "agents", None) or [f"agent_{agent}" for agent in range(env.spec.n_agents)]
        tell = getattr(env, "infos", None)
        told: Sequence[Mapping[str, Mapping[str, Any]]] = [] if tell is None else tell()
        for copy, seed in enumerate(seeds):
            if not step.running[copy]:
                continue
            episode = self._seeds.setdefault(seed, len(self._seeds))
            number = self._steps[episode] = self._steps.get(episode, 0) + 1
            for agent, name in enumerate(names):
                if step.seen.present is None or step.seen.present[copy, agent]:
                    own = told[copy].get(name, {}) if told else {}
                    self._add_step(episode, seed, number, name, float(step.rewards[copy, agent]), own)
        if step.ended.all():
            self._spool_episodes()

    def _add_step(self, episode: int, seed: int, step: int, agent: str, reward: float, told: Mapping[str, Any]) -> None:
        # Ours win over an info of the same name, which is told as `info.NAME`.
        infos = {f"info.{name}" if name in KEYS else name: value for name, value in flat(told).items()}
        statistics = self._statistics.setdefault((episode, agent), {"reward": Statistic()})
        values = {"reward": reward, **{name: _finite(value) for name, value in infos.items()}}
        for name, value in values.items():
            if isinstance(value, bool | int | float):
                statistics.setdefault(name, Statistic()).add(float(value))
        self._append("step", episode, seed, step, agent, values)

    def _append(
        self, row: str, episode: int | None, seed: int | None, step: int | None, agent: str, values: Mapping[str, Any]
    ) -> None:
        self._columns |= dict.fromkeys(values)
        entries = dict(zip(KEYS, (row, episode, seed, step, agent), strict=False))
        entries |= {name: _finite(value) for name, value in values.items()}  # a sum may overflow
        self._lines.setdefault(-1 if episode is None else episode, []).append(json.dumps(entries))
        self.rows += 1

    def _spool_episodes(self) -> None:
        """Write the episodes that are over, one after another, with their summaries."""
        seeds = {episode: seed for seed, episode in self._seeds.items()}
        for (episode, agent), statistics in self._statistics.items():
            steps = statistics["reward"].count
            for row in ("sum", "mean", "last"):
                values = {name: _summary(statistic, row) for name, statistic in statistics.items()}
                self._append(row, episode, seeds[episode], steps, agent, values)
            for name, statistic in statistics.items():
                self._sums.setdefault(agent, {}).setdefault(name, Statistic()).add(statistic.total)
        for episode in sorted(self._lines):
            self._spool.writelines(f"{line}\n" for line in self._lines[episode])
        self._lines, self._statistics, self._steps = {}, {}, {}

    def write(self) -> None:
        """Write the file, whole or not at all."""
        for agent, statistics in self._sums.items():
            means = {name: statistic.total / len(self._seeds) for name, statistic in statistics.items()}
            self._append("episodes", None, None, None, agent, means)
        self._spool_episodes()
        self._spool.seek(0)
        with writing(self.path) as stream:
            (self._write_csv if self.path.suffix.lower() == ".csv" else self._write_lines)(stream)

    def _write_lines(self, stream: BinaryIO) -> None:
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        shutil.copyfileobj(self._spool, text)
        text.detach()

    def _write_csv(self, stream: BinaryIO) -> None:
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        table = csv.DictWriter(text, list(self._columns), lineterminator="\n")
        table.writeheader()
        for line in self._spool:
            row = json.loads(line)
            table.writerow(
                {name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()}
            )
        text.detach()


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _summary(statistic: Statistic, row: str) -> float:
    return {"sum": statistic.total, "mean": statistic.total / statistic.count, "last": statistic.last}[row]
