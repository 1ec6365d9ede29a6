"""Named random generators derived from one seed, whose states can be saved.

Each name draws from its own stream, so that a new consumer never shifts the numbers of an old one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed that depends on the seed and on every name."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


class Generators:
    """Named torch generators, made from one seed when first asked for.

    Args:
        seed: The run's seed.
        device: Where the generators draw.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.seed = seed
        self.device = torch.device(device)
        self._made: dict[str, torch.Generator] = {}

    def get(self, name: str) -> torch.Generator:
        """The generator called `name`; the same object at each call."""
        if name not in self._made:
            self._made[name] = torch.Generator(self.device).manual_seed(derive(self.seed, name))
        return self._made[name]

    def state_dict(self) -> dict[str, Any]:
        """State of every generator made so far."""
        return {name: generator.get_state() for name, generator in self._made.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set the named generators to saved states."""
        for name, value in state.items():
            self.get(name).set_state(value.cpu().to(torch.uint8))


@contextmanager
def seeded_globally(seed: int, name: str) -> Iterator[None]:
    """Seed torch's own generator inside the block (module initialisation draws from it), and restore it after."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, name))
        yield
