"""load_data on NPZ files: the layouts it knows, its options, and files it refuses."""

from __future__ import annotations

import bz2
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptycho_ray.data import cut_patches, inflation, load_data
from ptycho_ray.errors import InputError, MissingFileError

N, n = 16, 12


def fields(**changes: Any) -> dict[str, Any]:
    """A PtychoPINN scan; a change to None removes the key."""
    rng = np.random.default_rng(5)
    scan = {
        "xcoords": rng.uniform(10, 50, n),
        "ycoords": rng.uniform(10, 50, n),
        "xcoords_start": rng.uniform(10, 50, n),
        "ycoords_start": rng.uniform(10, 50, n),
        "diff3d": np.sqrt(rng.poisson(30.0, (n, N, N))).astype(np.float32),
        "probeGuess": np.ones((N, N), dtype=np.complex64),
    }
    return {name: value for name, value in (scan | changes).items() if value is not None}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_scan(**changes: Any) -> Path:
        path = tmp_path / "scan.npz"
        np.savez_compressed(path, **fields(**changes))
        return path

    return write_scan


@pytest.mark.parametrize(
    ("name", "patterns", "side", "domain", "counts"),
    [
        ("lines64_small40.npz", 40, 64, "amplitude", False),
        ("lines64_train.npz", 1024, 64, "amplitude", False),
        ("lines64_test.npz", 512, 64, "amplitude", False),
        ("aps_siemens.npz", 516, 128, "amplitude", True),
        ("lcls_run1084.npz", 1087, 64, "amplitude", True),
        ("sim64_1e6.npz", 676, 64, "intensity", True),
        ("hard64_1e6.npz", 676, 64, "intensity", True),
        ("sim128_1e6.npz", 441, 128, "intensity", True),
    ],
)
def test_shared_scans(name: str, patterns: int, side: int, domain: str, counts: bool, shared_data: Any) -> None:
    raw = load_data(shared_data(name))
    assert (raw.patterns.shape, raw.patterns.domain) == ((patterns, side, side), domain)
    assert raw.counts_are_photons is counts


def test_positions_are_patch_corners_in_the_layout_dp_pos(shared_data: Any) -> None:
    """The truth object and probe must predict the measured patterns there, and less well one pixel away."""
    path = shared_data("sim64_1e6.npz")
    raw = load_data(path)
    with np.load(path, allow_pickle=False) as stored:
        probe = stored["probe"][0]
    rows = np.arange(0, 676, 50)
    measured = raw.patterns.amplitude(rows)

    def error(shift: tuple[int, int]) -> float:
        patches = cut_patches(raw.object_truth, raw.positions_px[rows] + shift, 64)
        predicted = np.abs(np.fft.fftshift(np.fft.fft2(patches * probe, norm="ortho"), axes=(1, 2)))
        return float(np.linalg.norm(predicted - measured) / np.linalg.norm(measured))

    assert error((0, 0)) < 0.08  # shot noise is 0.03
    assert error((0, 0)) < min(error(shift) for shift in ((1, 0), (-1, 0), (0, 1), (0, -1)))


def test_tike_layout_is_the_same_scan_as_the_converted_one(shared_data: Any, tmp_path: Path) -> None:
    path = tmp_path / "siemens.npz"
    path.write_bytes(bz2.decompress(shared_data("siemens-star-small.npz.bz2").read_bytes()))
    tike, converted = load_data(path), load_data(shared_data("aps_siemens.npz"))
    np.testing.assert_allclose(tike.patterns.intensity([0, 99]), converted.patterns.intensity([0, 99]), rtol=1e-5)
    offset = tike.positions_px - converted.positions_px
    np.testing.assert_allclose(offset - offset[0], 0, atol=1e-3)


def test_scene_without_patterns_lists_its_keys(shared_data: Any) -> None:
    with pytest.raises(InputError, match=r"diff3d: missing key; found keys .*positions_train.*; expected diff3d or"):
        load_data(shared_data("lines128_scene.npz"))


def test_files_without_start_positions_and_with_other_number_types(write: Any) -> None:
    raw = load_data(write(xcoords_start=None, ycoords_start=None, xcoords=np.arange(n, dtype=np.float32)))
    np.testing.assert_array_equal(raw.nominal_positions_px, raw.positions_px)
    counts = np.random.default_rng(1).poisson(9, (n, N, N)).astype(np.uint16)
    raw = load_data(write(diff3d=counts, ycoords=np.arange(n)), coord_scale=0.5)
    assert raw.counts_are_photons
    np.testing.assert_array_equal(raw.ycoords, np.arange(n) / 2)
    np.testing.assert_array_equal(raw.patterns.intensity(), counts)


