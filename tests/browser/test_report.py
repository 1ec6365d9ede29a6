"""The report in a real Chromium: `pytest -m browser`. up.sh installs it, and axe-core, if it may."""

from __future__ import annotations

import base64
import io
import itertools
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from browser.chromium import A4, DESKTOP, PHONE, Chromium, MissingBrowserError, chromium
from pages import NASTY, evidence, material

from offline_marl.report.page.assemble import render

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
"""A picture of one pixel."""
ROOT = Path(__file__).parents[2]
WIDER = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
EMPTY = """return [...document.querySelectorAll('svg[role=img]')].filter((svg) => {
  const box = svg.getBoundingClientRect(), paths = [...svg.querySelectorAll('path, circle')];
  return !(svg.closest('details:not([open])')) && !(box.width > 100 && box.height > 50 && paths.length > 3
    && paths.every((each) => Number.isFinite(each.getBBox().width)));
}).map((svg) => svg.getAttribute('aria-label'))"""
CUT = """return [...document.querySelectorAll('main *')].filter((each) => {
  const style = getComputedStyle(each), hidden = each.closest('.hidden, svg, img, video, button');
  return !hidden && (style.overflowX !== 'visible' || style.overflowY !== 'visible'
    || each.getBoundingClientRect().right > innerWidth + 1);
}).map((each) => each.outerHTML.slice(0, 120))"""
FIRST = "return [...document.querySelectorAll('table')[0].tBodies[0].rows].map((row) => row.cells[{}].textContent)"


