"""Every format that is written gives back what it says it holds; a conversion loses what it says and nothing else."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers import TIMES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptycho_ray.commands.cli import main
from ptycho_ray.data import RawData, load_data
from ptycho_ray.data.contents import PLANCK_TIMES_LIGHT_EV_M
from ptycho_ray.data.formats import FIELDS, FORMATS, format_named, held_by, lost_in
from ptycho_ray.errors import InputError
from ptycho_ray.physics.electron_optics import ElectronOptics
from ptycho_ray.physics.optics import electron_wavelength_m

WRITTEN = [form.name for form in FORMATS if form.write is not None]
NAMES = {"ptychodus": "product.h5", "ptychovit": "scan_dp.hdf5"}


@st.composite
def scans(draw: st.DrawFn, whole: bool = False) -> RawData:
    """A small random scan; ``whole`` gives it everything that a scan can have."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, side, modes = draw(st.integers(2, 5)), draw(st.sampled_from([4, 5, 8])), draw(st.integers(1, 3))
    optional = st.just(True) if whole else st.booleans()
    energy, distance, pixel = 10.0 ** rng.uniform(2.5, 4.5), 10.0 ** rng.uniform(-1, 1), 10.0 ** rng.uniform(-10, -6)
    counts = rng.poisson(5.0, (n, side, side)).astype(np.uint16)
    counts[:, 0, 0] += 1
    floats = rng.uniform(0.1, 40.0, (n, side, side)).astype(np.float32)
    has_truth, far = draw(optional), draw(st.booleans())
    image = rng.normal(size=(40, 44)) + 1j * rng.normal(size=(40, 44))
    bad = np.zeros((side, side), dtype=bool)
    bad[-1, 1] = draw(optional)
    known = draw(optional)
    electrons = draw(optional)
    aberrations = {"C12": (5e-9, rng.uniform(-1.5, 1.5)), "C30": (-1e-6, 0.0)} if draw(optional) else {}
    wavelength = electron_wavelength_m(energy) if electrons else PLANCK_TIMES_LIGHT_EV_M / energy
    optics = ElectronOptics(
        min(0.05, rng.uniform(0.2, 0.7) * wavelength / (2 * pixel)),  # a disc within the detector
        rng.normal() * 1e-8 if draw(optional) else None,
        aberrations,
        source_size_m=draw(st.sampled_from([0.0, 8e-11])),
        defocus_spread_m=draw(st.sampled_from([0.0, 5e-9])),
        transmission=rng.random((side, side)) if draw(optional) else None,
    )
    detector = wavelength * distance / (side * pixel)
    positions = rng.uniform(9, 30, (2, n))
    return RawData(
        *positions,
        *(positions + rng.normal(size=(2, n)) if draw(optional) else (None, None)),
        counts if draw(st.booleans()) else floats,
        rng.normal(size=(modes, side, side)) + 1j * rng.normal(size=(modes, side, side)),
        scan_index=rng.permutation(50)[:n] if draw(optional) else None,
        objectGuess=image if has_truth else None,
        Y=rng.normal(size=(n, side, side)) + 0j if draw(optional) else None,
        metadata={"note": "x"} if draw(optional) else None,
        domain="intensity",
        bad_pixels=bad,
        pixel_size_m=pixel,
        energy_eV=energy,
        detector_distance_m=distance,
        detector_pixel_m=detector if known else None,
        far_field=True if far else None,
        electrons=electrons,
        optics=optics if electrons else None,
    )


def again(raw: RawData, name: str, folder: Path) -> RawData:
    form = format_named(name)
    assert form.write is not None
    path = folder / NAMES.get(name, "scan.bin")
    raw.to_file(path, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_data(path)


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-4)


def compare(raw: RawData, back: RawData, holds: frozenset[str]) -> None:
    """Everything in ``holds`` is the same; positions may have moved as a whole where no object fixes the frame."""
    close(back.patterns.intensity(), raw.patterns.intensity())
    close(np.diff(back.positions_px, axis=0), np.diff(raw.positions_px, axis=0))
    if "object" in holds and raw.object_truth is not None:
        assert back.object_truth is not None
        close(back.object_truth, raw.object_truth)
        close(back.positions_px, raw.positions_px)
    if "object" in holds and raw.object_truth is None:
        assert back.object_truth is None
    if "nominal positions" in holds:
        close(back.nominal_positions_px, raw.nominal_positions_px)
    if "probe" in holds:
        close(back.probe if "probe modes" in holds else back.probe[:1], raw.probe)
    if "scan numbers" in holds and raw.scan_index.any():
        np.testing.assert_array_equal(back.scan_index, raw.scan_index)
    if "bad pixels" in holds:
        expected = np.zeros((raw.N, raw.N), bool) if raw.bad_pixels is None else raw.bad_pixels
        np.testing.assert_array_equal(np.zeros_like(expected) if back.bad_pixels is None else back.bad_pixels, expected)
    if "truth patches" in holds and raw.Y is not None:
        close(back.Y, raw.Y)
    if "metadata" in holds:
        assert back.metadata == raw.metadata
    if "photon flag" in holds:
        assert back.counts_are_photons == raw.counts_are_photons
    facts = {"pixel size": "pixel_size_m", "energy": "energy_eV", "distance": "detector_distance_m"}
    if raw.electrons and "electrons" not in holds:
        facts.pop("energy")  # that of photons of the same wavelength was written
    elif "electrons" in holds:
        assert back.electrons == raw.electrons
    if "optics" in holds and raw.optics is not None:
        ours, theirs = back.optics, raw.optics
        assert ours is not None
        for name in ("semiangle_rad", "defocus_m", "source_size_m", "defocus_spread_m"):
            assert getattr(ours, name) == getattr(theirs, name)
        assert list(ours.aberrations) == list(theirs.aberrations)
        for name, value in theirs.aberrations.items():
            assert ours.aberrations[name] == pytest.approx(value, rel=1e-12)
        assert (ours.transmission is None) == (theirs.transmission is None)
        if theirs.transmission is not None:
            np.testing.assert_array_equal(ours.transmission, theirs.transmission)
    for word, name in (facts | {"detector pixel": "detector_pixel_m"}).items():
        if word in holds and getattr(raw, name) is not None:
            assert getattr(back, name) == pytest.approx(getattr(raw, name), rel=1e-5)


