"""What one pattern at a time yields, with a truth to compare: the retrieval alone, the shipped network, a trained one.

    python benchmarks/single_shot.py DATA_FOLDER                   # retrieval and shipped network, scans and doses
    python benchmarks/single_shot.py DATA_FOLDER mae|poisson       # PtychoPINN's gate: lines128, 5 epochs (20 minutes)
    python benchmarks/single_shot.py DATA_FOLDER mae|poisson cnn   # the same with the default network of PtychoPINN

Figures as in docs/quality.md: exact geometry, inside the rectangle of the positions.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quality import Log, score

from ptycho_ray.bundle import load_bundle
from ptycho_ray.config import PRETRAINED, ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_ray.data import RawData, load_data
from ptycho_ray.data.patches import cut_patches
from ptycho_ray.models.physics_informed import PhysicsInformedModel
from ptycho_ray.reconstruction.inference import reconstruct
from ptycho_ray.simulation.simulate import simulate_scan
from ptycho_ray.workflow import create_ptycho_data_container, model_for_scan, physical_probe, train_cdi_model

COLUMNS = ("amplitude_mae", "amplitude_ssim", "phase_mae", "phase_ssim")


class RetrievalAlone(PhysicsInformedModel):
    """The single-shot retrieval without a network."""

    def transmission_patches(self, photons: torch.Tensor) -> torch.Tensor:
        return self.retrieved(photons)[0]


def lines128(data: Path, part: str, photons: float | None = None) -> RawData:
    """The scans of PtychoPINN's quality gate, simulated from their objects and probe; ``photons`` a pattern on average."""
    with np.load(data / "lines128_scene.npz", allow_pickle=False) as scene:
        sample, probe, positions = scene[f"object_{part}"], scene["probe"], scene[f"positions_{part}"]
        wanted = float(scene["photons_per_pattern"]) if photons is None else photons
    some = cut_patches(sample, positions[::7], probe.shape[-1])
    mean = float(np.mean(np.sum(np.abs(probe * some) ** 2, axis=(1, 2))))
    rng = np.random.default_rng(0)
    return simulate_scan(sample, probe * np.sqrt(wanted / mean), positions, rng=rng, sub_pixel="integer")


def lines64(data: Path, photons: float) -> RawData:
    """The unseen scan of lines64 with another dose in the beam."""
    scan = load_data(data / "lines64_test.npz")
    rng = np.random.default_rng(0)
    return simulate_scan(
        scan.object_truth, scan.probe, scan.positions_px, photons=photons, rng=rng, sub_pixel="bilinear"
    )


def row(name: str, scan: RawData, model: PhysicsInformedModel, config: TrainingConfig) -> None:
    container = create_ptycho_data_container(scan, config, normalisation=model.normalisation)
    started = time.process_time()
    stitched = reconstruct(model, container, 16)
    seconds = time.process_time() - started
    figures = score(stitched, scan)
    cells = " | ".join(f"{figures[column]:.4f}" for column in COLUMNS)
    print(f"| {name} | {cells} | {1e3 * seconds / len(scan):.1f} |", flush=True)


def alone_and_shipped(data: Path) -> None:
    bundle = load_bundle(PRETRAINED)
    print(f"| scan | {' | '.join(COLUMNS)} | ms a pattern |\n| --- | --- | --- | --- | --- | --- |")
    scans = {
        **{f"lines64, {dose:.0e} photons": lines64(data, dose) for dose in (1e9, 1e6, 1e5, 1e4)},
        "lines128, 1e+09 photons": lines128(data, "test"),
        "lcls_run1084": load_data(data / "lcls_run1084.npz"),
    }
    for name, scan in scans.items():
        config = replace(bundle.config, model=replace(bundle.config.model, N=scan.N), n_groups=len(scan), nphotons=1e9)
        container = create_ptycho_data_container(scan, config)
        alone = RetrievalAlone(config.model, container.normalisation, physical_probe(container))
        row(f"{name}, retrieval", scan, alone, config)
        row(f"{name}, shipped network", scan, model_for_scan(bundle.model, scan, config), config)


GATE_NETWORKS: dict[str, dict[str, Any]] = {
    "unet": {"fno_width": 8, "probe_conditioning": "retrieval", "retrieval_steps": 60},
    "cnn": {"n_filters_scale": 2},
}


def gate(data: Path, loss: str, network: str) -> None:
    training, test = lines128(data, "train"), lines128(data, "test")
    config = TrainingConfig(
        model=ModelConfig(N=128, architecture=network, **GATE_NETWORKS[network]),
        n_groups=len(training),
        nepochs=5,
        mae_weight=float(loss == "mae"),
        nll_weight=float(loss == "poisson"),
        scheduler="WarmupCosine",
        lr_min_ratio=0.02,
        gradient_clip_val=1.0,
    )
    execution = ExecutionConfig(learning_rate=1e-3, precision="bf16-mixed")
    started = time.process_time()
    model = train_cdi_model(training, None, config, execution=execution, callbacks=[Log()])["model_instance"]
    print(f"training: {time.process_time() - started:.0f} CPU seconds")
    row(f"lines128, {network}, 5 epochs, {loss}", test, model_for_scan(model, test, config), config)


def main() -> int:
    if len(sys.argv) < 2:
        print(__doc__)
        return 2
    torch.set_num_threads(1)
    data = Path(sys.argv[1])
    if len(sys.argv) > 2:
        gate(data, sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "unet")
    else:
        alone_and_shipped(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
