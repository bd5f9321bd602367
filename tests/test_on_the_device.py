"""Every hot loop on a pretended second device: nothing is left on the processor, and the host waits for nothing in a loop."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import make_scan
from second_device import SECOND, HostWaits, SecondDevice

from ptycho_ray.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_ray.data.batches import sent
from ptycho_ray.reconstruction.images import Image
from ptycho_ray.reconstruction.inference import predict, reconstruct
from ptycho_ray.reconstruction.stitching import StitchAccumulator
from ptycho_ray.refinement.direct import DirectSolver
from ptycho_ray.refinement.explained_image import explained_diffraction
from ptycho_ray.refinement.orientation import find_orientation
from ptycho_ray.refinement.solver import Refinement, RefinementConfig
from ptycho_ray.refinement.tiled_solver import TiledRefinement
from ptycho_ray.training.loop import Trainer, TrainingDiverged
from ptycho_ray.training.parallel import DataParallel
from ptycho_ray.training.scan_source import ScanSource
from ptycho_ray.training.scan_training import scans_to_train

REFINEMENTS: dict[str, dict[str, Any]] = {
    **{name: {"method": name} for name in ("adam", "accelerated", "epie", "rpie", "lsqml", "dm")},
    "newton": {"position_start": 0, "probe_modes": 2},
    "gradient": {"position_start": 0, "position_method": "gradient"},
    "correlation": {"position_start": 0, "position_method": "cross_correlation", "method": "epie"},
    "affine": {"position_start": 0, "position_model": "affine", "method": "lsqml"},
    "variable probe": {"eigenmodes": 1, "eigenmode_start": 0, "intensity_start": 0, "background_start": 0},
    "smooth background": {"background_start": 0, "background_model": "smooth", "method": "rpie"},
    "slices": {"slices": 2, "slice_distance_px2": 3.0, "total_variation": 1e-3, "phase_smoothing": 0.1},
    "smooth prior": {"method": "accelerated", "smoothing_length_px": 1.0},
    "near field": {"near_field_px2": 30.0, "probe_guess": "mean_pattern"},
}
#: How often the host may look at the device in a whole iteration, whatever the number of its batches.
LOOKS_AN_ITERATION = 8


@pytest.fixture
def second() -> Iterator[SecondDevice]:
    with SecondDevice() as device:
        yield device


@pytest.fixture(scope="module")
def scan() -> Any:
    return make_scan(48)


@pytest.mark.parametrize(
    "planted",
    [
        lambda x: x.sum().item(), lambda x: float(x[0]), lambda x: x.tolist(), lambda x: x.cpu(), lambda x: x[x > 1],
        lambda x: x.nonzero(), lambda x: bool((x > 1).any()), lambda x: torch.linalg.inv(x.new_ones(1, 1)),
        lambda x: torch.as_tensor(np.ones(3), device=SECOND),
    ],
)  # fmt: skip
def test_a_planted_wait_is_caught(second: SecondDevice, planted: Any) -> None:
    there = torch.arange(3.0).to(SECOND)
    planted(there)
    with second.hot(), pytest.raises(HostWaits):
        planted(there)


def test_a_planted_tensor_of_the_processor_is_caught(second: SecondDevice) -> None:
    there = torch.arange(3.0).to(SECOND)
    assert (there + torch.tensor(1.0)).tolist() == [1, 2, 3]
    with pytest.raises(RuntimeError, match="same device"):
        there + torch.ones(3)
    with pytest.raises(TypeError, match="numpy"):
        np.asarray(there)


def an_iteration(second: SecondDevice, scan: Any, settings: dict[str, Any], batch_size: int) -> tuple[Any, ...]:
    """What the host looked at in the second iteration and in its loop over batches, and the refined object."""
    config = RefinementConfig(**{"iterations": 3, "held_out_fraction": 0.0, "batch_size": batch_size} | settings)
    refinement = Refinement(scan, config, device=SECOND)
    steps, in_loop = iter(refinement), []
    next(steps)
    iterate = refinement.method.iterate

    def watched(run: Any) -> float:
        with second.looking() as looks:
            loss = iterate(run)
        in_loop.extend(looks)
        return loss

    refinement.method.iterate = watched  # type: ignore[method-assign]
    with second.looking() as looks:
        next(steps)
    return looks, in_loop, refinement.run.state.object.cpu()


@pytest.mark.parametrize("name", REFINEMENTS)
def test_a_refinement_stays_on_the_device(second: SecondDevice, scan: Any, name: str) -> None:
    few, few_in_loop, image = an_iteration(second, scan, REFINEMENTS[name], 24)
    many, many_in_loop, _ = an_iteration(second, scan, REFINEMENTS[name], 6)
    assert len(few) == len(many) <= LOOKS_AN_ITERATION, many
    assert len(few_in_loop) == len(many_in_loop) <= 1, many_in_loop
    config = RefinementConfig(**{"iterations": 3, "held_out_fraction": 0.0, "batch_size": 24} | REFINEMENTS[name])
    here = Refinement(scan, config)
    steps = iter(here)
    next(steps), next(steps)
    torch.testing.assert_close(here.run.state.object, image, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", ["adam", "epie", "lsqml"])
def test_a_tile_stays_on_the_device(second: SecondDevice, scan: Any, method: str) -> None:
    looks: list[list[str]] = []
    for batch_size in (12, 6):
        config = RefinementConfig(
            iterations=3, held_out_fraction=0.0, batch_size=batch_size, method=method, position_start=0
        )
        tile = TiledRefinement(scan, config, place=DataParallel(), numbers=np.arange(len(scan)), device=SECOND)
        steps = iter(tile)
        next(steps)
        with second.looking() as seen:
            next(steps)
        looks.append(seen)
    assert len(looks[0]) == len(looks[1]) <= LOOKS_AN_ITERATION + 2, looks[1]


def test_held_out_patterns_are_judged_in_one_look(second: SecondDevice, scan: Any) -> None:
    held_out = np.arange(40)
    refinement = Refinement(scan, RefinementConfig(iterations=1), held_out=held_out, device=SECOND)
    with second.looking() as looks:
        judged = refinement.judge(held_out)
    assert looks == ["_to_copy to the host"]
    here = Refinement(scan, RefinementConfig(iterations=1), held_out=held_out).judge(held_out)
    assert judged.deviance == pytest.approx(here.deviance, rel=1e-5)


@pytest.mark.parametrize("settings", [{"method": "epie"}, {"tilt_start": 0}])
def test_tilted_slices_stay_on_the_device(second: SecondDevice, scan: Any, settings: dict[str, Any]) -> None:
    crystal = copy.copy(scan)
    crystal.pixel_size_m, crystal.energy_eV = 1e-11, 2e4
    tilted = {"slices": 3, "thickness_angstrom": 60.0, "tilt_row_mrad": 5.0} | settings
    _, few, _ = an_iteration(second, crystal, tilted, 24)
    _, many, _ = an_iteration(second, crystal, tilted, 6)
    assert few == many == []


NETWORKS: dict[str, dict[str, Any]] = {
    "recommended": {"architecture": "unet", "fno_width": 4, "probe_conditioning": "retrieval", "retrieval_steps": 2},
    "groups of four": {"n_filters_scale": 1, "gridsize": 2},
    "probe in channels": {"n_filters_scale": 1, "probe_conditioning": "channels", "gaussian_smoothing_sigma": 0.8},
    "hybrid": {"architecture": "hybrid_resnet", "fno_width": 4, "fno_blocks": 1, "fno_modes": 4},
}


def a_trainer(scan: Any, monkeypatch: Any, model: dict[str, Any], **settings: Any) -> tuple[Any, Any]:
    """A training of 32 groups whose device is the second one, and its source."""
    monkeypatch.setattr("ptycho_ray.training.scan_source.resolve_device", lambda execution: SECOND)
    optimizers = importlib.import_module("torch.optim.optimizer")
    monkeypatch.setattr(optimizers, "_get_fused_kernels_supported_devices", lambda: ["lazy"], raising=False)
    config = TrainingConfig(
        model=ModelConfig(N=32, **model),
        n_groups=32,
        batch_size=8,
        validation_fraction=0.0,
        neighbor_count=5,
        **settings,
    )
    execution = ExecutionConfig(deterministic=False)
    source = ScanSource(scans_to_train(scan, config), config, execution)
    return Trainer(source, config, execution), source


@pytest.mark.parametrize("name", NETWORKS)
def test_a_training_reads_its_figures_once_in_many_steps(
    second: SecondDevice, scan: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    moving = {"positions_trainable": True, "probe_trainable": True} if name == "groups of four" else {}
    trainer, source = a_trainer(scan, monkeypatch, NETWORKS[name], **moving)
    told: list[float] = []
    trainer.callbacks = [SimpleNamespace(on_step=lambda progress, figures, steps: told.append(figures["loss"]))]
    with second.looking() as looks:
        trainer._train_epoch()
    assert looks == ["_to_copy to the host"]
    assert len(told) == 4
    assert np.isfinite(told).all()
    assert all(parameter.device == SECOND for parameter in source.module.parameters())


def test_a_diverged_training_is_noticed_before_the_epoch_ends(
    second: SecondDevice, scan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, source = a_trainer(scan, monkeypatch, NETWORKS["probe in channels"])
    with torch.no_grad():
        next(source.module.parameters()).fill_(torch.nan)
    with pytest.raises(TrainingDiverged, match="loss became nan"):
        trainer._train_epoch()


def test_an_inference_copies_once_a_batch(second: SecondDevice, scan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, source = a_trainer(scan, monkeypatch, NETWORKS["recommended"])
    model, container = source.scans[0].model, source.scans[0].container
    with second.hot():
        first = list(predict(model, container, 8))
    assert [len(rows) for rows, _ in first] == [8, 8, 8, 8]
    with second.looking() as looks:
        stitched = reconstruct(model, container, 8)
    beside = 3  # the weights of the patches before, image and weight after
    assert looks == ["_to_copy to the host"] * (4 + beside)
    here = reconstruct(copy.deepcopy(model).to("cpu"), container, 8)
    np.testing.assert_allclose(stitched.image, here.image, atol=1e-5)


def test_patches_are_added_to_an_image_in_one_call(second: SecondDevice) -> None:
    rng = np.random.default_rng(1)
    patches = torch.complex(*torch.from_numpy(rng.normal(size=(2, 30, 8, 8)).astype(np.float32)))
    positions = rng.uniform(0, 20, (30, 2))
    here, there = StitchAccumulator(positions, 8), StitchAccumulator(positions, 8, device=SECOND)
    here.add(patches, positions)
    with second.hot():
        there.add(sent(patches, SECOND), positions)
    np.testing.assert_allclose(there.result().image, here.result().image, atol=1e-5)


def test_the_direct_solver_looks_once_a_step(second: SecondDevice, scan: Any) -> None:
    photons, probe = torch.from_numpy(scan.patterns.intensity()), torch.from_numpy(scan.probe)
    solver = DirectSolver(photons.to(SECOND), scan.positions_px, probe.to(SECOND))
    solver.step()
    with second.looking() as looks:
        loss = solver.step()
    assert looks == ["_local_scalar_dense"]
    here = DirectSolver(photons, scan.positions_px, probe)
    here.step()
    assert loss == pytest.approx(here.step(), rel=1e-4)


def test_an_image_is_judged_and_the_axes_are_found_on_the_device(second: SecondDevice, scan: Any) -> None:
    whole = Image(scan.object_truth, scan.object_truth != 0, (0.0, 0.0))
    there, here = explained_diffraction(whole, scan, SECOND), explained_diffraction(whole, scan)
    assert there == pytest.approx(here, rel=1e-4)
    few = {"most_patterns": 20, "most_passes": 8}
    found = find_orientation(scan, np.random.default_rng(0), device=SECOND, **few)
    assert found.misfits == pytest.approx(find_orientation(scan, np.random.default_rng(0), **few).misfits, rel=1e-3)
