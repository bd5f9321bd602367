"""What the service costs: beside the same work in process, beside Ray Serve's own floor, and for a stream.

python benchmarks/bench_serve.py [--minutes 10]
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"] = "token", secrets.token_hex(32)

N, PATTERNS, CLIENTS, SMALL = 64, 1000, 16, 64
RAW = {"Content-Type": "application/octet-stream"}


def make_scan(folder: Path, n_patterns: int) -> Path:
    from ptycho_ray.simulation.objects import make_object
    from ptycho_ray.simulation.probes import make_probe
    from ptycho_ray.simulation.simulate import simulate_scan

    rng = np.random.default_rng(0)
    side = 80 + int(4 * n_patterns**0.5)
    positions = rng.uniform(N / 2 + 1, side - N / 2 - 1, (n_patterns, 2))
    scan = simulate_scan(
        make_object("lines", (side, side), rng), make_probe("disc", N, rng, photons=1e6), positions, rng=rng
    )
    path = folder / f"scan{n_patterns}.npz"
    scan.to_file(path)
    return path


def make_model(folder: Path, scan_path: Path) -> Path:
    from ptycho_ray.bundle import Bundle, save_bundle
    from ptycho_ray.config import ModelConfig, TrainingConfig
    from ptycho_ray.models.physics_informed import PhysicsInformedModel
    from ptycho_ray.workflow import create_ptycho_data_container, load_data, physical_probe

    config = TrainingConfig(model=ModelConfig(N=N, n_filters_scale=1))
    container = create_ptycho_data_container(load_data(scan_path), config)
    model = PhysicsInformedModel(config.model, container.normalisation, physical_probe(container))
    return save_bundle(folder / "models" / "bench" / "1", Bundle(model, config))


def in_process(model_path: Path, scan_path: Path, folder: Path) -> Callable[[], None]:
    """From the file of the scan to the file of the image."""
    from ptycho_ray.bundle import load_bundle
    from ptycho_ray.config import ExecutionConfig
    from ptycho_ray.workflow import load_data, reassemble_cdi_image

    bundle = load_bundle(model_path)

    def once() -> None:
        _, _, results = reassemble_cdi_image(
            load_data(scan_path),
            bundle.config,
            model=bundle.model,
            execution=ExecutionConfig(inference_batch_size=32),
            keep_patches=False,
        )
        stitched = results["stitched"]
        np.savez(folder / "out.npz", object=stitched.image, weight=stitched.weight)

    return once


def in_turn(*works: Callable[[], Any], rounds: int = 5) -> list[float]:
    """The least seconds of each, run in turn so that all meet the same load of the machine."""
    for work in works:
        work()
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for work, own in zip(works, seconds, strict=True):
            started = time.perf_counter()
            work()
            own.append(time.perf_counter() - started)
    return [min(own) for own in seconds]


async def ask(url: str, path: str, n: int, at_once: int, **request: Any) -> tuple[float, np.ndarray]:
    """Requests a second and the time of each in ms."""
    import aiohttp

    waiting, times = iter(range(n)), []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=at_once)) as session:

        async def worker() -> None:
            for _ in waiting:
                started = time.perf_counter()
                async with session.request(request.get("method", "GET"), url + path, data=request.get("data"),
                                           headers=request.get("headers")) as answer:  # fmt: skip
                    await answer.read()
                    assert answer.status == 200, await answer.text()
                times.append(time.perf_counter() - started)

        started = time.perf_counter()
        await asyncio.gather(*[worker() for _ in range(at_once)])
        return n / (time.perf_counter() - started), np.array(times) * 1e3


def row(name: str, **figures: Any) -> dict[str, Any]:
    print(f"{name:44}", "  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                                  for key, value in figures.items()), flush=True)  # fmt: skip
    return {"what": name, **figures}


def memory_of_the_service() -> float:
    """MiB that all processes of the service and of Ray Serve hold, shared pages counted in each."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            name, text = (status.parent / "cmdline").read_bytes(), status.read_text()
        except OSError:
            continue
        if name.startswith((b"ray::ServeReplica", b"ray::ProxyActor")):
            total += int(text.split("VmRSS:")[1].split()[0])
    return total / 1024


