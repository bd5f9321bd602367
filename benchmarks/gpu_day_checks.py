"""Whether a GPU computes what the processor computes; the first part of ``gpu_day.py``.

Each check yields a line: what was compared, the largest difference relative to the largest value, and what is allowed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from ptycho_ray.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.reconstruction.inference import reconstruct
from ptycho_ray.refinement.solver import Refinement, RefinementConfig
from ptycho_ray.simulation import make_object, make_probe, simulate_scan
from ptycho_ray.training.loop import Trainer
from ptycho_ray.training.scan_source import ScanSource
from ptycho_ray.training.scan_training import scans_to_train

GOLDEN = Path(__file__).resolve().parents[1] / "tests"
CPU = torch.device("cpu")
#: Refinements that are compared, and how far their objects may be apart after three iterations.
REFINEMENTS: dict[str, dict[str, Any]] = {
    **{name: {"method": name} for name in ("adam", "accelerated", "epie", "rpie", "lsqml", "dm")},
    "positions, two modes": {"position_start": 1, "probe_modes": 2},
    "positions by correlation": {"position_start": 1, "position_method": "cross_correlation"},
    "variable probe": {"eigenmodes": 1, "eigenmode_start": 1, "intensity_start": 1, "background_start": 1},
    "three slices": {"slices": 3, "slice_distance_px2": 3.0, "method": "epie"},
}
NETWORKS: dict[str, dict[str, Any]] = {
    "recommended": {"architecture": "unet", "fno_width": 16, "probe_conditioning": "retrieval"},
    "groups of four": {"n_filters_scale": 1, "gridsize": 2},
    "hybrid": {"architecture": "hybrid_resnet", "fno_width": 16},
}


@dataclass(frozen=True)
class Check:
    """What was compared, ``difference`` found and ``allowed``; ``note`` where there is no number."""

    name: str
    difference: float
    allowed: float
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.difference <= self.allowed


def made_scan(n: int, patterns: int, modes: int = 1, seed: int = 3) -> RawData:
    """A scan of lines with a disc probe and 1e5 photons a pattern, as dense as scans are."""
    rng = np.random.default_rng(seed)
    side = int(n + np.sqrt(patterns) * n / 8) + 4
    probe = make_probe("disc", n, rng, photons=1e5)
    if modes > 1:
        probe = np.stack([probe * 0.5**k for k in range(modes)])
    image = make_object("lines", (side, side), rng)
    return simulate_scan(image, probe, rng.uniform(n / 2 + 1, side - n / 2 - 1, (patterns, 2)), rng=rng)


def difference(found: Any, expected: Any) -> float:
    """Largest difference relative to the largest value."""
    found, expected = (
        np.asarray(each.detach().cpu() if isinstance(each, Tensor) else each) for each in (found, expected)
    )
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))


def golden_numbers(device: torch.device) -> Iterator[Check]:
    """The tests of tests/physics/test_golden.py with all their tensors on the device."""
    spec = importlib.util.spec_from_file_location("test_golden", GOLDEN / "physics" / "test_golden.py")
    assert spec is not None
    assert spec.loader is not None
    tests = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tests)
    from_numpy = torch.from_numpy

    def golden(name: str) -> Any:
        return np.load(GOLDEN / "golden" / name)

    cases: list[tuple[str, Callable[[], None]]] = [
        ("translation", lambda: tests.test_translation_equals_the_intended_path(golden)),
        ("merge, extract, diffract", lambda: tests.test_merge_extract_and_diffract(golden, 1)),
        ("the same, groups of four", lambda: tests.test_merge_extract_and_diffract(golden, 2)),
        ("diffraction amplitude", lambda: tests.test_diffraction_amplitude(golden)),
        ("Poisson likelihood and gradient", lambda: tests.test_poisson_likelihood_and_its_gradient(golden)),
    ]
    for name, test in cases:
        note = ""
        with mock.patch("torch.from_numpy", lambda array: from_numpy(array).to(device)), torch.device(device):
            try:
                test()
            except AssertionError as error:
                note = str(error).partition("\n")[0]
        yield Check(f"golden numbers: {name}", float(bool(note)), 0.0, note)


def trainer_of(scan: RawData, device: torch.device, model: dict[str, Any], **settings: Any) -> Trainer:
    """A training of a scan on a device, at its start."""
    execution = ExecutionConfig(
        accelerator="cpu" if device.type == "cpu" else "cuda",
        **{name: settings.pop(name) for name in ("precision", "deterministic") if name in settings},
    )
    settings = {"nepochs": 2, "n_groups": len(scan), "batch_size": 16, "neighbor_count": 5} | settings
    config = TrainingConfig(model=ModelConfig(N=scan.N, **model), validation_fraction=0.0, **settings)
    return Trainer(ScanSource(scans_to_train(scan, config), config, execution), config, execution)


def gradients(device: torch.device, scan: RawData) -> Iterator[Check]:
    """The gradient of the loss of one batch by the weights of each network, on both devices."""
    for name, model in NETWORKS.items():
        found = []
        for where in (device, CPU):
            trainer = trainer_of(scan, where, model)
            (piece,) = next(trainer._read_ahead(trainer.source.read, [np.arange(8)]))
            trainer.source.figures(piece, 0.0)["loss"].backward()
            parts = [p.grad.flatten() for p in trainer.module.parameters() if p.grad is not None]
            found.append(torch.cat(parts).cpu())
        error = float((found[0] - found[1]).norm() / found[1].norm())
        yield Check(f"gradient, network {name}", error, 1e-3)


def trainings(device: torch.device, scan: RawData) -> Iterator[Check]:
    """Two epochs on both devices: the losses, and the image of the trained network."""
    for name, model in NETWORKS.items():
        histories, images = [], []
        for where in (device, CPU):
            trainer = trainer_of(scan, where, model, deterministic=False)
            histories.append(trainer.fit()["loss"])
            trained = trainer.source.scans[0]  # type: ignore[attr-defined]
            if where == device:
                images = [reconstruct(trained.model.to(each), trained.container, 16).image for each in (device, CPU)]
        yield Check(f"losses of a training, network {name}", difference(*histories), 1e-2)
        yield Check(f"image of the same network, {name}", difference(*images), 1e-3)


def refinements(device: torch.device, scan: RawData) -> Iterator[Check]:
    """Three iterations on both devices in single precision, and with far less room in double precision."""
    cases = {name: (settings, 1e-2) for name, settings in REFINEMENTS.items()}
    cases["adam, double precision"] = ({"precision": "double"}, 1e-8)
    for name, (settings, allowed) in cases.items():
        found = []
        for where in (device, CPU):
            config = RefinementConfig(**{"iterations": 3, "held_out_fraction": 0.0, "batch_size": 16} | settings)
            refinement = Refinement(scan, config, device=where)
            for _ in refinement:
                pass
            found.append(refinement.run.state.object)
        yield Check(f"refinement, {name}", difference(*found), allowed)


def determinism(device: torch.device, scan: RawData) -> Iterator[Check]:
    """Two trainings with ``deterministic`` have the same bits, or are refused by the name of an operation; two refinements."""
    for name, model in NETWORKS.items():
        try:
            first, second = (_weights(trainer_of(scan, device, model, deterministic=True)) for _ in range(2))
            yield Check(f"the same training twice, network {name}", difference(first, second), 0.0)
        except ConfigurationError as error:
            yield Check(f"the same training twice, network {name}", 0.0, 0.0, f"refused: {error}")
    objects = []
    for _ in range(2):
        refinement = Refinement(scan, replace(RefinementConfig(), iterations=3, held_out_fraction=0.0), device=device)
        for _ in refinement:
            pass
        objects.append(refinement.run.state.object)
    note = "sums over overlapping windows are taken in any order on a GPU"
    yield Check("the same refinement twice", difference(*objects), 1e-3, note)


def _weights(trainer: Trainer) -> Tensor:
    trainer.fit()
    return torch.cat([parameter.detach().flatten() for parameter in trainer.module.parameters()]).cpu()


#: In the order in which they are made.
CHECKS: dict[str, Callable[[torch.device, RawData], Iterator[Check]]] = {
    "golden numbers": lambda device, scan: golden_numbers(device),
    "gradients": gradients,
    "trainings": trainings,
    "refinements": refinements,
    "determinism": determinism,
}
