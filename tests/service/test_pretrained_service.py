"""The service with nothing but what comes with the program."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from ptycho_ray.bundle import PRETRAINED_FILE, load_bundle
from ptycho_ray.commands.cli import main
from ptycho_ray.errors import InputError
from ptycho_ray.service import start
from ptycho_ray.service.api import make_app
from ptycho_ray.service.demos import write_demo
from ptycho_ray.service.engine import LoadedModel, Options, read_scan, reconstruct
from ptycho_ray.service.live_image import ScanPhysics, predict
from ptycho_ray.service.models import ModelStore
from ptycho_ray.service.service import Service
from ptycho_ray.service.settings import ServiceSettings


def test_serve_alone_serves_the_model_that_comes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[ServiceSettings] = []
    monkeypatch.setattr(start, "run_service", lambda settings, **_: started.append(settings))
    assert main(["serve", "--data-dir", str(tmp_path)]) == 0
    assert started[0].models == {"pretrained": PRETRAINED_FILE}
    assert main(["serve", "other=pretrained", "--data-dir", str(tmp_path)]) == 0
    assert started[1].models == {"other": PRETRAINED_FILE}


def test_a_port_that_is_taken_is_named_before_anything_starts(tmp_path: Path, model_file: Path, capsys: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", str(model_file), "--data-dir", str(tmp_path), "--port", str(port)]) == 2
    assert f"found {port} (Address already in use)" in capsys.readouterr().err


def test_demos_and_live_images_have_the_side_of_the_probe_that_the_model_holds(tmp_path: Path) -> None:
    settings = ServiceSettings(data_dir=tmp_path, models={"pretrained": PRETRAINED_FILE}, require_token=False)
    store = ModelStore(settings)
    (model,) = store.usable()
    side = store.check(model).side
    loaded = LoadedModel.load(PRETRAINED_FILE, settings)
    scan = read_scan(write_demo("siemens", loaded, tmp_path / "demo.npz"), settings)
    assert (side, scan.N) == (128, 128)
    patches, _, weight = predict(
        ScanPhysics.of(loaded, scan), scan.patterns.amplitude()[:3], scan.positions_px[:3], "amplitude"
    )
    assert patches.shape == (3, side, side)
    assert weight.shape == (side, side)


def test_a_model_says_which_patterns_it_takes_and_what_to_do_with_others(
    tmp_path: Path, model_file: Path, small_scan: Any
) -> None:
    settings = ServiceSettings(
        data_dir=tmp_path, models={"pretrained": PRETRAINED_FILE, "tiny": model_file}, require_token=False
    )
    service = Service(settings, NoLiveImage(), "here")
    with TestClient(make_app(service), base_url="http://127.0.0.1") as http:
        said = {model["name"]: model["sides"] for model in http.get("/v1/models").json()}
    assert said == {"pretrained": "a multiple of 8, at least 32", "tiny": "32"}
    takes = {name: load_bundle(path).takes for name, path in settings.models.items()}
    for name, sides in {"pretrained": {32, 64, 96, 128, 512}, "tiny": {32}}.items():
        assert {side for side in (24, 32, 64, 96, 100, 128, 512) if takes[name](side)} == sides
    small_scan.to_file(tmp_path / "scan.npz")
    loaded = LoadedModel.load(model_file, settings)
    scan = read_scan(tmp_path / "scan.npz", settings)
    assert reconstruct(scan, loaded, Options()).image.ndim == 2
    wide = write_demo("lines", None, tmp_path / "wide.npz")
    with pytest.raises(InputError, match="Name no model"):
        reconstruct(read_scan(wide, settings), loaded, Options())


class NoLiveImage:
    """Ends each job at once, and has no live image."""

    service: Service

    async def run(self, job_id: str, attempt: int, model_key: str) -> None:
        self.service.jobs.finish(job_id, attempt, {})

    async def predict(self, *_: Any) -> Any:
        raise RuntimeError("of the live image")


def test_a_stream_outlives_its_live_image(tmp_path: Path, model_file: Path) -> None:
    replicas = NoLiveImage()
    settings = ServiceSettings(data_dir=tmp_path, models={"tiny": model_file}, require_token=False)
    replicas.service = Service(settings, replicas, "here")
    frames = struct.pack("<4sIQ", b"PTYF", 4, 0) + np.arange(8.0).tobytes() + np.ones((4, 32, 32), "<f4").tobytes()
    again = struct.pack("<4sIQ", b"PTYF", 4, 4) + frames[16:]
    http = TestClient(make_app(replicas.service), base_url="http://127.0.0.1")
    with http, http.websocket_connect("ws://127.0.0.1/v1/streams") as stream:
        told: list[Any] = []
        stream.send_json({"type": "start", "N": 32})
        assert stream.receive_json()["type"] == "ready"
        for number, message in enumerate((frames, again)):
            stream.send_bytes(message)
            answers = [stream.receive_json()]
            if answers[0]["type"] == "no-preview":
                told += answers
                answers = [stream.receive_json()]
            assert answers == [{"type": "ack", "next": 4 * number + 4}]
        stream.send_json({"type": "end"})
        while (last := stream.receive_json())["type"] != "done":
            told += [last] if last["type"] == "no-preview" else []
    assert [one["problem"]["status"] for one in told] == [500]
    assert (last["type"], last["job"]["state"]) == ("done", "done")
