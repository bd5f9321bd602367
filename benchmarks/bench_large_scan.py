"""Peak resident memory and time of a first look at, a calibration and a refinement of a 4D-STEM scan larger than the memory.

    python benchmarks/bench_large_scan.py --gigabytes 3 --memory-GB 1

Writes an HDF5 file of uint16 counts, rows x columns x 128 x 128, of a crystal whose period the raster repeats every 16 points
(so that 256 simulated frames make the file), and runs ``ptycho-ray info --pictures``, ``calibrate`` and ``refine``, each in a
process of its own. One line of JSON: gigabytes of the file and of resident memory at its highest, seconds of the processor.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

N, PERIOD, STEP_PX = 128, 16, 4
VOLTAGE_KV, SEMIANGLE_MRAD, DISC_PX, DEFOCUS_NM = 300, 21.4, 24, 15


def simulated_tile(counts: float) -> tuple[np.ndarray, float]:
    """Frames [PERIOD, PERIOD, N, N] of a periodic object, and the object pixel in metres."""
    from ptycho_ray.physics.electron_optics import ElectronOptics
    from ptycho_ray.physics.optics import electron_wavelength_m

    wavelength = electron_wavelength_m(VOLTAGE_KV * 1e3)
    pixel = wavelength / (N * SEMIANGLE_MRAD * 1e-3 / DISC_PX)
    probe = ElectronOptics(SEMIANGLE_MRAD * 1e-3, DEFOCUS_NM * 1e-9).probe(N, pixel, wavelength)
    generator = np.random.default_rng(0)
    side = PERIOD * STEP_PX
    row, column = np.indices((side, side))
    phase = np.zeros((side, side))
    for _ in range(12):
        place, height = generator.uniform(0, side, 2), generator.uniform(0.3, 1)
        away = [(index - at + side / 2) % side - side / 2 for index, at in zip((row, column), place, strict=True)]
        phase += height * np.exp(-(away[0] ** 2 + away[1] ** 2) / 8)
    crystal = np.exp(1j * np.tile(phase, (5, 5)))
    frames = np.empty((PERIOD, PERIOD, N, N), np.uint16)
    for first, second in np.ndindex(PERIOD, PERIOD):
        window = crystal[first * STEP_PX : first * STEP_PX + N, second * STEP_PX : second * STEP_PX + N]
        wave = np.fft.fftshift(np.fft.fft2(probe * window, norm="ortho"))
        frames[first, second] = generator.poisson(counts * np.abs(wave) ** 2)
    return frames, pixel


def write_scan(path: Path, gigabytes: float) -> tuple[int, float]:
    """Rows (and columns) of the raster, and the object pixel in metres."""
    frames, pixel = simulated_tile(counts=2e4)
    side = math.ceil(math.sqrt(gigabytes * 1e9 / frames[0, 0].nbytes))
    across = np.arange(side) % PERIOD
    with h5py.File(path, "w") as file:
        data = file.create_dataset("data", (side, side, N, N), np.uint16)
        for row in range(side):
            data[row] = frames[row % PERIOD, across]
    return side, pixel


def measured(words: list[str]) -> dict[str, float]:
    """Peak of resident memory in GB and seconds of the processor of a command, in a process of its own."""
    process = subprocess.Popen([sys.executable, "-m", "ptycho_ray", *words], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"ptycho-ray {' '.join(words)} failed")
    return {"peak_GB": round(used.ru_maxrss * 1024 / 1e9, 2), "cpu_s": round(used.ru_utime + used.ru_stime, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=3.0, help="size of the file")
    parser.add_argument(
        "--memory-GB", type=float, default=None, help="what the patterns may take; half of what is free if not"
    )
    parser.add_argument("--iterations", type=int, default=2, help="of the refinement; 0 for none")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where the file is written; a temporary folder if not"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        side, pixel = write_scan(folder / "scan.h5", options.gigabytes)
        scan = [
            str(folder / "scan.h5"),
            "--frames",
            "data",
            "--voltage-kV",
            str(VOLTAGE_KV),
            "--semiangle-mrad",
            str(SEMIANGLE_MRAD),
        ]
        scan += [
            "--defocus-nm",
            str(DEFOCUS_NM),
            "--raster",
            f"{side}x{side}",
            "--step",
            f"{STEP_PX * pixel * 1e9:.6f}nm",
        ]
        found: dict[str, object] = {
            "benchmark": "large_scan",
            "patterns": side**2,
            "file_GB": round((folder / "scan.h5").stat().st_size / 1e9, 2),
            "as_float32_GB": round(4 * side**2 * N**2 / 1e9, 2),
            "info": measured(["info", *scan, "--pictures", str(folder / "look")]),
            "calibrate": measured(["calibrate", *scan, "--output-dir", str(folder / "calibration")]),
        }
        if options.iterations:
            words = ["refine", *scan, "--iterations", str(options.iterations), "--output-dir", str(folder / "image")]
            words += [] if options.memory_GB is None else ["--memory-GB", str(options.memory_GB)]
            found["refine"] = measured(words) | {"iterations": options.iterations}
            result = json.loads((folder / "image" / "result.json").read_text())
            found["r_factor"] = result.get("held_out_r_factor", result.get("r_factor"))
        print(json.dumps(found))


if __name__ == "__main__":
    main()
