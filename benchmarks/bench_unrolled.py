"""Does the unrolled solver pay? Error of the image at equal processor time, beside the solver alone.

    python benchmarks/bench_unrolled.py DATA_FOLDER MODEL_FOLDER [SEEDS]

The network is trained once, on simulated scans with their true objects (drawn ones and pictures, any probe, 3e3 to 1e8 photons,
patterns of side 32), and kept in MODEL_FOLDER; its training is printed and not counted. It is applied to scans of another side
(64) with other objects and probes: object and probe of sim64_1e6.npz at a linear overlap of 62 % and of 20 %, and lines64 at
1e4 photons (learned_prior.py says more of them). Probes are known and held. Rows of a scan:

    unrolled            the network's image
    untrained           the same iterations without the learned step
    solver, x 1, 2, 5   the default solver from a flat object, as many iterations as take 1, 2 and 5 times the network's time
    unrolled + solver   the default solver from the network's image, 5 times the network's time in all
    solver and prior    that with the shipped prior at strength 0.3 (where dose is low), in its own time

Everything is counted, from patterns in memory to the image. One thread.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from learned_prior import dose_figures, lines64, sparse_figures, sparse_scan

from ptycho_ray import workflow
from ptycho_ray.bundle import Bundle, load_bundle
from ptycho_ray.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.physics.optics import probe_diameter_px, tilted_modes
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.refinement.solver import RefinementConfig
from ptycho_ray.simulation import make_object, make_scan, simulate_scan
from ptycho_ray.simulation.probes import with_photons
from ptycho_ray.simulation.variety import OBJECT_KINDS, random_probe

#: Pictures to learn from; those of the scans that judge are others.
PICTURES = ("cell", "coins", "grass", "gravel", "moon", "page", "text")
#: Side of the patterns to learn from.
N = 32
NETWORK = ModelConfig(
    N=N, architecture="unrolled", fno_width=8, gridsize=5, unrolled_iterations=12, model_type="supervised"
)
SCANS, GROUPS_A_SCAN, EPOCHS = 48, 20, 2
#: Iterations by which the time of one is measured.
TIMED = 6

Figures = Callable[[StitchedObject], dict[str, float]]


def training_scan(number: int) -> RawData:
    """A scan of 49 to 100 patterns or so, of an object, a probe, a dose and an overlap drawn at random."""
    rng = np.random.default_rng((7, number))
    probe = tilted_modes(random_probe(rng, N), 1 + int(rng.random() < 0.2), rng)
    step = min(8.0, probe_diameter_px(probe) * (1 - rng.uniform(0.1, 0.75)))
    side = int(N + 9 * step)
    highest = float(rng.uniform(0.5, 1))
    kind, settings = str(rng.choice(OBJECT_KINDS)), {}
    if rng.random() < 0.5:
        amplitude, phase = (str(name) for name in rng.choice(PICTURES, 2))
        kind, settings = "test_image", {"amplitude_image": amplitude, "phase_image": phase}
    sample = make_object(
        kind, (side, side), rng, amplitude_range=(float(rng.uniform(0.1, highest)), highest),
        phase_range=(0.0, rng.uniform(0.0, 3.0)), **settings,
    )  # fmt: skip
    positions = np.round(make_scan("jitter", sample.shape, N, rng, step_px=max(2.0, step)))
    photons = float(np.exp(rng.uniform(*np.log((3e3, 1e8)))))
    return simulate_scan(sample, with_photons(probe, photons), positions, rng=rng)


def train(folder: Path) -> None:
    began = time.process_time()
    config = TrainingConfig(
        model=NETWORK, nepochs=EPOCHS, n_groups=GROUPS_A_SCAN, neighbor_count=25, batch_size=4, validation_fraction=0.0,
        scheduler="WarmupCosine", lr_warmup_epochs=0, lr_min_ratio=0.02, gradient_clip_val=1.0,
        intensity_scale_trainable=False, output_dir=folder,
    )  # fmt: skip
    results = workflow.train_cdi_model(
        [training_scan(number) for number in range(SCANS)], None, config,
        execution=ExecutionConfig(learning_rate=1e-3), keep_patches=False,
    )  # fmt: skip
    workflow.save_inference_bundle(folder, results, config, {})
    losses = ", ".join(f"{loss:.4f}" for loss in results["history"]["loss"])
    print(f"trained in {time.process_time() - began:.0f} CPU s; loss {losses}", flush=True)


def scans_that_judge(data: Path, seed: int) -> list[tuple[str, RawData, Figures]]:
    found: list[tuple[str, RawData, Figures]] = []
    for overlap in (0.62, 0.2):
        scan, roi = sparse_scan(data, overlap, seed)
        found.append((f"overlap {overlap:.0%}", scan, partial(sparse_figures, scan=scan, roi=roi)))
    scan = lines64(data, 1e4, seed)
    return [*found, ("1e4 photons", scan, partial(dose_figures, scan=scan))]


def timed(work: Callable[[], StitchedObject]) -> tuple[StitchedObject, float]:
    began = time.process_time()
    return work(), time.process_time() - began


def compare(name: str, scan: RawData, figures: Figures, bundle: Bundle, seed: int) -> None:
    def row(label: str, image: StitchedObject, seconds: float) -> None:
        cells = " | ".join(f"{value:.4f}" for value in figures(image).values())
        print(f"| {name} | {len(scan)} | {seed} | {label} | {cells} | {seconds:.2f} |", flush=True)

    def network(model: object) -> StitchedObject:
        found = workflow.reassemble_cdi_image(scan, bundle.config, model=model, keep_patches=False)  # type: ignore[arg-type]
        return found[2]["stitched"]  # type: ignore[no-any-return]

    def solver(iterations: int, start: StitchedObject | None = None, **settings: object) -> StitchedObject:
        config = RefinementConfig(
            probe_start=None, held_out_fraction=0.0, seed=seed, iterations=max(1, iterations), **settings
        )  # type: ignore[arg-type]
        return workflow.refine_cdi_image(scan, config, start=start).stitched

    network(bundle.model)  # the first call of a process sets much up
    image, seconds = timed(lambda: network(bundle.model))
    row("unrolled", image, seconds)
    config = replace(bundle.config, n_groups=len(scan), model=replace(bundle.config.model, N=scan.N))
    (untrained,) = workflow.scans_to_train(scan, config)
    row("untrained", *timed(lambda: network(untrained.model)))
    solver(1)
    (_, one), (_, several) = timed(lambda: solver(1)), timed(lambda: solver(1 + TIMED))
    iteration = (several - one) / TIMED
    for times in (1, 2, 5):
        count = round(1 + (times * seconds - one) / iteration)
        row(f"solver, {max(1, count)} iterations (x {times})", *timed(partial(solver, count)))
    count = round(1 + (4 * seconds - one) / iteration)
    refined, more = timed(lambda: solver(count, image))
    row(f"unrolled + solver, {count} iterations", refined, seconds + more)
    if "photons" in name:
        row("solver and prior", *timed(lambda: solver(40, prior="pretrained", prior_strength=0.3)))


def main() -> int:
    if len(sys.argv) < 3:
        print(__doc__)
        return 2
    torch.set_num_threads(1)
    data, folder = Path(sys.argv[1]), Path(sys.argv[2])
    if not (folder / "wts.h5.zip").exists():
        train(folder)
    bundle = load_bundle(folder)
    for seed in range(int(sys.argv[3]) if len(sys.argv) > 3 else 3):
        for name, scan, figures in scans_that_judge(data, seed):
            compare(name, scan, figures, bundle, seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
