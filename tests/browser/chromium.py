"""A real Chromium without a window: opens pages from disk, counts what they ask for, and looks at them as people do."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

UP = Path(__file__).with_name("up.sh")
CACHE = Path(sys.prefix, "browser")
DESKTOP, PHONE, A4 = (1280, 900), (390, 844), (718, 1047)
"""Widths and heights [px]; A4 is what its margins leave of the sheet."""
QUIET = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
)


class MissingBrowserError(RuntimeError):
    """There is no browser and none can be installed; the message is the reason."""


class Chromium:
    """One window.

    Args:
        driver: Selenium's.
        axe: Source of axe-core.
    """

    def __init__(self, driver: Any, axe: str) -> None:
        self.driver = driver
        self.axe = axe

    def cdp(self, command: str, **words: Any) -> dict[str, Any]:
        """Speak to the browser's own interface."""
        found: dict[str, Any] = self.driver.execute_cdp_cmd(command, words)
        return found

    def look(self, size: tuple[int, int] = DESKTOP, scheme: str = "light", media: str = "screen") -> None:
        """Be a screen, or a sheet, of this size and colour scheme."""
        width, height = size
        phone = size == PHONE
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.cdp("Emulation.setEmulatedMedia", media=media, features=features)

    def open(self, page: Path, script: bool = True) -> None:
        """Open a file and forget what was said and asked for before."""
        self.driver.get("about:blank")
        self.asked(), self.said()
        self.cdp("Emulation.setScriptExecutionDisabled", value=not script)
        self.driver.get(page.resolve().as_uri())

    def asked(self) -> list[str]:
        """Addresses asked for since last time; what the page holds itself as data is none."""
        found = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.append(message["params"]["request"]["url"])
        return [each for each in found if not each.startswith(("data:", "about:"))]

    def said(self) -> list[str]:
        """Lines of the console since last time."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def run(self, script: str, *words: Any) -> Any:
        """What a script returns."""
        return self.driver.execute_script(script, *words)

    def violations(self) -> list[str]:
        """What axe-core finds wrong: rule, and where."""
        self.run(self.axe)
        found = self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1];"
            "axe.run(document, {resultTypes: ['violations']}).then((found) => done(found.violations.map("
            "(each) => `${each.id}: ${each.nodes.slice(0, 3).map((node) => node.html.slice(0, 200)).join(' | ')}`)));"
        )
        return list(found)

    def png(self, whole: bool = False) -> bytes:
        """A picture of the window, or of the whole page."""
        data = self.cdp("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        return base64.b64decode(data)

    def pdf(self) -> bytes:
        """The page on A4."""
        self.cdp("Emulation.clearDeviceMetricsOverride")
        self.cdp("Emulation.setEmulatedMedia", media="", features=[])
        data = self.cdp("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, printBackground=True)["data"]
        return base64.b64decode(data)


@contextmanager
def chromium() -> Iterator[Chromium]:
    """Start one, installing what it needs.

    Raises:
        MissingBrowserError: That cannot be had here.
    """
    browser, driver_path, axe = _paths()
    os.environ |= {"SE_AVOID_STATS": "true", "SE_OFFLINE": "true"}
    try:
        from selenium.webdriver import Chrome, ChromeOptions, ChromeService
    except ImportError:
        raise MissingBrowserError("selenium is not installed (extra dev)") from None
    options = ChromeOptions()
    options.binary_location = browser
    for word in QUIET:
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(executable_path=driver_path))
    try:
        yield Chromium(driver, Path(axe).read_text(encoding="utf-8"))
    finally:
        driver.quit()


def _paths() -> Sequence[str]:
    up = subprocess.run([UP, CACHE], capture_output=True, text=True)
    if up.returncode == 77:
        raise MissingBrowserError(up.stderr.strip())
    if up.returncode:
        raise RuntimeError(up.stderr)
    return up.stdout.split("\n")[:3]
