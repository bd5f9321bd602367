"""Suspected problems of a scan, judged from the numbers alone, each with a remedy. None is proof, and no scan is
refused because of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter
from scipy.spatial import cKDTree

from ptycho_ray.data.marks import dead_pixels as dead_pixels
from ptycho_ray.data.patterns import evenly_spread
from ptycho_ray.data.placing import nearest_distances
from ptycho_ray.data.prepared import FrameSteps
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.physics.optics import linear_overlap, probe_diameter_px

LOOKED_AT = 64
PREPARE = "ptycho-ray prepare"
#: Relative difference of two statements about the object's pixel that agree.
PIXELS_AGREE = 0.02
#: How nearly all intensities have to be whole multiples of the smallest one, relative to that.
WHOLE = 0.02


@dataclass(frozen=True)
class Problem:
    """A suspected problem and its remedy."""

    problem: str
    what_to_do: str


def beam_centre(mean: NDArray[np.float64]) -> tuple[float, float]:
    """Centre of mass (row, column) of a mean pattern above its background, in pixels."""
    weight = np.clip(mean - _background(mean), 0, None)
    total = float(weight.sum())
    if total == 0:
        return mean.shape[0] // 2, mean.shape[1] // 2
    rows, columns = np.indices(mean.shape)
    return float((weight * rows).sum() / total), float((weight * columns).sum() / total)


def _background(mean: NDArray[np.float64]) -> float:
    """The median of a mean pattern, unless that lies inside a disc which fills most of the window: half of the disc then."""
    return float(min(np.median(mean), 0.5 * np.quantile(mean, 0.95)))


def symmetry_centre(mean: NDArray[np.float64]) -> tuple[float, float]:
    """The point (row, column) about which a mean pattern is most nearly its own mirror image, to half a pixel.

    The maximum of the convolution of its amplitude with itself. A beam that is brighter on one side moves the centre of
    mass, but not this.
    """
    amplitude = np.sqrt(np.clip(mean, 0, None))
    amplitude = np.clip(amplitude - _background(amplitude), 0, None)
    if not amplitude.any():
        return mean.shape[0] // 2, mean.shape[1] // 2
    padded = [2 * side for side in mean.shape]
    convolved = np.fft.irfft2(np.fft.rfft2(amplitude, padded) ** 2, padded)
    row, column = np.unravel_index(int(convolved.argmax()), convolved.shape)
    return float(row) / 2, float(column) / 2


def hot_pixels(frames: NDArray, *, factor: float = 20.0, floor: float = 3.0) -> NDArray[np.bool_]:
    """Pixels [H, W] whose mean over frames [n, H, W] is ``factor`` times the median of their neighbourhood and more,
    above a ``floor``, and that hardly change from frame to frame (light that the sample scatters does)."""
    mean, spread = frames.mean(axis=0, dtype=np.float64), frames.std(axis=0, dtype=np.float64)
    around = median_filter(mean, size=5, mode="nearest")
    steady = spread < np.maximum(0.3 * mean, 3 * np.sqrt(mean))
    hot: NDArray[np.bool_] = (mean > factor * np.maximum(around, mean.mean() * 1e-3)) & (mean > floor) & steady
    return hot


def photons_per_unit(scan: RawData) -> float | None:
    """Photons per unit of intensity, if all intensities are whole multiples of one quantum; else None."""
    rows = evenly_spread(len(scan), 16)
    values = scan.patterns.intensity(rows).astype(np.float64).ravel()
    values = np.unique(values[values > 0])
    if not len(values):
        return None
    quantum = float(values[0])
    few = values[values < 200 * quantum] / quantum
    whole = np.abs(few - np.round(few)) < WHOLE
    if len(few) < 5 and scan.counts_are_photons and quantum == 1 and whole.all():
        return 1.0  # a dose of hardly a count a pixel
    if len(few) < 5 or not whole.mean() > 0.99:
        return None
    # The mean ratio to whole numbers is more exact than the smallest value alone.
    quantum *= float(np.sum(few * np.round(few)) / np.sum(np.round(few) ** 2))
    nearest = round(1 / quantum) if quantum < 1 else 1 / round(quantum)
    return float(nearest) if abs(nearest * quantum - 1) < 1e-3 else 1 / quantum


def suspected_problems(scan: RawData, probe_diameter_px: float) -> list[Problem]:
    """All suspected problems of a scan, the most serious first. Up to LOOKED_AT patterns are examined."""
    return [*_of_patterns(scan), *_of_probe(scan), *_of_positions(scan, probe_diameter_px), *_of_geometry(scan)]


def _of_patterns(scan: RawData) -> Iterator[Problem]:
    rows = evenly_spread(len(scan), LOOKED_AT)
    frames = scan.patterns.intensity(rows)
    mean = frames.mean(axis=0, dtype=np.float64)
    N = scan.N
    middle = np.s_[N // 4 : N - N // 4, N // 4 : N - N // 4]
    inside, if_shifted = mean[middle].sum(), np.fft.fftshift(mean)[middle].sum()
    if if_shifted > 3 * inside:
        yield Problem(
            "the zero frequency seems to lie in a corner of the patterns", "apply fftshift to the patterns before use"
        )
    else:
        offset = np.array(symmetry_centre(mean)) - N // 2
        if np.hypot(*offset) > max(2.0, N / 16):
            yield Problem(f"the beam is {offset[0]:+.1f} rows, {offset[1]:+.1f} columns off the centre", PREPARE)
    hot, dead = int(hot_pixels(frames).sum()), int(dead_pixels(frames).sum())
    if scan.bad_pixels is not None:
        dead = int((dead_pixels(frames) & ~scan.bad_pixels).sum())
    if hot:
        yield Problem(f"{hot} pixels look hot: bright, isolated and constant", f"{PREPARE} masks them")
    if dead:
        yield Problem(f"{dead} pixels look dead: zero in all patterns, surrounded by signal", f"{PREPARE} masks them")
    edge = np.concatenate([mean[0], mean[-1], mean[1:-1, 0], mean[1:-1, -1]])
    if edge.mean() > 0.1 * mean.mean() and if_shifted <= 3 * inside:
        yield Problem(
            f"the edge of the patterns holds {edge.mean() / mean.mean():.0%} of their mean intensity",
            f"a background, or a detector too small for the sample; {PREPARE} --background",
        )
    energies = scan.pattern_energies()
    dark = int((energies < 0.1 * np.median(energies)).sum())
    if dark:
        yield Problem(f"{dark} patterns hold less than a tenth of the median intensity", "exclude them")


def _of_probe(scan: RawData) -> Iterator[Problem]:
    ratio = float(np.sum(np.abs(scan.probe.astype(np.complex128)) ** 2) / scan.pattern_energies().mean())
    if not 0.8 <= ratio <= 10:
        yield Problem(
            f"the probe holds {ratio:.3g} of the intensity of a mean pattern, more or less than a sample can "
            "account for",
            "its scale is wrong; training and refinement compensate by scaling the object",
        )
    weight = np.sum(np.abs(scan.probe) ** 2, axis=0).astype(np.float64)
    offset = np.array(beam_centre(weight)) - scan.N // 2
    if np.hypot(*offset) > scan.N / 8:
        yield Problem(f"the probe is {offset[0]:+.1f} rows, {offset[1]:+.1f} columns off the centre of its window", "-")
    turn = turned_against_probe(scan) if scan.far_field is not False else ""
    if turn:
        yield Problem(
            f"the mean pattern matches the diffraction pattern of the probe if that is turned: {turn}",
            "frames and probe have different axes: --transpose of ptycho-ray convert, or a probe of this detector",
        )
    edge = np.concatenate([weight[0], weight[-1], weight[1:-1, 0], weight[1:-1, -1]])
    if edge.max() > 0.05 * weight.max():
        yield Problem(
            "the probe does not fall off towards the edge of its window", "use finer detector pixels or less binning"
        )


def turned_against_probe(scan: RawData) -> str:
    """How the probe's diffraction pattern has to be turned to match the mean pattern, in words; empty if it need not
    be, or if this is undetermined: many probes are symmetric, and an estimated probe does not match the mean pattern
    at all. (The orientation of frames relative to positions is determined by ``ptycho-ray orient``.)
    """
    rows = evenly_spread(len(scan), LOOKED_AT)
    mean = np.sqrt(scan.patterns.intensity(rows).mean(axis=0, dtype=np.float64))
    waves = np.fft.fftshift(np.fft.fft2(scan.probe.astype(np.complex128)), axes=(-2, -1))
    own = np.sqrt(np.sum(np.abs(waves) ** 2, axis=0))
    good = np.ones(own.shape, bool) if scan.bad_pixels is None else ~scan.bad_pixels
    if not (own[good].std() > 0 and mean[good].std() > 0):
        return ""
    likeness = {}
    for transpose, rows_flip, columns_flip in itertools.product((False, True), repeat=3):
        turn = FrameSteps(transpose, rows_flip, columns_flip)
        likeness[turn] = float(np.corrcoef(turn.oriented_probe(own)[good], mean[good])[0, 1])
    best, stored = max(likeness, key=lambda turn: likeness[turn]), likeness[FrameSteps()]
    ranked = sorted(likeness.values())
    clear = ranked[-1] > 0.95 and 1 - ranked[-1] < 0.5 * (1 - ranked[-2]) and ranked[-1] - stored > 0.01
    if not clear or best == FrameSteps():
        return ""
    words = ("rows and columns exchanged", "upside down", "left to right")
    turns = (best.transpose, best.flip_rows, best.flip_columns)
    return ", ".join(word for word, turned in zip(words, turns, strict=True) if turned)


def _of_positions(scan: RawData, diameter: float) -> Iterator[Problem]:
    positions = scan.positions_px
    step, span = float(np.median(nearest_distances(positions))), float(np.ptp(positions, axis=0).max())
    if step > scan.N / 2:
        yield Problem(
            f"neighbouring positions are {step:.3g} px apart in a window of {scan.N}",
            "another unit, a near-field scan, or a wrong pixel size (--coord-scale, --pixel-size-m); a near-field "
            "scan needs its effective pixel size: see ptycho-ray info --pixel-size-m ...",
        )
    elif step < 0.05:
        yield Problem(
            f"neighbouring positions are {step:.2g} px apart, which is implausibly little",
            "another unit, or a wrong pixel size (--coord-scale, --pixel-size-m)",
        )
    elif step > 0.5 * diameter:
        yield Problem(
            f"neighbours are {step:.3g} px apart under a probe of {diameter:.3g} px: little overlap",
            "the linear overlap should be above 60 %; is the pixel size right?",
        )
    if span < 0.25 * diameter:
        yield Problem(f"the whole scan is {span:.3g} px wide, less than the probe", "is the pixel size right?")
    repeated = len(positions) - len(np.unique(positions, axis=0))
    if repeated:
        yield Problem(
            f"{repeated} positions are duplicates", "harmless if measured twice; otherwise the wrong column was read"
        )
    if scan.object_truth is not None:
        low, high = scan.N // 2, np.array(scan.object_truth.shape) - (scan.N - scan.N // 2)
        outside = int(np.any((positions < low - 1) | (positions > high + 1), axis=1).sum())
        if outside:
            yield Problem(
                f"the patches of {outside} positions leave the object of {scan.object_truth.shape}",
                "object and positions are from different scans, or rows and columns are exchanged (ptycho-ray orient)",
            )


def _of_geometry(scan: RawData) -> Iterator[Problem]:
    if scan.far_field is False:
        yield Problem(
            "the detector was in the near field", f"{near_field_command(scan)}; networks support the far field only"
        )
    if scan.far_field is not False and pixels_disagree(scan):
        yield Problem(
            f"the object pixel is {scan.pixel_size_m:.4g} m, but energy, distance and detector say "
            f"{far_field_pixel_m(scan):.4g} m",
            f"a cropped or binned detector, one wrong number, or a near-field scan, for {near_field_command(scan)}",
        )


def far_field_pixel_m(scan: RawData) -> float | None:
    """The object pixel that wavelength, distance and detector mean in the far field; None if one is not known."""
    if not (scan.wavelength_m and scan.detector_distance_m and scan.detector_pixel_m):
        return None
    return scan.wavelength_m * abs(scan.detector_distance_m) / (scan.N * scan.detector_pixel_m)


def pixels_disagree(scan: RawData) -> bool:
    """Whether the object's pixel is not that of the far field: the scan is of the near field, or a number is wrong."""
    far, pixel = far_field_pixel_m(scan), scan.pixel_size_m
    return far is not None and pixel is not None and abs(far / pixel - 1) > PIXELS_AGREE


