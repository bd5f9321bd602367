"""From a microscope's file to a scan: voltage, semi-angle and step are enough; what contradicts itself is refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from ptycho_ray.commands.cli import main
from ptycho_ray.config.reading import Reading
from ptycho_ray.data import RawData, load_data
from ptycho_ray.data.formats.far_field_geometry import geometry_of
from ptycho_ray.data.formats.ptychodus_folder import product_of_scan
from ptycho_ray.data.inspection import photons_per_unit
from ptycho_ray.errors import InputError
from ptycho_ray.physics.electron_optics import ElectronOptics
from ptycho_ray.physics.optics import electron_wavelength_m, wavelength_m

N, RADIUS, SEMIANGLE, DEFOCUS = 32, 7.3, 0.0214, 4e-9
WAVELENGTH = electron_wavelength_m(300e3)
PIXEL = WAVELENGTH / (N * SEMIANGLE / RADIUS)
ROWS, COLUMNS, STEP = 4, 5, 0.6e-10
BASIC = {"voltage_kV": 300.0, "semiangle_mrad": 21.4, "raster": "4x5", "step": "0.6angstrom"}


def patterns(dose: float = 2000.0, *, sample: bool = True) -> NDArray[np.uint16]:
    """Counts of electrons behind a weak phase object."""
    rng = np.random.default_rng(0)
    probe = ElectronOptics(SEMIANGLE, DEFOCUS).probe(N, PIXEL, WAVELENGTH)
    side = N + 16
    low = np.exp(-300 * (np.fft.fftfreq(side)[:, None] ** 2 + np.fft.fftfreq(side) ** 2))
    phase = np.fft.ifft2(np.fft.fft2(rng.normal(size=(side, side))) * low).real
    image = np.exp(1j * (0.3 * phase / phase.std() if sample else 0 * phase))
    frames = []
    for row, column in np.indices((ROWS, COLUMNS)).reshape(2, -1).T:
        y, x = (round(place * STEP / PIXEL) for place in (row, column))
        wave = np.fft.fft2(np.fft.ifftshift(probe * image[y : y + N, x : x + N]), norm="ortho")
        frames.append(np.abs(np.fft.fftshift(wave)) ** 2)
    return rng.poisson(dose * np.array(frames)).astype(np.uint16)


@pytest.fixture(scope="module")
def counts() -> NDArray[np.uint16]:
    return patterns()


@pytest.fixture
def file(counts: NDArray, tmp_path: Path) -> Path:
    np.save(tmp_path / "a.npy", counts)
    return tmp_path / "a.npy"


def quiet(path: Path, **how: Any) -> RawData:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_data(path, **how)


def on_detector(frames: NDArray, shape: tuple[int, int], row: int, column: int) -> NDArray:
    """Frames on a detector of another shape, with the beam on another pixel."""
    made = np.zeros((len(frames), *shape), frames.dtype)
    top, left = row - N // 2, column - N // 2
    low, high = max(top, 0), min(top + N, shape[0])
    first, last = max(left, 0), min(left + N, shape[1])
    made[:, low:high, first:last] = frames[:, low - top : high - top, first - left : last - left]
    return made


def test_voltage_semiangle_and_step_are_enough(file: Path) -> None:
    scan = quiet(file, **BASIC, defocus_nm=4)
    assert scan.electrons
    assert scan.quantum == "electron"
    assert scan.pixel_size_m == pytest.approx(PIXEL, rel=0.02)
    assert np.ptp(scan.positions_px, axis=0) * scan.pixel_size_m == pytest.approx([3 * STEP, 4 * STEP])
    assert scan.optics == ElectronOptics(SEMIANGLE, 4e-9)
    assert not scan.probe_is_guess
    assert np.sum(np.abs(scan.probe) ** 2) == pytest.approx(scan.pattern_energies().mean(), rel=1e-4)
    made = ElectronOptics(SEMIANGLE, DEFOCUS).probe(N, PIXEL, WAVELENGTH)
    alike = abs(np.vdot(scan.probe[0], made)) / np.linalg.norm(scan.probe)
    assert alike > 0.99
    assert any("taken for 2.9" in note for note in scan.notes)


@pytest.mark.parametrize(("shape", "row", "column"), [((32, 32), 19, 14), ((40, 36), 18, 21), ((35, 35), 17, 20)])
def test_the_beam_is_brought_to_the_middle_of_an_even_square(
    shape: tuple[int, int], row: int, column: int, counts: NDArray, tmp_path: Path
) -> None:
    np.save(tmp_path / "b.npy", on_detector(counts, shape, row, column))
    scan = quiet(tmp_path / "b.npy", **BASIC)
    side = min(shape) // 2 * 2
    assert scan.patterns.shape == (20, side, side)
    assert scan.patterns.source.dtype == np.uint16
    assert scan.pixel_size_m == pytest.approx(PIXEL * N / side, rel=0.02)
    assert scan.probe.shape == (1, side, side)
    reach = 9  # the disc and its surroundings lie on the detector in all cases
    here = np.s_[:, side // 2 - reach : side // 2 + reach, side // 2 - reach : side // 2 + reach]
    there = np.s_[:, N // 2 - reach : N // 2 + reach, N // 2 - reach : N // 2 + reach]
    np.testing.assert_array_equal(scan.patterns.intensity()[here], counts[there])
    assert any("was moved to the middle" in note for note in scan.notes)
    picked = scan.select([3, 7])
    assert picked.optics is scan.optics
    assert picked.at(picked.positions_px).optics is scan.optics
    np.testing.assert_array_equal(picked.patterns.intensity()[here], counts[[3, 7]][there])


def test_a_file_with_its_probe_keeps_its_frames(file: Path, counts: NDArray, tmp_path: Path) -> None:
    scan = quiet(file, **BASIC)
    scan.to_file(tmp_path / "off.npz")
    with np.load(tmp_path / "off.npz") as npz:
        np.savez(tmp_path / "off.npz", **{**npz, "diff3d": np.roll(npz["diff3d"], 3, axis=1)})
    again = quiet(tmp_path / "off.npz")
    np.testing.assert_allclose(again.patterns.intensity(), np.roll(counts, 3, axis=1), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(again.probe, scan.probe)
    other = quiet(tmp_path / "off.npz", defocus_nm=9)
    assert not np.allclose(other.probe, scan.probe)
    assert any("probe of the file gives way" in note for note in other.notes)
    assert other.optics is not None
    assert other.optics.defocus_m == pytest.approx(9e-9)


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".emd"])
def test_optics_are_kept_in_files_of_our_own(suffix: str, file: Path, tmp_path: Path) -> None:
    how = {"aberrations": "A1=2nm@30deg,C3=-1um", "source_size_angstrom": 0.5, "defocus_spread_nm": 2}
    scan = quiet(file, **BASIC, defocus_nm=4, **how)
    assert len(scan.probe) > 1
    scan.to_file(tmp_path / f"scan{suffix}")
    again = quiet(tmp_path / f"scan{suffix}")
    assert again.optics is not None
    assert again.electrons
    assert again.energy_eV == 300e3
    assert again.optics.defocus_m == 4e-9
    assert again.optics.source_size_m == pytest.approx(0.5e-10)
    assert again.optics.aberrations["C12"] == pytest.approx((2e-9, np.pi / 6))
    np.testing.assert_allclose(again.probe, scan.probe, rtol=1e-5)


@pytest.mark.parametrize("where", ["npy", "h5", "key", "frames"])
def test_a_pattern_without_a_sample_gives_the_aperture(where: str, counts: NDArray, tmp_path: Path) -> None:
    vacuum = patterns(1e5, sample=False)[0].astype(np.float64)
    vacuum *= np.linspace(0.2, 1.8, N)  # an aperture that is not lit evenly
    shifted = on_detector(counts, (36, 36), 20, 17)
    measured = on_detector(vacuum[None], (36, 36), 20, 17)[0]
    path, named = tmp_path / "scan.npy", str(tmp_path / f"vacuum.{where}")
    np.save(path, shifted)
    if where == "npy":
        np.save(named, measured)
    elif where == "h5":
        with h5py.File(named, "w") as store:
            store["vacuum"] = measured
    elif where == "key":
        path, named = tmp_path / "scan.h5", "beam/empty"
        with h5py.File(path, "w") as store:
            store["data"], store[named] = shifted, np.stack([measured, measured])
    else:
        named = str(tmp_path / "vacuum.npy")
        np.save(named, np.stack([measured] * 3))
    more = {"frames": "data"} if where == "key" else {}
    scan = quiet(path, **BASIC, vacuum=named, **more)
    assert scan.optics is not None
    aperture = scan.optics.transmission
    assert aperture is not None
    assert scan.pixel_size_m == pytest.approx(PIXEL * N / 36, rel=0.01)
    assert aperture[:, 19:].sum() / aperture[:, :18].sum() == pytest.approx(1.38, rel=0.03)
    assert aperture[18, 18 + 10] == 0
    turned = quiet(path, **BASIC, vacuum=named, **more, transpose=True)
    assert turned.optics is not None
    np.testing.assert_array_equal(turned.optics.transmission, aperture.T)
    light = np.abs(np.fft.fftshift(np.fft.fft2(scan.probe[0]))) ** 2
    np.testing.assert_allclose(light / light.sum(), aperture / aperture.sum(), atol=1e-6)


def test_a_dead_pixel_makes_no_hole_in_the_aperture(counts: NDArray, tmp_path: Path) -> None:
    vacuum, bad = patterns(1e5, sample=False)[0].astype(np.float64), np.zeros((N, N), bool)
    bad[N // 2 + 3, N // 2 - 2] = True
    for name, values in (("scan", counts), ("vacuum", np.where(bad, 0, vacuum)), ("mask", bad)):
        np.save(tmp_path / f"{name}.npy", values)
    more = {"vacuum": str(tmp_path / "vacuum.npy"), "mask": str(tmp_path / "mask.npy")}
    scan = quiet(tmp_path / "scan.npy", **BASIC, **more)
    assert scan.optics is not None
    assert scan.optics.transmission is not None
    assert scan.bad_pixels is not None
    np.testing.assert_allclose(scan.optics.transmission[scan.bad_pixels], 1.0, atol=0.1)


def test_a_vacuum_of_another_detector_is_refused(file: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.ones((40, 40)))
    with pytest.raises(InputError, match=r"vacuum: found shape \(40, 40\); expected \(32, 32\)"):
        quiet(file, **BASIC, vacuum=str(tmp_path / "v.npy"))
    np.save(tmp_path / "v.npy", np.ones((32, 32)))
    with pytest.raises(InputError, match="vacuum: found no bright disc"):
        quiet(file, **BASIC, vacuum=str(tmp_path / "v.npy"))
    with pytest.raises(InputError, match="vacuum.*dataset of the file that was sent"):
        quiet(file, **BASIC, vacuum=str(tmp_path / "v.npy"), keys_only=True)


def test_the_semiangle_follows_from_the_disc_where_angles_are_known(file: Path) -> None:
    how = {"raster": "4x5", "step": "0.6angstrom", "voltage_kV": 300}
    scan = quiet(file, **how, detector_distance_m=1.0, detector_pixel_m=SEMIANGLE / RADIUS)
    assert scan.optics is not None
    assert scan.optics.semiangle_rad == pytest.approx(SEMIANGLE, rel=0.02)
    assert not scan.probe_is_guess
    same = quiet(file, **how, pixel_size_m=PIXEL, defocus_nm=3)
    assert same.optics is not None
    assert same.optics.semiangle_rad == pytest.approx(SEMIANGLE, rel=0.02)
    assert same.optics.defocus_m == pytest.approx(3e-9)


REFUSED = {
    "volts": ({"voltage_kV": 300000}, "voltage_kV: found 300000 kV.*--voltage-kV 300$"),
    "radian": ({"semiangle_mrad": 0.0214}, r"semiangle_mrad: found 0.0214 mrad.*--semiangle-mrad 21.4$"),
    "metres": ({"defocus_nm": 2e-8}, r"defocus_nm: found 2e-08 nm.*--defocus-nm 20$"),
    "no voltage": ({"voltage_kV": None}, r"voltage_kV: found none, with --semiangle-mrad 21.4.*--voltage-kV 300$"),
    "no angle": (
        {"semiangle_mrad": None, "defocus_nm": 5.0},
        r"semiangle_mrad: found none.*--defocus-nm 5 --semiangle-mrad 20$",
    ),
    "nothing": ({"semiangle_mrad": None}, r"semiangle_mrad: found electrons without the angle.*--semiangle-mrad 20$"),
    "camera length": (
        {"detector_distance_m": 1.0, "detector_pixel_m": 2 * SEMIANGLE / RADIUS},
        r"21.4 mrad, 3.65 px at 5.863 mrad.*disc of 7.\d+ .*--semiangle-mrad 4\d.*--pixel-size-m \d",
    ),
    "step": (
        {"step": "3nm", "defocus_nm": 1.0},
        r"step: found neighbours 30 angstrom apart under a probe 1.2.* angstrom wide.*--step 0.36angstrom$",
    ),
    "photons": (
        {"beam": "photons"},
        r"voltage_kV: found an option of electrons, for a beam of photons.*--beam electrons$",
    ),
    "twice": ({"aberrations": "C10=5nm", "defocus_nm": 5.0}, "C10 = 5 nm, and --defocus-nm 5.*one of them"),
    "aberrations": ({"aberrations": "Q7=5nm"}, "aberrations: found 'Q7'; expected one of C10"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_with_the_way_on(case: str, file: Path) -> None:
    how, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        quiet(file, **{**BASIC, **how})


def test_the_pixel_that_a_user_states_settles_a_contradiction(file: Path) -> None:
    wrong = {"detector_distance_m": 1.0, "detector_pixel_m": 2 * SEMIANGLE / RADIUS}
    scan = quiet(file, **BASIC, **wrong, pixel_size_m=PIXEL)
    assert scan.pixel_size_m == PIXEL


def test_a_beam_of_photons_takes_no_optics_of_electrons(small_scan: RawData, tmp_path: Path) -> None:
    scan = small_scan.select(np.arange(len(small_scan)))
    scan.pixel_size_m, scan.energy_eV, scan.detector_distance_m = 20e-9, 8000.0, 2.0
    for name in ("scan.cxi", "scan.npz"):
        scan.to_file(tmp_path / name)
        for option in ({"voltage_kV": 300}, {"semiangle_mrad": 20}, {"vacuum": "x"}, {"aberrations": "C30=1um"}):
            with pytest.raises(InputError, match=r"a beam of photons of 8 keV.*--beam electrons$"):
                quiet(tmp_path / name, **option)
    electrons = quiet(tmp_path / "scan.npz", voltage_kV=300, beam="electrons")
    assert electrons.electrons
    assert not quiet(tmp_path / "scan.npz").electrons
    electrons.to_file(tmp_path / "electrons.npz")
    with pytest.raises(
        InputError, match=r"energy_eV: found 9 keV, for a beam of electrons.*--voltage-kV 300, .*photons$"
    ):
        quiet(tmp_path / "electrons.npz", energy_eV=9000.0)
    assert quiet(tmp_path / "electrons.npz", energy_eV=2e5).energy_eV == 2e5
    assert not quiet(tmp_path / "electrons.npz", energy_eV=9000.0, beam="photons").electrons


def test_electrons_go_to_a_format_of_photons_with_their_wavelength(file: Path, tmp_path: Path) -> None:
    scan = quiet(file, **BASIC, detector_distance_m=1.0, detector_pixel_m=SEMIANGLE / RADIUS)
    scan.to_file(tmp_path / "scan.ptyd")
    again = quiet(tmp_path / "scan.ptyd")
    assert again.wavelength_m == pytest.approx(WAVELENGTH, rel=1e-6)
    assert again.pixel_size_m == pytest.approx(scan.pixel_size_m, rel=1e-6)
    scan.detector_distance_m = 1.0
    product = product_of_scan(scan, np.ones((40, 40), complex), (0, 0), "")
    assert wavelength_m(product.metadata["photon_energy_eV"]) == pytest.approx(WAVELENGTH, rel=1e-6)
    scan.detector_distance_m = None
    assert geometry_of(scan).detector_distance_m == pytest.approx(1.0, rel=0.02)


def test_a_wavelength_of_electrons_is_read_as_theirs(counts: NDArray, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as store:
        store["diff3d"] = counts
        store["xcoords"], store["ycoords"] = np.arange(20.0) % 5, np.arange(20.0) // 5
        store.attrs.update({"electrons": True, "wavelength_m": WAVELENGTH})
    assert quiet(tmp_path / "a.h5").energy_eV == pytest.approx(300e3, rel=1e-9)


def test_every_way_of_reading_knows_the_options(file: Path) -> None:
    reading = Reading(
        voltage_kV=300, semiangle_mrad=21.4, raster="4x5", step="0.6angstrom", aberrations="C12=1nm@20deg"
    )
    words = reading.words()
    assert "--aberrations" in words
    assert quiet(file, reading=reading).optics == quiet(file, **reading.chosen()).optics


def test_info_shows_a_microscope_on_one_screen(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "info",
        str(file),
        "--voltage-kV",
        "300",
        "--semiangle-mrad",
        "21.4",
        "--defocus-nm",
        "-4",
        "--raster",
        "4x5",
    ]
    words += ["--aberrations", "A1=2nm@30deg,C3=-2um", "--source-size-angstrom", "0.4"]
    assert main([*words, "--step", "0.6angstrom"]) == 0
    said = capsys.readouterr().out
    for text in (
        "300 kV",
        "1.969 pm",
        "21.4 mrad",
        "-4 nm defocus",
        "C12 2 nm at 30 deg, C30 -2 um, source 0.4",
        "mrad a pixel",
        "angstrom",
        "per square angstrom",
    ):
        assert text in " ".join(said.split())
    assert "photon" not in said
    assert len(said.splitlines()) < 25
    assert main([*words, "--step", "0.6angstrom", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    facts = told["microscope"]
    assert facts["bright_field_disc_px"] == pytest.approx(RADIUS, abs=0.15)
    assert facts["step_angstrom"] == pytest.approx(0.6)
    electrons = told["dose"]["electrons_a_pattern"]
    assert facts["dose_per_square_angstrom"] == pytest.approx(electrons / 0.36, rel=1e-3)
    assert facts["counts_per_electron"] == 1


def test_counts_of_a_few_electrons_are_known_as_such(tmp_path: Path) -> None:
    """Hardly an electron a pixel: the values 0, 1 and 2 say little, but whole numbers from 1 on are counts."""
    np.save(tmp_path / "low.npy", patterns(dose=60).astype(np.uint8))
    scan = quiet(tmp_path / "low.npy", **BASIC)
    assert scan.pixel_size_m == pytest.approx(PIXEL, rel=0.05)
    assert photons_per_unit(scan) == 1
