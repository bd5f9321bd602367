"""Readers of electron microscopes' formats, stacks of images and plain binary files: frames, raster, geometry, the way on."""

from __future__ import annotations

import json
import pickle
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import microscope_files as write
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from ptycho_ray.commands.cli import main
from ptycho_ray.data import RawData, load_data
from ptycho_ray.errors import InputError

N, ROWS, COLUMNS = 16, 3, 5
n = ROWS * COLUMNS


@pytest.fixture
def counts() -> NDArray[np.uint16]:
    """Frames with a bright spot off the middle, so that flips and exchanges show."""
    rng = np.random.default_rng(0)
    r, c = np.indices((N, N))
    return rng.poisson(60 * np.exp(-((r - 7) ** 2 + (c - 9) ** 2) / 12) + 1, (n, N, N)).astype(np.uint16)


def quiet(path: Path, **how: Any) -> RawData:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_data(path, **how)


STACKS: dict[str, Callable[[Path, NDArray], Path]] = {
    "mib": lambda folder, frames: write.merlin(folder / "a.mib", frames),
    "mib 32": lambda folder, frames: write.merlin(folder / "a.mib", frames.astype(np.uint32)),
    "tvips": lambda folder, frames: write.tvips(folder / "a_000.tvips", frames),
    "mrc": lambda folder, frames: write.mrc(folder / "a.mrc", frames),
    "mrc float": lambda folder, frames: write.mrc(folder / "a", frames, mode=2),
    "dm3": lambda folder, frames: write.dm(folder / "a.dm3", frames, version=3),
    "dm4": lambda folder, frames: write.dm(folder / "a.dm4", frames),
    "velox": lambda folder, frames: write.velox(folder / "a.emd", frames),
    "tiff": lambda folder, frames: _tiff(folder / "a.dat", frames),
    "tiff compressed": lambda folder, frames: _tiff(folder / "a.tif", frames, compression="zlib"),
    "folder": lambda folder, frames: write.tiff_folder(folder / "images", frames),
    "npy": lambda folder, frames: _npy(folder / "a.npy", frames),
    "npy fortran": lambda folder, frames: _npy(folder / "a.npy", np.asfortranarray(frames)),
    "npy last axis": lambda folder, frames: _npy(folder / "a.npy", np.ascontiguousarray(np.moveaxis(frames, 0, 2))),
}


def _tiff(path: Path, frames: NDArray, **how: Any) -> Path:
    tifffile.imwrite(path, frames, photometric="minisblack", **how)
    return path


def _npy(path: Path, frames: NDArray) -> Path:
    with path.open("wb") as file:
        np.save(file, frames)
    return path


@pytest.mark.parametrize("kind", STACKS)
def test_stacks_on_a_raster(kind: str, counts: NDArray, tmp_path: Path) -> None:
    path = STACKS[kind](tmp_path, counts)
    raw = quiet(path, raster=f"{ROWS}x{COLUMNS}", step="2px")
    assert not raw.patterns.in_memory
    for wanted in ([3], [14, 0, 7, 7], []):
        np.testing.assert_array_equal(raw.patterns.intensity(wanted), counts[wanted])
    np.testing.assert_array_equal(np.ptp(raw.positions_px, axis=0), [2 * (ROWS - 1), 2 * (COLUMNS - 1)])
    sent = pickle.dumps(raw.patterns)
    assert len(sent) < 20_000
    np.testing.assert_array_equal(pickle.loads(sent).intensity([5]), counts[[5]])
    with pytest.raises(InputError, match=r"positions: found none.*--raster ROWSxCOLUMNS --step"):
        quiet(path)
    with pytest.raises(InputError, match=r"4 x 5 = 20 places for 15 frames.*--raster 4x5 --step 50nm --select 0:15$"):
        quiet(path, raster="4x5", step="2px")
    assert np.ptp(quiet(path, raster="4x5", step="2px", select="0:15").positions_px, axis=0).tolist() == [4, 8]
    assert len(quiet(path, raster="2x5", step="2px", select="0:10")) == 10


def test_velox_states_voltage_semiangle_and_detector(counts: NDArray, tmp_path: Path) -> None:
    raw = quiet(write.velox(tmp_path / "a.emd", counts), raster="3x5", step="0.1nm")
    assert raw.energy_eV == 3e5
    assert raw.optics is not None
    assert raw.optics.semiangle_rad == 2e-3
    assert raw.pixel_size_m == pytest.approx(1 / (N * 2e8))


