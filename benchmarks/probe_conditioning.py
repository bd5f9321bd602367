"""Ways to tell a network of the probe: one network trained on scans with eight probes, scored on scans with others.

    python benchmarks/probe_conditioning.py [EPOCHS [WAY ...]]

Everything is simulated: sides of 32 pixels, objects of random lines (amplitude 0.5 to 1, phase -0.5 to 0.5), probes of three
kinds with random size, aberrations and photons. The network is ``cnn`` with n_filters_scale 1, gridsize 1. Figures are
medians over the four test scans, whose objects and probes the network has not seen, inside the rectangle of the scan positions.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from unittest.mock import patch

import numpy as np
import torch
from quality import score
from torch import Tensor, nn
from torch.nn import functional

from ptycho_ray.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_ray.data import RawData
from ptycho_ray.models import physics_informed
from ptycho_ray.models.cnn import ConvolutionalAutoencoder
from ptycho_ray.models.conditioning import PROBE_CHANNELS, probe_channels
from ptycho_ray.models.registry import ARCHITECTURES
from ptycho_ray.simulation.objects import make_object
from ptycho_ray.simulation.probes import make_probe
from ptycho_ray.simulation.simulate import simulate_scan
from ptycho_ray.workflow import reassemble_cdi_image, train_cdi_model

N, TRAINING_SCANS, TEST_SCANS = 32, 8, 4


def random_scan(seed: int) -> RawData:
    """64 patterns of a random object with a random probe."""
    rng = np.random.default_rng((seed, 2026))
    kind = ("disc", "gaussian", "zernike")[seed % 3]
    options = {"rms_rad": rng.uniform(0.3, 1.0)} if kind == "zernike" else {}
    probe = make_probe(kind, N, rng, diameter_px=rng.uniform(10, 20), photons=10 ** rng.uniform(6, 7.5), **options)
    steps = 19 + 6.4 * np.stack(np.meshgrid(np.arange(8), np.arange(8), indexing="ij"), axis=-1).reshape(-1, 2)
    positions = steps + rng.uniform(-1.5, 1.5, steps.shape)
    return simulate_scan(make_object("lines", (84, 84), rng), probe, positions, rng=rng)


def only(*kept: int) -> Callable[[Tensor, float], Tensor]:
    """``probe_channels`` with all but some channels empty."""

    def channels(probe: Tensor, input_scale: float) -> Tensor:
        seen = probe_channels(probe, input_scale)
        empty = [channel for channel in range(PROBE_CHANNELS) if channel not in kept]
        seen[empty] = 0
        return seen

    return channels


class Modulated(ConvolutionalAutoencoder):
    """``cnn`` whose code is scaled and shifted, channel by channel, by what a small network makes of the probe (FiLM)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(ModelConfig(N=config.N, n_filters_scale=config.n_filters_scale))
        width = 128 * config.n_filters_scale
        self.probe_encoder = nn.Sequential(
            nn.Conv2d(PROBE_CHANNELS, 32, 3, 2, 1), nn.GELU(), nn.Conv2d(32, 64, 3, 2, 1), nn.GELU(),
            nn.Conv2d(64, 64, 3, 2, 1), nn.GELU(), nn.Flatten(), nn.Linear(64 * (config.N // 8) ** 2, 2 * width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        factor, shift = self.probe_encoder(x[:1, 1:])[..., None, None].chunk(2, dim=1)
        x = x[:, :1]
        for block in self.encoder:
            x = functional.max_pool2d(block(x), 2)
        x = x * (1 + factor) + shift
        return self.amplitude_decoder(x, self.amplitude_activation), self.phase_decoder(x, lambda y: np.pi * y.tanh())


#: Way: setting, what the probe channels hold, and another network.
WAYS: dict[str, tuple[str, Callable[[Tensor, float], Tensor] | None, type[nn.Module] | None]] = {
    "none": ("none", None, None),
    "channels": ("channels", None, None),
    "wave alone": ("channels", only(0, 1), None),
    "diffraction alone": ("channels", only(2), None),
    "FiLM": ("channels", None, Modulated),
}


def measured(way: str, epochs: int, training: list[RawData], tests: list[RawData]) -> dict[str, object]:
    setting, channels, network = WAYS[way]
    config = TrainingConfig(
        model=ModelConfig(N=N, n_filters_scale=1, probe_conditioning=setting),  # type: ignore[arg-type]
        nepochs=epochs, nll_weight=0.0, mae_weight=1.0, gradient_clip_val=0.1, scheduler="WarmupCosine", lr_min_ratio=0.02,
        validation_fraction=0.0,
    )  # fmt: skip
    with ExitStack() as stack:
        if channels is not None:
            stack.enter_context(patch.object(physics_informed, "probe_channels", channels))
        if network is not None:
            stack.enter_context(patch.dict(ARCHITECTURES, {"cnn": network}))
        started = time.process_time()
        results = train_cdi_model(training, None, config, execution=ExecutionConfig(learning_rate=1e-3))
        seconds = time.process_time() - started
        figures = list(_figures(results["model_instance"], tests, config))
    medians = {name: round(float(np.median([figure[name] for figure in figures])), 4) for name in figures[0]}
    return {"way": way, "r_factor": round(results["history"]["r_factor"][-1], 4), **medians, "cpu_s": round(seconds)}


def _figures(
    model: physics_informed.PhysicsInformedModel, tests: list[RawData], config: TrainingConfig
) -> Iterator[dict]:
    from ptycho_ray.workflow import model_for_scan

    for test in tests:
        inside = model_for_scan(model, test, config)
        yield score(reassemble_cdi_image(test, config, model=inside, keep_patches=False)[2]["stitched"], test)


def main() -> int:
    epochs, ways = int(sys.argv[1]) if len(sys.argv) > 1 else 20, sys.argv[2:] or list(WAYS)
    training = [random_scan(seed) for seed in range(TRAINING_SCANS)]
    tests = [random_scan(seed) for seed in range(100, 100 + TEST_SCANS)]
    for way in ways:
        torch.manual_seed(0)
        print(json.dumps(measured(way, epochs, training, tests)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
