"""How many pixels lie within the error bars of the solver's image, where 70 % should: simulated scans of known objects.

    python benchmarks/error_bars.py [FOLDER]

FOLDER holds sim64_1e6.npz, whose positions, probe and probe guess are used; if not given, ``shared/data`` beside the project.
Scenes: its own; its scan over lines of ``ptycho_ray.simulation``; dead leaves under an aberrated probe, by which the rule was
checked while it was chosen; and "untouched", a Siemens star under another aberrated probe along a spiral, which was looked at
only when the rule was fixed. The probe is known, or refined from a guess (of the file, or a disc), or refined while positions
are wrong by up to 0.7 pixels and refined too. Over the covered pixels; the error is taken after what diffraction leaves open
has been fitted (a factor, a phase ramp; a shift if the probe is refined). One thread; CPU seconds.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from bench_refinement import benchmark_scan, folder_of_scans
from numpy.typing import NDArray

from ptycho_ray.data.raw_data import RawData
from ptycho_ray.evaluation import calibration_of, evaluate_reconstruction
from ptycho_ray.refinement.error_bars import ErrorBars, error_bars
from ptycho_ray.refinement.solver import Refinement, RefinementConfig
from ptycho_ray.simulation.objects import make_object
from ptycho_ray.simulation.probes import make_probe
from ptycho_ray.simulation.scan_patterns import make_scan
from ptycho_ray.simulation.simulate import simulate_scan

DOSES = (1e4, 1e6, 1e8)
UNKNOWNS = ("object", "and probe", "and positions")
#: Standard deviations that 70 % of a normal distribution lie within.
NOMINAL, Z = 0.70, 1.0364
WRONG_BY_PX = 0.7
#: Object [H, W], probe, positions [n, 2] and the guess of the probe.
Scene = tuple[NDArray[np.complex64], NDArray[np.complex64], NDArray[np.float64], NDArray[np.complex64]]


def scene_of(kind: str, path: str, seed: int, *, side: int = 224, N: int = 64, count: int = 500) -> Scene:
    """An object under an aberrated probe that is taken for a disc; positions within the object."""
    rng = np.random.default_rng(seed)
    image = make_object(kind, (side, side), rng).astype(np.complex64)
    probe, guess = make_probe("zernike", N, rng), make_probe("disc", N, rng)
    positions = make_scan(path, image.shape, N, rng, n_patterns=count)
    inside = np.all((positions > N / 2 + 1) & (positions < side - N / 2 - 1), axis=1)
    return image, probe, positions[inside], guess


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
    folder = folder_of_scans(*sys.argv[1:2])
    if folder is None:
        return
    scan, arrays = benchmark_scan(folder / "sim64_1e6.npz")
    lines = make_object("lines", arrays["obj"].shape, np.random.default_rng(5)).astype(np.complex64)
    heads = "object|unknown|photons|amplitude error|within|rank|phase error|within|rank|CPU s, solve|error bars"
    of_file = (arrays["probe"], scan.positions_px, arrays["probe_guess"])
    scenes: dict[str, Scene] = {
        "sim64_1e6": (arrays["obj"], *of_file),
        "lines": (lines, *of_file),
        "dead leaves": scene_of("dead_leaves", "jitter", 21),
        "untouched": scene_of("siemens", "fermat", 31),
    }
    print("| " + heads.replace("|", " | ") + " |\n|" + " --- |" * (heads.count("|") + 1))
    for name, (truth, probe, positions, guess) in scenes.items():
        for unknowns in UNKNOWNS:
            for photons in DOSES:
                drawn = scan_of(truth, probe, positions, photons)
                refinement, seconds = solved(drawn, guess, unknowns)
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
