"""A real browser for tests of pages, opened from disk, without any network."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

WIDTHS = "[document.documentElement.scrollWidth, innerWidth]"  # a page that is wider than its window is cut off
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SECONDS_TO_INSTALL = 60


@contextmanager
def running_browser() -> Iterator["Browser"]:
    """A browser, as long as the context lasts; skips the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    chromium = _installed_browser()
    if chromium is None:
        pytest.skip("there is no Chromium, and script/test could not install it: apt-get install chromium")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


def _installed_browser() -> str | None:
    """The path of a browser, which script/test may still be installing."""
    installer = os.environ.get("BROWSER_INSTALLER")
    deadline = time.monotonic() + SECONDS_TO_INSTALL  # without a network, apt tries for longer
    while installer and Path(f"/proc/{installer}").exists() and time.monotonic() < deadline:
        time.sleep(1)
    return next(filter(None, map(shutil.which, BROWSERS)), None)


class Opened:
    """A page that is open, with what it asked for and printed."""

    def __init__(self, browser: "Browser", file: Path, **options: object) -> None:
        self.requests: list[str] = []
        self.lines: list[str] = []
        self.page = browser.new_context(**options).new_page()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.lines.append(message.text))
        self.page.on("pageerror", lambda error: self.lines.append(str(error)))
        self.page.goto(file.as_uri())

    @property
    def asked_for(self) -> list[str]:
        """The addresses it asked for besides its own, without data that is in the page."""
        return [url for url in self.requests if not url.startswith("data:") and url != self.page.url]
