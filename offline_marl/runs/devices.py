"""Choice of a run's device."""

from __future__ import annotations

import torch

from offline_marl.core.config import ConfigError


def pick_device(name: str) -> torch.device:
    """The device of this name; `auto` is a GPU where there is one.

    Raises:
        ConfigError: A GPU was asked for and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise ConfigError(f"There is no {name} here ({torch.cuda.device_count()} GPUs, torch {torch.__version__}).")
    return device
