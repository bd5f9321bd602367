"""Refining a small simulated scan: every method improves, unknowns are found, and what goes wrong is said."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
import torch
from helpers import make_scan

from ptycho_ray.data.raw_data import RawData
from ptycho_ray.errors import ConfigurationError, InputError
from ptycho_ray.physics.probe import orthogonal_modes
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.refinement.constraints import limit_amplitude, probe_centre_px, reduce_total_variation, smooth_phase
from ptycho_ray.refinement.kernel import STABILISER
from ptycho_ray.refinement.methods import METHODS
from ptycho_ray.refinement.probe_modes import first_modes
from ptycho_ray.refinement.smooth import SmoothAcceleration
from ptycho_ray.refinement.solver import (
    Diverged,
    Refinement,
    RefinementConfig,
    half_data_agreement,
    refine,
)

SIDE = 32


def gaussian_probe(width: float = 5.0, photons: float = 1e5) -> np.ndarray:
    axis = np.arange(SIDE) - SIDE // 2
    squared = axis[:, None] ** 2 + axis**2
    probe = np.exp(-squared / (2 * width**2) + 0.01j * squared)
    return probe * np.sqrt(photons / np.sum(np.abs(probe) ** 2))


def smooth_object(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    rows, columns = (np.fft.fftfreq(length) for length in shape)
    low = np.exp(-(rows[:, None] ** 2 + columns**2) / (2 * 0.05**2))
    parts = [np.fft.ifft2(np.fft.fft2(rng.normal(size=shape)) * low).real for _ in range(2)]
    amplitude, phase = (part / part.std() for part in parts)
    return (0.8 + 0.05 * amplitude) * np.exp(0.3j * phase)


def exact_scan(
    *, step: float = 3.0, rows: int = 9, noise: bool = False, error_px: float = 0.0, probe: np.ndarray | None = None
) -> RawData:
    """Patterns by the solver's own sampling: the probe moved in Fourier space, so that there is an exact solution."""
    rng = np.random.default_rng(5)
    probe = gaussian_probe() if probe is None else probe
    image = smooth_object((SIDE + int(step * rows) + 8,) * 2, rng)
    grid = np.stack(np.meshgrid(np.arange(rows), np.arange(rows), indexing="ij"), axis=-1).reshape(-1, 2) * step
    positions = grid + rng.uniform(-1, 1, grid.shape) + SIDE // 2 + 3
    frequency = np.fft.fftfreq(SIDE)
    spectrum = np.fft.fft2(probe)
    patterns = []
    for row, column in positions:
        top, left = round(row) - SIDE // 2, round(column) - SIDE // 2
        turns = [np.exp(-2j * np.pi * frequency * (at - round(at))) for at in (row, column)]
        moved = np.fft.ifft2(spectrum * turns[0][:, None] * turns[1])
        wave = image[top : top + SIDE, left : left + SIDE] * moved
        patterns.append(np.fft.fftshift(np.abs(np.fft.fft2(wave, norm="ortho")) ** 2))
    intensity = np.array(patterns)
    counts = rng.poisson(intensity).astype(np.float64) if noise else intensity
    given = positions + rng.normal(0, error_px, positions.shape) if error_px else positions
    scan = RawData(
        given[:, 1],
        given[:, 0],
        None,
        None,
        counts.astype(np.float32),
        probe,
        domain="intensity",
        counts_are_photons=True,
        objectGuess=image,
    )
    scan.metadata = {"positions": positions}
    return scan


def relative_error(stitched: StitchedObject, truth: np.ndarray) -> float:
    """Complex error where the light is, after a common factor."""
    row, column = (int(value) for value in stitched.origin_px)
    height, width = stitched.image.shape
    lit = stitched.weight > 0.3 * stitched.weight.max()
    there = np.zeros((height, width), np.complex128)
    piece = truth[max(row, 0) : row + height, max(column, 0) : column + width]
    there[max(-row, 0) : max(-row, 0) + piece.shape[0], max(-column, 0) : max(-column, 0) + piece.shape[1]] = piece
    seen, there = stitched.image[lit].astype(np.complex128), there[lit]
    factor = np.vdot(seen, there) / np.vdot(seen, seen)
    return float(np.linalg.norm(factor * seen - there) / np.linalg.norm(there))


@pytest.fixture(scope="module")
def exact() -> RawData:
    return exact_scan()


@pytest.fixture(scope="module")
def noisy() -> RawData:
    return exact_scan(noise=True)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_improves(noisy, method):
    config = RefinementConfig(method=method, iterations=10, probe_start=None, held_out_fraction=0.05)
    refinement = Refinement(noisy, config)
    before = relative_error(refinement.stitched(), noisy.object_truth)
    r_before = refinement.judge(refinement.held_out).r_factor
    losses = [progress.loss for progress in refinement]
    assert losses[-1] < 0.7 * losses[0]
    assert relative_error(refinement.stitched(), noisy.object_truth) < 0.5 * before
    assert refinement.judge(refinement.held_out).r_factor < r_before


