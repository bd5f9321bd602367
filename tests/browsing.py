"""What the tests of the page share: a Chromium, a page that notes every trouble, and waiting."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers import PATIENCE_S

playwright = pytest.importorskip("playwright.sync_api")


@contextmanager
def chromium() -> Iterator[Any]:
    """Debian's Chromium, or Playwright's own."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with playwright.sync_playwright() as running:
        if found is None and not Path(running.chromium.executable_path).is_file():
            pytest.skip("there is no Chromium")
        browser = running.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def page_of(browser: Any, url: str, **how: Any) -> Iterator[Any]:
    """A page at ``url``; at the end no request has gone elsewhere and no script has failed. What the page is meant to be
    refused is taken from ``page.troubles`` by the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 900}, **how)
    context.set_default_timeout(1000 * PATIENCE_S)
    page = context.new_page()
    page.troubles = []
    page.on("pageerror", lambda error: page.troubles.append(str(error)))
    page.on("console", lambda line: page.troubles.append(line.text) if line.type == "error" else None)
    page.on("request", lambda request: page.troubles.append(request.url) if is_elsewhere(request.url) else None)
    page.goto(url)
    yield page
    assert page.troubles == [], page.troubles
    context.close()


def is_elsewhere(url: str) -> bool:
    return not url.startswith(("http://127.0.0.1:", "data:", "blob:"))


def until(page: Any, expression: str, seconds: float = PATIENCE_S) -> Any:
    """The first true value of a JavaScript expression; the page's own policy forbids Playwright's way of waiting."""
    end = time.monotonic() + seconds
    while not (found := page.evaluate(expression)):
        assert time.monotonic() < end, f"{expression}; the page: {page.locator('main').inner_text()[:500]}"
        page.wait_for_timeout(100)
    return found
