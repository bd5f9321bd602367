"""The refinement from a flat start: patterns a second, and processor time to a quality.

    python benchmarks/bench_refinement.py [FOLDER]

FOLDER holds sim64_1e6.npz, sim128_1e6.npz, hard64_1e6.npz and aps_siemens.npz; if not given, ``shared/data`` beside the
project.
One thread; processor seconds of this process, the least of the repeats, since other work on the machine only adds to them.
The error is that of ``refinement_metric.py``; its own cost is left out.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from refinement_metric import distance_to_truth

from ptycho_ray.data import load_data
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.refinement.solver import Refinement, RefinementConfig

REPEATS = 3
#: File, settings that differ from the defaults, errors whose time is asked for.
RUNS = (
    ("sim64_1e6", {"iterations": 25}, (0.1, 0.05, 0.035)),
    ("sim128_1e6", {"iterations": 12}, (0.1,)),
    ("hard64_1e6", {"iterations": 50, "probe_modes": 2, "position_start": 3}, (0.3, 0.1, 0.056)),
)


def benchmark_scan(path: Path) -> tuple[RawData, dict[str, np.ndarray]]:
    """A benchmark file as a scan with its probe guess, and its arrays."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    side = arrays["dp"].shape[-1]
    rows, columns = (arrays["pos"] + side // 2).T
    counts = arrays["dp"].astype(np.float32)
    scan = RawData(
        columns, rows, None, None, counts, arrays["probe_guess"], domain="intensity", counts_are_photons=True
    )
    return scan, arrays


def curve(scan: RawData, arrays: dict[str, np.ndarray], settings: dict[str, object]) -> list[tuple[float, float]]:
    """(processor seconds, error) after every iteration, set-up included."""
    found, spent, began = [], 0.0, time.process_time()
    refinement = Refinement(scan, RefinementConfig(**settings))  # type: ignore[arg-type]
    for _ in refinement:
        spent += time.process_time() - began
        image = refinement.stitched()
        roi = tuple(int(edge) for edge in arrays["roi"])
        found.append((spent, distance_to_truth(image.image, image.origin_px, arrays["obj"], roi).nrmse))  # type: ignore[arg-type]
        began = time.process_time()
    return found


def time_to(found: list[tuple[float, float]], error: float) -> float:
    return next((seconds for seconds, reached in found if reached <= error), math.inf)


def kernel_speed(scan: RawData) -> float:
    """Patterns a second of whole Adam iterations with sub-pixel positions, object and probe moving."""
    config = RefinementConfig(iterations=8, held_out_fraction=0.0, check_every=1000)
    best = math.inf
    refinement = Refinement(scan, config)
    began = time.process_time()
    for _ in refinement:
        best = min(best, time.process_time() - began)
        began = time.process_time()
    return len(scan) / best


def measured_scan(path: Path) -> None:
    """Held-out R-factor of a measured scan, squared and not; every 25th pattern is held out."""
    scan = load_data(path)
    held_out = np.arange(5, len(scan), 25)
    for settings in ({"iterations": 30}, {"iterations": 30, "probe_modes": 3, "position_start": 3}):
        began = time.process_time()
        refinement = Refinement(scan, RefinementConfig(**settings), held_out=held_out)  # type: ignore[arg-type]
        first = judged(refinement, held_out)
        for _ in refinement:
            pass
        seconds = time.process_time() - began
        last = judged(refinement, held_out)
        print(
            f"{path.stem}  {settings}: held-out R-factor squared {last[1]:.4f} (flat {first[1]:.4f}), "
            f"plain {last[0]:.4f} (flat {first[0]:.4f}), {seconds:.1f} CPU s"
        )


@torch.no_grad()
def judged(refinement: Refinement, rows: np.ndarray) -> tuple[float, float]:
    """sum |sqrt(I) - sqrt(c)| / sum sqrt(c), and sum (sqrt(I) - sqrt(c))**2 / sum c, over all the patterns."""
    kernel = refinement.run.kernel
    waves = kernel.forward(refinement.run.state, torch.as_tensor(rows))
    measured = kernel.amplitude[waves.rows]
    difference = waves.intensity.sqrt() - measured
    plain, squared = difference.abs().sum() / measured.sum(), difference.square().sum() / measured.square().sum()
    return float(plain), float(squared)


def folder_of_scans(given: str | None = None) -> Path | None:
    """The folder with the benchmark scans, ``given`` or beside the project; None, and a line, where there is none."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data" if given is None else Path(given)
    if folder.is_dir():
        return folder
    print(f"no folder {folder}: the benchmark scans are not part of the repository")
    return None


def main() -> None:
    torch.set_num_threads(1)
    folder = folder_of_scans(*sys.argv[1:2])
    if folder is None:
        return
    for name, settings, errors in RUNS:
        scan, arrays = benchmark_scan(folder / f"{name}.npz")
        found = [curve(scan, arrays, settings) for _ in range(REPEATS)]
        times = ", ".join(f"{error:g} in {min(time_to(one, error) for one in found):.2f} s" for error in errors)
        least = min(one[-1][0] for one in found)
        print(f"{name}  {settings}: error {times}; {found[0][-1][1]:.4f} at the end ({least:.2f} s)", flush=True)
        if name != "hard64_1e6":
            speed = max(kernel_speed(scan) for _ in range(REPEATS))
            print(f"{name}  {speed:.0f} patterns a second ({1e6 / speed:.0f} us a pattern)", flush=True)
    measured_scan(folder / "aps_siemens.npz")


if __name__ == "__main__":
    main()
