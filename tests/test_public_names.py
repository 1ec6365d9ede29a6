"""The front door: what it offers, and what it does not load."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
from warm import Warm

import offline_marl

NAMES = {
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
}
HEAVY = ("torch", "numpy", "gymnasium", "mujoco", "minari", "huggingface_hub", "wandb", "matplotlib", "pydantic")


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_the_public_names_are_exactly_these() -> None:
    assert set(offline_marl.__all__) == NAMES and len(offline_marl.__all__) == len(NAMES) <= 15
    assert set(dir(offline_marl)) == NAMES | {"__version__"}


def test_there_is_a_version() -> None:
    assert isinstance(offline_marl.__version__, str) and offline_marl.__version__[0].isdigit()


@pytest.mark.parametrize("name", sorted(NAMES))
def test_each_name_resolves(name: str) -> None:
    assert getattr(offline_marl, name) is not None
    scope: dict[str, object] = {}
    exec(f"from offline_marl import {name}", scope)
    assert scope[name] is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        offline_marl.trian  # noqa: B018
    with pytest.raises(ImportError, match="trian"):
        exec("from offline_marl import trian", {})


def test_importing_the_library_loads_neither_torch_nor_a_simulator() -> None:
    loaded = run(f"import sys, offline_marl; dir(offline_marl); print([m for m in {HEAVY} if m in sys.modules])")
    assert loaded == "[]"


def test_the_registry_is_one_whether_or_not_an_algorithm_was_imported_before(warm: Warm) -> None:
    # Importing any algorithm binds the package of that name to `offline_marl.algorithms`: the two must be the same.
    importlib.import_module("offline_marl.algorithms.bc")
    from offline_marl.algorithms.base import algorithms

    assert offline_marl.algorithms.registry is algorithms
    for answers in (offline_marl.algorithms, algorithms):
        assert "ma-iql" in answers.names() and answers.get("bc").__name__ == "BC"
        assert callable(answers.register) and answers.listings()
    first = "from offline_marl import AlgorithmConfig, algorithms; print(algorithms.names(), AlgorithmConfig.__name__)"
    done = warm.run("-c", first)
    assert done.returncode == 0 and "ma-iql" in done.stdout, done.stderr


def test_listing_the_algorithms_loads_no_torch() -> None:
    code = "import sys, offline_marl; print(offline_marl.algorithms.names(), 'torch' in sys.modules)"
    assert run(code).startswith("['bc'") and run(code).endswith("False")
