"""Fourier components over the scan: of the image that each detector pixel sees, and of the deflection of the beam.

Any positions will do: the components are summed pattern by pattern, so a raster that is turned, sheared or irregular needs
no interpolation.

Legend: n patterns, N pattern side, A (groups of) detector pixels, Q frequencies of the scan, one of each pair q and -q.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError

from ptycho_ray.data.bright_field import Disc, disc_of_patterns
from ptycho_ray.data.scan import Scan
from ptycho_ray.errors import InputError

#: Patterns that are read, those around the middle of the scan; fewest that tell anything.
MOST_PATTERNS, LEAST_PATTERNS = 4096, 64
#: Groups of detector pixels across the diameter of the bright-field disc, at the most.
GROUPS_ACROSS = 15
#: Share of the scan over which its rim is faded out, so that an object that goes on beyond it does not count as a step.
TAPER = 0.4
#: Frequencies up to this share of the highest that the step of the scan resolves.
HIGHEST = 0.9


@dataclass(frozen=True)
class ScanSpectra:
    """What a scan shows, in object pixels and their inverse.

    Attributes:
        frequencies: of the scan as its positions are stored, (row, column), [Q, 2].
        images: Fourier components of the image of each group of detector pixels, complex [A, Q], in units of its photon noise
            where counts are photons.
        angles: place of each group on the detector about the middle of the disc, as spatial frequency [A, 2].
        aperture: radius of the bright-field disc, as spatial frequency.
        deflection: Fourier components of the centre of mass (row, column), as spatial frequency, complex [2, Q].
        step_px: the square root of the area that belongs to a position.
        disc: the bright-field disc in detector pixels.
        patterns: how many were read.
    """

    frequencies: NDArray[np.float64]
    images: NDArray[np.complex128]
    angles: NDArray[np.float64]
    aperture: float
    deflection: NDArray[np.complex128]
    step_px: float
    disc: Disc
    patterns: int
    positions_px: NDArray[np.float64]


def scan_spectra(scan: Scan, most_patterns: int = MOST_PATTERNS) -> ScanSpectra:
    """Read the patterns around the middle of a scan.

    Raises:
        InputError: fewer than 64 patterns, positions on one line, or patterns without a bright-field disc.
    """
    frame = _frame(scan)
    along = (scan.positions_px - scan.positions_px.mean(axis=0)) @ frame
    low, high = along.min(axis=0), along.max(axis=0)
    relative = 2 * (along - low) / (high - low) - 1
    rows = np.sort(np.argsort(np.abs(relative).max(axis=1), kind="stable")[:most_patterns])
    along = along[rows]
    low, high = along.min(axis=0), along.max(axis=0)
    step = float(np.sqrt(np.prod(high - low) / (np.sqrt(len(rows)) - 1) ** 2))
    sides = high - low + step
    disc, groups = _groups(scan)
    angles, images, deflection = _images(scan, rows, disc, groups)
    cycles = _half_plane(sides, HIGHEST / (2 * step))
    window = _window((along - low + step / 2) / sides)
    waves = np.exp(-2j * np.pi * along @ cycles.T) * (window / np.sqrt(np.sum(window**2)))[:, None]
    weights = window / window.sum()
    noise = np.sqrt(images.mean(axis=0))
    flat = (images - weights @ images) / noise
    return ScanSpectra(
        frequencies=cycles @ frame.T,
        images=flat.T @ waves,
        angles=angles,
        aperture=disc.radius_px / scan.N,
        deflection=(deflection - weights @ deflection).T @ waves,
        step_px=step,
        disc=disc,
        patterns=len(rows),
        positions_px=scan.positions_px[rows],
    )


def _frame(scan: Scan) -> NDArray[np.float64]:
    """The axes of the smallest rectangle around the positions, as columns [2, 2]."""
    if len(scan) < LEAST_PATTERNS:
        raise InputError(
            file=scan.source or None, field="patterns", found=len(scan), expected=f"at least {LEAST_PATTERNS}"
        )
    try:
        corners = scan.positions_px[ConvexHull(scan.positions_px).vertices]
    except QhullError:
        raise InputError(
            file=scan.source or None, field="positions", found="all on one line", expected="a scan over an area"
        ) from None
    edges = np.diff(corners, axis=0, append=corners[:1])
    frames = []
    for edge in edges:
        down = edge / np.linalg.norm(edge)
        axes = np.array([[down[0], -down[1]], [down[1], down[0]]])
        frames.append((float(np.prod(np.ptp(corners @ axes, axis=0))), axes))
    return min(frames, key=lambda pair: pair[0])[1]


def _groups(scan: Scan) -> tuple[Disc, NDArray[np.int64]]:
    """The disc, and the group of each detector pixel [N, N]; -1 outside the disc."""
    disc, shape = disc_of_patterns(scan.patterns), (scan.N, scan.N)
    if disc is None:
        raise InputError(
            file=scan.source or None,
            field="patterns",
            found="no bright-field disc",
            expected="a disc of the direct beam within the detector",
        )
    size = max(1, int(np.ceil(2 * disc.radius_px / GROUPS_ACROSS)))
    centre = np.array(disc.centre_px)
    away = np.indices(shape) - centre[:, None, None]
    inside = np.hypot(*away) <= disc.radius_px
    if scan.bad_pixels is not None:
        inside &= ~scan.bad_pixels
    cell = np.floor(away / size + 0.5).astype(np.int64)
    names = cell[0] * scan.N**2 + cell[1]
    found = np.full(shape, -1, np.int64)
    found[inside] = np.unique(names[inside], return_inverse=True)[1]
    sizes = np.bincount(found[inside])
    whole = np.flatnonzero(sizes >= 0.5 * size**2)
    renamed = np.full(len(sizes) + 1, -1, np.int64)
    renamed[whole] = np.arange(len(whole))
    return disc, renamed[found]


def _images(
    scan: Scan, rows: NDArray[np.int64], disc: Disc, groups: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Place of each group [A, 2], counts of each pattern in each group [n, A], and centres of mass [n, 2]; patterns are taken
    as equally bright, which a beam that flickers needs."""
    N, centre = scan.N, np.array(disc.centre_px)
    inside = groups.ravel() >= 0
    away = ((np.indices((N, N)) - centre[:, None, None]) / N).reshape(2, -1)
    member = np.zeros((N * N, groups.max() + 1), np.float32)
    member[np.flatnonzero(inside), groups.ravel()[inside]] = 1
    counts, centres = np.empty((len(rows), member.shape[1])), np.empty((len(rows), 2))
    total = np.empty(len(rows))
    for start in range(0, len(rows), 256):
        some = slice(start, start + 256)
        frames = scan.patterns.intensity(rows[some]).reshape(-1, N * N)
        total[some] = frames.sum(axis=1, dtype=np.float64)
        counts[some] = frames @ member
        centres[some] = (frames @ away.T.astype(np.float32)) / total[some, None]
    angles = (away @ member / member.sum(axis=0)).T
    return angles, counts * (total.mean() / total)[:, None], centres


def _half_plane(sides: NDArray[np.float64], highest: float) -> NDArray[np.float64]:
    """Frequencies [Q, 2] that fit into a rectangle with whole periods, up to the highest: one of each pair, without zero."""
    most = np.floor(highest * sides).astype(int)
    down, across = np.meshgrid(np.arange(0, most[0] + 1), np.arange(-most[1], most[1] + 1), indexing="ij")
    chosen = (down > 0) | (across > 0)
    cycles = np.stack([down[chosen] / sides[0], across[chosen] / sides[1]], axis=1)
    return cycles[np.hypot(*cycles.T) <= highest]


def _window(place: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weight of patterns at places [n, 2] of a rectangle of side 1."""
    grid = np.linspace(0, 1, 513)
    from scipy.signal.windows import tukey

    curve = tukey(513, TAPER)
    made: NDArray[np.float64] = np.interp(place[:, 0], grid, curve) * np.interp(place[:, 1], grid, curve)
    return made
