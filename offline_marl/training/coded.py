"""Coded training: agents' gradients computed by many learners with redundancy, and decoded from whoever answers first.

The controller owns parameters, optimisers and targets. In each update it publishes a snapshot and the batch's rows;
learner n returns sum_m C[n, m] g_m, the float64 gradients of its agents, and the update goes on once the answers that
have come determine every agent's. So parameters are those of an uncoded run up to rounding, whoever was late or dead.
Learners that are late keep their old task and are passed by, the dead are started anew in the background, and only what
the living cannot determine is computed here: no update ever waits for one learner beyond a patience.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load, save
from torch import Tensor

from offline_marl.algorithms.base import Algorithm
from offline_marl.algorithms.split import GENERATOR, AgentGradients, SplitLearner, splitting
from offline_marl.core.progress import say
from offline_marl.core.types import Batch, Metrics
from offline_marl.distributed.coding import Code, CodingError, Floats
from offline_marl.distributed.engine import Engine, Event, Lost, Message, Payload, Ready, Task
from offline_marl.runs import stopping

ROWS, SNAPSHOT, PREPARED = "rows/", "snapshot/", "prepared/"
"""Beginnings of the names under which a payload holds the batch's fields, the learner's snapshot, what it prepared."""
DRAWN = "drawn"
"""Name of the numbers of recorded rows, in place of the fields of a batch."""
PATIENCE_S = 60.0
"""Seconds without any answer after which the controller computes what is missing."""
LOOK_S = 0.5
"""Seconds between looks at whether the run was asked to stop."""
MOST_PAUSE = 1_023
"""Updates for which a learner that dies at every start is left alone, at most."""


@dataclass(frozen=True, slots=True)
class Work:
    """All that gradients depend on."""

    snapshot: Mapping[str, Tensor]
    """Of the algorithm."""
    batch: Batch
    """The minibatch."""
    prepared: Mapping[str, Tensor]
    """What one place computes for all."""


def pack(work: Work, drawn: Tensor | None = None) -> dict[str, npt.NDArray[np.generic]]:
    """The payload of a version.

    Args:
        work: What is to be told.
        drawn: Which recorded rows the batch holds, where learners have the data: then these numbers alone go out.
    """
    batch = work.batch
    rows = {f.name: getattr(batch, f.name) for f in fields(batch)} if drawn is None else {DRAWN: drawn}
    parts = ((SNAPSHOT, work.snapshot), (PREPARED, work.prepared), (ROWS, rows))
    named = {f"{beginning}{name}": value for beginning, part in parts for name, value in part.items()}
    return {name: value.detach().cpu().numpy() for name, value in named.items() if value is not None}


def unpack(payload: Payload, view: Callable[[Tensor], Batch] | None = None) -> Work:
    """What a payload tells.

    Args:
        payload: What `pack` made.
        view: Gives recorded rows by their numbers.
    """

    def part(beginning: str) -> dict[str, Tensor]:
        # Copied where an engine hands out memory that must not be written to.
        return {
            name.removeprefix(beginning): torch.from_numpy(value if value.flags.writeable else value.copy())
            for name, value in payload.items()
            if name.startswith(beginning)
        }

    rows = part(ROWS)
    if DRAWN not in rows:
        return Work(part(SNAPSHOT), Batch(**rows), part(PREPARED))
    assert view is not None
    return Work(part(SNAPSHOT), view(rows[DRAWN]), part(PREPARED))


class GradientProgram:
    """A learner's part of an update: the coded sum of its agents' gradients, and of what they add to the metrics.

    Args:
        learner: A copy of the algorithm, on the CPU, whose parameters are overwritten.
        code: Says which agents are whose, with which weights.
        view: Gives recorded rows by their numbers; None where payloads hold the rows themselves.
    """

    def __init__(self, learner: SplitLearner, code: Code, view: Callable[[Tensor], Batch] | None = None) -> None:
        self.learner, self.code, self.view = learner, code, view

    def __call__(self, learner: int, payload: Payload) -> Message:
        """The message of a learner."""
        with one_thread():
            work = unpack(payload, self.view)
            self.learner.load_snapshot(work.snapshot, lent=True)
            rows, note = rows_of(self.learner, work, self.code.assigned(learner))
            return Message(self.code.encode(learner, rows), note)


@contextmanager
def one_thread() -> Iterator[None]:
    """A single torch thread while gradients are computed, so that they are the same bits in whichever process.

    A process that was forked from one whose threads had begun would wait for these, which it has not, for good.
    """
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def rows_of(learner: SplitLearner, work: Work, agents: Sequence[int]) -> tuple[Annotated[Floats, "agent n"], bytes]:
    """Gradients of these agents in float64, with what each adds to the metrics behind them, and a note of the layout.

    Each agent is asked for by itself, so that its row does not depend on which others a learner computes.
    """
    with one_thread():
        parts = [learner.gradients(work.batch, [agent], work.prepared) for agent in agents]
        rows = [torch.cat([part.flat()[0].double(), _metrics_of(part)]).cpu().numpy() for part in parts]
        return np.stack(rows), _note(parts[0])


def _metrics_of(gradients: AgentGradients) -> Tensor:
    return torch.stack([gradients.metrics[name].double() for name in sorted(gradients.metrics)])


def _note(gradients: AgentGradients) -> bytes:
    """What the numbers of a row are, and where the generator stands after the update's draws."""
    layout = {
        "shapes": {name: list(value.shape[1:]) for name, value in gradients.values.items()},
        "metrics": sorted(gradients.metrics),
    }
    moved = {} if gradients.generator is None else {GENERATOR: gradients.generator.cpu()}
    return save({"version": torch.zeros(1), **moved}, {"layout": json.dumps(layout)})


