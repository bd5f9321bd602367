"""Error bars of the solver's image: how many pixels lie within them, and what does not depend on anything else."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from ptycho_ray.evaluation import evaluate_reconstruction
from ptycho_ray.refinement import error_bars as module
from ptycho_ray.refinement.error_bars import ErrorBars, _by_scale, _going_on, error_bars, error_bars_and_halves
from ptycho_ray.refinement.solver import Diverged, Refinement, RefinementConfig
from ptycho_ray.simulation.objects import make_object
from ptycho_ray.simulation.probes import make_probe
from ptycho_ray.simulation.simulate import simulate_scan

#: Standard deviations that 70 % of a normal distribution lie within.
NOMINAL, Z = 0.70, 1.0364
#: Error bars are called right if 65 to 75 % do; what a test adds to that is three standard errors of its own measurement.
PROMISED = 0.05
#: Side of the blocks of pixels that are taken for independent of each other: several times what errors are alike over.
BLOCK_PX = 12


def solved(photons: float, *, side: int = 84, count: int = 90, iterations: int = 20, **settings):
    rng = np.random.default_rng(8)
    image, probe = make_object("lines", (side, side), rng), make_probe("disc", 32, rng, photons=photons)
    scan = simulate_scan(image, probe, rng.uniform(17, side - 17, (count, 2)), rng=rng)
    refinement = Refinement(scan, RefinementConfig(iterations=iterations, **({"probe_start": None} | settings)))
    for _ in refinement:
        pass
    return refinement, image, scan


def coverages(refinement: Refinement, bars: ErrorBars, truth: np.ndarray) -> list[tuple[float, float]]:
    """For amplitude and phase: the share of the pixels within the 70 % interval, and its standard error over blocks."""
    image = refinement.stitched()
    found = evaluate_reconstruction(
        image.image,
        truth,
        origin_px=image.origin_px,
        region=bars.covered,
        register=refinement.config.probe_start is not None,
    )
    amplitude_std = bars.amplitude_std * abs(found.ambiguities.scale)
    amplitude = np.abs(np.abs(found.aligned) - np.abs(found.truth)) <= Z * amplitude_std
    phase = np.abs(np.angle(found.aligned * found.truth.conj())) <= Z * bars.phase_std
    rows, columns = np.nonzero(found.mask)
    block = rows // BLOCK_PX * found.mask.shape[1] + columns // BLOCK_PX
    size = np.bincount(block)
    shares = []
    for inside in (amplitude[found.mask], phase[found.mask]):
        share = float(inside.mean())
        strays = np.bincount(block, inside - share, len(size))
        shares.append((share, float(np.sqrt(np.sum(strays**2)) / size.sum())))
    return shares


def check(shares: list[tuple[float, float]]) -> None:
    for share, error in shares:
        assert error < 0.05  # or the test could not fail
        assert abs(share - NOMINAL) < PROMISED + 3 * error


@pytest.fixture(scope="module")
def noisy():
    return solved(1e5)


@pytest.fixture(scope="module")
def bars(noisy):
    return error_bars(noisy[0], 1.0, np.random.default_rng(1))


def test_as_many_pixels_lie_within_as_should(noisy, bars):
    check(coverages(noisy[0], bars, noisy[1]))


def test_the_refinement_is_not_changed_and_the_generator_decides(noisy, bars):
    refinement = noisy[0]
    image, positions = refinement.stitched().image, refinement.run.geometry.positions_px
    again = error_bars(refinement, 1.0, np.random.default_rng(1))
    np.testing.assert_array_equal(again.phase_std, bars.phase_std)
    np.testing.assert_array_equal(refinement.stitched().image, image)
    np.testing.assert_array_equal(refinement.run.geometry.positions_px, positions)
    other = error_bars(refinement, 1.0, np.random.default_rng(2))
    assert not np.array_equal(other.phase_std, bars.phase_std)


@pytest.mark.parametrize("start", [None, 7])
def test_a_solution_that_goes_on_moves_every_unknown_at_once(start):
    names = [field.name for field in dataclasses.fields(RefinementConfig) if field.name.endswith("_start")]
    given = {name: start for name in names if name != "eigenmode_start" or start is not None}
    thick = {"slices": 2, "slice_distance_px2": 1.0}  # for the tilt
    refinement = SimpleNamespace(config=RefinementConfig(**given, **thick), run=SimpleNamespace(iteration=10))
    settings = dataclasses.asdict(_going_on(refinement))
    assert {settings[name] for name in given} == {None if start is None else 0}


def test_photons_that_are_not_known_are_found_by_the_misfit(noisy, bars):
    unknown = error_bars(noisy[0], None, np.random.default_rng(1))
    assert unknown.medians == pytest.approx(bars.medians, rel=0.4)


def test_error_bars_grow_as_photons_are_lost(bars):
    darker = error_bars(solved(1e4)[0], 1.0, np.random.default_rng(1))
    assert 2 < darker.replica[0] / bars.replica[0] < 5  # the root of ten, more or less


@given(seed=st.integers(0, 10**6), smooth_px=st.floats(0.0, 12.0))
def test_the_scales_of_a_deviation_hold_its_whole_mean_square(seed, smooth_px):
    rng = np.random.default_rng(seed)
    covered = np.zeros((40, 50), bool)
    covered[5:36, 3:47] = True
    deviation = gaussian_filter(rng.normal(size=covered.shape), smooth_px)
    scales = _by_scale(deviation, covered)
    assert sum(scales)[covered].mean() == pytest.approx((deviation[covered] ** 2).mean())
    assert not sum(scales)[~covered].any()
    largest = int(np.argmax([scale.sum() for scale in scales]))
    assert largest == 0 if smooth_px < 0.5 else smooth_px < 8 or largest == len(scales) - 1


def test_what_diverges_is_told_and_costs_nothing_else(noisy, monkeypatch):
    def diverge(*_, **__):
        raise Diverged("too few patterns")

    told = []
    monkeypatch.setattr(module, "half_data_agreement", diverge)
    bars = error_bars_and_halves(noisy[0], noisy[2], 1.0, np.random.default_rng(1), told.append)
    assert told == [bars.sentence, "no comparison of two halves of the data: too few patterns"]
    assert bars.halves is None
    monkeypatch.setattr(module, "error_bars", diverge)
    assert error_bars_and_halves(noisy[0], noisy[2], 1.0, np.random.default_rng(1), told.append) is None
    assert told[-1] == "no error bars: too few patterns"


@pytest.mark.slow
def test_coverage_of_the_benchmark_scan_at_few_photons_with_an_unknown_probe(shared_data):
    with np.load(shared_data("sim64_1e6.npz")) as file:
        image, probe, guess, positions = (file[name] for name in ("obj", "probe", "probe_guess", "pos"))
    scan = simulate_scan(image, probe, positions + 32, rng=np.random.default_rng(0), photons=1e4)
    refinement = Refinement(scan, RefinementConfig(), probe=guess)
    for _ in refinement:
        pass
    check(coverages(refinement, error_bars(refinement, 1.0, np.random.default_rng(1)), image))
