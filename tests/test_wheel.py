"""A wheel holds all that the installed library needs: settings that are not code, and the page's style and script."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which nothing is installed but the wheel of this tree."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"  # a copy: building leaves things behind
    leave = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "offline_marl", source / "offline_marl", ignore=leave)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    offline = ["--no-deps", "--no-index"]
    built = [*pip, "wheel", *offline, "--no-build-isolation", "-w", str(place), str(source)]
    subprocess.run(built, check=True, capture_output=True, text=True)
    (wheel,) = place.glob("*.whl")
    subprocess.run([*pip, "install", *offline, "--target", str(place / "site"), str(wheel)], check=True)
    return place / "site"


def command(site: Path, home: Path, *arguments: str) -> str:
    """Run the wheel's command line elsewhere than in the repository."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_wheel_brings_every_preset(site: Path) -> None:
    shipped, ours = (folder / "offline_marl" / "presets" for folder in (site, ROOT))
    assert {path.relative_to(shipped) for path in shipped.rglob("*.toml")} == {
        path.relative_to(ours) for path in ours.rglob("*.toml")
    }


@pytest.mark.slow
def test_a_wheel_trains_reports_and_lists_its_presets(site: Path, tmp_path: Path) -> None:
    where = command(site, tmp_path, "-c", "import offline_marl; print(offline_marl.__file__)")
    assert Path(where.strip()).is_relative_to(site)
    tiny = ["--steps", "20", "--hidden", "8", "--batch-size", "8", "--device", "cpu", "--final-episodes", "3"]
    train = ["train", "bc", "--dataset", "rendezvous-left-v0", *tiny, "--out", "run"]
    command(site, tmp_path, "-m", "offline_marl", *train)
    command(site, tmp_path, "-m", "offline_marl", "report", "run", "--out", "report")
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    for name in ("page.css", "page.js"):
        text = (ROOT / "offline_marl" / "report" / "page" / name).read_text(encoding="utf-8")
        line = max(text.splitlines(), key=len).strip()
        assert line in page, f"{name} is not in the page"
    assert "reacher-scripted-mix-v0_2x1notip_0" in command(site, tmp_path, "-m", "offline_marl", "list", "presets")
