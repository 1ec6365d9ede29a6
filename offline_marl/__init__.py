"""Offline multi-agent reinforcement learning in PyTorch: one trainer, many algorithms, your data.

The names below are the whole public surface; each is imported when first used, so that the command
line answers without loading torch.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offline_marl import algorithms as algorithms
    from offline_marl.algorithms.base import Algorithm as Algorithm
    from offline_marl.algorithms.base import AlgorithmConfig as AlgorithmConfig
    from offline_marl.core.types import Batch as Batch
    from offline_marl.core.types import Metrics as Metrics
    from offline_marl.core.types import Needs as Needs
    from offline_marl.core.types import Policy as Policy
    from offline_marl.core.types import Spec as Spec
    from offline_marl.datasets.base import Dataset as Dataset
    from offline_marl.training.run import Result as Result
    from offline_marl.training.run import evaluate as evaluate
    from offline_marl.training.run import load as load
    from offline_marl.training.run import load_dataset as load_dataset
    from offline_marl.training.run import resume as resume
    from offline_marl.training.run import train as train

_HOMES = {
    "Algorithm": "algorithms.base",
    "AlgorithmConfig": "algorithms.base",
    "Batch": "core.types",
    "Metrics": "core.types",
    "Needs": "core.types",
    "Policy": "core.types",
    "Spec": "core.types",
    "Dataset": "datasets.base",
    "Result": "training.run",
    "evaluate": "training.run",
    "load": "training.run",
    "load_dataset": "training.run",
    "resume": "training.run",
    "train": "training.run",
}

__all__ = [  # noqa: RUF022 - grouped by what one does with them
    "train",
    "resume",
    "evaluate",
    "load",
    "load_dataset",
    "Result",
    "Dataset",
    "Batch",
    "Spec",
    "Needs",
    "Metrics",
    "Policy",
    "Algorithm",
    "AlgorithmConfig",
    "algorithms",
]

try:
    __version__ = version("offline-marl")
except PackageNotFoundError:
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    if name == "algorithms":
        return import_module("offline_marl.algorithms")
    if name in _HOMES:
        return getattr(import_module(f"offline_marl.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'offline_marl' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