def test_a_semiangle_that_the_detector_cannot_hold_is_not_used(counts: NDArray, tmp_path: Path) -> None:
    path = write.hspy(tmp_path / "a.hspy", counts.reshape(ROWS, COLUMNS, N, N))
    with h5py.File(path, "a") as file:
        file["Experiments/scan/metadata/Acquisition_instrument/TEM"].attrs["convergence_angle"] = 30.0
    raw = quiet(path)
    assert raw.optics is None
    assert any("30 mrad in the file does not fit on its detector, which ends at 4 mrad" in note for note in raw.notes)
    with pytest.raises(InputError, match="semiangle_mrad: found 30 mrad, but the detector ends at 4 mrad"):
        quiet(path, semiangle_mrad=30)


def test_raw_binary_of_a_named_shape(counts: NDArray, tmp_path: Path) -> None:
    (tmp_path / "frames.bin").write_bytes(b"\0" * 100 + counts.astype(">u2").tobytes())
    how = {"raster": "3x5", "step": "2px"}
    raw = quiet(tmp_path / "frames.bin", shape=f"{n}x{N}x{N}:>u2:100", **how)
    np.testing.assert_array_equal(raw.patterns.intensity([2, 9]), counts[[2, 9]])
    for wrong in ("15x16", "15x16x16:object", "15x16x16:|O", "axbxc:uint16"):
        with pytest.raises(InputError, match="shape"):
            quiet(tmp_path / "frames.bin", shape=wrong, **how)
    with pytest.raises(InputError, match=r"frames\.bin: shape: found .* bytes; expected"):
        quiet(tmp_path / "frames.bin", shape=f"{n + 9}x{N}x{N}:uint16", **how)
    with pytest.raises(InputError, match="known header.*--shape"):
        quiet(tmp_path / "frames.bin")


def test_a_stack_larger_than_the_memory_stays_on_disk(tmp_path: Path) -> None:
    """Ten gigabytes, of which nothing was written but one frame (a sparse file): a bounded part of it is read."""
    side, count = 128, 300_000
    with (tmp_path / "frames.bin").open("wb") as file:
        file.truncate(side * side * 2 * count)
        file.seek(side * side * 2 * 12_345)
        file.write(np.full((side, side), 7, np.uint16).tobytes())
    tracemalloc.start()
    how = {"shape": f"{count}x{side}x{side}:uint16", "raster": "500x600", "step": "3px"}
    raw = quiet(tmp_path / "frames.bin", probe=np.ones((side, side), complex), **how)
    assert raw.patterns.intensity([12_345]).min() == 7
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert raw.patterns.nbytes > 9e9
    assert peak < 500 * 2**20


def test_empad_with_and_without_its_xml(counts: NDArray, tmp_path: Path) -> None:
    frames = np.zeros((n, 128, 128), np.float32)
    frames[:, 56:72, 56:72] = counts
    path = write.empad(tmp_path / "scan_x5_y3.raw", frames)
    with pytest.raises(InputError, match=r"step: found a raster of 3 x 5 without its step.*--step"):
        quiet(path)
    raw = quiet(path, step="3px")
    assert (raw.electrons, raw.N, len(raw)) == (True, 128, n)
    np.testing.assert_array_equal(raw.patterns.intensity([4]), frames[[4]])
    path = write.empad(tmp_path / "other.raw", frames, (ROWS, COLUMNS))
    for name in ("other.raw", "other.xml"):
        raw = quiet(tmp_path / name, step="0.4nm")
        assert raw.energy_eV == 3e5
        assert raw.pixel_size_m == pytest.approx(1.96875e-12 / (128 * 0.0004), rel=1e-4)
    own = quiet(path)  # the field of view, the part of it that was scanned, and the number of places
    np.testing.assert_allclose(np.ptp(own.positions_px, axis=0) * own.pixel_size_m, [2 * 1e-9, 4 * 1e-9], rtol=1e-6)
    path.unlink()
    with pytest.raises(InputError, match=r"the XML of an EMPAD scan of 3 x 5.*other\.raw in the same folder"):
        quiet(tmp_path / "other.xml")


