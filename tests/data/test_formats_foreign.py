"""Files as other programs write them, made here by hand in the layout that docs/formats.md states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io

from ptycho_ray.data import load_data
from ptycho_ray.data.contents import JOULE_PER_EV, PLANCK_TIMES_LIGHT_EV_M
from ptycho_ray.data.formats import read_fields
from ptycho_ray.errors import InputError

N, n = 8, 12
ENERGY, DISTANCE, DETECTOR = 8000.0, 2.0, 75e-6
PIXEL = PLANCK_TIMES_LIGHT_EV_M / ENERGY * DISTANCE / (N * DETECTOR)
LIMIT = 2**30


@pytest.fixture
def counts(rng: np.random.Generator) -> np.ndarray:
    return rng.poisson(9.0, (n, N, N)).astype(np.uint16) + np.uint16(1)


@pytest.fixture
def metres(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(0, 20 * PIXEL, (n, 2))


@pytest.fixture
def probe(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(N, N)) + 1j * rng.normal(size=(N, N))


@pytest.fixture
def image(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(30, 36)) + 1j * rng.normal(size=(30, 36))


# -- ptypy ---------------------------------------------------------------------------------------------------------------


def write_ptyd(path: Path, counts: np.ndarray, metres: np.ndarray, *, linked: bool = False, **meta: Any) -> Path:
    """Two chunks, named 2 and 10 so that the order of texts is not that of numbers; 'None' where a value is missing."""
    values = {"energy": ENERGY / 1e3, "distance": DISTANCE, "psize": np.array([DETECTOR, DETECTOR])} | meta
    with h5py.File(path, "w") as file:
        for name, value in values.items():
            file[f"meta/{name}"] = np.array([0.0]) if value is None else value
            file[f"meta/{name}"].attrs["type"] = "None" if value is None else "scalar"
        for name, part in (("2", slice(0, 5)), ("10", slice(5, None))):
            chunk = {"data": counts[part], "positions": metres[part], "indices": np.arange(n)[part] + 100}
            chunk["weights"] = np.ones((len(counts[part]), N, N), np.float32)
            chunk["weights"][:, 1, 2] = 0
            target: Any = file.require_group("chunks")
            if linked:
                with h5py.File(f"{path}.part{int(name):03d}", "w") as other:
                    for key, value in chunk.items():
                        other[key] = value
                target[name] = h5py.ExternalLink(f"{path.name}.part{int(name):03d}", "/")
            else:
                for key, value in chunk.items():
                    target[f"{name}/{key}"] = value
    return path


@pytest.mark.parametrize("linked", [False, True])
def test_ptyd(linked: bool, tmp_path: Path, counts: np.ndarray, metres: np.ndarray) -> None:
    raw = load_data(write_ptyd(tmp_path / "scan.ptyd", counts, metres, linked=linked))
    expected = counts.astype(float)
    expected[:, 1, 2] = 0
    np.testing.assert_array_equal(raw.patterns.intensity([11, 0, 5, 4]), expected[[11, 0, 5, 4]])
    np.testing.assert_allclose(raw.positions_px, metres / PIXEL)
    np.testing.assert_array_equal(raw.scan_index, np.arange(n) + 100)
    assert raw.energy_eV == pytest.approx(ENERGY)
    assert raw.bad_pixels is not None
    assert np.argwhere(raw.bad_pixels).tolist() == [[1, 2]]
    assert not raw.patterns.in_memory


def test_ptyd_with_a_missing_energy_says_which_option(tmp_path: Path, counts: np.ndarray, metres: np.ndarray) -> None:
    path = write_ptyd(tmp_path / "scan.ptyd", counts, metres, energy=None)
    with pytest.raises(InputError, match="pixel_size_m: found positions in metres without.*--energy-eV"):
        load_data(path)
    assert load_data(path, energy_eV=ENERGY).pixel_size_m == pytest.approx(PIXEL)


def test_ptyr_as_a_companion(
    tmp_path: Path, counts: np.ndarray, metres: np.ndarray, probe: np.ndarray, image: np.ndarray
) -> None:
    scan = write_ptyd(tmp_path / "scan.ptyd", counts, metres)
    with h5py.File(tmp_path / "result.ptyr", "w") as file:
        file["content/obj/Sscan00G00/data"] = image[None]
        file["content/probe/Sscan00G00/data"] = np.stack([probe, 0.1 * probe])
    raw = load_data(scan, companion=tmp_path / "result.ptyr")
    assert raw.probe.shape == (2, N, N)
    assert np.sum(np.abs(raw.probe) ** 2) == pytest.approx(raw.pattern_energies().mean(), rel=1e-4)
    assert raw.object_truth is None  # the object's frame is not that of the positions
    with pytest.raises(InputError, match="ptyr, which holds no diffraction patterns.*--companion"):
        load_data(tmp_path / "result.ptyr")


# -- Velociprobe ---------------------------------------------------------------------------------------------------------


def write_master(folder: Path, counts: np.ndarray, links: list[str]) -> Path:
    with h5py.File(folder / "fly_master.h5", "w") as file:
        detector = file.create_group("entry/instrument/detector")
        detector["detectorSpecific/photon_energy"] = ENERGY
        detector["detectorSpecific/nimages"] = len(counts)
        detector["detector_distance"] = DISTANCE
        detector["x_pixel_size"] = detector["y_pixel_size"] = DETECTOR
        detector["beam_center_x"], detector["beam_center_y"] = N / 2, N / 2 - 1
        file["entry/sample/goniometer/chi"] = 60.0
        for number, name in enumerate(links):
            file[f"entry/data/data_{number + 1:06d}"] = h5py.ExternalLink(name, "/entry/data/data")
    return folder / "fly_master.h5"


def test_velociprobe_with_linked_frames_and_a_table(tmp_path: Path, counts: np.ndarray) -> None:
    names = ["fly_data_000001.h5", "fly_data_000002.h5"]
    for name, part in zip(names, (slice(0, 7), slice(7, None)), strict=True):
        with h5py.File(tmp_path / name, "w") as file:
            file["entry/data/data"] = counts[part]
    table = np.zeros((2 * n - 1, 8))  # two samples of the stage a trigger, one of the last
    table[:, 7] = np.repeat(np.arange(n), 2)[:-1] + 5
    table[:, 1], table[:, 5] = np.arange(2 * n - 1) * 100.0, np.arange(2 * n - 1) ** 2 * 10.0
    np.savetxt(tmp_path / "fly.csv", table, delimiter=",")
    raw = load_data(write_master(tmp_path, counts, names))
    np.testing.assert_array_equal(raw.patterns.intensity([8, 6, 7, 0]), counts[[8, 6, 7, 0]])
    x = np.array([table[table[:, 7] == trigger, 1].mean() for trigger in range(5, 5 + n)]) * 1e-9
    y = np.array([table[table[:, 7] == trigger, 5].mean() for trigger in range(5, 5 + n)]) * -1e-9
    moved = np.stack([y, x * 0.5], axis=1) / PIXEL  # cos 60 degrees
    np.testing.assert_allclose(np.diff(raw.positions_px, axis=0), np.diff(moved, axis=0), atol=1e-9)
    assert (raw.energy_eV, raw.pixel_size_m) == (ENERGY, pytest.approx(PIXEL))
    (tmp_path / "fly.csv").unlink()
    with pytest.raises(InputError, match="positions: found none in a file of the format velociprobe.*--companion"):
        load_data(tmp_path / "fly_master.h5")
    np.savetxt(tmp_path / "other.txt", np.stack([y, x], axis=1))
    assert len(load_data(tmp_path / "fly_master.h5", companion=tmp_path / "other.txt")) == n


@pytest.mark.parametrize("kind", ["absolute", "parent", "windows", "missing"])
def test_links_out_of_the_folder_are_refused(kind: str, tmp_path: Path, counts: np.ndarray) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["entry/data/data"] = counts
    name = {
        "absolute": str(tmp_path / "secret.h5"),
        "parent": "../secret.h5",
        "windows": r"..\secret.h5",
        "missing": "gone.h5",
    }[kind]
    path = write_master(inside, counts, [name])
    message = "which is not there" if kind == "missing" else "a file in the same folder"
    with pytest.raises(InputError, match=f"entry/data/data_000001: found a link to .*{message}"):
        load_data(path)


@pytest.mark.parametrize("kind", ["link", "virtual", "chain"])
def test_no_format_follows_links_out_of_the_folder(kind: str, tmp_path: Path, counts: np.ndarray) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["dp"] = counts
    with h5py.File(inside / "scan.h5", "w") as file:
        file["xcoords"], file["ycoords"] = np.arange(n) * 2.0, np.arange(n) * 1.0
        if kind == "link":
            file["dp"] = h5py.ExternalLink("../secret.h5", "dp")
        elif kind == "chain":
            file["dp"] = h5py.ExternalLink("next.h5", "dp")
            with h5py.File(inside / "next.h5", "w") as between:
                between["dp"] = h5py.ExternalLink("../secret.h5", "dp")
        else:
            layout = h5py.VirtualLayout(counts.shape, counts.dtype)
            layout[...] = h5py.VirtualSource("../secret.h5", "dp", counts.shape)
            file.create_virtual_dataset("dp", layout)
    with pytest.raises(InputError, match=r"dp: found (a link to \.\./secret\.h5|links that lead to .*secret\.h5)"):
        load_data(inside / "scan.h5")


def test_circular_links_end(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["dp"], file["xcoords"] = h5py.SoftLink("/xcoords"), h5py.SoftLink("/dp")
    with pytest.raises(InputError):
        load_data(tmp_path / "scan.h5")


# -- Ptychodus -----------------------------------------------------------------------------------------------------------


def write_product(
    path: Path, index: np.ndarray, metres: np.ndarray, probe: np.ndarray, image: np.ndarray, energy: str
) -> None:
    with h5py.File(path, "w") as file:
        file.attrs.update({"name": "x", "comments": "", "detector_object_distance_m": DISTANCE, energy: ENERGY})
        file["probe_position_indexes"] = index
        file["probe_position_x_m"], file["probe_position_y_m"] = metres[:, 1], metres[:, 0]
        file["probe"], file["object"] = probe[None, None], image[None]
        file["object"].attrs.update(
            {"center_x_m": 3 * PIXEL, "center_y_m": -PIXEL, "pixel_width_m": PIXEL, "pixel_height_m": PIXEL}
        )


@pytest.mark.parametrize("energy", ["photon_energy_eV", "probe_energy_eV"])
def test_ptychodus_product_matched_by_scan_number(
    energy: str, tmp_path: Path, counts: np.ndarray, probe: np.ndarray, image: np.ndarray
) -> None:
    """Number 4 is missing (interpolated), 6 is there twice (averaged), patterns 0 and 11 have no position (dropped)."""
    index = np.array([1, 2, 3, 5, 6, 6, 7, 8, 9, 10])
    metres = np.stack([index * 2.0, index**1.0], axis=1) * PIXEL
    metres[5] += 2 * PIXEL
    write_product(tmp_path / "product.h5", index, metres, probe, image, energy)
    with h5py.File(tmp_path / "diffraction.h5", "w") as file:
        file["patterns"], file["indexes"] = counts, np.arange(n)
        file["patterns"].attrs.update({"detector_pixel_width_m": DETECTOR, "detector_pixel_height_m": DETECTOR})
        file["bad_pixels"] = np.zeros((N, N), bool)
    raw = load_data(tmp_path / "product.h5")
    np.testing.assert_array_equal(raw.scan_index, np.arange(1, 11))
    np.testing.assert_array_equal(raw.patterns.intensity(), counts[1:11])
    wanted = np.stack([np.arange(1, 11) * 2.0, np.arange(1, 11) * 1.0], axis=1)
    wanted[5] += 1
    wanted += [1 + 29 / 2 + 0.5, -3 + 35 / 2 + 0.5]
    np.testing.assert_allclose(raw.positions_px, wanted)
    assert (raw.energy_eV, raw.detector_distance_m, raw.detector_pixel_m) == (ENERGY, DISTANCE, DETECTOR)
    np.testing.assert_allclose(raw.object_truth, image.astype(np.complex64))
    checkpoint = tmp_path / "product.000007.h5"
    (tmp_path / "product.h5").rename(checkpoint)
    assert len(load_data(checkpoint)) == 10


def test_ptychodus_training_data_of_odd_side(tmp_path: Path, rng: np.random.Generator) -> None:
    """The middle of a patch is its pixel N//2 where N is odd."""
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["patterns"] = rng.poisson(9.0, (n, 7, 7)) + 1
        file["probe_position_x_px"], file["probe_position_y_px"] = np.arange(n) * 2.0, np.arange(n) * 3.0
        file["probe"] = np.ones((1, 2, 7, 7), complex)
    raw = load_data(tmp_path / "t.h5")
    np.testing.assert_array_equal(raw.positions_px, np.stack([np.arange(n) * 3.0, np.arange(n) * 2.0], axis=1))
    assert raw.probe.shape == (2, 7, 7)


