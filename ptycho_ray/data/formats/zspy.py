"""HyperSpy signals in Zarr (.zspy), versions 2 and 3 of its format, as a folder or a zip archive; the layout is that of .hspy.

Chunks without compression, with zlib or gzip, Blosc and Zstandard are read; the libraries of the last two come with hdf5plugin,
and a chunk is decoded by way of an HDF5 file in memory. Shards are refused.
"""

from __future__ import annotations

import itertools
import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.contents import FileContents
from ptycho_ray.data.formats.emd import set_detector
from ptycho_ray.data.formats.format import Format
from ptycho_ray.data.formats.hyperspy import letters_of
from ptycho_ray.data.formats.optics_metadata import optics_of_angle
from ptycho_ray.data.frame_axes import read_axes
from ptycho_ray.data.inflation import check_chunk
from ptycho_ray.data.opening import BinaryFile, Content
from ptycho_ray.data.patterns import FramesOnDisk
from ptycho_ray.errors import InputError, to_type
from ptycho_ray.physics.units import LENGTHS, factor_of

ROOTS = (".zgroup", "zarr.json")
ARRAYS = ("/data/.zarray", "/data/zarr.json")
LARGEST_JSON = 2**24
MOST_VALUES, MOST_FRAMES = 2**40, 2**26
KEPT_CHUNKS = 4


