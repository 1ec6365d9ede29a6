"""Readers of published formats, one file a format; the package itself is the public registry."""

from typing import Any

from offline_marl.core.registry import Registry

registry: Registry[Any] = Registry("reader", __name__, "offline_marl.readers")
register, get, names, listings = registry.register, registry.get, registry.names, registry.listings
