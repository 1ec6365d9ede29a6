"""The vocabulary every other room speaks: types, axes, configs, the registry, partitions, seeds."""
