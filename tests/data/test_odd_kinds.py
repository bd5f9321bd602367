"""Kinds of odd files, drawn in combination: the right scan is read, equal to the truth, or a sentence ends with a command."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers import TIMES
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from odd_scan import DETECTOR as DETECTOR_PX_M
from odd_scan import DISTANCE, PX, QUIET, WAVELENGTH, N, master, quiet
from odd_scan import counts as counts
from odd_scan import scan as scan
from scipy.io import savemat

from ptycho_ray.data import RawData
from ptycho_ray.errors import InputError

GAP = np.zeros((N, N), bool)
GAP[9:11] = GAP[:, 22] = True
ENERGY = 1.2398419843320026e-6 / WAVELENGTH


def has_a_way_on(error: InputError) -> bool:
    """Whether an error ends with a command that could be typed."""
    sentence, _, command = str(error).rpartition("Type: ")
    return bool(sentence) and shlex.split(command)[0] == "ptycho-ray" and len(shlex.split(command)) > 2


# -- containers, axes, types, marks --------------------------------------------------------------------------------------


def store_hdf5(path: Path, frames: NDArray, positions: NDArray, more: dict[str, Any]) -> None:
    with h5py.File(path, "w") as file:
        for name, values in {"dp": frames, "positions_px": positions, **more}.items():
            file[name] = values


def store_npz(path: Path, frames: NDArray, positions: NDArray, more: dict[str, Any]) -> None:
    np.savez(path.with_suffix(".npz"), dp=frames, positions_px=positions, **more)
    path.with_suffix(".npz").rename(path)


def store_mat(path: Path, frames: NDArray, positions: NDArray, more: dict[str, Any]) -> None:
    savemat(path, {"dp": frames, "positions_px": positions, **more}, appendmat=False)


STORES = {"hdf5": store_hdf5, "npz": store_npz, "mat": store_mat}
TYPES = ("<u2", ">u2", "<u4", ">u4", "<i4", ">i4", "<i8", "<f4", ">f4", "<f8", "<f2")
SHAPES: dict[str, Callable[[NDArray], NDArray]] = {
    "n, y, x": lambda a: a,
    "n, 1, y, x": lambda a: a[:, None],
    "n, y, x, 1": lambda a: a[..., None],
    "1, n, y, x": lambda a: a[None],
}
MASKS: dict[str, Callable[[NDArray], NDArray]] = {
    "1 bad": lambda bad: bad.astype(np.uint8),
    "1 good": lambda bad: (~bad).astype(np.uint8),
    "255 bad": lambda bad: (bad * 255).astype(np.uint8),
    "255 good": lambda bad: (~bad * 255).astype(np.uint8),
    "float bad": lambda bad: bad.astype(np.float32),
    "nan bad, 1 good": lambda bad: np.where(bad, np.nan, 1.0),
    "nan bad, 0 good": lambda bad: np.where(bad, np.nan, 0.0),
    "2 bad, 1 good": lambda bad: np.where(bad, 2, 1).astype(np.int16),
    "-1 bad": lambda bad: np.where(bad, -1, 0).astype(np.int32),
    "bits": lambda bad: np.where(bad, np.where(np.arange(N) % 2, 1 << 30, 2), 0).astype(np.uint32),
    "of each frame": lambda bad: np.broadcast_to(bad, (144, N, N)).astype(np.uint8),
}


@settings(max_examples=60 * TIMES, **QUIET)
@given(
    store=st.sampled_from(sorted(STORES)),
    kind=st.sampled_from(TYPES),
    shape=st.sampled_from(sorted(SHAPES)),
    mark=st.sampled_from(["none", "largest", "largest - 1", "-1", "-9999", "99999", "nan", "1e20"]),
    last=st.integers(90, 144),
)
def test_a_stack_is_the_same_in_every_container_type_and_order(
    scan: RawData, counts: NDArray, tmp_path: Path, store: str, kind: str, shape: str, mark: str, last: int
) -> None:
    dtype = np.dtype(kind)
    kept = np.minimum(counts, 2000 if kind == "<f2" else 30000).astype(dtype)
    frames = kept.copy()
    values = {"nan": np.nan, "1e20": 1e20, "-1": -1.0, "-9999": -9999.0, "99999": 99999.0}
    if dtype.kind in "iu":
        values = {name: value for name, value in values.items() if name not in ("nan", "1e20")}
        values = {"largest": np.iinfo(dtype).max, "largest - 1": np.iinfo(dtype).max - 1, **values}
        values = {name: value for name, value in values.items() if np.iinfo(dtype).min <= value <= np.iinfo(dtype).max}
    elif kind == "<f2":
        values = {name: value for name, value in values.items() if name in ("nan", "-1")}
    if mark in values:
        frames[:, GAP] = values[mark]
    frames[last:] = 0  # the detector was stopped
    path = tmp_path / "scan"
    STORES[store](path, SHAPES[shape](frames), scan.positions_px, {"probe": scan.probe})
    try:
        raw = quiet(path, frames="dp", positions="positions_px")
    except InputError as error:
        assert has_a_way_on(error)  # noqa: PT017
        return
    good = ~GAP if mark in values else np.ones((N, N), bool)
    np.testing.assert_array_equal(np.ones((N, N), bool) if raw.bad_pixels is None else ~raw.bad_pixels, good)
    np.testing.assert_allclose(raw.positions_px, scan.positions_px[:last])
    np.testing.assert_array_equal(raw.patterns.intensity()[:, good], kept[:last][:, good].astype(np.float32))


@settings(max_examples=40 * TIMES, **QUIET)
@given(
    sense=st.sampled_from(sorted(MASKS)),
    name=st.sampled_from(["mask", "pixel_mask", "bad_pixel_mask", "detector/good_pixels", "file"]),
    place=st.integers(3, 12),
    second=st.sampled_from([None, "1 bad", "1 good"]),
)
def test_a_mask_is_used_in_whichever_sense_it_is_written(
    scan: RawData, counts: NDArray, tmp_path: Path, sense: str, name: str, place: int, second: str | None
) -> None:
    bad = np.zeros((N, N), bool)
    bad[place : place + 2] = bad[:, place + 8] = True
    stored, how, more = MASKS[sense](bad), {}, {}
    if name == "file":
        np.save(tmp_path / "spots.npy", stored)
        how = {"mask": str(tmp_path / "spots.npy")}
    else:
        more = {name: stored}
    if second is not None and name != "file":
        other = np.zeros((N, N), bool)
        other[2, 30] = other[29, 3] = True
        more["other_mask"] = MASKS[second](other)
        bad = bad | other
    store_hdf5(tmp_path / "scan.h5", np.where(bad, 0, counts), scan.positions_px, {"probe": scan.probe, **more})
    raw = quiet(tmp_path / "scan.h5", **how)
    np.testing.assert_array_equal(raw.bad_pixels, bad)
    np.testing.assert_array_equal(raw.patterns.intensity([5])[0], np.where(bad, 0, counts[5]))


# -- positions -----------------------------------------------------------------------------------------------------------


@settings(max_examples=30 * TIMES, **QUIET)
@given(
    data=st.data(),
    layout=st.sampled_from(["n, 2", "2, n", "3, n", "n, 3 and constant", "n, 3 and counted", "n, 4"]),
    chosen=st.booleans(),
)
def test_columns_that_are_no_positions_are_left_out(
    scan: RawData, counts: NDArray, tmp_path: Path, data: st.DataObject, layout: str, chosen: bool
) -> None:
    places, n = scan.positions_px, len(counts)
    counted, constant = np.arange(n) + data.draw(st.integers(-5, 5)), np.full(n, data.draw(st.floats(-9, 9)))
    stored = {
        "n, 2": places,
        "2, n": places.T,
        "3, n": np.stack([*places.T, constant]),
        "n, 3 and constant": np.column_stack([places, constant]),
        "n, 3 and counted": np.column_stack([counted, places]),
        "n, 4": np.column_stack([counted, places[:, 0], constant, places[:, 1]]),
    }[layout]
    store_hdf5(tmp_path / "scan.h5", counts, stored, {"probe": scan.probe})
    raw = quiet(tmp_path / "scan.h5", **({"frames": "dp", "positions": "positions_px"} if chosen else {}))
    np.testing.assert_allclose(raw.positions_px, places)


def test_three_columns_of_lengths_are_asked_about_or_said(scan: RawData, counts: NDArray, tmp_path: Path) -> None:
    height = np.random.default_rng(0).normal(size=len(counts))
    store_hdf5(tmp_path / "scan.h5", counts, np.column_stack([scan.positions_px, height]), {"probe": scan.probe})
    with pytest.raises(InputError) as refused:
        quiet(tmp_path / "scan.h5")
    assert has_a_way_on(refused.value)
    raw = quiet(tmp_path / "scan.h5", frames="dp", positions="positions_px")
    assert any("first two are taken for rows and columns" in note for note in raw.notes)


HEADERS = {
    "Y position [µm];X position [µm]": ("{y};{x}", ","),
    "py_um,px_um": ("{y},{x}", "."),
    "samx_um,samz_um": ("{x},{y}", "."),
    "x [um],y [um],z [um]": ("{x},{y},0.5", "."),
    "theta,x [um],y [um]": ("0,{x},{y}", "."),
    "# x_um y_um": ("{x} {y}", "."),
    "# scan 12\n# x y\n# um um": ("{x} {y}", "."),
    "y,x\n(um),(um)": ("{y},{x}", "."),
    "x_um y_um": ("{x} {y}", ","),
    "x_um\ty_um": ("{x}\t{y}", ","),
    "x_set_um,y_set_um,x_rbv_um,y_rbv_um": ("3.1,4.1,{x},{y}", "."),
    '"x_um","y_um"': ('"{x}","{y}"', "."),
    "x_um,y_um,": ("{x},{y},", "."),
    "Time_s,MotorY_micro-meters,MotorX_micro-meters": ("0.1,{y},{x}", "."),
}


@settings(max_examples=30 * TIMES, **QUIET)
@given(
    header=st.sampled_from(sorted(HEADERS)),
    ending=st.sampled_from(["", "\n", "\r\n\r\n", "\n# end of scan\n", "\n% 144 points"]),
    spike=st.sampled_from([None, 0, 71, 143]),
)
def test_tables_of_positions_as_people_write_them(
    scan: RawData, counts: NDArray, tmp_path: Path, header: str, ending: str, spike: int | None
) -> None:
    line, point = HEADERS[header]
    places = scan.positions_px * PX * 1e6
    if spike is not None:
        places[spike] += 4e4
    written = [line.format(x=f"{x:.9f}".replace(".", point), y=f"{y:.9f}".replace(".", point)) for y, x in places]
    raw = quiet(master(tmp_path, counts, "\n".join([header, *written]) + ending))
    kept = np.setdiff1d(np.arange(len(counts)), [] if spike is None else [spike])
    np.testing.assert_allclose(raw.positions_px, scan.positions_px[kept], atol=1e-3)
    np.testing.assert_array_equal(raw.patterns.intensity([0, -1 + len(kept)]), counts[kept[[0, -1]]])


# -- geometry without its units ------------------------------------------------------------------------------------------

RIGHT = {
    "incident_energy": [(ENERGY, "eV"), (ENERGY / 1e3, "keV"), (ENERGY * 1.602176634e-19, "J")],
    "incident_wavelength": [(WAVELENGTH, "m"), (WAVELENGTH * 1e10, "Angstroms"), (WAVELENGTH * 1e9, "nanometer")],
    "distance": [(DISTANCE, "m"), (DISTANCE * 1e3, "mm"), (DISTANCE * 100, "cm")],
    "pixel_size": [(DETECTOR_PX_M, "m"), (DETECTOR_PX_M * 1e6, "µm"), (DETECTOR_PX_M * 1e3, "mm")],
    "translation": [(1.0, "m"), (1e6, "micro-meters"), (1e9, "nm"), (1e6, "[um]")],
}


@settings(max_examples=60 * TIMES, **QUIET)
@given(data=st.data(), beam=st.sampled_from(["incident_energy", "incident_wavelength"]))
def test_a_number_without_its_unit_is_never_taken_for_another_in_silence(
    scan: RawData, counts: NDArray, tmp_path: Path, data: st.DataObject, beam: str
) -> None:
    stripped = data.draw(st.sampled_from([None, beam, "distance", "pixel_size", "translation"]))
    stated = {}
    for name in (beam, "distance", "pixel_size", "translation"):
        number, unit = data.draw(st.sampled_from(RIGHT[name]))
        stated[name] = (number, None if name == stripped else unit)
    detector, sample = "entry/instrument/detector", "entry/sample/transformations"
    with h5py.File(tmp_path / "scan.nxs", "w") as file:
        for group, kind in (("entry", "NXentry"), (detector, "NXdetector"), ("entry/beam", "NXbeam"),
                            ("entry/sample", "NXsample"), (sample, "NXtransformations")):  # fmt: skip
            file.require_group(group).attrs["NX_class"] = kind
        file["entry/definition"], file[f"{detector}/data"] = "NXptycho", counts
        places = scan.positions_px * PX * stated["translation"][0]
        for name, value, of in (
            (f"entry/beam/{beam}", stated[beam][0], beam),
            (f"{detector}/distance", stated["distance"][0], "distance"),
            (f"{detector}/x_pixel_size", stated["pixel_size"][0], "pixel_size"),
            (f"{detector}/y_pixel_size", stated["pixel_size"][0], "pixel_size"),
            (f"{sample}/translation_y", places[:, 0], "translation"),
            (f"{sample}/translation_x", places[:, 1], "translation"),
        ):
            file[name] = value
            if stated[of][1] is not None:
                file[name].attrs["units"] = stated[of][1]
    try:
        raw = quiet(tmp_path / "scan.nxs")
    except InputError as error:
        assert stripped is not None and has_a_way_on(error)  # noqa: PT017, PT018
        return
    if np.allclose(raw.positions_px, scan.positions_px, rtol=1e-4):
        return
    assert stripped is not None
    assert any("another unit" in note or "energy_eV" in note for note in raw.notes)


# -- values that are no counts -------------------------------------------------------------------------------------------


@settings(max_examples=12 * TIMES, **QUIET)
@given(base=st.sampled_from([10.0, np.e]), kind=st.sampled_from([np.float32, np.float64]), npz=st.booleans())
def test_logarithms_are_refused(
    scan: RawData, counts: NDArray, tmp_path: Path, base: float, kind: Any, npz: bool
) -> None:
    frames = (np.log1p(counts) / np.log(base)).astype(kind)
    path = tmp_path / "scan.npz"
    if npz:
        np.savez(path, diff3d=frames, xcoords=scan.xcoords, ycoords=scan.ycoords)
    else:
        store_hdf5(path, frames, scan.positions_px, {})
    with pytest.raises(InputError, match="logarithms v of counts") as refused:
        quiet(path)
    assert has_a_way_on(refused.value)


@settings(max_examples=8 * TIMES, **QUIET)
@given(first=st.integers(1, 100), length=st.integers(1, 30))
def test_a_detector_that_hung_is_named(scan: RawData, counts: NDArray, tmp_path: Path, first: int, length: int) -> None:
    frames = counts.copy()
    frames[first : first + length] = frames[first - 1]
    store_hdf5(tmp_path / "scan.h5", frames, scan.positions_px, {"probe": scan.probe})
    raw = quiet(tmp_path / "scan.h5")
    dropped = ",".join(str(number) for number in range(first, first + length))
    assert any(note.endswith(f"--drop {dropped}") for note in raw.notes)
    assert not any("once more" in note for note in quiet(tmp_path / "scan.h5", drop=dropped).notes)


@settings(max_examples=8 * TIMES, **QUIET)
@given(exchanged=st.booleans(), probe=st.booleans(), masked=st.booleans())
def test_exchanged_axes_are_mended_where_nothing_else_is_turned_by_it(
    scan: RawData, counts: NDArray, tmp_path: Path, exchanged: bool, probe: bool, masked: bool
) -> None:
    bad = GAP & (np.indices((N, N))[0] < 12)
    frames, mask = np.where(bad, 0, counts) if masked else counts, bad
    more: dict[str, Any] = {"mask": mask.T if exchanged else mask} if masked else {}
    more |= {"probe": scan.probe} if probe else {}
    stored = frames.swapaxes(1, 2) if exchanged else frames
    path = tmp_path / "scan.h5"
    store_hdf5(path, stored, scan.positions_px, more)
    raw = quiet(path)
    turned = exchanged and not probe
    np.testing.assert_array_equal(raw.patterns.intensity([7, 99]), (frames if turned else stored)[[7, 99]])
    assert turned == any("columns of the frames were exchanged" in note for note in raw.notes)
    assert (exchanged and probe) == any(note.endswith("--transpose exchanges them") for note in raw.notes)
    np.testing.assert_array_equal(quiet(path, axes="nyx").patterns.intensity([7]), stored[[7]])
    if exchanged:
        asked = quiet(path, transpose=True)
        np.testing.assert_array_equal(asked.patterns.intensity([7]), frames[[7]])
        np.testing.assert_array_equal(asked.bad_pixels, bad if masked else None)
