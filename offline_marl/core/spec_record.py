"""The schema of a team's widths, as files hold them. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from offline_marl.core.config import Config

MOST_AGENTS = 10_000
WIDEST = 100_000_000
"""Numbers of one observation, action or state."""
MOST_CHOICES = 1 << 20
"""Choices of one agent: tables with an entry for each are made of them."""

Width = Annotated[int, Field(ge=0, le=WIDEST, strict=True)]


class SpecRecord(Config):
    """Widths of what the team sees and does."""

    obs_dims: Annotated[tuple[Width, ...], Field(min_length=1, max_length=MOST_AGENTS)]
    """Of each agent's observation."""
    act_dims: Annotated[tuple[Width, ...], Field(min_length=1, max_length=MOST_AGENTS)]
    """Of each agent's action, or how many choices it has."""
    state_dim: Width = 0
    """Of the global state."""
    action_kind: Literal["continuous", "discrete"] = "continuous"
    """Continuous or discrete."""
    window: Width = 0
    """Past pairs that each agent sees."""

    @model_validator(mode="after")
    def _of_one_team(self) -> SpecRecord:
        if len(self.obs_dims) != len(self.act_dims):
            raise ValueError(f"{len(self.obs_dims)} agents see and {len(self.act_dims)} act: they should be the same")
        if self.action_kind == "discrete" and max(self.act_dims) > MOST_CHOICES:
            raise ValueError(f"an agent has {max(self.act_dims):,} choices, more than {MOST_CHOICES:,} are not learnt")
        return self
