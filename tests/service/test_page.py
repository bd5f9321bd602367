"""The web page in a real Chromium, as somebody uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from browsing import chromium, page_of, until
from helpers import ROOT
from service_here import service_here

from ptycho_ray.client import Client

pytestmark = pytest.mark.slow
MEASURED = ROOT.parent / "shared" / "data" / "lcls_run1084.npz"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, model_file: Path) -> Iterator[str]:
    with service_here(tmp_path_factory.mktemp("page"), models={"tiny": model_file}) as (url, _):
        yield url


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    with page_of(browser, f"{url}/") as page:
        yield page


def drop(page: Any, path: Path) -> None:
    """Drop a file on the page, as from a file manager."""
    page.evaluate(
        "window.dropped = new DataTransfer();"
        "window.taken = document.createElement('input'); taken.type = 'file'; taken.id = 'taken'; document.body.append(taken);"
    )
    page.set_input_files("#taken", path)
    page.evaluate(
        "dropped.items.add(taken.files[0]); taken.remove();"
        "document.querySelector('.drop').dispatchEvent(new DragEvent('drop', {dataTransfer: dropped, bubbles: true}))"
    )


def set_field(page: Any, name: str, value: str) -> None:
    page.get_by_label("Find").fill(name.split(".")[-1].replace("_", " ").split(" ")[-1])
    page.locator(f"#set-{name.replace('.', '-')}").fill(value)


def reconstruct(page: Any, **settings: str) -> str:
    """From a look to the result; the address of the result."""
    for name, value in settings.items():
        set_field(page, name.replace("__", "."), value)
    page.get_by_role("button", name="Reconstruct", exact=True).click()
    page.get_by_role("heading", name="Files").wait_for()
    page.get_by_role("application", name="Image, Amplitude").wait_for()
    return str(page.url)


def test_a_user_drops_a_measured_scan_and_does_all_that_is_usual(page: Any, tmp_path: Path) -> None:
    if not MEASURED.exists():
        pytest.skip(f"{MEASURED.name} is not there")
    drop(page, MEASURED)
    page.get_by_text("What the file says", exact=True).wait_for()
    page.locator(".still").nth(4).wait_for()  # pictures come after the facts
    assert "patterns of" in page.locator(".verdict").inner_text()
    reconstruct(page, budget_s="1", refinement__iterations="6")
    assert "patterns that were left out of it" in page.locator(".verdict").inner_text()
    with page.expect_download() as saved:
        page.get_by_role("button", name="TIFF, 32 bit").click()
    amplitude, phase = tifffile.imread(saved.value.path())
    assert amplitude.dtype == phase.dtype == np.float32
    assert saved.value.suggested_filename.startswith("lcls_run1084-")
    page.get_by_role("link", name="Run again with changes").click()
    field = page.locator("#set-refinement-iterations")
    until(page, "document.querySelector('#set-refinement-iterations')?.value === '6'")
    field.fill("3")
    second = reconstruct(page)
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_role("button", name="difference").click()
    page.get_by_role("application", name="phase: B minus A").wait_for()
    assert "Complex difference (NRMSE)" in page.locator("main").inner_text()
    page.goto(second)
    page.reload()
    page.get_by_role("heading", name="Files").wait_for()
    assert "lcls_run1084.npz" in page.locator("h1").inner_text()


def test_the_plan_stands_in_the_fields_and_a_network_has_its_own_settings(page: Any, scan_file: Path) -> None:
    page.set_input_files("#file", scan_file)
    page.get_by_role("button", name="Propose settings").click()
    page.get_by_text("What was decided stands in the fields below").wait_for()
    assert page.locator("#set-refinement-iterations").get_attribute("placeholder").startswith("proposed: ")
    page.select_option("#way", "tiny")
    page.get_by_label("Find").fill("")
    assert page.locator("#set-seed").count() == 0
    set_field(page, "refinement_iterations", "-1")
    page.get_by_role("button", name="Reconstruct", exact=True).click()
    page.locator("#set-refinement_iterations[aria-invalid=true]").wait_for()
    page.troubles.clear()  # Chromium logs the 422
    set_field(page, "refinement_iterations", "2")
    reconstruct(page)
    assert "tiny" in page.locator("main").inner_text()


def test_what_failed_shows_its_own_error_and_no_image(page: Any, tmp_path: Path, url: str) -> None:
    with Client(url) as client:
        job = client.submit(demo="siemens", refinement={"thickness_angstrom": 10.0, "slices": 2})
    page.goto(f"{url}/#/job/{job['id']}")
    page.get_by_role("heading", name="This reconstruction failed").wait_for()
    assert page.locator("canvas").count() == 0
    (tmp_path / "junk.npz").write_bytes(b"no scan")
    page.goto(f"{url}/#/")
    page.set_input_files("#file", tmp_path / "junk.npz")
    page.locator(".verdict.failed").wait_for()
    assert "junk.npz" in page.locator(".verdict").inner_text()
    assert page.get_by_role("button", name="Reconstruct", exact=True).count() == 0


def test_the_keyboard_does_it_all(page: Any) -> None:
    page.get_by_role("button", name="a Siemens star").focus()
    page.keyboard.press("Enter")
    page.get_by_text("What the file says", exact=True).wait_for()
    set_field(page, "budget_s", "0.5")
    set_field(page, "refinement.iterations", "3")
    page.keyboard.press("Enter")
    pane = page.get_by_role("application", name="Image, Amplitude")
    pane.focus()
    page.keyboard.press("ArrowRight")
    first = page.locator(".readout").inner_text()
    page.keyboard.press("Shift+ArrowDown")
    second = page.locator(".readout").inner_text()
    assert first.startswith("row ")
    assert int(second.split()[1].strip(",")) == int(first.split()[1].strip(",")) + 10
    assert "amplitude" in second
    assert " rad" in second
    before = pane.evaluate("canvas => canvas.toDataURL()")
    page.keyboard.press("+")
    until(page, f"document.querySelector('.pane').toDataURL() !== {before!r}")
    page.locator(".profile summary").focus()
    page.keyboard.press("Enter")
    page.locator(".profile").get_by_role("button", name="Show").focus()
    page.keyboard.press("Enter")
    page.get_by_role("img", name="Line profile").wait_for()


def test_the_cursor_and_the_view_are_linked_and_a_line_is_drawn(page: Any) -> None:
    page.get_by_role("button", name="a Siemens star").click()
    reconstruct(page, budget_s="0.5", refinement__iterations="3")
    phase = page.get_by_role("application", name="Image, Phase")
    box = page.get_by_role("application", name="Image, Amplitude").bounding_box()
    before = phase.evaluate("canvas => canvas.toDataURL()")
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    until(page, "document.querySelector('.readout').textContent.startsWith('row')")
    assert phase.evaluate("canvas => canvas.toDataURL()") != before  # the cross in the other image
    assert " nm" in page.locator(".readout").inner_text() or " µm" in page.locator(".readout").inner_text()
    page.get_by_role("button", name="Line", exact=True).click()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 3, box["y"] + box["height"] / 3)
    page.mouse.up()
    page.get_by_role("img", name="Line profile").wait_for()
    page.get_by_label("unwrap phase").check()
    page.get_by_label("remove ramp").check()
    page.get_by_label("Layer").select_option("probe mode 1")
    page.get_by_label("Show", exact=True).select_option("hue (complex)")
    page.get_by_role("application", name="Image, Complex").wait_for()


def test_history_lists_jobs_and_two_are_compared(page: Any, url: str) -> None:
    with Client(url) as client:
        jobs = [client.submit(demo="lines", refinement={"iterations": n}, budget_s=0.5) for n in (2, 3)]
        for job in jobs:
            client.wait(job["id"])
    page.goto(f"{url}/#/history")
    boxes = page.get_by_role("checkbox", name="Choose demo scan lines")
    boxes.nth(0).check()
    boxes.nth(1).check()
    page.get_by_role("button", name="Compare two").click()
    page.get_by_role("button", name="swipe").click()
    page.get_by_role("slider", name="Share of the width that shows A").fill("0.25")
    page.goto(f"{url}/#/operator")
    page.get_by_role("heading", name="Throughput").wait_for()
    assert "running" in page.locator("main").inner_text()


def test_a_token_is_asked_for_and_a_link_shared(browser: Any, tmp_path: Path, scan_file: Path) -> None:
    with service_here(tmp_path, require_token=True) as (url, service):
        tokens = [service.tokens.add(name, "submit")[1] for name in ("me", "you")]
        with page_of(browser, f"{url}/") as mine, page_of(browser, f"{url}/") as yours:
            for page, token in zip((mine, yours), tokens, strict=True):
                page.get_by_label("Bearer token").fill(token)
                page.get_by_role("button", name="Use it").click()
                page.get_by_role("heading", name="Reconstruct a scan").wait_for()
                page.troubles.clear()  # Chromium logs the 401
            mine.set_input_files("#file", scan_file)
            mine.get_by_text("What the file says", exact=True).wait_for()
            address = reconstruct(mine, budget_s="0.1", refinement__iterations="2")
            yours.goto(address)
            yours.get_by_text("There is no such reconstruction").wait_for()
            yours.troubles.clear()  # and the 404
            mine.get_by_role("button", name="Share by link").click()
            link = until(mine, "document.querySelector('input[readonly]')?.value")
            yours.goto(link)
            yours.get_by_role("application", name="Image, Amplitude").wait_for()
            mine.troubles.clear()  # a clipboard that this Chromium does not have


def test_a_stream_is_watched(browser: Any, deploy: Callable[..., Any], small_scan: Any) -> None:
    service = deploy("page")
    amplitude = small_scan.patterns.amplitude()
    with (
        page_of(browser, f"{service.url}/#/live") as page,
        Client(service.url) as client,
        client.stream(N=32, model="tiny", domain="amplitude", preview_interval_s=0.1) as stream,
    ):
        for start in (0, 30):
            stream.push(small_scan.positions_px[start : start + 30], amplitude[start : start + 30])
            shown = "document.querySelector('main [role=status]').textContent"
            until(page, f"{shown} === '{start + 30} patterns'")
        page.get_by_role("application", name="Live image, Phase").wait_for()
        assert page.locator(".pane").count() == 2
        page.troubles = [
            trouble for trouble in page.troubles if "404" not in trouble
        ]  # asked before there was an image


def test_the_interface_is_documented_without_the_network(browser: Any, url: str) -> None:
    with page_of(browser, f"{url}/docs") as page:
        page.locator("[data-path='/v1/reconstructions']").first.wait_for()
