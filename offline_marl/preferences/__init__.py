"""Learning from comparisons: pairs of segments, the store of labels, teachers, reward models."""

from typing import Any

from offline_marl.core.registry import Registry

registry: Registry[Any] = Registry("reward model", __name__)
register, get, names, listings = registry.register, registry.get, registry.names, registry.listings
