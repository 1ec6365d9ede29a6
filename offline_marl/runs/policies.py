"""Policies as single small files: what acting needs of an algorithm, in half precision; some ship with the package.

Shipped ones lie in `offline_marl/policies/ENVIRONMENT/NAME.safetensors` and are named `tier:NAME`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from offline_marl.algorithms.base import Algorithm, algorithms
from offline_marl.core.config import build, suggest
from offline_marl.core.files import load_tree, save_tree
from offline_marl.core.seeding import seeded_globally
from offline_marl.core.types import DataError, Spec
from offline_marl.runs.folder import restoring

SHIPPED = Path(__file__).resolve().parents[1] / "policies"
"""Where policies lie that ship with the package, by environment."""
PREFIX = "tier:"
"""How their names begin where behaviours are named."""
KIND = "policy"
UNNEEDED = ("target_", "mixer", "q_mixer", "v_mixer", "_extra_state")
"""Beginnings of the names of parameters that acting does without."""


@dataclass(frozen=True, slots=True)
class SavedPolicy:
    """A policy from its file, and what the file says of it."""

    policy: Algorithm
    algorithm: str
    about: dict[str, Any]
    checksum: str
    """Of the file."""


def save_policy(path: Path, learner: Algorithm, algorithm: str, about: Mapping[str, Any]) -> None:
    """Write what acting needs, weights rounded to half precision.

    Args:
        path: The file.
        learner: Acts.
        algorithm: Its name.
        about: What is known of it, as plain values.
    """
    weights = {
        name: value.half() if value.is_floating_point() else value
        for name, value in learner.state_dict().items()
        if not name.startswith(UNNEEDED)
    }
    settings = learner.config.model_dump(mode="json", exclude_defaults=True)
    tree = {"algorithm": algorithm, "settings": settings, "spec": asdict(learner.spec), "about": dict(about)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tree(path, {**tree, "weights": weights}, KIND)


def load_policy(path: Path) -> SavedPolicy:
    """The policy of a file that `save_policy` wrote, on the CPU.

    Raises:
        DamagedFileError: The file is none of these, or damaged.
        DataError: Its weights do not fit its algorithm.
    """
    tree, checksum = load_tree(path, KIND)
    with restoring(path):
        return _policy_of(tree, checksum, path)


def _policy_of(tree: dict[str, Any], checksum: str, path: Path) -> SavedPolicy:
    kind, spec = algorithms.get(tree["algorithm"]), Spec.from_plain(tree["spec"])
    with seeded_globally(0, "initialisation"):
        learner = kind(build(kind.Config, tree["settings"]), spec)
    weights = {name: value.float() if value.is_floating_point() else value for name, value in tree["weights"].items()}
    missing, unexpected = learner.load_state_dict(weights, strict=False)
    if unexpected or any(not name.startswith(UNNEEDED) for name in missing):
        raise DataError(f"The weights in {path} are not those of {tree['algorithm']} as it is now.")
    return SavedPolicy(learner.requires_grad_(False), tree["algorithm"], tree["about"], checksum)


def shipped_names(environment: str) -> list[str]:
    """Names of the policies that ship for an environment, without `tier:`."""
    return sorted(path.stem for path in (SHIPPED / environment).glob("*.safetensors"))


def shipped_policy(name: str, environment: str) -> SavedPolicy:
    """A policy that ships for an environment.

    Args:
        name: Such as `tier:expert`.
        environment: In which it was trained.

    Raises:
        DataError: None of that name ships; says which do.
    """
    known, wanted = shipped_names(environment), name.removeprefix(PREFIX)
    if wanted not in known:
        if not known:
            having = ", ".join(sorted(folder.name for folder in SHIPPED.iterdir())) if SHIPPED.is_dir() else "none"
            raise DataError(f"No policies of tiers ship for {environment}; they do for: {having}.")
        hint = suggest(wanted, known)
        raise DataError(f"No tier of {environment} is called '{wanted}': {hint}.")
    with torch.no_grad():
        return load_policy(SHIPPED / environment / f"{wanted}.safetensors")
