"""Many jobs: descriptions, executors, watching, sweeps. Only this room imports submitit, inside functions."""
