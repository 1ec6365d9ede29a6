"""QMIX (Rashid et al., 2018): VDN whose agents' values are mixed by a network that is monotonic in each of them.

Q_tot = |w_2(s)| . elu(|W_1(s)| (Q_1..Q_n) + b_1(s)) + b_2(s), weights made of the joint state s by hypernetworks; all
else is VDN's. Because no weight is negative each agent's best choice is part of the team's best, which a sum also
promises, while more payoffs can be told: not those in which what is best for one agent turns with the others' choice.
Values far below 0 leave its elus flat, so that it tells them apart badly and may overestimate without bound: published
runs in MPE standardise rewards and take the time limit for an end, here `reward_bias` and `bootstrap_truncated`.
Departs from the published code as VDN does; s is all observations side by side unless `mixer_state = state`; weights
have a hypernetwork with a hidden layer (its later form), the first bias a linear one.
Paper: arXiv 1803.11485.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torch import Tensor, nn

from offline_marl.algorithms.base import algorithms
from offline_marl.algorithms.vdn import VDN, VDNConfig
from offline_marl.core.fields import Count, CountOrZero
from offline_marl.core.types import Batch, DataError, Spec
from offline_marl.networks.mixers import MonotonicMixer


class QMIXConfig(VDNConfig):
    """Fields of VDN and those of the mixing network.

    As VDN, with Q_tot = |w_2| . elu(|W_1| (Q_1..Q_n) + b_1) + b_2 of `mixer_width` units.
    """

    mixer_width: Count = 32
    """Units of the mixing network's hidden layer."""
    hyper_width: CountOrZero = 64
    """Width of the hidden layer of the hypernetworks that make weights; 0 leaves them linear."""
    mixer_state: Literal["obs", "state"] = "obs"
    """What the mixer reads: all observations side by side, or the data's global state, which world models lack."""


@algorithms.register("qmix")
class QMIX(VDN):
    """VDN with a monotonic mixing network in place of the sum, whose weights depend on the joint state."""

    Config = QMIXConfig
    config: QMIXConfig

    def __init__(self, config: QMIXConfig, spec: Spec) -> None:
        if config.mixer_state == "state" and not spec.state_dim:
            raise DataError("qmix finds no global state here to mix by: mixer_state = obs reads all observations.")
        super().__init__(config, spec)
        self.needs = replace(self.needs, state=config.mixer_state == "state")

    def make_mixer(self) -> nn.Module:
        """The mixing network."""
        spec, config = self.spec, self.config
        width = spec.state_dim if config.mixer_state == "state" else spec.n_agents * spec.obs_dim
        return MonotonicMixer(spec.n_agents, width, config.mixer_width, config.hyper_width)

    def states(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """All observations side by side, or the global state."""
        if self.config.mixer_state == "obs":
            return super().states(batch)
        if batch.state is None or batch.next_state is None:
            raise DataError("These rows hold no global state: mixer_state = obs reads all observations instead.")
        return batch.state, batch.next_state
