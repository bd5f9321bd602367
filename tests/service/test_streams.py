"""Streams into a service without Ray: the image at the end and the live image are of the scan's own numbers."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from helpers import PATIENCE_S
from starlette.testclient import TestClient

from ptycho_ray.bundle import PRETRAINED_FILE
from ptycho_ray.data import RawData
from ptycho_ray.service.api import make_app
from ptycho_ray.service.engine import LoadedModel
from ptycho_ray.service.live_image import ScanPhysics, physics_of_stream, predict
from ptycho_ray.service.live_preview import LivePreview
from ptycho_ray.service.memory import MemoryBudget
from ptycho_ray.service.service import Service
from ptycho_ray.service.settings import ServiceSettings
from ptycho_ray.service.spool import Spool, StreamSettings
from ptycho_ray.service.work import run_job

#: One trial and a short solution; what it makes is compared, not judged.
CHOICES = {"seed": 1, "budget_s": 1e-6, "refinement": {"iterations": 3, "position_start": None}}


class InThisProcess:
    """The replicas of the models."""

    service: Service

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings, self.memory = settings, MemoryBudget.of(settings)
        self.loaded = LoadedModel.load(PRETRAINED_FILE, settings)

    async def run(self, job_id: str, attempt: int, model_key: str) -> None:
        await asyncio.to_thread(run_job, job_id, attempt, None, self.service.jobs, self.settings, self.memory)

    async def predict(self, key: str, stream: str, first: int, frames: Any, positions: Any, domain: Any) -> Any:
        if first:
            physics = physics_of_stream(self.loaded, self.settings.job_folder(stream), first)
            return predict(physics, frames, positions, domain)


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Any:
    settings = ServiceSettings(
        data_dir=tmp_path_factory.mktemp("service"), models={"general": PRETRAINED_FILE}, require_token=False,
        accelerator="cpu", threads=1,
    )  # fmt: skip
    replicas = InThisProcess(settings)
    replicas.service = Service(settings, replicas, "here")
    with TestClient(make_app(replicas.service), base_url="http://127.0.0.1") as client:
        yield client


def counts(scan: RawData) -> np.ndarray:
    return np.rint(scan.patterns.intensity()).astype("<u2")


def streamed(http: TestClient, scan: RawData, **start: Any) -> tuple[dict[str, Any], int]:
    """The job at the end of a stream of the scan, and how many live images came."""
    previews = 0
    with http.websocket_connect("ws://127.0.0.1/v1/streams") as stream:
        begin = {"type": "start", "N": scan.N, "dtype": "uint16", "choices": CHOICES, "preview_interval_s": 0.05}
        stream.send_json(begin | start)
        assert stream.receive_json()["type"] == "ready"
        content = np.ascontiguousarray(scan.positions_px).tobytes() + counts(scan).tobytes()
        stream.send_bytes(struct.pack("<4sIQ", b"PTYF", len(scan), 0) + content)
        while not previews:
            message = stream.receive()
            previews += message.get("bytes") is not None
            assert "no-preview" not in message.get("text", "")
        stream.send_json({"type": "end"})
        while (message := stream.receive()).get("bytes") is not None or '"done"' not in message["text"]:
            pass

    return json.loads(message["text"])["job"], previews


def image_of(http: TestClient, job: dict[str, Any]) -> np.ndarray:

    assert job["state"] == "done", job
    content = http.get(f"/v1/reconstructions/{job['id']}/result").content
    with np.load(io.BytesIO(content)) as result:
        return np.asarray(result["object"])


@pytest.mark.parametrize("with_probe", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_stream_ends_in_the_automatic_image_of_the_same_file(
    http: TestClient, small_scan: RawData, tmp_path: Path, with_probe: bool
) -> None:
    """Probe and photons are those of the scan, or found from its patterns: nothing of a model's training enters."""
    arrays: dict[str, Any] = {
        "patterns": counts(small_scan),
        "xcoords": small_scan.xcoords,
        "ycoords": small_scan.ycoords,
    }
    start: dict[str, Any] = {}
    if with_probe:
        probe = np.ascontiguousarray(small_scan.probe, dtype="<c8")
        arrays["probeGuess"] = probe
        start["probe"] = {"shape": probe.shape, "data": base64.b64encode(probe.tobytes()).decode()}
    job, previews = streamed(http, small_scan, **start)
    assert job["model"] == "automatic"
    assert previews

    with h5py.File(tmp_path / "scan.h5", "w") as file:
        for name, values in arrays.items():
            file[name] = values
    query = {"seed": 1, "budget_s": 1e-6, "refinement.iterations": 3, "refinement.position_start": "none"}
    headers = {"Content-Type": "application/octet-stream", "Prefer": "wait=60"}
    content = (tmp_path / "scan.h5").read_bytes()
    sent = http.post("/v1/reconstructions", params=query, content=content, headers=headers)
    assert sent.status_code == 200, sent.text

    with np.load(io.BytesIO(sent.content)) as result:
        np.testing.assert_array_equal(image_of(http, job), result["object"])


