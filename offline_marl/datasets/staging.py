"""Outputs that are whole or absent, files and folders alike: written beside their place, then renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from offline_marl.core.locks import BusyError, locked, refuse_links
from offline_marl.core.types import DataError


@contextmanager
def staged(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """A path to write to, which becomes `out` when the block ends well and is deleted when it does not.

    It lies in the hidden folder `.NAME.writing` beside `out`. What a killed process left there is deleted first, so
    that the same command begins again cleanly; a file or folder that is overwritten stays until the new one is whole.

    Raises:
        DataError: `out` exists and is not to be overwritten, or another process is writing it.
    """
    # Whole paths: minari writes elsewhere when it is given others.
    folder = out.absolute().with_name(f".{out.name}.writing")
    new, old = folder / out.name, folder / "old"
    if os.path.lexists(out) and not overwrite:
        raise DataError(f"{out} exists already: choose another name, or say --overwrite.")
    refuse_links(folder.parent, [folder.name])
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / "lock"))
        except BusyError:
            raise DataError(f"Another process is writing {out}.") from None
        try:
            if os.path.lexists(old) and not os.path.lexists(out):
                os.replace(old, out)
            _delete(new)
            yield new
            _to_disk(new)
            if os.path.lexists(out):
                _delete(old)
                os.replace(out, old) if out.is_dir() else None
            os.replace(new, out)
        except OSError as error:
            if error.errno and str(error.filename or folder).startswith(str(folder)):
                raise OSError(error.errno, error.strerror, str(out)) from error
            raise
        finally:
            if os.path.lexists(out) or not os.path.lexists(old):
                shutil.rmtree(folder, ignore_errors=True)
    _sync(out.parent)


@contextmanager
def turn(out: Path) -> Iterator[None]:
    """Wait until no other process is within this block for `out`: what takes long to make is made once."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with locked(out.with_name(f".{out.name}.lock"), wait=True):
        yield


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    for item in [*path.rglob("*"), path] if path.is_dir() else [path]:
        _sync(item)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
