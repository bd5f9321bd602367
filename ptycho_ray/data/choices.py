"""A user's choices among the arrays of a file: which hold patterns, positions, probe and mask.

Used where the format of a file is unknown, or knows another array than the one wanted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.config.reading import Reading
from ptycho_ray.data.contents import FileContents, pairs, table_of_pairs, unit_of_positions, without_other_columns
from ptycho_ray.data.frame_axes import array_frames
from ptycho_ray.data.hdf5 import Hdf5Scan
from ptycho_ray.data.likeness import arrays_of, positions_candidates
from ptycho_ray.data.masks import as_mask
from ptycho_ray.data.npz import NpzFile
from ptycho_ray.data.opening import BinaryFile, Content, TableFile, opened
from ptycho_ray.errors import InputError, to_type
from ptycho_ray.files import require_file


def chosen_from(content: Content, reading: Reading, fields: FileContents) -> FileContents:
    """``fields`` with those arrays of an open file that ``reading`` names in place of its own."""
    names = None if reading.positions is None else _keys(content, reading)
    if names is not None:
        fields.positions, fields.positions_unit = _positions(content, names, fields)
        fields.positions_in_metres = fields.positions_unit is not None
        fields.nominal = fields.position_index = fields.object_truth = None
    if reading.frames is not None:
        n = None if fields.positions is None else len(fields.positions)
        if isinstance(content, Hdf5Scan):
            frames, fields.frames_field = content.frames(n, reading.frames, axes=reading.axes)
            fields.frames, fields.raster = frames, frames.raster
        else:
            fields.frames, fields.raster, note = array_frames(content.read(reading.frames), n, reading.axes)
            fields.frames_field = reading.frames
            fields.notes += [] if note is None else [f"{content.path}: {reading.frames}: {note}"]
        fields.domain, fields.frame_index, fields.Y, fields.step_m = None, None, None, None
        if fields.bad_pixels is not None and np.shape(fields.bad_pixels) != fields.frames.shape[1:]:
            fields.bad_pixels = None
    if reading.probe is not None and reading.probe in content:
        fields.probe, fields.probe_scale_known = content.read(reading.probe), False
    if reading.mask is not None and reading.mask in content:
        fields.bad_pixels = _fitting(content.read(reading.mask), fields, content.path, content.path)
    return fields


def chosen_files(fields: FileContents, reading: Reading, path: Path, max_bytes: int) -> None:
    """Mask and probe that ``reading`` takes from other files. InputError for a name that is neither a key nor a file."""
    for name in ("mask", "probe"):
        given = getattr(reading, name)
        if given is None or (name == "mask" and given == "none"):
            continue
        if is_in(path, given, max_bytes):
            continue
        if reading.keys_only:
            raise InputError(field=name, found=repr(given), expected="a dataset of the file that was sent")
        values = array_in(require_file(given, name), max_bytes, name)
        if name == "probe":
            fields.probe, fields.probe_scale_known = values, False
        else:
            fields.bad_pixels = _fitting(values, fields, Path(given), path)
    if reading.mask == "none":
        fields.bad_pixels, fields.unused_masks = None, {}


def positions_of_file(path: Path, max_bytes: int) -> FileContents | None:
    """Positions [n, 2] of a file with one array; None for a file with a format of its own, a table for example."""
    with opened(path, max_bytes) as content:
        if isinstance(content, TableFile) or (isinstance(content, Hdf5Scan | NpzFile) and len(content.keys()) > 1):
            return None
    values = array_in(path, max_bytes, "positions")
    return FileContents(positions=table_of_pairs(values, path, "positions"), format="arrays")


def positions_file(reading: Reading, path: Path, max_bytes: int) -> Path | None:
    """The file of positions that ``reading`` names; None where it names arrays of the scan's own file, or nothing."""
    if reading.positions is None or is_in(path, reading.positions.split(",")[0], max_bytes):
        return None
    return require_file(reading.positions, "positions")


def array_in(path: Path, max_bytes: int, what: str) -> NDArray:
    """The one array of a file that can be a mask or a probe. InputError if there are several."""
    with opened(path, max_bytes) as content:
        if isinstance(content, BinaryFile):
            return _single_array(content, what)
        if isinstance(content, TableFile):
            return content.read("table")
        shapes = {name: _shape(content, name) for name in list(content.keys())}
        fitting = [name for name, shape in shapes.items() if shape is not None and len(shape) >= 2]
        named = [name for name in fitting if what in name.lower()]
        chosen = named if len(named) == 1 else fitting
        if len(chosen) != 1:
            raise InputError(
                file=path,
                field=what,
                found=f"{len(fitting)} arrays with two axes",
                expected=f"one, or one named {what}",
                hint=f"Save it alone in a .npy file. {to_type(Path('SCAN'), f'--{what} {what}.npy')}",
            )
        return np.asarray(content.read(chosen[0]))


