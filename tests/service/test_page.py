"""The web page in a real Chromium.

PTYCHO_RAY_PICTURES=docs/images keeps the pictures it takes; PTYCHO_RAY_PICTURE_MODEL is a trained model to take them with.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import PATIENCE_S

from ptycho_ray.client import Client
from ptycho_ray.service.database import connect
from ptycho_ray.service.tokens import TokenStore

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with playwright.sync_playwright() as running:
        if chromium is None and not Path(running.chromium.executable_path).is_file():
            pytest.skip("there is no Chromium")
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def service(deploy: Callable[..., Any]) -> Any:
    model = os.environ.get("PTYCHO_RAY_PICTURE_MODEL")
    return deploy("page", **({"models": {"trained": model}} if model else {}))


@pytest.fixture
def page(browser: Any, service: Any) -> Iterator[Any]:
    """The page, with every request to somewhere else and every error of a script noted."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.troubles = []
    page.on("pageerror", lambda error: page.troubles.append(str(error)))
    page.on("console", lambda line: page.troubles.append(line.text) if line.type == "error" else None)
    page.on("request", lambda request: page.troubles.append(request.url) if is_elsewhere(request.url) else None)
    page.goto(f"{service.url}/")
    yield page
    assert page.troubles == []
    page.close()


def is_elsewhere(url: str) -> bool:
    return not url.startswith(("http://127.0.0.1:", "data:", "blob:"))


def wait_for(page: Any, expression: str, seconds: float = PATIENCE_S) -> Any:
    """The first true value of a JavaScript expression; the page's own policy forbids Playwright's way of waiting."""
    end = time.monotonic() + seconds
    while not (found := page.evaluate(expression)):
        assert time.monotonic() < end, f"{expression}; status: {page.locator('#status').text_content()}"
        page.wait_for_timeout(100)
    return found


def picture(page: Any, name: str, tmp_path: Path) -> None:
    folder = Path(os.environ.get("PTYCHO_RAY_PICTURES", str(tmp_path)))
    page.screenshot(path=folder / f"serve-{name}.png", full_page=True)


def reconstruct_demo(page: Any, demo: str = "siemens") -> None:
    page.select_option("#demo", demo)
    page.select_option("#model", "trained" if page.locator("#model option[value=trained]").count() else "tiny")
    page.click("#go")
    wait_for(page, "document.getElementById('status').textContent.startsWith('Done')")
    page.wait_for_selector("#image .hm")


def test_a_demo_is_reconstructed_and_looked_at(page: Any, tmp_path: Path) -> None:
    reconstruct_demo(page, "lines")
    assert page.locator("#image .heatmaplayer .hm").count() == 2
    assert page.locator("#truth").is_visible()
    assert page.locator("#probe .hm").count() == 1
    assert page.locator("#facts").get_by_role("row").count() > 5
    assert "nm" in page.locator("#image").inner_text() or "px" in page.locator("#image").inner_text()
    picture(page, "image", tmp_path)


def test_without_a_choice_it_is_automatic_and_the_page_says_what_was_decided(page: Any, scan_file: Path) -> None:
    assert page.locator("#model").input_value() == ""
    page.set_input_files("#file", scan_file)
    page.click("#go")
    wait_for(page, "document.getElementById('status').textContent.startsWith('Done')")
    assert page.locator("#plan li").count() >= 2
    assert "patterns that were left out of it" in page.locator("#verdict").text_content()
    assert page.get_by_role("button", name="Save report").is_visible()


def test_the_keyboard_does_it_all(page: Any) -> None:
    page.focus("#model")
    page.keyboard.type("network")
    page.focus("#demo")
    page.keyboard.type("crossing")
    page.focus("#go")
    page.keyboard.press("Enter")
    wait_for(page, "document.getElementById('status').textContent.startsWith('Done')")
    page.focus("#image")
    page.keyboard.press("ArrowRight")
    first = page.locator("#readout").text_content()
    page.keyboard.press("Shift+ArrowDown")
    second = page.locator("#readout").text_content()
    assert first.startswith("row ")
    assert first != second
    ranges = "JSON.stringify(document.getElementById('image').layout.xaxis2.range)"
    before = page.evaluate(ranges)
    page.keyboard.press("+")
    wait_for(page, f"{ranges} !== {before!r}")
    page.keyboard.press("Home")
    page.focus("#row0")
    page.keyboard.press("ControlOrMeta+A")
    page.keyboard.type("3")
    page.focus("#draw")
    before = page.locator("#profile .lines").first.inner_html()
    page.keyboard.press("Enter")
    lines = "document.querySelector('#profile .lines').innerHTML"
    wait_for(page, f"{lines} !== {json.dumps(before)}")


