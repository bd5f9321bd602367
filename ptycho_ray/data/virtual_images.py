"""Virtual images: what detectors of other shapes would have seen of a scan, all from one pass over its frames.

Bright field (all of the disc of the unscattered beam), its outer ring (annular bright field), what is scattered outside the
disc (dark field), far outside (high-angle), and the centre of mass of each pattern, whose displacement is proportional to the
gradient of the phase (differential phase contrast). ``scan_grid.py`` makes images of these numbers.

Legend: n patterns, N pattern side, k virtual detectors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.bright_field import Disc, disc_of_patterns
from ptycho_ray.data.patterns import PatternStack
from ptycho_ray.data.scan import Scan

#: Where the annular bright field, the dark field and the high-angle dark field begin, in radii of the disc.
ANNULAR_FROM, DARK_FROM, HIGH_ANGLE_FROM = 0.5, 1.1, 2.5


@dataclass(frozen=True)
class VirtualImages:
    """A number of each pattern for each virtual detector, float64 [n].

    Attributes:
        disc: the unscattered beam; None where the mean pattern has no disc, and all that follows it is then None too.
        mean: the mean pattern, float64 [N, N].
        total: everything that was detected.
        bright, annular_bright, dark, high_angle: shares of it within the disc, in its outer half, outside it, and beyond
            HIGH_ANGLE_FROM radii (None where the detector ends before, or saw nothing there).
        centre_px: centre of mass (row, column) relative to that of the mean pattern, detector pixels [n, 2].
        N: side of a pattern.
    """

    disc: Disc | None
    mean: NDArray[np.float64]
    total: NDArray[np.float64]
    bright: NDArray[np.float64] | None
    annular_bright: NDArray[np.float64] | None
    dark: NDArray[np.float64] | None
    high_angle: NDArray[np.float64] | None
    centre_px: NDArray[np.float64]

    @property
    def phase_gradient(self) -> NDArray[np.float64]:
        """Gradient of the phase (row, column) under the probe in radian per object pixel, [n, 2]."""
        return 2 * math.pi / len(self.mean) * self.centre_px


def virtual_images(scan: Scan) -> VirtualImages:
    """All virtual images of a scan, streamed over its frames in bounded memory."""
    patterns, N = scan.patterns, scan.N
    disc = disc_of_patterns(patterns)
    row, column = np.indices((N, N), dtype=np.float64)
    centre = (N // 2, N // 2) if disc is None else disc.centre_px
    detectors = [np.ones((N, N)), row - centre[0], column - centre[1]]
    corner = False
    if disc is not None:
        radius = np.hypot(detectors[1], detectors[2]) / disc.radius_px
        corner = bool(radius[[0, 0, -1, -1], [0, -1, 0, -1]].max() > HIGH_ANGLE_FROM)
        detectors += [radius <= DARK_FROM, (radius >= ANNULAR_FROM) & (radius <= DARK_FROM), radius > HIGH_ANGLE_FROM]
    sums, mean = detector_sums(patterns, np.stack(detectors).astype(np.float32))
    total = np.maximum(sums[:, 0], np.finfo(np.float64).tiny)
    centres = sums[:, 1:3] / total[:, None]
    shares = sums[:, 3:] / total[:, None]
    high_angle = shares[:, 2] if corner and shares[:, 2].any() else None
    centres -= np.average(centres, axis=0, weights=total)
    if disc is None:
        return VirtualImages(None, mean, sums[:, 0], None, None, None, None, centres)
    return VirtualImages(disc, mean, sums[:, 0], shares[:, 0], shares[:, 1], 1 - shares[:, 0], high_angle, centres)


def detector_sums(
    patterns: PatternStack, weights: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The patterns summed with the weights [k, N, N] of virtual detectors, float64 [n, k], and the mean pattern [N, N].

    One pass in blocks of bounded memory: a block of frames times a matrix.
    """
    sums = np.empty((len(patterns), len(weights)))
    matrix = weights.reshape(len(weights), -1).T
    mean = np.zeros(matrix.shape[0])
    for piece, intensity in patterns.chunks():
        block = intensity.reshape(len(intensity), -1)
        sums[piece] = block @ matrix
        mean += np.ones(len(block), np.float32) @ block
    return sums, (mean / len(patterns)).reshape(weights.shape[1:])
