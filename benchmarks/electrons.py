"""Electrons from end to end: kV, semi-angle and step alone, and what `ptycho-ray reconstruct` makes of them.

    OMP_NUM_THREADS=1 python benchmarks/electrons.py --folder FOLDER [--rows NAME ...] [--into docs/electrons.md]

A row simulates a scan (`simulate_electrons`), writes it as a microscope leaves it (frames and the step of the raster), reads it
with voltage and semi-angle (and the defocus that the operator believes in, where the row says so) and reconstructs it without a
setting. Beside what was found stand the true values; the image is brought to the truth by `evaluation/registration.py`. Rows
that FOLDER holds already are not made again; pictures lie there, too. `--into` replaces the table between its markers in a
page. The row "depth" refines twenty slices with the true optics and says where along the beam a foreign atom is seen; the rows
"rotavirus" are a measured scan and its halves, from ../shared/data. One thread; processor seconds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, maximum_filter
from scipy.spatial import cKDTree

from ptycho_ray.automatic.reconstruct import Automatic, reconstruct_scan
from ptycho_ray.data import load_data
from ptycho_ray.evaluation.registration import crop_truth, fit_ambiguities
from ptycho_ray.refinement.config import RefinementConfig
from ptycho_ray.refinement.result import RefinementResult
from ptycho_ray.refinement.solver import Refinement
from ptycho_ray.simulation.electrons import ElectronScan, ElectronSpec, simulate_electrons, write_as_measured

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SMALL = {"raster": (24, 24), "phonons": 2}
MOS2 = SMALL | {"specimen": "MoS2", "layers": 1, "voltage_kV": 80.0, "angle_per_pixel_mrad": 2.0, "defocus_nm": 5.5}
#: Name -> what is simulated, and the defocus in nm that is believed in; None if none is.
ROWS: dict[str, tuple[dict[str, Any], float | None]] = {
    "SrTiO3 20 A, 1e6": (SMALL | {"thickness_angstrom": 20.0}, None),
    "SrTiO3 120 A, 1e6": (SMALL, None),
    "SrTiO3 120 A, 1e6, 7 deg, 3 mrad": (SMALL | {"rotation_deg": 7.0, "tilt_mrad": (3.0, 0.0)}, 24.0),
    "SrTiO3 20 A, 1e6, 7 deg, 256 x 256 pixels": (
        SMALL | {"thickness_angstrom": 20.0, "rotation_deg": 7.0, "N": 256, "angle_per_pixel_mrad": 0.325},
        24.0,
    ),
    "SrTiO3 120 A, 1e5, 7 deg": (SMALL | {"rotation_deg": 7.0, "dose_e_per_A2": 1e5}, None),
    "SrTiO3 120 A, 1e4, 7 deg": (SMALL | {"rotation_deg": 7.0, "dose_e_per_A2": 1e4}, None),
    "SrTiO3 120 A, 1e6, overfocus, 7 deg": (SMALL | {"rotation_deg": 7.0, "defocus_nm": -20.0}, None),
    "MoS2, 1e6": (MOS2, None),
    "MoS2, 1e5, 7 deg": (MOS2 | {"rotation_deg": 7.0, "dose_e_per_A2": 1e5}, 6.6),
    "MoS2, 1e4, 7 deg": (MOS2 | {"rotation_deg": 7.0, "dose_e_per_A2": 1e4}, None),
    "MoS2, 1e3, 7 deg": (MOS2 | {"rotation_deg": 7.0, "dose_e_per_A2": 1e3}, None),
}
DEPTH = SMALL | {
    "thickness_angstrom": 200.0, "dopant": "La", "dopant_depth_angstrom": 80.0, "semiangle_mrad": 35.0,
    "dose_e_per_A2": 1e7, "angle_per_pixel_mrad": 1.6, "defocus_nm": 10.0, "step_angstrom": 0.4,
}  # fmt: skip
DEPTH_SLICES = 20
PARTS = {"rotavirus": slice(None), "rotavirus, upper rows": slice(0, 0.5), "rotavirus, lower rows": slice(0.5, 1)}
#: A column is found if a maximum lies within this of it; maxima are this share of the range above the median.
NEAR_ANGSTROM, LEAST_HEIGHT = 0.5, 0.2


def defocus_of(probe: NDArray[np.complex64], made: ElectronScan) -> float:
    """The defocus in nm of the lens whose probe overlaps most with the first mode of a probe found."""
    scan, grid = made.scan, np.arange(-60.0, 60.05, 0.1)
    assert scan.optics is not None
    focus = dataclasses.replace(scan.optics, defocus_m=0.0).probe(scan.N, scan.pixel_size_m, scan.wavelength_m)
    spectrum, f = np.fft.fft2(np.fft.ifftshift(probe[0])), np.fft.fftfreq(scan.N)
    f2 = f[:, None] ** 2 + f**2
    reference = np.fft.fft2(np.fft.ifftshift(focus if focus.ndim == 2 else focus[0]))
    px2 = scan.wavelength_m * 1e-9 / scan.pixel_size_m**2
    overlap = [
        np.abs(np.fft.ifft2(spectrum * np.conj(reference * np.exp(1j * np.pi * px2 * nm * f2)))).max() for nm in grid
    ]
    return float(grid[int(np.argmax(overlap))])


def flat(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Without the plane that fits it best."""
    rows, columns = np.indices(image.shape).reshape(2, -1)
    plane = np.stack([np.ones(rows.size), rows, columns], axis=1)
    return np.asarray(image - (plane @ np.linalg.lstsq(plane, image.ravel(), rcond=None)[0]).reshape(image.shape))


