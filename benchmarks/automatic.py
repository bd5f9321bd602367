"""The automatic reconstruction on scans whose answer is known, as they are and with what goes wrong in experiments.

    python benchmarks/automatic.py [SCAN ...] [--seeds 5] [--disturb all|NAME,...] [--compare] [--page FILE] [--table FILE]

SCAN is one of ``SCANS``; all of them if none is given. They need ``shared/data`` beside the project. A row: what was disturbed,
the error (``refinement_metric.py``; none for measured scans), the verdict's figures, processor seconds, what was chosen. With
``--compare`` two rows more: ``refine`` as it comes and with an expert's settings, from a flat object. ``--page`` writes all
pictures into one HTML file. One thread.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_refinement import benchmark_scan, folder_of_scans
from refinement_metric import distance_to_truth
from single_shot import lines128

from ptycho_ray.automatic.guesses import rescaled_probe, turned_in_time
from ptycho_ray.automatic.reconstruct import Automatic, reconstruct_scan
from ptycho_ray.data import load_data
from ptycho_ray.data.inspection import photons_per_unit
from ptycho_ray.data.loading import estimate_probe
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.display.figures import plot_object
from ptycho_ray.display.report import Section, write_report
from ptycho_ray.physics.optics import probe_diameter_px
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.refinement.solver import Refinement, RefinementConfig
from ptycho_ray.simulation.probes import disc

SCANS = (
    "sim64_1e6", "sim128_1e6", "hard64_1e6", "lines128", "lines128_probe_0.9", "lcls_run1084", "aps_siemens",
    "rotavirus", "rotavirus_other_defocus", "petra_near_field",
)  # fmt: skip
#: What an expert sets for ``refine``, where it is not what it comes with.
EXPERT = {
    "hard64_1e6": {"iterations": 50, "probe_modes": 2, "position_start": 3},
    "aps_siemens": {"iterations": 30, "probe_modes": 3, "position_start": 3},
    "lines128": {"probe_start": None},
    "petra_near_field": {"near_field_px2": 11.159, "probe_guess": "mean_pattern", "iterations": 60},
}
#: Object pixel of the near-field scan, which its file does not hold.
PETRA_PIXEL_M = 1.787e-7
Error = Callable[[StitchedObject], float]


def known_scan(data: Path, name: str) -> tuple[RawData, Error | None]:
    """A scan, and how far an image is from its truth; None for measured ones."""
    if name.startswith(("sim", "hard")):
        scan, arrays = benchmark_scan(data / f"{name}.npz")
        truth, edges = arrays["obj"], [int(edge) for edge in arrays["roi"]]
    elif name.startswith("lines"):
        scan = lines128(data, "test")
        assert scan.object_truth is not None
        truth, edges = scan.object_truth, [59, 329, 59, 329]
        if name.endswith("0.9"):
            scan = scan.at(scan.positions_px, rescaled_probe(scan.probe, 0.9))
    elif name.startswith("rotavirus"):
        scan = load_data(data / "rotavirus_train.npz")
        return scan.at(scan.positions_px, turned_in_time(scan.probe)) if name.endswith("defocus") else scan, None
    elif name.startswith("petra"):
        return load_data(data / "PETRAIII_P25_Near_Field_Ptycho.cxi", pixel_size_m=PETRA_PIXEL_M), None
    else:
        scan = load_data(data / f"{name}.npz")
        if not name.startswith("lcls"):
            return scan, None
        assert scan.object_truth is not None
        low, high = np.ceil(scan.positions_px.min(axis=0)), np.floor(scan.positions_px.max(axis=0))
        truth, edges = scan.object_truth, [int(edge) for edge in (low[0], high[0], low[1], high[1])]
    roi = (edges[0], edges[1], edges[2], edges[3])
    return scan, lambda image: distance_to_truth(image.image, image.origin_px, truth, roi).nrmse


def disturbed(scan: RawData, how: str, rng: np.random.Generator) -> RawData:
    """The scan with one thing wrong."""
    intensity, positions, probe = scan.patterns.intensity(), scan.positions_px.copy(), scan.probe
    middle, counts_are_photons, guess = positions.mean(axis=0), scan.counts_are_photons, False
    if how == "no probe":
        probe, guess = estimate_probe(scan.patterns), True
    elif how == "disc 1.3 times as wide":
        diameter = min(1.3 * probe_diameter_px(probe) / 0.95, 0.9 * scan.N)
        probe = disc(scan.N, rng, diameter_px=diameter)[None]
    elif how == "axes exchanged":
        positions = positions[:, ::-1]
    elif how == "scale 3 % off":
        positions = middle + 1.03 * (positions - middle)
    elif how == "counts of 0.01 photon":
        intensity, counts_are_photons = intensity * 100, None
    elif how == "1 px and 5 %":
        positions = positions + rng.normal(0, 1, positions.shape)
        factor = 1 + 0.05 * rng.normal(size=(len(scan), 1, 1))
        intensity = rng.poisson(intensity * np.clip(factor, 0.5, None)).astype(np.float32)
    elif how == "1 % dead pixels":
        intensity[:, rng.random(intensity.shape[1:]) < 0.01] = 0
    elif how == "background of 2 %":
        level = 0.02 * intensity.sum(axis=(1, 2)).mean() / scan.N**2
        intensity = intensity + rng.poisson(level, intensity.shape).astype(np.float32)
    elif how != "as it is":
        raise SystemExit(f"there is no disturbance {how!r}; the names are {', '.join(DISTURBANCES)}")
    made = RawData(
        positions[:, 1], positions[:, 0], None, None, intensity.astype(np.float32), probe, domain="intensity",
        counts_are_photons=counts_are_photons, bad_pixels=scan.bad_pixels,
    )  # fmt: skip
    made.probe_is_guess = guess
    return made


DISTURBANCES = (
    "as it is", "no probe", "disc 1.3 times as wide", "axes exchanged", "scale 3 % off", "counts of 0.01 photon",
    "1 px and 5 %", "1 % dead pixels", "background of 2 %",
)  # fmt: skip


def figure(error: Error | None, image: StitchedObject) -> str:
    return "-" if error is None else f"{error(image):.4f}"


def automatic_row(data: Path, name: str, how: str, seed: int) -> tuple[str, Automatic]:
    """One automatic reconstruction, as a row of the table."""
    scan, error = known_scan(data, name)
    scan = scan if how == "as it is" else disturbed(scan, how, np.random.default_rng(1))
    began = time.process_time()
    made = reconstruct_scan(scan, seed=seed)
    seconds, verdict = time.process_time() - began, made.verdict
    found = figure(error, made.refinement.stitched)
    if error is not None and how == "axes exchanged" and np.linalg.det(made.plan.choice.assumption.matrix) > 0:
        found = "axes not found"
    noise, times = "unknown", "-"
    if verdict.r_factor_of_noise is not None and verdict.times_noise is not None:
        noise, times = f"{verdict.r_factor_of_noise:.4f}", f"{verdict.times_noise:.2f}"
    r_factors = f"{verdict.r_factor:.4f} ({noise}, {verdict.r_factor_of_a_flat_object:.4f})"
    told = "; ".join(verdict.findings) or "-"
    trusted = "" if verdict.trusted else "not to be trusted; "
    line = f"| {name} | {how} | {seed} | {found} | {r_factors} | {times} | {seconds:.0f} | {trusted}{told} |"
    return line, made


def refine_row(data: Path, name: str, how: str, settings: dict[str, Any]) -> str:
    """``refine`` from a flat object, as a row of the table; judged as the automatic reconstruction is."""
    scan, error = known_scan(data, name)
    began = time.process_time()
    refinement = Refinement(scan, RefinementConfig(**settings))
    for _ in refinement:
        pass
    seconds = time.process_time() - began
    judged = refinement.judge_unseen(refinement.held_out, photons_per_unit(scan))
    found = figure(error, refinement.stitched())
    r_factors = f"{judged.r_factor:.4f} ({judged.noise_r_factor:.4f}, -)"
    told = ", ".join(f"{key} {value}" for key, value in settings.items()) or "-"
    return f"| {name} | {how} | 0 | {found} | {r_factors} | {judged.times_noise:.2f} | {seconds:.0f} | {told} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="*", default=SCANS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--disturb", default="as it is")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--page", type=Path)
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    data = folder_of_scans()
    if data is None:
        return
    lines = [
        "| scan | with | seed | error | R (noise, flat) | times noise | CPU s | found |",
        "| - | - | - | - | - | - | - | - |",
    ]
    print("\n".join(lines), flush=True)
    sections = []

    def add(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    for name in options.scans:
        if options.compare:
            add(refine_row(data, name, "refine as it comes", {}))
            if name in EXPERT:
                add(refine_row(data, name, "refine, an expert's settings", EXPERT[name]))
        for how in DISTURBANCES if options.disturb == "all" else options.disturb.split(","):
            for seed in range(options.seeds):
                line, made = automatic_row(data, name, how, seed)
                add(line)
                image = made.refinement.stitched
                picture = plot_object(image.image, region=image.covered(), pixel_size_m=made.scan.pixel_size_m)
                sections.append(
                    Section(f"{name}, {how}, seed {seed}", text=made.verdict.sentence, pictures=[(line, picture)])
                )
    if options.table is not None:
        options.table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if options.page is not None:
        write_report(options.page, title="Automatic reconstructions", sections=sections)


if __name__ == "__main__":
    main()