@pytest.mark.parametrize("layout", ["alias", "last axis", "fourth axis", "float64"])
def test_pattern_layouts(layout: str, write: Any) -> None:
    frames = fields()["diff3d"]
    changes: dict[str, Any] = {
        "alias": {"diff3d": None, "diffraction": frames},
        "last axis": {"diff3d": np.moveaxis(frames, 0, 2)},
        "fourth axis": {"diff3d": frames[..., None]},
        "float64": {"diff3d": frames.astype(np.float64)},
    }[layout]
    np.testing.assert_allclose(load_data(write(**changes)).diff3d, frames, rtol=1e-6)


def test_domain_and_transpose_can_be_forced(write: Any) -> None:
    path = write()
    np.testing.assert_array_equal(load_data(path, domain="intensity").patterns.intensity(), fields()["diff3d"])
    np.testing.assert_array_equal(load_data(path, transpose=True).diff3d, fields()["diff3d"].swapaxes(1, 2))


def test_flips_swap_and_scale_in_the_order_of_the_reference(write: Any) -> None:
    scan = fields()
    raw = load_data(write(), flip_x=True, swap_xy=True, coord_scale=2.0)
    np.testing.assert_array_equal(raw.xcoords, 2 * scan["ycoords"])
    np.testing.assert_array_equal(raw.ycoords, -2 * scan["xcoords"])
    np.testing.assert_array_equal(raw.ycoords_start, -2 * scan["xcoords_start"])
    np.testing.assert_array_equal(load_data(write(), flip_y=True).ycoords, -scan["ycoords"])


def test_subsample_is_the_legacy_choice_sorted(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write()
    raw = load_data(path, n_images=9, n_subsample=5, subsample_seed=3)
    expected = np.sort(np.random.RandomState(3).choice(n, 5, replace=False))
    np.testing.assert_array_equal(raw.sample_indices, expected)
    np.testing.assert_array_equal(raw.xcoords, fields()["xcoords"][expected])
    assert raw.subsample_seed == 3
    assert len(load_data(path, n_images=9)) == 9
    np.testing.assert_array_equal(load_data(path, n_subsample=99).sample_indices, np.arange(n))
    assert [entry.name for entry in tmp_path.iterdir()] == ["scan.npz"]
    with pytest.raises(InputError, match="n_subsample: found 1"):
        load_data(path, n_subsample=1)


def test_metres_need_a_pixel_size(write: Any) -> None:
    path = write(xcoords=np.arange(n) * 1e-7, ycoords=np.zeros(n), xcoords_start=None)
    with pytest.raises(InputError, match="metres"):
        load_data(path)
    raw = load_data(path, pixel_size_m=2e-8)
    np.testing.assert_allclose(raw.xcoords, np.arange(n) * 5)
    assert raw.pixel_size_m == 2e-8
    np.testing.assert_array_equal(load_data(write(), pixel_size_m=2e-8).xcoords, fields()["xcoords"])
    with pytest.raises(InputError, match="pixel_size_m: found -1"):
        load_data(path, pixel_size_m=-1)


def test_probe_and_mask_can_be_replaced(write: Any) -> None:
    mask = np.eye(N, dtype=bool)
    raw = load_data(write(), probe=np.full((N, N), 2j), bad_pixels=mask)
    assert raw.probe[0, 0, 0] == 2j
    assert not raw.diff3d[:, mask].any()


def test_metadata(write: Any) -> None:
    assert load_data(write(meta=np.array('{"real": true}'))).metadata == {"real": True}
    assert load_data(write(meta=np.array("a note"))).metadata == {"text": "a note"}
    with pytest.warns(UserWarning, match="_metadata is pickled and was ignored"):
        assert load_data(write(_metadata=np.array({"a": 1}, dtype=object))).metadata is None


def test_truth_patches_of_another_length_are_dropped(write: Any) -> None:
    with pytest.warns(UserWarning, match=r"Y of shape \(3, 16, 16\) does not fit 12"):
        assert load_data(write(Y=np.ones((3, N, N)))).Y is None


def test_a_good_file_gives_no_warning(write: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_data(write(Y=np.ones((n, N, N, 1))))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"xcoords": None, "x_coords": np.arange(n)}, "xcoords: missing key.*x_coords.*did you mean 'x_coords'"),
        ({"xcoords": np.arange(11.0)}, r"xcoords, ycoords: found float64 \(11,\) and float64 \(12,\)"),
        (
            {"diff3d": np.ones((11, N, N))},
            r"positions: found 12 positions for 11 patterns; expected as many.*first 11 of both.*--select 0:11$",
        ),
        ({"diff3d": np.ones((n, N, N - 1))}, "diff3d: found patterns of 16 x 15 pixels; expected square"),
        ({"diff3d": np.full((n, N, N), None)}, "diff3d: found an array of Python objects, which only pickle can read"),
        ({"diff3d": np.full((n, N, N), np.nan)}, "diff3d: found values that are not finite"),
        ({"probeGuess": np.ones((8, 8))}, "probeGuess: found a probe of 8 x 8 pixels"),
        ({"xcoords": np.array(["a"] * n)}, "expected real numbers, one per pattern"),
    ],
)
def test_bad_files_are_refused(changes: dict[str, Any], message: str, write: Any) -> None:
    path = write(**changes)
    with pytest.raises(InputError, match=message) as caught:
        load_data(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("pos", np.ones(5), r"pos: found float64 \(5,\); expected real numbers \(n, 2\)"),
        ("dp", np.ones(3), r"dp: found shape \(3,\); expected patterns"),
        ("pos", np.ones((3, 2)), "3 positions for 12 patterns"),
    ],
)
def test_bad_files_of_the_layout_dp_pos(name: str, value: np.ndarray, message: str, tmp_path: Path) -> None:
    scan = {"dp": np.ones((n, N, N), np.uint8), "pos": np.arange(2.0 * n).reshape(n, 2), "probe": np.ones((N, N))}
    np.savez(tmp_path / "scan.npz", **(scan | {name: value}))
    with pytest.raises(InputError, match=message):
        load_data(tmp_path / "scan.npz")


