"""Rate at which a scan on disk is read, beside the libraries below it alone; and the memory that it takes.

    python benchmarks/bench_reading.py --into docs/formats.md        # 2 GB each, some two minutes on two cores
    python benchmarks/bench_reading.py --gigabytes 0.5 --runs 2

Writes a scan of 256 x 256 uint16 in the layout of an EIGER (master file, data files of 1000 frames, bitshuffle with LZ4), and
the same frames as one raw file. Each way of reading takes all frames once, in batches of 64, as float32, in a process of its
own, in turns with the others; the least of the runs counts, since other work only adds. Ours begins with ``load_data``, which
opens the files and looks at the frames, and checks every value it reads. ``shuffled`` takes the frames in a random order, as
training does. Files come from the memory of the machine where they fit, so that the disk does not decide.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

N, BATCH, FRAMES_IN_FILE = 256, 64, 1000
MARKS = ("<!-- reading: begin -->\n", "<!-- reading: end -->")


def write(folder: Path, gigabytes: float) -> int:
    """The scan in both forms; the number of its frames."""
    n = int(gigabytes * 1e9 / (2 * N * N))
    rng = np.random.default_rng(0)
    squared = ((np.indices((N, N)) - N // 2) ** 2).sum(axis=0)
    some = rng.poisson(300 * np.exp(-squared / 300) + 0.05, (50, N, N)).astype(np.uint16)
    positions = np.indices((int(np.ceil(n**0.5)),) * 2).reshape(2, -1).T[:n] * 0.2e-6
    np.savetxt(folder / "scan.csv", positions, header="y_m, x_m", comments="", delimiter=",")
    with h5py.File(folder / "scan_master.h5", "w") as master, (folder / "scan.raw").open("wb") as raw:
        detector = master.create_group("entry/instrument/detector")
        detector["detectorSpecific/photon_energy"] = 8e3
        detector["detector_distance"], detector["x_pixel_size"], detector["y_pixel_size"] = 2.0, 75e-6, 75e-6
        for number, first in enumerate(range(0, n, FRAMES_IN_FILE), start=1):
            count = min(FRAMES_IN_FILE, n - first)
            name = f"scan_data_{number:06d}.h5"
            with h5py.File(folder / name, "w") as file:
                stored = file.create_dataset(
                    "entry/data/data", (count, N, N), np.uint16, chunks=(1, N, N), **hdf5plugin.Bitshuffle()
                )
                for start in range(0, count, len(some)):
                    part = np.roll(some, first + start, axis=2)[: count - start]
                    stored[start : start + len(part)] = part
                    part.tofile(raw)
            master[f"entry/data/data_{number:06d}"] = h5py.ExternalLink(name, "entry/data/data")
    return n


def batches(n: int, shuffled: bool) -> list[NDArray[np.int64]]:
    order = np.random.default_rng(1).permutation(n) if shuffled else np.arange(n)
    return [order[start : start + BATCH] for start in range(0, n, BATCH)]


def ours(path: Path, n: int, shuffled: bool) -> None:
    from ptycho_ray.data import load_data

    how: dict[str, Any] = (
        {} if path.suffix == ".h5" else {"shape": f"{n}x{N}x{N}:uint16", "positions": str(path.with_suffix(".csv"))}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scan = load_data(path, pixel_size_m=2e-8, **how)
    for rows in batches(n, shuffled):
        scan.patterns.intensity(rows)


def h5py_alone(path: Path, n: int, shuffled: bool) -> None:
    with h5py.File(path, "r") as master:
        parts = [master[f"entry/data/{name}"] for name in sorted(master["entry/data"])]
        for rows in batches(n, shuffled):
            if not shuffled and rows[0] // FRAMES_IN_FILE == rows[-1] // FRAMES_IN_FILE:
                first = rows[0] % FRAMES_IN_FILE
                parts[rows[0] // FRAMES_IN_FILE][first : first + len(rows)].astype(np.float32)
                continue
            frames = np.empty((len(rows), N, N), np.uint16)
            for k, row in enumerate(rows):
                parts[row // FRAMES_IN_FILE].read_direct(frames, np.s_[row % FRAMES_IN_FILE], np.s_[k])
            frames.astype(np.float32)


def fromfile_alone(path: Path, n: int, shuffled: bool) -> None:
    with path.open("rb") as stream:
        for rows in batches(n, shuffled):
            if not shuffled:
                np.fromfile(stream, np.uint16, len(rows) * N * N).astype(np.float32)
                continue
            frames = np.empty((len(rows), N, N), np.uint16)
            for k, row in enumerate(rows):
                stream.seek(int(row) * 2 * N * N)
                frames[k] = np.fromfile(stream, np.uint16, N * N).reshape(N, N)
            frames.astype(np.float32)


def memmap_alone(path: Path, n: int, shuffled: bool) -> None:
    frames = np.memmap(path, np.uint16, "r", shape=(n, N, N))
    for rows in batches(n, shuffled):
        (frames[rows] if shuffled else frames[rows[0] : rows[-1] + 1]).astype(np.float32)


WAYS: dict[str, tuple[str, Callable[[Path, int, bool], None]]] = {
    "EIGER, ptycho_ray": ("scan_master.h5", ours),
    "EIGER, h5py alone": ("scan_master.h5", h5py_alone),
    "raw, ptycho_ray": ("scan.raw", ours),
    "raw, numpy.fromfile alone": ("scan.raw", fromfile_alone),
    "raw, numpy.memmap alone": ("scan.raw", memmap_alone),
}
BESIDE = {
    "EIGER, ptycho_ray": "EIGER, h5py alone",
    "raw, ptycho_ray": "raw, numpy.fromfile alone",
}


def measure(way: str, folder: str, n: str, shuffled: str) -> None:
    """In a process of its own: seconds of the clock and of the processor, and the memory over what the imports need."""
    name, read = WAYS[way]
    if read is ours:
        import ptycho_ray.data  # noqa: F401  (its import is no reading)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clock, processor = time.perf_counter(), time.process_time()
    read(Path(folder) / name, int(n), shuffled == "shuffled")
    told = {"wall": time.perf_counter() - clock, "cpu": time.process_time() - processor}
    print(json.dumps(told | {"mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the frames in each of the two forms")
    parser.add_argument("--runs", type=int, default=4, help="turns, of which the least counts")
    parser.add_argument("--folder", type=Path, help="where the files are written (a temporary folder)")
    parser.add_argument("--into", type=Path, help="page whose table is replaced; printed if not given")
    options = parser.parse_args()
    least: dict[tuple[str, str], dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        n = write(Path(folder), options.gigabytes)
        for _ in range(options.runs):
            for order in ("in order", "shuffled"):
                for way in WAYS:
                    command = [sys.executable, __file__, "--measure", way, folder, str(n), order]
                    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                    held = least.setdefault((way, order), told)
                    least[way, order] = {
                        name: (max if name == "mb" else min)(held[name], value) for name, value in told.items()
                    }
    megabytes = n * N * N * 2 / 1e6
    lines = [
        "| frames, read by | order | MB/s (clock) | MB/s (processor) | of the library alone (clock, processor) | memory, MB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for (way, order), told in least.items():
        ratio = "-"
        if way in BESIDE:
            alone = least[BESIDE[way], order]
            ratio = f"{alone['wall'] / told['wall']:.2f}, {alone['cpu'] / told['cpu']:.2f}"
        lines.append(
            f"| {way} | {order} | {megabytes / told['wall']:.0f} | {megabytes / told['cpu']:.0f} | {ratio} | {told['mb']:.0f} |"
        )
    text = f"{n} frames, {megabytes / 1e3:.3g} GB as uint16:\n\n" + "\n".join(lines) + "\n"
    if options.into is None:
        print(text)
        return
    before, _, rest = options.into.read_text().partition(MARKS[0])
    options.into.write_text(f"{before}{MARKS[0]}{text}{MARKS[1]}{rest.partition(MARKS[1])[2]}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(*sys.argv[2:])
    else:
        main()
