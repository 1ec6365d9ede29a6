"""A job: a folder and the words that begin the run in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from offline_marl.core.config import Config


class Job(Config):
    """One run or one fit, whoever starts it."""

    command: Literal["train", "fit-model"]
    """What it does."""
    name: str
    """Algorithm, or kind of world model."""
    fields: dict[str, Any]
    """Fields of the run; dataset or environment among them."""
    out: Path
    """Its folder, absolute."""


def perform(job: Job) -> dict[str, Any]:
    """Begin, or go on with, whatever stands in the job's folder; a finished one is left as it is.

    Returns:
        What the folder's mark of the end says.
    """
    import json

    from offline_marl.training import fitting, run
    from offline_marl.training.folder import ModelFolder, RunFolder

    folder = RunFolder(job.out) if job.command == "train" else ModelFolder(job.out)
    fields = dict(job.fields)
    dataset = fields.pop("dataset", None)
    if not folder.done:
        if job.command == "train":
            run.resume(job.out) if folder.config_file.exists() else run.train(job.name, dataset, out=job.out, **fields)
        elif folder.config_file.exists():
            fitting.resume_fit(job.out)
        else:
            fitting.fit_model(job.name, str(dataset), out=job.out, **fields)
    found: dict[str, Any] = json.loads(folder.done_file.read_text(encoding="utf-8"))
    return found