def columns_of(phase: NDArray[np.float64], pixel_angstrom: float) -> NDArray[np.float64]:
    """Maxima of a phase image [k, 2] in pixels, by the parabolas through their neighbours."""
    smooth = gaussian_filter(phase, 0.25 / pixel_angstrom)
    low, high = np.median(smooth), np.percentile(smooth, 99.5)
    peak = (smooth == maximum_filter(smooth, int(1.0 / pixel_angstrom) | 1)) & (
        smooth > low + LEAST_HEIGHT * (high - low)
    )
    found = []
    for row, column in np.argwhere(peak):
        if 0 < row < phase.shape[0] - 1 and 0 < column < phase.shape[1] - 1:
            along = smooth[row - 1 : row + 2, column], smooth[row, column - 1 : column + 2]
            found.append(
                [place + (a - c) / (2 * (a - 2 * b + c)) for place, (a, b, c) in zip((row, column), along, strict=True)]
            )
    return np.array(found).reshape(-1, 2)


def beside_truth(made: ElectronScan, found: RefinementResult, scanned: NDArray[np.float64]) -> dict[str, Any]:
    """Error, correlation and columns of an image beside the truth, within the scanned field."""
    scan = made.scan
    assert scan.object_truth is not None
    assert scan.pixel_size_m is not None
    pixel = scan.pixel_size_m * 1e10
    corner = np.array(found.stitched.origin_px) - scanned.mean(axis=0) + scan.positions_px.mean(axis=0)
    image = found.stitched.image
    low, high = (np.array(edge(scan.positions_px, axis=0)) - corner for edge in (np.min, np.max))
    mask = np.zeros(image.shape, dtype=bool)
    box = tuple(slice(int(np.ceil(a)), int(np.floor(b)) + 1) for a, b in zip(low, high, strict=True))
    mask[box] = True
    fit = fit_ambiguities(image, scan.object_truth, origin_px=(corner[0], corner[1]), mask=mask)
    place = (corner[0] + fit.shift_px[0], corner[1] + fit.shift_px[1])
    truth = crop_truth(scan.object_truth, place, image.shape)[box]
    nrmse = np.linalg.norm(fit.apply(image)[box] - truth) / np.linalg.norm(truth)
    phase_truth = flat(crop_truth(made.slice_phases.sum(axis=0), place, image.shape)[box])
    phase = flat(np.angle(found.slices).sum(axis=0)[box].astype(np.float64))
    true_columns, columns = columns_of(phase_truth, pixel), columns_of(phase, pixel)
    distance, nearest = (
        cKDTree(columns).query(true_columns) if len(columns) else (np.full(len(true_columns), 9e9), None)
    )
    near = distance * pixel < NEAR_ANGSTROM
    offsets = (columns[nearest[near]] - true_columns[near]) * pixel if near.any() else np.full((1, 2), np.nan)
    offsets = offsets - offsets.mean(axis=0)
    return {
        "nrmse": float(nrmse), "flat_nrmse": float(np.linalg.norm(truth - truth.mean()) / np.linalg.norm(truth)),
        "correlation": float(np.corrcoef(phase.ravel(), phase_truth.ravel())[0, 1]),
        "columns": len(true_columns), "found": int(near.sum()), "false": int(len(columns) - len(set(nearest[near].tolist()))),
        "rms_angstrom": float(np.sqrt(np.mean(np.sum(offsets**2, axis=1)))),
        "pictures": (phase_truth, phase),
    }  # fmt: skip


