"""Speed of world models as ratios inside one run: `python benchmarks/speed_models.py [--size ant]`.

1. An update of the ensemble over the bare matrix products it makes, and a loop over members over it.
2. Ten imagined steps from 200 starts with their uncertainty, ours and the loop's: elite by elite, and the
   covariance over elites row by row.

Rounds, clocks and replayed products are those of speed.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from loop_model import LoopEnsemble
from speed import SIZES, ProductRecorder, make_batch, medians
from torch import Tensor

from offline_marl.core.types import Batch, Spec
from offline_marl.worldmodels.ensemble import Ensemble, EnsembleConfig
from offline_marl.worldmodels.facts import Facts, measure
from offline_marl.worldmodels.uncertainty import covariance_norm

ROWS, STARTS, STEPS = 256, 200, 10


def rows_of(spec: Spec, members: int) -> tuple[Facts, Batch]:
    """Noise in the shape of a task, each member's rows apart, and what is to be known of it."""
    rows = make_batch(spec, members * ROWS, 0)
    facts = measure(spec, rows.obs, rows.next_obs, rows.rewards, rows.terminations)
    return facts, rows.map(lambda value: value.unflatten(0, (members, ROWS)))


def compare_fit(size: str, rounds: int, seconds: float) -> None:
    config = EnsembleConfig()
    facts, batch = rows_of(SIZES[size], config.members)
    ours, loop = Ensemble(config, facts), LoopEnsemble(facts)
    with ProductRecorder() as recorder:
        ours.update(batch)

    @torch.no_grad()
    def bare() -> None:
        for func, tensors in recorder.calls:
            func(*tensors)

    found = medians(
        {"ours": lambda: ours.update(batch), "bare": bare, "loop": lambda: loop.update(batch)}, rounds, seconds
    )
    print(
        f"{'ensemble':18}  {size:8} {config.members} members   ours {found['ours'] * 1e3:6.1f} ms   "
        f"over bare products {found['ours'] / found['bare']:.2f}   loop over ours {found['loop'] / found['ours']:.2f}",
        flush=True,
    )


def compare_rollout(size: str, rounds: int, seconds: float) -> None:
    config = EnsembleConfig()
    facts, batch = rows_of(SIZES[size], config.members)
    ours, loop = Ensemble(config, facts), LoopEnsemble(facts)
    starts, actions = batch.obs[0, :STARTS], batch.actions[0, :STARTS]
    speakers = torch.randint(config.elites, (STARTS,))

    def imagine() -> list[Tensor]:
        obs, doubts = starts, []
        for _ in range(STEPS):
            said = ours.step(obs, actions)
            assert said.spread is not None
            doubts.append(covariance_norm(said.spread))
            obs = said.next_obs
        return doubts

    def plainly() -> list[Tensor]:
        obs, doubts = starts, []
        for _ in range(STEPS):
            obs, _, _, doubt = loop.step(obs, actions, speakers)
            doubts.append(doubt)
        return doubts

    with ProductRecorder() as recorder:
        imagine()

    @torch.no_grad()
    def bare() -> None:
        for func, tensors in recorder.calls:
            func(*tensors)

    found = medians({"ours": imagine, "bare": bare, "loop": plainly}, rounds, seconds)
    print(
        f"{'ensemble rollout':18}  {size:8} {config.elites} elites    ours {found['ours'] * 1e3:6.1f} ms   "
        f"over bare products {found['ours'] / found['bare']:.2f}   loop over ours {found['loop'] / found['ours']:.2f}",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", nargs="+", choices=SIZES, default=[*SIZES], help="sizes of team to time")
    parser.add_argument("--rounds", type=int, default=9, help="counted rounds of each comparison, at most")
    parser.add_argument("--seconds", type=float, default=4.0, help="time for each comparison, about")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    print(
        f"torch {torch.__version__}, {options.threads} thread(s), batch {ROWS}, hidden 2 x 256, "
        f"{STEPS} steps of {STARTS} starts, float32, CPU"
    )
    for size in options.size:
        compare_fit(size, options.rounds, options.seconds)
        compare_rollout(size, options.rounds, options.seconds)


if __name__ == "__main__":
    main()
