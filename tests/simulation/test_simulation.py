"""Simulated scans: dose, modes, positions, seeds."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import TIMES
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from ptycho_ray.errors import ConfigurationError, InputError, MissingFileError
from ptycho_ray.physics.optics import tilted_modes
from ptycho_ray.simulation import (
    OBJECTS,
    PROBES,
    SCANS,
    SimulationSpec,
    linear_overlap,
    make_object,
    make_probe,
    make_scan,
    probe_diameter_px,
    probe_from_file,
    propagate,
    scan_for_overlap,
    simulate,
    simulate_patterns,
)
from ptycho_ray.simulation.probes import zernike_polynomial

N = 32
OPTICS = {"energy_eV": 10_000.0, "pixel_size_m": 20e-9}


# --- objects -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OBJECTS)
def test_every_object_fills_its_stated_ranges_and_follows_its_seed(name: str) -> None:
    made = [
        make_object(name, (72, 96), np.random.default_rng(seed), amplitude_range=(0.4, 0.9), phase_range=(-1.0, 2.0))
        for seed in (7, 7, 8)
    ]
    assert made[0].shape == (72, 96)
    assert made[0].dtype == np.complex64
    np.testing.assert_allclose([np.abs(made[0]).min(), np.abs(made[0]).max()], (0.4, 0.9), atol=1e-6)
    np.testing.assert_allclose([np.angle(made[0]).min(), np.angle(made[0]).max()], (-1.0, 2.0), atol=1e-6)
    np.testing.assert_array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])


def test_siemens_spokes_are_counted_and_two_valued() -> None:
    star = make_object("siemens", (200, 200), np.random.default_rng(0), n_spokes=18, phase_range=(0.0, 1.0))
    angle = np.linspace(0, 2 * np.pi, 3600, endpoint=False)
    ring = np.angle(star)[
        np.rint(99.5 + 70 * np.sin(angle)).astype(int), np.rint(99.5 + 70 * np.cos(angle)).astype(int)
    ]
    assert np.sum((ring[:-1] < 0.5) & (ring[1:] >= 0.5)) in (17, 18)
    assert np.mean((ring < 0.05) | (ring > 0.95)) > 0.8


def test_bad_objects_are_refused(rng: np.random.Generator) -> None:
    with pytest.raises(InputError, match=r"object.*'cat'.*one of lines"):
        make_object("cat", (64, 64), rng)
    with pytest.raises(InputError, match="at least 16"):
        make_object("lines", (8, 64), rng)
    with pytest.raises(InputError, match="low <= high"):
        make_object("grf", (64, 64), rng, phase_range=(1.0, 0.0))
    with pytest.raises(InputError, match="one of camera"):
        make_object("test_image", (64, 64), rng, phase_image="lena")


# --- probes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROBES)
def test_probe_modes_are_orthogonal_and_carry_the_photons(name: str, rng: np.random.Generator) -> None:
    probe = make_probe(name, 64, rng, photons=3e5, modes=3, weights=(5, 3, 2), defocus_m=50e-6)
    assert probe.shape == (3, 64, 64)
    assert probe.dtype == np.complex64
    energies = np.sum(np.abs(probe.astype(complex)) ** 2, axis=(1, 2))
    np.testing.assert_allclose(energies, [1.5e5, 0.9e5, 0.6e5], rtol=1e-5)
    flat = probe.reshape(3, -1).astype(complex)
    gram = flat @ flat.conj().T / np.sqrt(np.outer(energies, energies))
    np.testing.assert_allclose(np.abs(gram - np.eye(3)), 0, atol=1e-5)


def test_the_first_mode_is_the_primary(rng: np.random.Generator) -> None:
    primary = PROBES["zernike"](64, rng)
    first = tilted_modes(primary, 2, rng)[0]
    np.testing.assert_allclose(first / np.linalg.norm(first), primary / np.linalg.norm(primary), atol=1e-12)


def test_probe_diameters() -> None:
    rng = np.random.default_rng(0)
    # A disc holds 90 % of its energy within sqrt(0.9) of its radius; a Gaussian within sqrt(ln 10 / 2) of its waist.
    assert probe_diameter_px(make_probe("disc", 96, rng, diameter_px=40)) == pytest.approx(40 * np.sqrt(0.9), abs=1.5)
    wide = probe_diameter_px(make_probe("gaussian", 96, rng, diameter_px=30))
    assert wide == pytest.approx(30 * np.sqrt(np.log(10) / 2), abs=1)


def test_propagation_keeps_energy_and_can_be_undone(rng: np.random.Generator) -> None:
    field = PROBES["zernike"](64, rng)
    there = propagate(field, 80e-6, **OPTICS)
    assert np.linalg.norm(there) == pytest.approx(np.linalg.norm(field))
    assert np.abs(there - field).max() > 0.1
    np.testing.assert_allclose(propagate(there, -80e-6, **OPTICS), field, atol=1e-12)


def test_zone_plate_focus_has_the_size_of_its_zone_and_defocus_is_propagation(rng: np.random.Generator) -> None:
    focus = PROBES["zone_plate"](128, rng, outer_zone_width_m=100e-9, central_stop=0.0)
    intensity = np.abs(focus) ** 2 / np.abs(focus).max() ** 2
    assert np.unravel_index(intensity.argmax(), intensity.shape) == (64, 64)
    # Airy disc: half maximum at 0.515 / (2 NA / lambda) = 1.03 zone widths across.
    assert np.sqrt(4 * np.sum(intensity > 0.5) / np.pi) * 20e-9 == pytest.approx(103e-9, rel=0.15)
    moved = PROBES["zone_plate"](128, rng, outer_zone_width_m=100e-9, central_stop=0.0, defocus_m=100e-6)
    np.testing.assert_allclose(moved, propagate(focus, 100e-6, **OPTICS), atol=1e-3 * np.abs(focus).max())
    with pytest.raises(InputError, match=r"defocus_m.*a beam of"):
        PROBES["zone_plate"](32, rng, defocus_m=1e-3)
    with pytest.raises(InputError, match="outer_zone_width_m"):
        PROBES["zone_plate"](32, rng, outer_zone_width_m=10e-9)


def test_zernike_polynomials_are_orthonormal() -> None:
    axis = np.linspace(-1, 1, 401)
    radius, angle = np.hypot(axis[:, None], axis), np.arctan2(axis[:, None], axis)
    inside = radius <= 1
    kinds = [(2, 0), (2, 2), (3, -1), (4, 0), (4, 4)]
    values = np.stack([zernike_polynomial(n, m, radius, angle)[inside] for n, m in kinds])
    np.testing.assert_allclose(values @ values.T / inside.sum(), np.eye(len(kinds)), atol=0.02)


def test_probe_from_file(tmp_path: Path, rng: np.random.Generator) -> None:
    probe = make_probe("gaussian", N, rng, modes=2)
    np.savez(tmp_path / "two.npz", probe=probe)
    np.savez(tmp_path / "one.npz", probeGuess=probe[0], other=1.0)
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["probe"] = probe[None]
    np.testing.assert_array_equal(probe_from_file(tmp_path / "two.npz", N), probe)
    np.testing.assert_array_equal(probe_from_file(tmp_path / "one.npz"), probe[:1])
    np.testing.assert_array_equal(probe_from_file(tmp_path / "two.h5", N), probe)
    with pytest.raises(InputError, match=r"two\.npz: probe: found shape \(2, 32, 32\); expected \(P, 64, 64\)"):
        probe_from_file(tmp_path / "two.npz", 64)
    with pytest.raises(MissingFileError):
        probe_from_file(tmp_path / "none.npz")
    np.savez(tmp_path / "wrong.npz", beam=probe)
    with pytest.raises(InputError, match="probe or probeGuess"):
        probe_from_file(tmp_path / "wrong.npz")
    np.savez(tmp_path / "object.npz", probe=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="pickle"):
        probe_from_file(tmp_path / "object.npz")
    (tmp_path / "text.npz").write_text("probe")
    with pytest.raises(InputError, match=r"text\.npz"):
        probe_from_file(tmp_path / "text.npz")


# --- scans ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCANS)
@settings(max_examples=10 * TIMES, deadline=None)
@given(height=st.integers(48, 120), width=st.integers(48, 120), n=st.integers(1, 200), seed=st.integers(0, 99))
def test_scans_keep_their_patches_inside_and_have_the_number_asked_for(
    name: str, height: int, width: int, n: int, seed: int
) -> None:
    positions = make_scan(name, (height, width), N, np.random.default_rng(seed), n_patterns=n)
    assert positions.shape == (n, 2)
    assert positions.dtype == np.float64
    assert positions.min() >= N // 2
    assert np.all(positions.max(axis=0) <= np.array([height, width]) - N // 2)
    assert len(np.unique(positions, axis=0)) == n


@pytest.mark.parametrize("name", SCANS)
def test_scans_cover_the_field_evenly(name: str, rng: np.random.Generator) -> None:
    positions = make_scan(name, (232, 332), N, rng, step_px=5.0)
    assert len(positions) == pytest.approx(200 * 300 / 25, rel=0.06)
    counts = np.histogram2d(*positions.T, bins=(4, 6), range=((16, 216), (16, 316)))[0]
    assert counts.min() > 0.6 * counts.mean()


@pytest.mark.parametrize("overlap", [0.5, 0.7, 0.85])
def test_overlap_is_as_asked(overlap: float, rng: np.random.Generator) -> None:
    probe = make_probe("disc", 64, rng, modes=2)
    diameter = probe_diameter_px(probe)
    assert linear_overlap(scan_for_overlap("grid", (200, 200), probe, overlap, rng), diameter) == pytest.approx(overlap)
    for name in ("spiral", "fermat"):
        positions = scan_for_overlap(name, (200, 200), probe, overlap, rng)
        assert linear_overlap(positions, diameter) == pytest.approx(overlap, abs=0.06)


def test_bad_scans_are_refused(rng: np.random.Generator) -> None:
    with pytest.raises(InputError, match="one of grid"):
        make_scan("snake", (64, 64), N, rng, n_patterns=4)
    with pytest.raises(InputError, match="either step_px or n_patterns"):
        make_scan("grid", (64, 64), N, rng)
    with pytest.raises(InputError, match="at least N = 32"):
        make_scan("grid", (30, 64), N, rng, step_px=4.0)
    with pytest.raises(InputError, match="step_px"):
        make_scan("grid", (64, 64), N, rng, step_px=-1.0)


# --- patterns ------------------------------------------------------------------------------------------------------


def test_a_flat_object_gets_all_the_photons_and_poisson_noise(rng: np.random.Generator) -> None:
    probe = make_probe("disc", N, rng, modes=2)
    positions = make_scan("random", (64, 64), N, rng, n_patterns=50)
    flat = np.ones((64, 64), dtype=np.complex64)
    exact = simulate_patterns(flat, probe, positions, photons=2e5, noise=False)
    np.testing.assert_allclose(exact.sum(axis=(1, 2)), 2e5, rtol=1e-5)
    counts = simulate_patterns(flat, probe, positions, photons=2e5, rng=rng)
    assert counts.dtype == np.uint32
    assert counts.sum() == pytest.approx(50 * 2e5, abs=5 * np.sqrt(50 * 2e5))
    bright = exact > 20
    chi_squared = np.mean((counts[bright] - exact[bright]) ** 2 / exact[bright])
    assert chi_squared == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("sub_pixel", ["fourier", "integer"])
def test_parseval_each_pattern_holds_what_passes_the_object(sub_pixel: str, rng: np.random.Generator) -> None:
    sample = make_object("grf", (64, 64), rng)
    probe = make_probe("gaussian", N, rng, photons=1e4, modes=2)
    patterns = simulate_patterns(
        sample, probe, np.array([[20.0, 30.0], [33.0, 41.0]]), noise=False, sub_pixel=sub_pixel
    )
    for pattern, (row, column) in zip(patterns, [(20, 30), (33, 41)], strict=True):
        patch = sample[row - 16 : row + 16, column - 16 : column + 16]
        assert pattern.sum() == pytest.approx(np.sum(np.abs(patch * probe) ** 2), rel=1e-5)


def test_sub_pixel_positions(rng: np.random.Generator) -> None:
    """Moving a band-limited object by a fraction and looking at a whole pixel equals looking at the fraction."""
    smooth = gaussian_filter(rng.standard_normal((96, 96)), 2.0, mode="wrap")
    sample = np.exp(3j * smooth)
    row, column = (np.exp(2j * np.pi * np.fft.fftfreq(96) * fraction) for fraction in (0.3, -0.4))
    moved = np.fft.ifft2(np.fft.fft2(sample) * row[:, None] * column[None, :])
    probe = make_probe("gaussian", N, rng, photons=1e6, diameter_px=10)
    expected = np.sqrt(simulate_patterns(moved, probe, np.array([[40.0, 50.0]]), noise=False))
    misfit = {}
    for way in ("fourier", "bilinear", "integer"):
        found = np.sqrt(simulate_patterns(sample, probe, np.array([[40.3, 49.6]]), noise=False, sub_pixel=way))
        misfit[way] = np.abs(found - expected).sum() / expected.sum()
    assert misfit["fourier"] < 1e-3
    assert misfit["fourier"] < 0.1 * misfit["bilinear"] < 0.1 * misfit["integer"]


def test_moving_object_and_positions_together_changes_nothing(rng: np.random.Generator) -> None:
    sample = make_object("dead_leaves", (96, 96), rng)
    probe = make_probe("disc", N, rng, photons=1e4)
    positions = rng.uniform(20, 60, (5, 2))
    moved = np.roll(sample, (7, 11), axis=(0, 1))
    before, after = (
        simulate_patterns(o, probe, p, noise=False)
        for o, p in ((sample, positions), (moved, positions + np.array([7, 11])))
    )
    np.testing.assert_allclose(before, after, rtol=1e-4, atol=1e-4)


def test_zero_frequency_and_orientation(rng: np.random.Generator) -> None:
    """A phase ramp of k Fourier pixels along the rows moves the pattern by k rows from N//2."""
    probe = make_probe("gaussian", N, rng, photons=1e6)
    rows = np.arange(64)[:, None] * np.ones((1, 64))
    ramp = np.exp(2j * np.pi * 5 * rows / N).astype(np.complex64)
    pattern = simulate_patterns(ramp, probe, np.array([[32.0, 32.0]]), noise=False)[0]
    assert np.unravel_index(pattern.argmax(), pattern.shape) == (N // 2 + 5, N // 2)


def test_bad_patterns_are_refused(rng: np.random.Generator) -> None:
    sample, probe = make_object("grf", (64, 64), rng), make_probe("disc", N, rng)
    inside = np.array([[32.0, 32.0]])
    with pytest.raises(InputError, match=r"positions.*leaves the object.*rows 16 to 48"):
        simulate_patterns(sample, probe, np.array([[32.0, 49.0]]), rng=rng)
    with pytest.raises(InputError, match="rng"):
        simulate_patterns(sample, probe, inside)
    with pytest.raises(InputError, match="sub_pixel"):
        simulate_patterns(sample, probe, inside, noise=False, sub_pixel="cubic")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="in one pixel"):
        simulate_patterns(sample, probe, inside, photons=1e12, rng=rng)
    with pytest.raises(InputError, match=r"probe.*shape"):
        simulate_patterns(sample, probe[..., :20], inside, rng=rng)


