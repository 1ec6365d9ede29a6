"""MOMA-PPO (Barde et al., 2024): multi-agent PPO on episodes imagined by a world model of the data.

Its segments start in states of the data, with their histories; all agents act in the model, by their current
policies, and so can agree and adapt to each other as no learner can that only looks at recorded actions. The model's
disagreement is taken from the rewards and cuts an episode short: a truncation, which still bootstraps. What an
update computes is MA-PPO's, to the letter; who imagines, and how far, is the source's business.
Departs from the published code: as MA-PPO does; there rollouts were never cut, their disagreement being clamped to
the threshold before it was compared with it. Options that it lacks: standardised observations, a share of starts at
episode starts (`start_share`), initialisation from a `bc` run (`init`), a cut-off as a quantile, other measures.
Paper: arXiv 2305.17198.
"""

from __future__ import annotations

from offline_marl.algorithms.base import algorithms
from offline_marl.algorithms.ma_ppo import MAPPO, MAPPOConfig
from offline_marl.core.types import Needs


class MOMAPPOConfig(MAPPOConfig):
    """Fields and equations of MA-PPO; the run sets how episodes are imagined (`horizon`, `spread_weight`, `cutoff`)."""


@algorithms.register("moma-ppo")
class MOMAPPO(MAPPO):
    """MA-PPO on segments that its current policies act out in a world model, from states of the data."""

    Config = MOMAPPOConfig
    needs = Needs(view="segments", origin="model")
