"""Settings of the token world model, and the parts that they ask for: its tokenizer and the layout of its sequences."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator

from offline_marl.core.fields import Count, CountOrZero, NotNegative, Share
from offline_marl.core.types import Spec
from offline_marl.networks.quantizers import BinTokenizer, FiniteScalarQuantizer, VectorQuantizer
from offline_marl.networks.tokenizer import Tokenizer
from offline_marl.worldmodels.base import WorldModelConfig
from offline_marl.worldmodels.facts import Facts
from offline_marl.worldmodels.token_guess import REACH
from offline_marl.worldmodels.token_members import Layout
from offline_marl.worldmodels.token_rewards import RewardClasses, RewardNumbers

OF_TOKENIZERS = {
    "vq": ("hidden", "tokens", "vocabulary", "code_width", "code_decay", "commitment"),
    "fsq": ("hidden", "tokens", "levels"),
    "bins": ("vocabulary",),
}
"""Fields that each kind of tokenizer reads."""


class MarieConfig(WorldModelConfig):
    """Fields of the common base and those of tokens; sized for a CPU, the published sizes stand beside each field."""

    batch_size: Count = 32
    """Segments of one update (published: 30 to 40); of the tokenizer, all of their steps."""
    hidden: Annotated[tuple[Count, ...], Field(min_length=1)] = (128, 128)
    """Widths of the hidden layers of the tokenizer's encoder and decoder (published: 256, 256)."""
    window: CountOrZero = 3
    """Recorded steps that imagination reads before its start; the published code reads none."""
    members: Count = 2
    """Independent transformers on one tokenizer, whose disagreement is the spread (published: 1)."""
    tokenizer: Literal["vq", "fsq", "bins"] = "fsq"
    """Learned codes, a fixed lattice, or bins of each coordinate, which learn nothing."""
    tokens_of: Literal["residuals", "observations"] = "residuals"
    """What tokens stand for: what a guess of the next observation misses, or, as published, the observation."""
    guess: Annotated[tuple[Count, ...], Field(min_length=1)] = (256, 256)
    """Widths of the hidden layers of the guess, which learns beside the tokenizer."""
    tokenizer_steps: CountOrZero = 2_000
    """Updates of the tokenizer, at the beginning of the fit; afterwards it stays as it is."""
    tokens: Count = 4
    """Tokens of an observation (published: 16); with bins there is one for each coordinate."""
    vocabulary: Annotated[int, Field(ge=2)] = 64
    """Codes, or bins of a coordinate (published: 512, or 256); a lattice has as many as its levels make."""
    levels: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1)] = (8, 8)
    """Of each number of a lattice's token (published: 8, 8, 8)."""
    code_width: Count = 16
    """Numbers of a code (published: 128; MAMuJoCo 64)."""
    code_decay: Share = 0.99
    """How much of a code's moving average stays in an update (published: .8)."""
    commitment: NotNegative = 10.0
    """Weight of the distance between what is encoded and its code."""
    action_bins: Annotated[int, Field(ge=2)] = 64
    """Bins of each coordinate of a continuous action (published: 256)."""
    width: Count = 64
    """Features of a place in the transformer (published: 256)."""
    layers: Count = 2
    """Of the transformer (published: 10)."""
    heads: Count = 2
    """Of every attention (published: 4, the Perceiver 8)."""
    perceiver_layers: CountOrZero = 1
    """Of self-attention among the Perceiver's latents (published: 2)."""
    length: Annotated[int, Field(ge=2)] = 8
    """Steps that fit into a sequence: of a training segment, and of what imagination remembers (published: 15)."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """In training (published: .1)."""
    ce_for_r: bool = True
    """Rewards as classes, by cross-entropy (published for MAMuJoCo); without it one number each, by smooth L1."""
    reward_bins: Annotated[int, Field(ge=8)] = 64
    """Classes of the reward, between the data's extremes on the symlog scale (published: 128)."""
    ce_for_av: bool = True
    """What is allowed weighs as its choices' mean (published for SMAC); without it as their sum, as published else."""
    decoding: Literal["tokens", "parallel"] = "tokens"
    """Tokens of the next observation one after another, or all at once, independent given the past, which is faster."""
    rows_at_once: Count = 1_024
    """Imagined rows that keep their cache; more are predicted in parts of so many, from their tokens each time."""

    @model_validator(mode="after")
    def _fits(self) -> MarieConfig:
        if self.window >= self.length:
            raise ValueError(f"A window of {self.window} leaves no step of a length of {self.length} to imagine")
        if self.width % self.heads:
            raise ValueError(f"A width of {self.width} cannot be shared by {self.heads} heads")
        if self.sampling == "bootstrap":
            raise ValueError("Its members read the same segments, so that nothing is resampled: leave sampling away")
        if self.history_encoder == "gru":
            raise ValueError("Its transformers read the last `window` steps themselves: leave history_encoder away")
        return self

    @property
    def rewrites_observations(self) -> bool:
        """Where tokens stand for observations, imagined ones are what codes stand for."""
        return self.tokens_of == "observations"

    def unread(self) -> list[str]:
        """Fields that are given and not read: of other tokenizers, of a guess or of classes that there are none of."""
        unread = {name for names in OF_TOKENIZERS.values() for name in names} - {*OF_TOKENIZERS[self.tokenizer]}
        unread |= {"guess"} if self.rewrites_observations else set()
        unread |= set() if self.ce_for_r else {"reward_bins"}
        known = type(self).model_fields
        return [name for name in known if name in unread and getattr(self, name) != known[name].get_default()]


