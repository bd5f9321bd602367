"""Images of what was measured at scan positions: on the raster that the positions form, or on one laid over them.

Legend: n positions, R and C rows and columns of the raster.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ptycho_ray.data.placing import nearest_distances

#: A position is on the raster if it is within so much of a step of its point.
ON_RASTER = 0.35
#: Cosine of the axes of a raster that is still taken for a rectangular one.
SKEW = 0.05


@dataclass(frozen=True)
class ScanGrid:
    """A rectangular raster, which may be turned against the axes of the detector.

    Attributes:
        shape: (R, C).
        axes_px: from a row of the raster to the next, and from a column to the next, (row, column) in object pixels, [2, 2].
        origin_px: the first point.
        positions_px: where the scan measured, [n, 2].
        point: number of the raster point of each position, int64 [n]; None where the scan is no such raster, and images are
            interpolated.
    """

    shape: tuple[int, int]
    axes_px: NDArray[np.float64]
    origin_px: NDArray[np.float64]
    positions_px: NDArray[np.float64]
    point: NDArray[np.int64] | None

    @property
    def step_px(self) -> tuple[float, float]:
        """Between rows and between columns of the raster, object pixels."""
        rows, columns = np.linalg.norm(self.axes_px, axis=1)
        return float(rows), float(columns)

    @property
    def is_upright(self) -> bool:
        """Whether the raster lies along the axes of the detector."""
        return bool(np.abs(self.turn - np.eye(2)).max() < 0.02)

    @property
    def turn(self) -> NDArray[np.float64]:
        """Unit vectors along the axes of the raster, [2, 2]: ``vectors @ turn.T`` are components along them."""
        return np.asarray(self.axes_px / np.linalg.norm(self.axes_px, axis=1, keepdims=True))

    def image(self, values: NDArray) -> NDArray:
        """The values [n, ...] as an image [R, C, ...] on the raster. Off a raster linearly interpolated, outside the scan the
        nearest."""
        flat = np.asarray(values, dtype=np.result_type(values, np.float32)).reshape(len(values), -1)
        if self.point is not None:
            made = np.empty_like(flat)
            made[self.point] = flat
        else:
            made = self._interpolated(flat)
        return made.reshape(*self.shape, *np.shape(values)[1:])

    def index(self, points_px: NDArray[np.float64]) -> NDArray[np.float64]:
        """Fractional (row, column) on the raster of points [..., 2] of the object."""
        return np.asarray((points_px - self.origin_px) @ np.linalg.inv(self.axes_px))

    def points_px(self) -> NDArray[np.float64]:
        """All points of the raster, [R * C, 2], row by row."""
        index = np.moveaxis(np.indices(self.shape), 0, -1).reshape(-1, 2)
        return np.asarray(self.origin_px + index @ self.axes_px)

    def upright(self, image: NDArray[np.float64]) -> NDArray[np.float64]:
        """An image [R, C] of the raster along the axes of the detector, each pixel ``upright_step_px``; NaN off the scan."""
        if self.is_upright:
            return (
                image
                if self.point is not None
                else np.where(self._near(self.points_px()).reshape(self.shape), image, np.nan)
            )
        from scipy.ndimage import map_coordinates

        step = self.upright_step_px
        low, high = self.points_px().min(axis=0), self.points_px().max(axis=0)
        count = np.maximum(1, np.rint((high - low) / step).astype(int) + 1)
        places = low + np.moveaxis(np.indices(count), 0, -1) * step
        index = np.moveaxis(self.index(places), -1, 0)
        made = map_coordinates(image, index, order=1, mode="nearest")
        edge = np.array(self.shape)[:, None, None] - 0.5
        return np.where(((index > -0.5) & (index < edge)).all(axis=0), made, np.nan)

    @property
    def upright_step_px(self) -> NDArray[np.float64]:
        """Pixels of :meth:`upright` images, (rows, columns) in object pixels."""
        return np.array(self.step_px) if self.is_upright else np.full(2, min(self.step_px))

    def _near(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        return np.asarray(cKDTree(self.positions_px).query(points)[0] <= max(self.step_px))

    def _interpolated(self, values: NDArray) -> NDArray:
        from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator

        points = self.points_px()
        made = LinearNDInterpolator(self.positions_px, values)(points)
        outside = np.isnan(made[:, 0])
        if outside.any():
            made[outside] = NearestNDInterpolator(self.positions_px, values)(points[outside])
        return np.asarray(made)


def scan_grid(positions_px: NDArray[np.float64]) -> ScanGrid:
    """The raster of positions [n, 2], in whatever order they were measured; where they form none, an upright one of their
    typical distance over the scanned field."""
    positions = np.asarray(positions_px, dtype=np.float64)
    typical = float(np.median(nearest_distances(positions)))
    for angle in (0.0, _direction(positions)):
        if (found := _raster(positions, angle, typical)) is not None:
            return found
    low, span = positions.min(axis=0), np.ptp(positions, axis=0)
    step = max(typical, float(np.sqrt(np.prod(np.maximum(span, typical)) / len(positions))))
    shape = np.maximum(2, np.floor(span / step).astype(int) + 1)
    return ScanGrid((int(shape[0]), int(shape[1])), step * np.eye(2), low, positions, None)


def _direction(positions: NDArray[np.float64]) -> float:
    """Angle of the lines to nearest neighbours against the axes, within an eighth of a turn."""
    near = cKDTree(positions).query(positions, k=min(3, len(positions)))[1][:, 1:]
    lines = (positions[near] - positions[:, None]).reshape(-1, 2)
    return float(np.angle(np.exp(4j * np.arctan2(lines[:, 0], lines[:, 1])).sum()) / 4)


def _raster(positions: NDArray[np.float64], angle: float, typical: float) -> ScanGrid | None:
    """The raster whose columns lie along a line of this angle; None if there is none."""
    cos, sin = np.cos(angle), np.sin(angle)
    turned = positions @ np.array([[cos, sin], [-sin, cos]])
    levels = [_levels(along, typical) for along in turned.T]
    shape = (int(levels[0].max()) + 1, int(levels[1].max()) + 1)
    if shape[0] * shape[1] != len(positions) or min(shape) < 2:
        return None
    point = levels[0] * shape[1] + levels[1]
    index = np.stack(levels, axis=1).astype(np.float64)
    design = np.column_stack([index, np.ones(len(index))])
    fitted: NDArray[np.float64] = np.linalg.lstsq(design, positions, rcond=None)[0].astype(np.float64)
    axes, origin = fitted[:2], fitted[2]
    away = (positions - origin) @ np.linalg.inv(axes) - index
    lengths = np.linalg.norm(axes, axis=1)
    if len(np.unique(point)) != len(point) or np.abs(away).max() > ON_RASTER:
        return None
    return None if abs(axes[0] @ axes[1]) > SKEW * lengths.prod() else ScanGrid(shape, axes, origin, positions, point)


def _levels(along: NDArray[np.float64], typical: float) -> NDArray[np.int64]:
    """Number of the level of each coordinate, where coordinates come in levels."""
    order = np.argsort(along, kind="stable")
    number = np.empty(len(along), np.int64)
    number[order] = np.concatenate([[0], np.cumsum(np.diff(along[order]) > typical / 2)])
    return number
