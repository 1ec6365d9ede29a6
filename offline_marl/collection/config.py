"""Settings of a collection. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from offline_marl.core.config import Config
from offline_marl.core.fields import Count, CountOrZero, NotNegative, Seed, Share


class CollectConfig(Config):
    """The environment, behaviours, noise and size of a collection, and how it is recorded."""

    environment: str
    """Name of an environment, or import path of a PettingZoo one (package.module:function)."""
    episodes: Count = 100
    """Episodes in all."""
    out: Path
    """File to write, such as mine.safetensors; one that exists is never overwritten."""
    who: tuple[str, ...] = ()
    """Who acts, by shares: scripted experts, run folders (or runs/x@STEP), tier:NAME, random; else all experts."""
    noise: tuple[NotNegative, ...] = (0.0,)
    """Each episode draws one: deviation of the noise on actions, or chance of any choice; random takes none."""
    deviate: str | None = None
    """Unilateral data: in some episodes one agent follows this actor instead, the others keep to theirs."""
    deviate_share: Share = 0.5
    """Share of episodes with a deviating agent, drawn uniformly in each; the metadata say which (-1: none)."""
    conf: str | None = None
    """Who the agents of a body are, such as 2x1, where one deviates; known without it if a run acts."""
    seed: Seed = 0
    """Decides everything; the numbers of copies and of workers do not."""
    copies: Count = 16
    """Episodes that run side by side in a process, 64 at most."""
    workers: Count = 1
    """Processes that record at once, 64 episodes at a time."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """What the environment is made with, such as N=5 or, of a body, terminate_when_unhealthy=false; also as JSON."""
    max_steps: Count | None = None
    """Length of the environment's episodes; a toy's cannot be chosen."""
    reference: tuple[float, float] | None = None
    """Returns of random play and of an expert, if you know them: --reference=-30,-5; else see score_episodes."""
    score_episodes: CountOrZero = 200
    """Episodes of uniform play, and of each checkpoint of --tiers, that reference scores are measured by; 0: none."""
    tiers: Path | None = None
    """Run folder with many checkpoints: one file per tier of quality, OUT-poor.safetensors ..., instead of --who."""
    tier_fractions: tuple[str, ...] = ("poor=0.25", "medium=0.5", "good=0.75", "expert=best")
    """Tiers and their fractions of the way from random to expert; best is the best checkpoint."""
    tier_tolerance: NotNegative = 0.1
    """How far from its fraction a tier may lie."""