def test_missing_file_and_other_formats(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="none.npz: file: found nothing; expected an existing file"):
        load_data(tmp_path / "none.npz")
    with pytest.raises(MissingFileError, match="a folder"):
        load_data(tmp_path)
    (tmp_path / "notes.npz").write_text("not a scan")
    with pytest.raises(InputError, match="neither a zip archive nor HDF5"):
        load_data(tmp_path / "notes.npz")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.97])
def test_truncated_files_are_refused(kept: float, write: Any) -> None:
    path = write()
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(InputError, match="damaged archive"):
        load_data(path)


def test_damaged_bytes_are_refused(write: Any) -> None:
    path = write()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged data"):
        load_data(path)


def test_member_shorter_than_its_header_claims(write: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "whole.npy", fields()["diff3d"])
    path = write(diff3d=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("diff3d.npy", (tmp_path / "whole.npy").read_bytes()[:-100])
    with pytest.raises(InputError, match="diff3d: found .* bytes; expected at least"):
        load_data(path)


def test_bombs_are_refused_before_they_are_inflated(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(diff3d=np.zeros((n, 64, 64), np.float32))
    with pytest.raises(InputError, match=r"diff3d: found 0.1876 MiB when inflated; expected at most .*max_bytes"):
        load_data(path, max_bytes=100_000)
    monkeypatch.setattr(inflation, "SUSPICIOUS_BYTES", 100_000)
    with pytest.raises(InputError, match="looks like a decompression bomb"):
        load_data(path)


def test_rotation_turns_rows_towards_columns_of_positions_and_of_a_raster(tmp_path):
    from helpers import make_scan

    from ptycho_ray.data.position_maps import position_matrix, transformed_positions

    scan = make_scan(12)
    scan.to_file(tmp_path / "scan.npz")
    turn = position_matrix(rotation_rad=np.radians(30))
    for how in ({}, {"raster": "3x4", "step": "2px"}):
        straight, turned = (load_data(tmp_path / "scan.npz", rotation=angle, **how) for angle in (0.0, 30.0))
        expected = transformed_positions(straight.positions_px, turn)
        np.testing.assert_allclose(turned.positions_px, expected, atol=1e-4)


def test_python_objects_are_named_and_not_read(tmp_path):
    np.savez(tmp_path / "a.npz", frames=np.array([{"a": 1}], dtype=object), xcoords=np.arange(3.0))
    with pytest.raises(InputError, match="keys xcoords;.*Python objects in frames, which only pickle reads"):
        load_data(tmp_path / "a.npz")
