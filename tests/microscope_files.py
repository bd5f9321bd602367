"""Writes files as electron microscopes and other programs do, for the tests of their readers."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import tifffile
from numpy.typing import NDArray


def merlin(path: Path, frames: NDArray) -> Path:
    """A .mib of Quantum Detectors: big-endian frames, each behind 384 bytes of text."""
    kind = {1: "U08", 2: "U16", 4: "U32"}[frames.dtype.itemsize]
    with path.open("wb") as file:
        for number, frame in enumerate(frames, start=1):
            head = f"MQ1,{number:06d},00384,01,{frame.shape[1]:04d},{frame.shape[0]:04d},{kind},   1x1,01,"
            file.write(head.encode().ljust(384, b"\0"))
            file.write(frame.astype(frame.dtype.newbyteorder(">")).tobytes())
    return path


def blockfile(path: Path, frames: NDArray, raster: tuple[int, int]) -> Path:
    """A NanoMegas blockfile: steps of 2 nm, 200 kV."""
    side = frames.shape[-1]
    head = struct.pack(
        "<6sHIIIHHHHHddIHId",
        *(b"IMGBLO", 0x0102, 0x1000, 0x1010, 0, side, 0, raster[1], raster[0], 0, 2.0, 2.0, 200_000, 6226, 2000, 0.1),
    )
    with path.open("wb") as file:
        file.write(head.ljust(0x1010, b"\0"))
        for number, frame in enumerate(frames):
            file.write(struct.pack("<HI", 0x55AA, number) + frame.astype(np.uint8).tobytes())
    return path


def tvips(path: Path, frames: NDArray) -> Path:
    """The first file of a TVIPS series: 200 kV, 60 bytes before each frame."""
    head = struct.pack("<13I", 256, 2, frames.shape[2], frames.shape[1], 16, 0, 0, 1, 1, 1, 200, 80, 60)
    with path.open("wb") as file:
        file.write(head.ljust(256, b"\0"))
        for frame in frames:
            file.write(b"\0" * 60 + frame.astype("<u2").tobytes())
    return path


def mrc(path: Path, frames: NDArray, mode: int = 6) -> Path:
    """An MRC stack."""
    n, height, width = frames.shape
    head = bytearray(1024)
    head[:16] = struct.pack("<4i", width, height, n, mode)
    head[208:216] = b"MAP DD\0\0"
    path.write_bytes(bytes(head) + frames.astype({0: "i1", 1: "<i2", 2: "<f4", 6: "<u2"}[mode]).tobytes())
    return path


def empad(path: Path, frames: NDArray, raster: tuple[int, int] | None = None) -> Path:
    """EMPAD: 130 x 128 float32 a frame, of which 128 rows are pixels; with ``raster`` its XML beside it."""
    raw = np.zeros((len(frames), 130, 128), "<f4")
    raw[:, :128] = frames
    raw[:, 128:] = 7e5
    raw.tofile(path)
    if raster is not None:
        path.with_suffix(".xml").write_text(
            f'<root name="a"><pix_x>{raster[1]}</pix_x><pix_y>{raster[0]}</pix_y><raw_file filename="{path.name}"/>'
            f'<scan_parameters mode="acquire"><scan_resolution_y>{raster[0]}</scan_resolution_y>'
            f"<scan_resolution_x>{raster[1]}</scan_resolution_x><scan_size>0.5</scan_size></scan_parameters>"
            "<m><source.get_voltage>300000.0</source.get_voltage>"
            "<optics.get_full_scan_field_of_view>[1e-08, 6e-09]</optics.get_full_scan_field_of_view>"
            "<calibrated_diffraction_angle>0.0004</calibrated_diffraction_angle></m></root>"
        )
    return path


def dm(path: Path, cube: NDArray, version: int = 4, scales: tuple[tuple[float, str], ...] = ()) -> Path:
    """A file of DigitalMicrograph with a thumbnail and one image."""
    wide = ">Q" if version == 4 else ">I"

    def value(code: int, form: str, number: float) -> bytes:
        return b"%%%%" + struct.pack(wide, 1) + struct.pack(wide, code) + struct.pack("<" + form, number)

    def array(code: int, values: NDArray) -> bytes:
        return (
            b"%%%%"
            + struct.pack(wide, 3)
            + b"".join(struct.pack(wide, k) for k in (20, code, values.size))
            + values.tobytes()
        )

    def text(words: str) -> bytes:
        return array(4, np.frombuffer(words.encode("utf-16-le"), "<u2"))

    def entry(name: str, kind: int, body: bytes) -> bytes:
        made = struct.pack(">B", kind) + struct.pack(">H", len(name)) + name.encode()
        return made + (struct.pack(">Q", len(body)) if version == 4 else b"") + body

    def tree(*members: tuple[str, Any]) -> bytes:
        made = struct.pack(">BB", 1, 0) + struct.pack(wide, len(members))
        for name, body in members:
            made += entry(name, 20 if isinstance(body, tuple) else 21, tree(*body) if isinstance(body, tuple) else body)
        return made

    codes = {"u2": (4, 10), "f4": (6, 2), "u1": (8, 6), "i4": (3, 7)}[cube.dtype.str[1:]]

    def image(values: NDArray, axes: tuple[tuple[float, str], ...]) -> tuple[Any, ...]:
        sides = tuple(("", value(5, "I", side)) for side in values.shape[::-1])
        calibrated = tuple(("", (("Scale", value(6, "f", step)), ("Units", text(unit)))) for step, unit in axes)
        return (
            ("ImageData", (
                ("Calibrations", (("Dimension", calibrated),)),
                ("Data", array(codes[0], np.ascontiguousarray(values))),
                ("DataType", value(5, "I", codes[1])),
                ("Dimensions", sides),
            )),
            ("ImageTags", (
                ("Microscope Info", (("Voltage", value(6, "f", 300_000.0)),)),
                ("EELS", (("Convergence semi-angle (mrad)", value(6, "f", 2.0)),)),
            )),
        )  # fmt: skip

    thumbnail = np.zeros((4, 4), cube.dtype)
    body = tree(("ImageList", (("", image(thumbnail, ())), ("", image(cube, scales[::-1])))))
    path.write_bytes(
        struct.pack(">I", version) + struct.pack(wide, len(body)) + struct.pack(">I", 1) + body + b"\0" * 8
    )
    return path


def py4dstem(path: Path, cube: NDArray, *, calibrated: bool = True) -> Path:
    """A cube of py4DSTEM (emdfile): steps of 0.5 nm, a detector pixel of 0.02 1/A, and a calibration that says 2 mrad."""
    with h5py.File(path, "w") as file:
        file.attrs.update({"authoring_program": "emdfile", "emd_group_type": "file"})
        file["datacube_root/datacube/data"] = cube
        for axis, (step, unit) in enumerate([(0.5, "nm"), (0.5, "nm"), (0.02, "A^-1"), (0.02, "A^-1")]):
            file[f"datacube_root/datacube/dim{axis}"] = np.array([0, step])
            if calibrated:
                file[f"datacube_root/datacube/dim{axis}"].attrs["units"] = unit
        if calibrated:
            file["datacube_root/metadatabundle/calibration/Q_pixel_size"] = 0.02
            file["datacube_root/metadatabundle/calibration/convergence_semiangle_mrad"] = 2.0
    return path


def hspy(path: Path, cube: NDArray) -> Path:
    """A HyperSpy signal: steps of 0.5 nm, a detector pixel of 0.5 mrad, 200 keV, 2 mrad semi-angle."""
    with h5py.File(path, "w") as file:
        file.attrs.update({"file_format": "HyperSpy", "file_format_version": "3.1"})
        place = file.create_group("Experiments/scan")
        place["data"] = cube
        for axis in range(cube.ndim):
            scanned = axis < cube.ndim - 2
            step, unit = (0.5, "nm") if scanned else (0.5, "mrad")
            place.create_group(f"axis-{axis}").attrs.update(
                {"navigate": scanned, "scale": step, "units": unit, "size": cube.shape[axis], "offset": 0.0}
            )
        beam = {"beam_energy": 200.0, "convergence_angle": 2.0}
        place.create_group("metadata/Acquisition_instrument/TEM").attrs.update(beam)
    return path


def velox(path: Path, frames: NDArray) -> Path:
    """An EMD of Velox: (rows, columns, n) and its metadata as a column of bytes."""
    with h5py.File(path, "w") as file:
        place = file.create_group("Data/Image/0123abcd")
        place["Data"] = np.moveaxis(frames, 0, 2)
        optics = {"AccelerationVoltage": "300000", "BeamConvergence": "0.002"}
        pixel = {"PixelSize": {"width": "2e8", "height": "2e8"}, "PixelUnitX": "1/m"}
        text = json.dumps({"Optics": optics, "BinaryResult": pixel})
        told = np.frombuffer(text.encode().ljust(512, b"\0"), np.uint8)
        place["Metadata"] = np.repeat(told[:, None], len(frames), axis=1)
    return path


def tiff_folder(path: Path, frames: NDArray) -> Path:
    """One TIFF image a frame, numbered without leading zeros."""
    path.mkdir()
    for number, frame in enumerate(frames):
        tifffile.imwrite(path / f"scan_{number}.tif", frame)
    return path


def zspy(path: Path, cube: NDArray, compressor: str | None = "blosc", zipped: bool = False, version: int = 2) -> Path:
    """A HyperSpy signal in Zarr: as ``hspy``, in chunks that do not divide the sides; the first chunk is one of zeros."""
    chunks = [2, 3, 10, 16]
    members: dict[str, bytes] = {".zgroup": b'{"zarr_format": 2}'}

    def put(name: str, content: Any) -> None:
        members[name] = json.dumps(content).encode()

    place = "Experiments/scan"
    put(f"{place}/data/.zarray", {
        "shape": cube.shape, "chunks": chunks, "dtype": cube.dtype.str, "order": "C", "fill_value": 0, "filters": None,
        "compressor": None if compressor is None else {"id": compressor}, "zarr_format": 2,
    })  # fmt: skip
    for axis in range(4):
        step, unit = (0.5, "nm") if axis < 2 else (0.5, "mrad")
        put(f"{place}/axis-{axis}/.zattrs", {"navigate": axis < 2, "scale": step, "units": unit})
    put(f"{place}/metadata/Acquisition_instrument/TEM/.zattrs", {"beam_energy": 200.0})
    for chunk in np.ndindex(*(-(-side // step) for side, step in zip(cube.shape, chunks, strict=True))):
        whole = np.zeros(chunks, cube.dtype)
        start = [number * step for number, step in zip(chunk, chunks, strict=True)]
        part = cube[tuple(slice(first, first + step) for first, step in zip(start, chunks, strict=True))]
        whole[tuple(slice(0, side) for side in part.shape)] = part
        members[f"{place}/data/{'.'.join(map(str, chunk))}"] = _compressed(whole, compressor)
    members = members if version == 2 else _as_version_3(members)
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
    else:
        for name, data in members.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    return path


def _as_version_3(members: dict[str, bytes]) -> dict[str, bytes]:
    """The members of a store of version 2 in the words of version 3."""
    made: dict[str, Any] = {}
    for name, data in members.items():
        place, _, last = name.rpartition("/")
        if last == ".zgroup":
            made["zarr.json"] = {"zarr_format": 3, "node_type": "group"}
        elif last == ".zattrs":
            made[f"{place}/zarr.json"] = {"zarr_format": 3, "node_type": "group", "attributes": json.loads(data)}
        elif last == ".zarray":
            told = json.loads(data)
            codecs: list[Any] = [{"name": "bytes", "configuration": {"endian": "little"}}]
            made[f"{place}/zarr.json"] = {
                "zarr_format": 3, "node_type": "array", "shape": told["shape"], "data_type": np.dtype(told["dtype"]).name,
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": told["chunks"]}},
                "chunk_key_encoding": {"name": "default"}, "fill_value": 0,
                "codecs": codecs + ([{"name": told["compressor"]["id"]}] if told["compressor"] else []),
            }  # fmt: skip
        else:
            made[f"{place}/c/{last.replace('.', '/')}"] = data
    return {name: data if isinstance(data, bytes) else json.dumps(data).encode() for name, data in made.items()}


def _compressed(values: NDArray, compressor: str | None) -> bytes:
    if compressor == "zlib":
        return zlib.compress(values.tobytes())
    if compressor not in ("blosc", "zstd"):
        return values.tobytes()
    codec = hdf5plugin.Blosc(cname="lz4") if compressor == "blosc" else hdf5plugin.Zstd()
    with h5py.File("chunk", "w", driver="core", backing_store=False) as file:
        data = np.frombuffer(values.tobytes(), np.uint8)
        dataset = file.create_dataset("d", data=data, chunks=data.shape, **codec)
        return bytes(dataset.id.read_direct_chunk((0,))[1])
