"""Settings of runs that learn in a world model which is fitted to what they play. Imports no torch."""

from __future__ import annotations

from offline_marl.core.config import Config
from offline_marl.core.fields import Count, CountOrZero, NotNegative


class OnlineModelFlags(Config):
    """Schedule of a learner of imagined episodes that plays its environment: rounds of play, fit and imagination."""

    round_steps: Count = 200
    """Environment steps between rounds of fitting and imagining, of a run that plays and imagines (marie, moma-ppo)."""
    tokenizer_updates: CountOrZero = 50
    """Updates of a token world model's tokenizer in each round."""
    model_updates: Count = 100
    """Updates of the world model in each round, after the tokenizer's."""
    imagined_updates: Count = 5
    """Updates of the learner in each round, each on freshly imagined episodes."""
    first_rounds: Count = 10
    """Rounds whose updates of the world model are made in the first one, so that no learner meets a model that knows
    nothing."""
    balanced_sampling: NotNegative = 0.0
    """Temperature of drawing seldom drawn steps of the replay for the world model, odds exp(-times drawn / it); 0 draws
    all alike."""


ROUND_FIELDS = tuple(OnlineModelFlags.model_fields)
"""Their names."""
