"""A scan under the names of PtychoPINN, and reading it from a file of any format.

Legend: n patterns, N pattern side, P incoherent probe modes, B groups, C = gridsize**2 members a group.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_ray.config.reading import Reading
from ptycho_ray.data.contents import FileContents, default_max_bytes, with_patterns
from ptycho_ray.data.electron_beam import check_step, settle_electrons
from ptycho_ray.data.formats import write_scan
from ptycho_ray.data.grouping import group_geometry, group_indices, legacy_group_indices
from ptycho_ray.data.loading import (
    all_frames,
    estimate_probe,
    keeping_options,
    patterns_of,
    positions_px,
    read_both,
    starting_probe,
)
from ptycho_ray.data.normalisation import normalize_data
from ptycho_ray.data.opening import require_scan
from ptycho_ray.data.patches import cut_patches
from ptycho_ray.data.patterns import Domain, PatternStack
from ptycho_ray.data.plausible import check_canvas, note_overlap
from ptycho_ray.data.scan import Scan, probe_modes
from ptycho_ray.errors import InputError
from ptycho_ray.files import atomic_path
from ptycho_ray.physics.diffraction import diffraction_intensity, illuminate
from ptycho_ray.physics.optics import probe_diameter_px

#: What a refinement writes beside its image: the scan with the probe and the positions that it found.
REFINED_SCAN = "refined_scan.npz"
#: In its place, where the patterns are on disk and more bytes than this as float32: positions [n, 2] and probe alone.
REFINED_POSITIONS, REFINED_PROBE, MOST_COPIED = "refined_positions.npy", "refined_probe.npy", 2**30


def write_refined(scan: Scan, folder: Path) -> Path:
    """Write a scan as it was refined into a folder; the file, REFINED_SCAN, or of a large scan REFINED_POSITIONS beside
    REFINED_PROBE, which ``--positions`` and ``--probe`` read together with the scan."""
    if scan.patterns.in_memory or 4 * math.prod(scan.patterns.shape) <= MOST_COPIED:
        write_scan(scan, folder / REFINED_SCAN)
        return folder / REFINED_SCAN
    for name, values in ((REFINED_POSITIONS, scan.positions_px), (REFINED_PROBE, scan.probe)):
        with atomic_path(folder / name) as temporary, temporary.open("wb") as stream:
            np.save(stream, values, allow_pickle=False)
    return folder / REFINED_POSITIONS


class RawData(Scan):
    """A scan with PtychoPINN's constructors and grouping; see :class:`ptycho_ray.data.scan.Scan` for what it holds."""

    @classmethod
    def from_coords_without_pc(
        cls,
        xcoords: ArrayLike,
        ycoords: ArrayLike,
        diff3d: NDArray | PatternStack,
        probeGuess: ArrayLike,
        scan_index: ArrayLike | None = None,
        objectGuess: ArrayLike | None = None,
        **details: Any,
    ) -> RawData:
        """A scan without position correction: nominal positions are the measured ones."""
        return cls(xcoords, ycoords, None, None, diff3d, probeGuess, scan_index, objectGuess, **details)

    @classmethod
    def from_simulation(
        cls,
        xcoords: ArrayLike,
        ycoords: ArrayLike,
        probeGuess: ArrayLike,
        objectGuess: NDArray,
        scan_index: ArrayLike | None = None,
        *,
        nphotons: float | None = None,
        generator: np.random.Generator | None = None,
    ) -> RawData:
        """Simulate the diffraction of ``objectGuess`` [H, W] at the given positions (bilinear patches).

        The intensity is sum over modes |F(probe * patch)|**2 with an orthonormal F. With ``nphotons`` it is scaled so
        that the mean pattern holds that many photons (the stored probe with it); with ``generator`` photons are drawn
        from the Poisson distribution. ``ptycho_ray.simulation`` has more options.
        """
        probe = probe_modes(probeGuess)
        positions = np.stack([np.asarray(ycoords, float), np.asarray(xcoords, float)], axis=-1)
        patches = cut_patches(objectGuess, positions, probe.shape[-1])
        intensity = diffraction_intensity(illuminate(patches, probe))
        if nphotons is not None:
            scale = nphotons / intensity.sum(axis=(1, 2)).mean()
            intensity, probe = intensity * scale, probe * np.float32(np.sqrt(scale))
        if generator is not None:
            intensity = generator.poisson(intensity).astype(np.float32)
        return cls.from_coords_without_pc(
            xcoords,
            ycoords,
            intensity.astype(np.float32),
            probe,
            scan_index,
            objectGuess,
            Y=patches,
            domain="intensity",
            counts_are_photons=generator is not None or nphotons is not None,
        )

    @classmethod
    def from_file(cls, train_data_file_path: str | Path, **options: Any) -> RawData:
        """Read a scan of any supported format; ``options`` are those of ``load_data``."""
        return load_data(train_data_file_path, **options)

    @classmethod
    def from_files(cls, train_path: str | Path, test_path: str | Path, **options: Any) -> tuple[RawData, RawData]:
        """Read a training and a test scan."""
        return cls.from_file(train_path, **options), cls.from_file(test_path, **options)

    def to_file(self, file_path: str | Path, form: str | None = None) -> None:
        """Write the scan in the format called ``form`` (docs/formats.md).

        None goes by the suffix: .h5 and .hdf5 are HDF5 with the PtychoPINN keys, .cxi and .ptyd the formats of these
            names, anything else a PtychoPINN NPZ. ``diff3d`` is amplitude.
        """
        write_scan(self, file_path, form)

    def generate_grouped_data(
        self,
        N: int,
        K: int = 4,
        nsamples: int = 1,
        dataset_path: str | None = None,
        seed: int | None = None,
        sequential_sampling: bool = False,
        gridsize: int | None = None,
        enable_oversampling: bool = False,
        neighbor_pool_size: int | None = None,
        *,
        generator: np.random.Generator | None = None,
        include_seed_point: bool = True,
        random_stream: Literal["generator", "numpy_legacy"] = "generator",
    ) -> dict[str, Any]:
        """Group neighbouring patterns; the dictionary of PtychoPINN's chain (callchain 3.3), channels last.

        Draws come from ``generator``, or from one seeded with ``seed`` (0 when both are None).
        ``random_stream='numpy_legacy'`` draws the groups that PtychoPINN draws for ``seed``. ``coords_relative`` is
        -(position - group centre), as there. ``dataset_path`` is ignored.
        """
        if N != self.N:
            raise InputError(
                file=self.source or None,
                field="N",
                found=f"patterns of {self.N} x {self.N} pixels",
                expected=f"{N} x {N} as configured",
            )
        shared: dict[str, Any] = {
            "neighbor_count": K,
            "enable_oversampling": enable_oversampling,
            "neighbor_pool_size": neighbor_pool_size,
            "sequential": sequential_sampling,
        }
        gridsize = 1 if gridsize is None else gridsize
        if random_stream == "numpy_legacy":
            groups = legacy_group_indices(self.positions_px, gridsize, nsamples, seed=seed or 0, **shared)
        else:
            generator = np.random.default_rng(seed or 0) if generator is None else generator
            groups = group_indices(
                self.positions_px,
                gridsize,
                nsamples,
                generator=generator,
                include_seed_point=include_seed_point,
                **shared,
            )
        return self._grouped_dictionary(groups)

    def _grouped_dictionary(self, groups: NDArray[np.int64]) -> dict[str, Any]:
        amplitude = np.moveaxis(self.patterns.amplitude(groups), 1, -1)
        truth = self.truth_patches(groups)
        result: dict[str, Any] = {"diffraction": amplitude, "nn_indices": groups, "objectGuess": self.object_truth}
        result["Y"] = None if truth is None else np.moveaxis(truth, 1, -1)
        for prefix, positions in (("coords", self.positions_px), ("coords_start", self.nominal_positions_px)):
            members = positions[groups]
            centres, relative = group_geometry(members)
            result[f"{prefix}_nn"] = channels_xy(members)
            result[f"{prefix}_offsets"] = channels_xy(centres[:, None])
            result[f"{prefix}_relative"] = channels_xy(-relative)
        if self.sample_indices is not None:
            result["sample_indices"] = self.sample_indices
        result["X_full"] = normalize_data(amplitude, self.N)
        return result


