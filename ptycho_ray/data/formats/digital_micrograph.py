"""Files of DigitalMicrograph (.dm3, .dm4): a tree of tags, in which the largest array is the scan; it stays on disk.

In dm3 lengths take 4 bytes, in dm4 8; the tree is big-endian, the values are in the order that the header says.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from ptycho_ray.data.contents import FileContents
from ptycho_ray.data.formats.emd import set_detector
from ptycho_ray.data.formats.format import Format
from ptycho_ray.data.formats.optics_metadata import optics_of_angle
from ptycho_ray.data.mapped import MappedFrames
from ptycho_ray.data.opening import BinaryFile
from ptycho_ray.errors import InputError
from ptycho_ray.physics.units import LENGTHS, factor_of

GROUP, VALUE = 20, 21
STRUCTURE, STRING, ARRAY = 15, 18, 20
#: Codes of simple types of values.
SIMPLE = {2: "i2", 3: "i4", 4: "u2", 5: "u4", 6: "f4", 7: "f8", 8: "u1", 9: "i1", 10: "i1", 11: "i8", 12: "u8"}
#: Codes of the types of images.
IMAGES = {1: "i2", 2: "f4", 6: "u1", 7: "i4", 9: "i1", 10: "u2", 11: "u4", 12: "f8", 14: "u1", 39: "i8", 40: "u8"}
SEMIANGLE = "Convergence semi-angle (mrad)"
DEEPEST, MOST_TAGS, LARGEST_TEXT = 64, 200_000, 2**16


def recognise(file: BinaryFile) -> bool:
    """Version 3 or 4, and a byte order of 0 or 1 behind the length."""
    if len(file.start) < 24:
        return False
    version, place = file.start[:4], 8 if file.start[:4] == b"\0\0\0\3" else 12
    return version in (b"\0\0\0\3", b"\0\0\0\4") and file.start[place : place + 4] in (b"\0\0\0\0", b"\0\0\0\1")


@dataclass
class Place:
    """An array in the file: where, of which type, how many values."""

    offset: int
    dtype: np.dtype
    count: int


@dataclass
class _Tree:
    """Reads the tags of a file; ``found`` maps their paths to numbers, texts and places of arrays."""

    stream: IO[bytes]
    path: Path
    size: int
    wide: bool
    order: str = "<"
    found: dict[str, Any] = field(default_factory=dict)
    tags: int = 0

    def number(self, form: str) -> int:
        size = struct.calcsize(form)
        data = self.stream.read(size)
        if len(data) < size:
            raise self.damaged("a tag cut off")
        return int(struct.unpack(form, data)[0])

    def length(self) -> int:
        return self.number(">Q" if self.wide else ">I")

    def damaged(self, what: str) -> InputError:
        return InputError(file=self.path, found=what, expected="a complete file of DigitalMicrograph")

    def group(self, place: str, depth: int) -> None:
        if depth > DEEPEST:
            raise self.damaged("groups too deep")
        self.number(">H")  # sorted, open
        for unnamed in range(self.length()):
            self.tags += 1
            if self.tags > MOST_TAGS:
                raise self.damaged("too many tags")
            kind = self.number(">B")
            if kind == 0:
                return
            name = self.stream.read(self.number(">H")).decode("latin-1") or str(unnamed)
            if self.wide:
                self.length()  # bytes of this tag
            here = f"{place}/{name}" if place else name
            if kind == GROUP:
                self.group(here, depth + 1)
            elif kind == VALUE:
                self.value(here)
            else:
                raise self.damaged(f"a tag of kind {kind}")

    def value(self, here: str) -> None:
        if self.stream.read(4) != b"%%%%":
            raise self.damaged("a value without its mark")
        info = [self.length() for _ in range(self._count(self.length()))]
        if not info:
            raise self.damaged("a value without a type")
        if info[0] in SIMPLE:
            dtype = np.dtype(self.order + SIMPLE[info[0]])
            data = self.stream.read(dtype.itemsize)
            if len(data) < dtype.itemsize:
                raise self.damaged("a value cut off")
            self.found[here] = np.frombuffer(data, dtype)[0].item()
        elif info[0] == STRING:
            self.skip(2 * info[1])
        elif info[0] == STRUCTURE:
            self.skip(self._structure(info[1:]))
        elif info[0] == ARRAY and len(info) > 2:
            self.array(here, info)
        else:
            raise self.damaged(f"a value of type {info[0]}")

    def _count(self, count: int) -> int:
        if count > 1000:
            raise self.damaged(f"a type of {count} words")
        return count

    def _structure(self, info: list[int]) -> int:
        """Bytes of a structure: [length of its name, fields, (length of a name, type) ...]."""
        kinds = info[3::2][: info[1]] if len(info) > 1 else []
        if any(kind not in SIMPLE for kind in kinds):
            raise self.damaged("a structure of unknown types")
        return sum(np.dtype(SIMPLE[kind]).itemsize for kind in kinds)

    def array(self, here: str, info: list[int]) -> None:
        count = info[-1]
        if info[1] == STRUCTURE:
            self.skip(self._structure(info[2:-1]) * count)
            return
        if info[1] not in SIMPLE:
            raise self.damaged(f"an array of type {info[1]}")
        dtype = np.dtype(self.order + SIMPLE[info[1]])
        if dtype.kind == "u" and dtype.itemsize == 2 and count < LARGEST_TEXT:
            data = self.stream.read(2 * count)
            self.found[here] = data.decode("utf-16-le" if self.order == "<" else "utf-16-be", errors="replace")
            self.found[f"{here}#place"] = Place(self.stream.tell() - len(data), dtype, count)
            return
        self.found[here] = Place(self.stream.tell(), dtype, count)
        self.skip(dtype.itemsize * count)

    def skip(self, count: int) -> None:
        if self.stream.tell() + count > self.size:
            raise self.damaged("data beyond the end of the file")
        self.stream.seek(count, 1)


def tags_of(file: BinaryFile) -> dict[str, Any]:
    """All numbers, texts and places of arrays in a file, by the path of their tag."""
    with file.path.open("rb") as stream:
        wide = struct.unpack(">I", stream.read(4))[0] == 4
        tree = _Tree(stream, file.path, file.size, wide)
        tree.length()
        tree.order = "<" if tree.number(">I") else ">"
        tree.group("", 0)
    return tree.found


def read(file: BinaryFile) -> FileContents:
    """The largest array, with the raster's steps, the detector's pixel and the voltage as far as they are stated."""
    tags = tags_of(file)
    images = sorted({name.rpartition("/ImageData/Dimensions/")[0] for name in tags if "/ImageData/Dimensions/" in name})
    shapes = {image: _dimensions(tags, image) for image in images}
    stacks = {image: shape for image, shape in shapes.items() if len(shape) in (3, 4) and min(shape) > 0}
    if not stacks:
        said = ", ".join(str(shape) for shape in shapes.values()) or "none"
        raise InputError(
            file=file.path,
            found=f"a DigitalMicrograph file with images of shape {said}, and no scan",
            expected="patterns with three or four axes",
        )
    image = max(stacks, key=lambda name: np.prod(stacks[name], dtype=object))
    shape = stacks[image]
    place = tags.get(f"{image}/ImageData/Data#place", tags.get(f"{image}/ImageData/Data"))
    kind = IMAGES.get(tags.get(f"{image}/ImageData/DataType", 0))
    if not isinstance(place, Place) or kind is None:
        raise InputError(file=file.path, field=f"{image}/ImageData", found="no array of numbers", expected="patterns")
    dtype = np.dtype(place.dtype.byteorder.replace("=", "<").replace("|", "<") + kind)
    n = shape[0] if len(shape) == 3 else shape[0] * shape[1]
    frames = MappedFrames(file.path, dtype, (n, shape[-2], shape[-1]), offset=place.offset)
    made = FileContents(frames=frames, frames_field=f"{image}/ImageData/Data", domain="intensity", electrons=True)
    made.raster = (shape[0], shape[1]) if len(shape) == 4 else None
    axes = [_axis(tags, image, number) for number in range(len(shape))][::-1]  # the fastest comes first in the file
    steps = [step * factor for step, unit in axes[:-2] if step and (factor := factor_of(unit, LENGTHS))]
    if made.raster and len(steps) == 2:
        made.step_m = (abs(steps[0]), abs(steps[1]))
    set_detector(made, *axes[-1])
    volts = tags.get(f"{image}/ImageTags/Microscope Info/Voltage")
    made.energy_eV = float(volts) if isinstance(volts, int | float) and volts > 0 else None
    angles = (
        value for name, value in tags.items() if name.startswith(f"{image}/ImageTags/") and name.endswith(SEMIANGLE)
    )
    made.optics = optics_of_angle(next((value * 1e-3 for value in angles if isinstance(value, int | float)), None))
    return made


def _dimensions(tags: dict[str, Any], image: str) -> tuple[int, ...]:
    """The shape of an image, slowest axis first."""
    sizes: list[int] = []
    while isinstance(size := tags.get(f"{image}/ImageData/Dimensions/{len(sizes)}"), int):
        sizes.append(size)
    return tuple(sizes[::-1])


def _axis(tags: dict[str, Any], image: str, number: int) -> tuple[float, str]:
    place = f"{image}/ImageData/Calibrations/Dimension/{number}"
    step, unit = tags.get(f"{place}/Scale", 0.0), tags.get(f"{place}/Units", "")
    return (float(step) if isinstance(step, int | float) and np.isfinite(step) else 0.0), unit if isinstance(
        unit, str
    ) else ""


DIGITAL_MICROGRAPH = Format("dm", "DigitalMicrograph", ("binary",), recognise, read)