@pytest.mark.parametrize("name", WRITTEN)
@settings(max_examples=15 * TIMES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=scans())
def test_a_format_gives_back_what_it_holds(name: str, raw: RawData, tmp_path: Path) -> None:
    compare(raw, again(raw, name, tmp_path), format_named(name).holds)


@settings(max_examples=40 * TIMES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=scans(whole=True), first=st.sampled_from(WRITTEN), second=st.sampled_from(WRITTEN))
def test_a_conversion_keeps_what_both_formats_hold(raw: RawData, first: str, second: str, tmp_path: Path) -> None:
    middle = again(raw, first, tmp_path)
    middle.energy_eV, middle.electrons, middle.optics = raw.energy_eV, raw.electrons, raw.optics  # as options would
    middle.detector_distance_m = raw.detector_distance_m
    middle.pixel_size_m, middle.detector_pixel_m = raw.pixel_size_m, raw.detector_pixel_m
    compare(raw, again(middle, second, tmp_path), format_named(first).holds & format_named(second).holds)


@settings(max_examples=5 * TIMES, deadline=None)
@given(raw=scans(whole=True))
def test_what_a_conversion_loses_is_said(raw: RawData) -> None:
    assert set(held_by(raw)) >= set(FIELDS) - {"probe modes", "scan numbers"}
    assert lost_in(raw, format_named("ptychopinn")) == []
    assert {"object", "probe", "truth patches", "metadata"} <= set(lost_in(raw, format_named("ptyd")))


@pytest.mark.parametrize("name", ["ptychodus", "ptyd", "ptychodus-training", "cxi", "nexus", "ptychovit"])
def test_a_format_in_metres_refuses_a_scan_without_them(name: str, small_scan: RawData, tmp_path: Path) -> None:
    plain = small_scan.select(np.arange(len(small_scan)))
    plain.pixel_size_m = plain.energy_eV = None
    with pytest.raises(InputError, match="pixel_size_m.*--pixel-size-m"):
        plain.to_file(tmp_path / NAMES.get(name, "scan"), name)
    assert not list(tmp_path.iterdir())


def test_the_command_says_what_is_lost(small_scan: RawData, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_scan.to_file(tmp_path / "scan.npz")
    geometry = ["--energy-eV", "8000", "--detector-distance-m", "2", "--detector-pixel-m", "75e-6"]
    words = ["convert", str(tmp_path / "scan.npz"), str(tmp_path / "scan.ptyd"), *geometry, "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["format"] == "ptyd"
    assert {"probe", "object", "photon flag"} <= set(told["not_held_by_this_format"])
    for wrong, message in (("mat", "one of"), ("velociprobe", "which is only read")):
        assert main([*words[:-1], "--overwrite", "--to", wrong]) == 2
        assert message in capsys.readouterr().err


def test_products_carry_the_names_of_all_releases(small_scan: RawData, tmp_path: Path) -> None:
    scan = small_scan.select(np.arange(len(small_scan)))
    scan.pixel_size_m, scan.energy_eV, scan.detector_distance_m = 1e-8, 8e3, 2.0
    scan.to_file(tmp_path / "product.h5", "ptychodus")
    with h5py.File(tmp_path / "product.h5") as file:
        attributes = dict(file.attrs)
        assert attributes["photon_energy_eV"] == attributes["probe_energy_eV"] == 8e3
        assert {"mass_attenuation_m2_per_kg", "mass_attenuation_m2_kg", "exposure_time_s"} <= set(attributes)
        assert file["probe"].ndim == 4
        assert file["object"].ndim == 3
        assert file["object_layer_spacing_m"].shape == (0,)
        assert attributes["probe_photon_count"] == pytest.approx(np.sum(np.abs(scan.probe) ** 2), rel=1e-5)
        with h5py.File(tmp_path / "diffraction.h5") as patterns:
            np.testing.assert_array_equal(patterns["indexes"], file["probe_position_indexes"])
    for name in ("product.h5", "diffraction.h5"):  # either of the two is the scan
        assert len(load_data(tmp_path / name)) == len(scan)


def test_a_foreign_probe_is_rescaled_and_ours_is_not(small_scan: RawData, tmp_path: Path) -> None:
    scan = small_scan.select(np.arange(len(small_scan)))
    scan.pixel_size_m, scan.energy_eV, scan.detector_distance_m = 1e-8, 8e3, 2.0
    scan.to_file(tmp_path / "product.h5", "ptychodus")
    np.testing.assert_allclose(load_data(tmp_path / "product.h5").probe, scan.probe, rtol=1e-5)
    with h5py.File(tmp_path / "product.h5", "a") as file:
        file.attrs["comments"] = "from elsewhere"
        file["probe"][...] = 64 * file["probe"][()]
    energy = np.sum(np.abs(load_data(tmp_path / "product.h5").probe) ** 2)
    assert energy == pytest.approx(scan.pattern_energies().mean(), rel=0.05)