class Store:
    """The members of a Zarr store by name: files of a folder, or of a zip archive."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        if self.path.is_dir():
            return [
                str(found.relative_to(self.path).as_posix())
                for name in (".zarray", "zarr.json")
                for found in self.path.rglob(name)
            ]
        with zipfile.ZipFile(self.path) as archive:
            return archive.namelist()

    def read(self, name: str, most: int) -> bytes | None:
        """A member of at most ``most`` bytes; None if it is not there."""
        try:
            if self.path.is_dir():
                place = (self.path / name).resolve()
                if not place.is_relative_to(self.path.resolve()) or not place.is_file():
                    return None
                with place.open("rb") as stream:
                    data = stream.read(most + 1)
            else:
                with zipfile.ZipFile(self.path) as archive, archive.open(name) as member:
                    data = member.read(most + 1)
        except KeyError:
            return None
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise self.damaged(f"{name}: {error}") from error
        if len(data) > most:
            raise self.damaged(f"{name}: more than {most} bytes")
        return data

    def document(self, name: str) -> dict[str, Any]:
        """A member that holds JSON; empty if it is not there."""
        try:
            found = json.loads(self.read(name, LARGEST_JSON) or b"{}")
        except (ValueError, RecursionError) as error:
            raise self.damaged(f"{name}: {error}") from error
        return found if isinstance(found, dict) else {}

    def attributes(self, name: str) -> dict[str, Any]:
        """Attributes of a group or an array."""
        told = self.document(f"{name}/.zattrs") or self.document(f"{name}/zarr.json").get("attributes")
        return told if isinstance(told, dict) else {}

    def array(self, name: str) -> dict[str, Any]:
        """What is told of an array, in the words of version 2 with the ``prefix`` of its chunks. InputError for shards."""
        told = self.document(f"{name}/zarr.json")
        return self._of_version_3(name, told) if told else self.document(f"{name}/.zarray") | {"prefix": name}

    def _of_version_3(self, name: str, told: dict[str, Any]) -> dict[str, Any]:
        if told.get("node_type") != "array":
            return {}
        try:
            order, *packing = [codec if isinstance(codec, dict) else {"name": codec} for codec in told["codecs"]]
            names = [codec["name"] for codec in (order, *packing)]
            if names[0] != "bytes" or len(packing) > 1:
                raise InputError(
                    file=self.path,
                    field=name,
                    found=f"chunks in {', '.join(map(str, names))}",
                    expected="chunks of bytes, in at most one compression",
                    hint="Write it again without shards. " + to_type(Path("SCAN.zspy")),
                )
            keys = told.get("chunk_key_encoding", {"name": "default"})
            plain = keys["name"] == "default"
            grid = told["chunk_grid"]["configuration"]["chunk_shape"]
            swapped = order.get("configuration", {}).get("endian") == "big"
            return {
                "shape": told["shape"],
                "chunks": grid,
                "dtype": np.dtype(str(told["data_type"])).newbyteorder(">" if swapped else "<").str,
                "fill_value": told.get("fill_value"),
                "compressor": {"id": names[1]} if packing else None,
                "dimension_separator": keys.get("configuration", {}).get("separator", "/" if plain else "."),
                "prefix": f"{name}/c" if plain else name,
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self.damaged(f"{name}/zarr.json: {error!r}") from error

    def damaged(self, what: str) -> InputError:
        return InputError(file=self.path, found=f"damaged data ({what})", expected="a complete Zarr store")


class ZarrFrames(FramesOnDisk):
    """Frames of a Zarr array, chunk by chunk; ``axes`` as in ``frame_axes.py``."""

    def __init__(self, path: Path, name: str, axes: str | None) -> None:
        self.path, self.name = path.resolve(), name
        told = Store(path).array(name)
        try:
            self.prefix = str(told["prefix"])
            self.stored = tuple(int(side) for side in told["shape"])
            self.chunks = tuple(int(side) for side in told["chunks"])
            self.dtype = np.dtype(told["dtype"]) if isinstance(told["dtype"], str) else np.dtype("O")
            self.separator, self.fill = str(told.get("dimension_separator", ".")), float(told.get("fill_value") or 0)
            compressor = told.get("compressor")
            self.compressor = None if compressor is None else str(compressor["id"])
            plain = told.get("order", "C") == "C" and not told.get("filters")
        except (KeyError, TypeError, ValueError) as error:
            raise Store(path).damaged(f"{name}: {error!r}") from error
        size = math.prod(self.chunks) * self.dtype.itemsize
        sound = len(self.chunks) == len(self.stored) and min((*self.stored, *self.chunks), default=0) > 0
        check_chunk(path, name, size)
        if self.dtype.kind not in "biuf" or not sound or math.prod(self.stored) > MOST_VALUES or not plain:
            raise InputError(
                file=path,
                field=name,
                found=f"{self.dtype} {self.stored} in chunks {self.chunks}",
                expected="plain numbers",
            )
        if self.compressor not in (None, "zlib", "gzip", "blosc", "zstd"):
            raise InputError(
                file=path, field=name, found=f"compression {self.compressor}", expected="blosc, zstd, zlib or none"
            )
        self.axes = read_axes(axes or ("nyx" if len(self.stored) == 3 else "rcyx"), len(self.stored))
        counted = [self.axes.index(letter) for letter in ("n" if "n" in self.axes else "rc")]
        self.scanned = tuple(self.stored[k] for k in counted)
        self.raster = None if len(self.scanned) == 1 else (self.scanned[0], self.scanned[1])
        sides = [self.stored[self.axes.index(letter)] for letter in "yx"]
        self.shape = (math.prod(self.scanned), sides[0], sides[1])
        if self.shape[0] > MOST_FRAMES:
            raise InputError(file=path, field=name, found=f"{self.shape[0]} frames", expected=f"at most {MOST_FRAMES}")
        self.labels = np.arange(self.shape[0])

    def read(self, indices: NDArray[np.int64]) -> NDArray:
        frames = np.empty((len(indices), *self.shape[1:]), self.dtype.newbyteorder("="))
        kept: dict[tuple[int, ...], NDArray] = {}
        store = Store(self.path)
        for k, number in enumerate(self.labels[indices]):
            place = dict(zip("n" if self.raster is None else "rc", np.unravel_index(number, self.scanned), strict=True))
            whole = np.empty(self.shape[1:], frames.dtype)
            for row, column in itertools.product(
                *(range(0, self.stored[self.axes.index(a)], self._side(a)) for a in "yx")
            ):
                start = [int(place.get(letter, {"y": row, "x": column}.get(letter, 0))) for letter in self.axes]
                chunk = tuple(first // side for first, side in zip(start, self.chunks, strict=True))
                if chunk not in kept:
                    while len(kept) >= KEPT_CHUNKS:
                        kept.pop(next(iter(kept)))
                    kept[chunk] = self._chunk(store, chunk)
                inside = tuple(
                    slice(None) if letter in "yx" else first % side
                    for letter, first, side in zip(self.axes, start, self.chunks, strict=True)
                )
                block = kept[chunk][inside]
                block = block if self.axes.index("y") < self.axes.index("x") else block.T
                target = whole[row : row + self._side("y"), column : column + self._side("x")]
                target[...] = block[: target.shape[0], : target.shape[1]]
            frames[k] = whole
        return frames

    def _side(self, letter: str) -> int:
        return self.chunks[self.axes.index(letter)]

    def _chunk(self, store: Store, chunk: tuple[int, ...]) -> NDArray:
        """One chunk, decoded; the fill value where it was never written."""
        size = math.prod(self.chunks) * self.dtype.itemsize
        data = store.read(f"{self.prefix}/{self.separator.join(map(str, chunk))}", size + 2**16)
        if data is None:
            return np.full(self.chunks, self.fill, self.dtype)
        try:
            if self.compressor in ("zlib", "gzip"):
                data = zlib.decompressobj(wbits=47).decompress(data, size)
            elif self.compressor == "blosc":
                data = _unblosc(data, size)
            elif self.compressor == "zstd":
                data = _unzstd(data, size)
            values = np.frombuffer(data, self.dtype, math.prod(self.chunks))
        except (zlib.error, ValueError, OSError, RuntimeError) as error:
            raise store.damaged(f"chunk {chunk}: {error}") from error
        return values.reshape(self.chunks)


def _unblosc(data: bytes, size: int) -> bytes:
    """``size`` bytes of a Blosc buffer, which states how many it holds."""
    if (
        len(data) < 16
        or int.from_bytes(data[4:8], "little") != size
        or int.from_bytes(data[12:16], "little") != len(data)
    ):
        raise ValueError("a Blosc buffer of another size")
    return _decoded(data, size, hdf5plugin.Blosc())


def _unzstd(data: bytes, size: int) -> bytes:
    """``size`` bytes of a Zstandard frame, which states how many it holds in a field of 1, 2, 4 or 8 bytes."""
    if len(data) < 14 or data[:4] != b"\x28\xb5\x2f\xfd":
        raise ValueError("no Zstandard frame")
    kind, single, dictionary = data[4] >> 6, data[4] >> 5 & 1, (0, 1, 2, 4)[data[4] & 3]
    start, length = 5 + (not single) + dictionary, (single, 2, 4, 8)[kind]
    stated = int.from_bytes(data[start : start + length], "little") + (256 if kind == 1 else 0)
    if not length or stated != size:
        raise ValueError("a Zstandard frame of another size")
    return _decoded(data, size, hdf5plugin.Zstd())


def _decoded(data: bytes, size: int, codec: Mapping[str, Any]) -> bytes:
    with h5py.File("chunk", "w", driver="core", backing_store=False) as file:
        dataset = file.create_dataset("d", (size,), np.uint8, chunks=(size,), **codec)
        dataset.id.write_direct_chunk((0,), data)
        return bytes(np.asarray(dataset[()]))


def recognise(content: Content) -> bool:
    if isinstance(content, BinaryFile):
        return content.is_folder and any((content.path / name).is_file() for name in ROOTS)
    return any(name.endswith(ARRAYS) for name in content.keys()[:100_000])


def read(content: Content) -> FileContents:
    """Frames of the first experiment with a stack, and what its axes and metadata say, as of a .hspy."""
    store = Store(content.path)
    places = sorted(
        name.rpartition("/data/")[0] for name in store.names() if name.endswith(ARRAYS) and name.count("/") == 3
    )
    shapes = {place: store.array(f"{place}/data").get("shape") for place in places}
    place = next((place for place, shape in shapes.items() if isinstance(shape, list) and len(shape) in (3, 4)), None)
    if place is None:
        raise InputError(
            file=content.path,
            found=f"HyperSpy signals of shape {list(shapes.values())}, and no scan",
            expected="patterns with three or four axes",
            hint=to_type(Path("SCAN.zspy")),
        )
    ndim = len(shapes[place] or [])
    facts = [_axis(store.attributes(f"{place}/axis-{number}")) for number in range(ndim)]
    frames = ZarrFrames(content.path, f"{place}/data", letters_of(facts, ndim))
    made = FileContents(
        frames=frames, frames_field=f"{place}/data", raster=frames.raster, domain="intensity", electrons=True
    )
    steps = [
        step * factor for step, unit, scanned in facts if scanned and step and (factor := factor_of(unit, LENGTHS))
    ]
    if frames.raster is not None and len(steps) == 2:
        made.step_m = (abs(steps[0]), abs(steps[1]))
    seen = [fact for fact in facts if not fact[2]]
    if seen:
        set_detector(made, seen[-1][0], seen[-1][1])
    beam = store.attributes(f"{place}/metadata/Acquisition_instrument/TEM")
    energy, semiangle = beam.get("beam_energy"), beam.get("convergence_angle")
    made.energy_eV = float(energy) * 1e3 if isinstance(energy, int | float) and energy > 0 else None
    made.optics = optics_of_angle(semiangle * 1e-3 if isinstance(semiangle, int | float) else None)
    return made


def _axis(told: dict[str, Any]) -> tuple[float, str, bool]:
    scale, unit = told.get("scale"), told.get("units")
    number = float(scale) if isinstance(scale, int | float) and math.isfinite(scale) else 0.0
    return number, unit if isinstance(unit, str) else "", bool(told.get("navigate"))


ZSPY = Format("zspy", "HyperSpy signal in Zarr", ("npz", "binary"), recognise, read)