def near_field_px2(scan: RawData) -> float | None:
    """wavelength * effective distance / object pixel**2, where the scan states all of it.

    A beam from a point source magnifies by M = detector pixel / object pixel, and the effective distance is distance / M.
    """
    far, pixel = far_field_pixel_m(scan), scan.pixel_size_m
    return None if far is None or not pixel else far * scan.N / pixel


def near_field_command(scan: RawData) -> str:
    """The command that solves a near-field scan, with wavelength * effective distance / pixel**2 where the scan states it."""
    near = near_field_px2(scan)
    value = "..." if near is None else f"{near:.4g}"
    return f"ptycho-ray convert and refine --from flat, both with --near-field-px2 {value}"


def describe_scan(scan: RawData) -> dict[str, Any]:
    """The facts about a scan that decide how it is reconstructed."""
    positions = scan.positions_px
    nearest = cKDTree(positions).query(positions, k=2)[0][:, 1]
    energies = scan.pattern_energies()
    diameter = probe_diameter_px(scan.probe)
    return {
        "patterns": len(scan),
        "N": scan.N,
        "stored_as": scan.patterns.domain,
        "counts_are_photons": scan.counts_are_photons,
        "mean_intensity_of_a_pattern": float(energies.mean()),
        "probe_modes": len(scan.probe),
        "probe_diameter_px": round(diameter, 1),
        "scanned_field_px": [round(float(side), 1) for side in np.ptp(positions, axis=0)],
        "nearest_position_px": round(float(np.median(nearest)), 2),
        "linear_overlap_of_neighbours": round(linear_overlap(positions, diameter), 3),
        "pixel_size_m": scan.pixel_size_m,
        "energy_eV": scan.energy_eV,
        "electrons": scan.electrons,
        "bad_detector_pixels": 0 if scan.bad_pixels is None else int(scan.bad_pixels.sum()),
        "truth": None if scan.object_truth is None else list(scan.object_truth.shape),
    }
