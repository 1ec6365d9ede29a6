"""A scripted user of the labelling page: watches each pair once, presses the key of what returned more.

    python tests/browser/label_user.py DATA FOLDER [--budget N] [--picture PNG]

Serves the page as `offline-marl label DATA --out FOLDER` does, answers all of it in a real Chromium, and says how many
keys and seconds an answer took, by the page's own clock.
"""

from __future__ import annotations

import argparse
import io
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from chromium import Chromium, MissingBrowserError, chromium

from offline_marl.preferences.teachers import segment_returns
from offline_marl.training.preferences.folders import ComparisonFolder, masked, numbers_of

SIZE = (1200, 900)
NOTICED = 0.35
"""Seconds that the user takes to press a key once the film has ended."""


def returns_of(place: Path) -> dict[str, float]:
    """Return of every segment, by its id; what this user goes by."""
    import torch

    with ComparisonFolder(place) as folder:
        copies = folder.copies(folder.store.pairs())
    segments = masked(copies.segments)
    both = torch.arange(len(copies.keys)).unsqueeze(-1).expand(-1, 2)
    assert segments.mask is not None
    earned = segment_returns(segments.rewards[both], segments.mask[both], torch.full((len(both),), -1))[:, 0]
    return {key.id: float(earned[row]) for key, row in numbers_of(copies).items()}


def wait(window: Chromium, script: str, seconds: float = 60.0) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = window.run(script)
        if found:
            return found
        time.sleep(0.02)
    raise SystemExit(f"the page does not come: {script}")


def answer_all(window: Chromium, url: str, worth: dict[str, float], picture: Path | None) -> int:
    """Answer until there are no more questions; how many keys that took."""
    window.look(SIZE)
    window.driver.get(url)
    wait(window, "return !document.getElementById('who').hidden")
    window.driver.find_element("id", "name").send_keys("scripted user")
    window.driver.find_element("css selector", "#who button").click()
    shown, keys = "", 0
    while True:
        script = f"const id = document.body.dataset.shown || ''; return id !== {shown!r} ? id : "
        shown = wait(window, script + "(document.getElementById('idle').hidden ? '' : 'idle')")
        if shown == "idle":
            return keys
        wait(window, "return Number(document.getElementById('time').value) >= 970")
        if picture is not None and keys == 2:
            window.run(
                "const bar = document.getElementById('time'); bar.value = 620; bar.dispatchEvent(new Event('input'))"
            )
            save(picture, window.png())
        time.sleep(NOTICED)
        sides = window.run("return [...document.querySelectorAll('canvas')].map((each) => each.dataset.name)")
        one, other = (worth[name.partition(".")[0]] for name in sides)
        window.driver.find_element("tag name", "body").send_keys("1" if one > other else "2" if other > one else "0")
        keys += 1


def save(picture: Path, png: bytes) -> None:
    from PIL import Image

    Image.open(io.BytesIO(png)).convert("RGB").save(picture, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default="reacher-scripted-mix-v0_2x1notip_0")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("pairs/mine"))
    parser.add_argument("--budget", type=int, default=100)
    parser.add_argument("--picture", type=Path)
    flags = parser.parse_args()
    words = ["label", flags.data, "--out", str(flags.folder), "--budget", str(flags.budget), "--port", "0"]
    server = subprocess.Popen([sys.executable, "-m", "offline_marl", *words], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        url = next(line.split()[1] for line in server.stdout if line.startswith("page"))
        next(line for line in server.stdout if line.startswith("answers"))
        with chromium() as window:
            keys = answer_all(window, url, returns_of(flags.folder), flags.picture)
            wait(window, "return !document.getElementById('progress').textContent.includes('waiting')")
    except MissingBrowserError as error:
        sys.exit(f"no browser: {error}")
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)
    with ComparisonFolder(flags.folder) as folder:
        took = [label.response_ms / 1000 for label in folder.store.labels() if label.response_ms is not None]
    median = statistics.median(took)
    print(f"{len(took)} answers about {flags.data}: {keys / len(took):.2f} keys and a median of {median:.2f} s each")


if __name__ == "__main__":
    main()
