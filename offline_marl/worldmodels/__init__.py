"""One file a kind of world model; the file's name is the registry key. The package itself is the public registry."""

from typing import Any

from offline_marl.core.registry import Registry

registry: Registry[Any] = Registry("world model", __name__)
register, get, names, listings = registry.register, registry.get, registry.names, registry.listings
