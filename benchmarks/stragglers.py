"""Time of coded iterations with late learners: `python benchmarks/stragglers.py [--table]`.

MADDPG's gradients of one agent are timed alone on one core, at the size of simple-spread with 8 and 10 agents. Then 15
learners, real processes, answer as if each had a core of its own: they sleep as long as their agents would take, and
the controller waits, decodes and goes on as in training. Late learners are drawn anew for each iteration. Writes
results/stragglers.csv (resumable: rows that are there stay) and results/stragglers.svg, with the simulator's figure
beside each measured one, and the published one where there is one (seconds of five iterations).
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from offline_marl.algorithms.maddpg import MADDPG, MADDPGConfig
from offline_marl.core.types import Batch, Spec
from offline_marl.distributed.arrivals import Pace, mean_iteration_s
from offline_marl.distributed.coding import Code
from offline_marl.distributed.engine import Answer, Message, Payload, Program, Ready, Task
from offline_marl.distributed.local import LocalEngine
from offline_marl.distributed.schemes import make_code
from offline_marl.training.coded import Stragglers

HERE = Path(__file__).resolve().parent
ROWS, FIGURE = HERE / "results" / "stragglers.csv", HERE / "results" / "stragglers.svg"
LEARNERS = 15
ITERATIONS = 5
"""Of one published logging period."""
SCHEMES = {"uncoded": "uncoded", "mds": "chebyshev", "random-sparse": "random-sparse",
           "replication": "replication", "ldpc": "ldpc"}  # fmt: skip
DELAYS = {"navigation": 0.25, "prey": 1.0, "deception": 1.0}
"""Seconds, read from the published jump between no and some late learners."""
LATE = {"navigation": (0, 1, 2), "prey": (0, 2, 4), "deception": (0, 5, 8)}
PUBLISHED = {
    # Seconds of 20 episodes, five iterations: arXiv 2101.02308's figure data, in the order of LATE.
    (8, "navigation"): {"uncoded": (4.67, 5.73, 5.74), "mds": (6.281, 6.286, 6.279),
                        "random-sparse": (6.09, 6.099, 6.10), "replication": (5.17, 5.20, 5.8),
                        "ldpc": (4.92, 4.95, 5.3)},
    (10, "navigation"): {"uncoded": (7.31, 8.58, 8.60), "mds": (10.09, 10.35, 10.35),
                         "random-sparse": (9.825, 9.81, 9.83), "replication": (8.389, 8.60, 9.2),
                         "ldpc": (7.76, 8.03, 8.45)},
    (8, "prey"): {"uncoded": (3.07, 7.98, 8.01), "mds": (4.35, 4.40, 4.38), "random-sparse": (4.21, 4.18, 4.20),
                  "replication": (3.51, 4.64, 6.68), "ldpc": (3.18, 3.71, 5.53)},
    (10, "prey"): {"uncoded": (4.14, 9.07, 9.12), "mds": (6.25, 6.28, 6.30), "random-sparse": (5.99, 6.00, 6.15),
                   "replication": (4.79, 7.91, 9.67), "ldpc": (4.26, 5.02, 7.065)},
    (8, "deception"): {"uncoded": (2.52, 7.52, 7.54), "mds": (3.82, 3.80, 9.04), "random-sparse": (3.66, 3.73, 8.84),
                       "replication": (2.91, 6.75, 8.16), "ldpc": (2.65, 6.37, 7.90)},
    (10, "deception"): {"uncoded": (3.37, 8.34, 8.35), "mds": (5.48, 5.45, 10.66),
                        "random-sparse": (5.07, 5.36, 10.34), "replication": (3.94, 9.12, 9.20),
                        "ldpc": (3.57, 7.96, 8.85)},
}  # fmt: skip


def agent_s(agents: int) -> float:
    """Processor seconds of one agent's gradients, median of some, on one thread."""
    torch.set_num_threads(1)
    obs_dim, rows = 6 * agents, 1024
    spec = Spec((obs_dim,) * agents, (5,) * agents, action_kind="discrete")
    learner = MADDPG(MADDPGConfig(batch_size=rows, hidden=(64, 64)), spec)
    learner.place("cpu", 0)
    obs, next_obs = torch.randn(2, rows, agents, obs_dim)
    flags = torch.zeros(rows, agents, dtype=torch.bool)
    actions = torch.randint(5, (rows, agents))
    batch = Batch(obs, actions, torch.randn(rows, agents), next_obs, flags, flags)
    taken = []
    for turn in range(20):
        begun = time.process_time()
        learner.gradients(batch, [turn % agents])
        taken.append(time.process_time() - begun)
    return float(np.median(taken))


def sleeping(code: Code, seconds: float) -> Callable[[], Program]:
    """Learners that take as long as their agents would on a core of their own."""

    def program(learner: int, payload: Payload) -> Message:
        time.sleep(code.loads[learner] * seconds)
        return Message(code.encode(learner, payload["results"][list(code.assigned(learner))]))

    return lambda: program


