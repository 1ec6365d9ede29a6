"""MARIE (Zhang et al., 2024): policies that learn in a world model of tokens, which is fitted to what they play.

Without data it plays its environment, fits the model to its replay, and learns on episodes imagined from replayed
steps, in rounds; on recorded data the model is fitted first, and the rest is MOMA-PPO's. What an update computes is
MA-PPO's with lambda-returns, R_t = A_t + V(s_t), A from errors discounted by `gamma` `gae_lambda`; who plays, fits and
imagines, and how often, is the source's business.
Departs from the published code: one ratio of the joint action and one value of the team, mixed from the agents'
with weights that depend on what all of them see, where there each agent has a ratio, and a value that attends to the
others; what agents see stays exact, where there a decoder writes it anew, because tokens are of residuals; an index of
the agent beside what it sees; means outside [-1, 1] cost; an end that is drawn ends an imagined episode, where there
its chance discounts; doubt costs and cuts unless `spread_weight`, `reward_spread_weight` and `cutoff` are 0.
Paper: arXiv 2406.15836.
"""

from __future__ import annotations

from typing import ClassVar

from offline_marl.algorithms.base import algorithms
from offline_marl.algorithms.moma_ppo import MOMAPPO, MOMAPPOConfig
from offline_marl.core.fields import Count, InnerShare, NotNegative, Positive, Share


class MARIEConfig(MOMAPPOConfig):
    """Fields and equations of MA-PPO with MARIE's values; the run sets the rounds (`round_steps`, `horizon` ...)."""

    lr: Positive = 5e-4
    """Step size of Adam."""
    grad_clip: NotNegative = 10.0
    """Largest gradient norm of each module; 0 leaves gradients alone."""
    minibatch_size: Count = 2_000
    """Steps of the team in one descent."""
    clip: InnerShare = 0.2
    """How far from 1 the joint ratio is still worth moving (MAMuJoCo: .1)."""
    gae_lambda: Share = 0.95
    """Share of later errors in an advantage; 0 is the one-step error, 1 the whole return."""
    value_clip: NotNegative = 0.0
    """Largest change of V that an update rewards, in units of the rewards; 0 for any."""
    critic_weight: NotNegative = 1.0
    """Weight of the squared error of V beside the policy's loss."""
    entropy_weight: NotNegative = 1e-3
    """Weight of the team's entropy, to begin with."""
    entropy_step: NotNegative = 0.0
    """What that weight gains at each descent for each nat that the entropy lies below its target; 0 fixes it."""
    state_std: bool = False
    """Whether the gaussian policy's deviation depends on what an agent sees."""
    share_parameters: bool = True
    """One set of weights for all agents, who then read a one-hot of their index."""
    behaviour_temperature: NotNegative = 1.0
    """Divides the logits that choices are drawn from in the environment; 0 takes the likeliest. Imagination has 1."""


@algorithms.register("marie")
class MARIE(MOMAPPO):
    """MA-PPO on segments that its current policies act out in a world model of tokens, learnt beside them."""

    Config = MARIEConfig
    imagines_in: ClassVar[str] = "marie"
