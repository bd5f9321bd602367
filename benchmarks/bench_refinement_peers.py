"""Our refinement and three other programs on the same scans, in one run: processor time a pattern, and to a quality.

    python benchmarks/bench_refinement_peers.py FOLDER [--scans sim64_1e6 ...] [--programs ours ptyrad ...]

FOLDER holds sim64_1e6.npz, sim128_1e6.npz and hard64_1e6.npz. ``benchmarks/install_peers.sh`` makes an environment that has the
other programs; one that is not installed is left out. All begin with an object of ones and the file's guess of the probe, with
one thread, each in a process of its own. Processor seconds of that process; importing and the metric
(``refinement_metric.py``) are left out, setting up is not. The settings of the others are the best of a handful of tries.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from refinement_metric import distance_to_truth

Image = tuple[np.ndarray, tuple[float, float]]
#: Program -> yields, after every iteration, a function that makes the image and the place of its first pixel.
Solver = Callable[["Scan"], Iterator[Callable[[], Image]]]
#: Scan -> errors whose time is asked for, and how many iterations a program may take.
SCANS = {
    "sim64_1e6": ((0.1, 0.05, 0.035), 75),
    "sim128_1e6": ((0.1,), 35),
    "hard64_1e6": ((0.1,), 60),
}


@dataclass
class Scan:
    """One of the benchmark files: counts [n, N, N] with zero frequency at N//2, corners [n, 2] of the windows in the truth."""

    name: str
    path: Path
    counts: np.ndarray
    corners: np.ndarray
    probe: np.ndarray
    truth: np.ndarray
    roi: tuple[int, int, int, int]

    @classmethod
    def read(cls, path: Path) -> Scan:
        with np.load(path, allow_pickle=False) as file:
            counts, corners = file["dp"].astype(np.float32), file["pos"]
            roi = tuple(int(edge) for edge in file["roi"])
            return cls(path.stem, path, counts, corners, file["probe_guess"], file["obj"], roi)  # type: ignore[arg-type]

    @property
    def hard(self) -> bool:
        """Two incoherent modes and wrong positions."""
        return self.name.startswith("hard")


def ours(scan: Scan) -> Iterator[Callable[[], Image]]:
    from bench_refinement import RUNS, benchmark_scan

    from ptycho_ray.refinement.solver import Refinement, RefinementConfig

    settings = {name: given for name, given, _ in RUNS}[scan.name]
    refinement = Refinement(benchmark_scan(scan.path)[0], RefinementConfig(**settings))  # type: ignore[arg-type]

    def image() -> Image:
        found = refinement.stitched()
        return found.image, found.origin_px

    for _ in refinement:
        yield image


def ptychi_adam(scan: Scan) -> Iterator[Callable[[], Image]]:
    from ptychi.api.options.ad_ptychography import AutodiffPtychographyOptions

    options = AutodiffPtychographyOptions()
    for part, step in ((options.object_options, 0.02), (options.probe_options, 0.02)):
        part.optimizer, part.step_size = "adam", step
    if scan.hard:
        positions = options.probe_position_options
        positions.optimizable, positions.optimizer, positions.step_size = True, "adam", 0.02
    options.reconstructor_options.batch_size = 10 if scan.hard else 32
    yield from _ptychi(scan, options)


def ptychi_lsqml(scan: Scan) -> Iterator[Callable[[], Image]]:
    from ptychi.api.options.lsqml import LSQMLOptions

    options = LSQMLOptions()
    options.reconstructor_options.batching_mode = "compact"
    options.reconstructor_options.batch_size = 96
    options.reconstructor_options.momentum_acceleration_gain = 0.5
    options.probe_position_options.optimizable = scan.hard
    yield from _ptychi(scan, options)


