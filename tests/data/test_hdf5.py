"""Scans in HDF5 and CXI files: read lazily, with detector compression, in any process."""

from __future__ import annotations

import contextlib
import pickle
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest

from ptycho_ray.data import RawData, hdf5, load_data, screening
from ptycho_ray.data.hdf5 import Hdf5Frames
from ptycho_ray.errors import InputError

N, n = 16, 20


@pytest.fixture
def counts(rng: np.random.Generator) -> np.ndarray:
    return rng.poisson(9.0, (n, N, N)).astype(np.uint16)


def write(path: Path, frames: np.ndarray, name: str = "dp", storage: Any = None, **changes: Any) -> Path:
    """A scan with PtychoPINN positions; a change to None removes the key."""
    rng = np.random.default_rng(3)
    fields = {
        "xcoords": rng.uniform(9, 60, n),
        "ycoords": rng.uniform(9, 60, n),
        "probeGuess": np.ones((N, N), complex),
    }
    with h5py.File(path, "w") as file:
        file.create_dataset(name, data=frames, **(storage or {}))
        for field, value in (fields | changes).items():
            if value is not None:
                file[field] = value
    return path


def test_bitshuffle_counts_stay_on_disk(tmp_path: Path, counts: np.ndarray) -> None:
    storage = {"chunks": (1, N, N), **hdf5plugin.Bitshuffle(cname="lz4")}
    raw = load_data(write(tmp_path / "scan.h5", counts, storage=storage))
    assert not raw.patterns.in_memory
    assert (raw.patterns.domain, raw.counts_are_photons) == ("intensity", True)
    for wanted in ([3], [0, 1, 2, 7, 8, 19], [9, 2, 2, 5], [[1, 0], [5, 5]], []):
        index = np.array(wanted, dtype=int)
        np.testing.assert_array_equal(raw.patterns.intensity(index), counts[index])
    np.testing.assert_allclose(raw.pattern_energies(), counts.sum(axis=(1, 2)))
    eager = load_data(tmp_path / "scan.h5", in_memory=True)
    assert eager.patterns.in_memory
    np.testing.assert_array_equal(eager.patterns.intensity(), counts)


