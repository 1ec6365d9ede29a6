"""Exploration noise of policies that act in an environment: linear schedules, epsilon-greedy and Gaussian noise."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from offline_marl.core.axes import PerAgent
from offline_marl.core.types import AvailActions
from offline_marl.networks.distributions import Categorical

Acts = Annotated[Tensor, "*lead agent act"]


def linear(start: float, end: float, over: int, step: int | None) -> float:
    """Value of a schedule that goes from `start` to `end` in equal steps and then stays.

    Args:
        start: Value at step 0.
        end: Value from step `over` on.
        over: Steps of the way; 0 begins at the end.
        step: Where on the way, such as `Algorithm.environment_steps`; None is the end, as where nothing is played.
    """
    return end if step is None or step >= over else start + (end - start) * (step / over)


def epsilon_greedy(
    choices: PerAgent,
    avail: AvailActions | None,
    present: Annotated[Tensor, "agent choice"],
    epsilon: float,
    generator: torch.Generator,
) -> PerAgent:
    """Each agent's choice, or with probability `epsilon`, drawn for each agent apart, a uniform one of those allowed.

    As many numbers are drawn for every epsilon, so that a schedule shifts no later draw.

    Args:
        choices: What greedy agents do, int64.
        avail: True where a choice is allowed; None where all of an agent's are.
        present: True where an agent has the choice at all.
        epsilon: Probability in [0, 1].
        generator: On the device of `choices`.
    """
    uniform = uniform_choices(choices.shape, avail, present, generator)
    random = torch.rand(choices.shape, generator=generator, device=choices.device) < epsilon
    return torch.where(random, uniform, choices)


def uniform_choices(
    lead: tuple[int, ...],
    avail: AvailActions | None,
    present: Annotated[Tensor, "agent choice"],
    generator: torch.Generator,
) -> PerAgent:
    """Choices drawn uniformly from those that each agent has and is allowed.

    Args:
        lead: Shape of the choices, `*lead agent`.
        avail: True where a choice is allowed; None where all of an agent's are.
        present: True where an agent has the choice at all.
        generator: On the device of `present`.
    """
    shape = (*lead, present.shape[-1])
    allowed = present.expand(shape) if avail is None else avail & present
    return Categorical(torch.zeros(shape, device=present.device), allowed).sample(generator)


def gaussian_noise(
    actions: Acts, std: float, present: Annotated[Tensor, "agent act"], generator: torch.Generator
) -> Acts:
    """Actions with normal noise on the entries that an agent has, clipped to [-1, 1]."""
    noise = torch.empty(actions.shape, device=actions.device).normal_(std=std, generator=generator)
    return (actions + noise * present).clamp(-1, 1)
