"""Frames of electron microscopes behind a plain header: Quantum Detectors Merlin (.mib), NanoMegas blockfiles (.blo), TVIPS
(.tvips), MRC (.mrc), EMPAD (.raw with its XML). All are recognised by their bytes; frames stay on disk.
"""

from __future__ import annotations

import itertools
import math
import re
import struct
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from ptycho_ray.data.contents import FileContents
from ptycho_ray.data.formats.format import Format
from ptycho_ray.data.mapped import JoinedFrames, MappedFrames
from ptycho_ray.data.opening import BinaryFile
from ptycho_ray.errors import InputError, to_type

LARGEST_SIDE = 2**16
LARGEST_XML = 2**20


def _side(value: int, path: Path, field: str) -> int:
    if not 0 < value <= LARGEST_SIDE:
        raise InputError(file=path, field=field, found=value, expected=f"1 to {LARGEST_SIDE} pixels")
    return value


# Merlin -----------------------------------------------------------------------------------------------------------------


def recognise_merlin(file: BinaryFile) -> bool:
    return file.start.startswith((b"MQ1,", b"HDR,"))


def read_merlin(file: BinaryFile) -> FileContents:
    """Frames of a .mib, each behind a header of text; a .hdr stands for the .mib beside it."""
    path = file.path
    if file.start.startswith(b"HDR,"):
        path = path.with_suffix(".mib")
        if not path.is_file():
            raise InputError(
                file=file.path,
                found="the header of a Merlin acquisition, whose frames are not beside it",
                expected=f"{path.name} in the same folder",
                hint=f"Copy it there. {to_type(file.path)}",
            )
        file = BinaryFile(path, file.max_bytes)
    words = file.start.split(b",", 8)
    try:
        header, width, height = (int(words[k]) for k in (2, 4, 5))
        kind = words[6].decode("ascii").strip()
    except (IndexError, ValueError, UnicodeDecodeError) as error:
        raise InputError(
            file=path, field="header", found=repr(file.start[:60]), expected="MQ1,number,offset,..."
        ) from error
    if kind not in ("U08", "U16", "U32"):
        raise InputError(
            file=path,
            field="header",
            found=f"raw frames of a Merlin detector (type {kind}), whose pixels are not in order",
            expected="frames of type U08, U16 or U32",
            hint="Record with FILEFORMAT 0 (binary, not raw), or save the frames as a stack with the software of the detector. "
            + to_type(path.with_suffix(".tif"), "--raster ROWSxCOLUMNS --step 1nm"),
        )
    dtype = np.dtype({"U08": ">u1", "U16": ">u2", "U32": ">u4"}[kind])
    width, height = _side(width, path, "width"), _side(height, path, "height")
    stride = header + width * height * dtype.itemsize
    n = file.size // stride if header > 0 else 0
    if n < 1:
        raise InputError(file=path, found=f"{file.size} bytes", expected=f"at least one frame of {stride} bytes")
    frames = MappedFrames(
        path, dtype, (n, height, width), offset=header, steps=(stride, width * dtype.itemsize, dtype.itemsize)
    )
    notes = []
    if file.size % stride:
        notes.append(f"{path}: the last frame is cut off and was left out")
    return FileContents(frames=frames, frames_field="frames", domain="intensity", electrons=True, notes=notes)


# Blockfiles -------------------------------------------------------------------------------------------------------------

_BLOCKFILE = struct.Struct("<6sHIIIHHHHHddIHId")
_BLOCK_HEADER = 6


def recognise_blockfile(file: BinaryFile) -> bool:
    return file.start.startswith(b"IMGBLO")