@pytest.mark.parametrize(("stabiliser", "photons"), [(0.0, 1e5), (STABILISER, 1e7)])
def test_a_noiseless_scan_with_the_true_probe_is_solved_exactly(stabiliser, photons):
    """With the stabiliser of the loss it needs more photons: a pixel of less than 0.1 tells little, right as it is."""
    scan = exact_scan(probe=gaussian_probe(photons=photons))
    config = RefinementConfig(
        method="accelerated", iterations=300, probe_start=None, held_out_fraction=0.0, precision="double"
    )
    refinement = Refinement(scan, config)
    refinement.run.kernel.stabiliser = stabiliser
    list(refinement)
    assert relative_error(refinement.stitched(), scan.object_truth) < 1e-4


def test_single_precision_is_nearly_as_exact(exact):
    config = RefinementConfig(iterations=60, probe_start=None, held_out_fraction=0.0)
    assert relative_error(refine(exact, config).stitched, exact.object_truth) < 2e-3


def test_a_wrong_probe_is_put_right(noisy):
    wrong = gaussian_probe(width=4.0) * np.exp(0.3j)
    config = RefinementConfig(iterations=30)
    with_fixed = Refinement(
        noisy, dataclasses.replace(config, probe_start=None), probe=wrong.astype(np.complex64)[None]
    )
    with_moving = Refinement(noisy, config, probe=wrong.astype(np.complex64)[None])
    for each in (with_fixed, with_moving):
        for _ in each:
            pass
    assert with_moving.history[-1].loss < 0.5 * with_fixed.history[-1].loss


@pytest.mark.parametrize("method", ["newton", "gradient", "cross_correlation"])
def test_positions_are_found(method):
    scan = exact_scan(noise=True, error_px=1.0, step=2.5, rows=10)
    config = RefinementConfig(
        iterations=40, position_start=2, position_method=method, probe_start=None, held_out_fraction=0.0
    )

    def error(positions: np.ndarray) -> float:
        difference = positions - scan.metadata["positions"]
        return float(np.sqrt(np.mean((difference - difference.mean(axis=0)) ** 2)))

    assert error(refine(scan, config).positions_px) < 0.25 * error(scan.positions_px)  # 0.95 to 0.13 and 0.15 px


def test_the_probe_stays_in_its_place_while_it_is_refined():
    scan = exact_scan(noise=True, error_px=1.0, step=2.5, rows=10)
    refinement = Refinement(scan, RefinementConfig(iterations=10, position_start=2))
    before = probe_centre_px(refinement.run.state.probe)
    list(refinement)
    assert float((probe_centre_px(refinement.run.state.probe) - before).abs().max()) < 0.02


def test_a_step_of_the_smooth_phase_that_goes_too_far_is_not_taken(noisy, monkeypatch):
    def too_far(self, image, illumination, diameter):
        self.last.copy_(image)
        phase = torch.linspace(-9, 9, image.shape[-1]).expand_as(illumination())
        image.mul_(torch.polar(torch.ones_like(phase), phase))

    monkeypatch.setattr(SmoothAcceleration, "apply", too_far)
    history = list(Refinement(noisy, RefinementConfig(iterations=4)))
    assert history[-1].loss < history[0].loss
    assert history[-1].backoffs == 0


def test_a_rotation_of_the_scan_is_found():
    """Its scale is not asked for: the object can stretch with the scan, and only the known probe speaks against it."""
    exact = exact_scan(noise=True, rows=12)
    scan = exact.select(np.arange(len(exact)))
    centre = exact.positions_px.mean(axis=0)
    scan.positions_px = centre + (exact.positions_px - centre) @ np.array([[1.0, -0.04], [0.04, 1.0]])
    config = RefinementConfig(
        iterations=60, position_start=2, position_model="affine", probe_start=None, held_out_fraction=0.0
    )
    found = refine(scan, config).positions_px
    matrix = np.linalg.lstsq(exact.positions_px - centre, found - found.mean(axis=0), rcond=None)[0]
    assert abs(matrix[0, 1] - matrix[1, 0]) / 2 < 0.01


def test_outside_its_support_the_object_is_empty(noisy):
    first = Refinement(noisy, RefinementConfig(iterations=2))
    support = np.zeros(first.stitched().image.shape, dtype=bool)
    support[20:40, 20:40] = True
    refinement = Refinement(noisy, RefinementConfig(iterations=2), support=support)
    for _ in refinement:
        pass
    outside = refinement.run.state.object[0].numpy()[~support]
    np.testing.assert_array_equal(outside, 1)