def test_consecutive_frames_are_read_in_one_piece(
    tmp_path: Path, counts: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = load_data(write(tmp_path / "scan.h5", counts))
    pieces: list[Any] = []
    read = h5py.Dataset.read_direct

    def spy(dataset: h5py.Dataset, target: np.ndarray, source: slice, place: slice) -> None:
        pieces.append((source.start, source.stop))
        read(dataset, target, source, place)

    monkeypatch.setattr(h5py.Dataset, "read_direct", spy)
    raw.patterns.intensity([12, 3, 4, 5, 11, 3])
    assert pieces == [(3, 6), (11, 13)]


def test_lazy_scan_travels_between_processes(tmp_path: Path, counts: np.ndarray, monkeypatch: Any) -> None:
    write(tmp_path / "scan.h5", counts)
    monkeypatch.chdir(tmp_path)
    raw = load_data("scan.h5").select([4, 2, 11])
    raw.patterns.intensity()
    monkeypatch.chdir("/")
    sent = pickle.dumps(raw)
    assert len(sent) < 30_000
    np.testing.assert_array_equal(pickle.loads(sent).patterns.intensity(), counts[[4, 2, 11]])


def test_frames_on_the_last_axis(tmp_path: Path, counts: np.ndarray) -> None:
    raw = load_data(write(tmp_path / "scan.h5", np.moveaxis(counts, 0, 2)))
    assert raw.patterns.shape == (n, N, N)
    np.testing.assert_array_equal(raw.patterns.intensity([7, 1]), counts[[7, 1]])


def test_bad_values_of_a_stack_too_large_to_look_through_are_met_when_their_batch_is_read(
    tmp_path: Path, counts: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = counts.astype(np.float32)
    frames[5, 0, 0], frames[8, 0, 0] = np.nan, -1
    frames[7] = 0
    monkeypatch.setattr(screening, "ALL_FRAMES_BYTES", 0)
    monkeypatch.setattr(screening, "LOOKED_AT", 2)
    raw = load_data(write(tmp_path / "scan.h5", frames))
    raw.patterns.intensity(np.arange(5))
    for index, message in ((5, "not finite"), (8, "negative"), (7, "no signal")):
        with pytest.raises(InputError, match=rf"scan.h5: /dp: found .*{message}.*index {index}"):
            raw.patterns.intensity([index])


def test_amplitude_by_key_and_corner_positions(tmp_path: Path, counts: np.ndarray) -> None:
    amplitude = load_data(write(tmp_path / "a.h5", np.sqrt(counts) / 3, name="diff3d"))
    assert (amplitude.patterns.domain, amplitude.counts_are_photons) == ("amplitude", False)
    corners = np.random.default_rng(0).uniform(0, 40, (n, 2))
    corner = load_data(write(tmp_path / "b.h5", counts, xcoords=None, ycoords=None, pos=corners))
    np.testing.assert_allclose(corner.positions_px, corners + N // 2)


def test_metres_become_object_pixels_of_the_far_field(tmp_path: Path, counts: np.ndarray) -> None:
    metres = np.random.default_rng(0).uniform(0, 1e-6, (n, 2))
    geometry = {"energy_eV": 10e3, "detector_distance_m": 2.0, "detector_pixel_size_m": 75e-6}
    place = {"xcoords": None, "ycoords": None, "positions_m": metres}
    raw = load_data(write(tmp_path / "a.h5", counts, **place, **geometry))
    pixel = 1.23984198e-10 * 2.0 / (N * 75e-6)
    assert raw.pixel_size_m == pytest.approx(pixel)
    np.testing.assert_allclose(raw.positions_px, metres / pixel)
    path = write(tmp_path / "b.h5", counts, **place)
    with pytest.raises(InputError, match="positions in metres without a pixel size"):
        load_data(path)
    np.testing.assert_allclose(load_data(path, pixel_size_m=1e-8).positions_px, metres / 1e-8)


def test_ptychodus_positions_are_half_a_pixel_before_ours(tmp_path: Path, counts: np.ndarray) -> None:
    x, y = np.arange(n) * 2.0, np.arange(n) * 3.0
    place = {"xcoords": None, "ycoords": None, "probe_position_x_px": x, "probe_position_y_px": y}
    raw = load_data(write(tmp_path / "a.h5", counts, name="patterns", **place))
    np.testing.assert_array_equal(raw.positions_px, np.stack([y, x], axis=1) + 0.5)


def test_unavailable_filter_is_named(tmp_path: Path, counts: np.ndarray) -> None:
    path = write(tmp_path / "scan.h5", counts)
    with h5py.File(path, "a") as file:
        del file["dp"]
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((1, N, N))
        plan.set_filter(31999, h5py.h5z.FLAG_OPTIONAL, (1,))
        space = h5py.h5s.create_simple((n, N, N))
        h5py.h5d.create(file.id, b"dp", h5py.h5t.NATIVE_FLOAT, space, plan)
    with pytest.raises(InputError, match=r"scan\.h5: /dp: found compression filter 31999 .* not available.*hdf5plugin"):
        load_data(path)


def test_data_in_another_raw_file_is_refused(tmp_path: Path, counts: np.ndarray) -> None:
    (tmp_path / "raw.bin").write_bytes(counts.tobytes())
    path = write(tmp_path / "scan.h5", counts)
    with h5py.File(path, "a") as file:
        del file["dp"]
        file.create_dataset("dp", counts.shape, counts.dtype, external=[(str(tmp_path / "raw.bin"), 0, counts.nbytes)])
    with pytest.raises(InputError, match="/dp: found data stored in another raw file"):
        load_data(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"xcoords": None, "xcoord": np.arange(n)}, "xcoords: missing key; found keys dp, .*did you mean 'xcoord'"),
        ({"xcoords": np.arange(9.0)}, r"xcoords, ycoords: found float64 \(9,\) and float64 \(20,\)"),
        (
            {"xcoords": np.arange(9.0), "ycoords": np.arange(9.0)},
            "positions: found 9 positions for 20 patterns.*--select 0:9",
        ),
        ({"xcoords": None, "pos": np.ones(5)}, r"pos: found float64 \(5,\)"),
        ({"xcoords": "text"}, "/xcoords: found type object; expected numbers"),
    ],
)
def test_bad_files_are_refused(changes: dict[str, Any], message: str, tmp_path: Path, counts: np.ndarray) -> None:
    with pytest.raises(InputError, match=message):
        load_data(write(tmp_path / "scan.h5", counts, **changes))


def test_patterns_missing_complex_or_a_group(tmp_path: Path, counts: np.ndarray) -> None:
    with pytest.raises(InputError, match="diff3d: missing key; found keys probeGuess, stack, xcoords, ycoords"):
        load_data(write(tmp_path / "a.h5", counts, name="stack"))
    with pytest.raises(InputError, match="found type complex128; expected real numbers"):
        load_data(write(tmp_path / "b.h5", counts.astype(complex)))
    with pytest.raises(InputError, match="data: found a group"):
        load_data(write(tmp_path / "c.h5", counts, name="data/inner"))


