"""A hook of your own: `python examples/own_hook.py [--steps N]` keeps a moving average of the actors' weights.

A hook is called after every update with `(step, learner, metrics)`. What it offers by `state_dict` is saved in the
run's checkpoints, under its `name`, so that `offline_marl.resume(run, hooks=[Average(0.995)])` goes on with it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import offline_marl


class Average:
    """Weights averaged over the updates, which often act better than those of the last one."""

    name = "average"

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, step: int, learner: offline_marl.Algorithm, metrics: offline_marl.Metrics) -> None:
        for name, weight in learner.actor.named_parameters():
            kept = self.weights.setdefault(name, weight.detach().clone())
            kept.lerp_(weight, 1 - self.decay)

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.weights = dict(state["weights"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dataset", default="reacher-scripted-clockwise-v0_2x1notip_0")
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--out", default="runs/own_hook")
    options = parser.parse_args()
    average = Average(0.995)
    if (Path(options.out) / "config.json").exists():
        result = offline_marl.resume(options.out, hooks=[average])
    else:
        fields = {"steps": options.steps, "final_episodes": 20}
        result = offline_marl.train("bc", options.dataset, out=options.out, hooks=[average], **fields)
    actor = result.algorithm.actor
    apart = sum(float((weight.detach() - average.weights[name]).norm()) for name, weight in actor.named_parameters())
    print(f"the averaged actor is {apart:.3f} away from the last one")


if __name__ == "__main__":
    main()