def gradients_of(rows: Annotated[Floats, "agent n"], note: bytes, dtype: torch.dtype) -> AgentGradients:
    """Gradients and metrics of the whole team from a row for each agent."""
    kept = load(note)
    length = int.from_bytes(note[:8], "little")
    layout = json.loads(json.loads(note[8 : 8 + length])["__metadata__"]["layout"])
    shapes = {name: torch.Size(shape) for name, shape in layout["shapes"].items()}
    sizes = [shape.numel() for shape in shapes.values()]
    parts = torch.split(torch.from_numpy(rows), [*sizes, len(layout["metrics"])], dim=1)
    values = {name: part.to(dtype).view(-1, *shape) for (name, shape), part in zip(shapes.items(), parts, strict=False)}
    metrics = dict(zip(layout["metrics"], parts[-1].sum(0).to(dtype).unbind(), strict=True))
    return AgentGradients(tuple(range(len(rows))), values, metrics, kept.get(GENERATOR))


@dataclass(slots=True)
class Iteration:
    """Account of one update."""

    version: int
    rows: list[int]
    """Learners whose answers were used, in the order of arrival."""
    local: list[int]
    """Agents that the controller computed itself."""
    late: int = 0
    """Answers to earlier versions that came during this one, and were dropped."""
    lost: int = 0
    """Learners whose death was noticed."""
    reasons: list[str] = field(default_factory=list)
    """What they died of."""
    seconds: float = 0.0
    """From the publication to the last answer that was needed."""
    condition: float = 1.0
    """Of the system that was solved."""

    def numbers(self) -> dict[str, float]:
        """What goes into the metrics."""
        counts = {"rows": len(self.rows), "local": len(self.local), "late": self.late, "lost": self.lost}
        return {**counts, "wait_s": self.seconds, "condition": self.condition}


class Stragglers:
    """Learners that are late on purpose: `count` of them, drawn anew for each update.

    Args:
        learners: How many there are.
        count: How many are late.
        delay_s: By how much.
        generator: Draws which; on the CPU.
    """

    def __init__(self, learners: int, count: int, delay_s: float, generator: torch.Generator) -> None:
        self.learners, self.count, self.delay_s, self.generator = learners, count, delay_s, generator

    def draw(self) -> dict[int, float]:
        """Delay of each learner that is late in this update."""
        order = torch.randperm(self.learners, generator=self.generator)
        return {int(learner): self.delay_s for learner in order[: self.count]}


