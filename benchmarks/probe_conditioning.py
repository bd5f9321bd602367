"""What a network gains from seeing the probe: one network trained on scans with four probes.

    python benchmarks/probe_conditioning.py [EPOCHS [WAY ...]]

Everything is simulated: sides of 32 pixels, soft random objects (amplitude 0.5 to 1, phase -1 to 1), 64 patterns a scan,
probes of three kinds with random size, aberrations and photons. The network is ``hybrid_resnet`` with fno_width 8, gridsize
1. Figures are medians over four scans of new objects with the probes of the training, and over four with probes that the
network has never seen, inside the rectangle of the scan positions.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
from quality import score
from torch import Tensor

from ptycho_ray.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_ray.data import RawData
from ptycho_ray.models import physics_informed
from ptycho_ray.models.conditioning import PROBE_CHANNELS, probe_channels
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.simulation.objects import make_object
from ptycho_ray.simulation.probes import make_probe
from ptycho_ray.simulation.simulate import simulate_scan
from ptycho_ray.workflow import model_for_scan, reassemble_cdi_image, train_cdi_model

N, PROBES = 32, 4
FIGURES = ("amplitude_mae", "phase_mae", "amplitude_ssim", "phase_ssim")


def random_scan(probe_seed: int, object_seed: int) -> RawData:
    """64 patterns of a random object with a random probe."""
    rng = np.random.default_rng((probe_seed, 2026))
    kind = ("disc", "gaussian", "zernike")[probe_seed % 3]
    options = {"rms_rad": rng.uniform(0.3, 1.0)} if kind == "zernike" else {}
    probe = make_probe(kind, N, rng, diameter_px=rng.uniform(10, 20), photons=10 ** rng.uniform(6, 7.5), **options)
    rng = np.random.default_rng((object_seed, 2027))
    steps = 19 + 6.4 * np.stack(np.meshgrid(np.arange(8), np.arange(8), indexing="ij"), axis=-1).reshape(-1, 2)
    positions = steps + rng.uniform(-1.5, 1.5, steps.shape)
    image = make_object("grf", (84, 84), rng, smoothing_px=2.0, phase_range=(-1.0, 1.0))
    return simulate_scan(image, probe, positions, rng=rng)


def only(*kept: int) -> Callable[[Tensor, float], Tensor]:
    """``probe_channels`` with all but some channels empty."""

    def channels(probe: Tensor, input_scale: float) -> Tensor:
        seen = probe_channels(probe, input_scale)
        seen[[channel for channel in range(PROBE_CHANNELS) if channel not in kept]] = 0
        return seen

    return channels


#: Way: setting, and what the probe channels hold.
WAYS: dict[str, tuple[str, Callable[[Tensor, float], Tensor]]] = {
    "none": ("none", probe_channels),
    "channels": ("channels", probe_channels),
    "wave alone": ("channels", only(0, 1)),
    "diffraction alone": ("channels", only(2)),
}


def measured(
    way: str, epochs: int, training: list[RawData], tests: dict[str, list[RawData]]
) -> dict[str, float | str | dict[str, float]]:
    setting, channels = WAYS[way]
    network = ModelConfig(
        N=N, architecture="hybrid_resnet", fno_width=8, generator_output_mode="amp_phase", probe_conditioning=setting
    )  # type: ignore[arg-type]
    config = TrainingConfig(
        model=network, nepochs=epochs, batch_size=32, nll_weight=0.0, mae_weight=1.0, gradient_clip_val=0.5,
        scheduler="WarmupCosine", lr_min_ratio=0.02, validation_fraction=0.0,
    )  # fmt: skip
    with patch.object(physics_informed, "probe_channels", channels):
        started = time.process_time()
        results = train_cdi_model(training, None, config, execution=ExecutionConfig(learning_rate=2e-3))
        seconds = round(time.process_time() - started)
        found = {
            name: [image_figures(results["model_instance"], scan, config) for scan in tests[name]] for name in tests
        }
    return {
        "way": way,
        "training_r_factor": round(results["history"]["r_factor"][-1], 4),
        **{name: medians(figures) for name, figures in found.items()},
        "cpu_s": seconds,
    }


def image_figures(
    model: physics_informed.PhysicsInformedModel, scan: RawData, config: TrainingConfig
) -> dict[str, float]:
    """Every way reconstructs a scan with its own probe and scales; they differ in what the network sees."""
    inside = model_for_scan(model, scan, config)
    return score(reassemble_cdi_image(scan, config, model=inside, keep_patches=False)[2]["stitched"], scan)


def flat(scan: RawData) -> dict[str, float]:
    """What an empty object scores."""
    origin = np.floor(scan.positions_px.min(axis=0)) - N // 2
    shape = tuple(int(side) for side in np.ceil(np.ptp(scan.positions_px, axis=0)) + N)
    image = np.ones(shape, dtype=np.complex64)
    return score(StitchedObject(image, np.ones(shape, dtype=np.float32), (float(origin[0]), float(origin[1]))), scan)


def medians(figures: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(float(np.median([figure[name] for figure in figures])), 4) for name in FIGURES}


def main() -> int:
    epochs, ways = int(sys.argv[1]) if len(sys.argv) > 1 else 50, sys.argv[2:] or list(WAYS)
    training = [random_scan(seed, seed) for seed in range(PROBES)]
    tests = {
        "known probes": [random_scan(seed, 100 + seed) for seed in range(PROBES)],
        "unseen probes": [random_scan(200 + seed, 300 + seed) for seed in range(PROBES)],
    }
    empty = {name: medians([flat(scan) for scan in tests[name]]) for name in tests}
    print(json.dumps({"way": "flat object", **empty}), flush=True)
    for way in ways:
        print(json.dumps(measured(way, epochs, training, tests)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