def judged(made: Automatic) -> dict[str, Any]:
    verdict = made.verdict
    return {
        "r": verdict.r_factor, "r_flat": verdict.r_factor_of_a_flat_object, "r_noise": verdict.r_factor_of_noise,
        "times_noise": verdict.times_noise, "flat_times_noise": verdict.flat_times_noise,
        "significance": verdict.significance, "trusted": verdict.trusted, "lines": made.plan.lines,
        "verdict": verdict.sentence,
    }  # fmt: skip


def picture(path: Path, images: dict[str, NDArray[np.float64]]) -> None:
    figure, axes = plt.subplots(1, len(images), figsize=(4 * len(images), 4), squeeze=False)
    for axis, (title, image) in zip(axes[0], images.items(), strict=True):
        axis.imshow(image, cmap="gray")
        axis.set_title(f"{title}: {np.nanmin(image):.2f} to {np.nanmax(image):.2f} rad")
        axis.axis("off")
    figure.savefig(path, dpi=80)
    plt.close(figure)


def whole_row(name: str, folder: Path) -> dict[str, Any]:
    given, believed = ROWS[name]
    spec = ElectronSpec(**given)
    made = simulate_electrons(spec)
    raw = folder / f"{slug(name)}.emd"
    write_as_measured(made, raw)
    scan = load_data(raw, voltage_kV=spec.voltage_kV, semiangle_mrad=spec.semiangle_mrad, defocus_nm=believed)
    began = time.process_time()
    done = reconstruct_scan(scan, tell=lambda line: print(f"{time.process_time() - began:6.1f} s {line}", flush=True))
    seconds = time.process_time() - began
    slab = done.refinement.slab
    settings, matrix = done.plan.choice.assumption.settings, done.plan.choice.assumption.matrix
    figures = beside_truth(made, done.refinement, done.scan.positions_px)
    true_phase, phase = figures.pop("pictures")
    picture(folder / f"{slug(name)}.png", {"true": true_phase, "found": phase})
    return judged(done) | figures | {
        "seconds": seconds, "believed_nm": believed, "defocus_nm": defocus_of(done.refinement.probe, made),
        "true_defocus_nm": spec.defocus_nm, "rotation_deg": float(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))),
        "true_rotation_deg": spec.rotation_deg, "mirrored": bool(np.linalg.det(matrix) < 0),
        "thickness_angstrom": settings.get("thickness_angstrom"), "slices": settings.get("slices", 1),
        "true_thickness_angstrom": made.truth["thickness_angstrom"],
        "tilt_mrad": (0.0, 0.0) if slab is None else slab.tilt_mrad,
        "tilt_error_mrad": (0.0, 0.0) if slab is None else slab.tilt_error_mrad,
        "true_tilt_mrad": list(spec.tilt_mrad),
    }  # fmt: skip


def depth_row(folder: Path) -> dict[str, Any]:
    """Where along the beam the phase of the doped column exceeds that of its neighbours of the same kind."""
    spec = ElectronSpec(**DEPTH)
    made = simulate_electrons(spec)
    scan, place = made.scan, made.truth["dopant_place_angstrom"]
    assert scan.pixel_size_m is not None
    pixel, thickness = scan.pixel_size_m * 1e10, made.truth["thickness_angstrom"]
    config = RefinementConfig(
        iterations=60,
        slices=DEPTH_SLICES,
        thickness_angstrom=thickness,
        depth_smoothing_slices=1.0,
        held_out_fraction=0,
    )
    began = time.process_time()
    refinement = Refinement(scan, config)
    for _ in refinement:
        pass
    found, seconds = refinement.result(), time.process_time() - began
    phases = gaussian_filter(np.angle(found.slices).astype(np.float64), (0, 0.3 / pixel, 0.3 / pixel))
    at = np.array(place[1:]) / pixel - np.array(found.stitched.origin_px)
    cell = 3.905 / pixel
    neighbours = [(cell, 0), (-cell, 0), (0, cell), (0, -cell)]

    def along(where: NDArray[np.float64]) -> NDArray[np.float64]:
        row, column = np.round(where).astype(int)
        return np.asarray(phases[:, row - 1 : row + 2, column - 1 : column + 2].mean(axis=(1, 2)))

    excess = along(at) - np.mean([along(at + np.array(each)) for each in neighbours], axis=0)
    depths = (np.arange(DEPTH_SLICES) + 0.5) * thickness / DEPTH_SLICES
    picture(folder / "depth.png", {f"slice at {d:.0f} A": p for d, p in list(zip(depths, phases, strict=True))[2::5]})
    above = np.clip(excess - excess.max() / 2, 0, None)
    return {
        "true_depth_angstrom": place[0], "peak_angstrom": float(depths[int(np.argmax(excess))]),
        "centre_angstrom": float((above * depths).sum() / above.sum()), "slice_angstrom": thickness / DEPTH_SLICES,
        "width_angstrom": float(np.sum(excess > excess.max() / 2) * thickness / DEPTH_SLICES),
        "excess_rad": excess.round(3).tolist(), "seconds": seconds,
    }  # fmt: skip


