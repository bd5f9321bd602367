"""One ptychographic scan: patterns, positions, probe and what is known about the experiment.

Legend: n patterns, N pattern side, P incoherent probe modes, B groups, C = gridsize**2 members a group.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_ray.data.patches import cut_patches
from ptycho_ray.data.patterns import Domain, PatternStack, as_patterns, holds_counts
from ptycho_ray.errors import InputError, to_type
from ptycho_ray.physics.electron_optics import ElectronOptics
from ptycho_ray.physics.optics import beam_wavelength_m

SMALLEST_SPAN_PX = 1e-2
"""A scan narrower than this many object pixels is assumed to have positions in metres."""


class Scan:
    """A scan of ``n`` patterns at ``n`` positions.

    The positional arguments are those of PtychoPINN's RawData: coordinates in object pixels (x = column, y = row; patch
    pixel N//2 lies on the position), ``diff3d`` [n, N, N] with the zero frequency at N//2, probe [N, N] or [P, N, N].
    ``*_start`` are the nominal positions; None means the measured ones.

    ``electrons`` says that ``energy_eV`` is that of electrons, ``optics`` what forms their probe.
    ``notes`` are the lines that reading the file gave, on what was mended or is odd. ``domain`` says what ``diff3d``
    holds; ``'auto'`` follows the PtychoPINN contract (amplitude) unless the values are integers, which are counts.
    ``counts_are_photons`` is inferred from the values when it is None. If ``diff3d`` is a PatternStack, its domain and
    bad pixels are used. ``probe_is_guess`` is True where the file had no probe and one was made from the mean pattern.

    Raises InputError for lengths that differ, values that are not finite or negative, patterns without signal or not
    square, a single pattern, positions that are all equal or evidently in metres, a probe of another size.
    """

    def __init__(
        self,
        xcoords: ArrayLike,
        ycoords: ArrayLike,
        xcoords_start: ArrayLike | None,
        ycoords_start: ArrayLike | None,
        diff3d: NDArray | PatternStack,
        probeGuess: ArrayLike,
        scan_index: ArrayLike | None = None,
        objectGuess: ArrayLike | None = None,
        Y: ArrayLike | None = None,
        norm_Y_I: Any = None,
        metadata: dict[str, Any] | None = None,
        *,
        domain: Domain | Literal["auto"] = "auto",
        counts_are_photons: bool | None = None,
        bad_pixels: ArrayLike | None = None,
        pixel_size_m: float | None = None,
        energy_eV: float | None = None,
        detector_distance_m: float | None = None,
        detector_pixel_m: float | None = None,
        far_field: bool | None = None,
        electrons: bool = False,
        optics: ElectronOptics | None = None,
        source: str = "",
    ) -> None:
        self.source = source
        self.patterns = as_patterns(diff3d, domain, bad_pixels, source or None)
        self.counts_are_photons = (
            holds_counts(self.patterns) if counts_are_photons is None else bool(counts_are_photons)
        )
        self.positions_px = self._as_positions(xcoords, ycoords, "")
        if xcoords_start is None and ycoords_start is None:
            self.nominal_positions_px = self.positions_px
        else:
            self.nominal_positions_px = self._as_positions(xcoords_start, ycoords_start, "_start")
        self.probe = self._as_probe(probeGuess)
        self.object_truth = self._as_object(objectGuess)
        self.scan_index = self._as_scan_index(scan_index)
        self.Y = self._as_truth_patches(Y)
        self.norm_Y_I = norm_Y_I
        self.metadata = metadata
        self.pixel_size_m, self.energy_eV, self.detector_distance_m = pixel_size_m, energy_eV, detector_distance_m
        self.detector_pixel_m, self.far_field = detector_pixel_m, far_field
        self.electrons, self.optics = electrons, optics
        self.notes: list[str] = []
        self.sample_indices: NDArray[np.int64] | None = None
        self.subsample_seed: int | None = None
        self.probe_is_guess = False
        self._energies: NDArray[np.float64] | None = None
        self._check_scan()

    @property
    def N(self) -> int:
        """Side of a pattern in pixels."""
        return self.patterns.N

    @property
    def xcoords(self) -> NDArray[np.float64]:
        return self.positions_px[:, 1]

    @property
    def ycoords(self) -> NDArray[np.float64]:
        return self.positions_px[:, 0]

    @property
    def xcoords_start(self) -> NDArray[np.float64]:
        return self.nominal_positions_px[:, 1]

    @property
    def ycoords_start(self) -> NDArray[np.float64]:
        return self.nominal_positions_px[:, 0]

    @property
    def diff3d(self) -> NDArray[np.float32]:
        """Diffraction amplitude [n, N, N] in file units. Reads all patterns."""
        return self.patterns.amplitude()

    @property
    def probeGuess(self) -> NDArray[np.complex64]:
        """The probe [N, N], or [P, N, N] if it has several modes."""
        return self.probe[0] if len(self.probe) == 1 else self.probe

    @property
    def wavelength_m(self) -> float | None:
        """Wavelength of the photons or electrons; None where the energy is not known."""
        return beam_wavelength_m(self.energy_eV, electrons=self.electrons)

    @property
    def quantum(self) -> str:
        """What a detector counts: 'photon' or 'electron', for sentences."""
        return "electron" if self.electrons else "photon"

    @property
    def objectGuess(self) -> NDArray[np.complex64] | None:
        return self.object_truth

    @property
    def bad_pixels(self) -> NDArray[np.bool_] | None:
        """True where a detector pixel is bad [N, N], or None. Bad pixels are read as zero."""
        return self.patterns.bad_pixels

    def __len__(self) -> int:
        return len(self.patterns)

    def __repr__(self) -> str:
        place = "in memory" if self.patterns.in_memory else "on disk"
        what = f"{len(self)} patterns of {self.N}x{self.N} {place}, {self.patterns.domain}"
        return f"{type(self).__name__}({what}, {self.source!r})"

    def select(self, indices: ArrayLike) -> Self:
        """The scan of the patterns ``indices`` [k], in that order; ``sample_indices`` keeps the numbers in the file."""
        rows = np.flatnonzero(indices) if np.asarray(indices).dtype == bool else np.asarray(indices, dtype=np.int64)
        chosen = object.__new__(type(self))
        chosen.__dict__.update(self.__dict__)
        chosen.patterns = self.patterns.take(rows)
        for name in ("positions_px", "nominal_positions_px", "scan_index", "Y", "_energies"):
            value = getattr(self, name)
            setattr(chosen, name, None if value is None else value[rows])
        chosen.sample_indices = rows if self.sample_indices is None else self.sample_indices[rows]
        return chosen

    def at(self, positions_px: NDArray[np.float64], probe: NDArray[np.complex64] | None = None) -> Self:
        """The same patterns at other positions [n, 2], and with another probe [P, N, N] if one is given."""
        moved = self.select(np.arange(len(self)))
        moved.positions_px = positions_px
        moved.probe = self.probe if probe is None else probe
        return moved

    def pattern_energies(self) -> NDArray[np.float64]:
        """Sum of each pattern's intensity in file units [n]; streamed over the patterns once, then remembered."""
        if self._energies is None:
            self._energies = self.patterns.energies()
        return self._energies

    @property
    def knows_energies(self) -> bool:
        """Whether :meth:`pattern_energies` need read nothing."""
        return self._energies is not None

    def remember_energies(self, energies: NDArray[np.float64] | None) -> None:
        """Take these [n] for what :meth:`pattern_energies` would find, or forget what it has found."""
        self._energies = energies

    def truth_patches(self, nn_indices: NDArray[np.int64]) -> NDArray[np.complex64] | None:
        """Truth patches [..., N, N] of the patterns ``nn_indices`` [...], from ``Y`` or the truth object, else None."""
        if self.Y is not None:
            return self.Y[nn_indices]
        if self.object_truth is not None:
            return cut_patches(self.object_truth, self.positions_px[nn_indices], self.N)
        return None

    def _as_positions(self, x: ArrayLike | None, y: ArrayLike | None, suffix: str) -> NDArray[np.float64]:
        columns = []
        for name, values in ((f"xcoords{suffix}", x), (f"ycoords{suffix}", y)):
            array = np.asarray(values)
            if array.dtype.kind not in "fiu" or array.ndim != 1:
                self._refuse(name, f"{array.dtype} array of shape {array.shape}", "one number per pattern, shape (n,)")
            if len(array) != len(self):
                self._refuse(name, f"{len(array)} positions for {len(self)} patterns", "one position per pattern")
            if not np.isfinite(array).all():
                where = np.flatnonzero(~np.isfinite(array))
                self._refuse(name, f"{len(where)} values that are not finite (index {where[0]})", "finite numbers")
            columns.append(array.astype(np.float64))
        return np.stack([columns[1], columns[0]], axis=1)

    def _as_probe(self, probe: ArrayLike) -> NDArray[np.complex64]:
        array = np.asarray(probe)
        if array.dtype.kind not in "cfiu" or array.ndim not in (2, 3, 4):
            self._refuse("probeGuess", f"{array.dtype} array of shape {array.shape}", "complex numbers (P, N, N)")
        modes = probe_modes(array)
        if modes.shape[1:] != (self.N, self.N):
            self._refuse(
                "probeGuess",
                f"a probe of {modes.shape[1]} x {modes.shape[2]} pixels",
                f"{self.N} x {self.N} like the patterns",
            )
        if not np.isfinite(modes).all():
            self._refuse("probeGuess", "values that are not finite", "finite complex numbers")
        if not modes.any():
            self._refuse("probeGuess", "zeros only", "a probe with some amplitude")
        return modes

    def _as_object(self, image: ArrayLike | None) -> NDArray[np.complex64] | None:
        if image is None:
            return None
        array = np.asarray(image)
        array = array[0] if array.ndim == 3 and len(array) == 1 else array
        if array.dtype.kind not in "cfiu" or array.ndim != 2:
            self._refuse("objectGuess", f"{array.dtype} array of shape {array.shape}", "complex numbers (H, W)")
        return array.astype(np.complex64)

    def _as_scan_index(self, scan_index: ArrayLike | None) -> NDArray[np.int64]:
        if scan_index is None:
            return np.zeros(len(self), dtype=np.int64)
        array = np.asarray(scan_index)
        if array.shape != (len(self),):
            self._refuse("scan_index", f"shape {array.shape}", f"({len(self)},)")
        return array.astype(np.int64)

    def _as_truth_patches(self, Y: ArrayLike | None) -> NDArray[np.complex64] | None:
        if Y is None:
            return None
        array = np.asarray(Y)
        array = array[..., 0] if array.ndim == 4 and array.shape[-1] == 1 else array
        if array.shape != self.patterns.shape:
            self._refuse("Y", f"shape {array.shape}", f"{self.patterns.shape}")
        return array.astype(np.complex64)

    def _check_scan(self) -> None:
        if len(self) < 2:
            self._refuse(
                self.patterns.field,
                f"{len(self)} pattern",
                "a scan of at least 2: a single one cannot be stitched or split",
            )
        if self.patterns.in_memory:
            self.pattern_energies()
        distinct = len(np.unique(self.positions_px, axis=0))
        if distinct == 1:
            self._refuse("xcoords, ycoords", f"all {len(self)} positions identical", "a scan over several positions")
        span = float(np.ptp(self.positions_px, axis=0).max())
        if span < SMALLEST_SPAN_PX:
            self._refuse(
                "xcoords, ycoords",
                f"a scan {span:.3g} wide, probably in metres",
                "object pixels, or metres together with pixel_size_m",
                to_type(self.source or "SCAN", "--units m --pixel-size-m METRES"),
            )
        if distinct < len(self):
            repeated = len(self) - distinct
            warnings.warn(f"{self.source or 'scan'}: {repeated} of {len(self)} positions are duplicates", stacklevel=3)

    def _refuse(self, field: str, found: object, expected: object, hint: str | None = None) -> None:
        raise InputError(file=self.source or None, field=field, found=found, expected=expected, hint=hint)


def probe_modes(probe: ArrayLike) -> NDArray[np.complex64]:
    """Incoherent modes [P, N, N] of a probe given as (N, N), (N, N, 1), (P, N, N) or (coherent, P, N, N)."""
    array = np.asarray(probe)
    if array.ndim == 3 and array.shape[2] == 1 and array.shape[0] == array.shape[1]:
        array = array[:, :, 0]
    if array.ndim == 4:
        array = array[0]
    return np.ascontiguousarray(array.reshape(-1, *array.shape[-2:]), dtype=np.complex64)