def test_intensities_and_background_are_found(exact):
    rng = np.random.default_rng(2)
    factor = rng.uniform(0.7, 1.3, len(exact))
    scan = exact.select(np.arange(len(exact)))
    counts = exact.patterns.intensity() * factor[:, None, None].astype(np.float32) + 2.0
    changed = RawData(
        scan.xcoords, scan.ycoords, None, None, counts, scan.probe, domain="intensity", counts_are_photons=True
    )
    config = RefinementConfig(
        iterations=40, intensity_start=3, background_start=3, probe_start=None, held_out_fraction=0.0
    )
    found = refine(changed, config)
    assert np.corrcoef(found.intensity, factor)[0, 1] > 0.95
    assert found.background is not None
    assert np.median(found.background) == pytest.approx(2.0, rel=0.3)


def test_a_probe_that_varies_needs_eigenmodes(noisy):
    config = RefinementConfig(iterations=12, eigenmodes=2, eigenmode_start=2)
    refinement = Refinement(noisy, config)
    for _ in refinement:
        pass
    weights = refinement.run.state.eigen_weight
    assert torch.isfinite(weights).all()
    assert float(weights.abs().max()) > 0
    gram = refinement.run.state.eigen_spectrum.flatten(1)
    gram = (gram @ gram.conj().T).abs()
    assert float(gram[0, 1] / gram[0, 0]) < 1e-4


def test_a_thick_object_has_slices(noisy):
    config = RefinementConfig(iterations=4, slices=2, slice_distance_px2=4.0)
    result = refine(noisy, config)
    assert result.slices.shape[0] == 2
    assert result.history[-1].loss < result.history[0].loss


def test_a_start_is_worth_its_iterations(noisy):
    first = refine(noisy, RefinementConfig(iterations=10))
    again = Refinement(noisy, RefinementConfig(iterations=2), start=first.stitched, probe=first.probe)
    flat = Refinement(noisy, RefinementConfig(iterations=2))
    rows = np.arange(10)
    assert again.judge(rows).r_factor < 0.5 * flat.judge(rows).r_factor


def test_a_good_start_does_not_halve_the_steps():
    """The first steps disturb it, to less than what a flat object explains: that is no divergence."""
    bright = exact_scan(probe=gaussian_probe(photons=1e9))
    start = refine(bright, RefinementConfig(iterations=20, object_step=0.03, probe_start=None)).stitched
    settings = RefinementConfig(iterations=20, probe_start=None)
    from_start, from_flat = Refinement(bright, settings, start=start), Refinement(bright, settings)
    for each in (from_start, from_flat):
        list(each)
    assert from_start.history[-1].backoffs == 0
    assert from_start.history[-1].loss < 1.5 * from_flat.history[-1].loss


def test_a_run_goes_on_from_its_checkpoint_as_if_never_stopped(noisy, tmp_path):
    config = RefinementConfig(iterations=6, position_start=1)
    whole = refine(noisy, config)
    stopped = Refinement(noisy, config)
    for progress in stopped:
        if progress.iteration == 3:
            stopped.save(tmp_path / "state.safetensors")
            break
    again = Refinement(noisy, config)
    again.resume(tmp_path / "state.safetensors")
    for _ in again:
        pass
    np.testing.assert_allclose(again.result().stitched.image, whole.stitched.image, atol=1e-4)
    assert [p.iteration for p in again.history] == [1, 2, 3, 4, 5, 6]
    other = Refinement(noisy, dataclasses.replace(config, object_step=0.01))
    with pytest.raises(InputError, match="object_step"):
        other.resume(tmp_path / "state.safetensors")


def test_a_step_that_diverges_is_taken_back_and_said(noisy, caplog):
    start = refine(noisy, RefinementConfig(iterations=10))
    config = RefinementConfig(iterations=2, object_step=2.0, smooth_gain=0.0)
    refinement = Refinement(noisy, config, start=start.stitched, probe=start.probe)
    with caplog.at_level(logging.WARNING):
        history = list(refinement)
    assert history[-1].backoffs > 0
    assert "diverged" in caplog.text
    assert np.isfinite(refinement.result().stitched.image).all()


def test_a_hopeless_step_ends_with_an_error(noisy):
    start = refine(noisy, RefinementConfig(iterations=10))
    refinement = Refinement(noisy, RefinementConfig(object_step=1e9), start=start.stitched, probe=start.probe)
    with pytest.raises(Diverged, match="halved 8 times"):
        list(refinement)