def test_arrays_beyond_the_memory_limit_are_refused(
    tmp_path: Path, counts: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "scan.h5", counts)
    with pytest.raises(InputError, match=r"/dp: found frames of .* MiB; expected 32 frames within .*max_bytes"):
        load_data(path, max_bytes=12_000)
    monkeypatch.setattr(hdf5, "FRAMES_IN_MEMORY", 1)
    with pytest.raises(InputError, match=r"/probeGuess: found .* MiB; expected at most .*max_bytes"):
        load_data(path, max_bytes=2000)
    assert len(load_data(path, max_bytes=9000)) == n
    with pytest.raises(InputError, match=r"/dp: found .* MiB of patterns; expected at most .*in_memory"):
        load_data(path, max_bytes=9000, in_memory=True)


def test_damaged_files_are_refused(tmp_path: Path, counts: np.ndarray) -> None:
    path = write(tmp_path / "scan.h5", counts)
    content = path.read_bytes()
    for position in range(0, 2000, 40):  # the file's own structures lie at its start
        path.write_bytes(content[:position] + b"\xa5\x5a" * 8 + content[position + 16 :])
        with contextlib.suppress(InputError):
            load_data(path)
    path.write_bytes(content)
    raw = load_data(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match="unreadable data .*truncated"):
        load_data(path)
    with pytest.raises(InputError, match="unreadable data"):
        raw.patterns.intensity([0])


def test_measured_near_field_cxi(shared_data: Any) -> None:
    path = shared_data("PETRAIII_P25_Near_Field_Ptycho.cxi")
    with pytest.warns(UserWarning, match="no probe found, it was estimated"):
        raw = load_data(path, pixel_size_m=178.7e-9)
    with h5py.File(path) as file:
        translation = file["entry_1/sample_1/geometry_1/translation"][()].astype(np.float64)
    np.testing.assert_allclose(raw.positions_px, translation[:, [1, 0]] / 178.7e-9, atol=1e-6)
    assert raw.patterns.shape == (200, 100, 100)
    assert not raw.patterns.in_memory
    assert raw.energy_eV == pytest.approx(12658, abs=1)
    assert raw.detector_distance_m == pytest.approx(1.12)
    assert raw.bad_pixels is not None
    assert raw.bad_pixels.sum() == 5
    assert raw.counts_are_photons
    energy = np.sum(np.abs(raw.probe) ** 2)
    assert energy == pytest.approx(raw.pattern_energies().mean(), rel=1e-3)


def test_cxi_axes_mask_and_probe(tmp_path: Path, counts: np.ndarray) -> None:
    translation = np.random.default_rng(0).uniform(-1e-6, 1e-6, (n, 3)).astype(np.float32)
    mask = np.zeros((N, N), np.uint32)
    mask[0, 0], mask[0, 1] = 0x1000, 0x1001
    with h5py.File(tmp_path / "scan.cxi", "w") as file:
        file["entry_1/sample_1/geometry_1/translation"] = translation
        detector = file.create_group("entry_1/instrument_1/detector_1")
        detector["data"], detector["mask"], detector["distance"] = counts, mask, 2.0
        detector["basis_vectors"] = np.array([[75e-6, 0, 0], [0, 75e-6, 0]])  # slow = x, fast = y
        detector["x_pixel_size"] = detector["y_pixel_size"] = 75e-6
        file["entry_1/instrument_1/source_1/wavelength"] = 1e-10
        file["entry_1/instrument_1/source_1/illumination"] = np.ones((N, N), complex)
    raw = load_data(tmp_path / "scan.cxi")
    pixel = 1e-10 * 2.0 / (N * 75e-6)
    np.testing.assert_allclose(raw.positions_px, -translation[:, :2] / pixel, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(np.argwhere(raw.bad_pixels), [[0, 1]])
    with h5py.File(tmp_path / "scan.cxi", "a") as file:
        del file["entry_1/instrument_1/detector_1/y_pixel_size"]
        file["entry_1/instrument_1/detector_1/y_pixel_size"] = 50e-6
    with pytest.raises(InputError, match="expected square detector pixels"):
        load_data(tmp_path / "scan.cxi")


def test_writing_streams_from_a_lazy_scan(tmp_path: Path, counts: np.ndarray) -> None:
    raw = load_data(write(tmp_path / "scan.h5", counts)).select(np.arange(0, n, 2))
    raw.to_file(tmp_path / "half.h5")
    half = RawData.from_file(tmp_path / "half.h5")
    np.testing.assert_allclose(half.patterns.intensity(), counts[::2], rtol=1e-6)
    assert isinstance(half.patterns.source, Hdf5Frames)