def _ptychi(scan: Scan, options: object) -> Iterator[Callable[[], Image]]:
    from ptychi.api.task import PtychographyTask

    side, shape = scan.counts.shape[-1], np.array(scan.truth.shape)
    options.reconstructor_options.default_device = "cpu"  # type: ignore[attr-defined]
    rows, columns = (scan.corners + side / 2 - np.round(shape / 2)).T  # centres, from the centre of the object
    task = PtychographyTask(
        options,
        diffraction_data=scan.counts,
        object_data=np.ones((1, *shape), np.complex64),
        probe_data=_modes(scan)[None] / side,  # its transform is not normalised
        probe_position_x_px=columns,
        probe_position_y_px=rows,
    )
    while True:
        task.run(1)
        yield lambda: (task.get_data_to_cpu("object", as_numpy=True)[0], (0.0, 0.0))


def ptyrad(scan: Scan) -> Iterator[Callable[[], Image]]:
    import torch
    from ptyrad.core.losses import CombinedLoss
    from ptyrad.core.models import PtychoModel
    from ptyrad.solver.reconstruction import create_optimizer, make_batches, recon_step, toggle_grad_requires

    n, side = scan.counts.shape[:2]
    whole = np.round(scan.corners)
    start = {
        "obj": np.ones((1, 1, *scan.truth.shape), np.complex64), "omode_occu": np.ones(1), "probe": _modes(scan),
        "measurements": scan.counts, "crop_pos": whole.astype(np.int32), "probe_pos_shifts": scan.corners - whole,
        "obj_tilts": np.zeros((1, 2)), "slice_thickness": 1.0, "H": np.ones((side, side), np.complex64),
        "N_scan_slow": 1, "N_scan_fast": n, "dx": 1.0, "dk": 1 / side, "lambd": 0.02, "random_seed": 0,
        "length_unit": "Ang", "scan_affine": None, "meas_Npix": side, "simu_Npix": side, "simu_match_mode": None,
        "recon_provenance": None,
    }  # fmt: skip
    rates = {"obja": 0.02, "objp": 0.02, "probe": 0.02 * float(np.abs(scan.probe).max())}
    rates |= {"probe_pos_shifts": 0.02 if scan.hard else 0.0, "obj_tilts": 0.0, "slice_thickness": 0.0}
    optimizer_params = {"name": "Adam", "configs": {}, "load_state": None}
    model = PtychoModel(
        start,
        {
            "detector_blur_std": None,
            "optimizer_params": optimizer_params,
            "update_params": {name: {"start_iter": 1 if rate else None, "lr": rate} for name, rate in rates.items()},
        },
        device="cpu",
    )
    terms = {f"loss_{name}": {"state": False} for name in ("single", "poissn", "pacbed", "sparse", "simlar")}
    loss = CombinedLoss(terms | {"loss_single": {"state": True, "weight": 1.0, "dp_pow": 0.5}}, device="cpu")
    optimizer = create_optimizer(optimizer_params, model.optimizable_params)
    batches = make_batches(np.arange(n), scan.corners, 10 if scan.hard else 32, mode="random", seed=0)
    iteration = 0
    while True:
        iteration += 1
        toggle_grad_requires(model, iteration)
        recon_step(batches, 1, model, optimizer, None, loss, lambda *_: None, iteration, compute_loss_fn=_ptyrad_loss)
        yield lambda: (torch.polar(model.opt_obja, model.opt_objp)[0, 0].detach().numpy(), (0.0, 0.0))


def _ptyrad_loss(*arguments: object) -> object:
    from ptyrad.solver.reconstruction import compute_loss

    return compute_loss(*arguments)


