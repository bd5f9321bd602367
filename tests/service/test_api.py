"""The HTTP interface of a running service."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
import pytest
from helpers import PATIENCE_S

from ptycho_ray.bundle import load_bundle
from ptycho_ray.config.schema import docstrings_of_fields
from ptycho_ray.refinement.config import RefinementConfig
from ptycho_ray.workflow import load_data, reassemble_cdi_image

RAW = {"Content-Type": "application/octet-stream"}
WITH_MODEL = "/v1/reconstructions?model=tiny"
ASYNC = RAW | {"Prefer": "respond-async"}


@pytest.fixture(scope="module")
def service(one_service: Any) -> Any:
    return one_service


@pytest.fixture(scope="module")
def http(service: Any) -> Iterator[httpx.Client]:
    token = {"Authorization": f"Bearer {service.tokens['admin']}"}
    with httpx.Client(base_url=service.url, headers=token, timeout=PATIENCE_S) as client:
        yield client


@pytest.fixture(scope="module")
def expected(service: Any, scan_file: Path) -> Any:
    """The core's image of the scan."""
    bundle = load_bundle(service.model_root / "tiny" / "1")
    _, _, results = reassemble_cdi_image(load_data(scan_file), bundle.config, model=bundle.model, keep_patches=False)
    return results["stitched"]


def same_image(content: bytes, expected: Any) -> None:
    with np.load(io.BytesIO(content), allow_pickle=False) as result:
        np.testing.assert_allclose(result["object"], expected.image, atol=2e-5)
        assert tuple(result["origin_px"]) == expected.origin_px


def problem_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["status"] == status
    assert {"type", "title", "detail", "instance"} <= set(document)
    assert "Traceback" not in answer.text
    return document


def ended(http: httpx.Client, job_id: str) -> dict[str, Any]:
    until = time.monotonic() + PATIENCE_S
    while True:
        job: dict[str, Any] = http.get(f"/v1/reconstructions/{job_id}", params={"wait_s": 2}).json()
        if job["state"] not in ("queued", "running"):
            return job
        assert time.monotonic() < until, job


def test_a_scan_goes_in_and_its_image_comes_out(http: httpx.Client, scan_file: Path, expected: Any) -> None:
    answer = http.post(WITH_MODEL, content=scan_file.read_bytes(), headers=RAW)
    assert answer.status_code == 200, answer.text
    same_image(answer.content, expected)


def test_a_form_does_as_well(http: httpx.Client, scan_file: Path, expected: Any) -> None:
    files = {"file": ("my scan.npz", scan_file.read_bytes())}
    answer = http.post("/v1/reconstructions", files=files, data={"model": "tiny@1", "output": "npz"})
    assert answer.status_code == 200, answer.text
    same_image(answer.content, expected)
    assert http.get(f"/v1/reconstructions/{answer.headers['x-reconstruction']}").json()["source"] == "my scan.npz"


def test_a_path_under_an_allowed_folder_does_as_well(
    http: httpx.Client, service: Any, scan_file: Path, expected: Any
) -> None:
    path = service.allowed_root / "scan.npz"
    path.write_bytes(scan_file.read_bytes())
    answer = http.post(WITH_MODEL, json={"path": str(path)})
    assert answer.status_code == 200, answer.text
    same_image(answer.content, expected)
    assert problem_of(http.post("/v1/reconstructions", json={"path": "/etc/hostname"}), 403)["field"] == "path"
    problem_of(http.post("/v1/reconstructions", json={"path": str(path) + "x"}), 404)


def test_hdf5_does_as_well(http: httpx.Client, small_scan: Any, tmp_path: Path, expected: Any) -> None:
    small_scan.to_file(tmp_path / "scan.h5")
    answer = http.post(WITH_MODEL, content=(tmp_path / "scan.h5").read_bytes(), headers=RAW)
    assert answer.status_code == 200, answer.text
    same_image(answer.content, expected)


def test_a_job_and_its_results(http: httpx.Client, scan_file: Path, expected: Any, tmp_path: Path) -> None:
    answer = http.post(WITH_MODEL, content=scan_file.read_bytes(), headers=ASYNC)
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == job["links"]["self"]
    done = ended(http, job["id"])
    assert (done["state"], done["progress"], done["facts"]["patterns"]) == ("done", 1.0, 60)
    cost = done["cost"]
    assert (cost["patterns"], cost["side"], cost["gpu_s"]) == (60, 32, 0)
    assert cost["cpu_s"] > 0
    assert cost["bytes"] > scan_file.stat().st_size
    assert done["kept_until"] > done["finished"]
    assert json.loads(http.get(f"/v1/reconstructions/{job['id']}/result").headers["x-cost"]) == cost
    likely = http.get("/v1/estimate?patterns=60&side=32&model=tiny").json()
    assert likely["jobs"] >= 1
    assert likely["cpu_s"] > 0
    server = httpx.URL(str(http.base_url)).copy_with(path="/")
    for form, link in done["links"].items():
        found = http.get(server.join(link))
        assert found.status_code == 200
        if form == "hdf5":
            (tmp_path / "product.h5").write_bytes(found.content)
            with h5py.File(tmp_path / "product.h5") as product:
                np.testing.assert_allclose(product["object"][0], expected.image, atol=2e-5)
        if form == "png":
            assert found.content.startswith(b"\x89PNG")
        if form == "npz":
            same_image(found.content, expected)
    assert http.delete(f"/v1/reconstructions/{job['id']}").status_code == 204
    problem_of(http.get(f"/v1/reconstructions/{job['id']}"), 404)


