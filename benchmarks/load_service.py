"""A service under load while its parts are killed in turn and a new version of its model is rolled in: how many requests are
lost or wrong, and how long they take. With ``--soak`` nothing is killed: memory and open files over time.

Of ten requests three send a scan and wait for its image, one begins a job and comes back for it, and six ask for less: an
earlier image, the state of a job, the models, an estimate. Every image is compared with that of the version that made it.
Starts its own ``ptycho-ray serve`` on 127.0.0.1 and stops it again; ends by itself, with one line that says how it went.

python benchmarks/load_service.py                     # 10,000 requests
python benchmarks/load_service.py --requests 500 --rounds 1
python benchmarks/load_service.py --soak 120          # minutes, as many requests as there is time for
python benchmarks/load_service.py --soak 120 --a-second 2
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

MODEL = "tiny"
SCANS = 4
PATIENCE_S = 600.0
#: As in tests/service/test_api.py: other patterns share the forward pass.
TOLERANCE = 2e-5
SAMPLE_S = 5.0
#: What the requests are, one after the other.
KINDS = ("image", "again", "state", "image", "models", "again", "job", "state", "image", "estimate")
SLOW_KINDS = ("image", "job")


class Service:
    """``ptycho-ray serve`` with a folder of models of its own."""

    def __init__(self, folder: Path, replicas: int, scan: Any) -> None:
        from ray_fixtures import make_model

        self.models, self.data, self.out = folder / "models", folder / "data", folder / "out"
        make_model(self.models / MODEL / "1", scan)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        words = ["serve", "--model-root", self.models, "--data-dir", self.data, "--port", port, "--threads", 1]
        words += ["--max-replicas", replicas]
        command = [sys.executable, "-m", "ptycho_ray", *map(str, words)]
        with self.out.open("ab") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out)
        while "answers at" not in self.out.read_text():
            if self.process.poll() is not None:
                raise SystemExit(self.out.read_text())
            time.sleep(0.5)

    def processes(self) -> dict[int, str]:
        """The process and its descendants, by what they call themselves."""
        from ptycho_ray.service.own_ray import family

        found = {}
        for pid in family(self.process.pid):
            try:
                found[pid] = (
                    Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                )
            except OSError:
                continue
        return found

    def kill(self, named: str) -> str:
        """Kill one process of this name; what was killed."""
        found = [pid for pid, name in self.processes().items() if named in name]
        if not found:
            return f"no {named}"
        os.kill(found[0], signal.SIGKILL)
        return f"{named} {found[0]}"

    def roll_in(self, version: int, scan: Any) -> str:
        """Add a version of the model; what was added."""
        from ray_fixtures import make_model

        incoming = self.models / MODEL / f".{version}"
        make_model(incoming, scan, seed=version)
        incoming.rename(self.models / MODEL / str(version))
        return f"{MODEL}@{version}"

    def used(self) -> tuple[float, int]:
        """Resident MiB and open files of all processes."""
        pages = files = 0
        for pid in self.processes():
            try:
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                files += len(os.listdir(f"/proc/{pid}/fd"))
            except OSError:
                continue
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, files

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(300)


class Expected:
    """The images that there are, by scan and version of the model."""

    def __init__(self, models: Path, scans: list[Path]) -> None:
        self.models, self.scans = models, scans
        self.images: dict[tuple[int, str], Any] = {}
        self.lock = threading.Lock()

    def of(self, scan: int, version: str) -> Any:
        from ptycho_ray.bundle import load_bundle
        from ptycho_ray.workflow import load_data, reassemble_cdi_image

        with self.lock:
            if (scan, version) not in self.images:
                bundle = load_bundle(self.models / MODEL / version)
                made = reassemble_cdi_image(
                    load_data(self.scans[scan]), bundle.config, model=bundle.model, keep_patches=False
                )
                self.images[scan, version] = made[2]["stitched"].image
            return self.images[scan, version]


class Load:
    """Requests by several threads, each with the client of this program, until a number of them or a time is over; at most
    ``a_second`` of them begin in a second."""

    def __init__(
        self, service: Service, scans: list[Path], threads: int, requests: int, until: float, a_second: float
    ) -> None:
        self.service, self.scans, self.requests, self.until = service, scans, requests, until
        self.a_second, self.started = a_second, time.monotonic()
        self.expected = Expected(service.models, scans)
        self.seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
        self.versions: Counter[str] = Counter()
        self.lost: list[str] = []
        self.wrong: list[str] = []
        self.begun = 0
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.work) for _ in range(threads)]

    def next(self) -> int | None:
        with self.lock:
            if self.begun >= self.requests or time.monotonic() > self.until:
                return None
            number = self.begun
            self.begun += 1
        time.sleep(max(0.0, self.started + number / self.a_second - time.monotonic()))
        return number

    def work(self) -> None:
        from ptycho_ray.client import Client, ServiceError

        before: tuple[str, int] | None = None  # the last job of this thread, and its scan
        with Client(self.service.url, patience_s=PATIENCE_S) as client:
            while (number := self.next()) is not None:
                kind = KINDS[number % len(KINDS)]
                if before is None and kind in ("again", "state"):
                    kind = "image"
                started, image = time.perf_counter(), None
                try:
                    if kind == "image":
                        image = client.reconstruct(self.scans[number % SCANS], model=MODEL)
                    elif kind == "job":
                        job = client.submit(self.scans[number % SCANS], model=MODEL)
                        image = client.result(client.wait(job["id"])["id"])
                    elif kind == "again":
                        image = client.result(before[0])
                    elif kind == "state" and (state := client.job(before[0])["state"]) != "done":
                        self.wrong.append(f"{number}: a job that was done is {state}")
                    elif kind == "models" and not any(each["name"] == MODEL for each in client.models()):
                        self.wrong.append(f"{number}: the model is gone")
                    elif kind == "estimate" and client.estimate(patterns=60, side=32, model=MODEL)["cpu_s"] == 0:
                        self.wrong.append(f"{number}: an estimate of nothing")
                except (ServiceError, OSError, ValueError) as error:
                    self.lost.append(f"{number} ({kind}): {error}")
                    continue
                self.seconds[kind].append(time.perf_counter() - started)
                if image is not None:
                    scan = before[1] if kind == "again" else number % SCANS
                    before = (image.job_id, scan)
                    self.check(number, image.arrays(), scan, kind != "again")

    def check(self, number: int, arrays: dict[str, Any], scan: int, new: bool) -> None:
        version = json.loads(str(arrays["provenance"]))["model"].partition("@")[2]
        if new:
            self.versions[version] += 1
        image = self.expected.of(scan, version)
        if arrays["object"].shape != image.shape or not np.allclose(arrays["object"], image, atol=TOLERANCE):
            self.wrong.append(f"{number}: not the image of version {version}")

    @property
    def answered(self) -> int:
        return sum(map(len, self.seconds.values())) + len(self.lost)

    def run(self, meanwhile: Callable[[], None]) -> None:
        for thread in self.threads:
            thread.start()
        meanwhile()
        for thread in self.threads:
            thread.join()

    def figures(self) -> dict[str, Any]:
        from ptycho_ray.service.database import connect
        from ptycho_ray.service.jobs import JobStore

        jobs = JobStore(connect(f"sqlite:///{self.service.data / 'jobs.sqlite'}")).recent(None, 10**6)
        images = [seconds for kind in SLOW_KINDS for seconds in self.seconds[kind]]
        others = [seconds for kind in set(KINDS) - set(SLOW_KINDS) for seconds in self.seconds[kind]]
        return {
            "requests": self.begun,
            "lost": len(self.lost),
            "wrong": len(self.wrong),
            "of_new_images": spread(images),
            "of_others": spread(others),
            "by_version": dict(sorted(self.versions.items())),
            "jobs": dict(Counter(job.state for job in jobs)),
            "attempts_more_than_one": sum(job.attempt > 1 for job in jobs),
            "examples": [*self.lost[:3], *self.wrong[:3]],
        }


def spread(seconds: list[float]) -> dict[str, float]:
    """How long requests took, in seconds, and how many they were."""
    if not seconds:
        return {"count": 0}
    p50, p99 = np.percentile(seconds, (50, 99))
    figures = {"p50_s": p50, "p99_s": p99, "longest_s": max(seconds)}
    return {"count": len(seconds)} | {name: round(float(value), 3) for name, value in figures.items()}


def with_deaths(load: Load, service: Service, rounds: int, scan: Any) -> list[str]:
    """Kill in turn, evenly over the requests; what was done when."""
    said: list[str] = []
    acts: list[Callable[[], str]] = []
    for number in range(rounds):
        acts += [
            lambda: service.kill("ServeReplica:ptycho_ray:Models"),
            lambda: service.kill("haproxy -"),
            lambda: service.kill("ServeController"),
            lambda version=number + 2: service.roll_in(version, scan),
            lambda: service.kill("ServeReplica:ptycho_ray:Interface"),
        ]

    def meanwhile() -> None:
        for number, act in enumerate(acts, 1):
            while load.answered < number * load.requests / (len(acts) + 1) and any(t.is_alive() for t in load.threads):
                time.sleep(0.1)
            said.append(f"after {load.answered}: {act()}")
            print(said[-1], file=sys.stderr, flush=True)

    load.run(meanwhile)
    return said


def soak(load: Load, service: Service) -> dict[str, Any]:
    """Memory and files at the start and at the end, and over time: the median of the last third beside that of the second, for
    the first is a start."""
    samples: list[tuple[float, int]] = []

    def meanwhile() -> None:
        while any(thread.is_alive() for thread in load.threads):
            samples.append(service.used())
            time.sleep(SAMPLE_S)

    load.run(meanwhile)
    third = len(samples) // 3
    middle, last = samples[third : 2 * third], samples[2 * third :]
    if not middle:
        return {"samples": len(samples)}
    memory = [round(statistics.median(sample[0] for sample in part)) for part in (middle, last)]
    files = [round(statistics.median(sample[1] for sample in part)) for part in (middle, last)]
    return {
        "samples": len(samples),
        "memory_MiB_start_end": [round(samples[number][0]) for number in (0, -1)],
        "open_files_start_end": [samples[number][1] for number in (0, -1)],
        "memory_MiB": memory,
        "open_files": files,
        "memory_ratio": round(memory[1] / memory[0], 4),
    }


def line(found: dict[str, Any]) -> str:
    """How it went, in one line."""
    said = f"{found['requests']} requests in {found['minutes']:g} min: {found['lost']} lost, {found['wrong']} wrong"
    for name, what in (("of_new_images", "new images"), ("of_others", "others")):
        if found[name]["count"]:
            said += f"; {what} p50 {found[name]['p50_s']:g} s, p99 {found[name]['p99_s']:g} s"
    if "memory_MiB" in found:
        (begin, end), (second, last) = found["memory_MiB_start_end"], found["memory_MiB"]
        said += f"; memory {begin} -> {end} MiB (second third {second}, last {last})"
        begin, end = found["open_files_start_end"]
        said += f", open files {begin} -> {end}"
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000, help="how many")
    parser.add_argument("--threads", type=int, default=8, help="that ask at the same time")
    parser.add_argument("--rounds", type=int, default=2, help="how often each part is killed and a version rolled in")
    parser.add_argument("--replicas", type=int, default=2, help="of the models, at most")
    parser.add_argument(
        "--soak", type=float, default=0.0, metavar="MINUTES", help="kill nothing; measure memory and files"
    )
    parser.add_argument("--a-second", type=float, default=1e9, help="requests that begin in a second at most")
    parser.add_argument("--at-most-minutes", type=float, default=180.0, help="no request begins after that")
    options = parser.parse_args()
    from helpers import make_scan

    minutes = min(options.soak or options.at_most_minutes, options.at_most_minutes)
    requests = 10**9 if options.soak else options.requests
    with tempfile.TemporaryDirectory() as folder:
        scan = make_scan()
        scans = [Path(folder) / f"scan{number}.npz" for number in range(SCANS)]
        for number, path in enumerate(scans):
            make_scan(60, seed=3 + number).to_file(path)
        service = Service(Path(folder), options.replicas, scan)
        started = time.monotonic()
        try:
            load = Load(service, scans, options.threads, requests, started + 60 * minutes, options.a_second)
            if options.soak:
                found: dict[str, Any] = soak(load, service)
            else:
                found = {"events": with_deaths(load, service, options.rounds, scan)}
            found |= load.figures() | {"minutes": round((time.monotonic() - started) / 60, 2)}
        finally:
            code = service.stop()
        found["stopped_with"] = code
    print(json.dumps(found, indent=1))
    print(line(found))
    sys.exit(1 if found["lost"] or found["wrong"] or code else 0)


if __name__ == "__main__":
    main()
