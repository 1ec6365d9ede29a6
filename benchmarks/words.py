"""What agents of simple-reference tell each other: `python benchmarks/words.py [--runs DIR ...] [--table]`.

Each agent knows which landmark the other one should go to, and says a word at every step. Plays finished runs of
online.py over the same episodes as they are, and with what agents hear shuffled among the copies; a row a run goes to
results/online/words.csv: both returns, and how often the best guess of the landmark from the word alone is right.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace as changed
from pathlib import Path

import numpy as np
import rows
import torch

import offline_marl
from offline_marl.core.permissions import ImportPath
from offline_marl.environments.base import Flags, Floats, JointEnv, Seen, TeamActions
from offline_marl.environments.episodes import Step, episode_seeds, play
from offline_marl.environments.scores import summarize
from offline_marl.tasks.environment_tasks import find_environment_task

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "online" / "words.csv"
TASK, LEARNERS, EPISODES = "simple-reference", ("vdn", "qmix", "ma-ppo"), 500
COLOUR, HEARD = slice(8, 11), slice(11, 21)
"""Of an observation: colour of the other agent's landmark, and the word that the other one said a step before."""
FIELDS = ("algo", "seed", "return", "return_low", "return_high", "shuffled", "guessed", "episodes", "commit")


class Shuffled:
    """An environment in which each agent hears what its teammate said in another copy."""

    def __init__(self, env: JointEnv) -> None:
        self.env, self.spec, self.copies = env, env.spec, env.copies
        self.draw = np.random.default_rng(0)

    def reset(self, seeds: list[int]) -> Seen:
        return self._shuffle(self.env.reset(seeds))

    def step(self, actions: TeamActions) -> tuple[Seen, Floats, Flags, Flags]:
        seen, *rest = self.env.step(actions)
        return (self._shuffle(seen), *rest)

    def _shuffle(self, seen: Seen) -> Seen:
        obs = seen.obs.copy()
        for agent in range(self.spec.n_agents):
            obs[:, agent, HEARD] = obs[self.draw.permutation(len(obs)), agent, HEARD]
        return changed(seen, obs=obs)


def guessed(told: np.ndarray) -> float:
    """Share of words from which the landmark is guessed rightly, by who says what how often; a third by chance.

    Args:
        told: Counts `agent word landmark`.
    """
    return float(told.max(-1).sum() / told.sum())


def measure(folder: Path, algo: str, seed: int) -> dict[str, object]:
    """The row of a run."""
    policy, told = offline_marl.load(folder), np.zeros((2, 10, 3))
    env = find_environment_task(TASK, {}, permit=ImportPath).make(EPISODES)
    seeds = episode_seeds(0, EPISODES)

    def hear(_: JointEnv, __: list[int], step: Step) -> None:
        knows, hears = step.seen.obs[..., COLOUR].argmax(-1), step.next_seen.obs[..., HEARD].argmax(-1)
        for agent in range(2):
            np.add.at(told[agent], (hears[:, 1 - agent], knows[:, agent]), 1)

    score = summarize(play(policy, env, seeds, watch=hear).returns)
    shuffled = play(policy, Shuffled(env), seeds).returns.mean()
    return {
        **{"algo": algo, "seed": seed, "return": round(score.mean, 2), "return_low": round(score.low, 2)},
        **{"return_high": round(score.high, 2), "shuffled": round(float(shuffled), 2)},
        **{"guessed": round(guessed(told), 3), "episodes": EPISODES, "commit": rows.commit_of(folder)},
    }


def print_table() -> None:
    """A row a learner: means over seeds, least and largest."""
    print(f"| `{TASK}` | seeds | return | with words shuffled | landmark guessed from the word |")
    print("|---|---|---|---|---|")
    for algo in LEARNERS:
        found = [row for row in rows.read(RESULTS) if row["algo"] == algo]
        columns = {name: [float(row[name]) for row in found] for name in ("return", "shuffled", "guessed")}
        cells = [
            rows.over_seeds(values, digits)
            for values, digits in zip(columns.values(), (1, 1, 2), strict=True)
            if values
        ]
        if cells:
            print(f"| `{algo}` | {len(found)} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=Path, nargs="+", default=[Path("runs/online")], help="folders of online.py")
    parser.add_argument("--table", action="store_true", help="play nothing: print the table of the committed CSV")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for algo in () if options.table else LEARNERS:
        for seed in range(3):
            folders = [runs / f"{algo}_{TASK}_{seed}" for runs in options.runs]
            done = next((folder for folder in folders if (folder / "DONE").exists()), None)
            if done is not None:
                rows.replace(RESULTS, [measure(done, algo, seed)], FIELDS, ("algo", "seed"))
                print(f"{algo} {seed}", file=sys.stderr)
    print_table()


if __name__ == "__main__":
    main()
