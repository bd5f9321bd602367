"""What training learns besides the network: intensity scale, probe modes, scan positions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import history_of_training, in_processes

from ptycho_ray.bundle import load_bundle
from ptycho_ray.config import ExecutionConfig
from ptycho_ray.data import RawData
from ptycho_ray.models.physics_informed import PhysicsInformedModel
from ptycho_ray.models.scan_positions import ScanPositions
from ptycho_ray.physics.diffraction import diffraction_intensity, illuminate
from ptycho_ray.physics.likelihood import poisson_deviance
from ptycho_ray.physics.probe import orthogonal_modes
from ptycho_ray.physics.translation import cut_from_canvas
from ptycho_ray.training.checkpoint import LAST_CHECKPOINT, read_checkpoint
from ptycho_ray.workflow import (
    create_ptycho_data_container,
    load_data,
    physical_probe,
    run_cdi_example,
    save_inference_bundle,
    save_outputs,
    train_cdi_model,
)


@pytest.fixture
def everything_learns(tiny_config) -> Any:
    """Groups of four with trainable scale, probe and positions, from different epochs on."""
    return replace(
        tiny_config,
        model=replace(tiny_config.model, gridsize=2),
        n_groups=40,
        probe_trainable=True,
        intensity_scale_learning_rate=1e-2,
        intensity_scale_start_epoch=1,
        positions_trainable=True,
        position_start_epoch=1,
    )


def with_modes(scan: RawData) -> RawData:
    """The scan with a second, weaker mode in its probe that is not orthogonal to the first."""
    y, x = scan.positions_px.T
    probe = np.stack([scan.probe[0], 0.3 * np.roll(scan.probe[0], 3, axis=1)])
    return RawData(x, y, None, None, scan.patterns, probe, None, scan.object_truth)


def test_orthogonal_modes_diffract_like_the_given_ones():
    generator = torch.Generator().manual_seed(1)
    modes = torch.randn(3, 16, 16, generator=generator, dtype=torch.complex128)
    patch = torch.randn(16, 16, generator=generator, dtype=torch.complex128)
    orthogonal = orthogonal_modes(modes)
    flat = orthogonal.flatten(start_dim=1)
    overlaps = (flat @ flat.mH).abs()
    assert torch.allclose(overlaps, torch.diag(overlaps.diagonal()), atol=1e-10)
    assert overlaps.diagonal().tolist() == sorted(overlaps.diagonal().tolist(), reverse=True)
    before, after = (diffraction_intensity(illuminate(patch, m)) for m in (modes, orthogonal))
    assert torch.allclose(before, after, rtol=1e-10)
    assert torch.allclose(orthogonal_modes(orthogonal), orthogonal, atol=1e-10)


def test_a_learnt_probe_has_orthogonal_modes(small_scan, tiny_config):
    scan = with_modes(small_scan)
    model = train_cdi_model(scan, None, replace(tiny_config, probe_trainable=True))["model_instance"]
    modes = model.probe.detach().flatten(start_dim=1)
    power = (modes @ modes.mH).abs()
    assert power[0, 1] < 1e-5 * power[1, 1]
    assert power[0, 0] > power[1, 1]
    frozen = train_cdi_model(scan, None, tiny_config)["model_instance"]
    assert torch.equal(frozen.probe.detach(), torch.from_numpy(scan.probe))


def test_physics_is_frozen_by_default(small_scan, tiny_config):
    model = train_cdi_model(small_scan, None, replace(tiny_config, intensity_scale_trainable=False))["model_instance"]
    assert model.positions is None
    assert torch.equal(model.probe.detach(), torch.from_numpy(small_scan.probe))
    assert float(model.object_scale.detach()) == pytest.approx(model.normalisation.object_scale, rel=1e-6)


def test_each_parameter_waits_for_its_epoch(small_scan, everything_learns):
    history = train_cdi_model(small_scan, None, replace(everything_learns, nepochs=2))["history"]
    scale = history["object_scale"]
    assert scale[0] != scale[1]
    assert history["position_shift_rms_px"][0] == 0 < history["position_shift_rms_px"][1]
    never = replace(everything_learns, nepochs=1)
    model = train_cdi_model(small_scan, None, never)["model_instance"]
    assert float(model.object_scale.detach()) == pytest.approx(model.normalisation.object_scale, rel=1e-6)


def test_the_scale_moves_at_its_own_rate(small_scan, tiny_config):
    moved = []
    for rate in (1e-4, 1e-2):
        results = train_cdi_model(small_scan, None, replace(tiny_config, nepochs=1, intensity_scale_learning_rate=rate))
        model = results["model_instance"]
        moved.append(abs(float(model.log_object_scale.detach()) - np.log(model.normalisation.object_scale)))
    assert moved[1] > 20 * moved[0] > 0


@pytest.mark.slow
def test_wrong_positions_are_found_with_the_true_object(small_scan, everything_learns):
    """Gradient descent on the shifts alone, the object known: the physics that training uses points to the truth."""
    y, x = small_scan.positions_px.T
    error = np.random.default_rng(5).normal(0, 0.7, (len(small_scan), 2))
    wrong = RawData(
        x + error[:, 1],
        y + error[:, 0],
        None,
        None,
        small_scan.patterns,
        small_scan.probe,
        None,
        small_scan.object_truth,
    )
    container = create_ptycho_data_container(wrong, replace(everything_learns, n_groups=60))
    model = PhysicsInformedModel(everything_learns.model, container.normalisation, physical_probe(container))
    positions = ScanPositions.of(wrong)
    positions.shifts_px.requires_grad_()
    photons = torch.from_numpy(container.batch(np.arange(60))[0])
    members = torch.from_numpy(container.nn_indices)
    truth = torch.from_numpy(np.pad(small_scan.object_truth, 40))
    middle = (np.array(truth.shape) - 1) // 2 + 1 - 40  # pixel that cut_from_canvas measures positions from
    measured = torch.from_numpy((container.raw.positions_px - middle)[container.nn_indices]).float()
    optimizer = torch.optim.Adam([positions.shifts_px], lr=0.08)
    for _ in range(40):
        relative, centres = positions.of_groups(members)
        where = measured + relative + centres[:, None]
        patches = cut_from_canvas(truth.expand(*where.shape[:2], *truth.shape), where, 32)
        optimizer.zero_grad()
        (0.5 * poisson_deviance(model.diffract(patches), photons)).mean().backward()
        optimizer.step()
    left = positions.shifts_px.detach().numpy() + error
    assert np.sqrt(np.mean(left**2)) < 0.25 * np.sqrt(np.mean(error**2))


@pytest.mark.slow
def test_a_cut_run_keeps_all_that_was_learnt(small_scan, everything_learns, tmp_path):
    config = replace(everything_learns, validation_fraction=0.0, nepochs=3)
    scan = with_modes(small_scan)
    whole = train_cdi_model(scan, None, config)
    train_cdi_model(scan, None, replace(config, nepochs=2), checkpoint_dir=tmp_path)
    tensors, _ = read_checkpoint(tmp_path / LAST_CHECKPOINT)
    assert float(tensors["model/positions.shifts_px"].abs().max()) > 0
    longer = train_cdi_model(scan, None, config, checkpoint_dir=tmp_path, resume_from=tmp_path / LAST_CHECKPOINT)
    assert whole["history"] == longer["history"]
    first, second = whole["model_instance"].state_dict(), longer["model_instance"].state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_learnt_positions_travel_with_the_model_and_are_used(small_scan, everything_learns, tmp_path):
    """Stitching, the saved file and the bundle use them; only the very same scan is moved."""
    small_scan.to_file(tmp_path / "scan.npz")
    scan = load_data(tmp_path / "scan.npz")
    amplitude, phase, results = run_cdi_example(scan, scan, everything_learns, do_stitching=True)
    model = results["model_instance"]
    save_outputs(amplitude, phase, results, tmp_path)
    saved = np.load(tmp_path / "positions.npz")
    rms = np.sqrt((saved["shifts_px"][saved["shifts_px"].any(axis=1)] ** 2).sum(axis=1).mean())
    assert rms == pytest.approx(results["history"]["position_shift_rms_px"][-1], rel=1e-5)
    np.testing.assert_allclose(saved["positions_px"], scan.positions_px + saved["shifts_px"], atol=1e-4)

    bundle = load_bundle(save_inference_bundle(tmp_path / "model", results, everything_learns, {}))
    again = load_data(tmp_path / "scan.npz")
    container = create_ptycho_data_container(again, everything_learns, normalisation=model.normalisation)
    moved = bundle.model.positions.correct(container)
    np.testing.assert_allclose(moved.raw.positions_px, saved["positions_px"], atol=1e-4)
    np.testing.assert_array_equal(moved.nn_indices, container.nn_indices)
    assert bundle.model.positions.correct(moved) is moved
    y, x = again.positions_px.T
    brighter = RawData(x, y, None, None, 2 * again.patterns.amplitude(), again.probe)
    other = create_ptycho_data_container(brighter, everything_learns, normalisation=model.normalisation)
    assert bundle.model.positions.correct(other) is other


def test_shifts_stay_within_their_limit(small_scan, everything_learns):
    config = replace(everything_learns, position_learning_rate=5.0, position_limit_px=0.25, position_start_epoch=0)
    shifts = train_cdi_model(small_scan, None, config)["model_instance"].positions.shifts_px.detach()
    assert float(shifts.abs().max()) == 0.25


@pytest.mark.slow
def test_single_patterns_learn_positions_from_their_neighbours(small_scan, tiny_config):
    config = replace(
        tiny_config, positions_trainable=True, realspace_weight=1.0, consistency_weight=1.0, validation_fraction=0.0
    )
    history = train_cdi_model(small_scan, None, config)["history"]
    assert history["position_shift_rms_px"][-1] > 0


@pytest.mark.slow
def test_all_parameters_learn_alike_in_several_processes(small_scan, other_scan, everything_learns, tmp_path):
    """Two scans, every term of the loss that needs more than a pattern, every parameter: two processes step like one."""
    config = replace(
        everything_learns,
        optimizer="sgd",
        momentum=0.5,
        batch_size=4,
        n_groups=20,
        realspace_weight=1.0,
        consistency_weight=0.1,
        realspace_mae_weight=0.1,
        loss_schedule=("consistency=0:0/2:1",),
    )
    execution = ExecutionConfig(learning_rate=1e-3)
    alone = train_cdi_model([small_scan, other_scan], None, config, execution=execution)["history"]
    together = in_processes(tmp_path, 2, history_of_training, [small_scan, other_scan], config, execution)
    assert together.keys() == alone.keys()
    assert {"position_shift_rms_px/scan-1", "position_shift_rms_px/scan-2"} <= alone.keys()
    assert alone["position_shift_rms_px/scan-2"][-1] > 0
    for name in alone:
        np.testing.assert_allclose(together[name], alone[name], rtol=1e-4, atol=1e-7, err_msg=name)
