"""Simulated electrons: scattering factors, potentials, multislice, phonons, dose, and the errors of a microscope."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from ptycho_ray.commands.cli import main
from ptycho_ray.data import load_data
from ptycho_ray.errors import ConfigurationError, InputError
from ptycho_ray.physics.electron_optics import ElectronOptics
from ptycho_ray.physics.optics import electron_wavelength_m, fresnel_propagate
from ptycho_ray.simulation.electrons import ElectronScan, ElectronSpec, simulate_electrons, write_as_measured
from ptycho_ray.simulation.electrons.multislice import _detector, diffraction_of_positions, modes_of_source, multislice
from ptycho_ray.simulation.electrons.potentials import resampled, slice_of_atoms, slice_phases, transmissions
from ptycho_ray.simulation.electrons.scattering_factors import (
    BOHR_RADIUS_ANGSTROM,
    LOBATO_VAN_DYCK_2014,
    electron_scattering_factor,
    interaction_constant,
    lorentz_factor,
    phase_of_scattering_factor,
)
from ptycho_ray.simulation.electrons.specimens import (
    SRTIO3_CELL,
    Specimen,
    globule,
    molybdenum_disulphide,
    shaken,
    strontium_titanate,
    tilted,
    with_foreign_atom,
)

ENERGY_EV = 300e3
WAVELENGTH = electron_wavelength_m(ENERGY_EV) * 1e10
PIXEL = 0.12
SMALL = ElectronSpec(
    N=32, angle_per_pixel_mrad=2.6, defocus_nm=5.0, raster=(4, 5), thickness_angstrom=12, phonons=1, dose_e_per_A2=1e5
)


@pytest.fixture(scope="module")
def small() -> ElectronScan:
    return simulate_electrons(SMALL)


@pytest.fixture(scope="module")
def probe() -> np.ndarray:
    return ElectronOptics(20e-3, 3e-9).probe(64, PIXEL * 1e-10, WAVELENGTH * 1e-10).astype(np.complex64)


# --- scattering factors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symbol", LOBATO_VAN_DYCK_2014)
def test_far_out_the_nucleus_is_seen(symbol: str) -> None:
    """Mott-Bethe: 2 pi**2 a0 q**2 f_e approaches Z. A wrong digit, or the line of a neighbouring element, breaks it."""
    atomic_number, scales, widths = LOBATO_VAN_DYCK_2014[symbol]
    charge = 2 * np.pi**2 * BOHR_RADIUS_ANGSTROM * sum(a / b for a, b in zip(scales, widths, strict=True))
    assert charge == pytest.approx(atomic_number, rel=1e-9)


def test_hydrogen_scatters_as_its_exact_solution() -> None:
    """The hydrogen atom is known in closed form: f_x = 1 / (1 + (pi a0 q)**2)**2, and f_e by Mott-Bethe."""
    q = np.array([0.05, 0.5, 1.0, 3.0, 8.0])
    f_x = 1 / (1 + (np.pi * BOHR_RADIUS_ANGSTROM * q) ** 2) ** 2
    exact = (1 - f_x) / (2 * np.pi**2 * BOHR_RADIUS_ANGSTROM * q**2)
    np.testing.assert_allclose(electron_scattering_factor("H", q), exact, rtol=1e-4)
    assert electron_scattering_factor("H", np.array(0.0)) == pytest.approx(BOHR_RADIUS_ANGSTROM, rel=1e-6)


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [
        ("C", (1.1682, 0.4133, 0.1170)), ("N", (1.2171, 0.4847, 0.1372)), ("O", (1.2223, 0.5421, 0.1585)),
        ("P", (2.1690, 0.7971, 0.2842)), ("S", (2.3253, 0.8598, 0.2974)), ("Ti", (2.8455, 1.2310, 0.3891)),
        ("Se", (3.4448, 1.5627, 0.6034)), ("Sr", (3.8771, 1.7318, 0.6512)), ("Mo", (4.3304, 1.9354, 0.6956)),
        ("La", (5.7200, 2.5342, 0.9185)), ("W", (5.7520, 2.9045, 1.1599)), ("Au", (6.0409, 3.0739, 1.2082)),
    ],
)  # fmt: skip
def test_factors_follow_from_x_ray_form_factors(symbol: str, expected: tuple[float, ...]) -> None:
    """Mott-Bethe of the X-ray form factors of Cromer & Mann (International Tables C, 6.1.1.4), at 0.5, 1 and 2 / angstrom."""
    np.testing.assert_allclose(electron_scattering_factor(symbol, np.array([0.5, 1.0, 2.0])), expected, rtol=0.015)


def test_an_element_without_a_factor_is_named() -> None:
    with pytest.raises(InputError, match="'Xx'"):
        electron_scattering_factor("Xx", np.zeros(1))


@pytest.mark.parametrize(("kilovolts", "expected"), [(100, 0.9244), (200, 0.7288), (300, 0.6526)])
def test_interaction_constant(kilovolts: float, expected: float) -> None:
    """Radian per kilovolt and angstrom (Kirkland, Advanced Computing in Electron Microscopy, table 5.1)."""
    assert interaction_constant(kilovolts * 1e3) * 1e3 == pytest.approx(expected, abs=6e-5)
    volts = phase_of_scattering_factor(kilovolts * 1e3) / interaction_constant(kilovolts * 1e3)
    assert volts == pytest.approx(47.878, abs=1e-3)


# --- specimens and potentials --------------------------------------------------------------------------------------


def atom(symbol: str, row: float, column: float, depth: float = 0.5, thickness: float = 1.0) -> Specimen:
    return Specimen(np.array([[depth, row, column]]), np.array([symbol]), thickness, {}, symbol)


def test_the_integral_of_the_phase_is_the_forward_scattering() -> None:
    phase = slice_phases(atom("Sr", 3.333, 2.111), 1, (64, 48), PIXEL, ENERGY_EV)[0]
    forward = lorentz_factor(ENERGY_EV) * WAVELENGTH * float(electron_scattering_factor("Sr", np.array(0.0)))
    assert phase.sum() * PIXEL**2 == pytest.approx(forward, rel=1e-4)
    assert np.unravel_index(phase.argmax(), phase.shape) == (round(3.333 / PIXEL), round(2.111 / PIXEL))


def test_atoms_lie_at_their_place_to_a_fraction_of_a_pixel() -> None:
    here, there = (slice_phases(atom("O", 3.0, x), 1, (64, 64), PIXEL, ENERGY_EV)[0] for x in (3.0, 3.0 + 0.4 * PIXEL))
    ramp = np.exp(-2j * np.pi * np.fft.fftfreq(64) * 0.4)
    moved = np.fft.ifft(np.fft.fft(here, axis=1) * ramp, axis=1)
    inside = np.abs(moved.imag).max()  # of the highest frequency, which has no place of its own
    np.testing.assert_allclose(moved.real, there, atol=2 * inside + 1e-6)


def test_crystals_have_their_bonds() -> None:
    perovskite = strontium_titanate((12.0, 12.0), 20.0)
    depth, row, column = perovskite.positions.T
    titanium, oxygen = (perovskite.positions[perovskite.symbols == name] for name in ("Ti", "O"))
    middle = np.all((titanium > 3) & (titanium < 9), axis=1)
    distances, _ = cKDTree(oxygen).query(titanium[middle], k=6)
    np.testing.assert_allclose(distances, SRTIO3_CELL / 2)
    assert perovskite.thickness == pytest.approx(5 * SRTIO3_CELL)
    assert depth.min() > 0
    assert depth.max() < perovskite.thickness
    assert max(row.max(), column.max()) < 12

    sulphide = molybdenum_disulphide((16.0, 16.0), 2)
    metal, sulphur = (sulphide.positions[sulphide.symbols == name] for name in ("Mo", "S"))
    inner = np.all((metal[:, 1:] > 4) & (metal[:, 1:] < 12), axis=1)
    bonds, _ = cKDTree(sulphur).query(metal[inner], k=6)
    np.testing.assert_allclose(bonds, np.hypot(3.16 / np.sqrt(3), 1.56))
    upper, lower = metal[metal[:, 0] < 6], sulphur[sulphur[:, 0] > 6]
    over, _ = cKDTree(lower[:, 1:]).query(upper[:, 1:][np.all((upper[:, 1:] > 2) & (upper[:, 1:] < 14), axis=1)])
    np.testing.assert_allclose(over, 0, atol=1e-9)  # 2H: Mo lies over S


def test_a_globule_is_as_dense_as_a_protein() -> None:
    ball = globule((30.0, 30.0), 24.0, np.random.default_rng(0))
    assert len(ball.positions) == pytest.approx(0.058 * np.pi / 6 * 24**3, rel=0.01)
    assert cKDTree(ball.positions).query(ball.positions, k=2)[0][:, 1].min() >= 1.2
    assert np.linalg.norm(ball.positions - [12, 15, 15], axis=1).max() <= 12
    assert set(ball.symbols) <= {"C", "N", "O", "S"}


def test_tilt_leans_the_columns() -> None:
    leaning = tilted(strontium_titanate((8.0, 8.0), 40.0), (0.0, 5e-3))
    moved = leaning.positions - strontium_titanate((8.0, 8.0), 40.0).positions
    np.testing.assert_allclose(moved[:, 2], leaning.positions[:, 0] * np.tan(5e-3))
    np.testing.assert_array_equal(moved[:, :2], 0)


def test_a_foreign_atom_is_seen_in_its_slice_alone() -> None:
    pure = strontium_titanate((8.0, 8.0), 40.0)
    doped, number = with_foreign_atom(pure, "La", (30.0, 4.0, 4.0))
    assert pure.symbols[number] == "Sr"
    assert abs(pure.positions[number, 0] - 30) <= SRTIO3_CELL / 2
    change = slice_phases(doped, 10, (64, 64), 0.13, ENERGY_EV) - slice_phases(pure, 10, (64, 64), 0.13, ENERGY_EV)
    changed = np.flatnonzero(np.abs(change).max(axis=(1, 2)) > 1e-3)
    assert changed.tolist() == [slice_of_atoms(doped, 10)[number]] == [int(doped.positions[number, 0] / SRTIO3_CELL)]


def test_frozen_phonons_lower_bragg_peaks_by_the_debye_waller_factor() -> None:
    """In the kinematic limit the peak of a thin crystal follows the mean potential: exp(-B g**2 / 4) with B = 8 pi**2 u**2."""
    side = 6 * SRTIO3_CELL
    crystal = strontium_titanate((side - 0.01, side - 0.01), 4 * SRTIO3_CELL)
    only = crystal.symbols == "Sr"
    crystal = dataclasses.replace(crystal, positions=crystal.positions[only], symbols=crystal.symbols[only])
    rng = np.random.default_rng(3)
    pixel = side / 144
    phases = [slice_phases(shaken(crystal, rng), 1, (144, 144), pixel, ENERGY_EV)[0] for _ in range(12)]
    peaks = [np.fft.fft2(phase)[6 * order, 0] for phase in (np.mean(phases, axis=0),) for order in (1, 3)]
    still = slice_phases(crystal, 1, (144, 144), pixel, ENERGY_EV)[0]
    for order, peak in zip((1, 3), peaks, strict=True):
        g, mean_square = order / SRTIO3_CELL, crystal.rms["Sr"] ** 2
        expected = np.exp(-(8 * np.pi**2 * mean_square) * g**2 / 4)
        assert abs(peak / np.fft.fft2(still)[6 * order, 0]) == pytest.approx(expected, abs=0.02)


def test_resampling_keeps_the_mean_and_what_is_smooth() -> None:
    fine, coarse = (np.indices((n, n)) * (24 / n) for n in (48, 24))
    waves = [np.cos(2 * np.pi * (3 * r + 2 * c) / 24) + 1.5 for r, c in (fine, coarse)]
    np.testing.assert_allclose(resampled(waves[0].astype(np.float32)[None], (24, 24))[0], waves[1], atol=1e-5)


# --- multislice ----------------------------------------------------------------------------------------------------


def test_one_slice_is_a_product(probe: np.ndarray) -> None:
    slice_ = transmissions(slice_phases(atom("Mo", 3.8, 3.9), 1, (64, 64), PIXEL, ENERGY_EV))
    pattern = diffraction_of_positions(slice_, probe[None], np.array([[32.0, 32.0]]), 3.0, N=32)[0]
    expected = np.abs(np.fft.fftshift(np.fft.fft2(probe * slice_[0], norm="ortho"))) ** 2
    np.testing.assert_allclose(pattern, expected[16:48, 16:48], atol=1e-6 * expected.max())
    assert pattern.sum() == pytest.approx(1, abs=0.02)


def test_waves_travel_as_everywhere_in_the_package(probe: np.ndarray) -> None:
    distance = 7.0
    spectrum = multislice(probe[None], np.ones((3, 1, 64, 64), np.complex64), distance)[0]
    there = np.fft.ifft2(spectrum, norm="ortho")
    np.testing.assert_allclose(there, fresnel_propagate(probe, 2 * distance), atol=1e-5)


def test_underfocus_puts_the_crossover_behind_the_entrance(probe: np.ndarray) -> None:
    depths = np.array([-30.0, 0.0, 30.0])  # the probe has 30 angstrom underfocus
    peaks = [np.abs(fresnel_propagate(probe, WAVELENGTH * depth / PIXEL**2)).max() for depth in depths]
    assert np.argmax(peaks) == 2


def test_the_first_slice_meets_the_beam_first(probe: np.ndarray) -> None:
    phases = slice_phases(atom("Au", 3.84, 4.3), 1, (64, 64), PIXEL, ENERGY_EV)
    empty = np.zeros_like(phases)
    distance = WAVELENGTH * 60 / PIXEL**2
    first = multislice(probe[None], transmissions(np.concatenate([phases, empty]))[:, None], distance)[0]
    alone = multislice(probe[None], transmissions(phases)[:, None], distance)[0]
    np.testing.assert_allclose(np.abs(first), np.abs(alone), atol=1e-5)
    last = multislice(probe[None], transmissions(np.concatenate([empty, phases]))[:, None], distance)[0]
    assert np.abs(np.abs(last) - np.abs(alone)).max() > 0.01


def test_the_probe_moves_by_fractions_of_a_pixel(probe: np.ndarray) -> None:
    """A probe moved by a fraction sees what a specimen moved by it the other way shows."""
    slices = [
        transmissions(slice_phases(atom("Sr", 5.0, x), 1, (80, 80), PIXEL, ENERGY_EV)) for x in (5.0, 5.0 - 0.3 * PIXEL)
    ]
    here, there = ([[40.0, 40.3]], [[40.0, 40.0]])
    patterns = [
        diffraction_of_positions(slice_, probe[None], np.array(place), 1.0, N=32)
        for slice_, place in zip(slices, (here, there), strict=True)
    ]
    np.testing.assert_allclose(patterns[0], patterns[1], atol=2e-3 * patterns[0].max())


def test_detector_pixels_share_what_falls_between_them() -> None:
    for finer in (1, 2, 3):
        shares = _detector(12 * finer + 4, 12, finer)
        assert shares.sum(axis=0).max() == pytest.approx(1)
        np.testing.assert_allclose(shares.sum(axis=1), finer)
    with pytest.raises(InputError, match="detector"):
        _detector(16, 32, 1)


def test_a_window_outside_the_specimen_is_refused(probe: np.ndarray) -> None:
    with pytest.raises(InputError, match="leaves"):
        diffraction_of_positions(np.ones((1, 70, 70), np.complex64), probe[None], np.array([[20.0, 35.0]]), 1.0, N=32)


def test_the_modes_of_a_source_blur_the_probe(probe: np.ndarray) -> None:
    width = 1.5
    modes = modes_of_source(probe.astype(np.complex128), width, held=0.9999)
    frequency = np.fft.fftfreq(64)
    blur = np.exp(-2 * np.pi**2 * width**2 * (frequency[:, None] ** 2 + frequency[None, :] ** 2))
    blurred = np.fft.ifft2(np.fft.fft2(np.abs(probe) ** 2) * blur).real
    np.testing.assert_allclose(np.sum(np.abs(modes) ** 2, axis=0), blurred, atol=2e-3 * blurred.max())
    assert np.sum(np.abs(modes) ** 2) == pytest.approx(1)


# --- scans ---------------------------------------------------------------------------------------------------------


def test_the_dose_is_that_of_the_scan(small: ElectronScan) -> None:
    electrons = 1e5 * 0.5**2
    assert small.truth["electrons_per_pattern"] == electrons
    expected = electrons * small.truth["share_on_detector"] * 20
    assert small.frames.sum() == pytest.approx(expected, abs=5 * np.sqrt(expected))
    exact = simulate_electrons(dataclasses.replace(SMALL, noise=False))
    mean = exact.frames[exact.frames > 5]
    deviations = (small.frames[exact.frames > 5] - mean) / np.sqrt(mean)
    assert np.std(deviations) == pytest.approx(1, abs=0.05)


def test_the_truth_is_the_product_of_the_slices(small: ElectronScan) -> None:
    assert small.slice_phases.shape[0] == 3
    np.testing.assert_allclose(small.scan.object_truth, np.exp(1j * small.slice_phases.sum(axis=0)), atol=1e-5)
    assert small.scan.electrons
    assert small.scan.optics is not None
    assert small.scan.optics.defocus_m == pytest.approx(5e-9)


def test_a_seed_repeats_a_scan_and_the_dose_changes_nothing_else(small: ElectronScan) -> None:
    np.testing.assert_array_equal(simulate_electrons(SMALL).frames, small.frames)
    other = simulate_electrons(dataclasses.replace(SMALL, dose_e_per_A2=1e4))
    np.testing.assert_array_equal(other.slice_phases, small.slice_phases)
    assert np.any(simulate_electrons(dataclasses.replace(SMALL, seed=1)).slice_phases != small.slice_phases)


def test_what_a_microscope_leaves_is_read_with_voltage_and_semiangle(tmp_path: Path) -> None:
    """Frames and step as EMD: with the rotation told, the positions are the true ones."""
    made = simulate_electrons(dataclasses.replace(SMALL, rotation_deg=7.0, defocus_error=0.2, phonons=0))
    write_as_measured(made, tmp_path / "scan.emd")
    with pytest.warns(UserWarning, match="mrad"):
        read = load_data(tmp_path / "scan.emd", voltage_kV=300, semiangle_mrad=21.4, rotation=7.0)
    np.testing.assert_array_equal(read.patterns.intensity(np.arange(20)), made.frames.reshape(20, 32, 32))
    assert read.pixel_size_m == pytest.approx(made.scan.pixel_size_m, rel=0.03)
    true = np.array(made.truth["true_positions_px"])
    scale = read.pixel_size_m / made.scan.pixel_size_m
    np.testing.assert_allclose(
        (read.positions_px - read.positions_px.mean(axis=0)) * scale, true - true.mean(axis=0), atol=1e-6
    )
    write_as_measured(made, tmp_path / "scan.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "scan.npy"), made.frames)
    with pytest.raises(InputError, match=r"\.emd"):
        write_as_measured(made, tmp_path / "scan.tif")


def test_errors_of_the_scan_are_in_the_true_positions() -> None:
    made = simulate_electrons(
        dataclasses.replace(SMALL, step_scale=1.1, drift_angstrom=(1.0, 0.0), defocus_error=0.2, phonons=0, noise=False)
    )
    true, recorded = np.array(made.truth["true_positions_px"]), made.scan.positions_px
    pixel = made.scan.pixel_size_m * 1e10
    np.testing.assert_allclose(np.diff(true[:5, 1]) * pixel, 0.55)
    np.testing.assert_allclose(np.diff(recorded[:5, 1]) * pixel, 0.5)
    assert (true[-1, 0] - true[0, 0]) * pixel == pytest.approx(3 * 0.55 + 1.0)
    assert made.scan.optics.defocus_m == pytest.approx(6e-9)
    assert made.truth["defocus_nm"] == 5


def test_a_wider_window_sees_the_same_specimen() -> None:
    """What is scattered out of the window no longer comes back in at its other side; little else changes."""
    thin = dataclasses.replace(SMALL, phonons=0, noise=False, thickness_angstrom=4, defocus_nm=2, semiangle_mrad=15)
    narrow, wide = (simulate_electrons(dataclasses.replace(thin, finer=finer)).frames for finer in (1, 2))
    assert np.corrcoef(narrow.ravel(), wide.ravel())[0, 1] > 0.998
    assert wide.sum() == pytest.approx(narrow.sum(), rel=0.01)


@pytest.mark.parametrize("specimen", ["SrTiO3", "MoS2", "globule"])
def test_the_specimen_does_not_depend_on_the_window(specimen: str) -> None:
    still = dataclasses.replace(SMALL, specimen=specimen, phonons=0, noise=False, raster=(2, 2), dopant="Au")
    truths = []
    for N, angle in ((32, 2.6), (64, 1.3)):
        made = simulate_electrons(dataclasses.replace(still, N=N, angle_per_pixel_mrad=angle))
        positions = np.array(made.truth["true_positions_px"])
        middle = np.round(positions.mean(axis=0)).astype(int)
        around = tuple(slice(m - 12, m + 12) for m in middle)
        truths.append(made.slice_phases[:, *around])
        pixel = made.scan.pixel_size_m * 1e10
        assert np.abs(np.array(made.truth["dopant_place_angstrom"][1:]) / pixel - positions.mean(axis=0)).max() < 12
    np.testing.assert_allclose(truths[0], truths[1], atol=0.02 * truths[0].max())


@pytest.mark.parametrize("flip", ["rows", "columns", "transpose"])
def test_frames_are_turned_over_about_the_zero_frequency(small: ElectronScan, flip: str) -> None:
    turned = simulate_electrons(dataclasses.replace(SMALL, flip=flip, noise=False)).frames
    straight = simulate_electrons(dataclasses.replace(SMALL, noise=False)).frames
    row, column = {"rows": (-3, 5), "columns": (3, -5), "transpose": (5, 3)}[flip]
    np.testing.assert_array_equal(turned[..., 16 + row, 16 + column], straight[..., 16 + 3, 16 + 5])
    np.testing.assert_array_equal(turned[..., 16, 16], straight[..., 16, 16])


def test_a_gain_multiplies_the_counts(small: ElectronScan) -> None:
    gained = simulate_electrons(dataclasses.replace(SMALL, counts_per_electron=2.5))
    np.testing.assert_allclose(gained.frames, small.frames * 2.5)
    assert not gained.scan.counts_are_photons


@pytest.mark.parametrize(
    ("setting", "field"),
    [
        ({"semiangle_mrad": 41.0}, "semiangle_mrad"), ({"dopant": "La", "dopant_depth_angstrom": 500.0}, "dopant_depth"),
        ({"dopant": "Xx"}, "dopant"), ({"finer": 9}, "finer"), ({"raster": (1, 9)}, "raster"), ({"oversampling": 1}, "over"),
    ],
)  # fmt: skip
def test_nonsense_is_refused(setting: dict[str, object], field: str) -> None:
    with pytest.raises(ConfigurationError, match=field):
        ElectronSpec(**setting)  # type: ignore[arg-type]


def test_the_command_writes_the_scan_and_its_truth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--N", "32", "--angle-per-pixel-mrad", "2.6", "--defocus-nm", "5", "--raster=4x4", "--phonons", "0"]
    target = tmp_path / "scan.npz"
    assert main(["simulate", "--electrons", str(target), *words, "--specimen", "MoS2", "--dopant", "W"]) == 0
    scan = load_data(target)
    assert len(scan) == 16
    assert scan.electrons
    with np.load(tmp_path / "scan_truth.npz") as truth:
        assert truth["slice_phases"].shape[1:] == scan.object_truth.shape
        assert truth["dopant_place_angstrom"].shape == (3,)
        assert truth["probe"].shape == (1, 32, 32)
    assert main(["simulate", "--electrons", str(target), *words]) == 2
    assert main(["simulate", "--electrons", str(tmp_path / "raw.emd"), *words, "--as-measured"]) == 0
    assert main(["simulate", "--electrons", str(tmp_path / "b.npz"), *words, "--dopant-depth-angstrom", "-1"]) == 2
    capsys.readouterr()
