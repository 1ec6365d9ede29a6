"""Settings of a run that are no algorithm's. Imports no torch, so that the command line answers at once."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from offline_marl.core.config import Config

Count = Annotated[int, Field(ge=1)]
Period = Annotated[int, Field(ge=0)]


class RunFlags(Config):
    """What every training run has, whatever it trains."""

    dataset: str
    """Catalogue name, a body's with conf and view (reacher-scripted-mix-v0_2x1notip_0), or a file of our layout."""
    clip_actions: bool = False
    """Clip actions of the data that lie outside [-1, 1], and say how many, instead of refusing the data."""
    steps: Count = 100_000
    """Updates; the published runs take 1,000,000."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Decides initial weights and the order of batches."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """auto, cpu, cuda or cuda:N; auto takes a GPU where there is one."""
    threads: Count = 1
    """Torch threads; results are equal bit for bit only for the same number."""
    eval_every: Period = 5_000
    """Updates between evaluations in the environment; 0 evaluates only at the end."""
    eval_episodes: Count = 20
    """Episodes of each evaluation on the way."""
    final_episodes: Count = 100
    """Episodes of the evaluation at the end, which is the score."""
    eval_seed: Annotated[int, Field(ge=0)] = 0
    """Decides the starts of the evaluation episodes; runs with the same one are scored on the same starts."""
    log_every: Count = 100
    """Updates between rows of metrics.csv; each row is the mean over them."""
    checkpoint_every: Period = 5_000
    """Updates between checkpoints; 0 saves only at the end."""
    keep_checkpoints: Count = 2
    """Newest checkpoints that stay on disk."""
    tensorboard: bool = False
    """Write TensorBoard events into the run folder (needs the extra 'log')."""
    wandb: Literal["off", "offline", "online"] = "off"
    """Log to Weights & Biases (needs the extra 'log'); offline writes into the run folder."""
    wandb_project: str = "offline-marl"
    """Project of the W&B run."""


class RunConfig(RunFlags):
    """All that decides a run: its flags, the algorithm's name and the algorithm's own settings."""

    algorithm: str
    """Registry name."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Fields of the algorithm's config, all of them once the run has begun."""
