"""What can be told of a scan before anything is solved, and what is mended: units of the counts, broken frames and pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.inspection import dead_pixels, hot_pixels, photons_per_unit
from ptycho_ray.data.patterns import evenly_spread
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.physics.optics import linear_overlap, probe_diameter_px

#: Patterns that are looked at for the unit of the counts and for broken pixels.
LOOKED_AT = 64
#: Frames with less than this share of the median intensity, or more than so many times it, are left out.
DARKEST, BRIGHTEST = 0.05, 20.0
#: A position this many times the spread of the middle half away from the median is left out.
FARTHEST = 12.0

#: Makes a scan remember the intensity of each pattern: what alone of an examination reads the whole of it.
ReadWhole = Callable[[RawData], object]


@dataclass(frozen=True)
class Examined:
    """A scan that can be solved, and what was found.

    Attributes:
        scan: without the frames that are left out, and with the bad pixels that were found.
        photons_per_unit: photons per unit of intensity; None if the intensities are not whole multiples of a quantum.
        left_out: numbers in the file of the frames that are left out.
        lines: what was found and mended, a sentence each.
    """

    scan: RawData
    photons_per_unit: float | None
    left_out: NDArray[np.int64]
    lines: list[str]


def examine(scan: RawData, read_whole: ReadWhole = RawData.pattern_energies) -> Examined:
    """Look at a scan, leave out what is broken, and mask pixels that are."""
    lines = []
    bad = broken_pixels(scan)
    if bad.any():
        scan = with_bad_pixels(scan, bad)
        lines.append(f"{int(bad.sum())} detector pixels are dead or hot, and count nowhere")
    read_whole(scan)
    rows = broken_frames(scan)
    out = scan.patterns.source.labels[rows]
    if len(out):
        shown = ", ".join(str(number) for number in out[:5]) + (", ..." if len(out) > 5 else "")
        lines.append(
            f"{len(out)} of {len(scan)} frames are left out (dark, too bright, or far outside the scan): {shown}"
        )
        scan = scan.select(np.setdiff1d(np.arange(len(scan)), rows))
    photons = photons_per_unit(scan)
    mean = float(scan.pattern_energies().mean())
    if photons is None:
        lines.append(f"counts are not whole {scan.quantum}s: how much of the misfit is noise is not known")
    else:
        lines.append(
            f"{mean * photons:.3g} {scan.quantum}s a pattern"
            + ("" if photons == 1 else f", {1 / photons:g} counts each")
        )
    overlap = linear_overlap(scan.positions_px, probe_diameter_px(scan.probe))
    lines.append(
        f"{len(scan)} patterns of {scan.N} x {scan.N}; "
        + (
            "no probe in the file"
            if scan.probe_is_guess
            else f"neighbours overlap by {overlap:.0%} of the probe's diameter"
        )
    )
    return Examined(scan, photons, out, lines)


def broken_pixels(scan: RawData) -> NDArray[np.bool_]:
    """Pixels that look dead or hot and that the file does not mask, bool [N, N]."""
    frames = scan.patterns.intensity(evenly_spread(len(scan), LOOKED_AT))
    bad: NDArray[np.bool_] = dead_pixels(frames) | hot_pixels(frames)
    return bad if scan.bad_pixels is None else bad & ~scan.bad_pixels


def broken_frames(scan: RawData) -> NDArray[np.int64]:
    """Numbers of the frames that are dark, far too bright, or lie far outside the scan."""
    energies = scan.pattern_energies()
    typical = float(np.median(energies))
    out = (energies < DARKEST * typical) | (energies > BRIGHTEST * typical)
    low, middle, high = np.percentile(scan.positions_px, (25, 50, 75), axis=0)
    spread = np.maximum(high - low, 1.0)
    out |= (np.abs(scan.positions_px - middle) > FARTHEST * spread).any(axis=1)
    return np.flatnonzero(out)


def with_bad_pixels(scan: RawData, bad: NDArray[np.bool_]) -> RawData:
    """The same scan with further bad pixels, which read as zero."""
    made = scan.select(np.arange(len(scan)))
    made.patterns = made.patterns.with_bad_pixels(bad if scan.bad_pixels is None else scan.bad_pixels | bad)
    made.remember_energies(None)
    return made