def load_data(
    file_path: str | Path,
    n_images: int | None = None,
    n_subsample: int | None = None,
    flip_x: bool = False,
    flip_y: bool = False,
    swap_xy: bool = False,
    n_samples: int = 1,
    coord_scale: float = 1.0,
    subsample_seed: int | None = None,
    *,
    reading: Reading | None = None,
    probe: NDArray | str | Path | None = None,
    bad_pixels: NDArray | None = None,
    in_memory: bool = False,
    max_bytes: int | None = None,
    near_field_px2: float | None = None,
    **how: Any,
) -> RawData:
    """Read a scan (PtychoPINN chain, callchain 1.3) in any format of docs/formats.md, recognised by content, not by name.

    Args:
        n_images, n_subsample: use this many patterns (``n_subsample`` if both are given), chosen at random, in file order.
        subsample_seed: seed of that choice in numpy's legacy stream, as in the reference; 0 when None.
        flip_x, flip_y, swap_xy, coord_scale: applied to the positions in this order; patterns and probe are not changed.
        n_samples: accepted for compatibility, without effect.
        reading: how the file is read where it does not say so itself; ``how`` are single fields of it by name, such as
            ``frames``, ``step`` or ``voltage_kV``.
        near_field_px2: the detector was in the near field: wavelength * distance / pixel size**2 (effective ones).
        probe: [N, N] or [P, N, N], or the array or file that holds it; replaces the probe of the file.
        bad_pixels: bool [N, N], True where a detector pixel is bad (read as zero); replaces the file's mask.
        in_memory: read the patterns of an HDF5 file at once instead of leaving them on disk.
        max_bytes: refuse a file whose arrays would take more memory, 0.8 of the machine's by default.

    What is no measurement (marked pixels, frames without light, spikes of the positions) is taken out, and what is odd is
    named, each by a warning that also stands in ``Scan.notes``. A file without a probe gets one estimated from the mean
    pattern; a probe of unknown scale is given the mean photons of a pattern. Patterns of HDF5 files stay on disk unless
    ``in_memory`` is set. Raises InputError (MissingFileError for a missing file) naming file, field, what was found and
    what was expected.
    """
    path = require_scan(file_path)
    limit = default_max_bytes() if max_bytes is None else max_bytes
    if isinstance(probe, str | Path):
        how["probe"], probe = str(probe), None
    reading = (reading or Reading()).with_changes(how)
    fields = read_both(path, reading, limit, bad_pixels)
    with keeping_options(path, reading):
        if in_memory and fields.frames is not None and not isinstance(fields.frames, np.ndarray):
            fields.frames = all_frames(fields.frames, limit, path, fields.frames_field)
        raw = scan_from_fields(
            fields,
            path,
            domain=reading.domain,
            transpose=reading.transpose,
            flip_x=flip_x,
            flip_y=flip_y,
            swap_xy=swap_xy,
            coord_scale=coord_scale,
            probe=probe,
            near_field_px2=near_field_px2,
            source=str(file_path),
        )
    return _subsampled(raw, n_images if n_subsample is None else n_subsample, subsample_seed)


