"""Every state of the page, in light and dark, on a telephone, a laptop and a wall: nothing is wider than the screen, and axe
finds no barrier.

PTYCHO_RAY_PICTURES=FOLDER keeps a picture of each: ``pytest -m slow tests/service/test_page_states.py``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from browsing import chromium, page_of
from helpers import ROOT
from service_here import service_here

from ptycho_ray.client import Client
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.service.jobs import AUTOMATIC
from ptycho_ray.service.layers import write_preview
from ptycho_ray.service.service import Service

pytestmark = pytest.mark.slow
WIDTHS = (360, 1024, 2560)
ELECTRONS = ROOT.parent / "shared" / "data" / "rotavirus_train.npz"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[str, Callable[[Any], None]]]]:
    """By name: the address of a state, and what is done there."""
    folder = tmp_path_factory.mktemp("states")
    with (
        service_here(folder / "open", allowed_roots=(ELECTRONS.parent,)) as (url, service),
        service_here(folder / "closed", require_token=True) as (closed, _),
        Client(url) as client,
    ):
        yield {"token": (f"{closed}/", lambda page: page.get_by_label("Bearer token").wait_for())} | {
            name: (f"{url}/#/{place}", do) for name, (place, do) in states(client, url, service).items()
        }


def states(client: Client, url: str, service: Service) -> dict[str, tuple[str, Callable[[Any], None]]]:
    look = client.wait(client.submit(demo="siemens", until="look")["id"])["id"]
    wishes: list[dict[str, Any]] = [{"refinement": {"iterations": n}, "evaluate": True} for n in (20, 5)]
    wishes[0]["uncertainty"] = True
    first, second = (client.wait(client.submit(demo="siemens", budget_s=1.0, **wish)["id"])["id"] for wish in wishes)
    broken = client.submit(demo="siemens", refinement={"thickness_angstrom": 10.0, "slices": 2})["id"]
    with httpx.Client(base_url=url) as http:
        headers = {"Content-Type": "application/octet-stream", "X-File-Name": "notes.txt", "Prefer": "respond-async"}
        junk = http.post("/v1/reconstructions?until=look", content=b"no scan", headers=headers).json()["id"]
    found = {
        "new": ("", lambda page: page.get_by_role("button", name="a Siemens star").wait_for()),
        "look": (f"job/{look}", looked),
        "plan": (f"job/{look}", planned),
        "unreadable": (f"job/{junk}", lambda page: page.locator(".verdict.failed").wait_for()),
        "running": (f"job/{running(service)}", lambda page: page.get_by_role("application").first.wait_for()),
        "result": (f"job/{first}", profiled),
        "hue": (f"job/{first}", hued),
        "failed": (f"job/{broken}", lambda page: page.get_by_role("alert").wait_for()),
        "history": ("history", lambda page: page.get_by_role("table").wait_for()),
        "live": ("live", lambda page: page.get_by_label("Scan that is being measured").wait_for()),
        "operator": ("operator", lambda page: page.get_by_role("heading", name="Throughput").wait_for()),
    }
    for way in ("side by side", "swipe", "difference"):
        found[f"compare {way}"] = (f"compare/{first}/{second}", compared(way))
    if ELECTRONS.exists():
        of_electrons = client.wait(client.submit(path=str(ELECTRONS), until="look")["id"])["id"]
        found["look electrons"] = (f"job/{of_electrons}", looked)
    return found


def running(service: Service) -> str:
    """A job that another worker has for as long as the tests last."""
    job, _ = service.jobs.create(
        owner="local", model=AUTOMATIC, options={}, source="demo:siemens", source_name="scan_0042.h5", deadline_s=9e9,
        max_jobs=99, max_jobs_of_owner=99,
    )  # fmt: skip
    service.jobs.clock, clock = (lambda: clock() + 1e6), service.jobs.clock
    attempt = service.jobs.claim(job.id, "elsewhere")
    service.jobs.clock = clock
    assert attempt is not None
    lines = ["1e+06 photons a pattern", "400 patterns of 64 x 64; neighbours overlap by 78%", "2 probe modes"]
    judged = [[n, 0.1 + 0.3 * np.exp(-n / 9)] for n in range(5, 25, 5)]
    service.jobs.report(job.id, attempt, "solving", 20, 40, {"plan": lines, "held_out": judged})
    row, column = np.mgrid[-1:1:90j, -1:1:120j]
    image = (0.8 + 0.2 * np.cos(9 * row)) * np.exp(1j * np.sin(7 * column * row))
    folder = service.settings.job_folder(job.id)
    folder.mkdir(parents=True)
    write_preview(folder, StitchedObject(image.astype(np.complex64), np.ones(image.shape), (0.0, 0.0)), 2e-8, 20)
    return job.id


def looked(page: Any) -> None:
    page.get_by_text("What the file says", exact=True).wait_for()
    page.get_by_role("button", name="Look closer at mean pattern").click()
    page.get_by_role("application", name="Look, mean pattern").wait_for()
    page.get_by_text("Probe", exact=False).and_(page.locator("summary")).first.click()


def planned(page: Any) -> None:
    page.get_by_label("Find").fill("budget")
    page.locator("#set-budget_s").fill("0.5")
    page.get_by_role("button", name="Propose settings").click()
    page.get_by_text("What was decided stands in the fields below").wait_for()
    page.get_by_label("Find").fill("")


def profiled(page: Any) -> None:
    page.get_by_role("application", name="Image, Amplitude").focus()
    page.keyboard.press("Shift+ArrowDown")
    page.locator(".profile summary").click()
    page.locator(".profile").get_by_role("button", name="Show").click()
    page.get_by_role("img", name="Line profile").wait_for()


def hued(page: Any) -> None:
    page.get_by_label("Show", exact=True).select_option("all three")
    page.get_by_role("application", name="Image, Complex").wait_for()


def compared(way: str) -> Callable[[Any], None]:
    def choose(page: Any) -> None:
        page.get_by_role("button", name=way).click()
        page.get_by_role("application").first.wait_for()

    return choose


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_state_fits_every_screen_and_has_no_barrier(
    browser: Any, places: dict[str, tuple[str, Callable[[Any], None]]], theme: str, tmp_path: Path
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    folder = Path(os.environ.get("PTYCHO_RAY_PICTURES", str(tmp_path)))
    folder.mkdir(parents=True, exist_ok=True)
    troubles: list[Any] = []
    for name, (url, do) in places.items():
        with page_of(browser, url, color_scheme=theme) as page:
            do(page)
            page.wait_for_timeout(300)
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 1440 if width > 2000 else 800})
                page.wait_for_timeout(250)
                if (wide := page.evaluate("document.documentElement.scrollWidth")) > width:
                    troubles.append((name, theme, width, f"{wide} px wide"))
                page.screenshot(path=folder / f"{name.replace(' ', '-')}-{theme}-{width}.png", full_page=True)
            found = axe.run(page).response["violations"]
            troubles += [(name, theme, rule["id"], [node["html"][:120] for node in rule["nodes"]]) for rule in found]
            page.troubles = [trouble for trouble in page.troubles if name != "token" or "401" not in trouble]
    assert troubles == []