def test_the_live_image_has_no_scale_of_its_own(small_scan: RawData, tmp_path: Path) -> None:
    """A hundred times the counts: the transmission is the same."""
    loaded = LoadedModel.load(PRETRAINED_FILE, ServiceSettings(data_dir=tmp_path, accelerator="cpu"))
    intensity = small_scan.patterns.intensity()
    found = []
    for factor in (1.0, 100.0):
        probe = small_scan.probe * np.float32(np.sqrt(factor))
        scan = RawData(small_scan.xcoords, small_scan.ycoords, None, None, intensity * np.float32(factor), probe)
        patches, _, weight = predict(
            ScanPhysics.of(loaded, scan), scan.patterns.amplitude()[:8], scan.positions_px[:8], "amplitude"
        )
        lit = weight > 0.5 * weight.max()
        found.append(float(np.abs(patches[:, lit]).mean()))
    assert found[1] == pytest.approx(found[0], rel=0.05)
    assert 0.3 < found[0] < 1.5


def test_patterns_and_choices_that_cannot_be(http: TestClient) -> None:
    for start, field in (
        ({"N": 2048}, "N"),
        ({"preview_model": "none"}, "model"),
        ({"probe": {"shape": [1, 32, 32], "data": "AAAA"}}, "probe"),
        ({"choices": {"stitch": "crop"}}, "stitch"),
    ):
        with http.websocket_connect("ws://127.0.0.1/v1/streams") as stream:
            stream.send_json({"type": "start", "N": 32} | start)
            problem = stream.receive_json()
        assert (problem["type"], problem["problem"]["field"]) == ("problem", field)
    with http.websocket_connect("ws://127.0.0.1/v1/streams") as stream:
        stream.send_json({"type": "start", "N": 8})
        assert stream.receive_json()["type"] == "ready"
        frames = np.full((1, 8, 8), np.nan, "<f4").tobytes()
        stream.send_bytes(struct.pack("<4sIQ", b"PTYF", 1, 0) + np.zeros(2).tobytes() + frames)
        assert stream.receive_json()["problem"]["field"] == "patterns"


def test_a_used_up_quota_is_told_before_a_frame_is_sent(tmp_path: Path) -> None:
    settings = ServiceSettings(data_dir=tmp_path, require_token=False, accelerator="cpu", max_jobs_per_token=1)

    class Busy:
        async def run(self, job_id: str, attempt: int, model_key: str) -> None:
            await asyncio.Event().wait()

    service = Service(settings, Busy(), "here")  # type: ignore[arg-type]
    service.jobs.create(
        owner="local", model="automatic@", options={}, source="demo:siemens", source_name="", deadline_s=60,
        max_jobs=9, max_jobs_of_owner=9,
    )  # fmt: skip
    http = TestClient(make_app(service), base_url="http://127.0.0.1")
    with http.websocket_connect("ws://127.0.0.1/v1/streams") as stream:
        stream.send_json({"type": "start", "N": 32})
        said = stream.receive_json()
    assert said["problem"]["status"] == 429, said