def stream(url: str, minutes: float, rate: float) -> dict[str, Any]:
    """Push patterns at a steady rate; time from a pattern's push to the first image that has it."""
    from ptycho_ray.client import Client

    rng = np.random.default_rng(1)
    frames = rng.poisson(3.0, (64, N, N)).astype(np.uint16)
    pushed: dict[int, float] = {}
    delays: list[float] = []
    shown = 0

    def on_preview(preview: Any) -> None:
        nonlocal shown
        now = time.perf_counter()
        for number in [number for number in pushed if number < preview.next]:
            delays.append(now - pushed.pop(number))
        shown += 1

    memory, piece = [], 8
    with (
        Client(url) as client,
        client.stream(N=N, dtype="uint16", on_preview=on_preview, preview_interval_s=0.5) as live,
    ):
        started = time.perf_counter()
        sent = 0
        while (now := time.perf_counter()) - started < 60 * minutes:
            if sent > (now - started) * rate:
                time.sleep(0.005)
                continue
            turn = sent / 2000
            radius = 30 + 4 * (turn % 20)
            angle = 2 * np.pi * (np.arange(sent, sent + piece) / 200)
            positions = 200 + radius * np.stack([np.sin(angle), np.cos(angle)], axis=1)
            pushed[sent] = time.perf_counter()
            live.push(positions, frames[rng.integers(0, 64, piece)])
            sent += piece
            if sent % (piece * 200) == 0:
                memory.append(memory_of_the_service())
        seconds = time.perf_counter() - started
        live.abandon()
    half = len(memory) // 2
    times = np.array(delays) * 1e3
    return {
        "asked_per_s": rate,
        "patterns_per_s": sent / seconds,
        "p50_ms": float(np.percentile(times, 50)),
        "p99_ms": float(np.percentile(times, 99)),
        "images": shown,
        "minutes": seconds / 60,
        "MiB_first_half": float(np.median(memory[: half or 1])),
        "MiB_second_half": float(np.median(memory[half:])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=0.5, help="length of the stream")
    parser.add_argument("--rate", type=float, default=200.0, help="patterns a second of the stream")
    parser.add_argument("--only", choices=("cost", "floor", "batching", "stream"), default=None)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    import ray
    from fastapi import FastAPI
    from ray import serve

    from ptycho_ray.service.deployments import scaled

    wanted = [options.only] if options.only else ["cost", "floor", "batching", "stream"]
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        large, small = make_scan(folder, PATTERNS), make_scan(folder, SMALL)
        model = make_model(folder, large)
        ray.init(
            address="local", num_cpus=4, object_store_memory=256 * 2**20, include_dashboard=False, log_to_driver=False
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"enable_access_log": False})
        args = {
            "data_dir": str(folder / "data"),
            "model_root": str(folder / "models"),
            "require_token": False,
            "requests_per_minute": 1_000_000,
            "min_free_bytes": 0,
            "threads": int(os.environ.get("OMP_NUM_THREADS", "2")),
        }
        serve.run(scaled(args, 1), name="bench", route_prefix="/bench")
        url = f"http://127.0.0.1:{port}/bench"
        import httpx

        def over_http(path: Path) -> None:
            with httpx.Client(timeout=300) as http:
                answer = http.post(f"{url}/v1/reconstructions?model=bench", content=path.read_bytes(), headers=RAW)
                assert answer.status_code == 200, answer.text
                np.load(io.BytesIO(answer.content))["object"]

        if "cost" in wanted:
            alone, served = in_turn(in_process(model, large, folder), lambda: over_http(large))
            rows.append(row(f"{PATTERNS} patterns in process", seconds=alone))
            rows.append(
                row(f"{PATTERNS} patterns over HTTP", seconds=served, longer_percent=100 * (served / alone - 1))
            )
        if "floor" in wanted:
            bare = FastAPI()

            @serve.deployment(ray_actor_options={"num_cpus": 0.1}, max_ongoing_requests=100)
            @serve.ingress(bare)
            class Bare:
                @bare.get("/healthz")
                async def healthz(self) -> dict[str, bool]:
                    return {"ok": True}

            serve.run(Bare.bind(), name="bare", route_prefix="/bare")
            for at_once in (1, 8):
                for name, base in (("Ray Serve alone", f"http://127.0.0.1:{port}/bare"), ("the service", url)):
                    asyncio.run(ask(base, "/healthz", 50, at_once))
                    found = [asyncio.run(ask(base, "/healthz", 300, at_once)) for _ in range(3)]
                    rate, times = max(found, key=lambda one: one[0])
                    rows.append(row(f"no-op, {name}, {at_once} at once", per_s=rate, p50_ms=float(np.median(times))))
        if "batching" in wanted:
            post = {"method": "POST", "data": small.read_bytes(), "headers": RAW}
            times = np.zeros(0)

            def many() -> None:
                nonlocal times
                _, times = asyncio.run(ask(url, "/v1/reconstructions?model=bench", 4 * CLIENTS, CLIENTS, **post))

            alone, together = in_turn(in_process(model, large, folder), many, rounds=3)
            rate = 4 * CLIENTS / together
            rows.append(row("one large batch in process", patterns_per_s=PATTERNS / alone))
            rows.append(
                row(
                    f"{CLIENTS} clients, {SMALL} patterns each",
                    patterns_per_s=rate * SMALL,
                    percent_of_large=100 * rate * SMALL * alone / PATTERNS,
                    p50_ms=float(np.median(times)),
                )
            )
        if "stream" in wanted:
            rows.append(row("stream", **stream(url, options.minutes, options.rate)))
        serve.shutdown()
        ray.shutdown()
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
