"""Returns of uniform play in Gymnasium's bodies, the figures of `core/reference.py`.

python benchmarks/uniform.py [--episodes 500] [BODY ...]
"""

from __future__ import annotations

import argparse

import numpy as np

from offline_marl.core.partition import SCENARIOS
from offline_marl.core.seeding import derive
from offline_marl.environments.base import Simulator, environments
from offline_marl.environments.episodes import episode_seeds
from offline_marl.environments.scores import summarize

COPIES = 50


def returns_of(simulator: Simulator, seeds: list[int]) -> list[float]:
    """Return of one episode per seed, whose actions are drawn from its seed."""
    draws = [np.random.default_rng(derive(seed, "uniform")) for seed in seeds]
    simulator.reset(seeds)
    totals, over = np.zeros(len(seeds)), np.zeros(len(seeds), np.bool_)
    while not over.all():
        actions = np.stack([2 * draw.random(simulator.action_dim, np.float32) - 1 for draw in draws])
        outcome = simulator.step(actions)
        totals += outcome.rewards
        over = outcome.terminations | outcome.truncations
    return totals.tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bodies", nargs="*", default=SCENARIOS)
    parser.add_argument("--episodes", type=int, default=500)
    given = parser.parse_args()
    seeds = episode_seeds(0, given.episodes)
    for body in given.bodies:
        simulator = environments.get(body).simulator(COPIES)
        chunks = [seeds[first : first + COPIES] for first in range(0, len(seeds), COPIES)]
        score = summarize(np.array([value for chunk in chunks for value in returns_of(simulator, chunk)]))
        print(f"{body:<24}{score}", flush=True)
        simulator.close()


if __name__ == "__main__":
    main()