def test_without_a_model_the_scan_is_reconstructed_automatically(http: httpx.Client, scan_file: Path) -> None:
    given = {"refinement.iterations": 6, "refinement.position_start": "none", "seed": 4}
    answer = http.post("/v1/reconstructions", params=given, content=scan_file.read_bytes(), headers=ASYNC)
    assert answer.status_code == 202, answer.text
    done = ended(http, answer.json()["id"])
    assert (done["state"], done["model"]) == ("done", "automatic"), done
    facts = done["facts"]
    assert f"{facts['figures']['times_noise']:.2f} times the photon noise" in facts["verdict"]
    assert len(facts["plan"]) >= 2
    assert facts["trials"][0]["assumption"] == "probe of the file"
    server = httpx.URL(str(http.base_url)).copy_with(path="/")
    with np.load(io.BytesIO(http.get(server.join(done["links"]["scan"])).content), allow_pickle=False) as refined:
        assert len(refined["xcoords"]) == facts["patterns"]
    report = http.get(server.join(done["links"]["report"])).text
    assert facts["verdict"].partition(" (")[0] in report
    assert "/jobs/" not in report, "a path of the server"


def test_a_look_and_the_image_of_the_same_upload(http: httpx.Client, scan_file: Path) -> None:
    look = http.post("/v1/reconstructions?until=look&output=json", content=scan_file.read_bytes(), headers=RAW).json()
    assert (look["state"], look["model"], look["facts"]["readable"]) == ("done", "look", True)
    job = http.post("/v1/reconstructions", json={"job": look["id"], "model": "tiny", "output": "json"}).json()
    assert (job["state"], job["given"]) == ("done", {"model": "tiny@1"})
    assert sum(http.get("/v1/overview").json()["replicas"]["Models"].values()) == 1


def test_the_same_key_is_the_same_job(http: httpx.Client, scan_file: Path) -> None:
    headers = ASYNC | {"Idempotency-Key": "once"}
    first = http.post(WITH_MODEL, content=scan_file.read_bytes(), headers=headers).json()
    again = http.post(WITH_MODEL, content=scan_file.read_bytes(), headers=headers).json()
    assert first["id"] == again["id"]


def test_a_demo_is_compared_with_its_truth(http: httpx.Client) -> None:
    answer = http.post(WITH_MODEL, json={"demo": "lines", "evaluate": True, "output": "json"})
    assert answer.status_code == 200, answer.text
    evaluation = answer.json()["facts"]["evaluation"]
    assert len(evaluation["frc"]["frequency"]) == len(evaluation["frc"]["correlation"])
    assert evaluation["amplitude"]["mae"] > 0


@pytest.mark.parametrize(
    ("body", "params", "headers", "status", "field"),
    [
        (b"", {}, RAW, 400, "body"),
        (b"junk", {}, RAW, 422, None),
        (b"PK\x03\x04junk", {}, RAW, 422, None),
        (b"\x89HDF\r\n\x1a\njunk", {}, RAW, 422, None),
        (b"x", {}, {"Content-Type": "text/plain"}, 415, "Content-Type"),
        (b"x", {"model": "none"}, RAW, 422, "model"),
        (b"x", {"model": "tiny@"}, RAW, 422, "model"),
        (b"x", {"model": "tiny", "gridsize": 2}, RAW, 422, "gridsize"),
        (b"x", {"gridsize": 2}, RAW, 422, "gridsize"),
        (b"x", {"neighbor_count": 5}, RAW, 422, "neighbor_count"),
        (b"x", {"model": "tiny", "neighbor_count": 10**9}, RAW, 422, "neighbor_count"),
        (b"x", {"model": "tiny", "seed": 2}, RAW, 422, "seed"),
        (b"x", {"model": "tiny", "refinement.method": "epie"}, RAW, 422, "refinement.method"),
        (b"x", {"refinement.method": "epi"}, RAW, 422, "refinement.method"),
        (b"x", {"refinement.probe_modes": 65}, RAW, 422, "refinement.probe_modes"),
        (b"x", {"refinement.slices": 2}, RAW, 422, "refinement.slice_distance_px2"),
        (b"x", {"refinement.prior": "/etc/passwd"}, RAW, 422, "refinement.prior"),
        (b"x", {"refinement.probe_mode": 2}, RAW, 422, "refinement.probe_mode"),
        (b"x", {"refinement_iterations": -3}, RAW, 422, "refinement_iterations"),
        (b"x", {"stitch": "glue"}, RAW, 422, "stitch"),
        (b"x", {"nonsense": 1}, RAW, 422, "nonsense"),
        (b"{", {}, {"Content-Type": "application/json"}, 422, "body"),
        (b"{}", {}, {"Content-Type": "application/json"}, 422, "path"),
        (b'{"demo": "nothing"}', {}, {"Content-Type": "application/json"}, 422, "demo"),
        (b"x", {}, {"Content-Type": "multipart/form-data; boundary=b"}, 400, "body"),
        (b"x", {}, {"Content-Type": "multipart/form-data"}, 400, "body"),
    ],
)
def test_every_error_says_what_was_wrong(
    http: httpx.Client, body: bytes, params: Any, headers: Any, status: int, field: str | None
) -> None:
    answer = http.post("/v1/reconstructions", content=body, params=params, headers=headers)
    assert problem_of(answer, status).get("field") == field


