"""How many pixels lie within the error bars of the solver's image, where 70 % should: simulated scans of known objects.

    python benchmarks/error_bars.py [FOLDER]

FOLDER holds sim64_1e6.npz, whose positions, probe and probe guess are used; if not given, ``shared/data`` beside the project.
Objects: its own, and lines of ``ptycho_ray.simulation``. The probe is known, or refined from the guess of the file, or
refined while positions are wrong by up to 0.7 pixels and refined too. Over the covered pixels; the error is taken after what
diffraction leaves open has been fitted (a factor, a phase ramp; a shift if the probe is refined). One thread; CPU seconds.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from bench_refinement import benchmark_scan
from numpy.typing import NDArray

from ptycho_ray.data.raw_data import RawData
from ptycho_ray.evaluation import calibration_of, evaluate_reconstruction
from ptycho_ray.refinement.error_bars import ErrorBars, error_bars
from ptycho_ray.refinement.solver import Refinement, RefinementConfig
from ptycho_ray.simulation.objects import make_object
from ptycho_ray.simulation.simulate import simulate_scan

DOSES = (1e4, 1e6, 1e8)
UNKNOWNS = ("object", "and probe", "and positions")
#: Standard deviations that 70 % of a normal distribution lie within.
NOMINAL, Z = 0.70, 1.0364
WRONG_BY_PX = 0.7


def scan_of(
    image: NDArray[np.complex64], probe: NDArray[np.complex64], positions: NDArray[np.float64], photons: float
) -> RawData:
    """Patterns of ``image`` [H, W] with so many photons on average in each."""
    made = simulate_scan(image, probe, positions, rng=np.random.default_rng(0), photons=photons)
    assert isinstance(made, RawData)
    return made


def solved(scan: RawData, guess: NDArray[np.complex64], unknowns: str) -> tuple[Refinement, float]:
    """The scan, solved by the usual settings, and CPU seconds."""
    probe, settings = (scan.probe, {"probe_start": None}) if unknowns == "object" else (guess, {"probe_start": 0})
    if unknowns == "and positions":
        wrong = np.random.default_rng(3).uniform(-WRONG_BY_PX, WRONG_BY_PX, (len(scan), 2))
        scan, settings = scan.at(scan.positions_px + wrong), settings | {"position_start": 3}
    began = time.process_time()
    refinement = Refinement(scan, RefinementConfig(**settings), probe=probe)  # type: ignore[arg-type]
    for _ in refinement:
        pass
    return refinement, time.process_time() - began


def row(refinement: Refinement, bars: ErrorBars, truth: NDArray[np.complex64]) -> list[str]:
    """For amplitude and phase: root mean square error, coverage, rank correlation."""
    image, cells = refinement.stitched(), []
    found = evaluate_reconstruction(
        image.image, truth, origin_px=image.origin_px, region=bars.covered,
        register=refinement.config.probe_start is not None,
    )  # fmt: skip
    ours, true = found.aligned[found.mask], found.truth[found.mask]
    errors = (np.abs(ours) - np.abs(true), np.angle(ours * true.conj()))
    stds = (bars.amplitude_std[found.mask] * abs(found.ambiguities.scale), bars.phase_std[found.mask])
    for error, std in zip(errors, stds, strict=True):
        inside = float(np.mean(np.abs(error) <= Z * std))
        correlation = calibration_of(error, std).rank_correlation
        cells += [f"{np.sqrt(np.mean(error**2)):.4f}", f"{inside:.2f}", f"{correlation:.2f}"]
    return cells


def main() -> None:
    torch.set_num_threads(1)
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else beside
    if not folder.is_dir():
        print(f"no folder {folder}: the benchmark scans are not part of the repository")
        return
    scan, arrays = benchmark_scan(folder / "sim64_1e6.npz")
    lines = make_object("lines", arrays["obj"].shape, np.random.default_rng(5)).astype(np.complex64)
    heads = "object|unknown|photons|amplitude error|within|rank|phase error|within|rank|CPU s, solve|error bars"
    print("| " + heads.replace("|", " | ") + " |\n|" + " --- |" * (heads.count("|") + 1))
    for name, truth in (("sim64_1e6", arrays["obj"]), ("lines", lines)):
        for unknowns in UNKNOWNS:
            for photons in DOSES:
                drawn = scan_of(truth, arrays["probe"], scan.positions_px, photons)
                refinement, seconds = solved(drawn, arrays["probe_guess"], unknowns)
                began = time.process_time()
                bars = error_bars(refinement, 1.0, np.random.default_rng(1))
                spent = time.process_time() - began
                cells = [
                    name,
                    unknowns,
                    f"{photons:g}",
                    *row(refinement, bars, truth),
                    f"{seconds:.1f}",
                    f"{spent:.1f}",
                ]
                print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
