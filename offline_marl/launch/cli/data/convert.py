"""Command `offline-marl data convert`: conversion of readable data into our layout, or into a published one."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic_settings import CliPositionalArg

from offline_marl.core.config import Config, ConfigError, build
from offline_marl.core.fields import Count
from offline_marl.launch.cli.command import PROGRAM
from offline_marl.launch.cli.flags import read

if TYPE_CHECKING:
    from offline_marl.datasets.base import Dataset, Recording

ABOUT = (
    "Writes data in another layout; whole or not at all: killed or on a full disk it leaves no OUT, and the same "
    "command begins again (what was fetched or converted into the cache by then is not fetched or converted again)."
)
USAGE = "IN OUT [--to ours|minari|d4rl] [--clip-actions] [--clock N] [--author NAME] [--overwrite]"
MINARI = "minari://"
MEGABYTE = 1_000_000
ENDINGS = {".safetensors": "ours", ".hdf5": "d4rl", ".h5": "d4rl"}


class ConvertFlags(Config):
    """Flags of `data convert`."""

    source: CliPositionalArg[str]
    """What to convert: file, folder, name of the catalogue, task (then it is split among agents), place on the hub."""
    out: CliPositionalArg[str]
    """File or folder to write; minari://ID is a folder among Minari's own."""
    to: Literal["ours", "minari", "d4rl"] | None = None
    """Layout; by default what OUT's ending says: .safetensors is ours, .hdf5 D4RL's, a folder Minari's."""
    clip_actions: bool = False
    """Clip actions that lie outside [-1, 1]; without it such data is refused."""
    clock: Count | None = None
    """Steps after which the clock ended an episode, where the format cannot tell (PyMARL's); else the task did."""
    author: str | None = None
    """Who made the data; kept in the metadata, also where Minari looks for it."""
    overwrite: bool = False
    """Replace OUT if it exists."""


def run(args: Sequence[str]) -> None:
    """Convert a data set.

    Raises:
        BadInputError: It cannot be read, or `OUT` exists or contradicts `--to`.
    """
    flags: ConvertFlags = build(ConvertFlags, read(ConvertFlags, "data convert", USAGE, ABOUT, args))
    out, to = place_to_write(flags.out, flags.to)

    from offline_marl.datasets.staging import staged

    refuse_foreign_folder(out)
    with staged(out, flags.overwrite) as place:
        file = find_whole(flags.source) if to == "ours" and not flags.clip_actions else None
        if flags.clock is not None and file is None:
            raise ConfigError("--clock is for files in a published format and writes ours: OUT should be .safetensors.")
        if file is not None:
            additions = {"source": public_source(flags.source)} | (
                {} if flags.author is None else {"author": flags.author}
            )
            convert_in_pieces(file, place, additions, {} if flags.clock is None else {"clock": flags.clock})
        else:
            convert_loaded(flags, to, place)
    print(f"{'file' if out.is_file() else 'folder':<12}{out}")
    print(f"{'look at it':<12}{PROGRAM} data info {shlex.quote(str(out))}")


def place_to_write(out: str, to: str | None) -> tuple[Path, str]:
    """Resolve `OUT` to a path and a layout.

    Raises:
        ConfigError: `OUT` has another ending than its layout.
    """
    from offline_marl.datasets.catalog import SUFFIX

    if "://" in out and not out.startswith(MINARI):
        raise ConfigError(f"OUT is {out}: it should be a file, a folder or {MINARI}ID; `data push` writes to the hub.")
    layout = to or ("minari" if out.startswith(MINARI) else ENDINGS.get(Path(out).suffix, "minari"))
    if out.startswith(MINARI):
        if layout != "minari":
            raise ConfigError(f"{out} is Minari's: leave --to {to} away, or name a file.")
        root = Path(os.environ.get("MINARI_DATASETS_PATH") or Path("~/.minari/datasets").expanduser())
        return root / check_id(out.removeprefix(MINARI)), layout
    if layout == "ours" and Path(out).suffix != SUFFIX:
        raise ConfigError(f"OUT is {out}: files of our layout end in {SUFFIX}.")
    if layout == "d4rl" and Path(out).suffix not in {".hdf5", ".h5"}:
        raise ConfigError(f"OUT is {out}: D4RL's files end in .hdf5.")
    return Path(out), layout


def check_id(name: str) -> str:
    """Check that an id of Minari stays among Minari's folders.

    Raises:
        ConfigError: It does not.
    """
    if not name or name.startswith("/") or ".." in name.split("/"):
        raise ConfigError(f"OUT is minari://{name}: it should be minari://ID, such as minari://mine/reacher-v0.")
    return name


def minari_id(out: str) -> str:
    """Find the id of what is written to `OUT`: minari://ID, or the one of a folder's place.

    Raises:
        DataError: A folder among Minari's own has a name that is none of Minari's.
    """
    from offline_marl.datasets.writers import minari

    return out.removeprefix(MINARI) if out.startswith(MINARI) else minari.id_of(Path(out))