def test_ptychodus_export_for_ptychopinn(
    tmp_path: Path, counts: np.ndarray, probe: np.ndarray, image: np.ndarray
) -> None:
    """Counts that inpainting made fractional, not amplitudes; positions in the middle of the patch."""
    x, y = np.arange(n) * 1.0 + 6, np.arange(n) * 1.5 + 6
    fields = {"xcoords": x, "ycoords": y, "xcoords_start": x, "ycoords_start": y, "scan_index": np.zeros(n, int)}
    fields |= {"probeGuess": probe[None], "objectGuess": image, "bad_pixels": np.zeros((N, N), bool)}
    np.savez(tmp_path / "a.npz", diff3d=counts + np.float32(0.25), **fields)
    raw = load_data(tmp_path / "a.npz")
    np.testing.assert_allclose(raw.patterns.intensity(), counts + 0.25)
    np.testing.assert_allclose(raw.positions_px, np.stack([y, x], axis=1) + 0.5)


def test_ptychodus_product_as_cxi(tmp_path: Path, counts: np.ndarray, probe: np.ndarray, image: np.ndarray) -> None:
    metres = np.stack([np.arange(n) * 1.0, np.arange(n) * 2.0], axis=1) * PIXEL
    with h5py.File(tmp_path / "product.cxi", "w") as file:
        file["cxi_version"] = 160
        file["entry_1/sample_1/geometry_1/translation"] = np.c_[metres[:, 1], metres[:, 0], 0 * metres[:, 0]]
        file["entry_1/image_1/data"], file["entry_1/image_2/data"] = probe[None, None], image[None]
        file["entry_1/instrument_1/source_1/energy"] = ENERGY * JOULE_PER_EV
        ours = file.create_group("entry_1/ptychodus")
        ours["object_pixel_width_m"] = ours["object_pixel_height_m"] = PIXEL
        ours["object_center_x_m"], ours["object_center_y_m"] = 0.0, PIXEL
        ours["probe_position_indexes"] = np.arange(n)
    with h5py.File(tmp_path / "diffraction.h5", "w") as file:
        file["patterns"], file["indexes"] = counts, np.arange(n)
    raw = load_data(tmp_path / "diffraction.h5", companion=tmp_path / "product.cxi")
    np.testing.assert_allclose(raw.positions_px, metres / PIXEL + [-1 + 29 / 2 + 0.5, 35 / 2 + 0.5])
    assert raw.energy_eV == pytest.approx(ENERGY)
    assert raw.object_truth is not None
    assert np.sum(np.abs(raw.probe) ** 2) == pytest.approx(raw.pattern_energies().mean(), rel=1e-4)


