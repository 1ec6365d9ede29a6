"""Heads for rewards in a token world model: a distribution over classes, or one number.

Both are given rewards; or, where tokens are of residuals, what the guess misses of them, in deviations of these misses.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor, nn

from offline_marl.core.axes import PerAgent
from offline_marl.losses import tokens as losses
from offline_marl.worldmodels.token_guess import REACH

Told = Annotated[Tensor, "member *lead agent number"]
PerMember = Annotated[Tensor, "member *lead agent"]


class RewardClasses(nn.Module):
    """HL-Gauss classes (Imani and White, 2018) of symlog r, or of asinh x of a residual x.

    Args:
        low: Least reward of the data.
        high: Largest one.
        bins: Classes between the two.
        residuals: Whether it is given residuals, which lie within `REACH` whatever the rewards.
    """

    edges: Tensor

    def __init__(self, low: Tensor, high: Tensor, bins: int, residuals: bool) -> None:
        super().__init__()
        self.numbers, self.residuals = bins, residuals
        if residuals:
            most = float(torch.tensor(REACH).asinh())
            self.borders = (-most, most)
        else:
            self.borders = (float(losses.symlog(low)), float(losses.symlog(high)))
        edges, self.sigma = losses.bin_edges(*self.borders, bins)
        self.register_buffer("edges", edges, persistent=False)

    @property
    def centres(self) -> Annotated[Tensor, "choice"]:
        """Middles of the classes, on their scale."""
        return (self.edges[1:] + self.edges[:-1]) / 2

    def classes(self, values: PerAgent) -> Annotated[Tensor, "*lead agent choice"]:
        """Mass of each class; a value beyond the borders is taken for the nearer one."""
        scaled = values.asinh() if self.residuals else losses.symlog(values)
        return losses.hl_gauss(scaled.clamp(*self.borders), self.edges, self.sigma)

    def losses(self, told: Told, values: PerAgent) -> PerMember:
        """Cross-entropy of the classes, of each place.

        Args:
            told: Logits.
            values: What was recorded.
        """
        return losses.soft_cross_entropy(told, self.classes(values).expand_as(told))

    def expected(self, told: Told) -> PerMember:
        """What each member expects: of residuals their mean, else, as published, symexp of the classes' mean.

        Classes blur a residual by a deviation `sigma` and by their width w, which makes the mean of sinh
        e^(sigma^2 / 2) sinh(w / 2) / (w / 2) times as large.
        """
        centres = self.centres
        if not self.residuals:
            return losses.symexp(losses.expected(told, centres))
        half = (centres[1] - centres[0]) / 2
        blur = math.exp(self.sigma**2 / 2) * half.sinh() / half
        return losses.expected(told, centres.sinh() / blur)

    def deviation(self, told: Told) -> PerAgent | None:
        """Root of the members' mean variance, on the scale of the classes."""
        odds, centres = told.softmax(-1), self.centres
        mean = (odds * centres).sum(-1)
        variance = ((odds * centres.square()).sum(-1) - mean.square()).clamp(min=0.0)
        return variance.mean(0).sqrt()


class RewardNumbers(nn.Module):
    """One number for each reward, by the smooth L1 loss, which bends at 1.

    Args:
        residuals: Whether it is given residuals, of which none beyond `REACH` is told.
    """

    numbers = 1
    """That tell a reward; of classes their logits."""

    def __init__(self, residuals: bool) -> None:
        super().__init__()
        self.reach = REACH if residuals else math.inf

    def losses(self, told: Told, values: PerAgent) -> PerMember:
        """Smooth L1 of each place.

        Args:
            told: The number, on an axis of its own.
            values: What was recorded.
        """
        number = told.squeeze(-1)
        aim = values.clamp(-self.reach, self.reach).expand_as(number)
        return nn.functional.smooth_l1_loss(number, aim, reduction="none")

    def expected(self, told: Told) -> PerMember:
        """What each member tells."""
        return told.squeeze(-1).clamp(-self.reach, self.reach)

    def deviation(self, told: Told) -> PerAgent | None:
        """Nothing: a number has none."""
        return None
