"""What the package needs, at its lowest and at its newest: `python run.py [lowest|newest|resolve|licences ...]`.

    lowest     installs the lowest version of every dependency that pyproject.toml allows, and runs tests with them
    newest     the same with the newest that there are
    resolve    for the Pythons that are not here: finds a wheel of every dependency, and type-checks the code
    licences   lists the licence of everything that `lowest` or `newest` installed, or that is installed here

Environments lie in --out (build/dependencies), and are kept for the next call. Needs the network.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
HERE = (sys.version_info.major, sys.version_info.minor)
PYTHONS = [(3, 10), (3, 11), (3, 12), (3, 13)]
EXTRAS = ["environments", "pettingzoo", "data", "vault", "arrow", "slurm", "tune", "log", "report", "video", "label"]
TOOLS = ["pytest>=8", "pytest-xdist>=3.5", "setuptools>=77"]
TESTS = "tests/core tests/losses tests/networks tests/algorithms tests/runs tests/datasets tests/training/test_run.py"
CPU = "https://download.pytorch.org/whl/cpu"
_REQUIREMENT = re.compile(r"([\w.-]+)(\[[^]]*\])?\s*([^;]*?)\s*(?:;\s*(.*))?")


def requirements(python: tuple[int, int]) -> list[str]:
    """Direct dependencies and those of the extras, for a Python."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = [*project["dependencies"], *(one for extra in EXTRAS for one in project["optional-dependencies"][extra])]
    kept = []
    for text in listed:
        found = _REQUIREMENT.fullmatch(text)
        assert found is not None, text
        marker = found[4] or ""
        bound = re.fullmatch(r"python_version (<|>=) '3\.(\d+)'", marker)
        assert bound is not None or not marker, f"a marker that is not understood: {text}"
        if bound is None or (python[1] < int(bound[2])) == (bound[1] == "<"):
            kept.append(f"{found[1]}{found[2] or ''}{found[3]}")
    return kept


def lowest(python: tuple[int, int]) -> Iterator[str]:
    """Constraints that hold every dependency at the lowest version allowed."""
    for text in requirements(python):
        name, bound = re.split(r"[\[>=<]", text)[0], re.search(r">=([\w.]+)", text)
        assert bound is not None, f"{text} has no lowest version"
        yield f"{name}=={bound[1]}"


def run(*words: str | Path, quiet: bool = False) -> subprocess.CompletedProcess[str]:
    """A command, shown, in the repository's root."""
    print("+", *words, flush=True)
    return subprocess.run(list(map(str, words)), cwd=ROOT, text=True, capture_output=quiet)


def install(place: Path, *more: str) -> Path:
    """An environment with the package, its extras and what tests need; its Python."""
    python = place / "bin" / "python"
    if not python.exists():
        run(sys.executable, "-m", "venv", place).check_returncode()
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--progress-bar", "off"]
    run(*pip, *more, "-e", f".[{','.join(EXTRAS)}]", *TOOLS).check_returncode()
    return python


def installed(python: Path) -> dict[str, str]:
    """Versions of what an environment holds."""
    said = run(python, "-m", "pip", "list", "--format", "json", quiet=True).stdout
    return {one["name"].lower().replace("_", "-"): one["version"] for one in json.loads(said)}


def show_versions(python: Path) -> None:
    """Versions of the direct dependencies."""
    found = installed(python)
    names = [re.split(r"[\[>=<]", text)[0].lower() for text in requirements(HERE)]
    print("installed:", ", ".join(f"{name} {found.get(name)}" for name in dict.fromkeys(names)))


def test(kind: str, out: Path, tests: list[str]) -> bool:
    """Install at one end, and run tests; whether they passed."""
    place, more = out / kind, ["--extra-index-url", CPU]
    if kind == "lowest":
        file = out / "lowest.txt"
        file.write_text("".join(f"{line}\n" for line in lowest(HERE)))
        more += ["-c", str(file)]
    else:
        more += ["--upgrade", "--upgrade-strategy", "eager"]
    python = install(place, *more)
    show_versions(python)
    return run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests).returncode == 0


def resolve(out: Path) -> bool:
    """Wheels and types for the Pythons that are not here; whether all is well."""
    well = True
    for python in PYTHONS:
        version = f"{python[0]}.{python[1]}"
        if python != HERE:
            well &= find_wheels(out, version, requirements(python))
        typed = run(sys.executable, "-m", "mypy", "--python-version", version, quiet=True)
        print(f"Python {version}: {typed.stdout.strip().splitlines()[-1]}")
        well &= typed.returncode == 0
    print("What did not run: tests on Python", ", ".join(f"{a}.{b}" for a, b in PYTHONS if (a, b) != HERE))
    return well


def find_wheels(out: Path, version: str, wanted: list[str]) -> bool:
    """Find wheels of all that is needed on a Python; what is published as source alone is named and left out."""
    uv, file = out / "tools" / "bin" / "uv", out / f"wheels-{version}.txt"
    if not uv.exists():
        run(sys.executable, "-m", "venv", out / "tools").check_returncode()
        run(out / "tools" / "bin" / "python", "-m", "pip", "install", "-q", "uv").check_returncode()
    sources: list[str] = []
    while True:
        (out / "wanted.in").write_text("".join(f"{text}\n" for text in wanted))
        words = ["--no-header", "--no-annotate", "--only-binary", ":all:", "--python-version", version, "-o", file]
        words += [word for name in sources for word in ("--no-binary", name)]
        done = run(uv, "pip", "compile", "-q", *words, out / "wanted.in", quiet=True)
        lacking = re.search(r"([\w.-]+?)[=<>][^ ]* has no usable wheels", done.stderr)
        name = lacking[1] if lacking else ""
        if done.returncode == 0 or not name or name in sources:
            break
        sources.append(name)
    count = len(file.read_text().splitlines()) if done.returncode == 0 else 0
    said = f"{count} wheels found" if count else f"NOT found: {' '.join(done.stderr.split())[:300]}"
    print(f"Python {version}: {said}; published as source alone: {', '.join(sources) or 'none'}")
    return done.returncode == 0


def licences(out: Path) -> bool:
    """The licence that each installed package states."""
    python = next((out / kind / "bin" / "python" for kind in ("newest", "lowest") if (out / kind).is_dir()), None)
    if python is not None:
        program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import run; run.print_licences()"
        return run(python, "-c", program).returncode == 0
    print_licences()
    return True


def print_licences() -> None:
    """A line for each package that is installed: name, version, licence."""
    for one in sorted(metadata.distributions(), key=lambda found: found.metadata["Name"].lower()):
        print(f"{one.metadata['Name']:<28}{one.version:<16}{licence_of(one)}")


def licence_of(one: metadata.Distribution) -> str:
    """What a package says its licence is."""
    stated = one.metadata.get("License-Expression")
    classed = [text.split("::")[-1].strip() for text in one.metadata.get_all("Classifier", []) if "License ::" in text]
    text = (one.metadata.get("License") or "").strip().splitlines()
    return stated or ", ".join(classed) or (text[0][:60] if text else "not stated")


def main() -> None:
    """Do what is asked for; by default all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["lowest", "newest", "resolve", "licences"])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "dependencies")
    parser.add_argument("--tests", default=TESTS, help="what pytest is asked for")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    kinds = {"resolve": resolve, "licences": licences}
    well = [
        test(what, asked.out.absolute(), asked.tests.split())
        if what in {"lowest", "newest"}
        else kinds[what](asked.out)
        for what in asked.what
    ]
    raise SystemExit(not all(well))


if __name__ == "__main__":
    main()
