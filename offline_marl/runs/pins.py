"""Networks from elsewhere that a run goes by, such as a world model: pinned where it begins, as it ends with no others.

`pinned.json` of the run folder holds a checksum of each.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn

from offline_marl.core.small_files import read_table
from offline_marl.runs import checkpoint
from offline_marl.runs.folder import PINNED, Folder, RunFolderError, write_json

OWN_MODEL = "world model of its own"
"""Name under which a run pins the world model that it fitted within its folder."""


def version_of(network: nn.Module) -> str:
    """Checksum of all that a network's outputs depend on."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        if isinstance(value, torch.Tensor) and not name.startswith("best_"):
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def pin(folder: Folder[Any], what: str, version: str) -> None:
    """Write down a network that a run goes by; once the run has learnt by it, refuse another one.

    Args:
        folder: The run folder, held by this process.
        what: The network and its place in words, such as `world model in models/mine`.
        version: Its `version_of`.

    Raises:
        RunFolderError: It is not the one that the run has learnt by, or `pinned.json` is damaged.
    """
    path = folder.path / PINNED
    try:
        known = read_table(path) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} was damaged or edited: {error}.") from None
    if known.get(what) == version:
        return
    # A run without a checkpoint begins anew, and of an earlier version's nothing is known.
    if what in known and checkpoint.found(folder.checkpoints):
        raise RunFolderError(f"The {what} is not the one that the run in {folder.path} began with.")
    write_json(path, {**known, what: version})
