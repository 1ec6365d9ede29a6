"""Rows of speed.py for world models: an update of the ensemble's fit, and ten imagined steps from 200 starts.

The loop (loop_model.py) goes member by member, and its rollout takes the covariance over elites row by row.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from loop_model import LoopEnsemble
from timing import SIZES, Patience, make_batch, print_ratios
from torch import Tensor

from offline_marl.core.types import AvailActions, Batch, History, Obs, Spec
from offline_marl.worldmodels.ensemble import Ensemble, EnsembleConfig
from offline_marl.worldmodels.facts import measure
from offline_marl.worldmodels.rollout import Caution, rollout

ROWS, STARTS, STEPS = 256, 200, 10


class Projection:
    """A policy so small that hardly anything but the model is timed."""

    window = 0

    def __init__(self, spec: Spec) -> None:
        generator = torch.Generator().manual_seed(0)
        self.weights = torch.randn(spec.obs_dim, spec.act_dim, generator=generator) / spec.obs_dim

    def act(
        self,
        obs: Obs,
        *,
        history: History | None = None,
        avail_actions: AvailActions | None = None,
        explore: bool = False,
    ) -> Tensor:
        return torch.tanh(obs @ self.weights)


def prepare(size: str) -> tuple[Ensemble, LoopEnsemble, Batch]:
    """Ours, the loop's, and noise in the shape of a task, the rows of each member apart."""
    config = EnsembleConfig()
    rows = make_batch(SIZES[size], config.members * ROWS, 0)
    facts = measure(SIZES[size], rows.obs, rows.next_obs, rows.rewards, rows.terminations)
    batch = rows.map(lambda value: value.unflatten(0, (config.members, ROWS)))
    return Ensemble(config, facts), LoopEnsemble(facts), batch


def compare_fit(size: str, patience: Patience) -> None:
    ours, loop, batch = prepare(size)
    title = f"{'ensemble':18}  {size:8} {ours.members} members "
    print_ratios(title, lambda: ours.update(batch), lambda: loop.update(batch), patience)


def compare_rollout(size: str, patience: Patience) -> None:
    ours, loop, batch = prepare(size)
    starts = batch.map(lambda value: value[0, :STARTS])
    policy, caution = Projection(SIZES[size]), Caution()
    title = f"{'rollout':18}  {size:8} {len(ours.elites)} elites  "
    print_ratios(
        title,
        lambda: rollout(ours, policy, starts, STEPS, caution),
        lambda: loop.rollout(policy, starts, STEPS, caution),
        patience,
    )


MODELS: dict[str, Callable[[str, Patience], None]] = {"ensemble": compare_fit, "rollout": compare_rollout}
