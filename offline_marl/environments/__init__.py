"""Simulators, many copies side by side, seen and moved by several agents."""

from typing import Any

from offline_marl.core.registry import Registry

registry: Registry[Any] = Registry("environment", __name__)