def make_tokenizer(config: MarieConfig, facts: Facts) -> Tokenizer:
    """The tokenizer that a config asks for, of standardised observations or residuals."""
    dims, squash = facts.spec.obs_dims, config.tokens_of == "residuals"
    if config.tokenizer == "vq":
        return VectorQuantizer(
            dims,
            config.tokens,
            config.vocabulary,
            config.code_width,
            config.hidden,
            decay=config.code_decay,
            commitment=config.commitment,
            squash=squash,
        )
    if config.tokenizer == "fsq":
        return FiniteScalarQuantizer(dims, config.tokens, config.levels, config.hidden, squash)
    if squash:
        high = facts.spread_out(torch.full_like(facts.obs_std, REACH)).asinh()
        width = 2 * high / (config.vocabulary - 1)
        low = -width * (config.vocabulary // 2 + 0.5)  # so that one bin's centre is 0
        return BinTokenizer(dims, config.vocabulary, low, low + width * config.vocabulary, squash)
    low, high = (facts.spread_out((border - facts.obs_mean) / facts.obs_std) for border in (facts.low, facts.high))
    return BinTokenizer(dims, config.vocabulary, low, high)


def make_reward_told(config: MarieConfig, facts: Facts) -> RewardClasses | RewardNumbers:
    """How rewards are told: as classes, or as numbers."""
    residuals = config.tokens_of == "residuals"
    if config.ce_for_r:
        return RewardClasses(facts.reward_low.min(), facts.reward_high.max(), config.reward_bins, residuals)
    return RewardNumbers(residuals)


def layout_of(config: MarieConfig, spec: Spec, tokenizer: Tokenizer, reward_numbers: int, terminates: bool) -> Layout:
    """Sizes of the transformers for a task."""
    return Layout(
        n_agents=spec.n_agents,
        obs=spec.obs_dim,
        tokens=tokenizer.tokens,
        vocabulary=tokenizer.vocabulary,
        act_tokens=1 if spec.discrete else spec.act_dim,
        act_vocabulary=spec.act_dim if spec.discrete else config.action_bins,
        choices=spec.act_dim if spec.discrete else 0,
        reward_numbers=reward_numbers,
        terminates=terminates,
        steps=config.length,
        parallel=config.decoding == "parallel",
        exact=spec.n_agents * (spec.obs_dim + spec.act_dim) if config.tokens_of == "residuals" else 0,
    )
