"""Uploads that are no scans and requests that nobody meant: refused with a reason, never an error of the service."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from helpers import PATIENCE_S

pytestmark = pytest.mark.slow

UPLOADS, THREADS = 2000, 4
RAW = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def service(deploy: Callable[..., Any]) -> Any:
    return deploy("fuzzed", requests_per_minute=10**9, keep_s=1.0)


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """A file with some bytes changed, cut, repeated or replaced, mostly near its beginning or end."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        edge = rng.random()
        length = max(1, len(data))
        at = int(rng.integers(0, min(2048, length)) if edge < 0.4 else rng.integers(0, length))
        if edge > 0.8:
            at = length - 1 - int(rng.integers(0, min(4096, length)))
        kind = rng.integers(0, 5)
        some = int(rng.integers(1, 64))
        if kind == 0:
            data[at : at + some] = rng.bytes(some)
        elif kind == 1:
            data[at : at + 1] = bytes([data[at] ^ (1 << int(rng.integers(0, 8)))]) if data else b""
        elif kind == 2:
            del data[at : at + some]
        elif kind == 3:
            data[at:at] = data[at : at + some]
        else:
            del data[at:]
    return bytes(data)


def seeds(small_scan: Any, folder: Path) -> list[bytes]:
    scan = small_scan.select(np.arange(12))
    scan.to_file(folder / "scan.npz")
    scan.to_file(folder / "scan.h5")
    with np.load(folder / "scan.npz") as arrays:
        np.savez(folder / "plain.npz", **{name: arrays[name] for name in arrays.files})
    return [(folder / name).read_bytes() for name in ("scan.npz", "plain.npz", "scan.h5")]


def replicas() -> dict[int, tuple[float, int]]:
    """MiB and open files of each replica of this application."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            command = (status.parent / "cmdline").read_bytes()
            if command.startswith(b"ray::ServeReplica:fuzzed"):
                resident = int(status.read_text().split("VmRSS:")[1].split()[0]) / 1024
                found[int(status.parent.name)] = resident, len(list((status.parent / "fd").iterdir()))
        except OSError:
            continue
    return found


def test_mutated_uploads(service: Any, small_scan: Any, tmp_path: Path) -> None:
    originals = seeds(small_scan, tmp_path)
    answers: Counter[int] = Counter()
    worst: list[str] = []

    def send(first: int, count: int) -> None:
        with httpx.Client(timeout=PATIENCE_S) as http:
            for number in range(first, first + count):
                rng = np.random.default_rng(number)
                body = mutated(originals[number % len(originals)], rng)
                answer = http.post(f"{service.url}/v1/reconstructions?model=tiny", content=body, headers=RAW)
                answers[answer.status_code] += 1
                if answer.status_code >= 500:
                    worst.append(f"{number}: {answer.text[:300]}")

    def send_all(first: int, count: int) -> None:
        share = count // THREADS
        threads = [threading.Thread(target=send, args=(first + k * share, share)) for k in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    send_all(0, UPLOADS // 4)  # warm: models, libraries and pools are in memory then
    before = replicas()
    send_all(UPLOADS // 4, 3 * UPLOADS // 4)
    after = replicas()
    assert worst == []
    assert sum(answers.values()) == UPLOADS
    assert answers[422] > UPLOADS / 4
    assert set(before) == set(after)
    for process, (resident, files) in after.items():
        assert files <= before[process][1] + 10
        assert resident <= before[process][0] + 60


def test_the_document_is_kept_whatever_is_asked(service: Any, tmp_path: Path) -> None:
    program = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.importorskip("schemathesis")
    command = [
        *(str(program), "run", f"{service.url}/openapi.json", "--url", service.url),
        *(
            "--checks",
            "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        ),
        *("--request-timeout", str(PATIENCE_S)),  # an image takes as long as it takes
        *("--max-examples", "25", "--phases", "examples,coverage,fuzzing", "--seed", "1"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]
