"""Damaged and hostile files: an InputError or a scan, never a crash, another exception, a hang or memory beyond a bound."""

from __future__ import annotations

import bz2
import json
import resource
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import microscope_files
import numpy as np
import pytest
import scipy.io
import tifffile
from helpers import TIMES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptycho_ray.data import RawData, load_data
from ptycho_ray.errors import InputError

N, n = 8, 6
LIMIT = 64 * 2**20
MUTATIONS = 20 * TIMES


def a_scan() -> RawData:
    rng = np.random.default_rng(0)
    scan = RawData(
        *rng.uniform(9, 30, (2, n)),
        None,
        None,
        rng.poisson(5.0, (n, N, N)).astype(np.uint16) + np.uint16(1),
        rng.normal(size=(2, N, N)) + 1j * rng.normal(size=(2, N, N)),
        objectGuess=np.ones((40, 40)) + 1j * rng.normal(size=(40, 40)),
        bad_pixels=np.eye(N, dtype=bool),
        pixel_size_m=1e-8,
        energy_eV=8e3,
        detector_distance_m=2.0,
    )
    return scan


def _written(form: str, name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        a_scan().to_file(folder / name, form)
        return folder / name

    return write


def _mat(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    content = {
        "object": rng.normal(size=(20, 20)) + 1j,
        "probe": rng.normal(size=(N, N, 2)) + 1j,
        "p": {"lambda": 1e-10, "dx_spec": np.array([1e-8, 1e-8]), "notes": "text", "parts": np.array(["a", 1], object)},
        "outputs": {"probe_positions": rng.uniform(-5, 5, (n, 2))},
    }
    scipy.io.savemat(folder / "Niter1.mat", content, do_compression=False)
    with h5py.File(folder / "x_dp.hdf5", "w") as file:
        file["dp"] = np.ones((n, N, N))
    return folder / "Niter1.mat"


def _mat_compressed(folder: Path) -> Path:
    content = scipy.io.loadmat(_mat(folder), simplify_cells=True)
    scipy.io.savemat(folder / "Niter2.mat", {k: v for k, v in content.items() if k[0] != "_"}, do_compression=True)
    return folder / "Niter2.mat"


def _bz2(folder: Path) -> Path:
    a_scan().to_file(folder / "t.npz", "tike")
    path = folder / "t.npz.bz2"
    path.write_bytes(bz2.compress((folder / "t.npz").read_bytes()))
    return path


def _table(folder: Path) -> Path:
    np.savetxt(folder / "positions.txt", np.random.default_rng(0).normal(size=(n, 2)) * 1e-6)
    with h5py.File(folder / "x_dp.hdf5", "w") as file:
        file["dp"] = np.ones((n, N, N))
    return folder / "positions.txt"


def _hdf5(name: str, other: str | None = None, **content: Any) -> Callable[[Path], Path]:
    """A file of ``content`` (paths with '__' for '/'); ``other`` names the frames that it is a companion of."""

    def write(folder: Path) -> Path:
        with h5py.File(folder / name, "w") as file:
            for place, value in content.items():
                file[place.replace("__", "/")] = value
        if other is not None:
            with h5py.File(folder / other, "w") as file:
                file["dp"] = np.ones((n, N, N))
        return folder / name

    return write


def _master(folder: Path) -> Path:
    with h5py.File(folder / "f_data_1.h5", "w") as file:
        file["data"] = np.ones((n, N, N), np.uint16)
    np.savetxt(folder / "f.txt", np.random.default_rng(0).normal(size=(n, 2)) * 1e-6)
    with h5py.File(folder / "f_master.h5", "w") as file:
        file["entry/instrument/detector/detectorSpecific/photon_energy"] = 8e3
        file["entry/instrument/detector/detectorSpecific/pixel_mask"] = np.zeros((N, N), np.uint32)
        file["entry/sample/goniometer/chi"] = 1.0
        file["entry/data/data_000001"] = h5py.ExternalLink("f_data_1.h5", "data")
    return folder / "f_master.h5"


def _npz(**content: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.savez(folder / "a.npz", **content)
        return folder / "a.npz"

    return write


COUNTS, PLACES = np.ones((n, N, N), np.uint16), np.random.default_rng(0).uniform(9, 30, (n, 2))
IMAGE, PROBE = np.ones((40, 40)) * (1 + 1j), np.ones((N, N)) + 0j
EXPORT = dict.fromkeys(("xcoords", "ycoords", "xcoords_start", "ycoords_start", "scan_index"), PLACES[:, 0])

SAMPLES: dict[str, Callable[[Path], Path]] = {
    "ptychopinn": _written("ptychopinn", "a.npz"),
    "ptychopinn-hdf5": _written("ptychopinn-hdf5", "a.h5"),
    "cxi": _written("cxi", "a.cxi"),
    "nexus": _written("nexus", "a.nxs"),
    "ptyd": _written("ptyd", "a.ptyd"),
    "ptychodus": _written("ptychodus", "product.h5"),
    "ptychodus npz": _written("ptychodus", "product.npz"),
    "ptychodus-training": _written("ptychodus-training", "a.h5"),
    "ptychovit": _written("ptychovit", "a_para.hdf5"),
    "tike": _written("tike", "a.npz"),
    "tike bz2": _bz2,
    "mat": _mat,
    "mat compressed": _mat_compressed,
    "table": _table,
    "velociprobe": _master,
    "dp-pos": _npz(dp=COUNTS, pos=PLACES, probe=PROBE, obj=IMAGE),
    "ptychodus-ptychopinn": _npz(
        **EXPORT, diff3d=COUNTS, bad_pixels=COUNTS[0] == 0, probeGuess=PROBE, objectGuess=IMAGE
    ),
    "data-roi": _hdf5("a_para.hdf5", "x_dp.hdf5", ppX=PLACES[:, 0] * 1e-8, ppY=PLACES[:, 1] * 1e-8, dx=1e-8),
    "ptyr": _hdf5(
        "a.ptyr", "x_dp.hdf5", content__obj__S__data=IMAGE[None], content__probe__S__data=PROBE[None],
        content__positions__S=PLACES * 1e-8,
    ),
    "ptychoshelves-hdf5": _hdf5(
        "a.h5", measurement__n0__data=COUNTS, measurement__n0__positions=PLACES.astype(np.uint32),
        reconstruction__p__probes__probe_0=PROBE, reconstruction__p__objects__object_0=IMAGE,
    ),
    "ptychoshelves 7.3": _hdf5(
        "a.mat", "x_dp.hdf5", object=IMAGE, probe=PROBE, outputs__probe_positions=PLACES.T, p__lambda=1e-10
    ),
    "cxi product": _hdf5(
        "a.cxi", entry_1__sample_1__geometry_1__translation=np.c_[PLACES * 1e-8, PLACES[:, 0]],
        entry_1__instrument_1__detector_1__data=COUNTS, entry_1__image_1__data=PROBE[None, None],
        entry_1__image_2__data=IMAGE[None], entry_1__ptychodus__object_pixel_width_m=1e-8,
        entry_1__ptychodus__object_pixel_height_m=1e-8, entry_1__instrument_1__source_1__energy=1e-15,
    ),
}  # fmt: skip


STACK = (COUNTS * np.arange(1, N * N + 1, dtype=np.uint16).reshape(N, N)).astype(np.uint16)
CUBE = STACK.reshape(2, 3, N, N)
CALIBRATED = ((0.5, "nm"), (0.5, "nm"), (0.5, "mrad"), (0.5, "mrad"))
SAMPLES |= {
    "hxn": _hdf5("a.h5", diffamp=STACK, points=PLACES.T, z_m=1.0, lambda_nm=0.1, ccd_pixel_um=55.0, angle=0.0),
    "py4dstem": lambda folder: microscope_files.py4dstem(folder / "a.h5", CUBE),
    "hspy": lambda folder: microscope_files.hspy(folder / "a.hspy", CUBE),
    "zspy": lambda folder: microscope_files.zspy(folder / "a.zspy", CUBE, "zlib", zipped=True),
    "zspy blosc": lambda folder: microscope_files.zspy(folder / "a.zspy", CUBE, "blosc", zipped=True),
    "zspy 3": lambda folder: microscope_files.zspy(folder / "a.zspy", CUBE, "zstd", zipped=True, version=3),
    "dm3": lambda folder: microscope_files.dm(folder / "a.dm3", CUBE, 3, CALIBRATED),
    "dm4": lambda folder: microscope_files.dm(folder / "a.dm4", CUBE, 4, CALIBRATED),
    "blo": lambda folder: microscope_files.blockfile(folder / "a.blo", STACK, (2, 3)),
    "velox": lambda folder: _placed(microscope_files.velox(folder / "a.emd", STACK)),
    "mib": lambda folder: _placed(microscope_files.merlin(folder / "a.mib", STACK)),
    "tvips": lambda folder: _placed(microscope_files.tvips(folder / "a_000.tvips", STACK)),
    "mrc": lambda folder: _placed(microscope_files.mrc(folder / "a.mrc", STACK)),
    "empad": lambda folder: _placed(microscope_files.empad(folder / "a.raw", np.ones((n, 128, 128)))),
    "tiff": lambda folder: _placed(_tiff(folder / "a.tif")),
    "npy": lambda folder: _placed(_npy(folder / "a.npy")),
}


def _placed(path: Path) -> Path:
    """A table of positions beside frames that have none."""
    np.savetxt(path.with_name("places.txt"), PLACES * 1e-8)
    return path


def _tiff(path: Path) -> Path:
    tifffile.imwrite(path, STACK, photometric="minisblack")
    return path


def _npy(path: Path) -> Path:
    np.save(path, STACK)
    return path


def attempt(path: Path) -> bool:
    """Read everything; True if it could be read. Anything but an InputError ends the test."""
    companion = next((p for name in ("x_dp.hdf5", "places.txt") if (p := path.with_name(name)).is_file()), None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            raw = load_data(path, companion=companion, pixel_size_m=1e-8, max_bytes=LIMIT)
            raw.patterns.intensity()
    except InputError:
        return False
    return True


def hostile(content: bytes, rng: np.random.Generator) -> bytes:
    """A run of bytes overwritten with noise, zeros or ones, one bit turned, a piece cut out or repeated."""
    kind, where = rng.integers(6), int(rng.integers(len(content)))
    length = int(rng.integers(1, 17))
    match kind:
        case 0:
            piece = rng.bytes(length)
        case 1:
            piece = b"\xff" * length
        case 2:
            piece = b"\x00" * length
        case 3:
            piece = bytes([content[where] ^ (1 << int(rng.integers(8)))])
        case 4:
            return content[:where] + content[where + length :]
        case _:
            return content[:where] + content[where : where + length] * 2 + content[where + length :]
    return content[:where] + piece + content[where + len(piece) :]


WITHOUT_STRUCTURE = ("table", "empad", "mrc", "tvips", "mib", "blo", "npy")
"""Samples of which most bytes are values, so that a few changes are seldom damage."""


@pytest.mark.parametrize("name", SAMPLES)
def test_truncated_and_mutated_files(name: str, tmp_path: Path) -> None:
    path = SAMPLES[name](tmp_path)
    content = path.read_bytes()
    assert attempt(path)
    for kept in (0, 1, 7, 100, 127, 130, len(content) // 3, len(content) // 2, len(content) - 9, len(content) - 1):
        path.write_bytes(content[:kept])
        attempt(path)
    rng = np.random.default_rng(len(name))
    survivors = 0
    tracemalloc.start()
    for _ in range(MUTATIONS):
        path.write_bytes(hostile(content, rng))
        survivors += attempt(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * LIMIT
    assert survivors < MUTATIONS or name in WITHOUT_STRUCTURE
    path.write_bytes(content)
    assert attempt(path)


def declared(path: Path, shapes: dict[str, tuple[int, ...]], **values: Any) -> Path:
    """An HDF5 file whose datasets declare shapes that nothing was ever written to."""
    with h5py.File(path, "w") as file:
        for name, shape in shapes.items():
            file.create_dataset(name, shape, np.float64, chunks=(1,) * (len(shape) - 1) + (min(16, shape[-1]),))
        for name, value in values.items():
            file[name] = value
    return path


HUGE = 10**12


@pytest.mark.parametrize(
    ("shapes", "values"),
    [
        ({"patterns": (HUGE, 16, 16), "indexes": (HUGE,)}, {}),
        ({"patterns": (4, 10**6, 10**6)}, {"indexes": np.arange(4)}),
        ({"dp": (HUGE, 16, 16), "xcoords": (HUGE,), "ycoords": (HUGE,)}, {"probeGuess": np.ones((16, 16))}),
        ({"dp": (HUGE, 16, 16)}, {}),
        ({"diff3d": (4, 16, 16), "probeGuess": (10**6, 10**6)}, {"xcoords": np.arange(4), "ycoords": np.arange(4)}),
        ({"chunks/0/data": (HUGE, 16, 16), "chunks/0/positions": (HUGE, 2)}, {"meta/energy": 8.0}),
        ({"measurement/n0/data": (HUGE, 16, 16), "measurement/n0/positions": (HUGE, 2)}, {}),
        ({"object": (1, 10**6, 10**6), "probe": (1, 1, 16, 16)}, dict.fromkeys(
            ("probe_position_x_m", "probe_position_y_m", "probe_position_indexes"), np.arange(4.0))),
        ({"entry_1/instrument_1/detector_1/data": (HUGE, 16, 16), "entry_1/data_1/translation": (HUGE, 3)}, {}),
        ({"entry/data/data_000001": (HUGE, 16, 16)}, {"entry/instrument/detector/detectorSpecific/nimages": 1}),
    ],
)  # fmt: skip
def test_declared_sizes_are_refused_and_not_allocated(
    shapes: dict[str, tuple[int, ...]], values: dict[str, Any], tmp_path: Path
) -> None:
    path = declared(tmp_path / "x_dp.hdf5", shapes, **values)
    np.savetxt(tmp_path / "positions.txt", np.ones((4, 2)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError):
        load_data(path, pixel_size_m=1e-8, companion=tmp_path / "positions.txt")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB


def test_a_bz2_bomb_and_a_mat_bomb_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("data.npy", b"\0" * (2 * LIMIT))
    (tmp_path / "a.npz.bz2").write_bytes(bz2.compress((tmp_path / "a.npz").read_bytes()))
    with pytest.raises(InputError, match="when inflated"):
        load_data(tmp_path / "a.npz.bz2", max_bytes=LIMIT)
    scipy.io.savemat(tmp_path / "a.mat", {"object": np.zeros((2000, 2000))}, do_compression=True)
    with pytest.raises(InputError, match="MiB of variables"):
        load_data(tmp_path / "a.mat", max_bytes=LIMIT)


@pytest.mark.parametrize("name", ["bz2", "hdf5"])
def test_a_small_file_that_inflates_to_gigabytes_is_refused_at_once(name: str, tmp_path: Path) -> None:
    if name == "bz2":
        path, packer = tmp_path / "a.npz.bz2", bz2.BZ2Compressor(9)
        with path.open("wb") as stream:
            stream.write(packer.compress(b"PK\3\4"))
            for _ in range(20):
                stream.write(packer.compress(bytes(2**24)))
            stream.write(packer.flush())
        assert path.stat().st_size < 2**15
    else:
        path = tmp_path / "a.h5"
        with h5py.File(path, "w") as file:
            whole = (2**12, 512, 512)  # 2 GiB of uint16 in one chunk
            file.create_dataset("dp", whole, np.uint16, chunks=whole, compression="gzip")
            file["xcoords"], file["ycoords"] = np.zeros((2, 2**12))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="inflate"):
        load_data(path, max_bytes=2**40)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700 * 1024  # KiB


few_examples = settings(
    max_examples=20 * TIMES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
sides = st.sampled_from([0, 1, 7, 8, 9, 255, 2**15, 2**16, 2**31 - 1]) | st.integers(0, 2**31 - 1)
words = st.text("0123456789x:uintfloa-+.,e _\n\0", max_size=30)


@few_examples
@given(
    shape=words
    | st.builds("{}x{}x{}:{}:{}".format, sides, sides, sides, st.sampled_from(["uint16", "O", "V8", ">f4", ""]), sides)
)
def test_any_text_as_shape_of_raw_data(shape: str, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(range(256)) * 4)
    with suppress(InputError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load_data(path, shape=shape, raster="2x3", step="1px")


@few_examples
@given(
    numbers=st.lists(sides, min_size=6, max_size=6), kind=st.sampled_from(["U08", "U16", "U32", "R64", "", "U16\xff"])
)
def test_any_numbers_in_the_headers_of_microscopes(numbers: list[int], kind: str, tmp_path: Path) -> None:
    _placed(tmp_path / "a")
    first, width, height, offset, mode, other = numbers
    body = bytes(range(256)) * 64
    headers = {
        "a.mib": f"MQ1,{first},{offset},{other},{width},{height},{kind},".encode("latin-1").ljust(384),
        "a.mrc": struct.pack("<4i", width, height, first, mode % 16).ljust(92, b"\0")
        + struct.pack("<i", offset).ljust(116, b"\0") + b"MAP ".ljust(816, b"\0"),
        "a_000.tvips": struct.pack("<13I", 256, 2, width, height, 16, 0, 0, 1, 1, 1, first, 80, offset).ljust(256, b"\0"),
        "a.blo": struct.pack(
            "<6sHIIIHHHHHddIHId",
            *(b"IMGBLO", 0, 0, offset, 0, width % 2**16, 0, first % 2**16, height % 2**16, 0, 1.0, 1.0, 2, 1, 1, 0.0),
        ).ljust(offset % 4096, b"\0"),
    }  # fmt: skip
    for name, header in headers.items():
        (tmp_path / name).write_bytes(header + body)
        attempt(tmp_path / name)


@few_examples
@given(
    shape=st.lists(sides, max_size=5), chunks=st.lists(sides, max_size=5), dtype=st.sampled_from(["<u2", "O", "V3", "", 7]),
    compressor=st.none() | st.fixed_dictionaries({"id": st.sampled_from(["blosc", "zlib", "lz4", 3])}),
)  # fmt: skip
def test_any_array_that_a_zarr_store_claims_to_hold(
    shape: list[int], chunks: list[int], dtype: Any, compressor: Any, tmp_path: Path
) -> None:
    path = tmp_path / "a.zspy"
    if not path.exists():
        microscope_files.zspy(path, CUBE, "zlib")
        _placed(path)
    told = {"shape": shape, "chunks": chunks, "dtype": dtype, "compressor": compressor, "fill_value": 1}
    (path / "Experiments/scan/data/.zarray").write_text(json.dumps(told))
    attempt(path)


HUGE_STORE = {"shape": [HUGE, 1, 1], "chunks": [16, 1, 1], "dtype": "<u2", "compressor": None, "fill_value": 1}


@pytest.mark.parametrize("told", [HUGE_STORE, HUGE_STORE | {"shape": [4, 9, 9], "chunks": [2**14, 2**9, 2**9]}])
def test_a_zarr_store_of_claims_is_refused(told: dict[str, Any], tmp_path: Path) -> None:
    path = _placed(microscope_files.zspy(tmp_path / "a.zspy", CUBE, "zlib"))
    (path / "Experiments/scan/data/.zarray").write_text(json.dumps(told))
    assert not attempt(path)


@pytest.mark.parametrize("name", ["image of a folder", "hdr", "xml"])
def test_a_damaged_file_beside_the_frames(name: str, tmp_path: Path) -> None:
    frames = np.ones((n, 128, 128))
    if name == "image of a folder":
        scan = microscope_files.tiff_folder(tmp_path / "images", STACK)
        damaged = sorted(scan.iterdir())[n // 2]
        _placed(scan)
    elif name == "hdr":
        microscope_files.merlin(tmp_path / "a.mib", STACK)
        scan = damaged = _placed(tmp_path / "a.hdr")
        damaged.write_text("HDR,\nTime and Date Stamp:\t1/1/2026\nFrames in Acquisition (Number):\t6\nEnd\t\n")
    else:
        scan = _placed(microscope_files.empad(tmp_path / "a.raw", frames, (2, 3)))
        damaged = next(tmp_path.glob("*.xml"))
    content = damaged.read_bytes()
    assert attempt(scan)
    rng = np.random.default_rng(0)
    for kept in (0, 1, 8, len(content) // 2, len(content) - 1):
        damaged.write_bytes(content[:kept])
        attempt(scan)
    for _ in range(MUTATIONS):
        damaged.write_bytes(hostile(content, rng))
        attempt(scan)