@pytest.mark.parametrize("kind", ["py4DSTEM", "hspy", "dm4", "blo"])
def test_cubes_that_state_their_steps(kind: str, counts: NDArray, tmp_path: Path) -> None:
    cube = counts.reshape(ROWS, COLUMNS, N, N)
    mrad = ((0.5, "nm"), (0.5, "nm"), (0.5, "mrad"), (0.5, "mrad"))
    path = {
        "py4DSTEM": lambda: write.py4dstem(tmp_path / "a.h5", cube),
        "hspy": lambda: write.hspy(tmp_path / "a.hspy", cube),
        "dm4": lambda: write.dm(tmp_path / "a.dm4", cube, scales=mrad),
        "blo": lambda: write.blockfile(tmp_path / "a.blo", counts, (ROWS, COLUMNS)),
    }[kind]()
    raw = quiet(path)
    assert raw.electrons
    np.testing.assert_array_equal(raw.patterns.intensity([1, 13]), counts[[1, 13]])
    pixel = {"py4DSTEM": 1e-10 / (N * 0.02), "hspy": 2.50793e-12 / (N * 5e-4), "dm4": 1.96875e-12 / (N * 5e-4)}
    pixel["blo"] = 2.50793e-12 / (N * (1 / 6226) / 0.2)
    assert raw.pixel_size_m == pytest.approx(pixel[kind], rel=1e-4)
    assert raw.pixel_size_m is not None
    assert (None if raw.optics is None else raw.optics.semiangle_rad) == (
        None if kind == "blo" else pytest.approx(2e-3)
    )
    step = 2e-9 if kind == "blo" else 0.5e-9
    np.testing.assert_allclose(raw.positions_px[1] - raw.positions_px[0], [0, step / raw.pixel_size_m])
    np.testing.assert_allclose(raw.positions_px[COLUMNS] - raw.positions_px[0], [step / raw.pixel_size_m, 0])


@pytest.mark.parametrize("compressor", ["blosc", "zstd", "zlib", None])
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("version", [2, 3])
def test_zspy(compressor: str | None, zipped: bool, version: int, counts: NDArray, tmp_path: Path) -> None:
    cube = counts.reshape(ROWS, COLUMNS, N, N)
    path = write.zspy(tmp_path / "a.zspy", cube, compressor, zipped, version)
    raw = quiet(path)
    np.testing.assert_array_equal(raw.patterns.intensity([1, 13, 14]), counts[[1, 13, 14]])
    assert raw.energy_eV == 2e5
    assert raw.pixel_size_m == pytest.approx(2.50793e-12 / (N * 5e-4), rel=1e-4)
    np.testing.assert_allclose(raw.positions_px[1] - raw.positions_px[0], [0, 0.5e-9 / raw.pixel_size_m])


def test_a_cube_without_units_asks_for_its_step(counts: NDArray, tmp_path: Path) -> None:
    path = write.py4dstem(tmp_path / "a.h5", counts.reshape(ROWS, COLUMNS, N, N), calibrated=False)
    with pytest.raises(InputError, match=r"raster of 3 x 5 without its step.*Type: ptycho-ray info .* --step"):
        quiet(path)
    assert len(quiet(path, step="2.5px")) == n


def test_raw_merlin_frames_are_refused_with_the_reason(counts: NDArray, tmp_path: Path) -> None:
    path = write.merlin(tmp_path / "a.mib", counts)
    path.write_bytes(path.read_bytes().replace(b"U16", b"R64"))
    with pytest.raises(
        InputError, match=r"raw frames of a Merlin detector.*not in order.*Type: ptycho-ray info .*a\.tif --raster"
    ):
        quiet(path)
    (tmp_path / "b.hdr").write_text("HDR,\t\nFrames:\t9\n")
    with pytest.raises(InputError, match=r"b\.mib in the same folder.*Type: ptycho-ray info .*b\.hdr$"):
        quiet(tmp_path / "b.hdr")


def test_parts_without_patterns_say_what_to_type(counts: NDArray, tmp_path: Path) -> None:
    frames = np.ones((n, 128, 128), np.float32)
    write.empad(tmp_path / "a.raw", frames, (ROWS, COLUMNS)).unlink()
    with pytest.raises(
        InputError, match=r"EMPAD scan of 3 x 5.*a\.raw in the same folder.*Type: ptycho-ray info .*a\.xml$"
    ):
        quiet(tmp_path / "a.xml")
    with h5py.File(write.hspy(tmp_path / "mask.hspy", counts.reshape(ROWS, COLUMNS, N, N)), "a") as file:
        place = next(iter(file["Experiments"].values()))
        del place["data"]
        place["data"] = np.eye(N, dtype=np.uint8)
    with pytest.raises(InputError, match=r"single image.*Type: ptycho-ray info SCAN --mask .*mask\.hspy$"):
        quiet(tmp_path / "mask.hspy")
    path = write.merlin(tmp_path / "a.mib", counts)
    marked = quiet(path, raster="3x5", step="2px", mask=str(tmp_path / "mask.hspy")).bad_pixels
    np.testing.assert_array_equal(marked, np.eye(N, dtype=bool))


