"""Zip archives from anybody, unpacked once into the cache; what they claim is checked before anything is written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from offline_marl.core.types import DataError
from offline_marl.datasets.catalog import home

MOST_ENTRIES = 200_000
MOST_SHRUNK = 200
"""Times that content may be larger than its archive: arrays are not shrunk further."""
LEAST_SUSPECT = 1 << 24
"""Bytes of content that are not worth a refusal, however much they were shrunk."""
CHUNK = 1 << 20
ABOUT = "archive.json"

_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError)


def unpacked(path: Path) -> Path:
    """The folder in the cache that holds the archive's content; a file beside it tells which archive it was.

    Raises:
        DataError: It is damaged, or an entry leaves the folder, is a link, or claims more than can be there.
    """
    digest = _sha256(path)
    kept = home() / "unpacked" / f"{path.stem}-{digest[:16]}"
    if not kept.is_dir():
        kept.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=kept.parent, prefix=f".{kept.name}."))
        try:
            _extract(path, beside / "content")
            (beside / ABOUT).write_text(json.dumps({"name": path.name, "sha256": digest}), encoding="utf-8")
            os.replace(beside, kept)
        except OSError as error:
            if not kept.is_dir():  # else another process was faster
                reason = error.strerror or type(error).__name__
                raise DataError(f"{path} cannot be unpacked into {kept.parent}: {reason}.") from None
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return kept / "content"


def _extract(path: Path, folder: Path) -> None:
    folder.mkdir()
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check(path, entries, path.stat().st_size, shutil.disk_usage(folder).free)
            for entry in entries:
                place = folder / entry.filename
                if entry.is_dir():
                    place.mkdir(parents=True, exist_ok=True)
                    continue
                place.parent.mkdir(parents=True, exist_ok=True)
                # Never more than the entry claims; its checksum is compared at its end.
                with archive.open(entry) as content, place.open("xb") as kept:
                    shutil.copyfileobj(content, kept, CHUNK)
                if place.stat().st_size != entry.file_size:
                    raise DataError(f"{path} is damaged: '{_shown(entry)}' is shorter than it claims.")
    except _BROKEN as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is no zip archive, or a damaged one: {_line(error)}.") from None


def _check(path: Path, entries: list[zipfile.ZipInfo], size: int, free: int) -> None:
    """Refuse an archive by what its directory claims."""
    if len(entries) > MOST_ENTRIES:
        raise DataError(f"{path} holds {len(entries):,} entries; more than {MOST_ENTRIES:,} are not unpacked.")
    seen: set[PurePosixPath] = set()
    for entry in entries:
        place, kind = PurePosixPath(entry.filename), stat.S_IFMT(entry.external_attr >> 16)
        if place.is_absolute() or not place.parts or set("\\:\0") & set(entry.filename) or ".." in place.parts:
            raise DataError(f"{path} is refused: its entry '{_shown(entry)}' leaves the folder.")
        if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
            raise DataError(f"{path} is refused: its entry '{_shown(entry)}' is a link or device, not a file.")
        if entry.flag_bits & 1 or entry.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise DataError(f"{path} is refused: its entry '{_shown(entry)}' is encrypted, or not deflated.")
        if place in seen:
            raise DataError(f"{path} is refused: it holds '{_shown(entry)}' twice.")
        seen.add(place)
    if sum(entry.compress_size for entry in entries) > size:
        raise DataError(f"{path} is refused: its entries claim more bytes than the archive has.")
    whole = sum(entry.file_size for entry in entries)
    if whole > max(MOST_SHRUNK * size, LEAST_SUSPECT):
        raise DataError(f"{path} is refused: its {size:,} bytes claim to hold {whole:,}.")
    if whole > free:
        raise DataError(f"{path} holds {whole:,} bytes, and the disk of the cache has {free:,} left.")


def _shown(entry: zipfile.ZipInfo) -> str:
    return _line(entry.filename)[:80]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while content := stream.read(CHUNK):
                digest.update(content)
    except OSError:
        raise DataError(f"There is no file {path}.") from None
    return digest.hexdigest()


def _line(error: object) -> str:
    return " ".join("".join(c if c.isprintable() else "?" for c in str(error)[:200]).split()).rstrip(".")
