"""A scan at the detector's rate: what is lost, how old the picture is, and whether the image at the end is that of the file.

python benchmarks/bench_live.py [--minutes 10] [--rate 1000] [--protocol dectris2] [--url http://...]

A replay sends frames of 128 x 128 uint16 by the detector's protocol to the receiving process; this process joins them with
their positions, which come from a second stream, and sends them to a service (``ptycho-ray serve``, started here unless
``--url`` names one), which stores them and draws the live image with the pretrained network. All of it shares two cores.
The age of a frame in a picture is counted from when the replay should have sent it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import psutil

N, PATTERNS = 128, 1000
SETTINGS = {"n_subsample": 256, "seed": 1, "budget_s": 1e-6, "refinement": {"iterations": 10, "position_start": None}}


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def make_scan(folder: Path) -> Path:
    """A simulated scan whose frames are sent over and over."""
    from ptycho_ray.simulation.objects import make_object
    from ptycho_ray.simulation.probes import make_probe
    from ptycho_ray.simulation.simulate import simulate_scan

    rng = np.random.default_rng(0)
    side = N + 8 + int(6 * PATTERNS**0.5)
    positions = rng.uniform(N / 2 + 1, side - N / 2 - 1, (PATTERNS, 2))
    probe = make_probe("disc", N, rng, photons=1e5)
    simulate_scan(make_object("lines", (side, side), rng), probe, positions, rng=rng).to_file(folder / "scan.npz")
    return folder / "scan.npz"


def write_batch(scan_path: Path, count: int, path: Path) -> None:
    """The file that the whole series would be: frames compressed once, their chunks written over and over."""
    from ptycho_ray.data import load_data
    from ptycho_ray.live.frame_encodings import deflated
    from ptycho_ray.live.replaying import counts_of

    scan = load_data(scan_path)
    patterns = counts_of(scan.patterns.intensity())
    contents, places = deflated(patterns, "bslz4"), scan.positions_px[np.arange(count) % len(scan)]
    with h5py.File(path, "w") as file:
        file["ycoords"], file["xcoords"], file["probeGuess"] = places[:, 0], places[:, 1], scan.probe
        stack = file.create_dataset(
            "patterns", (count, N, N), patterns.dtype, chunks=(1, N, N), **hdf5plugin.Bitshuffle(cname="lz4")
        )
        for number in range(count):
            stack.id.write_direct_chunk((number, 0, 0), contents[number % len(contents)])


class Service:
    """``ptycho-ray serve`` in a process group of its own."""

    def __init__(self, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        words = [
            "serve",
            "--port",
            self.url.rpartition(":")[2],
            "--data-dir",
            str(folder / "service"),
            "--threads",
            "1",
        ]
        words += ["--allow", str(folder)]
        self.log = (folder / "serve.log").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ptycho_ray", *words], stdout=self.log, stderr=self.log, start_new_session=True
        )

    def __enter__(self) -> Service:
        until = time.monotonic() + 600
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=5):
                    return self
            except OSError:
                if self.process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(Path(self.log.name).read_text()) from None
                time.sleep(0.5)

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)


#: What the processes of this benchmark are for, by a word of their command line.
STAGES = {
    "Interface": "keep (interface)",
    "Models": "live image (replica)",
    "haproxy": "proxy",
}


def processor_seconds() -> dict[str, float]:
    """CPU seconds that each stage has used so far, this process and all below it."""
    found: dict[str, float] = {}
    here = psutil.Process()
    for process in [here, *here.children(recursive=True)]:
        try:
            command, used = " ".join(process.cmdline()), process.cpu_times()
        except psutil.Error:
            continue
        rest = "Ray" if "ray" in command else "other"
        stage = (
            "join and send"
            if process == here
            else next((name for word, name in STAGES.items() if word in command), rest)
        )
        found[stage] = found.get(stage, 0.0) + used.user + used.system
    return found


def of_children() -> float:
    """CPU seconds of the processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def replayed(scan: Path, count: int, rate: float, protocol: str, frames: str, places: str) -> subprocess.Popen[str]:
    words = ["replay", str(scan), "--as", protocol, "--rate", str(rate), "--n-frames", str(count), "--arm-s", "5"]
    words += ["--bind", frames, "--positions-bind", places, "--wait-s", "300", "--json"]
    return subprocess.Popen([sys.executable, "-m", "ptycho_ray", *words], stdout=subprocess.PIPE, text=True)