def refuse_foreign_folder(out: Path) -> None:
    """Refuse to replace a folder that is not Minari's, `--overwrite` or not.

    Raises:
        ConfigError: `OUT` is such a folder.
    """
    from offline_marl.datasets.readers.minari.reader import is_minari

    if out.is_dir() and any(out.iterdir()) and not is_minari(out):
        raise ConfigError(f"{out} is a folder of something else: choose another OUT.")


def find_whole(source: str) -> Path | None:
    """Find the file or folder of a published format that is converted without loading it; None for all else."""
    from offline_marl.datasets.catalog import SUFFIX
    from offline_marl.datasets.places import place_of
    from offline_marl.datasets.readers.catalogue_sets import local

    place = place_of(source)
    if place is None or place[1] is not None:
        return None
    path = local(place[0])
    return path if path.exists() and path.suffix != SUFFIX else None


def convert_in_pieces(file: Path, place: Path, additions: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Convert in pieces, without holding all in memory, then check the result by loading it.

    Raises:
        DataError: It cannot be read, or no learner could use it.
    """
    from offline_marl.core.types import DataError
    from offline_marl.datasets.files import load_data
    from offline_marl.datasets.readers.convert import convert

    with byte_bar(count_bytes(file), f"converting {file.name}") as tick:
        convert(file, place, additions, tick, options)
    try:
        load_data(place)
    except DataError as error:
        raise DataError(f"{file.name}: {error}") from None


def convert_loaded(flags: ConvertFlags, to: str, place: Path) -> None:
    """Load, and write in the other layout.

    Raises:
        DataError: It cannot be read, or the layout cannot hold it.
    """
    from offline_marl.datasets.catalog import home
    from offline_marl.launch.cli.data.growth_bar import growth_bar
    from offline_marl.launch.cli.data.loading import load_named

    source, out = flags.source, flags.out
    with growth_bar(home(), count_bytes(Path(source)), f"reading {Path(source).name}"):
        data = with_source(source, load_named(source, flags.clip_actions)[0])
        if flags.author is not None:
            data = replace(data, metadata={**data.metadata, "author": flags.author})
    if to == "ours":
        save(data, place)
        return
    with growth_bar(place.parent, count_array_bytes(data), f"writing {place.name}"):
        write(to, data, place, minari_id(out) if to == "minari" else None)


def save(data: Recording | Dataset, place: Path) -> None:
    """Write in our layout, in pieces; what stays on disk is read as it is written."""
    from offline_marl.core.files import Streamed
    from offline_marl.datasets.columns import Columns
    from offline_marl.datasets.files import save_fields
    from offline_marl.datasets.validate import chunks

    def leaf(value: Any) -> Any:
        if not isinstance(value, Columns):
            return value
        whole: Any = value
        return Streamed(value.dtype, tuple(value.shape), lambda: (piece for _, piece in chunks(whole)))

    content = {item.name: leaf(getattr(data, item.name)) for item in fields(data) if item.name != "spec"}
    with byte_bar(count_array_bytes(data), f"writing {place.name}") as tick:
        save_fields(place, {**content, "metadata": dict(data.metadata)}, getattr(data, "spec", None), tick)


@contextmanager
def byte_bar(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """Draw a bar of megabytes; gives the function that moves it on by a number of bytes."""
    from offline_marl.core.progress import progress_bar

    done = 0
    with progress_bar(total // MEGABYTE, what, "MB", leave=False) as bar:

        def tick(size: int) -> None:
            nonlocal done
            done += size
            bar.update(done // MEGABYTE - bar.n)

        yield tick


def public_source(source: str) -> str:
    """Reduce a source to what a shared file may tell: its name, without this machine's folders."""
    return source if "://" in source else Path(source).name


def with_source(source: str, data: Any) -> Any:
    """Add name and source to the metadata; the source's checksum becomes `source_sha256`."""
    metadata = {key: value for key, value in data.metadata.items() if key != "sha256"}
    kept = {"name": Path(source).name, "source": public_source(source)}
    if "sha256" in data.metadata:
        kept["source_sha256"] = data.metadata["sha256"]
    return replace(data, metadata={**kept, **metadata})


def count_bytes(path: Path) -> int:
    """Count the bytes of a file or of a folder's files; 0 where there is none."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else []
    return sum(file.stat().st_size for file in files)


def count_array_bytes(data: Recording | Dataset) -> int:
    """Count the bytes of all arrays."""
    values: list[Any] = [getattr(data, item.name) for item in fields(data)]
    return sum(value.numel() * value.dtype.itemsize for value in values if hasattr(value, "numel"))


def write(to: str, data: Recording | Dataset, place: Path, dataset_id: str | None = None) -> None:
    """Write in a published layout; `dataset_id` is Minari's.

    Raises:
        DataError: The layout cannot hold the data.
    """
    if to == "d4rl":
        from offline_marl.datasets.writers import d4rl

        d4rl.write(place, data)
    else:
        from offline_marl.datasets.writers import minari

        minari.write(place, data, dataset_id=dataset_id)