def measured_s(code: Code, seconds: float, late: int, delay_s: float) -> float:
    """Mean seconds of an iteration with real processes."""
    stragglers = Stragglers(code.learners, late, delay_s, torch.Generator().manual_seed(0))
    results = np.random.default_rng(0).standard_normal((code.agents, 1_000))
    with LocalEngine(code.learners, sleeping(code, seconds)) as engine:
        idle: set[int] = set()
        while len(idle) < code.learners:
            event = engine.wait_any(60.0)
            assert isinstance(event, Ready), event
            idle.add(event.learner)
        total = 0.0
        for version in range(1, ITERATIONS + 1):
            begun, delays, answers = time.monotonic(), stragglers.draw(), dict[int, Message]()
            engine.publish(version, {"results": results})
            while not code.decodable(list(answers)):
                for learner in idle - set(answers):
                    engine.submit(Task(learner, version, delays.get(learner, 0.0)))
                idle = set(answers) & idle
                event = engine.wait_any(60.0)
                assert isinstance(event, Answer), event
                idle.add(event.learner)
                if event.version == version and event.message is not None:
                    answers[event.learner] = event.message
            solved = code.decode(list(answers), np.stack([message.numbers for message in answers.values()]))
            assert np.abs(solved - results).max() < 1e-6
            total += time.monotonic() - begun
    return total / ITERATIONS


def rows_there() -> list[dict[str, str]]:
    """Committed rows."""
    if not ROWS.exists():
        return []
    with ROWS.open(newline="") as file:
        return list(csv.DictReader(file))


def measure() -> None:
    """Measure what no row tells yet."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True)
    rows = rows_there()
    there = {(row["agents"], row["task"], row["code"], row["late"]) for row in rows}
    speeds = {int(row["agents"]): float(row["agent_s"]) for row in rows}
    for (agents, task), published in PUBLISHED.items():
        seconds = speeds.setdefault(agents, agent_s(agents))
        for name, scheme in SCHEMES.items():
            code = make_code(scheme, agents, agents if name == "uncoded" else LEARNERS)
            for late, theirs in zip(LATE[task], published[name], strict=True):
                if (str(agents), task, name, str(late)) in there:
                    continue
                late_here = min(late, code.learners)
                ours = measured_s(code, seconds, late_here, DELAYS[task])
                simulated = mean_iteration_s(code, Pace(seconds), late_here, DELAYS[task])
                rows.append(
                    {"agents": agents, "task": task, "code": name, "late": late, "delay_s": DELAYS[task],
                     "agent_s": f"{seconds:.5f}", "measured_s": f"{ours:.4f}", "simulated_s": f"{simulated:.4f}",
                     "published_s": f"{theirs / ITERATIONS:.4f}", "commit": commit.stdout.strip()}  # type: ignore[dict-item]
                )  # fmt: skip
                write(rows)
                print(rows[-1], flush=True)


def write(rows: list[dict[str, str]]) -> None:
    """Write all rows beside the old ones, and put them in their place."""
    part = ROWS.with_suffix(".part")
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    part.rename(ROWS)


def table(rows: list[dict[str, str]]) -> str:
    """Seconds of an iteration, measured and, in brackets, published."""
    lines = ["| agents, task | code | late: seconds (published) | | |", "|---|---|---|---|---|"]
    for agents, task in PUBLISHED:
        for name in SCHEMES:
            cells = [
                f"{row['late']}: {float(row['measured_s']):.2f} ({float(row['published_s']):.2f})"
                for row in rows
                if (row["agents"], row["task"], row["code"]) == (str(agents), task, name)
            ]
            lines.append(f"| {agents}, {task} | `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(rows: list[dict[str, str]]) -> None:
    """One panel for each team size and task: measured bars, published ones as dots on an axis of their own."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "stragglers"
    figure, panels = pyplot.subplots(2, 3, figsize=(13, 6.5), layout="constrained")
    for panel, (agents, task) in zip(panels.T.flat, sorted(PUBLISHED, key=lambda key: key[1]), strict=True):
        other = panel.twinx()
        for number, name in enumerate(SCHEMES):
            chosen = [r for r in rows if (r["agents"], r["task"], r["code"]) == (str(agents), task, name)]
            places = np.arange(len(chosen)) + (number - 2) * 0.16
            color = f"C{number}"
            panel.bar(places, [float(r["measured_s"]) for r in chosen], 0.14, label=name, color=color)
            other.plot(places, [float(r["published_s"]) for r in chosen], "k_", markersize=9)
        panel.set_title(f"{task}, {agents} agents, 15 learners, late by {DELAYS[task]:g} s", fontsize=10)
        panel.set_xticks(range(3), [f"{late} late" for late in LATE[task]])
        panel.set_ylabel("measured seconds (bars)")
        other.set_ylabel("published seconds (dashes)")
        other.set_ylim(0)
    panels[0, 0].legend(fontsize=8)
    figure.savefig(FIGURE, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--table", action="store_true", help="print the table of the rows that are there")
    if not parser.parse_args().table:
        measure()
        draw(rows_there())
    print(table(rows_there()))


if __name__ == "__main__":
    main()
