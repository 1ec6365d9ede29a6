"""Readers that packages bring: asked in turn, opened by every command, and harmless where they are broken."""

from __future__ import annotations

import importlib
import linecache
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign import write_hdf5
from worlds import reacher_recording

from offline_marl.core.types import DataError
from offline_marl.datasets.places import FOREIGN
from offline_marl.datasets.readers import registry
from offline_marl.datasets.readers.base import Content, Reader, readers
from offline_marl.datasets.readers.convert import load_place
from offline_marl.datasets.readers.detect import kind_of
from offline_marl.datasets.writers import d4rl
from offline_marl.launch.cli import main

PAGE = Path(__file__).resolve().parents[3] / "docs" / "data.md"
ENTRY = '[project.entry-points."offline_marl.readers"]'
Install = Callable[[str, str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a package, as a module, its entry point and its source, where installed ones are found."""
    site = tmp_path / "site"
    site.mkdir()
    built_in, modules = {row.name for row in registry.listings() if row.origin == "built-in"}, set[str]()

    def put(module: str, entry: str, source: str) -> None:
        modules.add(module)
        (site / f"{module}.py").write_text(source)
        about = site / f"{module}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[offline_marl.readers]\n{entry}\n")
        monkeypatch.syspath_prepend(site)

    yield put
    for name in set(registry._loaded) - built_in:
        del registry._loaded[name]
    for module in modules:
        sys.modules.pop(module, None)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLINE_MARL_HOME", str(tmp_path / "home"))


def documented() -> tuple[str, str]:
    """The entry point and the source of the page's reader."""
    text = PAGE.read_text(encoding="utf-8")
    section = text.partition("## A format of your own")[2].partition("\n## ")[0]
    (source,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (entry,) = re.findall(rf"```toml\n{re.escape(ENTRY)}\n(.*?)\n```", text)
    return entry.replace('"', ""), source


def games(path: Path, steps: int = 40, length: int = 10) -> Path:
    draw = np.random.default_rng(0)
    last = (np.arange(steps) + 1) % length == 0
    obs = draw.normal(size=(steps, 2, 3)).astype(np.float32)
    actions = draw.uniform(-1, 1, size=(steps, 2, 1)).astype(np.float32)
    np.savez(path, obs=obs, actions=actions, rewards=draw.normal(size=steps).astype(np.float32), last=last)
    return path


def test_the_pages_reader_serves_every_command(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install("lab_npz", *documented())
    file = games(tmp_path / "games.npz")
    train = ("train", "bc", "--steps=2", "--batch-size=4", "--hidden=8", "--device=cpu", f"--out={tmp_path / 'run'}")
    for words in (
        ("data", "info", str(file)),
        ("data", "convert", str(file), str(tmp_path / "games.safetensors")),
        (*train, f"--dataset={file}"),
    ):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 0, capsys.readouterr().err
    assert (tmp_path / "run" / "DONE").exists()
    data = load_place(tmp_path / "games.safetensors")
    assert data.metadata["format"] == "lab-npz" and data.lengths.tolist() == [10, 10, 10, 10]
    np.testing.assert_array_equal(data.actions[:9], np.load(file)["actions"][:9])


def test_a_reader_that_was_mended_reads_the_file_anew(install: Install, tmp_path: Path) -> None:
    entry, source = documented()
    file = games(tmp_path / "games.npz")
    install("lab_npz", entry, source.replace('arrays["rewards"]', '-arrays["rewards"]'))
    mistaken = load_place(file).rewards
    del registry._loaded["lab-npz"], sys.modules["lab_npz"]
    module = tmp_path / "site" / "lab_npz.py"
    module.write_text(source)
    linecache.checkcache(str(module))
    importlib.invalidate_caches()
    assert torch.equal(load_place(file).rewards, -mistaken)
    assert len(list((tmp_path / "home" / "converted").iterdir())) == 2
    assert load_place(file).metadata["format"] == "lab-npz"
    assert len(list((tmp_path / "home" / "converted").iterdir())) == 2


def test_a_plugin_is_listed_without_being_imported(install: Install) -> None:
    install("lab_npz", *documented())
    (row,) = [row for row in readers.listings() if row.origin != "built-in"]
    assert (row.name, row.origin) == ("lab-npz", "lab_npz") and "lab_npz" not in sys.modules


def test_a_reader_that_looks_inside_claims_a_file_before_d4rl(install: Install, tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    ours = write_hdf5(tmp_path / "ours.hdf5", {"lab": np.zeros(3, np.float32)})
    d4rl.write(tmp_path / "theirs.hdf5", reacher_recording())

    @readers.register("lab-hdf5")
    class Lab(Reader):
        """Files of the lab."""

        endings = (".hdf5",)

        def recognises(self, path: Path) -> bool:
            return super().recognises(path) and path.stem == "ours"

        @contextmanager
        def open(self, path: Path) -> Iterator[Content]:
            raise DataError("nothing is in it")
            yield

    assert kind_of(ours) == "lab-hdf5" and kind_of(tmp_path / "theirs.hdf5") == "d4rl"
    with pytest.raises(DataError, match="nothing is in it"):
        load_place(ours)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("import no_such_package_anywhere\n", "no_such_package_anywhere"),
        (
            "from offline_marl.datasets.readers.base import Reader\n"
            "class Bad(Reader):\n"
            "    def recognises(self, path): return 1 / 0\n"
            "    def open(self, path): ...\n",
            "the reader 'bad' failed at it with ZeroDivisionError: division by zero",
        ),
    ],
)
def test_a_broken_plugin_is_named_only_where_no_reader_knows_the_file(
    install: Install, tmp_path: Path, source: str, problem: str
) -> None:
    pytest.importorskip("h5py")
    install("bad_reader", "bad = bad_reader:Bad", source)
    d4rl.write(tmp_path / "theirs.hdf5", reacher_recording())
    assert load_place(tmp_path / "theirs.hdf5").metadata["format"] == "d4rl"
    with pytest.raises(DataError) as refusal:
        load_place(games(tmp_path / "games.npz"))
    assert "is of no known format: there are" in str(refusal.value) and problem in str(refusal.value)


@pytest.mark.long
def test_readers_import_no_package_of_their_formats_before_a_file_is_opened() -> None:
    program = (
        "import sys\nfrom offline_marl.datasets.readers import registry\n"
        "assert len(registry.listings()) >= 7 and not {'torch', 'numpy'} & set(sys.modules)\n"
        "for name in registry.names():\n    registry.get(name)()\n"
        "assert not {'h5py', 'tensorstore', 'pyarrow', 'minari', 'huggingface_hub'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_endings_that_name_places_are_those_of_the_readers() -> None:
    built_in = [row.name for row in readers.listings() if row.origin == "built-in"]
    assert {*FOREIGN} == {".vlt"} | {ending for name in built_in for ending in readers.get(name).endings}
