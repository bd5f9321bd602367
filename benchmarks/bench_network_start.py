"""Does a network's image shorten the refinement? Processor seconds to an error of 0.05, from its image and from a flat object.

    python benchmarks/bench_network_start.py FOLDER MODEL_FOLDER

FOLDER holds sim64_1e6.npz. A small network is trained once, on simulated scans of other objects with that file's true probe,
step and dose, and kept in MODEL_FOLDER; its training is not counted. Everything else is: preparing the patterns, the network,
the stitch, setting up, all iterations. One thread, least of 2. ``guess`` begins with the file's guess of the probe, ``known``
with the probe of the training scans, which a network that was trained on the same instrument brings along.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from bench_refinement import benchmark_scan, time_to
from refinement_metric import distance_to_truth

from ptycho_ray import workflow
from ptycho_ray.bundle import load_bundle
from ptycho_ray.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.models.physics_informed import PhysicsInformedModel
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.refinement.batching import compact_pieces
from ptycho_ray.refinement.solver import Refinement, RefinementConfig
from ptycho_ray.simulation import make_object, make_scan, simulate_scan
from ptycho_ray.training.checkpoint import LAST_CHECKPOINT

REPEATS = 2
LEVEL = 0.05
#: The scans that the network learns from.
OBJECTS = (
    ("test_image", {"amplitude_image": "coins", "phase_image": "moon"}),
    ("test_image", {"amplitude_image": "astronaut", "phase_image": "cell"}),
    ("test_image", {"amplitude_image": "moon", "phase_image": "astronaut"}),
    ("grf", {}),
    ("dead_leaves", {}),
)
NETWORK = ModelConfig(N=64, gridsize=1, n_filters_scale=1)
#: What is right from a flat object, and from an image: steps of the object that do not throw it away.
FLAT = {"iterations": 25}
IMAGE = {"iterations": 6, "object_step": 0.03, "smooth_gain": 0.0, "batch_size": 16}


def training_scans(probe: np.ndarray) -> list[RawData]:
    """Scans of other objects with that probe, 7 pixels a step."""
    scans = []
    for seed, (kind, settings) in enumerate(OBJECTS):
        rng = np.random.default_rng(seed)
        ranges = {"amplitude_range": (0.5, 1.0), "phase_range": (-1.0, 1.0)}
        sample = make_object(kind, (288, 288), rng, **ranges, **settings)
        positions = make_scan("jitter", sample.shape, probe.shape[-1], rng, step_px=7.0)
        scans.append(simulate_scan(sample, probe, positions, rng=rng))
    return scans


def train(probe: np.ndarray, folder: Path) -> None:
    config = TrainingConfig(
        model=NETWORK, nepochs=4, n_groups=250, output_dir=folder, validation_fraction=0.02, batch_size=16,
        scheduler="WarmupCosine", lr_warmup_epochs=1,
    )  # fmt: skip
    kept = folder / "checkpoints"
    results = workflow.train_cdi_model(
        training_scans(probe), None, config, execution=ExecutionConfig(learning_rate=1e-3),
        checkpoint_dir=kept, resume_from=kept / LAST_CHECKPOINT if (kept / LAST_CHECKPOINT).exists() else None,
    )  # fmt: skip
    workflow.save_inference_bundle(folder, results, config, {})


def network_image(scan: RawData, model: PhysicsInformedModel, config: TrainingConfig, share: int) -> StitchedObject:
    """The stitched image of one pattern in ``share``, evenly spread over the scan."""
    rows = np.sort([piece[0] for piece in compact_pieces(np.arange(len(scan)), scan.positions_px, share)])
    part = scan.select(rows) if share > 1 else scan
    return workflow.reassemble_cdi_image(part, config, model=model, keep_patches=False)[2]["stitched"]  # type: ignore[no-any-return]


def curve(
    scan: RawData, arrays: dict[str, np.ndarray], settings: dict[str, object], probe: np.ndarray | None,
    network: tuple[PhysicsInformedModel, TrainingConfig, int] | None,
) -> list[tuple[float, float]]:  # fmt: skip
    """(processor seconds, error) of the start and after every iteration."""
    roi = tuple(int(edge) for edge in arrays["roi"])
    found: list[tuple[float, float]] = []
    began = time.process_time()
    spent = 0.0
    start = None if network is None else network_image(scan, *network)
    if start is not None:
        spent = time.process_time() - began
        found.append((spent, distance_to_truth(start.image, start.origin_px, arrays["obj"], roi).nrmse))  # type: ignore[arg-type]
        began = time.process_time()
    refinement = Refinement(scan, RefinementConfig(**settings), start=start, probe=probe)  # type: ignore[arg-type]
    for _ in refinement:
        spent += time.process_time() - began
        image = refinement.stitched()
        found.append((spent, distance_to_truth(image.image, image.origin_px, arrays["obj"], roi).nrmse))  # type: ignore[arg-type]
        if found[-1][1] <= LEVEL:
            break
        began = time.process_time()
    return found


def main() -> None:
    torch.set_num_threads(1)
    scan, arrays = benchmark_scan(Path(sys.argv[1]) / "sim64_1e6.npz")
    folder = Path(sys.argv[2])
    if not (folder / "wts.h5.zip").exists():
        train(arrays["probe"], folder)
    bundle = load_bundle(folder)
    for name, probe in (("guess", None), ("known", arrays["probe"])):
        for label, settings, network in (
            ("flat", FLAT, None),
            *((f"network on 1 in {k}", IMAGE, (bundle.model, bundle.config, k)) for k in (1, 4)),
        ):
            runs = [curve(scan, arrays, settings, probe, network) for _ in range(REPEATS)]
            least = min(time_to(run, LEVEL) for run in runs)
            text = " ".join(f"{error:.3f}" for _, error in runs[0])
            print(f"{name}, {label}: {LEVEL} in {least:.2f} CPU s; {runs[0][0][0]:.2f} s: {text}", flush=True)


if __name__ == "__main__":
    main()
