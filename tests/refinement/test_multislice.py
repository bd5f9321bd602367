"""A thick object under electrons of 300 kV: units, signs, what is recovered, and what a smooth object gains."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from ptycho_ray.data.raw_data import RawData
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.physics.diffraction import diffraction_intensity, illuminate, illuminate_slices
from ptycho_ray.physics.electron_optics import ElectronOptics
from ptycho_ray.physics.optics import electron_wavelength_m
from ptycho_ray.physics.propagation import FarField, FreeSpace
from ptycho_ray.refinement.config import RefinementConfig
from ptycho_ray.refinement.kernel import STABILISER, Kernel, Waves
from ptycho_ray.refinement.lean import set_upright
from ptycho_ray.refinement.patch_geometry import Geometry
from ptycho_ray.refinement.priors import Smoothness
from ptycho_ray.refinement.result import RefinementResult
from ptycho_ray.refinement.slab import slab_between
from ptycho_ray.refinement.solver import Refinement, half_data_agreement, refine
from ptycho_ray.refinement.tiled_solver import can_be_tiled

N, PIXEL, WAVELENGTH, STEP, SIDE = 32, 0.4e-10, electron_wavelength_m(300e3), 3, 9
CANVAS = N + SIDE * STEP + 6
DOUBLE = torch.complex128


def random_phases(count: int, rng: np.random.Generator) -> np.ndarray:
    """Phases [count, H, W] of 0.35 rad rms with details of three pixels."""
    phases = np.stack([gaussian_filter(rng.normal(size=(CANVAS, CANVAS)), 1.2) for _ in range(count)])
    return 0.35 * phases / phases.std()


def thick_scan(
    phases: np.ndarray, slice_m: float, *, shift_px: tuple[float, float] = (0.0, 0.0), electrons: float = 1e5
) -> RawData:
    """Patterns of slices [S, H, W] at whole positions, by the physics and not by the solver; the beam is focused within it."""
    rng = np.random.default_rng(1)
    grid = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij"), axis=-1).reshape(-1, 2) * STEP
    positions = grid + rng.integers(0, 2, grid.shape) + N // 2 + 2
    probe = np.sqrt(electrons) * ElectronOptics(15e-3, 150e-10).probe(N, PIXEL, WAVELENGTH)[None]
    between = FreeSpace(N, WAVELENGTH * slice_m / PIXEL**2, shift_px, dtype=DOUBLE)
    lit, slices = torch.from_numpy(probe), torch.from_numpy(np.exp(1j * phases))
    patterns = []
    for row, column in positions - N // 2:
        patches = [each[row : row + N, column : column + N] for each in slices]
        patterns.append(diffraction_intensity(illuminate_slices(patches, lit, between)).numpy())
    counts = rng.poisson(np.array(patterns)).astype(np.float32)
    return RawData(
        positions[:, 1], positions[:, 0], None, None, counts, probe.astype(np.complex64), domain="intensity",
        energy_eV=300e3, electrons=True, pixel_size_m=PIXEL, counts_are_photons=True,
    )  # fmt: skip


def correlations(found: RefinementResult, phases: np.ndarray) -> np.ndarray:
    """Of the phase of every slice found (rows) with every true one (columns), in the middle of the scan."""
    top, left = (round(edge) for edge in found.stitched.origin_px)
    middle = slice(CANVAS // 2 - 12, CANVAS // 2 + 12)
    inside = slice(middle.start - top, middle.stop - top), slice(middle.start - left, middle.stop - left)
    ours = [np.angle(each[inside]).ravel() for each in found.slices]
    theirs = [each[middle, middle].ravel() for each in phases]
    return np.corrcoef(ours, theirs)[: len(ours), len(ours) :]


@pytest.fixture(scope="module")
def two_layers() -> tuple[RawData, np.ndarray]:
    phases = random_phases(2, np.random.default_rng(0))
    return thick_scan(phases, 150e-10), phases


def test_layers_are_found_in_the_order_in_which_the_beam_meets_them(two_layers):
    scan, phases = two_layers
    found = refine(scan, RefinementConfig(slices=2, thickness_angstrom=300, iterations=25, probe_start=None))
    agreement = correlations(found, phases)
    assert agreement.diagonal().min() > 0.97
    assert max(agreement[0, 1], agreement[1, 0]) < 0.3
    assert found.slab.slice_thickness_angstrom == pytest.approx(150)


def test_everything_else_is_solved_for_beside_the_slices(two_layers):
    scan, phases = two_layers
    config = RefinementConfig(
        slices=2, thickness_angstrom=300, iterations=25, probe_modes=2, position_start=4, eigenmodes=1, intensity_start=2,
        background_start=2, background_model="smooth", depth_smoothing_slices=0.1, phase_object=1.0,
    )  # fmt: skip
    found = refine(scan, config)
    assert correlations(found, phases).diagonal().min() > 0.9
    np.testing.assert_allclose(np.abs(found.slices), 1, atol=1e-5)


def test_a_sample_is_as_far_from_focus_as_it_lies_below_the_entrance(rng):
    """Underfocus d means that the beam is narrowest d below the first slice."""
    depth = 80e-10
    first, last = torch.ones(N, N, dtype=DOUBLE), torch.exp(1j * torch.from_numpy(rng.normal(size=(N, N))))
    probe, focused = (
        torch.from_numpy(ElectronOptics(10e-3, d).probe(N, PIXEL, WAVELENGTH))[None] for d in (depth, 0.0)
    )
    between = FreeSpace(N, WAVELENGTH * depth / PIXEL**2, dtype=DOUBLE)
    torch.testing.assert_close(illuminate_slices([first, last], probe, between), illuminate(last, focused))


def test_a_tilt_above_zero_shifts_deeper_slices_towards_higher_rows(rng):
    """Straight columns under a tilt diffract as slices do, untilted, whose pixels lie further down by the shift."""
    straight = torch.ones(3, N, N, dtype=DOUBLE)
    straight[:, 10:22, 10:22] = torch.exp(1j * torch.from_numpy(rng.normal(size=(3, 12, 12))))
    axis = torch.arange(N, dtype=torch.float64) - N // 2
    probe = torch.exp(-(axis[:, None] ** 2 + axis**2) / 18).to(DOUBLE)[None]
    leaning = torch.stack([torch.roll(each, (2 * k, -k), (0, 1)) for k, each in enumerate(straight)])
    tilted, plain = (FreeSpace(N, 3.0, shift, dtype=DOUBLE) for shift in ((2.0, -1.0), (0.0, 0.0)))
    expected = diffraction_intensity(illuminate_slices(list(leaning), probe, plain))
    torch.testing.assert_close(diffraction_intensity(illuminate_slices(list(straight), probe, tilted)), expected)
    config = RefinementConfig(slices=3, slice_distance_px2=3.0, tilt_row_mrad=4.0, tilt_column_mrad=-2.0)
    scan = thick_scan(np.zeros((1, CANVAS, CANVAS)), 1e-10)
    slab = slab_between(scan, config)
    distance = 3.0 * PIXEL**2 / WAVELENGTH
    assert slab.shift_px == pytest.approx((distance * 4e-3 / PIXEL, -distance * 2e-3 / PIXEL), rel=1e-4)
    assert slab.slice_thickness_angstrom == pytest.approx(distance * 1e10)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.3, -1.7)])
def test_the_transpose_of_a_tilted_propagation(shift, rng):
    one, other = (torch.from_numpy(rng.normal(size=(2, N, N)) + 1j * rng.normal(size=(2, N, N))) for _ in range(2))
    between = FreeSpace(N, 7.0, shift, dtype=DOUBLE)
    torch.testing.assert_close((between.forward(one) * other).sum(), (one * between.transpose(other)).sum())
    torch.testing.assert_close(between.backward(between.forward(one)), one)


LEAN = {"slices": 5, "thickness_angstrom": 300, "probe_start": None}
TILT = {"tilt_row_mrad": 1e3 * np.arctan(0.6 * 0.4 / 60), "tilt_column_mrad": -1e3 * np.arctan(0.3 * 0.4 / 60)}


@pytest.fixture(scope="module")
def columns() -> tuple[RawData, np.ndarray]:
    """Straight columns through five slices of a sample that is tilted by TILT."""
    phases = np.repeat(random_phases(1, np.random.default_rng(0)), 5, axis=0) / 5
    return thick_scan(phases, 60e-10, shift_px=(0.6, -0.3)), phases


@pytest.fixture(scope="module")
def upright(columns) -> Refinement:
    """Solved with an unknown tilt."""
    config = RefinementConfig(**LEAN, iterations=20, tilt_start=3, depth_smoothing_slices=1.0, held_out_fraction=0.0)
    refinement = Refinement(columns[0], config)
    for _ in refinement:
        pass
    return refinement


def test_columns_that_lean_need_the_tilt_and_smooth_slices_find_them(columns):
    scan, phases = columns
    losses = {}
    for sign in (1, 0, -1):
        given = {name: sign * angle for name, angle in TILT.items()}
        found = refine(scan, RefinementConfig(**LEAN, **given, iterations=25, depth_smoothing_slices=4.0))
        losses[sign] = found.history[-1].loss
        if sign == 1:
            smooth = correlations(found, phases).diagonal().min()
    assert losses[1] < 0.6 * losses[0]
    assert losses[0] < losses[-1]
    rough = refine(scan, RefinementConfig(**LEAN, **TILT, iterations=25))
    assert smooth > 0.97 > correlations(rough, phases).diagonal().min() + 0.03


def test_the_tilt_is_found_within_its_error(upright):
    slab = upright.result().slab
    assert slab.tilt_mrad == pytest.approx(list(TILT.values()), abs=0.5)
    away = (np.array(slab.tilt_mrad) - list(TILT.values())) / np.array(slab.tilt_error_mrad)
    assert np.abs(away).max() < 3
    assert max(slab.tilt_error_mrad) < 1


def test_setting_slices_upright_changes_no_pattern(upright):
    run = upright.again(upright.run.kernel.amplitude, upright.config).run
    straight, middle = run.state.object[2].clone(), torch.arange(36, 45)
    for number, each in enumerate(run.state.object):
        each.copy_(torch.roll(straight, number, 0))  # one pixel a slice is more than one step takes back
    begun, before = run.state.slice_shift_px.clone(), run.kernel.forward(run.state, middle).intensity
    for _ in range(4):
        set_upright(run)
    moved = run.state.slice_shift_px - begun
    torch.testing.assert_close(moved, torch.tensor([1.0, 0.0], dtype=moved.dtype), atol=0.02, rtol=0)
    after = run.kernel.forward(run.state, middle).intensity
    assert float((after - before).abs().sum() / before.sum()) < 0.02
    torch.testing.assert_close(run.state.object[4], straight, atol=0.05, rtol=0)


def test_a_refinement_that_is_resumed_goes_on_with_its_tilt(columns, upright, tmp_path):
    upright.save(tmp_path / "kept.safetensors")
    other = Refinement(columns[0], upright.config)
    other.resume(tmp_path / "kept.safetensors")
    assert other.result().slab == upright.result().slab


def test_halves_of_the_data_are_solved_with_the_tilt_found(columns, upright):
    config = dataclasses.replace(upright.config, iterations=8)
    assert half_data_agreement(columns[0], config, upright.result()).mean > 0.5


def test_an_image_without_structure_tells_no_tilt(upright):
    fresh = upright.again(upright.run.kernel.amplitude, upright.config)
    fresh.run.state.object.fill_(1)
    begun = fresh.run.state.slice_shift_px.clone()
    set_upright(fresh.run)
    assert torch.equal(fresh.run.state.slice_shift_px, begun)
    assert np.isfinite(fresh.result().slab.tilt_error_mrad).all()


def test_a_tilt_is_not_refined_in_tiles(upright):
    assert not can_be_tiled(upright.config)


def test_few_electrons_want_a_smooth_object():
    """Ten electrons a pattern pixel on a weak object: what is left out is explained better, and better than by a flat one."""
    phases = 0.15 * random_phases(1, np.random.default_rng(0))
    scan = thick_scan(phases, 1e-10, electrons=2e3)
    judged = {}
    for length in (0.0, 2.0):
        config = RefinementConfig(iterations=20, smoothing_length_px=length, held_out_fraction=0.2, probe_start=None)
        refinement = Refinement(scan, config)
        for _ in refinement:
            pass
        judged[length] = refinement.judge(refinement.held_out).deviance
    refinement.run.state.object.fill_(1)
    flat = refinement.judge(refinement.held_out).deviance
    assert judged[2.0] < flat < judged[0.0]


def test_a_pixel_of_few_photons_is_not_pulled_down(rng):
    """The mean derivative of the loss at the true rates: zero for the Poisson likelihood, not for square roots."""
    rate = torch.full((1, 200, 200), 0.01, dtype=torch.float64)
    counts = torch.from_numpy(rng.poisson(rate.numpy())).double()
    pulls = []
    for poisson in (True, False):
        kernel = Kernel(
            counts.sqrt(),
            Geometry(np.zeros((1, 2)), 200, dtype=DOUBLE),
            FarField(),
            stabiliser=STABILISER,
            poisson=poisson,
        )
        none = torch.zeros(1, 1, 200, 200, dtype=DOUBLE)
        waves = Waves(torch.tensor([0]), none, none, [none], [], none, rate.clone())
        pulls.append(float(kernel.compare(waves, torch.ones(1).double())[1].mean()))
    assert abs(pulls[0]) < 0.06  # three standard errors
    assert pulls[1] > 0.08


def test_the_derivative_of_the_smooth_prior(two_layers, rng):
    config = RefinementConfig(slices=2, slice_distance_px2=3.0, smoothing_length_px=1.5, depth_smoothing_slices=0.7)
    run = Refinement(two_layers[0], config).run
    prior = Smoothness(run)
    shape = (2, 7, 9)
    image, way = (torch.from_numpy(rng.normal(size=shape) + 1j * rng.normal(size=shape)) for _ in range(2))

    def value(at: torch.Tensor) -> float:
        lateral = sum(float(at.diff(dim=axis).abs().square().sum()) for axis in (1, 2))
        return prior.lateral * lateral + prior.depth * float(at.diff(dim=0).abs().square().sum())

    found = torch.zeros_like(image)
    prior.add_derivative(found, image, (slice(None),) * 3, 1.0)
    expected = (value(image + 1e-4 * way) - value(image - 1e-4 * way)) / 2e-4
    assert float(2 * (found * way).sum().real) == pytest.approx(expected, rel=1e-6)
    assert prior.lateral / prior.depth == pytest.approx((1.5 / 0.7) ** 2)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"slices": 2}, "slice_distance_px2"),
        ({"slices": 2, "slice_distance_px2": 1.0, "thickness_angstrom": 20.0}, "slice_distance_px2"),
        ({"thickness_angstrom": 20.0}, "thickness_angstrom"),
        ({"tilt_row_mrad": 2.0}, "tilt_row_mrad"),
        ({"tilt_start": 0}, "tilt_start"),
        ({"slices": 2, "thickness_angstrom": 20.0, "tilt_start": 0, "method": "epie"}, "tilt_start"),
        ({"slices": 2, "slice_distance_px2": 1.0, "method": "lsqml"}, "method"),
        ({"method": "rpie", "smoothing_length_px": 1.0}, "smoothing_length_px"),
    ],
)
def test_settings_that_do_not_go_together(settings, field):
    with pytest.raises(ConfigurationError, match=f"^{field}"):
        RefinementConfig(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"thickness_angstrom": 20.0},
        {"slice_distance_px2": 1.0, "tilt_row_mrad": 1.0},
        {"slice_distance_px2": 1.0, "tilt_start": 0},
    ],
)
def test_a_thickness_needs_the_units_of_the_scan(two_layers, settings):
    scan = two_layers[0].select(np.arange(9))
    scan.pixel_size_m = None
    with pytest.raises(ConfigurationError, match=r"without pixel size.*--voltage-kV"):
        slab_between(scan, RefinementConfig(slices=2, **settings))


@pytest.mark.parametrize(
    ("settings", "field", "told"),
    [
        ({"slices": 2, "thickness_angstrom": 0.1}, "thickness_angstrom", "--slices 1"),
        ({"slices": 2, "slice_distance_px2": 0.01}, "slice_distance_px2", "at least 0.064"),
        ({"slices": 40, "thickness_angstrom": 15.0}, "thickness_angstrom", "--slices 30 at the most"),
    ],
)
def test_slices_that_no_pattern_tells_apart_are_refused(two_layers, settings, field, told):
    scan = two_layers[0].select(np.arange(9))
    scan.pixel_size_m, scan.energy_eV, scan.electrons = 0.2e-10, 3e5, True
    with pytest.raises(ConfigurationError, match=f"^{field}.*{told}"):
        slab_between(scan, RefinementConfig(**settings))
    assert slab_between(scan, RefinementConfig(slices=30, thickness_angstrom=15.0)).slice_thickness_angstrom == 0.5
