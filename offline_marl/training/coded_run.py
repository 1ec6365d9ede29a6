"""A run whose gradients other processes compute: its engine, its log of whose answers were used, and its state."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from offline_marl.algorithms.base import Algorithm
from offline_marl.algorithms.split import splitting
from offline_marl.core.config import ConfigError
from offline_marl.core.files import write_atomically
from offline_marl.core.learner import Learner
from offline_marl.core.locks import open_own
from offline_marl.core.seeding import Generators
from offline_marl.core.small_files import parse
from offline_marl.core.types import Batch, Metrics, Source
from offline_marl.distributed.coding import Code
from offline_marl.distributed.engine import Engine, Program, ScriptedEngine
from offline_marl.distributed.local import LocalEngine
from offline_marl.distributed.ray import RayEngine, import_ray
from offline_marl.distributed.schemes import make_code
from offline_marl.runs.config import INDECISIVE_FIELDS, RunConfig
from offline_marl.runs.folder import RunFolder, RunFolderError, naming_plugins
from offline_marl.runs.loading import make_algorithm
from offline_marl.tasks.run_tasks import open_to_go_on
from offline_marl.training.coded import Controller, GradientProgram, Iteration, Stragglers
from offline_marl.training.rewards import Rewards
from offline_marl.training.sources.choose import buffer_of
from offline_marl.training.sources.recorded import DatasetSource

LOG = "learners.jsonl"
"""In a run folder: a line for each update, with the learners whose answers were used."""
OF_ENGINES = frozenset({"engine", "answers_of", "steps", "patience", "stragglers", "straggler_delay", "ray_address"})
"""Settings in which a run may differ from the one whose answers it replays."""
START_S = 60.0
"""Seconds that the first update waits for learners to start."""


class CodedRun:
    """Coded updates of a run's algorithm, as a hook whose state belongs into checkpoints.

    Args:
        config: The run's settings, with an engine.
        folder: Takes the log.
        learner: The algorithm, on the CPU.

    Raises:
        ConfigError: The code does not exist for so many learners, the run computes on a GPU, or it replays the answers
            of a run of other settings.
        DataError: The algorithm's update cannot be split by agent.
        EngineError: The run begins, and Ray is to compute for it, which is not installed.
    """

    def __init__(self, config: RunConfig, folder: RunFolder, learner: Algorithm) -> None:
        splitting(learner)
        if learner.best.device.type != "cpu":
            raise ConfigError("Learners of a coded run compute on the CPU: give it --device cpu.")
        self.config, self.folder, self.learner = config, folder, learner
        self.code = code_of(config, learner.spec.n_agents)
        if config.stragglers > self.code.learners:
            raise ConfigError(f"Of {self.code.learners} learners {config.stragglers} cannot be late: see --learners.")
        self.generator = Generators(config.seed).get("stragglers")
        self.accounts: list[Iteration] = []
        """Of updates that are not in the log yet."""
        self.script = None if config.answers_of is None else read_log(Path(config.answers_of) / LOG, self.code)
        if folder.config_file.is_file():
            return
        if self.script is not None:
            _refuse_other_run(config, len(self.script))
        elif config.engine == "ray":
            import_ray()

    @contextlib.contextmanager
    def updating(self, source: Source) -> Iterator[Callable[[Batch], Metrics]]:
        """The algorithm's update while learners are running; they are stopped at the end, however it comes."""
        self._cut_log()
        drawn = None
        if self._knows_rows(source):

            def drawn() -> torch.Tensor:
                assert isinstance(source, DatasetSource) and source.drawn is not None
                return source.drawn

        stragglers = None
        if self.config.stragglers:
            late, delay_s = self.config.stragglers, self.config.straggler_delay
            stragglers = Stragglers(self.code.learners, late, delay_s, self.generator)
        with self._engine(source) as engine:
            controller = Controller(
                self.learner, self.code, engine, stragglers, self.config.patience, self.accounts.append, drawn
            )
            controller.await_learners(START_S)
            try:
                yield controller.update
            finally:
                self.write_log()

    def _engine(self, source: Source) -> Engine:
        count = self.code.learners
        if self.script is not None:
            return ScriptedEngine(count, self._program(source, copy.deepcopy(self.learner)), self.script)
        if self.config.engine == "ray":
            make = FolderProgram(str(self.folder.path.absolute()), has_data=self._knows_rows(source))
            return RayEngine(count, make, self.config.ray_address)
        return LocalEngine(count, self._program(source, self.learner))

    def _knows_rows(self, source: Source) -> bool:
        """Whether learners read rows by their numbers; what a learned reward pays stands in no data."""
        return isinstance(source, DatasetSource) and self.config.reward_model is None

    def _program(self, source: Source, learner: Algorithm) -> Callable[[], Program]:
        def view(index: torch.Tensor) -> Batch:
            assert isinstance(source, DatasetSource)
            return source.buffer.view(index, learner.needs)

        return lambda: GradientProgram(splitting(learner), self.code, view)

    def __call__(self, step: int, learner: Learner, metrics: Metrics) -> None:
        """Nothing: updates are counted where they are made."""

    def state_dict(self) -> dict[str, Any]:
        """Who is late next; with it the log is brought up to date."""
        self.write_log()
        return {"stragglers": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the saved run stood."""
        self.generator.set_state(state["stragglers"].cpu())

    def _cut_log(self) -> None:
        """Drop the lines of updates that are made again, which of a run without a checkpoint are all.

        Raises:
            RunFolderError: The log was damaged or edited.
        """
        path = self.folder.path / LOG
        if not path.is_file():
            return
        try:
            lines = [line for line in _lines(path) if line["version"] <= self.learner.updates]
        except (ValueError, KeyError, TypeError):
            raise RunFolderError(f"{path} was damaged or edited: remove it, and the run goes on.") from None
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines).encode())

    def write_log(self) -> None:
        """Append what is not in the log yet."""
        lines = [json.dumps(_line_of(account)) for account in self.accounts]
        self.accounts.clear()
        if lines:
            with open_own(self.folder.path / LOG, "a") as file:
                file.write("\n".join(lines) + "\n")


def code_of(config: RunConfig, agents: int) -> Code:
    """The code that the settings name; without `learners` there are half as many again as agents."""
    learners = config.learners or (agents if config.code == "uncoded" else agents + -(-agents // 2))
    return make_code(config.code, agents, learners, seed=config.seed)


def _refuse_other_run(config: RunConfig, updates: int) -> None:
    """Refuse to replay a log that is of another run, or too short."""
    place = str(config.answers_of)
    if updates < config.steps:
        raise ConfigError(f"The log of {place} tells of {updates:,} updates, and --steps asks for {config.steps:,}.")
    free = (INDECISIVE_FIELDS - {"threads"}) | OF_ENGINES  # last bits hang on them
    if config.real_fraction_end is not None:  # the share of an update hangs on how many there are
        free -= {"steps"}
    stored, wanted = (
        {**one.settings, **one.model_dump(exclude={"settings", *free})} for one in (RunFolder(place).config(), config)
    )
    for name, value in wanted.items():
        then = stored.get(name, value)  # runs of earlier versions had fewer settings
        if then != value:
            raise ConfigError(
                f"--answers-of {place} replays a run of the same settings: {name} was {then}, not {value}."
            )


@dataclass(frozen=True)
class FolderProgram:
    """Maker of a learner's program on any machine that sees the run's folder, and its data.

    Args:
        folder: The run folder.
        has_data: Whether learners read recorded rows by their numbers; if not they are sent.
    """

    folder: str
    has_data: bool

    def __call__(self) -> Program:
        """Make the program from the run's settings."""
        folder = RunFolder(self.folder)
        with naming_plugins(folder):
            config = folder.config()
            task = open_to_go_on(folder)
            torch.set_num_threads(1)
            learner = make_algorithm(config, task.data.spec)
            learner.place("cpu", 0)
            view = None
            if self.has_data:
                scale, bias = learner.config.reward_scale, learner.config.reward_bias
                rewards = Rewards(task.data, scale, bias=bias)
                buffer = buffer_of(task, rewards, learner, torch.device("cpu"))

                def view(index: torch.Tensor) -> Batch:
                    return buffer.view(index, learner.needs)

        return GradientProgram(splitting(learner), code_of(config, learner.spec.n_agents), view)


def read_log(path: Path, code: Code) -> list[list[int]]:
    """Whose answers each update of a run used, from its first one on.

    Raises:
        RunFolderError: There is no log, or it is damaged or of another code.
    """
    try:
        lines = _lines(path)
        rows = [_rows_of(line["rows"], code.learners) for line in lines]
        numbers = [line["version"] for line in lines]
    except (OSError, ValueError, KeyError, TypeError):
        raise RunFolderError(f"{path} is no log of a coded run's learners.") from None
    if (
        any(type(number) is not int for number in numbers)
        or numbers != list(range(1, len(numbers) + 1))
        or None in rows
    ):
        raise RunFolderError(f"{path} does not tell of every update from the first on, or of other learners.")
    return [order for order in rows if order is not None]


def _rows_of(order: object, learners: int) -> list[int] | None:
    """The learners that a line names, each once; None where it names something else."""
    if not isinstance(order, list) or any(type(row) is not int or not 0 <= row < learners for row in order):
        return None
    return order if len(set(order)) == len(order) else None


def _line_of(account: Iteration) -> dict[str, Any]:
    line = {**asdict(account), "seconds": round(account.seconds, 6)}
    if not account.reasons:
        del line["reasons"]
    return line


def _lines(path: Path) -> list[dict[str, Any]]:
    """Lines of the log; a last one that was cut off by the end of its process is no line."""
    text = path.read_text(encoding="utf-8")
    return [parse(line) for line in text[: text.rfind("\n") + 1].splitlines()]
