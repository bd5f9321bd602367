"""What forms the beam of an electron microscope: from what the user says, the file, a pattern without a sample, and the
bright-field disc; and the probe that follows from it.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.config.reading import Reading
from ptycho_ray.data.bright_field import Disc, bright_field_disc, mean_pattern
from ptycho_ray.data.choices import array_in, is_in
from ptycho_ray.data.contents import FileContents, to_type
from ptycho_ray.data.formats import read_fields
from ptycho_ray.data.masks import filled
from ptycho_ray.data.mended import invalid_in
from ptycho_ray.data.opening import opened
from ptycho_ray.data.patterns import ArrayFrames
from ptycho_ray.data.placing import nearest_distances
from ptycho_ray.data.plausible import PHOTONS_UP_TO_EV, detector_angle
from ptycho_ray.data.prepared import FrameSteps, WindowedFrames
from ptycho_ray.data.screening import as_frames
from ptycho_ray.errors import ConfigurationError, InputError
from ptycho_ray.files import require_file
from ptycho_ray.physics.aberrations import read_aberrations
from ptycho_ray.physics.electron_optics import ElectronOptics

#: A semi-angle and a disc that differ by more than the first part contradict each other; by more than the second, it is said.
ANGLES_DISAGREE, ANGLES_DIFFER = 0.15, 0.05
LARGEST_KV, SMALLEST_MRAD, SMALLEST_NM, LARGEST_NM = 5000.0, 0.05, 1e-3, 1e6
#: The options that only a beam of electrons has.
ELECTRON_OPTIONS = (
    "voltage_kV", "semiangle_mrad", "defocus_nm", "aberrations", "vacuum", "source_size_angstrom", "defocus_spread_nm",
)  # fmt: skip
#: Those by which the semi-angle is the user's own.
OF_THE_USER = {"--semiangle-mrad", "--vacuum"}
#: Those that say what the probe looks like, so that it takes the place of one in the file.
OF_THE_PROBE = ("defocus_nm", "aberrations", "vacuum", "source_size_angstrom", "defocus_spread_nm")


def take_optics(fields: FileContents, reading: Reading, path: Path, max_bytes: int) -> None:
    """What the user says about the electrons, in place of what the file says.

    InputError for values in another unit, for a file whose beam consists of photons, for a semi-angle without a voltage, and
    for a defocus or aberrations without a semi-angle.
    """
    given = [name for name in ELECTRON_OPTIONS if getattr(reading, name) is not None]
    if not given:
        return
    _check_units(reading, path)
    energy = fields.energy_eV if reading.energy_eV is None else None  # of the file
    of_photons = fields.electrons is None and energy is not None and energy <= PHOTONS_UP_TO_EV
    if reading.beam == "photons" or (reading.beam == "auto" and (fields.electrons is False or of_photons)):
        stated = "" if energy is None else f" of {energy / 1e3:.4g} keV"
        raise InputError(
            file=path,
            field=given[0],
            found=f"an option of electrons, for a beam of photons{stated}",
            expected="a scan with electrons",
            hint=f"If the file is wrong: {_typed(path, replace(reading, beam='auto'), '--beam electrons')}",
        )
    fields.electrons = True
    if reading.voltage_kV is not None:
        fields.energy_eV = reading.voltage_kV * 1e3
    optics = fields.optics
    if reading.semiangle_mrad is not None:
        semiangle = reading.semiangle_mrad * 1e-3
        optics = replace(optics, semiangle_rad=semiangle) if optics is not None else ElectronOptics(semiangle)
    if reading.vacuum is not None:
        fields.vacuum = vacuum_in(reading, path, max_bytes)
    if not fields.energy_eV:
        raise InputError(
            file=path,
            field="voltage_kV",
            found=f"none, with --{given[0].replace('_', '-')} {getattr(reading, given[0])}",
            expected="the accelerating voltage",
            hint=_typed(path, reading, "--voltage-kV 300"),
        )
    if any(getattr(reading, name) is not None for name in OF_THE_PROBE):
        if optics is None:
            optics = optics_of_disc(fields)
        if optics is None:
            raise InputError(
                file=path,
                field="semiangle_mrad",
                found="none, and a detector whose angles are not known",
                expected="the convergence semi-angle",
                hint=_typed(path, reading, "--semiangle-mrad 20"),
            )
        optics = _with_wave(optics, reading)
        if fields.probe is not None and reading.probe is None:
            fields.probe = None
            fields.note(f"{path}: the probe of the file gives way to that of the optics that are given")
    fields.optics = optics


def refuse_photons(fields: FileContents, reading: Reading, path: Path) -> None:
    """InputError for an energy of photons, by all appearance, that the user gives of a file of electrons."""
    energy = reading.energy_eV
    if reading.beam == "auto" and fields.electrons and energy is not None and energy <= PHOTONS_UP_TO_EV:
        raise InputError(
            file=path,
            field="energy_eV",
            found=f"{energy / 1e3:.4g} keV, for a beam of electrons",
            expected="their voltage",
            hint=f"{_typed(path, reading.with_changes({'energy_eV': None}), '--voltage-kV 300')}, for example. "
            f"If the file is wrong: {_typed(path, reading, '--beam photons')}",
        )


def vacuum_in(reading: Reading, path: Path, max_bytes: int) -> NDArray[np.float64]:
    """The mean [H, W] of what ``reading.vacuum`` names: an array of the scan's own file, or a file of any format with frames or
    with one array. InputError for a name that is neither, and for an array without rows and columns."""
    given = str(reading.vacuum)
    if is_in(path, given, max_bytes):
        with opened(path, max_bytes) as content:
            return _mean_of(content.read(given), path)
    if reading.keys_only:
        raise InputError(field="vacuum", found=repr(given), expected="a dataset of the file that was sent")
    file = require_file(given, "vacuum")
    try:
        frames = read_fields(file, max_bytes).frames
    except InputError:
        frames = None
    if frames is None:
        return _mean_of(array_in(file, max_bytes, "vacuum"), file)
    return mean_pattern(ArrayFrames(frames) if isinstance(frames, np.ndarray) else frames)[0]


def _mean_of(values: NDArray, path: Path) -> NDArray[np.float64]:
    values = np.asarray(values)
    if values.ndim < 2 or values.dtype.kind not in "biuf":
        raise InputError(
            file=path, field="vacuum", found=f"{values.dtype} {values.shape}", expected="one pattern, or several"
        )
    frames = values.reshape(-1, *values.shape[-2:])
    return np.where(invalid_in(frames), 0, frames).mean(axis=0, dtype=np.float64)


def _typed(path: Path, reading: Reading, *more: str) -> str:
    return to_type(path, *map(shlex.quote, reading.words()), *more)


def _again(fields: FileContents, path: Path, option: str, value: str) -> str:
    """The command that reads the file as before, but for one option."""
    words = list(fields.asked)
    if option in words:
        place = words.index(option)
        del words[place : place + 2]
    return to_type(path, *words, option, value)


def _check_units(reading: Reading, path: Path) -> None:
    """InputError for numbers that are in another unit by all appearance, with the number in the right one."""
    voltage, semiangle, defocus = reading.voltage_kV, reading.semiangle_mrad, reading.defocus_nm
    wrong: tuple[str, str, str, float] | None = None
    if voltage is not None and not 0 < voltage <= LARGEST_KV:
        wrong = ("voltage_kV", f"{voltage:g} kV", "the voltage in kV, 30 to 300 for example", abs(voltage) / 1e3)
    elif semiangle is not None and not SMALLEST_MRAD <= semiangle < 785:
        right = semiangle * 1e3 if 0 < semiangle < SMALLEST_MRAD else 20.0
        wrong = ("semiangle_mrad", f"{semiangle:g} mrad", "the semi-angle in mrad, 1 to 100 for example", right)
    elif defocus is not None and defocus != 0 and not SMALLEST_NM <= abs(defocus) <= LARGEST_NM:
        right = defocus * 1e9 if abs(defocus) < SMALLEST_NM else 20.0
        wrong = ("defocus_nm", f"{defocus:g} nm", "the defocus in nm, -500 to 500 for example", right)
    elif (size := reading.source_size_angstrom) is not None and not 0 <= size <= 1e4:
        wrong = ("source_size_angstrom", f"{size:g} angstrom", "the size of the source at the sample, in angstrom", 0.8)
    elif (spread := reading.defocus_spread_nm) is not None and not 0 <= spread <= 1e4:
        wrong = ("defocus_spread_nm", f"{spread:g} nm", "the standard deviation of the defocus, in nm", 5.0)
    if wrong is not None:
        name, found, expected, right = wrong
        others = reading.with_changes({name: None})
        words = f"--{name.replace('_', '-')} {right:g}"
        raise InputError(file=path, field=name, found=found, expected=expected, hint=_typed(path, others, words))


def _with_wave(optics: ElectronOptics, reading: Reading) -> ElectronOptics:
    """The optics with the defocus, aberrations and partial coherence that the user gives."""
    if reading.aberrations is not None:
        found = read_aberrations(reading.aberrations)
        if "C10" in found and reading.defocus_nm is not None:
            raise ConfigurationError(
                field="aberrations",
                found=f"C10 = {found['C10'][0] * 1e9:.4g} nm, and --defocus-nm {reading.defocus_nm:g}",
                expected="one of them: the defocus is -C10",
            )
        optics = optics.with_aberrations(found)
    if reading.defocus_nm is not None:
        optics = replace(optics, defocus_m=reading.defocus_nm * 1e-9)
    if reading.source_size_angstrom is not None:
        optics = replace(optics, source_size_m=reading.source_size_angstrom * 1e-10)
    if reading.defocus_spread_nm is not None:
        optics = replace(optics, defocus_spread_m=reading.defocus_spread_nm * 1e-9)
    return optics


def disc_of(fields: FileContents) -> Disc | None:
    """The bright-field disc of the pattern without a sample, or else of the mean pattern, on the frames as they are."""
    if fields.frames is None or fields.frames.shape[0] == 0:
        return None
    if fields.vacuum is not None:
        return bright_field_disc(fields.vacuum, None if fields.bad_pixels is None else fields.bad_pixels != 0)
    shape = fields.frames.shape[1:]
    bad = None if fields.bad_pixels is None else np.asarray(fields.bad_pixels) != 0
    source = as_frames(fields.frames, Path(), fields.frames_field)
    bad = bad if bad is None or bad.shape == shape else None
    return bright_field_disc(*mean_pattern(source, bad, amplitude=fields.domain == "amplitude"))


def optics_of_disc(fields: FileContents, disc: Disc | None = None) -> ElectronOptics | None:
    """The semi-angle that the disc has by the detector's angles that are stated; None where they are not known."""
    angle = _stated_angle(fields)
    if angle is None:
        return None
    disc = disc or disc_of(fields)
    return None if disc is None else ElectronOptics(angle * disc.radius_px)


