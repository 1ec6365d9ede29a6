"""Multi-agent environments: many copies of a simulator side by side, the acting loop, and scores of episodes."""

from typing import Any

from offline_marl.core.registry import Registry

registry: Registry[Any] = Registry("environment", __name__)
