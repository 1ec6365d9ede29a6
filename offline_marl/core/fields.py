"""Types of config fields: numbers in bounds, and names out of lists that several rooms share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

MOST = 1 << 53
"""More is not counted, and is no longer a number that every file and library keeps exactly."""

MOST_PORT = 65_535
"""Highest number of a port of TCP."""


def _countable(number: int) -> int:
    if number > MOST:
        raise ValueError(f"it should be at most {MOST:,}")
    return number


def check_ray_address(address: str) -> str:
    """The address, if it can be one of a Ray cluster.

    Raises:
        ValueError: It cannot.
    """
    host, _, port = address.rpartition(":")
    named = bool(host) and "/" not in host and not any(letter.isspace() for letter in host)
    if address != "auto" and not (named and port.isascii() and port.isdigit() and 0 < int(port) <= MOST_PORT):
        raise ValueError(
            f"'{address}' is no address of a Ray cluster: give HOST:PORT of its head (10.0.0.1:6379) or auto"
        )
    return address


# A bound of the type itself would stand in every table of settings.
Count = Annotated[int, Field(ge=1), AfterValidator(_countable)]
"""How many, at least one."""
Processes = Annotated[int, Field(ge=1, le=4_096)]
"""Processes or threads of one machine, each of which takes room of its own."""
CountOrZero = Annotated[int, Field(ge=0), AfterValidator(_countable)]
"""How many; 0 says none, never or, where the field says so, all."""
Seed = Annotated[int, Field(ge=0)]
"""What a generator is seeded with."""
Share = Annotated[float, Field(ge=0.0, le=1.0)]
"""A part of a whole, both ends included."""
InnerShare = Annotated[float, Field(gt=0.0, lt=1.0)]
"""A part of a whole that is neither none nor all of it."""
Positive = Annotated[float, Field(gt=0.0)]
"""A number above 0."""
NotNegative = Annotated[float, Field(ge=0.0)]
"""A number from 0 on, such as a weight."""
RayAddress = Annotated[str, AfterValidator(check_ray_address)]
"""Where a Ray cluster listens: `auto`, the one this machine belongs to, or host and port of its head."""
SpreadName = Literal[
    "covariance_norm",
    "standardized_variance",
    "reward_variance",
    "max_aleatoric",
    "pairwise_difference",
    "token_entropy",
    "first_token_entropy",
    "token_surprisal",
    "token_information",
    "reward_deviation",
    "cycle_inconsistency",
]
"""Measures of how much the members of a world model disagree."""
