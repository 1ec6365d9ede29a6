"""Sweep files for tests, on data of random numbers."""

from __future__ import annotations

from pathlib import Path

from worlds import reacher_recording, saved

TINY = """
[fields]
steps = 6
device = "cpu"
hidden = [8]
batch_size = 8
eval_every = 0
final_episodes = 2
checkpoint_every = 2
log_every = 2
"""


def tasks(folder: Path, count: int = 2) -> list[str]:
    """Data sets on disk that a body's team shares."""
    folder.mkdir(parents=True, exist_ok=True)
    return [saved(folder, reacher_recording(seed=n), f"arm{n}.safetensors") + "_2x1notip_0" for n in range(count)]


def written(folder: Path, text: str, name: str = "sweep.toml") -> Path:
    """The text in a file."""
    path = folder / name
    path.write_text(text)
    return path
