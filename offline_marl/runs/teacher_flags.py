"""Settings of runs that learn their reward while acting, and of exploration. Imports no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from offline_marl.core.config import Config
from offline_marl.core.fields import Count, CountOrZero, NotNegative, Positive, Share


class TeacherFlags(Config):
    """Settings of a reward that is learnt from comparisons of the run's own play (PEBBLE, PrefPPO)."""

    teacher: Literal["simulated", "human"] | None = None
    """Learn the reward while acting, from comparisons of one's own play: who compares. Without it nobody does."""
    teacher_settings: dict[str, Any] = Field(default_factory=dict)
    """Character of the simulated teacher, the flags of `prefs simulate`: steepness=perfect,error_rate=.1; also JSON."""
    queries: CountOrZero = 1_400
    """Pairs that are asked about in the whole run; 0 asks nothing, and the reward model stays as it was drawn."""
    queries_per_round: Count = 20
    """Pairs that are asked about together."""
    query_schedule: Literal["linear", "exponential"] = "linear"
    """When the rounds come on the way from the end of exploration to the run's: evenly, or ever more seldom."""
    query_rate: Positive = 0.1
    """How much earlier the exponential schedule asks."""
    query_every: CountOrZero = 0
    """Environment steps between rounds, in place of the schedule."""
    query_select: Literal["uniform", "disagree", "entropy"] = "disagree"
    """Pairs to ask about: any, or those on which the reward model's members disagree or are least sure."""
    query_length: Count = 50
    """Steps of a segment; an episode that ended sooner is one segment as a whole."""
    query_to_end: bool = True
    """Ask about segments, too, that an episode's termination cuts to no less than half, so that falls are compared."""
    query_recent: Count = 100
    """Newest episodes that segments are of."""
    query_target: str = "team"
    """Of whom the simulated teacher speaks: team, agents (each of them, for every pair), or one, such as agent_0."""
    query_wait: bool = True
    """Stand still until people have answered a round; --no-query-wait goes on, and learns from answers as they come."""
    reward_kind: str = "bradley-terry"
    """Kind of reward model that is learnt."""
    reward_fit: dict[str, Any] = Field(default_factory=dict)
    """Settings of that model, the flags of `fit-reward`: members=5,surf_weight=1,lr=3e-4; also as JSON."""
    reward_updates: Count = 200
    """Updates of the reward model after each round, at most."""
    reward_accuracy: Share = 0.97
    """Share of all labels told right by every member on average at which a round's updates end."""
    reward_credit: Literal["team", "own"] = "team"
    """Pay each agent the learned reward's mean over the agents that labels speak of, or its own part."""
    reward_bonus: NotNegative = 0.0
    """Added to the learned reward per unit of its members' deviation, before the first environment step (RUNE)."""
    reward_bonus_decay: Share = 1e-4
    """Share of that weight which every environment step takes away."""
    explore_steps: CountOrZero = 0
    """Environment steps, after the warm-up, that are paid for what is new instead of by any reward."""
    explore_neighbours: Count = 5
    """What is new: the distance to the nearest state but so many, of all that were seen."""
    reset_critic: bool = True
    """Begin critics anew, and keep policies, where the reward changes from novelty or another run's to the learned."""

    @property
    def asks_people(self) -> bool:
        """Whether the run has questions that people answer."""
        return self.teacher == "human" and self.queries > 0