def scan_from_fields(
    fields: FileContents,
    path: Path,
    *,
    domain: Domain | Literal["auto"] = "auto",
    transpose: bool = False,
    flip_x: bool = False,
    flip_y: bool = False,
    swap_xy: bool = False,
    coord_scale: float = 1.0,
    probe: NDArray | None = None,
    near_field_px2: float | None = None,
    source: str | None = None,
) -> RawData:
    """The scan described by a file's content, with positions in object pixels; arguments as in ``load_data``."""
    if fields.frames is None:
        raise InputError(
            file=path,
            field="patterns",
            found=f"a file of the format {fields.format}, which holds no diffraction patterns",
            expected="a scan",
            hint=with_patterns(path),
        )
    if near_field_px2 is not None:
        fields.far_field = False
    if probe is not None:
        fields.probe, fields.probe_scale_known = probe, True
    settle_electrons(fields, path, transpose=transpose)
    patterns = patterns_of(fields, domain, transpose, path)
    positions, nominal = positions_px(fields, patterns.N, path)
    for coordinates in [positions] if nominal is None else [positions, nominal]:
        if flip_x:
            coordinates[:, 1] *= -1
        if flip_y:
            coordinates[:, 0] *= -1
        if swap_xy:
            coordinates[:] = coordinates[:, ::-1].copy()
        coordinates *= coord_scale
    check_canvas(positions, patterns.N, path)
    if fields.probe is None:
        check_step(fields, positions, path)
    given = starting_probe(fields, patterns)
    raw = RawData(
        positions[:, 1],
        positions[:, 0],
        None if nominal is None else nominal[:, 1],
        None if nominal is None else nominal[:, 0],
        patterns,
        estimate_probe(patterns, near_field_px2) if given is None else given,
        fields.scan_index,
        fields.object_truth,
        fields.Y,
        metadata=fields.metadata,
        counts_are_photons=fields.counts_are_photons,
        pixel_size_m=fields.pixel_size_m,
        energy_eV=fields.energy_eV,
        detector_distance_m=fields.detector_distance_m,
        detector_pixel_m=fields.detector_pixel_m,
        far_field=fields.far_field,
        electrons=bool(fields.electrons),
        optics=fields.optics,
        source=str(path) if source is None else source,
    )
    if given is None:
        raw.probe_is_guess = True
        fields.note(f"{path}: no probe found, it was estimated from the mean pattern")
    if fields.far_field is not False:
        # An estimated probe says little of the width of the true one: only the window bounds that.
        diameter = patterns.N / 2 if given is None else probe_diameter_px(raw.probe)
        note_overlap(fields, raw.positions_px, diameter, path)
    raw.notes = fields.notes
    return raw


def _subsampled(raw: RawData, wanted: int | None, seed: int | None) -> RawData:
    """Choose patterns as the reference does: numpy's legacy choice without replacement, then sorted."""
    n = len(raw)
    if wanted is not None and wanted < 2:
        raise InputError(file=raw.source, field="n_subsample", found=wanted, expected="at least 2 patterns")
    if wanted is None or wanted >= n:
        raw.sample_indices = np.arange(n)
    else:
        raw = raw.select(np.sort(np.random.RandomState(seed or 0).choice(n, wanted, replace=False)))
    raw.subsample_seed = seed
    return raw


def channels_xy(positions_BC2: NDArray[np.float64]) -> NDArray[np.float64]:
    """Positions (row, column) [B, C, 2] in the legacy layout (B, 1, 2, C) with [x, y]."""
    return positions_BC2[..., ::-1].transpose(0, 2, 1)[:, None]
