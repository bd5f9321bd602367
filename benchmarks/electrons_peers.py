"""A thick crystal beside PtyRAD and quantem: processor time of a pattern and slice, and the error reached, on one thread.

    sh benchmarks/install_peers.sh FOLDER PYTHON
    OMP_NUM_THREADS=1 PYTHONPATH=. FOLDER/bin/python benchmarks/electrons_peers.py [--iterations 24]

One simulated scan (SrTiO3, 120 Angstrom, 24 x 24 positions of 64 x 64 pixels, 1e6 electrons a square Angstrom, two
configurations of phonons), and for all the same probe to begin with, positions, object of ones and slices. All programs run in
one process and take turns, an iteration each, so that what else the machine does strikes all alike; processor seconds of the
iterations alone.

The error is that of the sum of the phases of all slices within the scanned field, over the standard deviation of the true one
(the product would wrap: columns delay by 16 radian); a shift and a plane are taken out. The last column
has the complex error of the product all the same. PtyRAD is given with several rates of
its optimiser, without constraints (``--rates``) and with those that its users set for a crystal (``--constrained-rates``:
filter along the beam, phases above zero, amplitudes near one). quantem gets its own simple interface, a complex object and a
pure phase, and a learnt probe.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from refinement_metric import distance_to_truth
from scipy.ndimage import shift as shifted
from skimage.registration import phase_cross_correlation

from ptycho_ray.refinement.solver import Refinement, RefinementConfig
from ptycho_ray.simulation.electrons import ElectronScan, ElectronSpec, simulate_electrons

#: The sum of the phases of all slices, where its first pixel lies in the truth, and the product of the slices.
Image = tuple[np.ndarray, tuple[float, float], np.ndarray]
CONSTRAINTS = {
    "kz_filter": {"start_iter": 1, "step": 1, "end_iter": None, "obj_type": "both", "beta": 1.0, "alpha": 1.0},
    "obja_thresh": {"start_iter": 1, "step": 1, "end_iter": None, "relax": 0.0, "thresh": [0.96, 1.04]},
    "objp_postiv": {"start_iter": 1, "step": 1, "end_iter": None, "relax": 0.0, "mode": "clip_neg"},
}
OTHER_CONSTRAINTS = (
    "ortho_pmode", "probe_mask_k", "probe_mask_r", "fix_probe_int", "obj_rblur", "obj_zblur", "kr_filter", "kr_thresh",
    "complex_ratio", "mirrored_amp", "obj_z_recenter", "pos_recenter", "tilt_smooth",
)  # fmt: skip


def ours(made: ElectronScan, slices: int, iterations: int, **given: float) -> Iterator[Callable[[], Image]]:
    config = RefinementConfig(
        iterations=iterations, slices=slices, thickness_angstrom=made.truth["thickness_angstrom"],
        check_every=iterations + 1, held_out_fraction=0, depth_smoothing_slices=1.0, **given,
    )  # fmt: skip
    refinement = Refinement(made.scan, config)

    def image() -> Image:
        found = refinement.result()
        return np.angle(found.slices).sum(axis=0), found.stitched.origin_px, found.stitched.image

    for _ in refinement:
        yield image


def ptyrad(made: ElectronScan, slices: int, rate: float, *, constrained: bool) -> Iterator[Callable[[], Image]]:
    from ptyrad.core.constraints import CombinedConstraint
    from ptyrad.core.losses import CombinedLoss
    from ptyrad.core.models import PtychoModel
    from ptyrad.solver.reconstruction import (
        compute_loss,
        create_optimizer,
        make_batches,
        recon_step,
        toggle_grad_requires,
    )

    scan, truth = made.scan, made.truth
    assert scan.object_truth is not None
    corners = scan.positions_px - scan.N // 2
    whole = np.round(corners)
    n, side = len(scan), scan.N
    distance = truth["thickness_angstrom"] / slices
    distance_px2 = truth["slice_distance_px2"] * distance / truth["slice_distance_angstrom"]
    f = np.fft.fftfreq(side)
    start = {
        "obj": np.ones((1, slices, *scan.object_truth.shape), np.complex64), "omode_occu": np.ones(1),
        "probe": scan.probe, "measurements": scan.patterns.intensity(), "crop_pos": whole.astype(np.int32),
        "probe_pos_shifts": corners - whole, "obj_tilts": np.zeros((1, 2)), "slice_thickness": distance,
        "H": np.exp(-1j * np.pi * distance_px2 * (f[:, None] ** 2 + f**2)).astype(np.complex64),
        "N_scan_slow": made.spec.raster[0], "N_scan_fast": made.spec.raster[1], "dx": scan.pixel_size_m * 1e10,
        "dk": 1 / (side * scan.pixel_size_m * 1e10), "lambd": scan.wavelength_m * 1e10, "random_seed": 0,
        "length_unit": "Ang", "scan_affine": None, "meas_Npix": side, "simu_Npix": side, "simu_match_mode": None,
        "recon_provenance": None,
    }  # fmt: skip
    rates = {"obja": rate, "objp": rate, "probe": rate * float(np.abs(scan.probe).max())}
    rates |= {"probe_pos_shifts": 0.0, "obj_tilts": 0.0, "slice_thickness": 0.0}
    optimiser = {"name": "Adam", "configs": {}, "load_state": None}
    updates = {name: {"start_iter": 1 if value else None, "lr": value} for name, value in rates.items()}
    settings = {"detector_blur_std": None, "optimizer_params": optimiser, "update_params": updates}
    model = PtychoModel(start, settings, device="cpu")
    terms = {f"loss_{name}": {"state": False} for name in ("single", "poissn", "pacbed", "sparse", "simlar")}
    loss = CombinedLoss(terms | {"loss_single": {"state": True, "weight": 1.0, "dp_pow": 0.5}}, device="cpu")
    off = {name: {"start_iter": None, "step": 1, "end_iter": None} for name in OTHER_CONSTRAINTS}
    constrain = CombinedConstraint(off | CONSTRAINTS, device="cpu") if constrained else lambda *_: None
    solver = create_optimizer(optimiser, model.optimizable_params)
    batches = make_batches(np.arange(n), corners, 32, mode="random", seed=0)

    def image() -> Image:
        amplitude, phase = model.opt_obja.detach()[0], model.opt_objp.detach()[0]
        product = torch.polar(amplitude.prod(dim=0), phase.sum(dim=0)).numpy()
        return phase.sum(dim=0).numpy(), (0.0, 0.0), product

    iteration = 0
    while True:
        iteration += 1
        toggle_grad_requires(model, iteration)
        recon_step(batches, 1, model, solver, None, loss, constrain, iteration, compute_loss_fn=compute_loss)
        yield image


def quantem(made: ElectronScan, slices: int, rate: float, kind: str) -> Iterator[Callable[[], Image]]:
    from quantem.core.datastructures import Dataset4dstem
    from quantem.diffractive_imaging.dataset_models import PtychographyDatasetRaster
    from quantem.diffractive_imaging.ptychography_lite import PtychoLite

    scan, spec = made.scan, made.spec
    frames = scan.patterns.intensity().reshape(*spec.raster, scan.N, scan.N).astype(np.float32)
    frequency = 1 / (scan.N * scan.pixel_size_m * 1e10)
    sampling = (spec.step_angstrom, spec.step_angstrom, frequency, frequency)
    stored = Dataset4dstem.from_array(frames, sampling=sampling, units=["A", "A", "A^-1", "A^-1"])
    data = PtychographyDatasetRaster.from_dataset4dstem(
        stored, verbose=0, learn_descan=False, learn_scan_positions=False
    )
    data.preprocess(
        com_fit_function="no_shift", force_com_rotation=0, force_com_transpose=False, plot_rotation=False, plot_com=False
    )  # fmt: skip
    solver = PtychoLite.from_dataset(
        data, num_slices=slices, slice_thicknesses=made.truth["thickness_angstrom"] / slices, obj_type=kind,
        energy=spec.voltage_kV * 1e3, defocus=spec.defocus_nm * 10, semiangle_cutoff=spec.semiangle_mrad,
        obj_padding_px=(scan.N // 2, scan.N // 2), verbose=0, rng=0,
    )  # fmt: skip
    first = scan.positions_px[0] - solver.dset.scan_positions_px[0].detach().numpy()

    def image() -> Image:
        found = solver.obj
        product = found.prod(axis=0) if np.iscomplexobj(found) else np.exp(1j * found.sum(axis=0))
        phase = np.angle(found) if np.iscomplexobj(found) else found
        return phase.sum(axis=0), (float(first[0]), float(first[1])), product

    while True:
        with contextlib.redirect_stderr(io.StringIO()):
            solver.reconstruct(num_iters=1, lr_obj=rate, lr_probe=1e-3, batch_size=32)
        yield image


def phase_error(image: Image, truth: np.ndarray, roi: tuple[int, int, int, int]) -> float:
    """Error of the projected phase [H, W] within ``roi`` = rows, columns of the truth, over the true standard deviation."""
    top, bottom, left, right = roi
    row, column = (round(each) for each in image[1])
    phase = np.asarray(image[0], dtype=np.float64)
    true = truth[top:bottom, left:right]
    moved = phase_cross_correlation(
        true, phase[top - row : bottom - row, left - column : right - column], upsample_factor=50, normalization=None
    )[0]
    if np.abs(moved).max() < 3:
        phase = shifted(phase, moved, order=3, mode="nearest")
    difference = (phase[top - row : bottom - row, left - column : right - column] - true).ravel()
    rows, columns = np.indices(true.shape).reshape(2, -1)
    plane = np.stack([np.ones(rows.size), rows, columns], axis=1)
    difference -= plane @ np.linalg.lstsq(plane, difference, rcond=None)[0]
    return float(difference.std() / true.std())


@dataclass
class Course:
    """What a program has done so far: processor seconds and error after each iteration."""

    name: str
    images: Iterator[Callable[[], Image]]
    seconds: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    complex_error: float = math.nan

    def seconds_to(self, error: float) -> float:
        reached = np.flatnonzero(np.array(self.errors) <= error)
        return float(np.sum(self.seconds[: reached[0] + 1])) if len(reached) else math.inf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=24)
    parser.add_argument("--error-every", type=int, default=3)
    parser.add_argument("--slices", type=int, default=10)
    parser.add_argument("--rates", type=float, nargs="*", default=[0.01])
    parser.add_argument("--constrained-rates", type=float, nargs="*", default=[0.01, 0.03])
    parser.add_argument("--quantem-rates", type=float, nargs="*", default=[0.02])
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    made = simulate_electrons(ElectronSpec(raster=(24, 24), phonons=2))
    true_phase = made.slice_phases.sum(axis=0).astype(np.float64)
    low, high = made.scan.positions_px.min(axis=0), made.scan.positions_px.max(axis=0)
    roi = (math.ceil(low[0]), math.floor(high[0]), math.ceil(low[1]), math.floor(high[1]))
    slices, each = options.slices, len(made.scan) * options.slices
    courses = [
        Course("ptycho_ray, depth_smoothing_slices 1", ours(made, slices, options.iterations)),
        Course("the same, phase_object 0.3", ours(made, slices, options.iterations, phase_object=0.3)),
    ]
    for rate in options.rates:
        courses.append(Course(f"PtyRAD, rate {rate:g}", ptyrad(made, slices, rate, constrained=False)))
    for rate in options.constrained_rates:
        courses.append(Course(f"PtyRAD, rate {rate:g}, constraints", ptyrad(made, slices, rate, constrained=True)))
    for rate in options.quantem_rates:
        for kind in ("complex", "pure_phase"):
            courses.append(Course(f"quantem, rate {rate:g}, {kind}", quantem(made, slices, rate, kind)))
    for iteration in range(options.iterations):
        for course in courses:
            began = time.process_time()
            image = next(course.images)
            course.seconds.append(time.process_time() - began)
            if (iteration + 1) % options.error_every == 0:
                course.errors.append(phase_error(image(), true_phase, roi))
            else:
                course.errors.append(math.inf)
            if iteration + 1 == options.iterations:
                _, origin, product = image()
                course.complex_error = distance_to_truth(product, origin, made.scan.object_truth, roi).nrmse
        print(iteration + 1, *(f"{course.errors[-1]:.4f}" for course in courses), flush=True)
    common = min(min(course.errors) for course in courses if not course.name.startswith(("ptycho_ray", "the same")))
    print(f"| program | us a pattern and slice (least) | last error | least error | CPU s to {common:.4f} | complex |")
    print("| - | - | - | - | - | - |")
    for course in courses:
        least = 1e6 * min(course.seconds[1:] or course.seconds) / each
        print(
            f"| {course.name} | {least:.0f} | {course.errors[-1]:.4f} | {min(course.errors):.4f} "
            f"| {course.seconds_to(common):.1f} | {course.complex_error:.4f} |"
        )


if __name__ == "__main__":
    main()
