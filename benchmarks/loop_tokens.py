"""Imagination in a token world model the plain way: for each token a forward pass over the whole sequence so far.

The yardstick of speed_tokens.py. Networks, draws and decoding are those of `offline_marl.worldmodels.marie`; nothing
is kept from one token to the next.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from offline_marl.core.types import Batch
from offline_marl.worldmodels.base import Prediction
from offline_marl.worldmodels.marie import Marie
from offline_marl.worldmodels.token_carry import Draws, TokenCarry
from offline_marl.worldmodels.token_predictions import drawn


class LoopTokens:
    """Imagined episodes of a model, from starts without a past and no longer than its positions.

    Args:
        model: Whose networks are asked.
    """

    def __init__(self, model: Marie) -> None:
        self.model = model

    def begin(self, starts: Batch) -> TokenCarry:
        """Tokens of the starts."""
        return self.model.begin(starts)

    @torch.no_grad()
    def step(self, carry: TokenCarry, actions: Tensor, draws: Draws) -> tuple[Prediction, TokenCarry]:
        """The next step of every row."""
        model, layout = self.model, self.model.layout
        done = model._act_tokens(actions)
        exact = None if carry.now is None else model.codec.exact(carry.now, actions)
        acted = torch.cat([carry.actions, done.unsqueeze(1)], dim=1)
        known = carry.exact if exact is None else torch.cat([carry.exact, exact.unsqueeze(1)], dim=1)
        there = carry.present.unsqueeze(1).expand(*acted.shape[:3])
        tokens = torch.zeros_like(carry.obs[:, -1])
        for number in range(1 if layout.parallel else layout.tokens):
            logits, told = model.nets(torch.cat([carry.obs, tokens.unsqueeze(1)], dim=1), acted, there, known)
            logits, told = logits[:, :, -1], told_now(told)
            if layout.parallel:
                tokens = drawn(logits, draws.uniform, draws.speaker)
            else:
                tokens[..., number] = drawn(logits[..., number, :], draws.uniform[..., number], draws.speaker)
        prediction = model._prediction(carry, exact, tokens, logits, told, draws)
        seen = model.codec.standardised(prediction.next_obs).unsqueeze(1).expand(-1, acted.shape[1], -1, -1)
        _, told = model.nets(torch.cat([carry.obs, tokens.unsqueeze(1)], dim=1), acted, there, known, seen)
        prediction = model._with_choices(prediction, told_now(told).avail)
        tokens = model.codec.settled(tokens, carry.present)
        return prediction, carry.after(tokens, done, None, exact, prediction.next_obs)


def told_now(told):
    """Of the last step alone."""
    parts = {name: getattr(told, name) for name in ("rewards", "end", "avail")}
    return replace(told, **{name: None if value is None else value[:, :, -1] for name, value in parts.items()})
