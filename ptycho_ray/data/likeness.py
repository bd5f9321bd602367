"""What an unknown file looks like, which of its arrays could be patterns and positions, and the command that reads it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from ptycho_ray.data.contents import with_patterns
from ptycho_ray.data.hdf5 import Hdf5Scan
from ptycho_ray.data.npz import NpzFile
from ptycho_ray.data.opening import BinaryFile, Content
from ptycho_ray.errors import InputError, to_type

MOST_KEYS, MOST_SHOWN = 4000, 12


@dataclass(frozen=True)
class Array:
    """An array of a file: its name, shape and the letter of its type."""

    name: str
    shape: tuple[int, ...]
    kind: str


def arrays_of(content: Content) -> list[Array]:
    """The arrays of an open file with numbers, links to other files of its folder included."""
    if isinstance(content, Hdf5Scan):
        return [Array(*found) for found in content.arrays(MOST_KEYS)]
    found = []
    for name in content.keys()[:MOST_KEYS]:
        try:
            if isinstance(content, NpzFile):
                shape, kind = content.shape(name), content.dtype(name).kind
            else:
                values = content.read(name)
                shape, kind = values.shape, values.dtype.kind
        except InputError:
            continue  # no array
        if kind in "biufc":
            found.append(Array(name, tuple(shape), kind))
    return found


def frames_candidates(arrays: list[Array]) -> list[Array]:
    """Arrays that could be patterns, the largest first."""
    fitting = [a for a in arrays if len(a.shape) in (3, 4) and a.kind in "biuf" and sorted(a.shape)[-2] >= 8]
    return sorted(fitting, key=lambda a: -math.prod(a.shape))


def positions_candidates(arrays: list[Array], n: int | None) -> list[tuple[str, ...]]:
    """Arrays, or pairs of them (rows, columns), that could be positions of ``n`` patterns."""
    tables = [
        (a.name,)
        for a in arrays
        if a.kind in "iuf" and len(a.shape) == 2 and {2, 3} & {*a.shape} and (n is None or n in a.shape)
    ]
    lines = [a.name for a in arrays if a.kind in "iuf" and len(a.shape) == 1 and a.shape[0] == n]
    pairs = []
    for name in lines:
        last = name.rpartition("/")[2]
        for y, x in (("y", "x"), ("Y", "X"), ("row", "col"), ("slow", "fast")):
            if y in last and (other := name[: len(name) - len(last)] + last.replace(y, x)) in lines:
                pairs.append((name, other))
    return sorted(tables, key=lambda names: "pos" not in names[0].lower()) + sorted(set(pairs))


def looks_like(content: Content) -> str:
    """In words, which program or instrument wrote a file, as far as its names tell."""
    if isinstance(content, BinaryFile) and not content.size:
        return "nothing"
    if isinstance(content, BinaryFile):
        return "an XML file" if content.start.lstrip().startswith(b"<") else "frames behind a header"
    if any(name.rpartition("/")[2] in (".zgroup", "zarr.json") for name in content.keys()[:MOST_KEYS]):
        return "a Zarr store of another version or layout; HyperSpy saves the same signal as .hspy"
    if not isinstance(content, Hdf5Scan):
        if {"object", "origin_px", "weight"} <= set(content.keys()):
            return "a reconstruction of ptycho-ray"
        objects = content.objects()[:MOST_SHOWN] if isinstance(content, NpzFile) else []
        if objects:
            return f"an NPZ file with Python objects in {', '.join(objects)}, which only pickle reads: save numbers"
        return {"npz": "an NPZ file", "mat": "a MATLAB file", "table": "a table"}.get(content.kind, "a file")
    names, top = set(content.names("/")), content.names("/")
    if "Experiments" in names and content.text("file_format") in ("HyperSpy", None) and content.text("file_format"):
        return "HyperSpy (.hspy)"
    if "Data" in names and {"Image", "SpectrumStream", "Spectrum"} & set(content.names("Data")):
        return "Velox EMD (Thermo Fisher)"
    if content.text("authoring_program") or any(content.attribute(name, "python_class") for name in top[:20]):
        return "py4DSTEM"
    if "STEM Metadata" in names:
        return "the metadata file of a DECTRIS ARINA scan; its frames are in the _master.h5 beside it"
    if {"diffamp", "points"} <= names:
        return "NSLS-II HXN"
    if "entry/data/data" in content and "entry/instrument" not in content:
        return "frames that a DECTRIS master file links to; name its _master.h5"
    if "entry/data" in content and any("data_" in name for name in content.names("entry/data")):
        return "a DECTRIS master file"
    if _is_emd(content, top):
        return "EMD (Berkeley, Prismatic)"
    if content.attribute("/", "NX_class") or any(content.attribute(name, "NX_class") for name in top[:20]):
        return "NeXus, not of ptychography"
    if any(content.attribute(name, "MATLAB_class") for name in top[:20]):
        return "MATLAB 7.3"
    return "an HDF5 file"


def _is_emd(content: Hdf5Scan, top: list[str]) -> bool:
    return any(content.attribute(name, "emd_group_type") is not None for name in top[:20])


def unknown_file(content: Content, problem: InputError | None = None) -> InputError:
    """The error for a file that no format reads: what it looks like, what it holds, what to type. ``problem`` is what the last
    format missed."""
    arrays = arrays_of(content)
    frames = frames_candidates(arrays)
    alike = looks_like(content)
    names = sorted(array.name for array in arrays)
    keys = f"keys {', '.join(names[:MOST_SHOWN]) or 'none'}{' ...' if len(names) > MOST_SHOWN else ''}"
    if not frames:
        hint = f"It looks like {alike}; no array in it could be patterns. {with_patterns(content.path)}"
    else:
        hint = f"It looks like {alike}. {command(content.path, arrays)}"
    if problem is None:
        return InputError(
            file=content.path, found=f"an unknown format with the {keys}", expected="a known one", hint=hint
        )
    near = f"{problem.hint}. " if problem.hint else ""
    return InputError(
        problem.problem, file=content.path, field=problem.field, found=keys, expected=problem.expected, hint=near + hint
    )


def unknown_binary(content: BinaryFile) -> InputError:
    """The error for a file of no known kind."""
    if not content.size:
        expected = "a scan; perhaps it was not copied, or its writer has not begun"
        return InputError(file=content.path, found="an empty file", expected=expected)
    if content.start.lstrip().startswith(b"<"):
        found = "an XML file that belongs to no known detector"
    else:
        found = "neither a zip archive nor HDF5, MATLAB, a table of numbers or frames with a known header"
    return InputError(
        file=content.path,
        found=found,
        expected="a scan in a format that docs/formats.md lists",
        hint=f"Raw frames? {to_type(content.path, '--shape NxROWSxCOLUMNS:uint16 --raster ROWSxCOLUMNS --step 1nm')}",
    )


def command(path: Path, arrays: list[Array]) -> str:
    """The command that reads the likeliest arrays of a file."""
    frames = frames_candidates(arrays)
    words, shape = f"--frames {frames[0].name}", frames[0].shape
    if len(shape) == 4:
        return to_type(path, words, *([] if positions_candidates(arrays, shape[0] * shape[1]) else ["--step 1nm"]))
    for axis in (0, 2):
        places = positions_candidates(arrays, shape[axis])
        if places:
            return to_type(path, words, f"--positions {','.join(places[0])}", *(["--axes yxn"] if axis == 2 else []))
    side = math.isqrt(shape[0])
    return to_type(path, words, f"--raster {side}x{side} --step 1nm" if side * side == shape[0] else "--positions FILE")