def run(url: str, scan: Path, count: int, rate: float, protocol: str) -> tuple[dict[str, Any], Any]:
    """One series; its figures, and the image at the end."""
    from ptycho_ray.client import Client
    from ptycho_ray.data import load_data
    from ptycho_ray.live.growing_files import Ending
    from ptycho_ray.live.measurement import Measurement, Source

    frames, places = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
    probe = load_data(scan).probe
    pictures: list[tuple[float, int]] = []
    steps: list[dict[str, float]] = []

    def seen(preview: Any) -> None:
        pictures.append((time.time(), preview.next))
        steps.append(preview.seconds)

    replay = replayed(scan, count, rate, protocol, frames, places)
    measurement = Measurement(Source(frames=frames, positions=places, ending=Ending(idle_s=60.0)))
    with Client(url, patience_s=300) as client:
        start: dict[str, Any] = {"dtype": "uint16", "choices": SETTINGS, "probe": probe, "counts_are_photons": None}
        with client.stream(N=N, on_preview=seen, **start) as stream:
            used, of_ended = processor_seconds(), of_children()
            for piece in measurement.pieces():
                stream.push(piece.positions, piece.patterns)
            pushed = time.time()
            most = time.monotonic() + 30
            while (not pictures or pictures[-1][1] < stream.inner.pushed) and time.monotonic() < most:
                time.sleep(0.02)
            ended = time.time()
            seconds = {name: value - used.get(name, 0.0) for name, value in processor_seconds().items()}
            seconds["receive"] = of_children() - of_ended
        finished = time.time()
        assert stream.job is not None
        image = client.result(stream.job["id"]).arrays()["object"]
        of_ended = of_children()
        sent = json.loads(replay.communicate()[0])
        seconds["the detector (replay)"] = of_children() - of_ended
        first = sent["began"]
        ages, (still, longest) = ages_of(pictures, first, rate, count), standstill(pictures)
        figures = {
            "frames": count,
            "sent": sent["sent"],
            "dropped by the sender": sent["dropped"],
            "rate sent": sent["rate"],
            **measurement.tally.facts(),
            "pictures": len(pictures),
            "first picture s": round(pictures[0][0] - first, 2) if pictures else None,
            "age p50 s": round(float(np.nanpercentile(ages, 50)), 2),
            "age p99 s": round(float(np.nanpercentile(ages, 99)), 2),
            "age most s": round(float(np.nanmax(ages)), 2),
            "of the frame of second": round(int(np.nanargmax(ages)) / rate, 1),
            "longest without a picture s": still,
            "what the service did meanwhile s": steps[longest] if steps else {},
            "last frame to stored s": round(pushed - first - count / rate, 2),
            "end to image s": round(finished - ended, 1),
            "CPU ms a frame": {name: round(1e3 * value / count, 3) for name, value in seconds.items() if value > 0},
        }
        return figures, image


def ages_of(pictures: list[tuple[float, int]], first: float, rate: float, count: int) -> np.ndarray:
    """Seconds from when each frame was to be sent to the first picture that considers it, nan for those in none."""
    ages = np.full(count, np.nan)
    begin = 0
    for at, end in pictures:
        ages[begin:end] = at - first - np.arange(begin, min(end, count)) / rate
        begin = max(begin, end)
    return ages


def standstill(pictures: list[tuple[float, int]]) -> tuple[float | None, int]:
    """The longest time between two pictures, and the number of the second."""
    gaps = np.diff([at for at, _ in pictures])
    return (round(float(gaps.max()), 2), int(gaps.argmax()) + 1) if len(gaps) else (None, 0)


def batch(url: str, path: Path) -> np.ndarray:
    from ptycho_ray.client import Client

    with Client(url, patience_s=300) as client:
        job = client.submit(path=str(path), **SETTINGS)
        client.wait(job["id"])
        return np.asarray(client.result(job["id"]).arrays()["object"])


def load_average(until: threading.Event, found: list[float]) -> None:
    while not until.wait(5.0):
        found.append(os.getloadavg()[0])


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--minutes", type=float, default=10.0)
    words.add_argument("--rate", type=float, default=1000.0)
    words.add_argument("--protocol", default="dectris2", choices=["dectris2", "dectris1", "zmq"])
    words.add_argument("--url", help="a running service on this machine that allows the folder of --folder")
    words.add_argument("--folder", type=Path, help="for the scan and the service's data")
    words.add_argument("--json", type=Path)
    given = words.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"], os.environ["OMP_NUM_THREADS"] = "0", "1"
    os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"] = "token", secrets.token_hex(32)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    count = int(60 * given.minutes * given.rate)
    with tempfile.TemporaryDirectory() as place:
        folder = given.folder or Path(place)
        scan = make_scan(folder)
        over, loads = threading.Event(), list[float]()
        with Service(folder) if given.url is None else open(os.devnull) as service:
            url = given.url or service.url  # type: ignore[union-attr]
            print("warming up", flush=True)
            run(url, scan, 200, 100.0, given.protocol)
            threading.Thread(target=load_average, args=(over, loads), daemon=True).start()
            print(f"{count} frames", flush=True)
            figures, image = run(url, scan, count, given.rate, given.protocol)
            over.set()
            write_batch(scan, count, folder / "batch.h5")
            whole = batch(url, folder / "batch.h5")
        figures["image equals that of the file"] = bool(np.array_equal(image, whole))
        figures["load of the machine"] = [
            round(float(value), 1) for value in (min(loads, default=0), max(loads, default=0))
        ]
    for name, value in figures.items():
        print(f"{name:32} {value}")
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
