"""Tiled as a live source: arrays that grow in a stand-in for its client, and in a real server where one is at hand."""

from __future__ import annotations

import importlib.util
import os
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from helpers import free_port, wait_for

from ptycho_ray.errors import InputError
from ptycho_ray.live import tiled_arrays
from ptycho_ray.live.growing_files import Ending, Names
from ptycho_ray.live.measurement import Measurement, Source
from ptycho_ray.live.tiled_arrays import tiled_frames

ADDRESS = "http://127.0.0.1:8000/run"
#: The program ``tiled`` of an environment with ``tiled[server]``, which need not be this one.
SERVER = os.environ.get("PTYCHO_RAY_TILED")
RNG = np.random.default_rng(4)
FRAMES = RNG.integers(0, 9, (150, 8, 8)).astype(np.uint16)
PLACES = RNG.normal(size=(150, 2))


class Array:
    """An array of which so much is known as at the last ``refresh``; also its answer to a request for a piece of it."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.written, self.length = values, 0, 0
        self.shape, self.dtype, self.item = values.shape, values.dtype, {"links": {"full": "it"}}
        self.context = SimpleNamespace(http_client=self)
        self.asked: list[int] = []

    def refresh(self) -> Array:
        self.length = self.written
        return self

    def __len__(self) -> int:
        return self.length

    def get(self, link: str, headers: dict[str, str], params: dict[str, str]) -> httpx.Response:
        assert link == self.item["links"]["full"]
        first, end = map(int, params["slice"].split(":"))
        assert end <= self.written
        self.asked.append(end - first)
        return httpx.Response(200, content=self.values[first:end].tobytes(), request=httpx.Request("GET", ADDRESS))


class Run(dict):  # type: ignore[type-arg]
    """A container of the stand-in. Each look at it is a step of the measurement, which is written ``at_once`` a step."""

    def __init__(self, arrays: dict[str, Any], late: dict[str, Any] | None = None, at_once: int = 40) -> None:
        super().__init__(arrays)
        self.late, self.at_once, self.metadata = late or {}, at_once, dict[str, Any]()

    def from_uri(self, address: str) -> Run:
        assert address == ADDRESS
        return self

    def refresh(self) -> Run:
        self.update(self.late)
        stacks = [stack for stack in self.values() if isinstance(stack, Array)]
        for number, stack in enumerate(stacks):  # positions lag behind
            stack.written = min(len(stack.values), max(0, stack.written + self.at_once - 3 * number))
        if stacks and all(stack.written == len(stack.values) for stack in stacks):
            self.metadata["stop"] = {"exit_status": "success"}
        return self


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled_arrays, "POLL_S", 0.01)


def of(run: Run, names: Names, monkeypatch: pytest.MonkeyPatch, idle_s: float = 20.0) -> list[Any]:
    monkeypatch.setattr(tiled_arrays, "tiled_client", lambda: run)
    return list(tiled_frames(ADDRESS, names, Ending(idle_s=idle_s)))


def whole(found: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.concatenate([getattr(some, name) for some in found]) for name in ("patterns", "positions"))  # type: ignore[return-value]


def test_arrays_that_grow_until_the_run_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = Array(FRAMES)
    run = Run({}, {"patterns": stack, "positions": Array(PLACES)}, 120)
    monkeypatch.setattr(tiled_arrays, "MOST_BYTES", 10 * 8 * 8 * 2)
    patterns, positions = whole(of(run, Names(), monkeypatch))
    np.testing.assert_array_equal(patterns, FRAMES)
    np.testing.assert_array_equal(positions, PLACES)
    assert max(stack.asked) == 10  # no answer is larger than that


def test_a_run_of_bluesky_one_frame_an_event_and_a_motor_a_column(monkeypatch: pytest.MonkeyPatch) -> None:
    stack, y, x = Array(FRAMES[:, None]), Array(PLACES[:, 0]), Array(PLACES[:, 1])
    run = Run({"stack": stack, "y": y, "x": x}, {"primary": {"det": stack, "internal": {"y": y, "x": x}}})
    names = Names("primary/det", "primary/internal/y,primary/internal/x")
    patterns, positions = whole(of(run, names, monkeypatch))
    np.testing.assert_array_equal(patterns, FRAMES)
    np.testing.assert_array_equal(positions, PLACES)


def test_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"positions.*only patterns"):
        of(Run({"patterns": Array(FRAMES)}), Names(), monkeypatch, 0.1)
    with pytest.raises(InputError, match="no array"):
        of(Run({"patterns": {}, "positions": {}}), Names(), monkeypatch, 0.1)
    with pytest.raises(InputError, match=r"\(k, 2\)"):
        of(Run({"patterns": Array(FRAMES), "positions": Array(PLACES[:, :1])}), Names(), monkeypatch)
    if importlib.util.find_spec("tiled") is None:
        monkeypatch.undo()
        with pytest.raises(InputError, match=r"pip install 'ptycho-ray\[tiled\]'"):
            list(tiled_frames(ADDRESS, Names(), Ending(idle_s=1.0)))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of a server of Tiled."""
    client = pytest.importorskip("tiled.client", reason="the client of Tiled is not installed")
    if SERVER is None:
        pytest.skip("PTYCHO_RAY_TILED does not name the program 'tiled' of an environment with its server")
    key, port = secrets.token_hex(16), free_port()
    words = [SERVER, "serve", "catalog", "--temp", "--api-key", key, "--port", str(port)]
    log = (tmp_path_factory.mktemp("tiled") / "log").open("w")
    process = subprocess.Popen(words, stdout=log, stderr=log)

    def answers() -> Any:
        assert process.poll() is None, Path(log.name).read_text()
        try:
            return (client.from_uri(f"http://127.0.0.1:{port}", api_key=key),)
        except Exception:  # whatever it says while it starts
            return None

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TILED_API_KEY", key)
            (connected,) = wait_for(answers, "Tiled to answer", every=0.5)
            yield connected
    finally:
        process.terminate()
        process.wait()
        log.close()


@pytest.mark.slow
def test_a_real_server(server: Any) -> None:
    run = server.create_container("run")
    seen = threading.Event()

    def measure() -> None:
        patterns = run.write_array(FRAMES[:20], key="patterns")
        positions = run.write_array(PLACES[:20], key="positions")
        seen.wait(60)
        for first in range(20, len(FRAMES), 30):
            piece = slice(first, first + 30)
            patterns.patch(FRAMES[piece], offset=(first,), extend=True)
            time.sleep(0.1)
            positions.patch(PLACES[piece], offset=(first,), extend=True)
        run.update_metadata({"stop": {"exit_status": "success"}})

    thread = threading.Thread(target=measure)
    thread.start()
    measurement = Measurement(Source(frames=run.uri, ending=Ending(idle_s=60.0)))
    pieces = []
    for piece in measurement.pieces():
        pieces.append(piece)
        seen.set()
    thread.join()
    patterns, positions = whole(pieces)
    np.testing.assert_array_equal(patterns, FRAMES)
    np.testing.assert_array_equal(positions, PLACES)
    with pytest.raises(InputError, match="TILED_API_KEY"):
        list(tiled_frames(f"{server.uri.rstrip('/')}/none", Names(), Ending(idle_s=0.1)))