def measured_row(name: str, folder: Path) -> dict[str, Any]:
    scan = load_data(DATA / "rotavirus_train.npz")
    rows = np.argsort(scan.positions_px[:, 0], kind="stable")
    part = PARTS[name]
    if part.start is not None:
        rows = rows[int(part.start * len(rows)) : int(part.stop * len(rows))]
        scan = scan.select(np.sort(rows))
    began = time.process_time()
    done = reconstruct_scan(scan, tell=lambda line: print(f"{time.process_time() - began:6.1f} s {line}", flush=True))
    image = np.angle(done.refinement.stitched.image)
    weight = done.refinement.stitched.weight
    image = np.where(weight > 0.2 * weight.max(), image, np.nan)
    picture(folder / f"{slug(name)}.png", {name: np.clip(image, *np.nanpercentile(image, (1, 99)))})
    return judged(done) | {"patterns": len(scan), "seconds": time.process_time() - began}


def slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def table(rows: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| scan (dose in e/Å²) | defocus, nm (true; told) | rotation, deg | thickness, Å (slices) | tilt, mrad "
        "| misfit of unseen patterns, times noise (flat object) | correlation of the phase | NRMSE (flat object) "
        "| columns found (of, false), rms Å | CPU s |",
        "| - | - | - | - | - | - | - | - | - | - |",
    ]
    for name, row in rows.items():
        misfit = f"{row['times_noise']:.2f} ({row['flat_times_noise']:.2f})" if "times_noise" in row else "-"
        if "true_defocus_nm" in row:
            told = "none" if row["believed_nm"] is None else f"{row['believed_nm']:g}"
            thickness = "thin" if row["thickness_angstrom"] is None else f"{row['thickness_angstrom']:.3g}"
            errors = row.get("tilt_error_mrad", (0.0, 0.0))
            tilt = ", ".join(
                f"{each:.1f}" + (f" ± {error:.1f}" if error else "")
                for each, error in zip(row["tilt_mrad"], errors, strict=True)
            )
            lines.append(
                f"| {name} | {row['defocus_nm']:.1f} ({row['true_defocus_nm']:g}; {told}) "
                f"| {row['rotation_deg']:.1f} ({row['true_rotation_deg']:g}) "
                f"| {thickness} ({row['slices']}); true {row['true_thickness_angstrom']:.0f} "
                f"| {tilt} ({row['true_tilt_mrad'][0]:g}, 0) "
                f"| {misfit} | {row['correlation']:.3f} "
                f"| {row['nrmse']:.3f} ({row['flat_nrmse']:.3f}) "
                f"| {row['found']} ({row['columns']}, {row['false']}), {row['rms_angstrom']:.2f} | {row['seconds']:.0f} |"
            )
        elif name != "depth":
            lines.append(
                f"| {name} (measured) | - | - | - | - | {misfit}, R {row['r']:.4f} ({row['r_flat']:.4f}), "
                f"{row['significance']:.1f} standard errors better than flat | - | - | - | {row['seconds']:.0f} |"
            )
    if "depth" in rows:
        row = rows["depth"]
        lines += [
            "",
            f"Depth: the foreign atom lies {row['true_depth_angstrom']:.1f} Å below the entrance; the excess of its column "
            f"peaks at {row['peak_angstrom']:.1f} Å (centre {row['centre_angstrom']:.1f} Å, width {row['width_angstrom']:.0f} "
            f"Å; slices of {row['slice_angstrom']:.1f} Å; {row['seconds']:.0f} CPU s).",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", default=[*ROWS, "depth", *PARTS], metavar="NAME")
    parser.add_argument("--into", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.rows:
        kept = options.folder / f"{slug(name)}.json"
        if not kept.exists():
            print(name, flush=True)
            row = (
                depth_row(options.folder) if name == "depth"
                else measured_row(name, options.folder) if name in PARTS
                else whole_row(name, options.folder)
            )  # fmt: skip
            kept.write_text(json.dumps(row, indent=1))
    every = {name: options.folder / f"{slug(name)}.json" for name in (*ROWS, "depth", *PARTS)}
    made = table({name: json.loads(path.read_text()) for name, path in every.items() if path.exists()})
    print(made)
    if options.into is not None:
        begin, end = "<!-- electrons.py -->\n", "<!-- end -->"
        before, rest = options.into.read_text().split(begin)
        options.into.write_text(before + begin + made + "\n" + end + rest.split(end, 1)[1])


if __name__ == "__main__":
    main()