class Controller:
    """The owner of the algorithm, who lets learners compute its gradients.

    Args:
        algorithm: Its update is split by agent.
        code: For as many agents as it has.
        engine: For as many learners as the code has; started by `start`.
        stragglers: Who is late on purpose; None for nobody.
        patience_s: See `PATIENCE_S`.
        on_iteration: Called with the account of every update.
        drawn: Numbers of the recorded rows of the newest batch; None where learners are sent the rows.

    Raises:
        DataError: The algorithm's update cannot be split.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        code: Code,
        engine: Engine,
        stragglers: Stragglers | None = None,
        patience_s: float = PATIENCE_S,
        on_iteration: Callable[[Iteration], None] = lambda _: None,
        drawn: Callable[[], Tensor] | None = None,
    ) -> None:
        self.learner, self.algorithm = splitting(algorithm), algorithm
        self.code, self.engine, self.stragglers = code, engine, stragglers
        self.patience_s, self.on_iteration, self.drawn = patience_s, on_iteration, drawn
        self._idle: set[int] = set()
        self._working: dict[int, int] = {}
        """Version of the task that each learner has."""
        self._deaths: dict[int, int] = {}
        """Of each learner since it last answered."""
        self._due: dict[int, int] = {}
        """Version at which a learner that keeps dying is started again."""
        self._told: set[str] = set()
        self._silent: set[int] = set()
        """Learners of whose silence was told."""

    def await_learners(self, timeout_s: float) -> int:
        """Wait until all learners can be given tasks, but not longer; returns how many can."""
        deadline = time.monotonic() + timeout_s
        while len(self._idle) + len(self._due) < self.code.learners and (event := self._event(deadline)) is not None:
            self._note(event, 0, {}, Iteration(0, [], []))
        return len(self._idle)

    def _event(self, deadline: float) -> Event | None:
        """The engine's next event; None after the deadline, and soon where the run was asked to stop."""
        while True:
            begun = time.monotonic()
            timeout = min(max(deadline - begun, 0.0), LOOK_S)
            event = self.engine.wait_any(timeout)
            now = time.monotonic()
            # An engine that comes back long before its time knows that there will be none.
            if event is not None or now >= deadline or now - begun < timeout / 2 or stopping.asked.is_set():
                return event

    def update(self, batch: Batch) -> Metrics:
        """One update of the algorithm, its gradients computed by the learners."""
        version = self.algorithm.updates + 1
        drawn = None if self.drawn is None else self.drawn()
        work = Work(self.learner.snapshot(), batch, self.learner.prepare(batch))
        self.engine.publish(version, pack(work, drawn))
        answers, account = self._gather(version)
        gradients = self._decode(answers, account, work)
        self.on_iteration(account)
        metrics = self.learner.apply_gradients(gradients)
        return metrics | {f"coded/{name}": torch.tensor(number) for name, number in account.numbers().items()}

    def _gather(self, version: int) -> tuple[dict[int, Message], Iteration]:
        """Answers to this version, until they determine all agents or nobody is at work who could add to them."""
        begun = time.monotonic()
        account = Iteration(version, [], [])
        delays = self.stragglers.draw() if self.stragglers is not None else {}
        answers: dict[int, Message] = {}
        for learner in [learner for learner, due in self._due.items() if due <= version]:
            del self._due[learner]
            self.engine.restart(learner)
        while (event := self.engine.wait_any(0.0)) is not None:
            self._note(event, version, answers, account)
        self._hand_out(version, delays)
        heard = time.monotonic()
        while not self.code.decodable(list(answers)) and self._hopeful(version, answers):
            event = self._event(heard + self.patience_s)
            if event is None:
                if time.monotonic() >= heard + self.patience_s:
                    self._tell_of_silence()
                break
            heard = time.monotonic()
            self._note(event, version, answers, account)
            self._hand_out(version, delays, done=answers)
        account.rows, account.seconds = list(answers), time.monotonic() - begun
        return answers, account

    def _hand_out(self, version: int, delays: Mapping[int, float], done: Mapping[int, Message] | None = None) -> None:
        for learner in sorted(self._idle - set(done or ())):
            self._idle.discard(learner)
            self._working[learner] = version
            self.engine.submit(Task(learner, version, delays.get(learner, 0.0)))

    def _note(self, event: Event, version: int, answers: dict[int, Message], account: Iteration) -> None:
        self._working.pop(event.learner, None)
        if isinstance(event, Lost):
            self._note_loss(event, version, account)
            return
        self._idle.add(event.learner)
        if isinstance(event, Ready):
            return
        if event.message is not None:
            self._deaths.pop(event.learner, None)
        if event.version != version:
            account.late += 1
        elif event.message is not None:
            answers[event.learner] = event.message

    def _note_loss(self, event: Lost, version: int, account: Iteration) -> None:
        """Have the learner started anew: at once, or after ever more updates where it dies again and again."""
        learner, reason = event.learner, event.reason
        account.lost += 1
        account.reasons.append(reason)
        self._idle.discard(learner)
        if reason not in self._told:
            self._told.add(reason)
            say(f"Learner {learner} is lost and will be started anew: {reason.rstrip('.')}.")
        pause = min(2 ** min(self._deaths.get(learner, 0), 30) - 1, MOST_PAUSE)
        self._deaths[learner] = self._deaths.get(learner, 0) + 1
        if pause:
            self._due[learner] = version + pause
        else:
            self.engine.restart(learner)

    def _tell_of_silence(self) -> None:
        """Say once of each learner that it has a task and did not answer."""
        if silent := sorted(self._working.keys() - self._silent):
            self._silent.update(silent)
            named = f"Learner {silent[0]}" if len(silent) == 1 else f"Learners {', '.join(map(str, silent))}"
            said = f"did not answer within {self.patience_s:g} s"
            say(f"{named} {said}: what is missing is computed by the run's own process.")

    def _hopeful(self, version: int, answers: Mapping[int, Message]) -> bool:
        """Whether those who are at work on this version tell anything that those who have answered do not."""
        at_work = [learner for learner, task in self._working.items() if task == version]
        rows = [*answers, *at_work]
        return self.code.rank(rows) > self.code.rank(list(answers)) or self.code.decodable(rows)

    def _decode(self, answers: Mapping[int, Message], account: Iteration, work: Work) -> AgentGradients:
        """Every agent's gradients; of agents that the answers do not determine they are computed here."""
        rows, numbers = list(answers), [message.numbers for message in answers.values()]
        notes, code = {message.note for message in answers.values()}, self.code
        if not code.decodable(rows):
            account.local = code.missing(rows)
            own, note = rows_of(self.learner, work, account.local)
            rows += [code.learners + agent for agent in account.local]
            numbers, notes, code = [*numbers, *own], {*notes, note}, code.with_units()
        if len(notes) > 1:
            raise CodingError(f"Learners {sorted(answers)} computed updates of different kinds: they cannot be joined.")
        account.condition = code.condition(rows)
        return gradients_of(code.decode(rows, np.stack(numbers)), notes.pop(), self.algorithm.best.dtype)