def test_too_little_overlap_is_a_warning_with_the_number(caplog):
    scan = exact_scan(step=14.0, rows=4)
    with caplog.at_level(logging.WARNING):
        Refinement(scan, RefinementConfig(iterations=1))
    assert "overlap by 0." in caplog.text


def test_a_probe_larger_than_its_window_is_refused(exact):
    wide = np.ones((1, SIDE, SIDE), np.complex64)
    with pytest.raises(InputError, match="larger than its window"):
        Refinement(exact, RefinementConfig(), probe=wide)


def test_a_start_from_elsewhere_is_refused(exact):
    start = StitchedObject(np.ones((9, 9), np.complex64), np.ones((9, 9), np.float32), (1e4, 1e4))
    with pytest.raises(InputError, match="scanned area"):
        Refinement(exact, RefinementConfig(), start=start)


def test_settings_that_cannot_stand_together():
    with pytest.raises(ConfigurationError, match="slice_distance_px2"):
        RefinementConfig(slices=2)
    with pytest.raises(ConfigurationError, match="dm"):
        RefinementConfig(method="dm", position_start=1)


def test_refinement_stops_when_the_held_out_patterns_say_so(noisy):
    config = RefinementConfig(
        iterations=200, schedule="constant", object_step=0.3, patience=1, check_every=1, held_out_fraction=0.1
    )
    result = refine(noisy, config)
    assert len(result.history) < 200
    assert "no improvement" in result.stopped


def test_half_the_data_agree(noisy):
    config = RefinementConfig(iterations=10)
    curve = half_data_agreement(noisy, config, refine(noisy, config))
    assert curve.correlation[1:4].min() > 0.8


def test_modes_are_made_and_made_orthogonal():
    probe = torch.from_numpy(gaussian_probe()).to(torch.complex128)[None]
    modes = first_modes(probe, 3)
    assert float(modes.abs().square().sum()) == pytest.approx(float(probe.abs().square().sum()))
    mixed = orthogonal_modes(modes + 0.3 * modes.flip(0))
    gram = mixed.flatten(1) @ mixed.flatten(1).conj().T
    off = gram - torch.diag(gram.diagonal())
    assert float(off.abs().max()) < 1e-8 * float(gram.abs().max())
    assert float(gram[0, 0].abs()) >= float(gram[1, 1].abs()) >= float(gram[2, 2].abs())


def test_constraints_do_what_they_say(rng):
    image = torch.from_numpy(rng.normal(size=(1, 20, 20)) + 1j * rng.normal(size=(1, 20, 20)))
    limited = image.clone()
    limit_amplitude(limited, 0.5)
    assert float(limited.abs().max()) <= 0.5 + 1e-12
    torch.testing.assert_close(torch.angle(limited), torch.angle(image))
    rough = torch.polar(torch.ones(1, 20, 20, dtype=torch.float64), torch.from_numpy(rng.normal(0, 0.3, (1, 20, 20))))
    for change in (lambda z: smooth_phase(z, 0.5), lambda z: reduce_total_variation(z, 0.5)):
        smoother = rough.clone()
        change(smoother)
        assert float(smoother.diff(dim=-1).abs().sum()) < float(rough.diff(dim=-1).abs().sum())


def test_a_smooth_background_is_found_and_not_invented() -> None:
    scan = make_scan(80)
    level = 0.05 * float(scan.pattern_energies().mean()) / scan.N**2
    counts = scan.patterns.intensity() + np.random.default_rng(4).poisson(level, scan.patterns.intensity().shape)
    veiled = RawData(
        scan.positions_px[:, 1], scan.positions_px[:, 0], None, None, counts.astype(np.float32), scan.probe,
        domain="intensity", counts_are_photons=True,
    )  # fmt: skip
    settings = RefinementConfig(iterations=15, probe_start=None, background_start=2, background_model="smooth")
    for measured, low, high in ((veiled, 0.8, 1.1), (scan, 0.0, 0.1)):
        found = refine(measured, settings).background
        assert found is not None
        assert low * level <= float(found.mean()) <= high * level


def test_what_explained_the_held_out_patterns_best_is_kept() -> None:
    scan = make_scan(60)
    good = refine(scan, RefinementConfig(iterations=25, held_out_fraction=0.2, seed=1))
    rough = RefinementConfig(
        iterations=10, check_every=2, held_out_fraction=0.2, seed=1, object_step=0.5, schedule="constant"
    )
    refinement = Refinement(scan, rough, start=good.stitched, probe=good.probe)
    before = refinement.judge(refinement.held_out).deviance
    for _ in refinement:
        pass
    after = refinement.judge(refinement.held_out).deviance
    assert after <= before, "no worse than its start"
    assert refinement.history[-1].deviance == pytest.approx(after, rel=1e-5), "what is told is what is kept"
    assert "which is kept" in refinement.stopped
