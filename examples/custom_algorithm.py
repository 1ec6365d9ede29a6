"""An algorithm of your own in one file, trained and scored: `python examples/custom_algorithm.py [--steps N]`.

Filtered cloning: each agent learns the value of what it sees and copies only those of its recorded actions
that turned out better than that. Closest in print: CRR's binary filter (Wang et al., 2020, arXiv 2006.15134),
here with a one-step advantage instead of a critic of actions, and one learner per agent.
"""

from __future__ import annotations

import argparse
from typing import Annotated

import torch
from pydantic import Field

import offline_marl
from offline_marl import Algorithm, AlgorithmConfig, Batch, Metrics, Needs, Spec
from offline_marl.algorithms.base import masked_mean, over_recorded
from offline_marl.losses import bellman
from offline_marl.networks.actors import Actor
from offline_marl.networks.critics import Value
from offline_marl.networks.targets import frozen_copy


class FilteredCloningConfig(AlgorithmConfig):
    """Common fields (gamma, lr, hidden, window ...) and one of its own."""

    spared: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """What an action that fails the filter still counts; 1 is behaviour cloning."""


@offline_marl.algorithms.register("filtered-cloning")
class FilteredCloning(Algorithm):
    """Copies what went better than expected."""

    Config = FilteredCloningConfig
    config: FilteredCloningConfig
    needs = Needs(recorded="some")  # transitions, continuous or discrete actions, not of imagined rows alone

    def __init__(self, config: FilteredCloningConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        # `self.shape`: widths, layer norm and parameter sharing as the common fields ask.
        self.actor = Actor(act_dims=spec.act_dims, discrete=spec.discrete, **self.shape)
        self.value = Value(spec.n_agents, **self.shape)
        self.target_value = frozen_copy(self.value)
        self.optimize("actor", "value", lr=config.lr)

    def update(self, batch: Batch) -> Metrics:
        features = self.inputs(batch.obs, batch.history)
        with torch.no_grad():
            next_v = self.target_value(self.inputs(batch.next_obs, batch.next_history))
            target = bellman.td_target(batch.rewards, batch.terminations, next_v, self.config.gamma)

        advantages = target - self.value(features)  # [batch, agent]
        value_loss = masked_mean(advantages.square(), batch.mask)

        passed = (advantages.detach() > 0).float()
        weights = passed + self.config.spared * (1 - passed)
        log_probs = self.actor(features, batch.avail_actions).log_prob(batch.actions)
        actor_loss = -masked_mean(over_recorded(weights * log_probs, batch), batch.mask)  # imagined rows show nothing

        self.descend(value_loss + actor_loss)
        self.update_targets(self.config.tau)
        return {"loss/value": value_loss.detach(), "loss/actor": actor_loss.detach(), "passed/share": passed.mean()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dataset", default="reacher-scripted-clockwise-v0_2x1notip_0")
    parser.add_argument("--steps", type=int, default=5_000)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--spared", type=float, default=0.0)
    parser.add_argument("--out", default="runs/custom_algorithm")
    options = parser.parse_args()
    result = offline_marl.train(
        "filtered-cloning",
        options.dataset,
        out=options.out,
        steps=options.steps,
        final_episodes=options.episodes,
        spared=options.spared,
    )
    print(result.score)


if __name__ == "__main__":
    main()
