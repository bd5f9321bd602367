"""Patterns of few electrons: likelihoods and the prior that the object is smooth.

    OMP_NUM_THREADS=1 python benchmarks/few_electrons.py rotavirus     # measured; needs shared/data beside the project
    OMP_NUM_THREADS=1 python benchmarks/few_electrons.py counts        # simulated, 0.01 to 1 electron a pixel of the detector

rotavirus: 264 patterns held out, the intensity of each fitted to half of its pixels; gain is the mean logarithm of the misfit
of a flat object over that of the image, with its standard errors, in the upper and the lower half of the scan. counts: error of
the object relative to its contrast, after a complex factor; the probe is known.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from bench_refinement import folder_of_scans
from scipy.ndimage import gaussian_filter

from ptycho_ray.automatic.trials import drawn, surrounded
from ptycho_ray.data import load_data
from ptycho_ray.data.inspection import photons_per_unit
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.physics.diffraction import diffraction_intensity
from ptycho_ray.physics.electron_optics import ElectronOptics
from ptycho_ray.physics.optics import electron_wavelength_m
from ptycho_ray.refinement.solver import Refinement, RefinementConfig

SETTINGS = (
    {}, {"smoothing_length_px": 0.5}, {"smoothing_length_px": 1.0}, {"smoothing_length_px": 2.0}, {"smoothing_length_px": 5.0},
    {"total_variation": 0.1}, {"phase_smoothing": 0.3}, {"phase_object": 1.0},
)  # fmt: skip
N, SIDE, STEP, PIXEL_M = 64, 20, 3, 0.2e-10


def solved(refinement: Refinement) -> Refinement:
    for _ in refinement:
        pass
    return refinement


def rotavirus() -> None:
    scan = load_data(folder_of_scans() / "rotavirus_train.npz")
    held_out = drawn(surrounded(scan.positions_px), 264, np.random.default_rng(0))
    upper = scan.positions_px[held_out, 0] < np.median(scan.positions_px[:, 0])
    print("| settings | R | flat | gain, upper half | lower half |\n| - | - | - | - | - |")
    for settings in SETTINGS:
        config = RefinementConfig(iterations=20, check_every=99, intensity_start=2, **settings)
        found, unit = solved(Refinement(scan, config, held_out=held_out)), photons_per_unit(scan)
        ours = found.judge_unseen(held_out, unit)
        found.run.state.object.fill_(1)
        flat = found.judge_unseen(held_out, unit)
        told = []
        for half in (upper, ~upper):
            gain = np.log(flat.misfit[half] / ours.misfit[half])
            told.append(f"{gain.mean():.1%}, {gain.mean() / gain.std() * len(gain) ** 0.5:.1f}")
        print(f"| {settings} | {ours.r_factor:.4f} | {flat.r_factor:.4f} | {told[0]} | {told[1]} |", flush=True)


def simulated(electrons_a_pixel: float) -> tuple[RawData, np.ndarray]:
    """A thin object of 0.3 rad rms and its patterns, 300 kV."""
    rng = np.random.default_rng(0)
    phase = gaussian_filter(rng.normal(size=(N + SIDE * STEP + 6,) * 2), 1.2)
    image = np.exp(0.3j * phase / phase.std())
    grid = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij"), axis=-1).reshape(-1, 2) * STEP
    positions = grid + rng.integers(0, 2, grid.shape) + N // 2 + 2
    probe = ElectronOptics(20e-3, 120e-10).probe(N, PIXEL_M, electron_wavelength_m(300e3))[None]
    probe *= (electrons_a_pixel * N**2) ** 0.5
    rates = [diffraction_intensity(image[r : r + N, c : c + N] * probe) for r, c in positions - N // 2]
    counts = rng.poisson(np.array(rates)).astype(np.float32)
    scan = RawData(
        positions[:, 1], positions[:, 0], None, None, counts, probe.astype(np.complex64), domain="intensity",
        counts_are_photons=True,
    )  # fmt: skip
    return scan, image


def error(found: Refinement, image: np.ndarray) -> float:
    stitched = found.stitched()
    top, left = (round(edge) for edge in stitched.origin_px)
    low, high = N // 2 + 4, len(image) - N // 2 - 4
    ours, truth = stitched.image[low - top : high - top, low - left : high - left], image[low:high, low:high]
    factor = np.vdot(ours, truth) / np.vdot(ours, ours)
    return float(np.sqrt(np.mean(np.abs(factor * ours - truth) ** 2) / np.mean(np.abs(truth - truth.mean()) ** 2)))


def counts() -> None:
    lengths = (0.0, 0.5, 1.0, 2.0)
    print("| electrons a pixel | likelihood | " + " | ".join(f"{length:g} px" for length in lengths) + " |")
    print("| - | - |" + " - |" * len(lengths))
    for mean in (0.01, 0.03, 0.1, 0.3, 1.0):
        scan, image = simulated(mean)
        for likelihood in ("amplitude", "poisson"):
            errors = []
            for length in lengths:
                config = RefinementConfig(
                    iterations=20, check_every=99, probe_start=None, likelihood=likelihood, smoothing_length_px=length
                )
                errors.append(f"{error(solved(Refinement(scan, config)), image):.3f}")
            print(f"| {mean:g} | {likelihood} | " + " | ".join(errors) + " |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("rotavirus", "counts"))
    torch.set_num_threads(1)
    {"rotavirus": rotavirus, "counts": counts}[parser.parse_args().what]()