def _stated_angle(fields: FileContents) -> float | None:
    """The angle of a detector pixel that is stated, be it as an object pixel; the user's object pixel stands above all."""
    angle = None if fields.pixel_size_given else detector_angle(fields)
    if angle is None and fields.pixel_size_m and fields.wavelength_m and fields.frames is not None:
        _, height, width = fields.frames.shape
        return fields.wavelength_m / (height * fields.pixel_size_m) if height == width else None
    return angle


def settle_electrons(fields: FileContents, path: Path, *, transpose: bool = False) -> None:
    """Bring the disc of a microscope's frames to the middle of an even square, and complete what disc, semi-angle and the
    detector's angles say about each other. A file that brings its probe along keeps its frames. ``transpose`` says that the
    frames will be transposed.

    InputError for a semi-angle of the user's and a disc that contradict the detector's angles, and for a pattern without a
    sample of another shape than the frames.
    """
    if not fields.electrons or fields.frames is None or fields.far_field is False or fields.frames.shape[0] == 0:
        return
    shape = fields.frames.shape[1:]
    if fields.vacuum is not None and fields.vacuum.shape != shape:
        raise InputError(
            file=path, field="vacuum", found=f"shape {fields.vacuum.shape}", expected=f"{tuple(shape)}, as the frames"
        )
    known = fields.probe is not None and shape[0] == shape[1]
    angle = _stated_angle(fields)
    edge = 0.0 if angle is None else angle * even_side(fields) / 2
    if fields.optics is not None and 0 < edge < fields.optics.semiangle_rad and not set(fields.asked) & OF_THE_USER:
        fields.note(
            f"{path}: the semi-angle of {fields.optics.semiangle_rad * 1e3:.4g} mrad in the file does not fit on its detector, "
            f"which ends at {edge * 1e3:.4g} mrad, and is not used (--semiangle-mrad)"
        )
        fields.optics = None
    if known and (angle is not None or fields.optics is None):
        return
    disc = disc_of(fields)
    if disc is None:
        if fields.vacuum is not None:
            raise InputError(file=path, field="vacuum", found="no bright disc", expected="the beam without a sample")
        if shape[0] != shape[1]:
            raise InputError(
                file=path,
                field=fields.frames_field,
                found=f"patterns of {shape[0]} x {shape[1]} pixels, and no bright-field disc to crop them about",
                expected="square patterns",
                hint=to_type(path, "scan.h5", *fields.asked, program="prepare"),
            )
        if fields.optics is not None and angle is None:
            fields.note(
                f"{path}: no bright-field disc was found in the mean pattern, by which the semi-angle would tell the angle of "
                "a detector pixel (--vacuum FILE, or --detector-distance-m and --detector-pixel-m)"
            )
        return
    _settle_angle(fields, disc, angle, path)
    if not known:
        _bring_to_middle(fields, disc, path, transpose)


