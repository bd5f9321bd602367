"""The phase of a weak object from a raster scan in one linear step, without iterations.

A weak phase object is ``1 + i phi``. The intensity at detector angle k, Fourier-transformed over the scan positions, is

    G(k, Q) = phi(Q) Gamma(k, Q),    Gamma(k, Q) = i (A*(k) A(k - Q) - A(k) A*(k + Q))

with A the aperture of the probe, its aberrations included: the two sidebands that overlap the disc (Rodenburg, McCallum and
Nellist, Ultramicroscopy 48 (1993) 304). ``phi(Q)`` is the least-squares solution over all k of the bright-field disc. In focus
this is the single-side-band reconstruction; out of focus every k sees the object shifted by the gradient of the aberration
function, and it is the tilt-corrected bright field (parallax) with its transfer function divided out. Where the step of the
scan is coarser than the object's detail, several Q fall on one frequency of the scan and are told apart by k: the image is
finer than the scan.

Legend: n positions on a raster of R x C, k super-pixels of the disc, N pattern side, a aliases of a frequency.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import fft2
from scipy.ndimage import map_coordinates

from ptycho_ray.data.bright_field import Disc, disc_of_patterns
from ptycho_ray.data.first_look import FirstLook
from ptycho_ray.data.inspection import photons_per_unit
from ptycho_ray.data.patterns import PatternStack
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.data.scan_grid import ScanGrid, scan_grid
from ptycho_ray.errors import InputError
from ptycho_ray.physics.optics import probe_diameter_px
from ptycho_ray.reconstruction.stitching import StitchedObject

#: Super-pixels along the diameter of the disc.
ACROSS = 16
#: The aperture is computed on a grid so many times finer than the detector.
FINER = 8
#: Prior standard deviation of the phase, in radian, if it were white: it damps what the data hardly tell.
PRIOR_RAD = 0.3
#: Least damping relative to the strength of a frequency that all of the disc transfers: the linear model is no better.
LEAST_DAMPING = 0.03
#: Memory of the normal equations that are set up at a time, and of the super-pixels of all patterns.
BLOCK_BYTES, DISC_BYTES = 2**25, 2**28
#: Share of what is detected that lies in the bright-field disc of a sample thin enough for a linear reconstruction.
THIN = 0.8


@dataclass(frozen=True)
class _Disc:
    """Super-pixels of the disc: their intensity at each raster point, float32 [R, C, k], and their angles in cycles per object
    pixel [k, 2]."""

    intensity: NDArray[np.float32]
    angle: NDArray[np.float64]


def image_of_thin_sample(scan: RawData, look: FirstLook) -> StitchedObject | None:
    """:func:`weak_phase_image`, if a first look at the scan and its probe allow for it."""
    bright = look.virtual.bright
    if bright is None or bright.mean() <= THIN or scan.probe_is_guess:
        return None
    return weak_phase_image(scan)


def weak_phase_image(scan: RawData) -> StitchedObject:
    """The image of a scan as a pure phase object, on object pixels, as the solver can start from it.

    Probe (with its aberrations) and positions are those of the scan, and have to be right.

    Raises:
        InputError: the patterns have no bright-field disc, or were measured in the near field.
    """
    disc = disc_of_patterns(scan.patterns) if scan.far_field is not False else None
    if disc is None:
        raise InputError(
            "no start without iterations: the mean pattern has no bright-field disc",
            file=scan.source or None,
            field="from",
            found="direct",
            expected="patterns of a convergent beam in the far field",
            hint="Start with --from flat",
        )
    grid = scan_grid(scan.positions_px)
    part = _super_pixels(scan.patterns, disc, grid)
    margin = np.ceil(probe_diameter_px(scan.probe) / 2 / np.asarray(grid.step_px)).astype(int)
    weak = _least_squares(scan, grid, part, margin)
    return _on_canvas(scan, grid, weak, margin)


def _super_pixels(patterns: PatternStack, disc: Disc, grid: ScanGrid) -> _Disc:
    N, across = patterns.N, min(ACROSS, math.sqrt(DISC_BYTES / (4 * len(patterns))))
    side = max(1, math.ceil(2 * disc.radius_px / across - 0.5))
    reach = int(disc.radius_px // side)
    corner = [round(at) - side // 2 - side * reach for at in disc.centre_px]
    number = np.moveaxis(np.indices((2 * reach + 1, 2 * reach + 1)), 0, -1).reshape(-1, 2)
    centre = corner + side * number + (side - 1) / 2
    low, high = corner + side * number, corner + side * (number + 1)
    # Of the edge, where the disc is neither bright nor dark, nothing is used.
    away = np.linalg.norm(centre - disc.centre_px, axis=1) + side / 2
    used = (away < disc.radius_px) & (low >= 0).all(axis=1) & (high <= N).all(axis=1)
    rows, columns = (slice(max(at, 0), min(at + side * (2 * reach + 1), N)) for at in corner)
    found = np.empty((len(patterns), int(used.sum())), np.float32)
    for piece, intensity in patterns.chunks():
        block = np.zeros((len(intensity), side * (2 * reach + 1), side * (2 * reach + 1)), np.float32)
        block[
            :, rows.start - corner[0] : rows.stop - corner[0], columns.start - corner[1] : columns.stop - corner[1]
        ] = intensity[:, rows, columns]
        binned = block.reshape(len(block), 2 * reach + 1, side, 2 * reach + 1, side).sum(axis=(2, 4))
        found[piece] = binned.reshape(len(block), -1)[:, used]
    angle = (centre[used] - N // 2) / N
    return _Disc(grid.image(found).astype(np.float32), angle)


def _least_squares(scan: RawData, grid: ScanGrid, disc: _Disc, margin: NDArray[np.int64]) -> NDArray[np.complex64]:
    """Fourier coefficients of the phase on the raster with ``margin`` points more on each side, made finer by the aliases,
    zero frequency first."""
    rows, columns = np.array(grid.shape) + 2 * margin
    mean = disc.intensity.mean(axis=(0, 1))
    around = np.zeros((rows, columns, disc.intensity.shape[-1]), np.float32)
    around[margin[0] : margin[0] + grid.shape[0], margin[1] : margin[1] + grid.shape[1]] = disc.intensity - mean
    transformed = fft2(around, axes=(0, 1), norm="forward", overwrite_x=True)
    # From cycles per step along rows and columns of the raster to cycles per object pixel along those of the detector.
    back = np.linalg.inv(grid.axes_px).T
    widest = 2 * float(np.linalg.norm(disc.angle - disc.angle.mean(axis=0), axis=1).max())
    orders = [max(1, math.ceil(2 * min(widest, 0.5) * step)) for step in grid.step_px]
    orders = [order + 1 - order % 2 for order in orders]
    aliases = np.moveaxis(np.indices(orders), 0, -1).reshape(-1, 2) - np.array(orders) // 2
    across = np.fft.fftfreq(columns)
    aperture = _Aperture(scan, float(mean.mean()), disc)
    photons = photons_per_unit(scan)
    noise = 0.0 if photons is None else float(mean.mean()) / (rows * columns) / photons
    prior = PRIOR_RAD**2 / (rows * columns * len(aliases))
    damping = max(noise / prior, LEAST_DAMPING * len(mean) * float(mean.mean()) ** 2)
    solved = np.empty((rows, columns, *orders), np.complex64)
    block = max(1, BLOCK_BYTES // (8 * columns * len(aliases) ** 2))
    for low in range(0, rows, block):
        along = np.fft.fftfreq(rows)[low : low + block]
        base = np.stack(np.meshgrid(along, across, indexing="ij"), axis=-1).reshape(-1, 1, 2)
        frequency = ((base + aliases) @ back).astype(np.float32)  # [q, a, 2]
        inside = np.linalg.norm(frequency, axis=-1) <= min(widest * 1.05, 0.5)
        normal = np.broadcast_to(
            damping * np.eye(len(aliases), dtype=np.complex64), (*inside.shape, len(aliases))
        ).copy()
        wanted = np.zeros(inside.shape, np.complex64)
        measured = transformed[low : low + block].reshape(len(base), -1)
        for number, angle in enumerate(disc.angle):
            here = aperture(angle)
            gamma = 1j * (np.conj(here) * aperture(angle - frequency) - here * np.conj(aperture(angle + frequency)))
            gamma *= inside
            back_projected = np.conj(gamma)
            wanted += back_projected * measured[:, number, None]
            normal += back_projected[:, :, None] * gamma[:, None, :]
        solved[low : low + block] = np.linalg.solve(normal, wanted[..., None])[..., 0].reshape(-1, columns, *orders)
    order = [np.argsort(np.fft.fftfreq(size), kind="stable") for size in (rows, columns)]
    centred = solved[order[0]][:, order[1]].transpose(2, 0, 3, 1).reshape(orders[0] * rows, orders[1] * columns)
    return np.asarray(np.fft.ifftshift(centred), np.complex64)


class _Aperture:
    """The aperture A of the brightest mode of the probe at any angles, cycles per object pixel [..., 2]; by the nearest point
    of a fine grid. Its square is the mean intensity of a super-pixel."""

    def __init__(self, scan: RawData, intensity: float, disc: _Disc) -> None:
        modes = scan.probe.astype(np.complex128)
        probe = modes[int(np.argmax(np.sum(np.abs(modes) ** 2, axis=(1, 2))))]
        self.side = FINER * scan.N
        large = np.zeros((self.side, self.side), complex)
        first = self.side // 2 - scan.N // 2
        large[first : first + scan.N, first : first + scan.N] = probe
        self.values = np.fft.fft2(np.fft.ifftshift(large)).astype(np.complex64)
        squared = np.mean(np.abs(self(disc.angle)) ** 2)
        self.values *= np.float32(math.sqrt(intensity / squared))

    def __call__(self, angle: NDArray[np.float64]) -> NDArray[np.complex64]:
        index = np.rint(angle * self.side).astype(np.int32) % self.side
        return np.asarray(self.values[index[..., 0], index[..., 1]])


def _on_canvas(scan: RawData, grid: ScanGrid, spectrum: NDArray, margin: NDArray[np.int64]) -> StitchedObject:
    """The phase on object pixels, one where the scan was not."""
    fine = np.fft.ifft2(spectrum).real * spectrum.size
    finer = np.array(spectrum.shape) / (np.array(grid.shape) + 2 * margin)
    corners = (
        grid.origin_px
        + np.array([[a, b] for a in (-0.5, grid.shape[0] - 0.5) for b in (-0.5, grid.shape[1] - 0.5)]) @ grid.axes_px
    )
    low, high = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0))
    places = low + np.moveaxis(np.indices((high - low).astype(int) + 1), 0, -1)
    index = grid.index(places)
    phase = map_coordinates(fine, np.moveaxis((index + margin) * finer, -1, 0), order=3, mode="grid-wrap")
    scanned = ((index >= -0.5) & (index <= np.array(grid.shape) - 0.5)).all(axis=-1)
    phase = np.where(scanned, phase - phase[scanned].mean(), 0)
    image = np.exp(1j * phase).astype(np.complex64)
    return StitchedObject(image, np.asarray(scanned, np.float32), (float(low[0]), float(low[1])))
