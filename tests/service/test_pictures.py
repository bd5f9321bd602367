"""What the page is made of, over HTTP and without a browser: looks, plans, layers, comparisons, files, shared links."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tifffile
from helpers import PATIENCE_S, wait_for
from service_here import service_here

from ptycho_ray.commands import info
from ptycho_ray.data.contents import default_max_bytes
from ptycho_ray.data.loading import read_both
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.service.job_results import RESULT, Solution, write_result
from ptycho_ray.service.layers import Layer, layer_names, layer_of
from ptycho_ray.service.page import STATIC, own_files


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory, scan_file: Path) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("pictures")
    with (
        service_here(folder, allowed_roots=(scan_file.parent,)) as (url, service),
        httpx.Client(base_url=url, timeout=PATIENCE_S) as client,
    ):
        client.headers["Prefer"] = "respond-async"
        client.service = service  # type: ignore[attr-defined]
        yield client


def ended(http: httpx.Client, answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 202, answer.text
    place = f"/v1/reconstructions/{answer.json()['id']}"

    def over() -> dict[str, Any] | None:
        job = http.get(place, params={"wait_s": 5}).json()
        return None if job["state"] in ("queued", "running") else job

    return wait_for(over, "the job ends")


def uploaded(http: httpx.Client, content: bytes, name: str = "scan.npz", **choices: Any) -> dict[str, Any]:
    headers = {"Content-Type": "application/octet-stream", "X-File-Name": name}
    return ended(http, http.post("/v1/reconstructions", content=content, headers=headers, params=choices))


def picture(http: httpx.Client, job: dict[str, Any], name: str, **how: Any) -> tuple[dict[str, Any], np.ndarray]:
    answer = http.get(f"/v1/reconstructions/{job['id']}/layers/{name}", params=how)
    assert answer.status_code == 200, answer.text
    return unpacked(answer.content)


def unpacked(content: bytes) -> tuple[dict[str, Any], np.ndarray]:
    (length,) = struct.unpack_from("<I", content)
    header = json.loads(content[4 : 4 + length])
    return header, np.frombuffer(content, header["dtype"], offset=4 + length).reshape(header["shape"])


@pytest.fixture(scope="module")
def look(http: httpx.Client, scan_file: Path) -> dict[str, Any]:
    return uploaded(http, scan_file.read_bytes(), until="look")


@pytest.fixture(scope="module")
def results(http: httpx.Client, look: dict[str, Any]) -> list[dict[str, Any]]:
    """Two images of the same upload, one of them with fewer iterations."""
    wishes = [{"budget_s": 0.1}, {"budget_s": 0.1, "refinement.iterations": 5}]
    return [ended(http, http.post("/v1/reconstructions", json={"job": look["id"]} | wish)) for wish in wishes]


def test_a_look_says_what_info_says(look: dict[str, Any], scan_file: Path) -> None:
    said = info.run([str(scan_file)])
    assert (look["model"], look["state"], look["links"].keys()) == ("look", "done", {"self"})
    assert look["facts"]["verdict"] == said["verdict"]
    assert look["facts"]["lines"]["file"].startswith("scan.npz, ")
    assert look["facts"]["patterns"] == said["patterns"]


def test_a_look_has_the_pictures_of_the_scan(http: httpx.Client, look: dict[str, Any], small_scan: Any) -> None:
    names = [layer["name"] for layer in http.get(f"/v1/reconstructions/{look['id']}/layers").json()]
    assert {"mean pattern", "positions", "probe mode 1", "integrated phase"} <= set(names)
    np.testing.assert_allclose(picture(http, look, "positions")[1], small_scan.positions_px, rtol=1e-6)
    np.testing.assert_array_equal(picture(http, look, "probe mode 1")[1], small_scan.probe[0])
    mean = np.mean(small_scan.patterns.amplitude() ** 2, axis=0)
    np.testing.assert_allclose(picture(http, look, "mean pattern")[1], mean, rtol=1e-4)
    assert http.get(f"/v1/reconstructions/{look['id']}/layers/nothing").status_code == 404


def test_a_file_that_is_no_scan_has_that_as_its_verdict_and_tells_no_path(http: httpx.Client) -> None:
    job = uploaded(http, b"this is not a scan", "notes.txt", until="look")
    data_dir = http.service.settings.data_dir  # type: ignore[attr-defined]
    assert job["state"] == "done"
    assert job["facts"]["readable"] is False
    assert "not readable" in job["facts"]["verdict"]
    assert str(data_dir) not in json.dumps(job)
    assert http.get(f"/v1/reconstructions/{job['id']}/layers").status_code == 410


def test_a_plan_decides_and_solves_nothing(http: httpx.Client, look: dict[str, Any]) -> None:
    job = ended(http, http.post("/v1/reconstructions", json={"job": look["id"], "until": "plan", "budget_s": 0.1}))
    assert job["facts"]["settings"]["iterations"] > 0
    assert job["facts"]["plan"]
    assert job["links"].keys() == {"self"}


def test_the_scan_of_a_deleted_look_stays_with_its_result(http: httpx.Client, scan_file: Path) -> None:
    first = uploaded(http, scan_file.read_bytes(), until="look")
    again = http.post("/v1/reconstructions", json={"job": first["id"], "until": "look"})
    assert http.delete(f"/v1/reconstructions/{first['id']}").status_code == 204
    assert ended(http, again)["facts"]["readable"] is True
    assert http.post("/v1/reconstructions", json={"job": first["id"]}).status_code == 404


def test_a_job_says_what_was_given_and_how_it_went(results: list[dict[str, Any]]) -> None:
    assert results[1]["given"] == {"budget_s": 0.1, "refinement.iterations": 5}
    assert [row[0] for row in results[1]["facts"]["held_out"]] == [5]
    assert results[1]["facts"]["held_out"][-1][1] == pytest.approx(results[1]["facts"]["figures"]["r_factor"], rel=0.5)


def test_the_object_without_ramp_and_without_jumps(http: httpx.Client, results: list[dict[str, Any]]) -> None:
    header, plain = picture(http, results[0], "object")
    _, flat = picture(http, results[0], "object", ramp=False)
    unwrapped, phase = picture(http, results[0], "object", unwrap=True)
    seen = plain != 0
    assert (header["dtype"], unwrapped["dtype"], unwrapped["unit"]) == ("complex64", "float32", "rad")
    np.testing.assert_allclose(np.abs(flat), np.abs(plain), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.exp(1j * phase[seen]), plain[seen] / np.abs(plain[seen]), atol=1e-4)
    assert np.isnan(phase[~seen]).all()
    assert abs(flat[seen].sum()) >= 0.999 * abs(plain[seen].sum())  # as flat as it can be


def test_slices_modes_and_error_bars_are_layers(tmp_path: Path, small_scan: Any) -> None:
    rng = np.random.default_rng(0)
    slices = np.exp(1j * rng.normal(size=(3, 40, 50))).astype(np.complex64)
    weight = np.ones((40, 50), np.float32)
    weight[:5] = 0
    deviation = rng.random((40, 50)).astype(np.float32)
    stitched = StitchedObject(slices.prod(axis=0), weight, (2.0, 3.0), deviation, deviation / 2)
    write_result(tmp_path / RESULT, Solution(stitched, small_scan, slices), {})
    names = [layer["name"] for layer in layer_names(tmp_path)]
    assert names == [
        "object", "probe mode 1", "slice 1", "slice 2", "slice 3", "amplitude deviation", "phase deviation",
        "illumination", "positions",
    ]  # fmt: skip
    found = {name: layer_of(tmp_path, name) for name in names}
    np.testing.assert_array_equal(found["slice 2"].values, slices[1][5:])
    np.testing.assert_array_equal(found["phase deviation"].values, deviation[5:] / 2)
    assert (found["phase deviation"].unit, list(found["object"].origin_px)) == ("rad", [7.0, 3.0])
    for wrong in ("slice 0", "slice 4", "probe mode 2", "slice", "facts"):
        with pytest.raises(KeyError):
            layer_of(tmp_path, wrong)


def test_a_large_picture_is_thinned_and_says_so() -> None:
    layer = Layer("wide", np.arange(24.0).reshape(2, 12), "scan", 1e-8)
    header, values = unpacked(layer.packed(most=5))
    assert (header["step_px"], values.shape) == ([3.0, 3.0], (1, 4))
    np.testing.assert_array_equal(values, [[0, 3, 6, 9]])


def test_two_results_are_compared_after_alignment(http: httpx.Client, results: list[dict[str, Any]]) -> None:
    first, second = (job["id"] for job in results)
    base = f"/v1/reconstructions/{first}/comparison/{second}"
    facts = http.get(base).json()
    assert 0 < facts["figures"]["complex_nrmse"] < 1
    one, two, difference = (
        unpacked(http.get(f"{base}/{name}").content)[1] for name in ("first", "second", "amplitude difference")
    )
    np.testing.assert_allclose(difference[one != 0], (np.abs(two) - np.abs(one))[one != 0], atol=1e-5)
    itself = http.get(f"/v1/reconstructions/{first}/comparison/{first}").json()["figures"]
    assert itself["complex_nrmse"] < 1e-5


def test_tiff_and_cxi_hold_the_image(
    http: httpx.Client, results: list[dict[str, Any]], look: dict[str, Any], tmp_path: Path
) -> None:
    _, image = picture(http, results[0], "object")
    tiff = tmp_path / "image.tif"
    tiff.write_bytes(http.get(f"/v1/reconstructions/{results[0]['id']}/result?output=tiff").content)
    amplitude, phase = tifffile.imread(tiff)
    assert amplitude.dtype == np.float32
    np.testing.assert_allclose(amplitude * np.exp(1j * phase), image, atol=1e-5)
    refused = http.get(f"/v1/reconstructions/{results[0]['id']}/result?output=cxi")
    assert (refused.status_code, refused.json()["field"]) == (422, "pixel_size_m")
    wish = {"job": look["id"], "pixel_size_m": 2e-8, "budget_s": 0.1, "refinement.iterations": 2}
    known = ended(http, http.post("/v1/reconstructions", json=wish))
    cxi = tmp_path / "image.cxi"
    cxi.write_bytes(http.get(f"/v1/reconstructions/{known['id']}/result?output=cxi").content)
    fields = read_both(cxi, None, default_max_bytes())
    with np.load(http.service.settings.job_folder(known["id"]) / "result.npz") as result:  # type: ignore[attr-defined]
        np.testing.assert_array_equal(fields.object_truth, result["object"])
        np.testing.assert_allclose(fields.positions + result["origin_px"], result["positions_px"], atol=1e-6)
    assert fields.pixel_size_m == 2e-8


def test_an_operator_sees_queue_throughput_and_failures(http: httpx.Client, results: list[dict[str, Any]]) -> None:
    failed = uploaded(http, b"junk", "junk.npz")
    seen = http.get("/v1/overview").json()
    assert seen["counts"]["failed"] >= 1
    assert failed["id"] in [job["id"] for job in seen["failures"]]
    assert seen["throughput"]["hour"]["done"] >= len(results)
    assert seen["throughput"]["hour"]["patterns"] >= 60
    assert seen["queue"] == []


def test_a_shared_job_opens_to_its_key_and_nothing_else_does(tmp_path: Path, scan_file: Path) -> None:
    with service_here(tmp_path, require_token=True) as (url, service):
        tokens = {name: service.tokens.add(name, "submit")[1] for name in ("owner", "other")}
        with (
            httpx.Client(base_url=url, headers={"Authorization": f"Bearer {tokens['owner']}"}, timeout=60) as owner,
            httpx.Client(base_url=url, headers={"Authorization": f"Bearer {tokens['other']}"}, timeout=60) as other,
            httpx.Client(base_url=url, timeout=60) as nobody,
        ):
            owner.headers["Prefer"] = "respond-async"
            job, hidden = (uploaded(owner, scan_file.read_bytes(), until="look")["id"] for _ in range(2))
            place = f"/v1/reconstructions/{job}"
            assert other.post(f"{place}/share").status_code == 404
            key = {"X-Share-Key": owner.post(f"{place}/share").json()["key"]}
            for path in (place, f"{place}/layers", f"{place}/layers/positions"):
                assert other.get(path).status_code == 404, path
                assert other.get(path, headers={"X-Share-Key": "guess"}).status_code == 404, path
                assert nobody.get(path, headers=key).status_code == 401, path
                assert other.get(path, headers=key).status_code == 200, path
            assert other.get(f"/v1/reconstructions/{hidden}", headers=key).status_code == 404
            assert other.delete(place, headers=key).status_code == 404
            assert other.post("/v1/reconstructions", json={"job": job}, headers=key).status_code == 404
            assert other.get("/v1/overview").status_code == 403
            assert owner.delete(f"{place}/share").status_code == 204
            assert other.get(place, headers=key).status_code == 404


def test_the_vendored_libraries_are_those_of_the_lock_and_small() -> None:
    lock = json.loads((STATIC / "vendor" / "package-lock.json").read_text())["packages"]
    licences = (STATIC / "vendor" / "LICENSES.txt").read_text()
    for name in ("preact", "htm", "uplot"):
        assert f"{name} {lock[f'node_modules/{name}']['version']}\n" in licences
    assert sum((STATIC / name).stat().st_size for name in own_files()) < 350_000