def _settle_angle(fields: FileContents, disc: Disc, angle: float | None, path: Path) -> None:
    margin = max(0.1, disc.radius_error_px)
    size = f"{disc.radius_px:.2f} +- {margin:.2g} px radius"
    if fields.optics is None:
        if angle is not None and fields.wavelength_m:
            fields.optics = ElectronOptics(angle * disc.radius_px)
            fields.note(
                f"{path}: the semi-angle is taken for {fields.optics.semiangle_rad * 1e3:.4g} mrad, by a bright-field disc of "
                f"{size} and {angle * 1e3:.4g} mrad a detector pixel"
            )
        return
    semiangle = fields.optics.semiangle_rad
    if angle is None:
        fields.angle_per_pixel = semiangle / disc.radius_px
        fields.note(
            f"{path}: a detector pixel is taken for {fields.angle_per_pixel * 1e3:.4g} mrad, by a bright-field disc of {size} "
            f"at {semiangle * 1e3:.4g} mrad"
        )
        return
    expected = semiangle / angle
    apart = abs(disc.radius_px / expected - 1)
    if apart <= ANGLES_DIFFER:
        return
    said = (
        f"a semi-angle of {semiangle * 1e3:.4g} mrad, {expected:.4g} px at {angle * 1e3:.4g} mrad a detector pixel, but a "
        f"bright-field disc of {size}"
    )
    asked = "--semiangle-mrad" in fields.asked and not fields.pixel_size_given
    if apart <= ANGLES_DISAGREE + margin / expected or not asked or not fields.wavelength_m:
        fields.note(f"{path}: semiangle_mrad: {said}")
        return
    side = even_side(fields)
    by_disc = fields.wavelength_m * disc.radius_px / (side * semiangle)
    raise InputError(
        file=path,
        field="semiangle_mrad",
        found=said,
        expected="angles that agree within 15 %",
        hint="The detector's angles (camera length, pixel) are right? "
        + _again(fields, path, "--semiangle-mrad", f"{angle * disc.radius_px * 1e3:.4g}")
        + f" The semi-angle is? {_again(fields, path, '--pixel-size-m', f'{by_disc:.4g}')}",
    )