def test_a_stream_that_becomes_too_long_ends_there(tmp_path: Path) -> None:
    """What is stored is reconstructed; here the job says only how much that is."""

    class Counting(InThisProcess):
        async def run(self, job_id: str, attempt: int, model_key: str) -> None:
            with h5py.File(self.settings.job_folder(job_id) / "scan.h5") as file:
                self.service.jobs.finish(job_id, attempt, {"patterns": len(file["patterns"])})

    settings = ServiceSettings(data_dir=tmp_path, require_token=False, max_stream_bytes=5 * 32 * 32, accelerator="cpu")
    replicas = Counting(settings)
    replicas.service = Service(settings, replicas, "here")
    content = np.arange(8.0).tobytes() + bytes(4 * 32 * 32)
    client = TestClient(make_app(replicas.service), base_url="http://127.0.0.1")
    with client, client.websocket_connect("ws://127.0.0.1/v1/streams") as stream:
        stream.send_json({"type": "start", "N": 32, "dtype": "uint8"})
        answers = [stream.receive_json()]
        for first in (0, 4):
            stream.send_bytes(struct.pack("<4sIQ", b"PTYF", 4, first) + content)
            answers.append(stream.receive_json())
        while answers[-1]["type"] != "done":
            answers.append(stream.receive_json())
    assert [answer["type"] for answer in answers][:3] == ["ready", "ack", "full"]
    assert answers[2]["problem"]["status"] == 413
    assert answers[-1]["job"]["facts"]["patterns"] == 4


def test_a_live_image_that_falls_behind_is_current_first_and_whole_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that draws 20 patterns a second, and 256 that came at once: drawn in their order they took 13 seconds."""
    clock, drawn, seen = [0.0], list[int](), list[tuple[float, dict[str, Any]]]()

    class Slow:
        async def predict(self, key: str, stream: str, first: int, frames: Any, positions: Any, domain: Any) -> Any:
            clock[0] += 0.05 * len(frames)
            drawn.extend(int(number) for number in positions[:, 0])
            return np.ones((len(frames), 8, 8), np.complex64), positions, np.ones((8, 8), np.float32)

    class Socket:
        async def send_bytes(self, packed: bytes) -> None:
            (length,) = struct.unpack_from("<I", packed)
            seen.append((clock[0], json.loads(packed[4 : 4 + length])))
            preview.unseen = 0

    told = StreamSettings("me", "automatic", 8, "uint16", "intensity", None, None, None, None, preview_model="m")
    spool = Spool.create(tmp_path / "stream", told)
    service = SimpleNamespace(replicas=Slow(), settings=ServiceSettings(data_dir=tmp_path))
    monkeypatch.setattr("ptycho_ray.service.live_preview.time", SimpleNamespace(perf_counter=lambda: clock[0]))

    async def scenario() -> None:
        showing = asyncio.create_task(preview.show())
        for first, count in ((0, 256), (256, 40)):
            places = np.stack([np.arange(first, first + count), np.zeros(count)], axis=1).astype(float)
            spool.append(places, np.ones((count, 8, 8), np.uint16))
            begun = clock[0]
            preview.news.set()
            while not seen or seen[-1][1]["patterns"] < first + count:
                await asyncio.sleep(0.01)
            whole = next(at for at, header in seen if header["next"] == first + count)
            assert whole - begun < 1.0
        showing.cancel()

    preview = LivePreview(service, Socket(), spool, 0.0)  # type: ignore[arg-type]
    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))
    assert sorted(drawn) == list(range(296))
    assert {"read", "predict", "draw", "picture"} <= seen[1][1]["seconds"].keys()
