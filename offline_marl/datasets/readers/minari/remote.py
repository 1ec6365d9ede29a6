"""Minari sets that are not on this disk: fetched by minari itself, checked, and put in place whole."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from offline_marl.core.types import DataError
from offline_marl.datasets.readers.storage.huggingface import matches, reason_of, without_password

REMOTE = "hf://farama-minari"
NAMESPACE = "namespace_metadata.json"
_CLIENTS = ("httpx", "httpcore", "huggingface_hub", "requests", "urllib3", "google")


def fetch(name: str, root: Path) -> None:
    """Fetch the set of this id from `MINARI_REMOTE` into `root`.

    Raises:
        DataError: minari is missing, the remote has no such set or does not answer, or what came is damaged.
    """
    byhand = f"fetch it by `minari download {name}`"
    try:
        import minari
    except ImportError:
        advice = f"pip install 'offline-marl[data]', or {byhand}"
        raise DataError(f"minari://{name} is not in {root}, and cannot be fetched without minari: {advice}.") from None
    remote = without_password(os.environ.get("MINARI_REMOTE") or REMOTE)
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        raise DataError(f"minari://{name} is not in {root}, and HF_HUB_OFFLINE forbids to ask {remote}: {byhand}.")
    root.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=root, prefix=".fetching-"))
    try:
        with datasets_in(beside), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            minari.download_dataset(name)
        _check(name, beside)
        _place(name, beside, root)
    except Exception as error:
        if isinstance(error, DataError) or not _is_remotes(error):
            raise
        reason = reason_of(error)
        raise DataError(
            f"minari://{name} is not in {root} and {remote} does not give it ({reason}): {byhand}."
        ) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextlib.contextmanager
def datasets_in(folder: Path) -> Iterator[None]:
    """Let minari keep its sets in this folder, which it knows by the environment alone."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(folder.absolute())  # minari writes elsewhere where it is relative
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before


def _check(name: str, folder: Path) -> None:
    """Compare what came with the checksums that the hub told: its client does not."""
    if not (folder / name / "data" / "metadata.json").is_file():
        raise DataError(f"minari://{name} came without its metadata.json.")
    for record in folder.rglob(".cache/huggingface/download/**/*.metadata"):
        repo = next(parent for parent in record.parents if parent.name == ".cache").parent
        file = repo / record.relative_to(repo / ".cache/huggingface/download").with_suffix("")
        lines = record.read_text(encoding="utf-8").splitlines()
        if file.is_file() and len(lines) > 1 and not matches(file, lines[1]):
            raise DataError(f"minari://{name} arrived damaged: {file.name} is not what the hub says it sent.")


def _place(name: str, beside: Path, root: Path) -> None:
    shutil.rmtree(beside / name / ".cache", ignore_errors=True)
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    for parent in Path(name).parents:
        if (beside / parent / NAMESPACE).is_file() and not (root / parent / NAMESPACE).exists():
            os.replace(beside / parent / NAMESPACE, root / parent / NAMESPACE)
    try:
        os.replace(beside / name, root / name)
    except OSError:
        if not (root / name / "data" / "metadata.json").is_file():  # else another process was faster
            raise


def _is_remotes(error: BaseException) -> bool:
    """Whether the remote or its client says no, as they say it, rather than our own code."""
    kinds = (ValueError, OSError, KeyError, ImportError, AssertionError)
    return isinstance(error, kinds) or type(error).__module__.partition(".")[0].startswith(_CLIENTS)