@pytest.fixture(scope="module")
def window() -> Iterator[Chromium]:
    try:
        with chromium() as found:
            yield found
    except MissingBrowserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that a report can show, with names that would be markup if they could, all parts unfolded."""
    found = evidence(labels=("moma-ppo", f"iql {NASTY[0]}", f"bc tuned {NASTY[1]}"))
    folder = tmp_path_factory.mktemp("page")
    (folder / "video.png").write_bytes(base64.b64decode(DOT))
    held = replace(material(found), media=(folder / "video.png",))
    text = render(found, held).replace("<details>", "<details open>")
    file = folder / "report.html"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.fixture
def planted(page: Path, tmp_path: Path):
    """The page with something wrong in it, and without its own protection."""

    def plant(old: str, new: str) -> Path:
        text = page.read_text(encoding="utf-8")
        assert old in text
        file = tmp_path / "planted.html"
        file.write_text(text.replace("default-src 'none'", "default-src *").replace("img-src data:", "img-src *")
                        .replace(old, new, 1), encoding="utf-8")  # fmt: skip
        return file

    return plant


def test_nothing_is_fetched_and_nothing_is_said(window: Chromium, page: Path) -> None:
    window.look()
    window.open(page)
    assert window.asked() == [page.as_uri()]
    assert window.said() == []
    assert window.run("return document.querySelectorAll('script, img').length") == 2


def test_fetching_and_complaints_would_be_seen(window: Chromium, page: Path, planted) -> None:
    window.open(planted("<main>", '<main><img src="http://127.0.0.1:9/spy.png" alt="">'))
    assert "http://127.0.0.1:9/spy.png" in window.asked()
    assert window.said()
    guarded = page.with_name("guarded.html")
    guarded.write_text(page.read_text().replace("<main>", "<main><script>document.title = 'mine'</script>"))
    window.open(guarded)
    assert window.run("return document.title") != "mine" and any("Security Policy" in line for line in window.said())


@pytest.mark.parametrize(("size", "scheme"), list(itertools.product((DESKTOP, PHONE), ("light", "dark"))))
def test_axe_finds_nothing(window: Chromium, page: Path, size: tuple[int, int], scheme: str) -> None:
    window.look(size, scheme)
    window.open(page)
    ground = window.run("return getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(253, 253, 252)") == (scheme == "light")
    assert window.violations() == []


@pytest.mark.parametrize(
    ("rule", "old", "new"),
    [
        ("color-contrast", "</header>", '<p style="color: #bbbbbb; background: #ffffff">pale</p></header>'),
        ("heading-order", "</h1>", "</h1><h4>too deep</h4>"),
        ("region", "<main", "<p>outside of every landmark</p><main"),
        ("svg-img-alt", 'role="img"', 'role="img" data-'),
    ],
)
def test_axe_would_find_it(window: Chromium, planted, rule: str, old: str, new: str) -> None:
    window.look()
    file = planted(old, new)
    if rule == "svg-img-alt":
        file.write_text(file.read_text().replace("aria-label=", "data-label="))
    window.open(file)
    assert rule in [each.partition(":")[0] for each in window.violations()]


@pytest.mark.parametrize("script", [True, False])
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_figures_are_drawn_and_only_tables_scroll(
    window: Chromium, page: Path, size: tuple[int, int], script: bool
) -> None:
    window.look(size)
    window.open(page, script)
    assert window.run("return document.querySelectorAll('svg[role=img]').length") > 12
    assert window.run(EMPTY) == []
    assert window.run(WIDER) <= 0
    wide = (
        "return [...document.querySelectorAll('.scroll')].filter((each) => each.scrollWidth > each.clientWidth).length"
    )
    assert size == DESKTOP or window.run(wide)
    assert (window.run("return document.querySelectorAll('button').length") > 0) == script


def test_empty_figures_and_wide_pages_would_be_seen(window: Chromium, planted) -> None:
    window.look(PHONE)
    window.open(planted("<svg ", '<div style="width: 900px">wide</div><svg style="height: 0" '))
    assert window.run(EMPTY) and window.run(WIDER) > 0


def test_tables_sort_by_click_and_by_key(window: Chromium, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    window.look()
    window.open(page)
    names = window.run(FIRST.format(0))
    heads = window.driver.find_elements("css selector", "#scores table:first-of-type thead th")[:4]
    button = heads[3].find_element("css selector", "button")
    button.click()
    assert heads[3].get_attribute("aria-sort") == "descending" and window.run(FIRST.format(0)) == names
    button.send_keys(Keys.ENTER)
    scores = [float(each.split()[0]) for each in window.run(FIRST.format(3)) if each.strip()]
    assert heads[3].get_attribute("aria-sort") == "ascending" and scores == sorted(scores) != []
    assert window.run(FIRST.format(0))[-1] == "the data’s own", "what has no number stays last"
    heads[0].find_element("css selector", "button").send_keys(Keys.SPACE)
    assert heads[3].get_attribute("aria-sort") is None and window.run(FIRST.format(0)) == sorted(names)


def test_tables_are_copied_as_tab_separated_values(window: Chromium, page: Path) -> None:
    window.look()
    window.open(page)
    window.cdp("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    window.driver.find_element("css selector", "#scores .copy").click()
    held = window.driver.execute_async_script("navigator.clipboard.readText().then(arguments[0], arguments[0])")
    first, *rows = held.splitlines()
    assert first.split("\t")[:4] == ["label", "runs", "updates", "normalised IQM"]
    assert len(rows) == 4 and rows[0].split("\t")[:4] == ["moma-ppo", "3", "5,000", "90.0 [88.0, 92.0]"]
    assert "Copied" in window.run("return document.querySelector('[role=status]').textContent")
    window.run("navigator.clipboard.writeText = async () => { throw new Error('refused'); }")
    window.run("document.addEventListener('copy', () => { window.fallen = String(document.getSelection()); })")
    window.driver.find_element("css selector", "#scores .copy").click()
    assert window.run("return window.fallen") is not None


def test_all_of_it_is_printed(window: Chromium, page: Path, tmp_path: Path) -> None:
    pypdf = pytest.importorskip("pypdf")
    folded = tmp_path / "folded.html"
    folded.write_text(page.read_text().replace("<details open>", "<details>"))
    window.look(A4, media="print")
    window.open(folded)
    assert window.run(CUT) == [] and window.run(WIDER) <= 0
    printed = pypdf.PdfReader(io.BytesIO(window.pdf()))
    text = unicodedata.normalize("NFKC", "".join(sheet.extract_text() for sheet in printed.pages))
    said = "".join(text.split())
    for wanted in ("Everyrun", "0123456789", "Thisfileiscomplete", "<script>alert(1)</script>", "unfinished:stopped"):
        assert wanted in said, "folded parts and the last columns are printed too"
    assert "Copy" not in said


def test_what_is_cut_in_print_would_be_seen(window: Chromium, planted) -> None:
    window.look(A4, media="print")
    window.open(planted("<main>", '<main><div style="height: 1rem; overflow: hidden">one<br>two</div>'))
    assert len(window.run(CUT)) == 1


def test_the_committed_page_is_sound(window: Chromium) -> None:
    window.look(PHONE)
    window.open(ROOT / "docs" / "report.html")
    assert window.said() == [] and window.violations() == [] and window.run(EMPTY) == [] and window.run(WIDER) <= 0