def read_blockfile(file: BinaryFile) -> FileContents:
    """Frames, the raster with its steps, voltage, and the angle of a pixel from camera length and pixels in a centimetre."""
    path = file.path
    if len(file.start) < _BLOCKFILE.size:
        raise InputError(file=path, found="a header cut off", expected=f"{_BLOCKFILE.size} bytes")
    (_, _, _, offset, _, side, _, columns, rows, turned, step_x, step_y, volts, per_cm, camera, _) = _BLOCKFILE.unpack(
        file.start[: _BLOCKFILE.size]
    )
    side = _side(side, path, "side of a pattern")
    if not rows * columns:
        raise InputError(file=path, field="raster", found=f"{rows} x {columns}", expected="at least one place")
    stride = side * side + _BLOCK_HEADER
    n, notes = rows * columns, []
    there = max(0, (file.size - offset) // stride)
    if there < n:
        notes.append(f"{path}: {there} of {n} frames are in the file")
        n = there
    frames = MappedFrames(path, np.uint8, (n, side, side), offset=offset + _BLOCK_HEADER, steps=(stride, side, 1))
    made = FileContents(
        frames=frames, frames_field="frames", domain="intensity", electrons=True, raster=(rows, columns), notes=notes
    )
    made.step_m = (step_y * 1e-9, step_x * 1e-9) if 0 < step_x < 1e6 and 0 < step_y < 1e6 else None
    made.energy_eV = float(volts) or None
    if per_cm and camera:
        made.angle_per_pixel = (1.0 / per_cm) / (camera * 1e-4)  # per_cm is in hundredths, the camera length in 0.1 mm
        notes.append(
            f"{path}: a detector pixel is taken for {made.angle_per_pixel * 1e3:.4g} mrad, by the camera length of "
            f"{camera / 10:.4g} mm that is stated"
        )
    if turned:
        notes.append(
            f"{path}: the scan is stated to be turned by {turned / 100:.4g} degrees: --rotation turns the positions"
        )
    return made


# TVIPS ------------------------------------------------------------------------------------------------------------------

_TVIPS = struct.Struct("<13I")


def recognise_tvips(file: BinaryFile) -> bool:
    if len(file.start) < 256:
        return False
    size, version, width, height, bits = _TVIPS.unpack(file.start[: _TVIPS.size])[:5]
    return (size, version) == (256, 2) and bits in (8, 16) and 0 < width <= LARGEST_SIDE and 0 < height <= LARGEST_SIDE


def read_tvips(file: BinaryFile) -> FileContents:
    """Frames of a TVIPS series, named by its first file (name_000.tvips), each behind a header. The files that follow have no
    general header, or repeat it."""
    path = file.path
    _, _, width, height, bits, _, _, _, _, _, kilovolts, _, header = _TVIPS.unpack(file.start[: _TVIPS.size])
    dtype = np.dtype("<u2" if bits == 16 else "u1")
    stride = header + width * height * dtype.itemsize
    if (file.size - 256) // stride < 1 or header > 2**20:
        raise InputError(file=path, found=f"{file.size} bytes", expected=f"at least one frame of {stride} bytes")
    sources, notes = [], []
    parts = _series(path)
    for part in parts:
        offset = 256 if BinaryFile(part, file.max_bytes).start[:20] == file.start[:20] else 0
        n, rest = divmod(part.stat().st_size - offset, stride)
        if rest:
            notes.append(f"{part}: the last frame is cut off and was left out")
        if n > 0:
            steps = (stride, width * dtype.itemsize, dtype.itemsize)
            sources.append(MappedFrames(part, dtype, (n, height, width), offset=offset + header, steps=steps))
    if len(parts) > 1:
        notes.append(f"{path}: the series is read as one scan, up to {parts[-1].name}")
    return FileContents(
        frames=sources[0] if len(sources) == 1 else JoinedFrames(sources),
        frames_field="frames",
        domain="intensity",
        electrons=True,
        energy_eV=kilovolts * 1e3 if 0 < kilovolts < 2000 else None,
        notes=notes,
    )


def _series(path: Path) -> list[Path]:
    """The file and those that go on with it, up to the first number that is missing."""
    numbered = re.fullmatch(r"(.*_)(\d+)(\.\w+)", path.name)
    if numbered is None:
        return [path]
    following = (
        path.with_name(f"{numbered[1]}{number:0{len(numbered[2])}}{numbered[3]}")
        for number in itertools.count(int(numbered[2]) + 1)
    )
    return [path, *itertools.takewhile(Path.is_file, following)]


# MRC --------------------------------------------------------------------------------------------------------------------

_MRC_TYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_MRC_HEADER = 1024


def recognise_mrc(file: BinaryFile) -> bool:
    return len(file.start) >= _MRC_HEADER and file.start[208:211] == b"MAP"


def read_mrc(file: BinaryFile) -> FileContents:
    """Frames of an MRC stack (movie)."""
    path = file.path
    order = ">" if file.start[212:213] == b"\x11" else "<"
    columns, rows, n, mode = struct.unpack(f"{order}4i", file.start[:16])
    extended = struct.unpack(f"{order}i", file.start[92:96])[0]
    if mode not in _MRC_TYPES or extended < 0:
        raise InputError(file=path, field="mode", found=mode, expected=f"one of {', '.join(map(str, _MRC_TYPES))}")
    shape = (max(n, 0), _side(rows, path, "rows"), _side(columns, path, "columns"))
    frames = MappedFrames(path, np.dtype(order + _MRC_TYPES[mode]), shape, offset=_MRC_HEADER + extended)
    return FileContents(frames=frames, frames_field="frames", domain="intensity", electrons=True)


def mrc_companion(path: Path) -> Path | None:
    """The coordinates that a Direct Electron camera leaves beside its movie."""
    found = path.with_name(path.stem.removesuffix("_movie") + "_scan_coordinates.csv")
    return found if found.is_file() and found != path else None


# EMPAD ------------------------------------------------------------------------------------------------------------------

EMPAD_ROWS, EMPAD_SIDE = 130, 128
#: What is left where the XML cannot be used.
RAW = to_type(Path("FRAMES.raw"), "--raster ROWSxCOLUMNS --step 1nm")


def recognise_empad(file: BinaryFile) -> bool:
    """Whole frames of 130 x 128 float32 that are finite and not absurd, or the XML that goes with them."""
    if file.start.lstrip().startswith(b"<"):
        return b"raw_file" in file.bytes(0, LARGEST_XML) and b"pix_x" in file.bytes(0, LARGEST_XML)
    if not file.size or file.size % (EMPAD_ROWS * EMPAD_SIDE * 4):
        return False
    values = np.frombuffer(file.bytes(0, EMPAD_SIDE * EMPAD_SIDE * 4), "<f4")
    return bool(np.isfinite(values).all() and np.abs(values).max(initial=0) < 1e12 and not _denormal(values))


def _denormal(values: np.ndarray) -> bool:
    """Whether most of the values that are not zero are far below any measurement, as whole numbers read as floats are."""
    other = np.abs(values[values != 0])
    return bool(other.size and np.median(other) < 1e-20)


def read_empad(file: BinaryFile) -> FileContents:
    """The 128 x 128 pixels of each frame (two rows hold numbers of the electronics). The raster is that of the XML, or that
    in a name with x20_y15."""
    path = file.path
    tree: ElementTree.Element | None
    if file.start.lstrip().startswith(b"<"):
        tree = _xml(path)
        node = tree.find("raw_file")
        name = Path(node.get("filename", "") if node is not None else "").name
        raw = path.with_name(name) if name else path
        if raw == path or not raw.is_file():
            raise InputError(
                file=path,
                found=f"the XML of an EMPAD scan of {_text(tree, 'pix_y')} x {_text(tree, 'pix_x')}, whose frames are not "
                "beside it",
                expected=f"{name or 'the .raw file'} in the same folder",
                hint=f"Copy it there. {to_type(path)}",
            )
        path = raw
    else:
        tree = next(
            (found for other in sorted(path.parent.glob("*.xml"))[:50] if (found := _of(other, path)) is not None), None
        )
    size = path.stat().st_size
    stride = EMPAD_ROWS * EMPAD_SIDE * 4
    n = size // stride
    frames = MappedFrames(path, "<f4", (n, EMPAD_SIDE, EMPAD_SIDE), steps=(stride, EMPAD_SIDE * 4, 4))
    made = FileContents(frames=frames, frames_field="frames", domain="intensity", electrons=True)
    named = re.search(r"x(\d+)_y(\d+)", path.name)
    sides = (
        (_text(tree, "pix_y"), _text(tree, "pix_x"))
        if tree is not None
        else (named[2], named[1])
        if named
        else ("", "")
    )
    if all(side.isdigit() for side in sides) and int(sides[0]) * int(sides[1]) == n:
        made.raster = (int(sides[0]), int(sides[1]))
    if tree is not None:
        volts, angle = (_number(tree, name) for name in ("source.get_voltage", "calibrated_diffraction_angle"))
        made.energy_eV, made.angle_per_pixel = volts, angle
        made.step_m = _step_of_empad(tree, made.raster)
    return made


def _step_of_empad(tree: ElementTree.Element, raster: tuple[int, int] | None) -> tuple[float, float] | None:
    """The step of a scan over the whole of its field, from field of view, its part and the number of places; else None."""
    node = next((node for node in tree.iter() if node.tag == "optics.get_full_scan_field_of_view"), None)
    scan = next((node for node in tree.iter("scan_parameters") if node.get("mode") == "acquire"), None)
    if node is None or scan is None or raster is None:
        return None
    try:
        width, height = (float(side) for side in (node.text or "").strip("[] ").split(","))
        part = float(scan.findtext("scan_size") or "")
        places = int(scan.findtext("scan_resolution_y") or ""), int(scan.findtext("scan_resolution_x") or "")
    except ValueError:
        return None
    step = (height * part / raster[0], width * part / raster[1])
    return step if places == raster and all(1e-13 < length < 1e-5 for length in step) else None


def _xml(path: Path) -> ElementTree.Element:
    if path.stat().st_size > LARGEST_XML:
        raise InputError(file=path, found=f"{path.stat().st_size} bytes of XML", expected=f"at most {LARGEST_XML}")
    text = path.read_bytes()
    if b"<!" in text:
        raise InputError(file=path, found="XML with declarations of its own", expected="the XML of an EMPAD", hint=RAW)
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(file=path, found=f"damaged XML ({error})", expected="the XML of an EMPAD", hint=RAW) from error


def _of(xml: Path, raw: Path) -> ElementTree.Element | None:
    """The XML if it belongs to a raw file."""
    try:
        tree = _xml(xml)
    except (InputError, OSError):
        return None
    node = tree.find("raw_file")
    return tree if node is not None and Path(node.get("filename", "")).name == raw.name else None


def _text(tree: ElementTree.Element, name: str) -> str:
    return (tree.findtext(name) or "").strip()


def _number(tree: ElementTree.Element, name: str) -> float | None:
    node = next((node for node in tree.iter() if node.tag == name), None)
    try:
        value = float(node.text or "") if node is not None else 0.0
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


MERLIN = Format("merlin", "Quantum Detectors Merlin", ("binary",), recognise_merlin, read_merlin)
BLOCKFILE = Format("blockfile", "NanoMegas blockfile", ("binary",), recognise_blockfile, read_blockfile)
TVIPS = Format("tvips", "TVIPS series", ("binary",), recognise_tvips, read_tvips)
MRC = Format("mrc", "MRC stack", ("binary",), recognise_mrc, read_mrc, companion=mrc_companion)
EMPAD = Format("empad", "EMPAD", ("binary",), recognise_empad, read_empad)