def test_matlab_order_and_types(counts: NDArray, tmp_path: Path) -> None:
    """MATLAB 7.3: dp(rows, columns, n), pos(n, 2) and a complex probe, all with their axes reversed in the file."""
    probe = np.arange(N * N).reshape(N, N) * (1 + 2j)
    places = np.random.default_rng(0).uniform(0, 40, (n, 2))
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
        file["dp"], file["pos"] = counts.swapaxes(1, 2), places.T
        parts = np.zeros((N, N), [("real", "f8"), ("imag", "f8")])
        parts["real"], parts["imag"] = probe.T.real, probe.T.imag
        file["probe"] = parts
        for name in ("dp", "pos", "probe"):
            file[name].attrs["MATLAB_class"] = np.bytes_("double")
    raw = quiet(tmp_path / "a.mat")
    np.testing.assert_array_equal(raw.patterns.intensity([2, 9]), counts[[2, 9]])
    np.testing.assert_allclose(raw.positions_px, places + N // 2)
    np.testing.assert_allclose(raw.probe[0], probe, rtol=1e-6)


def test_unknown_files_say_what_they_look_like_and_what_to_type(counts: NDArray, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["scan/detector/frames"], file["scan/motors/y_pos"] = counts, np.arange(n) * 1.5
        file["scan/motors/x_pos"] = np.arange(n) * 0.5
    with pytest.raises(
        InputError, match="missing key.*Type: ptycho-ray info .*--frames scan/detector/frames --positions"
    ) as told:
        quiet(tmp_path / "a.h5")
    words = str(told.value).partition("Type: ptycho-ray ")[2].split()
    how = dict(zip([word.removeprefix("--") for word in words[2::2]], words[3::2], strict=True))
    raw = quiet(tmp_path / "a.h5", **how)
    np.testing.assert_array_equal(raw.positions_px, np.stack([np.arange(n) * 1.5, np.arange(n) * 0.5], axis=1))
    with pytest.raises(InputError, match="framse: found an unknown option.*did you mean 'frames'"):
        quiet(tmp_path / "a.h5", framse="x")
    with pytest.raises(InputError, match="positions: found no 'nowhere' in the file"):
        quiet(tmp_path / "a.h5", frames="scan/detector/frames", positions="nowhere")


def test_info_describes_every_file_that_can_be_opened(
    counts: NDArray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write.merlin(tmp_path / "a.mib", counts)
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file.attrs["x"] = 1
    (tmp_path / "note.txt").write_text("nothing but words\n")
    write.py4dstem(tmp_path / "a.h5", counts.reshape(ROWS, COLUMNS, N, N))
    for path in (tmp_path / "a.mib", tmp_path / "empty.h5", tmp_path / "note.txt", tmp_path / "a.h5"):
        assert main(["info", str(path)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert 0 < len(lines) < 30
        assert main(["info", str(path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["verdict"]


def eiger(folder: Path, counts: NDArray, *, group: str = "entry/data", lost: int | None = None) -> Path:
    """A master file of three linked files of 5 frames, and a table of 15 positions; file ``lost`` was not written."""
    for number in range(1, 4):
        if number != lost:
            with h5py.File(folder / f"s_data_{number:06d}.h5", "w") as file:
                file["entry/data/data"] = counts[5 * number - 5 : 5 * number]
    with h5py.File(folder / "s_master.h5", "w") as file:
        for number in range(1, 4):
            file[f"{group}/data_{number:06d}"] = h5py.ExternalLink(f"s_data_{number:06d}.h5", "entry/data/data")
        detector = file.create_group("entry/instrument/detector")
        detector["detector_distance"], detector["x_pixel_size"], detector["y_pixel_size"] = 1.0, 75e-6, 75e-6
        file["entry/instrument/beam/incident_wavelength"] = 1.0
    np.savetxt(folder / "s.csv", np.random.default_rng(0).uniform(0, 1e-6, (n, 2)), delimiter=",")
    return folder / "s_master.h5"


def test_master_files_of_older_firmware_and_of_an_aborted_scan(counts: NDArray, tmp_path: Path) -> None:
    raw = quiet(eiger(tmp_path, counts, group="entry"))
    np.testing.assert_array_equal(raw.patterns.intensity([14, 3]), counts[[14, 3]])
    assert raw.energy_eV == pytest.approx(12398.42, rel=1e-6)  # of the wavelength, 1 Angstrom
    for lost, left in ((3, 10), (2, 5)):
        folder = tmp_path / str(lost)
        folder.mkdir()
        raw = quiet(eiger(folder, counts, lost=lost))
        np.testing.assert_array_equal(raw.patterns.intensity(), counts[:left])
        assert any(f"the first {left} of 15 positions" in note for note in raw.notes)
        assert any(f"s_data_00000{lost}.h5" in note for note in raw.notes)


def test_a_mask_of_the_whole_detector_is_cut_where_the_file_says(counts: NDArray, tmp_path: Path) -> None:
    path, mask = eiger(tmp_path, counts), np.zeros((60, 50), np.uint32)
    mask[12, 24] = 1
    with h5py.File(path, "a") as file:
        file["entry/instrument/detector/pixel_mask"] = mask
    raw = quiet(path)
    assert raw.bad_pixels is None
    assert any("pixel_mask of 60 x 50 pixels was not used" in note for note in raw.notes)
    with h5py.File(path, "a") as file:
        file["entry/instrument/detector/region_origin"] = np.array([20, 10])  # x, y
    assert np.argwhere(quiet(path).bad_pixels).tolist() == [[2, 4]]


def test_hxn_frames_are_turned_back(counts: NDArray, tmp_path: Path) -> None:
    places = np.random.default_rng(0).uniform(0, 2, (2, n))
    with h5py.File(tmp_path / "scan_1.h5", "w") as file:
        file["diffamp"] = np.fft.fftshift(np.rot90(np.sqrt(counts), axes=(2, 1)), axes=(1, 2))
        file["points"] = places
        file["z_m"], file["lambda_nm"], file["ccd_pixel_um"], file["angle"] = 1.0, 0.1, 55.0, 60.0
    raw = quiet(tmp_path / "scan_1.h5")
    np.testing.assert_allclose(raw.patterns.intensity([2, 9]), counts[[2, 9]], rtol=1e-5)
    assert raw.pixel_size_m == pytest.approx(1e-10 / (N * 55e-6))
    metres = np.stack([places[1], places[0] * 0.5], axis=1) * 1e-6
    np.testing.assert_allclose(raw.positions_px * raw.pixel_size_m, metres, atol=1e-12)
    assert any("turned by 60 degrees" in note for note in raw.notes)


@pytest.mark.parametrize("general_header", [False, True])
def test_a_tvips_series_is_one_scan(general_header: bool, tmp_path: Path) -> None:
    frames = np.random.default_rng(0).poisson(5, (10, 8, 8)).astype(np.uint16) + np.uint16(1)
    for number, part in enumerate((frames[:4], frames[4:8], frames[8:])):
        path = write.tvips(tmp_path / f"a_{number:03d}.tvips", part)
        if number and not general_header:
            path.write_bytes(path.read_bytes()[256:])
    (tmp_path / "a_004.tvips").write_bytes(b"a number is missing before it")
    with pytest.warns(UserWarning, match="up to a_002.tvips"):
        scan = load_data(tmp_path / "a_000.tvips", raster="2x5", step="1px", axes="nyx")
    order = [7, 0, 9, 3, 4]
    np.testing.assert_array_equal(scan.patterns.intensity(order), frames[order])
    assert len(scan) == 10


def test_zarr_of_shards_is_refused_with_a_way_on(tmp_path: Path) -> None:
    path = write.zspy(tmp_path / "a.zspy", np.ones((2, 3, 8, 8), np.uint16), None, version=3)
    told = json.loads((path / "Experiments/scan/data/zarr.json").read_text())
    told["codecs"] = [{"name": "sharding_indexed", "configuration": {}}]
    (path / "Experiments/scan/data/zarr.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match="chunks in sharding_indexed; .*Write it again without shards"):
        load_data(path)