def test_simulation_and_evaluation_load_no_torch() -> None:
    code = "import sys, ptycho_ray.simulation, ptycho_ray.evaluation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- the whole scan ------------------------------------------------------------------------------------------------


def test_one_seed_one_scan_bit_for_bit() -> None:
    spec = SimulationSpec(object="dead_leaves", object_size=80, N=N, n_patterns=20, modes=2, seed=5)
    first, again, other = simulate(spec), simulate(spec), simulate(dataclasses.replace(spec, seed=6))
    for name in ("positions_px", "probe", "object_truth"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        assert np.array_equal(getattr(first, name), getattr(other, name)) == (name == "probe")
    assert not np.array_equal(first.probe, simulate(dataclasses.replace(spec, probe_seed=1)).probe)
    np.testing.assert_array_equal(first.patterns.intensity(), again.patterns.intensity())
    assert first.counts_are_photons
    assert first.energy_eV == spec.energy_eV
    json.dumps(first.metadata)


def test_a_change_of_dose_leaves_the_scene_alone() -> None:
    spec = SimulationSpec(object_size=80, N=N, n_patterns=10)
    low, high = simulate(spec), simulate(dataclasses.replace(spec, photons=1e8))
    np.testing.assert_array_equal(low.object_truth, high.object_truth)
    np.testing.assert_array_equal(low.positions_px, high.positions_px)
    np.testing.assert_allclose(high.probe, 10 * low.probe, rtol=1e-5)
    assert high.patterns.energies().mean() == pytest.approx(100 * low.patterns.energies().mean(), rel=1e-3)


def test_recorded_positions_can_be_wrong() -> None:
    spec = SimulationSpec(object_size=96, N=N, n_patterns=200, position_error_px=1.5)
    wrong, right = simulate(spec), simulate(dataclasses.replace(spec, position_error_px=0.0))
    error = wrong.positions_px - right.positions_px
    assert error.std() == pytest.approx(1.5, rel=0.15)
    assert wrong.metadata is not None
    np.testing.assert_array_equal(wrong.metadata["true_positions_px"], right.positions_px)
    np.testing.assert_array_equal(wrong.patterns.intensity(), right.patterns.intensity())


def test_a_probe_file_is_used_and_the_scan_survives_its_file(tmp_path: Path, rng: np.random.Generator) -> None:
    np.savez(tmp_path / "probe.npz", probe=make_probe("zernike", N, rng, modes=2))
    raw = simulate(SimulationSpec(object_size=72, N=N, n_patterns=6, probe_file=tmp_path / "probe.npz", photons=1e4))
    assert raw.probe.shape == (2, N, N)
    assert np.sum(np.abs(raw.probe) ** 2) == pytest.approx(1e4, rel=1e-5)
    raw.to_file(tmp_path / "scan.npz")
    read = type(raw).from_file(tmp_path / "scan.npz")
    np.testing.assert_allclose(read.patterns.intensity(), raw.patterns.intensity(), rtol=1e-5)
    np.testing.assert_array_equal(read.positions_px, raw.positions_px)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"object": "cat"}, "object"),
        ({"object_size": 20}, "object_size"),
        ({"overlap": 1.0}, "overlap"),
        ({"overlap": 0.5, "n_patterns": 10}, "together with n_patterns"),
        ({"phase_range": (1.0, -1.0)}, "phase_range"),
        ({"probe_diameter_px": 100.0}, "probe_diameter_px"),
        ({"probe": "zone_plate", "probe_diameter_px": 10.0}, "zone_plate"),
        ({"modes": 2, "mode_weights": (1.0,)}, "mode_weights"),
        ({"photon": 1e6}, "photons"),
        ({"photons": -1.0}, "photons"),
    ],
)
def test_a_bad_description_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        SimulationSpec(**{"N": N, **change})