def cdtools(scan: Scan) -> Iterator[Callable[[], Image]]:
    import torch
    from cdtools.datasets import Ptycho2DDataset
    from cdtools.models import FancyPtycho
    from cdtools.reconstructors import AdamReconstructor

    side = scan.counts.shape[-1]
    places = np.column_stack([scan.corners[:, ::-1], np.zeros(len(scan.corners))])  # x, y, z in pixels
    basis = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    model = FancyPtycho(
        1.0,
        {"distance": 1.0, "basis": basis, "corner": None},
        basis,
        _modes(scan),
        np.ones(scan.truth.shape, np.complex64),
        background=1e-6 * np.ones((side, side)),
        translation_offsets=np.zeros((len(places), 2)) if scan.hard else None,
        obj_view_crop=0,
    )
    data = Ptycho2DDataset(torch.as_tensor(places, dtype=torch.float32), torch.as_tensor(scan.counts))
    solver = AdamReconstructor(model, data)
    fast = 20 if side == 128 else 25
    for epochs, rate in ((fast, 0.02), (1000, 0.005)):
        for _ in solver.optimize(epochs, lr=rate, batch_size=10, thread=False):
            yield lambda: (model.obj.detach().numpy(), (0.0, 0.0))


def _modes(scan: Scan) -> np.ndarray:
    """The probe guess; where there are two modes, a second one of a tenth of the amplitude and noise in it."""
    if not scan.hard:
        return scan.probe
    noise = np.random.default_rng(0).standard_normal((2, *scan.probe.shape))
    return np.concatenate([scan.probe, 0.1 * scan.probe * (noise[0] + 1j * noise[1])]).astype(np.complex64)


#: Program -> how it is run, and the module that must be there.
PROGRAMS: dict[str, tuple[Solver, str]] = {
    "ours": (ours, "ptycho_ray.refinement.solver"),
    "ptyrad": (ptyrad, "ptyrad.solver.reconstruction"),
    "cdtools": (cdtools, "cdtools"),
    "ptychi_adam": (ptychi_adam, "ptychi.api.task"),
    "ptychi_lsqml": (ptychi_lsqml, "ptychi.api.task"),
}


@dataclass
class Line:
    """What one program did with one scan."""

    program: str
    scan: str
    microseconds: float
    seconds_to: list[float]
    best: float
    iterations: int


def measure(program: str, path: Path) -> Line | str:
    """Run one program until the last quality is reached or the iterations are used up; what it did, or why it is left out."""
    logging.disable(logging.WARNING)
    solver, module = PROGRAMS[program]
    try:
        importlib.import_module(module)
    except ImportError as error:
        return f"{program} is left out: {error}"
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)
    scan = Scan.read(path)
    wanted, most = SCANS[scan.name]
    spent, least, best, done = 0.0, math.inf, math.inf, 0
    seconds_to = [math.inf] * len(wanted)
    began = time.process_time()
    for image in solver(scan):
        taken = time.process_time() - began
        spent, least, done = spent + taken, min(least, taken), done + 1
        error = distance_to_truth(*image(), scan.truth, scan.roi).nrmse
        best = min(best, error)
        seconds_to = [
            min(known, spent) if error <= level else known for known, level in zip(seconds_to, wanted, strict=True)
        ]
        if done == most or math.isfinite(seconds_to[-1]):
            break
        began = time.process_time()
    return Line(program, scan.name, 1e6 * least / len(scan.counts), seconds_to, best, done)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scans", nargs="+", default=list(SCANS))
    parser.add_argument("--programs", nargs="+", default=list(PROGRAMS))
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    context = multiprocessing.get_context("spawn")
    for scan in options.scans:
        print(f"{scan}: program, us a pattern and iteration, CPU s to {SCANS[scan][0]}, least error (iterations)")
        own: Line | None = None
        for program in options.programs:
            with context.Pool(1) as alone:
                line = alone.apply(measure, (program, options.folder / f"{scan}.npz"))
            if isinstance(line, str):
                print(line, flush=True)
                continue
            own = line if program == "ours" else own
            times = [f"{seconds:.2f}" for seconds in line.seconds_to]
            if own is not None:
                pairs = zip(line.seconds_to, own.seconds_to, strict=True)
                times = [f"{text} ({a / b:.1f}x)" for text, (a, b) in zip(times, pairs, strict=True)]
            print(
                f"| {program} | {line.microseconds:.0f} | {' | '.join(times)} | {line.best:.4f} ({line.iterations}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