def test_cursors_are_linked_and_results_can_be_saved(page: Any) -> None:
    reconstruct_demo(page, "lines")
    box = page.locator("#image .nsewdrag").nth(0).bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    wait_for(page, "document.getElementById('readout').textContent.startsWith('row')")
    shapes = page.evaluate("document.getElementById('image').layout.shapes.filter(s => s.line.width === 1).length")
    assert shapes == 4  # a cross in each image
    page.select_option("#phase-colours", "RdBu")
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save NPZ").click()
    with np.load(saved.value.path(), allow_pickle=False) as result:
        assert result["object"].ndim == 2


def test_a_file_is_sent_and_a_bad_one_explained(page: Any, scan_file: Path, tmp_path: Path) -> None:
    page.set_input_files("#file", scan_file)
    page.select_option("#model", "tiny")
    page.click("#go")
    wait_for(page, "document.getElementById('status').textContent.startsWith('Done')")
    (tmp_path / "bad.npz").write_bytes(b"PK not a scan")
    page.set_input_files("#file", tmp_path / "bad.npz")
    page.click("#go")
    wait_for(page, "document.getElementById('status').className === 'failed'")
    assert "bad.npz" in page.locator("#status").text_content()


def test_a_stream_is_watched(page: Any, service: Any, small_scan: Any, tmp_path: Path) -> None:
    amplitude = small_scan.patterns.amplitude()
    with (
        Client(service.url) as client,
        client.stream(N=32, model="tiny", domain="amplitude", preview_interval_s=0.1) as stream,
    ):
        stream.push(small_scan.positions_px[:30], amplitude[:30])
        until = time.monotonic() + PATIENCE_S
        while not page.evaluate(
            "document.getElementById('stream').value !== ''"
        ):  # the list is read once, with the page
            assert time.monotonic() < until, "the stream is not offered"
            page.reload()
            page.wait_for_timeout(500)
        page.click("#watch")
        wait_for(page, "document.getElementById('status').textContent === 'Live: 30 patterns.'")
        stream.push(small_scan.positions_px[30:], amplitude[30:])
        wait_for(page, "document.getElementById('status').textContent === 'Live: 60 patterns.'")
        picture(page, "live", tmp_path)
    assert page.locator("#image .hm").count() == 2


def test_no_barrier_that_axe_finds(page: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    reconstruct_demo(page)
    found = axe.run(page, options={"runOnly": ["wcag2a", "wcag2aa"]}).response["violations"]
    assert [(rule["id"], [node["html"][:120] for node in rule["nodes"]]) for rule in found] == []


def test_the_interface_is_documented_without_the_network(browser: Any, service: Any) -> None:
    page = browser.new_page()
    elsewhere: list[str] = []
    page.on("request", lambda request: elsewhere.append(request.url) if is_elsewhere(request.url) else None)
    page.goto(f"{service.url}/docs")
    page.locator("[data-path='/v1/reconstructions']").first.wait_for(timeout=1000 * PATIENCE_S)
    assert elsewhere == []
    page.close()


def test_a_page_with_a_token(browser: Any, deploy: Callable[..., Any]) -> None:
    guarded = deploy("pageguard", require_token=True)
    text = TokenStore(connect(f"sqlite:///{guarded.data_dir / 'jobs.sqlite'}")).add("me", "submit")[1]
    page = browser.new_page()
    page.goto(f"{guarded.url}/")
    page.wait_for_selector("#login:not([hidden])")
    page.fill("#token", text)
    page.click("#login button")
    wait_for(page, "document.getElementById('model').options.length > 0")
    reconstruct_demo(page)
    assert page.locator("#login").is_hidden()
    page.close()
