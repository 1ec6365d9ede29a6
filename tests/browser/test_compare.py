"""Runs side by side in a real Chromium: the page opens from disk, and its films keep one clock."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser.chromium import DESKTOP, PHONE, Chromium, MissingBrowserError, chromium
from compared import compare, small_reward
from finished import folder
from worlds import saved, world

from offline_marl.report.side_by_side.labels import browsers_of
from offline_marl.report.side_by_side.page import write_comparison
from offline_marl.report.side_by_side.sides import read_sides

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]
NASTY = "<script>document.title = 'mine'</script>"
TIMES = "return [...document.querySelectorAll('video')].map((film) => film.currentTime)"
SCRUB = """const bar = document.getElementById('films-time');
bar.value = arguments[0]; bar.dispatchEvent(new Event('input'))"""
ROWS = "return [...document.querySelector('#label-browser-0 tbody').rows]"
WIDER = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def window() -> Iterator[Chromium]:
    try:
        with chromium() as found:
            yield found
    except MissingBrowserError as error:
        pytest.skip(str(error))


def film(path: Path, seconds: float, shade: int) -> Path:
    from imageio import v2

    with v2.get_writer(path, format="FFMPEG", fps=20, codec="libx264", pixelformat="yuv420p") as writer:
        for number in range(int(seconds * 20)):
            picture = np.full((96, 96, 3), shade, np.uint8)
            picture[:, number % 96] = 255
            writer.append_data(picture)
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("compare")
    names = ["one run", f"another {NASTY.replace('/', '_')}", "a third"]
    runs = [
        folder(place / name, 3.0 * number, algorithm=algorithm, seed=number, settings={"lr": 0.1 * number})
        for number, (name, algorithm) in enumerate(zip(names, ("bc", "iql", "ma-iql"), strict=True), 1)
    ]
    data = saved(place, world("continuous", episodes=20))
    comparisons = compare(place / "comparisons", data)
    model = small_reward(place / "model", data, comparisons).folder
    sides = [
        replace(side, reward_model=model, films=(film(place / f"{number}.mp4", 1.0 + number, 60 * number),))
        for number, side in enumerate(read_sides(runs), 1)
    ]
    browsers, reasons = browsers_of(sides)
    return write_comparison(sides, browsers, place / "compare.html", notes=[*reasons, "a note"])


@pytest.mark.parametrize(("size", "scheme"), list(itertools.product((DESKTOP, PHONE), ("light", "dark"))))
def test_it_opens_from_disk_whole_and_axe_finds_nothing(
    window: Chromium, page: Path, size: tuple[int, int], scheme: str
) -> None:
    window.look(size, scheme)
    window.open(page)
    assert window.asked() == [page.as_uri()] and window.said() == []
    assert window.run("return document.title") == "Runs side by side"
    assert window.violations() == [] and window.run(WIDER) <= 0


def test_all_films_play_on_one_clock_and_the_short_ones_wait(window: Chromium, page: Path) -> None:
    window.look()
    window.open(page)
    length = "return [...document.querySelectorAll('video')].map((film) => film.duration)"
    deadline = time.monotonic() + 20
    while not all(window.run(length)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert window.run(length) == pytest.approx([2.0, 3.0, 4.0], abs=0.1)
    window.run(
        "const bar = document.getElementById('films-time'); bar.value = 250; bar.dispatchEvent(new Event('input'))"
    )
    time.sleep(0.3)
    assert window.run(TIMES) == pytest.approx([1.0, 1.0, 1.0], abs=0.06)
    window.run("document.getElementById('films-play').click()")
    time.sleep(0.6)
    times = window.run(TIMES)
    assert min(times) > 1.2 and max(times) - min(times) < 0.3, times
    window.run("document.getElementById('films-play').click()")
    window.run(
        "const bar = document.getElementById('films-time'); bar.value = 900; bar.dispatchEvent(new Event('input'))"
    )
    time.sleep(0.3)
    assert window.run(TIMES) == pytest.approx([2.0, 3.0, 3.6], abs=0.1)


def test_labels_sort_by_what_the_model_says(window: Chromium, page: Path) -> None:
    window.look()
    window.open(page)
    heads = window.driver.find_elements("css selector", "#label-browser-0 thead th")
    place = next(number for number, head in enumerate(heads) if head.text.startswith("disagreement"))
    heads[place].find_element("css selector", "button").click()
    shown = window.run(f"{ROWS}.map((row) => Number(row.cells[{place}].textContent))")
    assert len(shown) >= 60 and shown == sorted(shown, reverse=True) and shown[0] > shown[-1]