# -- PtychoShelves -------------------------------------------------------------------------------------------------------


def result_of_ptychoshelves(probe: np.ndarray, image: np.ndarray, places: np.ndarray) -> dict[str, Any]:
    return {
        "object": image,
        "probe": np.stack([probe, 2 * probe], axis=2),
        "p": {"lambda": PLANCK_TIMES_LIGHT_EV_M / ENERGY, "dx_spec": np.array([PIXEL, PIXEL])},
        "outputs": {"probe_positions": places, "fourier_error_out": np.arange(3.0)},
    }


def write_mat73(path: Path, content: dict[str, Any]) -> None:
    """Version 7.3: HDF5 behind 512 bytes, axes reversed, complex numbers as compounds."""
    pair = np.dtype([("real", "f8"), ("imag", "f8")])

    def put(group: Any, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if isinstance(value, dict):
                put(group.create_group(name), value)
                continue
            array = np.atleast_2d(np.asarray(value)).T
            if array.dtype.kind == "c":
                made = np.empty(array.shape, pair)
                made["real"], made["imag"] = array.real, array.imag
                array = made
            group[name] = array

    with h5py.File(path, "w", userblock_size=512) as file:
        put(file, content)
    with path.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file".ljust(128))


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_ptychoshelves_result_and_data_roi(
    version: str, tmp_path: Path, counts: np.ndarray, metres: np.ndarray, probe: np.ndarray, image: np.ndarray
) -> None:
    places = np.random.default_rng(1).uniform(-9, 9, (n, 2))
    content = result_of_ptychoshelves(probe, image, places)
    path = tmp_path / "Niter100.mat"
    scipy.io.savemat(path, content, do_compression=True) if version == "5" else write_mat73(path, content)
    found = read_fields(path, LIMIT)
    assert found.format == "ptychoshelves"
    assert found.positions is not None
    assert found.probe is not None
    np.testing.assert_allclose(found.positions, places[:, ::-1] + [29 / 2 + 0.5, 35 / 2 + 0.5])
    np.testing.assert_allclose(found.probe, np.stack([probe, 2 * probe]))
    np.testing.assert_allclose(found.object_truth, image)
    assert found.energy_eV == pytest.approx(ENERGY)
    assert found.pixel_size_m == pytest.approx(PIXEL)

    with h5py.File(tmp_path / "data_roi0_dp.hdf5", "w") as file:
        file["dp"] = counts
    with h5py.File(tmp_path / "data_roi0_para.hdf5", "w") as file:
        file["ppX"], file["ppY"], file["dx"] = metres[:, 1], metres[:, 0], PIXEL
    for name in ("data_roi0_dp.hdf5", "data_roi0_para.hdf5"):
        raw = load_data(tmp_path / name)
        np.testing.assert_allclose(raw.positions_px, metres / PIXEL)
    raw = load_data(tmp_path / "data_roi0_dp.hdf5", companion=path)  # positions and probe of the result instead
    np.testing.assert_allclose(raw.positions_px, found.positions)


def test_ptychoshelves_hdf5(tmp_path: Path, counts: np.ndarray, probe: np.ndarray, image: np.ndarray) -> None:
    corners = np.random.default_rng(0).integers(0, 20, (n, 2)).astype(np.uint32)
    pair = np.dtype([("r", "f4"), ("i", "f4")])
    with h5py.File(tmp_path / "scan_recons.h5", "w") as file:
        file["measurement/n0/data"], file["measurement/n0/positions"] = counts, corners
        for name, values in (("objects/object_0", image.T), ("probes/probe_0", probe.T[None])):
            made = np.empty(values.shape, pair)
            made["r"], made["i"] = values.real, values.imag
            file[f"reconstruction/p/{name}"] = made
    raw = load_data(tmp_path / "scan_recons.h5")
    np.testing.assert_allclose(raw.positions_px, corners + N // 2)
    np.testing.assert_allclose(raw.object_truth, image.astype(np.complex64), rtol=1e-5)
    ratio = raw.probe[0] / probe
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-4)


# -- NeXus ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["raster", "list", "translation"])
def test_nexus(layout: str, tmp_path: Path, counts: np.ndarray, metres: np.ndarray) -> None:
    """Millimetres, kiloelectronvolts, the machine's energy as a trap, and a raster with one x a column, one y a row."""
    with h5py.File(tmp_path / "scan.nxs", "w") as file:
        entry = file.create_group("entry_1")
        entry.attrs["NX_class"] = "NXentry"
        entry["definition"] = "NXptycho"
        for name, kind in (
            ("instrument_1", "NXinstrument"),
            ("instrument_1/source_1", "NXsource"),
            ("instrument_1/beam_1", "NXbeam"),
            ("instrument_1/detector_1", "NXdetector"),
            ("sample_1", "NXsample"),
            ("sample_1/transformations", "NXtransformations"),
        ):
            entry.create_group(name).attrs["NX_class"] = kind
        entry["instrument_1/source_1/energy"] = 3e9
        beam, detector = entry["instrument_1/beam_1"], entry["instrument_1/detector_1"]
        beam["incident_beam_energy"] = np.array([ENERGY / 1e3])
        beam["incident_beam_energy"].attrs["units"] = "keV"
        detector["data"] = counts.reshape(3, 4, N, N) if layout == "raster" else counts
        for name, value in (("distance", DISTANCE), ("x_pixel_size", DETECTOR), ("y_pixel_size", DETECTOR)):
            detector[name] = value * 1e3
            detector[name].attrs["units"] = "mm"
        place = entry["sample_1/transformations"]
        rows, columns = np.array([0, 2.0, 4]) * PIXEL, np.array([0, 1.0, 2, 3]) * PIXEL
        if layout == "raster":
            values = {"translation_x": columns * 1e6, "translation_y": rows[:, None] * 1e6}
            expected = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
        elif layout == "list":
            values, expected = {"translation_x": metres[:, 1] * 1e6, "translation_y": metres[:, 0] * 1e6}, metres
        else:
            values = {"translation": np.stack([metres[:, 1], metres[:, 0], 0 * metres[:, 0]], axis=1) * 1e6}
            expected = metres
        for name, value in values.items():
            place[name] = value
            place[name].attrs["units"] = "um"
    raw = load_data(tmp_path / "scan.nxs")
    np.testing.assert_allclose(raw.positions_px, expected / PIXEL, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(raw.patterns.intensity([11, 3, 4, 5]), counts[[11, 3, 4, 5]])
    assert raw.energy_eV == pytest.approx(ENERGY)
    with h5py.File(tmp_path / "scan.nxs", "a") as file:
        file["entry_1/instrument_1/detector_1/distance"].attrs["units"] = "furlong"
    with (
        pytest.warns(UserWarning, match="'furlong' is no unit that is known, and the number is not used"),
        pytest.raises(InputError, match="without a pixel size"),
    ):
        load_data(tmp_path / "scan.nxs")
    assert load_data(tmp_path / "scan.nxs", detector_distance_m=DISTANCE).pixel_size_m == pytest.approx(PIXEL)


# -- CXI and tike --------------------------------------------------------------------------------------------------------


def test_cxi_energy_in_joules_or_wavelength_and_pixels_from_the_basis(
    tmp_path: Path, counts: np.ndarray, metres: np.ndarray
) -> None:
    for name, value in (("energy", ENERGY * JOULE_PER_EV), ("wavelength", PLANCK_TIMES_LIGHT_EV_M / ENERGY)):
        path = tmp_path / f"{name}.cxi"
        with h5py.File(path, "w") as file:
            file["cxi_version"] = 160
            file[f"entry_1/instrument_1/source_1/{name}"] = value
            detector = file.create_group("entry_1/instrument_1/detector_1")
            detector["data"], detector["distance"] = counts, DISTANCE
            detector["basis_vectors"] = np.array([[0, -DETECTOR], [-DETECTOR, 0], [0, 0]])
            file["entry_1/sample_1/geometry_1/translation"] = np.c_[metres[:, 1], metres[:, 0], 0 * metres[:, 0]]
        raw = load_data(path)
        np.testing.assert_allclose(raw.positions_px, metres / PIXEL, rtol=1e-6, atol=1e-6)
        assert raw.energy_eV == pytest.approx(ENERGY)


def test_tike_of_several_views_is_refused(tmp_path: Path, counts: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", data=np.stack([counts, counts]), scan=np.ones((2, n, 2)))
    with pytest.raises(InputError, match=r"data: found shape \(2, 12, 8, 8\)"):
        load_data(tmp_path / "a.npz")


def test_shared_files_load_in_their_original_form(shared_data: Any) -> None:
    raw = load_data(shared_data("siemens-star-small.npz.bz2"))
    assert (raw.patterns.shape, raw.probe.shape) == ((516, 128, 128), (1, 128, 128))
    with pytest.warns(UserWarning, match="scan|probe") as told:
        raw = load_data(shared_data("PETRAIII_P25_Near_Field_Ptycho.cxi"))
    assert raw.patterns.shape == (200, 100, 100)
    assert any("--pixel-size-m" in str(warning.message) for warning in told)  # the message names the option
