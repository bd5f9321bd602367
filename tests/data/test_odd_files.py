"""What detectors, stages and people write otherwise than expected: read rightly, or said; never wrongly in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers import TIMES
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from odd_scan import DETECTOR, PX, QUIET, WAVELENGTH, N, master, quiet
from odd_scan import counts as counts
from odd_scan import scan as scan

from ptycho_ray.data import RawData
from ptycho_ray.data.frame_axes import axes_by_light
from ptycho_ray.data.inspection import beam_centre, dead_pixels, symmetry_centre
from ptycho_ray.data.loading import estimate_probe
from ptycho_ray.data.marks import find_marks
from ptycho_ray.data.patterns import ArrayFrames, PatternStack
from ptycho_ray.data.placing import flyback, groups_of
from ptycho_ray.data.settling import quantity_by_values
from ptycho_ray.data.turning import curls_of
from ptycho_ray.errors import InputError


def written(path: Path, scan: RawData, frames: NDArray, *, positions: Any = None, **more: Any) -> Path:
    """An HDF5 file with plain names: ``dp`` and positions in pixels."""
    places = scan.positions_px if positions is None else positions
    with h5py.File(path, "w") as file:
        file["dp"], file["positions_px"], file["probe"] = frames, places, scan.probe
        for name, values in more.items():
            file[name] = values
    return path


# -- marks ---------------------------------------------------------------------------------------------------------------

FITTING = [
    (kind, mark)
    for kind in (np.uint16, np.uint32, np.uint64, np.int32, np.int64, np.float32, np.float64)
    for mark in (2**16 - 1, 2**31 - 1, 2**32 - 1, 2**32 - 2, -1, -2, float("nan"))
    if (np.dtype(kind).kind == "f") or (mark == mark and np.iinfo(kind).min <= mark <= np.iinfo(kind).max)
]


@settings(max_examples=25 * TIMES, **QUIET)
@given(
    kind_and_mark=st.sampled_from(FITTING), row=st.integers(2, 12), width=st.integers(1, 3), missing=st.integers(0, 5)
)
def test_marks_are_found_whatever_type_stores_them(
    scan: RawData, counts: NDArray, tmp_path: Path, kind_and_mark: Any, row: int, width: int, missing: int
) -> None:
    kind, mark = kind_and_mark
    gap = np.zeros((N, N), bool)
    gap[row : row + width] = gap[:, 20] = True
    frames = np.minimum(counts, 60000).astype(kind)
    frames[:, gap] = mark
    frames[:missing, row, 3] = 5  # nearly all frames, not all
    raw = quiet(written(tmp_path / "scan.h5", scan, frames))
    np.testing.assert_array_equal(raw.bad_pixels, gap)
    np.testing.assert_array_equal(raw.patterns.intensity()[:, ~gap], np.minimum(counts, 60000)[:, ~gap])
    assert any("masked" in note for note in raw.notes)


@settings(max_examples=8 * TIMES, **QUIET)
@given(factor=st.floats(1e-3, 50), square_root=st.booleans())
def test_a_mark_that_was_scaled_is_still_one(counts: NDArray, factor: float, square_root: bool) -> None:
    frames = counts[:40].astype(np.float64)
    frames[:, 5] = 2**32 - 1
    frames = np.sqrt(frames) if square_root else frames * factor
    expected = np.zeros((N, N), bool)
    expected[5] = True
    np.testing.assert_array_equal(find_marks(frames.astype(np.float32)).bad, expected)


def test_a_mark_divided_by_a_monitor_is_still_one(counts: NDArray) -> None:
    for mark in (-1.0, 2.0**32 - 1):
        frames = counts[:40].astype(np.float64)
        frames[:, 5] = mark
        found = find_marks((frames / np.random.default_rng(0).uniform(900, 1100, (40, 1, 1))).astype(np.float32))
        assert np.flatnonzero(found.bad.any(axis=1)).tolist() == [5]
        assert found.bad[5].all()


@pytest.mark.parametrize("mark", [255, 32767, 65534, 65535])
def test_a_mark_below_the_brightest_counts_is_still_one(counts: NDArray, mark: int) -> None:
    frames = (counts * (2e5 / counts.max())).astype(np.uint32)
    frames[:, 5] = mark
    found = find_marks(frames)
    assert found.bad[5].all()
    assert found.bad.sum() == N
    assert found.saturated is None


def test_a_gap_of_zeros_is_named(scan: RawData, counts: NDArray, tmp_path: Path) -> None:
    frames = counts.copy()
    frames[:, :, 12:14] = 0
    raw = quiet(written(tmp_path / "scan.h5", scan, frames))
    assert any("a gap between modules?" in note for note in raw.notes)
    assert not any("gap" in note for note in quiet(written(tmp_path / "good.h5", scan, counts)).notes)


def test_a_few_saturated_pixels_are_no_marks(scan: RawData, counts: NDArray, tmp_path: Path) -> None:
    top = float(np.quantile(counts, 0.9995))
    frames = np.minimum(counts * (65535 / top), 65535).astype(np.uint16)
    raw = quiet(written(tmp_path / "scan.h5", scan, frames))
    assert raw.bad_pixels is None or raw.bad_pixels.sum() < 20
    assert any("saturated" in note for note in raw.notes)
    assert raw.patterns.intensity().max() == 65535


@settings(max_examples=8 * TIMES, **QUIET)
@given(sigma=st.floats(0.3, 5), kind=st.sampled_from([np.int32, np.float32]))
def test_noise_below_zero_masks_nothing(
    scan: RawData, counts: NDArray, tmp_path: Path, sigma: float, kind: Any
) -> None:
    noise = np.random.default_rng(0).normal(0, sigma, counts.shape)
    raw = quiet(written(tmp_path / "scan.h5", scan, (counts + np.rint(noise)).astype(kind)))
    assert raw.bad_pixels is None
    assert len(raw) == len(counts)
    np.testing.assert_array_equal(raw.patterns.intensity(), np.clip(counts + np.rint(noise), 0, None))
    assert any("negative" in note for note in raw.notes)


def test_much_that_is_masked_is_said_with_its_rule(scan: RawData, counts: NDArray, tmp_path: Path) -> None:
    frames = counts.astype(np.int32)
    frames[:, :6] = -1
    raw = quiet(written(tmp_path / "scan.h5", scan, frames))
    assert any("19% of the detector is masked, by this rule: the mark -1" in note for note in raw.notes)


@settings(max_examples=6 * TIMES, **QUIET)
@given(row=st.integers(10, 22), column=st.integers(10, 22), width=st.integers(1, 3))
def test_a_masked_gap_leaves_no_hole_in_the_first_probe(counts: NDArray, row: int, column: int, width: int) -> None:
    gap = np.zeros((N, N), bool)
    gap[row : row + width] = gap[:, column : column + width] = True
    whole, cut = PatternStack(counts, "intensity"), PatternStack(counts, "intensity", bad_pixels=gap)
    hollow = PatternStack(np.where(gap, 0, counts), "intensity")
    wrong = [np.linalg.norm(estimate_probe(stack) - estimate_probe(whole)) for stack in (cut, hollow)]
    assert wrong[0] < 0.8 * wrong[1]


def test_frames_without_a_measurement_are_left_out(scan: RawData, tmp_path: Path) -> None:
    amplitude = scan.diff3d.copy()
    amplitude[7], amplitude[99] = 0, np.nan
    amplitude[12, 3, 4] = np.nan
    path = tmp_path / "scan.npz"
    np.savez(path, diff3d=amplitude, xcoords=scan.xcoords, ycoords=scan.ycoords)
    raw = quiet(path)
    assert raw.probe_is_guess
    np.testing.assert_array_equal(raw.positions_px, np.delete(scan.positions_px, [7, 99], axis=0))
    assert np.argwhere(raw.bad_pixels).tolist() == [[3, 4]]
    assert any("2 of 144 frames" in note and "7, 99" in note for note in raw.notes)


def test_a_gap_without_a_mark_is_dead_over_its_whole_width(counts: NDArray) -> None:
    frames = counts.copy()
    frames[:, 18:20] = 0
    frames[:, 12:15, 12:16] = 0
    dead = dead_pixels(frames)
    assert dead[18:20].all()
    assert dead[12:15, 12:16].all()
    assert dead.sum() <= 2 * N + 12 + 4


# -- masks ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=16 * TIMES, **QUIET)
@given(
    name=st.sampled_from(["mask", "Mask", "detector/pixel_mask", "good_pixels", "badpix_map", "MASK2"]),
    good=st.booleans(),
    kind=st.sampled_from([np.uint8, bool, np.float32, np.int32]),
    row=st.integers(3, 27),
    value=st.integers(1, 255),
)
def test_the_sense_of_a_mask_is_told_by_what_it_covers(
    scan: RawData, counts: NDArray, tmp_path: Path, name: str, good: bool, kind: Any, row: int, value: int
) -> None:
    gap = np.zeros((N, N), bool)
    gap[row : row + 2, 4:] = True
    stored = ((~gap if good else gap) * value).astype(kind)
    raw = quiet(written(tmp_path / "scan.h5", scan, np.where(gap, 0, counts), **{name: stored}))
    np.testing.assert_array_equal(raw.bad_pixels, gap)
    assert any(name in note for note in raw.notes)


def test_a_mask_that_cannot_be_placed_is_named(scan: RawData, counts: NDArray, tmp_path: Path) -> None:
    path = written(tmp_path / "scan.h5", scan, counts, pixel_mask=np.eye(50, 60))
    raw = quiet(path)
    assert raw.bad_pixels is None
    assert any("pixel_mask of 50 x 60 pixels was not used" in note and "--mask" in note for note in raw.notes)
    np.save(tmp_path / "my_mask.npy", np.eye(N))
    assert any("my_mask.npy beside it looks like a mask and was not used: --mask" in note for note in quiet(path).notes)
    assert np.array_equal(quiet(path, mask=str(tmp_path / "my_mask.npy")).bad_pixels, np.eye(N, dtype=bool))
    np.savez(tmp_path / "mine.npz", mask=np.eye(N), other=1)
    assert np.array_equal(quiet(path, mask=str(tmp_path / "mine.npz")).bad_pixels, np.eye(N, dtype=bool))
    with pytest.raises(InputError, match="mask: found nothing; expected an existing file"):
        quiet(path, mask="gone.npz")


def test_a_mask_in_the_auxiliary_file_is_used(scan: RawData, counts: NDArray, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a_dp.hdf5", "w") as file:
        file["dp"] = counts
    with h5py.File(tmp_path / "a_para.hdf5", "w") as file:
        file["ppX"], file["ppY"], file["lambda"], file["dx"] = scan.xcoords * PX, scan.ycoords * PX, WAVELENGTH, PX
        file["detector_mask"] = 1 - np.eye(N, dtype=np.uint8)
    assert np.array_equal(quiet(tmp_path / "a_dp.hdf5").bad_pixels, np.eye(N, dtype=bool))


# -- axes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", ["nyx", "yxn", "nxy", "xyn", "rcyx", "yxrc", "crxy"])
@pytest.mark.parametrize("kind", ["h5", "npz"])
def test_axes_that_a_user_names(axes: str, kind: str, scan: RawData, counts: NDArray, tmp_path: Path) -> None:
    shaped = counts if "n" in axes else counts.reshape(12, 12, N, N)
    order = "nyx" if "n" in axes else "rcyx"
    stored = np.transpose(shaped, [order.index(letter) for letter in axes])
    path = tmp_path / f"scan.{kind}"
    if kind == "h5":
        written(path, scan, counts, cube=stored)
    else:
        np.savez(path, cube=stored, where=scan.positions_px)
    positions = "positions_px" if kind == "h5" else "where"
    raw = quiet(path, frames="cube", positions=positions, axes=axes)
    some = np.array([0, 13, 14, 143, 5])
    np.testing.assert_array_equal(raw.patterns.intensity(some), counts[some])


@settings(max_examples=6 * TIMES, **QUIET)
@given(side=st.just(N), start=st.integers(0, 100))
def test_a_cube_is_read_by_its_light(scan: RawData, counts: NDArray, tmp_path: Path, side: int, start: int) -> None:
    part = slice(start, start + side)
    for last in (False, True):
        frames = np.moveaxis(counts[part], 0, 2) if last else counts[part]
        raw = quiet(written(tmp_path / "scan.h5", scan, frames, positions=scan.positions_px[part]))
        np.testing.assert_array_equal(raw.patterns.intensity(), counts[part])
        assert last == any("yxn" in note for note in raw.notes)


def test_light_that_tells_nothing_is_said(tmp_path: Path, scan: RawData) -> None:
    flat = np.random.default_rng(0).poisson(50, (N, N, N))
    assert axes_by_light(flat) is None
    raw = quiet(written(tmp_path / "scan.h5", scan, flat, positions=scan.positions_px[:N]))
    assert any("--axes yxn" in note for note in raw.notes)


def test_exchanged_rows_and_columns_are_told_by_the_scan(scan: RawData, counts: NDArray, tmp_path: Path) -> None:
    for frames, answer in ((counts, False), (counts.swapaxes(1, 2), True)):
        found = curls_of(ArrayFrames(frames), None, scan.positions_px)
        assert found is not None
        assert found.exchanged() is answer
    for exchanged in (False, True):
        with h5py.File(tmp_path / "data_roi0_dp.hdf5", "w") as file:
            file["dp"] = counts.swapaxes(1, 2) if exchanged else counts
        with h5py.File(tmp_path / "data_roi0_para.hdf5", "w") as file:
            file["ppX"], file["ppY"], file["lambda"], file["dx"] = scan.xcoords * PX, scan.ycoords * PX, WAVELENGTH, PX
        raw = quiet(tmp_path / "data_roi0_dp.hdf5")
        np.testing.assert_array_equal(raw.patterns.intensity([3, 77]), counts[[3, 77]])
        assert exchanged == any("were exchanged" in note for note in raw.notes)


# -- positions -----------------------------------------------------------------------------------------------------------

NAMES = [
    ("y", "x"),
    ("Row", "Column"),
    ("pos_y", "pos_x"),
    ("sample_y", "sample_x"),
    ("Ypos", "Xpos"),
    ("slow", "fast"),
]
UNITS = {
    "m": 1.0, "mm": 1e-3, "um": 1e-6, "µm": 1e-6, "μm": 1e-6, "micron": 1e-6, "microns": 1e-6, "Micrometer": 1e-6,
    "micrometres": 1e-6, "nm": 1e-9, "nanometer": 1e-9, "angstrom": 1e-10, "Angstroms": 1e-10, "Å": 1e-10,
}  # fmt: skip


@settings(max_examples=40 * TIMES, **QUIET)
@given(
    names=st.sampled_from(NAMES),
    unit=st.sampled_from(sorted(UNITS)),
    written_as=st.sampled_from(["{} [{}]", "{} ({})", "{}_{}", "{}/{}"]),
    swapped=st.booleans(),
    index=st.booleans(),
    separator=st.sampled_from([",", ";", "\t", " "]),
    comment=st.booleans(),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_headers_of_position_tables(
    scan: RawData, counts: NDArray, tmp_path: Path, names: tuple[str, str], unit: str, written_as: str, swapped: bool,
    index: bool, separator: str, comment: bool, encoding: str,
) -> None:  # fmt: skip
    if separator == " " and " " in written_as:
        written_as = "{}_{}"
    header = [written_as.format(name, unit) for name in names]
    columns = [scan.ycoords * PX / UNITS[unit], scan.xcoords * PX / UNITS[unit]]
    if swapped:
        header, columns = header[::-1], columns[::-1]
    if index:
        header, columns = ["frame", *header], [np.arange(len(counts)), *columns]
    point = "," if separator == ";" else "."
    lines = [separator.join(f"{v:.12g}".replace(".", point) for v in row) for row in zip(*columns, strict=True)]
    text = ("# written by a stage\n" if comment else "") + "\n".join([separator.join(header), *lines]) + "\n"
    raw = quiet(master(tmp_path, counts, text, encoding))
    np.testing.assert_allclose(raw.positions_px, scan.positions_px, rtol=1e-6, atol=1e-5)


def test_units_on_a_line_of_their_own(scan: RawData, counts: NDArray, tmp_path: Path) -> None:
    lines = [f"{k}\t{x * PX * 1e3:.9f}\t{y * PX * 1e3:.9f}" for k, (y, x) in enumerate(scan.positions_px)]
    raw = quiet(master(tmp_path, counts, "\n".join(["point\tstage_x\tstage_y", "-\tmm\tmm", *lines])))
    np.testing.assert_allclose(raw.positions_px, scan.positions_px, atol=1e-3)


@pytest.mark.parametrize("header", ["samz_um,samx_um", "alpha [um],beta [um]", "vertical/um,theta/um"])
def test_axes_with_other_names(header: str, scan: RawData, counts: NDArray, tmp_path: Path) -> None:
    lines = [f"{y * PX * 1e6:.9f},{x * PX * 1e6:.9f}" for y, x in scan.positions_px]
    raw = quiet(master(tmp_path, counts, "\n".join([header, *lines])))
    np.testing.assert_allclose(raw.positions_px, scan.positions_px, atol=1e-3)


def test_units_of_arrays_are_honoured(scan: RawData, counts: NDArray, tmp_path: Path) -> None:
    path = written(tmp_path / "scan.h5", scan, counts, positions=scan.positions_px * PX * 1e6)
    with h5py.File(path, "a") as file:
        file["positions_px"].attrs["units"] = "microns"
    np.testing.assert_allclose(quiet(path, pixel_size_m=PX).positions_px, scan.positions_px)


def test_positions_in_steps_or_of_no_unit_are_asked_about(scan: RawData, counts: NDArray, tmp_path: Path) -> None:
    steps = np.rint(scan.positions_px / 4).astype(int)
    table = "\n".join(f"{y},{x}" for y, x in steps)
    path = master(tmp_path, counts, table)
    with pytest.raises(
        InputError, match="whole numbers, steps or indices.*--step.*Type: ptycho-ray info .* --units um$"
    ):
        quiet(path)
    np.testing.assert_allclose(quiet(path, step="80nm").positions_px, steps * 4.0)
    np.testing.assert_allclose(quiet(path, step="4px").positions_px, steps * 4.0)
    path = master(tmp_path, counts, "\n".join(f"{y * 20.5},{x * 20.5}" for y, x in scan.positions_px))
    with pytest.raises(InputError, match="wider than any scan in metres.*--units"):
        quiet(path)
    np.testing.assert_allclose(quiet(path, units="nanometres").positions_px, scan.positions_px * 20.5 / 20)
    with pytest.raises(InputError, match="units: found 'furlong'"):
        quiet(path, units="furlong")
    table = "\n".join(f"{y * 20},{x * 20}" for y, x in scan.positions_px)
    path = master(tmp_path, counts, f"y [furlong],x [furlong]\n{table}")
    with pytest.raises(InputError, match=r"furlong.*no unit that is known.*Type: ptycho-ray info .* --units um$"):
        quiet(path)
    np.testing.assert_allclose(quiet(path, units="nm").positions_px, scan.positions_px)


@settings(max_examples=15 * TIMES, **QUIET)
@given(where=st.integers(0, 143), far=st.floats(1e4, 1e12), missing=st.integers(0, 143))
def test_a_spike_and_a_missing_position_cost_one_frame_each(
    scan: RawData, counts: NDArray, tmp_path: Path, where: int, far: float, missing: int
) -> None:
    places = scan.positions_px.copy()
    places[where, 1] += far
    places[missing] = np.nan
    raw = quiet(written(tmp_path / "scan.h5", scan, counts, positions=places))
    kept = [k for k in range(144) if k not in (where, missing)]
    np.testing.assert_array_equal(raw.positions_px, scan.positions_px[kept])
    np.testing.assert_array_equal(raw.patterns.intensity([0, -1 + len(kept)]), counts[[kept[0], kept[-1]]])


def test_a_jump_of_the_encoder_is_named_with_the_way_on(scan: RawData, counts: NDArray, tmp_path: Path) -> None:
    places = scan.positions_px.copy()
    places[100:] += 5000
    raw = quiet(written(tmp_path / "scan.h5", scan, counts, positions=places))
    assert any("a jump of the encoder? --select 0:100" in note for note in raw.notes)
    assert len(quiet(tmp_path / "scan.h5", select="0:100")) == 100
    assert len(np.unique(groups_of(scan.positions_px))) == 1


def test_flyback_is_named_and_a_scan_in_random_order_is_not(scan: RawData) -> None:
    line = np.stack([np.zeros(60), np.tile(np.arange(20.0), 3)], axis=1)
    line[20, 1] = line[40, 1] = 10.0  # the stage on its way back
    assert np.flatnonzero(flyback(line)).tolist() == [20, 40]
    assert not flyback(scan.positions_px).any()
    assert not flyback(np.random.default_rng(0).permutation(scan.positions_px)).any()


def test_numbers_that_differ_are_refused_with_the_common_part(scan: RawData, counts: NDArray, tmp_path: Path) -> None:
    table = "\n".join(f"{y * PX:.9e},{x * PX:.9e}" for y, x in scan.positions_px[:130])
    path = master(tmp_path, counts, table)
    with pytest.raises(InputError, match=r"130 positions for 144 patterns.*Type: ptycho-ray info .* --select 0:130$"):
        quiet(path)
    raw = quiet(path, select="0:130", drop="5,7")
    assert len(raw) == 128
    np.testing.assert_array_equal(raw.patterns.intensity([5]), counts[[6]])
    np.testing.assert_allclose(raw.positions_px[5], scan.positions_px[6], rtol=1e-6)


# -- geometry ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"energy_eV": 0.009}, "energy_eV: found 0.009 eV; expected 10 eV to 1 MeV.*--energy-eV"),
        ({"energy_eV": 3e8}, "energy_eV: found 3e"),
        ({"detector_distance_m": 2000.0}, "pixel_size_m: found .* m .from energy_eV .*; expected less than 10 um"),
        ({"pixel_size_m": 1e-3}, "pixel_size_m: found 0.001 m.*expected less than 10 um"),
        ({"units": "m", "pixel_size_m": 1e-12}, "above the memory.*--units"),
    ],
)
def test_a_geometry_that_cannot_be_is_refused_with_its_field(
    changes: dict[str, Any], message: str, scan: RawData, counts: NDArray, tmp_path: Path
) -> None:
    table = "\n".join(f"{y * PX:.9e},{x * PX * (1e3 if 'units' in changes else 1):.9e}" for y, x in scan.positions_px)
    with pytest.raises(InputError, match=message):
        quiet(master(tmp_path, counts, table), **changes)


def test_electrons_never_take_the_wavelength_of_photons(scan: RawData, counts: NDArray, tmp_path: Path) -> None:
    table = "\n".join(f"{y * 1e-11:.9e},{x * 1e-11:.9e}" for y, x in scan.positions_px)
    path = master(tmp_path, counts, table)
    with h5py.File(path, "a") as file:
        file["entry/instrument/detector/description"] = np.bytes_("Dectris ARINA")
        del file["entry/instrument/detector/detectorSpecific/photon_energy"]
        file["entry/instrument/detector/detectorSpecific/photon_energy"] = 3e5
    raw = quiet(path, detector_distance_m=0.5)
    assert raw.electrons
    assert raw.pixel_size_m == pytest.approx(1.96875e-12 * 0.5 / (N * DETECTOR), rel=1e-4)
    assert quiet(path, detector_distance_m=0.5, beam="photons").wavelength_m == pytest.approx(4.1328e-12, rel=1e-4)
    raw.to_file(tmp_path / "back.h5")
    back = quiet(tmp_path / "back.h5")
    assert (back.electrons, back.energy_eV) == (True, 3e5)
    raw.to_file(tmp_path / "back.cxi")  # knows photons only: those of the same wavelength
    assert quiet(tmp_path / "back.cxi").wavelength_m == pytest.approx(raw.wavelength_m)


# -- quantities ----------------------------------------------------------------------------------------------------------


@settings(max_examples=12 * TIMES, **QUIET)
@given(gain=st.floats(0.01, 300), root=st.booleans(), monitor=st.booleans())
def test_counts_and_their_roots_are_told_apart(counts: NDArray, gain: float, root: bool, monitor: bool) -> None:
    frames = counts[:8] * gain
    if monitor:
        frames = frames / np.random.default_rng(1).uniform(0.9, 1.1, (8, 1, 1))
    told, quanta = quantity_by_values(np.sqrt(frames).astype(np.float32) if root else frames.astype(np.float32))
    assert told == ("amplitude" if root else "intensity")
    assert monitor == bool(np.ptp(quanta) > 1e-3 * quanta.mean())


def test_intensities_under_the_name_of_amplitudes_and_the_reverse(
    scan: RawData, counts: NDArray, tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", diff3d=counts * 2.5, xcoords=scan.xcoords, ycoords=scan.ycoords, probe=scan.probe)
    raw = quiet(tmp_path / "a.npz")
    np.testing.assert_allclose(raw.patterns.intensity(), counts * 2.5, rtol=1e-6)
    assert any("holds intensity, not amplitude" in note for note in raw.notes)
    raw = quiet(written(tmp_path / "b.h5", scan, np.sqrt(counts)))
    np.testing.assert_allclose(raw.patterns.intensity(), counts, rtol=1e-5)
    assert any("holds amplitude, not intensity" in note for note in raw.notes)
    assert quiet(tmp_path / "b.h5", domain="intensity").patterns.domain == "intensity"


# -- a bright-field disc -------------------------------------------------------------------------------------------------


@settings(max_examples=20 * TIMES, **QUIET)
@given(radius=st.floats(0.2, 0.49), row=st.integers(-2, 2), column=st.integers(-2, 2), side=st.sampled_from([32, 64]))
def test_a_disc_that_fills_the_window_is_found_where_it_is(radius: float, row: int, column: int, side: int) -> None:
    rng = np.random.default_rng(0)
    r, c = np.indices((side, side)) - side // 2
    disc = (np.hypot(r - row, c - column) < radius * side) * 100.0 + 0.5
    mean = rng.poisson(disc * 20) / 20
    for found in (symmetry_centre(mean), beam_centre(mean)):
        np.testing.assert_allclose(
            found, [side // 2 + row, side // 2 + column], atol=1.2 + 0.5 * max(abs(row), abs(column))
        )


def test_the_zero_frequency_is_brought_from_the_corner(scan: RawData, counts: NDArray, tmp_path: Path) -> None:
    shifted = np.fft.ifftshift(counts, axes=(1, 2))
    raw = quiet(written(tmp_path / "scan.h5", scan, shifted))
    np.testing.assert_array_equal(raw.patterns.intensity(), counts)
    assert any("corner" in note for note in raw.notes)
