"""Batches of scans: 200 with five broken ones among them, killed in the middle and given again; and the bookkeeping of many.

    python benchmarks/bench_batch.py [broken] [automatic] [bookkeeping]

One line of JSON each; the first and the last without arguments (5 minutes on an idle machine of two cores).

broken       200 scans of 60 patterns of side 32 by a tiny network: one truncated, one of NaN alone, one a text file, one with
             fewer positions than patterns, one missing. (A single frame of NaN is left out of its scan.) Images, lines of
             errors and exit code; then the same batch anew, killed (SIGKILL) after 60 images and given again: images that
             were written twice.
automatic    The same without a network.
bookkeeping  Processor seconds of this process a scan, for 1,000 and 10,000 scans that take no work.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from ptycho_ray.cluster.each_alone import Line, Say, ScanToDo, Treatment, treat_each
from ptycho_ray.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_ray.simulation.objects import make_object
from ptycho_ray.simulation.probes import make_probe
from ptycho_ray.simulation.simulate import simulate_scan

SCANS, KILLED_AFTER = 200, 60


def write_scans(folder: Path, count: int = SCANS) -> list[str]:
    """``count`` scans of which five are broken, as words of the command line."""
    rng = np.random.default_rng(0)
    image, probe = make_object("lines", (80, 80), rng), make_probe("disc", 32, rng, photons=1e5)
    for number in range(count - 1):
        scan = simulate_scan(image, probe, rng.uniform(17, 63, (60, 2)), rng=rng)
        scan.to_file(folder / f"scan{number:04}.npz")
    truncated, nan, text, mismatched = (folder / f"scan{number:04}.npz" for number in (10, 50, 90, 130))
    truncated.write_bytes(truncated.read_bytes()[:-3000])
    text.write_text("beamtime 7, sample 3\n")
    for path, change in ((nan, _with_nan), (mismatched, _with_fewer_positions)):
        with np.load(path) as arrays:
            np.savez(path, **change(dict(arrays)))
    return [str(folder), str(folder / "missing.npz")]


def _with_nan(arrays: dict[str, Any]) -> dict[str, Any]:
    name = next(name for name, array in arrays.items() if array.ndim == 3)
    arrays[name] = np.full_like(arrays[name], np.nan, dtype=np.float32)
    return arrays


def _with_fewer_positions(arrays: dict[str, Any]) -> dict[str, Any]:
    return {name: array[:-7] if name in ("xcoords", "ycoords") else array for name, array in arrays.items()}


def make_model(scan_path: Path, folder: Path) -> None:
    from ptycho_ray import workflow

    scan = workflow.load_data(scan_path)
    config = TrainingConfig(model=ModelConfig(N=32, n_filters_scale=1), n_groups=60, nepochs=1, batch_size=16)
    workflow.save_inference_bundle(folder, workflow.train_cdi_model(scan, None, config), config, {})


def broken(how: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "scans").mkdir()
        scans = write_scans(folder / "scans")
        if not how:
            make_model(folder / "scans/scan0000.npz", folder / "model")
            how = ["--model-path", str(folder / "model")]
        words = [sys.executable, "-m", "ptycho_ray", "reconstruct-scans", *scans, *how]
        began = time.monotonic()
        whole = subprocess.run([*words, "--output-dir", str(folder / "whole")], capture_output=True, text=True)
        figures = {"seconds": round(time.monotonic() - began), "exit_code": whole.returncode}
        lines = [line for line in whole.stderr.splitlines() if line.startswith("error")]
        figures |= {"images": len(images(folder / "whole")), "errors": lines, "traceback": "Traceback" in whole.stderr}
        halves = [*words, "--output-dir", str(folder / "halves")]
        first = subprocess.Popen(halves, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while len(marks(folder / "halves")) < KILLED_AFTER and first.poll() is None:
            time.sleep(0.05)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        before = marks(folder / "halves")
        second = subprocess.run(halves, capture_output=True, text=True)
        after = marks(folder / "halves")
        twice = sum(after[name] != time_ns for name, time_ns in before.items())
        return {
            "benchmark": "batch", "scans": SCANS, **figures,
            "after_the_kill": {"done": len(before), "done_twice": twice, "images": len(images(folder / "halves")),
                               "exit_code": second.returncode},
        }  # fmt: skip


def images(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/reconstruction.npz")}


def marks(folder: Path) -> dict[str, int]:
    """The times of the images of scans that are done."""
    done = {}
    for name, written in images(folder).items():
        if json.loads((folder / name / "done.json").read_text())["line"]:
            done[name] = written
    return done


class Nothing(Treatment):
    def begin(self, scan: ScanToDo, device: str, say: Say) -> Line:
        return {"exit_code": 0}


class Deaf:
    def __getattr__(self, name: str) -> Any:
        return lambda *told: None


def bookkeeping(count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        todo = []
        for number in range(count):
            (folder / f"{number}.h5").touch()
            todo.append(ScanToDo(folder / f"{number}.h5", folder / "out" / str(number)))
        figures = {}
        for when in ("first", "again"):
            began, cpu = time.monotonic(), time.process_time()
            lines = treat_each(todo, Nothing(), "none", ExecutionConfig(devices=2), Deaf())  # type: ignore[arg-type]
            assert all("error" not in line for line in lines)
            figures[when] = {
                "cpu_s": round(time.process_time() - cpu, 1),
                "wall_s": round(time.monotonic() - began, 1),
            }
        return {"benchmark": "bookkeeping", "scans": count, **figures}


def main() -> None:
    wanted = sys.argv[1:] or ["broken", "bookkeeping"]
    if "broken" in wanted:
        print(json.dumps(broken([])), flush=True)
    if "automatic" in wanted:
        print(json.dumps(broken(["--budget", "1", "--refinement.iterations", "4"])), flush=True)
    if "bookkeeping" in wanted:
        for count in (1000, 10_000):
            print(json.dumps(bookkeeping(count)), flush=True)


if __name__ == "__main__":
    main()
