"""Rotation, handedness, defocus and astigmatism of scans of electrons; nothing is claimed where the patterns do not tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ptycho_ray.automatic import electrons
from ptycho_ray.automatic.electrons import calibrated_probes, refocused
from ptycho_ray.automatic.guesses import first_probes
from ptycho_ray.automatic.reconstruct import plan_reconstruction
from ptycho_ray.automatic.trials import Part
from ptycho_ray.calibration.deflection import turn_by_curl, turn_matrix
from ptycho_ray.calibration.microscope import Calibration, calibrate_scan
from ptycho_ray.calibration.parallax import Lens, parallax
from ptycho_ray.calibration.scan_spectra import scan_spectra
from ptycho_ray.commands.calibrate import as_read
from ptycho_ray.commands.cli import main
from ptycho_ray.config.reading import Reading
from ptycho_ray.data import RawData, load_data
from ptycho_ray.errors import InputError
from ptycho_ray.physics.aberrations import read_aberrations
from ptycho_ray.physics.electron_optics import ElectronOptics
from ptycho_ray.physics.optics import electron_wavelength_m

SHARED = Path(__file__).resolve().parents[3] / "shared/data/rotavirus_train.npz"
WAVELENGTH_M = electron_wavelength_m(300e3)
N, PIXEL_M, SEMIANGLE_RAD, RASTER, STEP_PX = 32, 0.4e-10, 15e-3, 24, 1.5


def made(
    defocus_nm: float = 20.0,
    angle_deg: float = 0.0,
    *,
    mirrored: bool = False,
    dose: float = 1e4,
    strength: float = 0.1,
    c12: tuple[float, float] | None = None,
    atoms: bool = True,
    order: NDArray[np.int64] | None = None,
) -> RawData:
    """A raster scan whose axes are turned against the detector, with its positions as a microscope writes them. ``dose`` in
    electrons per square angstrom; ``order`` shuffles the patterns."""
    rng = np.random.default_rng(4)
    optics = ElectronOptics(SEMIANGLE_RAD, defocus_nm * 1e-9, {"C12": c12} if c12 else {})
    side = int(RASTER * STEP_PX * 1.5) + N + 8
    atoms_at = (rng.random((side, side)) < 0.02).astype(float) if atoms else rng.normal(size=(side, side))
    phase = gaussian_filter(atoms_at, 1.2)
    raster = (np.indices((RASTER, RASTER)).reshape(2, -1).T - (RASTER - 1) / 2) * STEP_PX
    true: NDArray[np.float64] = raster @ turn_matrix(np.radians(angle_deg), mirrored).T + side / 2
    scan = RawData.from_simulation(
        true[:, 1], true[:, 0], optics.probe(N, PIXEL_M, WAVELENGTH_M), np.exp(1j * strength * phase / phase.std()),
        nphotons=dose * (STEP_PX * PIXEL_M * 1e10) ** 2, generator=rng,
    ).at((raster + side / 2).astype(np.float64))  # fmt: skip
    if order is not None:
        scan = scan.select(order).at(scan.positions_px)
    scan.electrons, scan.energy_eV, scan.pixel_size_m = True, 300e3, PIXEL_M
    scan.optics = ElectronOptics(SEMIANGLE_RAD)
    return scan


def apart(angle: float, other: float) -> float:
    return abs((angle - other + 180) % 360 - 180)


def value(found: Calibration, name: str) -> tuple[float, float]:
    finding = found[name]
    assert finding.found is not None
    assert finding.error is not None
    return finding.found, finding.error


@pytest.mark.parametrize(
    ("defocus_nm", "angle_deg", "mirrored"), [(20.0, 7.0, False), (-20.0, -31.0, True), (0.0, 7.0, False)]
)
def test_rotation_handedness_and_defocus_with_its_sign_are_found(
    defocus_nm: float, angle_deg: float, mirrored: bool
) -> None:
    found = calibrate_scan(made(defocus_nm, angle_deg, mirrored=mirrored))
    (angle, angle_error), (defocus, error) = value(found, "rotation"), value(found, "defocus")
    assert apart(angle, angle_deg) < 4 * angle_error
    assert angle_error < 1.5
    assert abs(defocus - defocus_nm) < 4 * error + 0.05 * abs(defocus_nm), "a strong object shifts it by a few per cent"
    assert error < 1
    assert found.twin == "brightness"
    assert found.lens.mirrored == mirrored
    assert found["mirrored"].answer == ("differs from the file" if mirrored else "as in the file")
    np.testing.assert_allclose(found.matrix, turn_matrix(np.radians(angle), mirrored))


def test_astigmatism_is_found_with_its_azimuth() -> None:
    found = calibrate_scan(made(5.0, c12=(4e-9, 0.5)))
    size, azimuth = found.optics.aberrations["C12"]
    assert size == pytest.approx(4e-9, abs=0.4e-9)
    assert azimuth == pytest.approx(0.5, abs=0.05)
    assert calibrate_scan(made(5.0))["C12"].why == "none is seen"


@pytest.mark.parametrize(("mirrored", "azimuth_deg"), [(False, 28.6), (True, 61.4)])
def test_the_command_to_type_next_has_the_astigmatism_of_the_frames_as_they_are_read_then(
    mirrored: bool, azimuth_deg: float
) -> None:
    reading = as_read(Reading(), calibrate_scan(made(5.0, c12=(4e-9, 0.5), mirrored=mirrored)))
    assert bool(reading.transpose) == mirrored
    assert reading.aberrations is not None
    size, azimuth = read_aberrations(reading.aberrations)["C12"]
    assert size == pytest.approx(4e-9, abs=0.4e-9)
    assert apart(2 * np.degrees(azimuth), 2 * azimuth_deg) < 6


def test_the_sign_of_the_defocus_in_the_file_decides_between_the_twins() -> None:
    scan = made(20.0, 7.0)
    scan.optics = ElectronOptics(SEMIANGLE_RAD, -18e-9)
    found = calibrate_scan(scan)
    assert found.twin == "defocus"
    assert value(found, "defocus")[0] < 0
    assert apart(value(found, "rotation")[0], 187.0) < 3


def test_a_phase_without_bright_atoms_leaves_the_sign_open() -> None:
    found = calibrate_scan(made(20.0, 7.0, atoms=False))
    assert found.twin == "undecided"
    assert abs(value(found, "rotation")[0]) < 90, "the twin that is turned less"
    assert "half a turn" in found["rotation"].why


@pytest.fixture
def no_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(electrons, "lens_by_trials", lambda *arguments: None)


def test_patterns_in_random_order_tell_nothing(no_trials: None) -> None:
    scan = made(20.0, 7.0, order=np.random.default_rng(1).permutation(RASTER**2))
    found = calibrate_scan(scan)
    assert {found[name].answer for name in ("rotation", "defocus", "C12", "mirrored")} == {"undecided"}
    np.testing.assert_array_equal(found.matrix, np.eye(2))
    assert found.optics == scan.optics
    told: list[str] = []
    first = first_probes(scan, {})
    assert len(calibrated_probes(Part(scan, 0), first, told.append)) == len(first) + 1, "the likeliest is tried"
    assert "do not tell" in told[0]


def test_in_focus_at_a_low_dose_the_curl_alone_turns_the_scan(no_trials: None) -> None:
    scan = made(0.0, -31.0, dose=1e3)
    found = calibrate_scan(scan)
    assert found["defocus"].answer == "undecided"
    assert "curl alone" in found["rotation"].why
    first = first_probes(scan, {})
    turned = calibrated_probes(Part(scan, 0), first, lambda line: None)[-1]
    assert turned.probe is first[0].probe
    assert np.degrees(np.arctan2(turned.matrix[1, 0], turned.matrix[0, 0])) == pytest.approx(-31, abs=9)


def test_curl_finds_any_angle_in_focus() -> None:
    for angle_deg, mirrored in ((80.0, False), (-31.0, True)):
        turn = turn_by_curl(scan_spectra(made(0.0, angle_deg, mirrored=mirrored)))
        error = np.degrees(turn.error_rad)
        assert abs((np.degrees(turn.angle_rad) - angle_deg + 90) % 180 - 90) < 4 * error
        assert error < 3
        assert turn.mirrored == mirrored
        assert turn.significance > 3
        assert turn.curl < 0.2


def test_stated_errors_are_as_large_as_those_of_repetitions() -> None:
    """Poisson noise alone, at a dose where it matters: the scatter of two halves of one scan about each other."""
    scan = made(20.0, 7.0, dose=3e3)
    halves = [scan.select(np.arange(k, len(scan), 2)) for k in (0, 1)]
    fits = [parallax(scan_spectra(half), N) for half in halves]
    difference = abs(fits[0].lens.angle_rad - fits[1].lens.angle_rad)
    assert difference < 4 * np.hypot(fits[0].errors[0], fits[1].errors[0])


def test_images_are_displaced_by_the_gradient_of_the_aberrations() -> None:
    """Of a scan without a turn: overfocus shows what lies along the ray, an object point at x appears at x - C1 alpha."""
    angles = np.array([[0.1, 0.0], [0.0, 0.1]])
    np.testing.assert_allclose(Lens(False, (0.0, 50.0, 0.0, 0.0)).shifts_px(angles), [[-5, 0], [0, -5]])
    quarter = Lens(False, (np.pi / 2, 50.0, 0.0, 0.0)).shifts_px(angles)
    np.testing.assert_allclose(quarter, [[0, 5], [-5, 0]], atol=1e-12)
    lens = Lens(True, (0.4, 50.0, 3.0, -2.0))
    np.testing.assert_allclose(lens.twin.shifts_px(angles), lens.shifts_px(angles))
    np.testing.assert_allclose(lens.twin.matrix, -lens.matrix, atol=1e-12)


def test_the_command_to_type_next_leaves_nothing_to_turn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "frames.npy"
    np.save(file, made(-20.0, -31.0, mirrored=True).patterns.intensity())
    words = [str(file), "--voltage-kV", "300", "--semiangle-mrad", "15", "--raster", "24x24", "--step", "0.6angstrom"]
    assert main(["calibrate", *words, "--output-dir", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "rotation" in text
    assert "+-" in text
    told: dict[str, Any] = json.loads((tmp_path / "out/calibration.json").read_text())
    assert told["next"] in text
    assert told["reading"]["transpose"] is True
    again = calibrate_scan(load_data(file, **told["reading"]))
    for name in ("rotation", "mirrored", "defocus"):
        assert again[name].answer == "as in the file", again[name]
    assert main(["calibrate", *words, "--output-dir", str(tmp_path / "out")]) == 2, "nothing is overwritten"


def test_the_automatic_plan_takes_rotation_and_defocus() -> None:
    scan = made(20.0, 7.0)
    scan.probe = ElectronOptics(SEMIANGLE_RAD).probe(N, PIXEL_M, WAVELENGTH_M)[None].astype(np.complex64)
    plan = plan_reconstruction(scan, budget_s=2.0)
    chosen = plan.choice.assumption
    assert chosen.optics is not None
    assert chosen.optics.defocus_m is not None
    assert chosen.optics.defocus_m == pytest.approx(20e-9, rel=0.2)
    assert np.degrees(np.arctan2(chosen.matrix[1, 0], chosen.matrix[0, 0])) == pytest.approx(7, abs=2)
    assert any("bright-field images" in line for line in plan.lines)
    further = refocused(scan, chosen, 0.5).optics
    assert further is not None
    assert further.defocus_m == pytest.approx(1.5 * chosen.optics.defocus_m)


def test_displaced_back_the_images_of_the_pixels_add_up() -> None:
    """Of a turned, mirrored scan under an astigmatic lens; under any other one the sum is blurred."""
    spectra = scan_spectra(made(20.0, -31.0, mirrored=True, c12=(4e-9, 0.5)))
    unit = WAVELENGTH_M / PIXEL_M**2
    c10, (cos, sin) = -20e-9 * unit, 4e-9 * unit * np.array([np.cos(1.0), np.sin(1.0)])
    angle = np.radians(-31.0)

    def power(lens: Lens) -> float:
        back = np.exp(2j * np.pi * lens.shifts_px(spectra.angles) @ spectra.frequencies.T)
        return float(np.sum(np.abs(np.sum(spectra.images * back, axis=0)) ** 2))

    right = power(Lens(True, (angle, c10, cos, sin)))
    for wrong in (
        Lens(True, (angle, -c10, -cos, -sin)),
        Lens(False, (angle, c10, cos, sin)),
        Lens(True, (-angle, c10, cos, sin)),
        Lens(True, (angle, c10, -cos, -sin)),
    ):
        assert power(wrong) < 0.8 * right, wrong


@pytest.mark.parametrize("lacks", ["electrons", "optics", "pixel_size_m", "energy_eV"])
def test_what_is_missing_is_named(lacks: str) -> None:
    scan = made()
    setattr(scan, lacks, False if lacks == "electrons" else None)
    with pytest.raises(InputError, match="--"):
        calibrate_scan(scan)
    first = first_probes(scan, {})
    assert calibrated_probes(Part(scan, 0), first, lambda line: None) is first


def test_too_few_patterns_and_a_line_are_refused() -> None:
    scan = made()
    with pytest.raises(InputError, match="at least 64"):
        calibrate_scan(scan.select(np.arange(30)))
    line = scan.positions_px.copy()
    line[:, 0] = 0
    with pytest.raises(InputError, match="line"):
        calibrate_scan(scan.at(line))


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_file(), reason=f"needs {SHARED}")
def test_the_measured_scan_of_virus_particles_is_turned_as_its_authors_say() -> None:
    scan = load_data(SHARED, voltage_kV=300, semiangle_mrad=1.03, pixel_size_m=0.93e-9, defocus_nm=13500)
    for turned_deg in (0.0, 30.8):
        stored = scan.at(scan.positions_px @ turn_matrix(np.radians(turned_deg), False).T)
        found = calibrate_scan(stored)
        assert value(found, "rotation")[0] == pytest.approx(-turned_deg, abs=1.0)
        assert found["mirrored"].answer == "as in the file"
        assert value(found, "defocus")[0] == pytest.approx(13500, rel=0.1)