def _single_array(file: BinaryFile, what: str) -> NDArray:
    """The array of a .npy file, or the one image of a TIFF file."""
    from ptycho_ray.data.formats.image_stacks import TIFF_MARKS, read_tiff  # the formats, all of them, ask this module

    try:
        if file.start.startswith(b"\x93NUMPY"):
            values = np.load(file.path, mmap_mode="r", allow_pickle=False)
            if values.nbytes <= file.max_bytes and values.dtype.kind in "biufc":
                return np.asarray(values)
        elif file.start.startswith(TIFF_MARKS):
            frames = read_tiff(file).frames
            if frames is not None and frames.shape[0] == 1 and not isinstance(frames, np.ndarray):
                return frames.read(np.arange(1))[0]
    except (ValueError, OSError, EOFError) as error:
        raise InputError(file=file.path, field=what, found=f"damaged data ({error})", expected="one array") from error
    raise InputError(
        file=file.path,
        field=what,
        found="no single array",
        expected="NPY, NPZ, HDF5, MATLAB or TIFF with one",
        hint=f"Save it alone in a .npy file. {to_type(Path('SCAN'), f'--{what} {what}.npy')}",
    )


def _shape(content: Content, name: str) -> tuple[int, ...] | None:
    if isinstance(content, Hdf5Scan):
        shape = content.file[name].shape
        return None if shape is None else tuple(shape)
    if content.kind == "npz":
        return tuple(content.shape(name))  # type: ignore[attr-defined]
    return np.shape(content.read(name))


def is_in(path: Path, name: str, max_bytes: int) -> bool:
    """Whether a file holds something of a name; False for one that cannot be opened."""
    if path.is_dir():
        return False
    try:
        with opened(path, max_bytes) as content:
            return name in content
    except InputError:
        return False


def _fitting(values: NDArray, fields: FileContents, path: Path, scan: Path) -> NDArray[np.bool_] | None:
    if fields.frames is None:
        return np.asarray(values != 0)
    mask = as_mask(values, fields.frames.shape[1:])
    if mask is None:
        raise InputError(
            file=path,
            field="mask",
            found=f"shape {values.shape}",
            expected=f"{tuple(fields.frames.shape[1:])}",
            hint=f"Cut it to the frames, or go without. {to_type(scan, '--mask none')}",
        )
    return mask


def _keys(content: Content, reading: Reading) -> list[str] | None:
    """The one or two arrays that ``--positions`` names; None where it names a file."""
    text = reading.positions or ""
    names = [text] if text in content else [name.strip() for name in text.split(",")]
    missing = [name for name in names if name not in content]
    if missing:
        if not reading.keys_only and Path(text).is_file():
            return None
        close = ", ".join(sorted(content.keys())[:12])
        raise InputError(
            file=content.path,
            field="positions",
            found=f"no {missing[0]!r} in the file",
            expected=f"one of {close}",
            hint=_other_positions(content, reading),
        )
    return names


def _other_positions(content: Content, reading: Reading) -> str:
    """The command that reads the likeliest positions of an open file."""
    arrays = arrays_of(content)
    frames = next((array for array in arrays if array.name == reading.frames), None)
    near = [] if frames is None else positions_candidates(arrays, frames.shape[0])
    near = near or positions_candidates(arrays, None)
    return to_type(content.path, f"--positions {','.join(near[0]) if near else 'FILE'}")


def _positions(content: Content, names: list[str], fields: FileContents) -> tuple[NDArray[np.float64], float | None]:
    """Positions [n, 2], in metres by the unit of length that is attached to them, and that unit; None if there is none."""
    if len(names) == 2:
        positions = pairs(content.read(names[0]), content.read(names[1]), content.path, ", ".join(names))
    else:
        values = without_other_columns(np.squeeze(np.asarray(content.read(names[0]))))
        if values.dtype.kind not in "fiu" or values.ndim < 2 or not {2, 3} & {values.shape[0], values.shape[-1]}:
            raise InputError(
                file=content.path,
                field=names[0],
                found=f"{values.dtype} {values.shape}",
                expected="(n, 2): row and column of each pattern, or two arrays",
                hint=to_type(content.path, "--positions ROWS,COLUMNS"),
            )
        flat = (
            values.reshape(-1, values.shape[-1])
            if values.shape[-1] in (2, 3)
            else values.reshape(values.shape[0], -1).T
        )
        if flat.shape[1] > 2:
            fields.notes.append(
                f"{content.path}: {names[0]} has {flat.shape[1]} columns, of which the first two are taken for rows and "
                "columns (two arrays: --positions ROWS,COLUMNS)"
            )
        positions = flat[:, :2].astype(np.float64)
    unit: Any = content.attribute(names[0], "units") if isinstance(content, Hdf5Scan) else None
    factor, fields.units_unknown = unit_of_positions(unit)
    return (positions, None) if factor is None else (positions * factor, factor)