def test_a_scan_with_something_missing_names_it(http: httpx.Client, scan_file: Path) -> None:
    with np.load(scan_file) as scan:
        arrays = {name: scan[name] for name in scan.files if name != "xcoords"}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    headers = RAW | {"X-File-Name": "mine.npz"}
    document = problem_of(http.post(WITH_MODEL, content=buffer.getvalue(), headers=headers), 422)
    assert document["field"] == "xcoords"
    assert document["file"] == "mine.npz"
    assert "/data" not in json.dumps(document)


def test_paths_that_do_not_exist(http: httpx.Client) -> None:
    problem_of(http.get("/v1/nothing"), 404)
    problem_of(http.put("/v1/models"), 405)
    problem_of(http.get("/v1/models/none"), 404)
    problem_of(http.get("/v1/reconstructions/none"), 404)


def test_a_result_that_is_not_there_yet(http: httpx.Client, service: Any, scan_file: Path) -> None:
    answer = http.post(WITH_MODEL, json={"demo": "siemens"}, headers={"Prefer": "respond-async"})
    job = answer.json()
    early = http.get(f"/v1/reconstructions/{job['id']}/result")
    if early.status_code != 200:
        assert problem_of(early, 409)["found"] in ("queued", "running")
        assert early.headers["retry-after"] == "1"
    http.delete(f"/v1/reconstructions/{job['id']}")
    assert ended(http, job["id"])["state"] in ("cancelled", "done")


def test_a_deadline_is_kept(http: httpx.Client) -> None:
    answer = http.post(WITH_MODEL, json={"demo": "siemens", "deadline_s": 0.001})
    problem_of(answer, 408)


def test_models_are_described(http: httpx.Client) -> None:
    (model,) = http.get("/v1/models").json()
    assert model == {
        "name": "tiny",
        "version": "1",
        "state": "good",
        "problem": None,
        "N": 32,
        "sides": "32",
        "gridsize": 1,
        "architecture": "cnn",
    }
    details = http.get("/v1/models/tiny").json()
    assert details["figures"] == {"loss": 1.0}
    assert details["provenance"] == {"data": "scan.npz"}
    assert details["config"]["model"]["N"] == 32


def test_operations(http: httpx.Client) -> None:
    assert http.get("/healthz").json() == {"ok": True}
    assert http.get("/readyz").json() == {"ok": True, "models": ["tiny@1"]}
    text = http.get("/metrics").text
    assert re.search(r'ptycho_ray_jobs\{state="done"\} \d+', text)
    assert 'ptycho_ray_requests_total{method="GET",route="/v1/models",status="200"}' in text


def test_the_document_describes_everything(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    assert {"/v1/reconstructions", "/v1/reconstructions/{id}", "/v1/models", "/healthz", "/metrics"} <= set(
        document["paths"]
    )
    post = document["paths"]["/v1/reconstructions"]["post"]
    assert {"200", "202", "401", "413", "422", "429", "503", "507"} <= set(post["responses"])
    asked = {parameter["name"]: parameter for parameter in post["parameters"]}
    for field in dataclasses.fields(RefinementConfig):
        if field.name == "seed":
            continue  # one of everything, without a prefix
        said = asked[f"refinement.{field.name}"]["description"]
        assert said.startswith(docstrings_of_fields(RefinementConfig)[field.name])
        assert said.endswith(f"Default: {str(field.default).lower()}.")
    assert document["components"]["schemas"]["ProblemDetails"]["properties"]["detail"]["examples"]


def test_answers_carry_security_headers(http: httpx.Client) -> None:
    for answer in (http.get("/healthz"), http.get("/v1/nothing")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert "access-control-allow-origin" not in answer.headers
        assert len(answer.headers.get_list("x-request-id")) == 1


def test_a_request_has_one_number_and_it_may_be_the_callers(http: httpx.Client) -> None:
    for given, kept in (("scan-0042-of-may", True), ("no: a number", False)):
        answer = http.get("/v1/models/none", headers={"X-Request-Id": given})
        assert (answer.json()["instance"] == f"urn:request:{given}") is kept
    answer = http.get("/v1/models/none")
    assert answer.json()["instance"] == f"urn:request:{answer.headers['x-request-id']}"
