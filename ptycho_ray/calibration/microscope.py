"""What the patterns say about the microscope, beside what the file says: each value with its error, or why it is undecided."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.calibration.deflection import Turn, turn_by_curl, turn_matrix
from ptycho_ray.calibration.parallax import DECIDES, DECIDES_LENS, Lens, Parallax, brightness, parallax
from ptycho_ray.calibration.scan_spectra import ScanSpectra, scan_spectra
from ptycho_ray.data.loading import with_mean_photons
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.errors import InputError
from ptycho_ray.physics.electron_optics import ElectronOptics

#: A turn of this many degrees and less, and a defocus that differs by this share and less, are those of the file.
SAME_TURN_DEG, SAME_DEFOCUS, SAME_DISC = 1.0, 0.1, 0.03
#: The largest error of an angle, in degrees, that still is an answer.
LARGEST_ERROR_DEG = 10.0
Answer = Literal["as in the file", "differs from the file", "not in the file", "undecided"]


@dataclass(frozen=True)
class Finding:
    """One value: what was found with its standard error, what the file says, and the answer; ``why`` has the figures."""

    name: str
    found: float | None
    error: float | None
    unit: str
    in_file: float | None
    answer: Answer
    why: str


@dataclass(frozen=True)
class Calibration:
    """The microscope as the patterns show it.

    Attributes:
        turn: by the curl of the deflections.
        parallax: by the images of the bright-field pixels.
        lens: of the two twins that explain the patterns alike the one that was chosen.
        twin: by what it was chosen: the sign of the defocus in the file, the bright atoms of its phase, or nothing but that the
            scan is turned less.
        matrix: how the positions are to be turned and mirrored, as columns (row, column), [2, 2]; the identity if undecided.
        optics: those of the file with what was decided.
        findings: one for each value, in the order of a report.
    """

    turn: Turn
    parallax: Parallax
    lens: Lens
    twin: Literal["defocus", "brightness", "undecided"]
    matrix: NDArray[np.float64]
    optics: ElectronOptics
    findings: tuple[Finding, ...]

    def __getitem__(self, name: str) -> Finding:
        return next(finding for finding in self.findings if finding.name == name)

    def probe(self, scan: RawData) -> NDArray[np.complex64]:
        """The probe [1, N, N] of :attr:`optics` with the mean photons of the scan."""
        pixel, wavelength = _geometry(scan)
        return with_mean_photons(self.optics.probe(scan.N, pixel, wavelength), scan.patterns)


def calibrate_scan(scan: RawData) -> Calibration:
    """Turn and handedness of the scan, defocus, astigmatism and the size of the disc, from the patterns of electrons.

    Raises:
        InputError: a scan of photons, without semi-angle, or without pixel size and energy; and those of ``scan_spectra``.
    """
    pixel, wavelength = _geometry(scan)
    optics = scan.optics
    assert optics is not None
    spectra = scan_spectra(scan)
    fit = parallax(spectra, scan.N)
    turn = turn_by_curl(spectra, fit.lens.mirrored if fit.decided else None)
    metres = pixel**2 / wavelength
    error_m = float(fit.errors[1]) * metres
    lens, twin, sign = _twin(spectra, fit, optics.defocus_m, error_m / metres, metres)
    by_curl = not fit.decided and _curl_decides(turn)
    mirrored, angle, angle_error = lens.mirrored, lens.angle_rad, float(fit.errors[0])
    if by_curl:
        mirrored, angle, angle_error = turn.mirrored, turn.angle_rad, turn.error_rad
    turned = fit.decided or by_curl
    cos, sin, c12_error = lens.numbers[2], lens.numbers[3], float(np.hypot(*fit.errors[2:]) / np.sqrt(2))
    aberrations = dict(optics.aberrations)
    if fit.decided:
        aberrations.pop("C12", None)
        if np.hypot(cos, sin) > DECIDES * c12_error:
            aberrations["C12"] = (float(np.hypot(cos, sin)) * metres, float(np.arctan2(sin, cos)) / 2)
        optics = replace(optics, defocus_m=-lens.c10_px2 * metres, aberrations=aberrations)
    assert scan.optics is not None
    findings = (
        _rotation(fit, turn, angle, angle_error, turned, by_curl, twin),
        _handedness(fit, turn, mirrored, by_curl),
        _defocus(fit, -lens.c10_px2 * metres, error_m, scan.optics.defocus_m, sign),
        _astigmatism(fit, lens, c12_error, metres, scan.optics),
        _disc(spectra, scan, wavelength),
        _step(spectra, pixel),
    )
    matrix = turn_matrix(angle, mirrored) if turned else np.eye(2)
    return Calibration(turn, fit, lens, twin, matrix, optics, findings)


def _geometry(scan: RawData) -> tuple[float, float]:
    """Object pixel and wavelength in metres; InputError where they or the semi-angle are not known."""
    if not scan.electrons or scan.optics is None:
        raise InputError(
            file=scan.source or None,
            field="semiangle_mrad",
            found="not known" if scan.electrons else "a scan of photons",
            expected="electrons with their voltage and semi-angle",
            hint="--voltage-kV 300 --semiangle-mrad 21.4",
        )
    if not scan.pixel_size_m or not scan.wavelength_m:
        missing = "voltage_kV" if not scan.wavelength_m else "pixel_size_m"
        raise InputError(
            file=scan.source or None,
            field=missing,
            found="not known",
            expected="the voltage, and the size of an object pixel",
            hint="--voltage-kV 300" if missing == "voltage_kV" else "--pixel-size-m METRES",
        )
    return scan.pixel_size_m, scan.wavelength_m


def _curl_decides(turn: Turn) -> bool:
    return turn.significance > DECIDES and np.degrees(turn.error_rad) < LARGEST_ERROR_DEG


def _twin(
    spectra: ScanSpectra, fit: Parallax, defocus_m: float | None, error_px2: float, metres: float
) -> tuple[Lens, Literal["defocus", "brightness", "undecided"], str]:
    """Which of the twins, by what, and in words."""
    lens = fit.lens
    if not fit.decided:
        return lens, "undecided", ""
    if defocus_m and abs(lens.c10_px2) > DECIDES * error_px2 and abs(defocus_m / metres) > DECIDES * error_px2:
        same = (defocus_m > 0) == (lens.c10_px2 < 0)
        return lens if same else lens.twin, "defocus", "its sign is that of the file"
    skewness, error = brightness(spectra, lens)
    told = f"skewness of the phase {abs(skewness):.2f} +- {error:.2f}"
    if abs(skewness) > DECIDES * error:
        return lens if skewness > 0 else lens.twin, "brightness", f"its sign by bright atoms, {told}"
    return lens, "undecided", f"its sign is not told ({told}): the other one is a scan turned by half a turn more"


def _rotation(fit: Parallax, turn: Turn, angle: float, error: float, turned: bool, by_curl: bool, twin: str) -> Finding:
    degrees, deviation = float(np.degrees(angle)), float(np.degrees(error))
    curl = f"curl of the deflections: {np.degrees(turn.angle_rad):.1f} +- {np.degrees(turn.error_rad):.1f} up to half a turn"
    figures = f"any other turn or defocus explains less by {fit.significance:.1f} standard errors; {curl}"
    if not turned:
        return Finding("rotation", None, None, "deg", 0.0, "undecided", figures)
    if by_curl:
        figures = "by the curl alone, up to half a turn; the bright-field images do not decide: see defocus"
    elif twin == "undecided":
        figures = f"or half a turn more with the other sign of defocus; {figures}"
    same = abs(degrees) < max(SAME_TURN_DEG, DECIDES * deviation)
    return Finding(
        "rotation", degrees, deviation, "deg", 0.0, "as in the file" if same else "differs from the file", figures
    )


def _handedness(fit: Parallax, turn: Turn, mirrored: bool, by_curl: bool) -> Finding:
    significance = turn.significance if by_curl else fit.mirror_significance
    figures = f"the other handedness explains less by {significance:.1f} standard errors"
    answer: Answer = "differs from the file" if mirrored else "as in the file"
    if significance <= DECIDES:
        answer, figures = "undecided", f"{figures}; that of the file is taken"
    return Finding("mirrored", float(mirrored), None, "", 0.0, answer, figures)


def _defocus(fit: Parallax, defocus_m: float, error_m: float, in_file_m: float | None, sign: str) -> Finding:
    in_file = None if in_file_m is None else in_file_m * 1e9
    if not fit.decided:
        why = f"another turn or defocus explains less by {fit.significance:.1f} standard errors ({DECIDES_LENS:g} decide), "
        why += f"the other handedness by {fit.mirror_significance:.1f} ({DECIDES:g})"
        return Finding("defocus", None, None, "nm", in_file, "undecided", why)
    answer: Answer = "not in the file"
    if in_file_m is not None:
        same = abs(defocus_m - in_file_m) < max(DECIDES * error_m, SAME_DEFOCUS * abs(in_file_m))
        answer = "as in the file" if same else "differs from the file"
    return Finding("defocus", defocus_m * 1e9, error_m * 1e9, "nm", in_file, answer, sign)


def _astigmatism(fit: Parallax, lens: Lens, error_px2: float, metres: float, optics: ElectronOptics) -> Finding:
    known = optics.aberrations.get("C12")
    in_file = None if known is None else known[0] * 1e9
    if not fit.decided:
        return Finding("C12", None, None, "nm", in_file, "undecided", "see defocus")
    size, error = float(np.hypot(*lens.numbers[2:])) * metres * 1e9, error_px2 * metres * 1e9
    azimuth = float(np.degrees(np.arctan2(lens.numbers[3], lens.numbers[2]))) / 2
    shown = size > DECIDES * error
    differs = abs(size - (in_file or 0.0)) > DECIDES * error
    answer: Answer = "differs from the file" if differs else "as in the file"
    return Finding("C12", size, error, "nm", in_file, answer, f"azimuth {azimuth:.0f} deg" if shown else "none is seen")


def _step(spectra: ScanSpectra, pixel_m: float) -> Finding:
    """The step of the scan, which stretches the images of all pixels alike: they do not tell it."""
    step = spectra.step_px * pixel_m * 1e10
    why = "the images tell the defocus for this step, and not the step; --trials solves for it"
    return Finding("step", None, None, "angstrom", step, "undecided", why)


def _disc(spectra: ScanSpectra, scan: RawData, wavelength_m: float) -> Finding:
    """The size of an object pixel by the radius of the disc, which is known to half a detector pixel."""
    assert scan.optics is not None
    assert scan.pixel_size_m is not None
    radius = spectra.disc.radius_px
    pixel = wavelength_m * radius / (scan.N * scan.optics.semiangle_rad) * 1e10
    error, in_file = pixel * 0.5 / radius, scan.pixel_size_m * 1e10
    same = abs(pixel - in_file) < max(2 * error, SAME_DISC * in_file)
    row, column = spectra.disc.centre_px
    why = f"disc of {radius:.2f} px radius about row {row:.1f}, column {column:.1f}"
    if radius > 0.45 * scan.N:
        return Finding("pixel", pixel, None, "angstrom", in_file, "undecided", f"{why}: the detector cuts it off")
    return Finding(
        "pixel", pixel, error, "angstrom", in_file, "as in the file" if same else "differs from the file", why
    )