def even_side(fields: FileContents) -> int:
    """Side of the largest even square within the frames."""
    assert fields.frames is not None
    return min(fields.frames.shape[1:]) // 2 * 2


def _bring_to_middle(fields: FileContents, disc: Disc, path: Path, transpose: bool) -> None:
    """The disc on pixel N // 2 of an even square, by whole pixels; what lies outside the detector is masked."""
    assert fields.frames is not None
    _, height, width = fields.frames.shape
    side = even_side(fields)
    shift = [side // 2 - round(place) for place in disc.centre_px]
    steps = FrameSteps(centre=disc.centre_px, side=side)
    if (height, width) != (side, side) or any(shift):
        fields.frames = WindowedFrames(as_frames(fields.frames, path, fields.frames_field), steps)
        bad = np.zeros((height, width), bool) if fields.bad_pixels is None else np.asarray(fields.bad_pixels) != 0
        bad = steps.window(bad, outside=True)
        fields.bad_pixels = bad if bad.any() else None
        if height == width and fields.pixel_size_m is not None and not fields.pixel_size_given:
            fields.pixel_size_m *= height / side
        if fields.positions is not None and not fields.positions_in_metres:
            fields.positions = fields.positions + (side // 2 - width // 2)
            fields.nominal = None if fields.nominal is None else fields.nominal + (side // 2 - width // 2)
        row, column = disc.centre_px
        whole = (height, width) == (side, side)
        cut = "" if whole else f"a square of {side} x {side} pixels was cut out of {height} x {width}, "
        fields.note(
            f"{path}: {cut}the bright-field disc, centred on row {row:.1f}, column {column:.1f}, was moved to the middle"
            + (f"; {int(bad.sum())} pixels outside the detector or bad are masked" if bad.any() else "")
        )
    if fields.vacuum is not None and fields.optics is not None:
        vacuum = steps.window(fields.vacuum)
        if fields.bad_pixels is not None:  # a hole in the aperture would be in the probe
            vacuum = filled(np.sqrt(np.clip(vacuum, 0, None)), np.asarray(fields.bad_pixels)) ** 2
        aperture = transmission_of(vacuum, disc)
        fields.optics = replace(fields.optics, transmission=aperture.T if transpose else aperture)


def transmission_of(vacuum: NDArray[np.float64], disc: Disc) -> NDArray[np.float64]:
    """The aperture's transmission [N, N], 1 on average, from the pattern without a sample centred on N // 2: what lies outside
    the disc and its edge is scattered light or noise."""
    N = len(vacuum)
    rows, columns = np.indices(vacuum.shape)
    away = np.hypot(rows - N // 2, columns - N // 2)
    reach = disc.radius_px + max(1.5, 3 * disc.edge_px)
    outside = away > reach
    level = float(np.median(vacuum[outside])) if outside.any() else 0.0
    light = np.where(outside, 0.0, np.clip(vacuum - level, 0, None))
    inside = light[away < 0.9 * disc.radius_px]
    return light / max(float(inside.mean()), 1e-300) if inside.size else light


def check_step(fields: FileContents, positions_px: NDArray[np.float64], path: Path) -> None:
    """InputError for a scan whose neighbours lie further apart than the probe is wide at a defocus that is stated."""
    optics, wavelength, pixel = fields.optics, fields.wavelength_m, fields.pixel_size_m
    if optics is None or optics.defocus_m is None or not wavelength or not pixel or len(positions_px) < 2:
        return
    if not np.isfinite(positions_px).all():
        return
    step, wide = float(np.median(nearest_distances(positions_px))) * pixel, optics.diameter_m(wavelength)
    if step > wide:
        raise InputError(
            file=path,
            field="step",
            found=f"neighbours {step * 1e10:.4g} angstrom apart under a probe {wide * 1e10:.4g} angstrom wide at a defocus of "
            f"{optics.defocus_m * 1e9:.4g} nm and {optics.semiangle_rad * 1e3:.4g} mrad",
            expected="positions that overlap",
            hint="Another step (--step), defocus (--defocus-nm) or semi-angle (--semiangle-mrad). "
            + _again(fields, path, "--step", f"{wide * 0.3 * 1e10:.2g}angstrom"),
        )
