"""The lens of an electron microscope: signs, names of aberrations, partial coherence."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_ray.errors import InputError
from ptycho_ray.physics.aberrations import ABERRATIONS, HAIDER, aberrations_text, read_aberrations
from ptycho_ray.physics.electron_optics import FWHM, ElectronOptics
from ptycho_ray.physics.optics import (
    beam_energy_eV,
    beam_wavelength_m,
    electron_wavelength_m,
    fresnel_propagate,
    probe_diameter_px,
    propagate,
)

N, SEMIANGLE, WAVELENGTH = 64, 0.0214, electron_wavelength_m(300e3)
PIXEL = WAVELENGTH / (N * SEMIANGLE / 12.3)


def test_wavelength_of_electrons_at_300_kV() -> None:
    assert pytest.approx(1.9687e-12, rel=1e-4) == WAVELENGTH


@given(energy=st.floats(100, 1e6), electrons=st.booleans())
def test_energy_and_wavelength_are_inverse(energy: float, electrons: bool) -> None:
    wavelength = beam_wavelength_m(energy, electrons=electrons)
    assert wavelength is not None
    assert beam_energy_eV(wavelength, electrons=electrons) == pytest.approx(energy, rel=1e-9)


@pytest.mark.parametrize("defocus", [-8e-9, 5e-9])
def test_underfocus_is_a_wave_that_has_not_reached_its_focus(defocus: float) -> None:
    """Above zero: carried on by the defocus, the probe is the focused one. The sign is that of ``fresnel_propagate``."""
    focused = ElectronOptics(SEMIANGLE).probe(N, PIXEL, WAVELENGTH)
    probe = ElectronOptics(SEMIANGLE, defocus).probe(N, PIXEL, WAVELENGTH)
    np.testing.assert_allclose(fresnel_propagate(probe, WAVELENGTH * defocus / PIXEL**2), focused, atol=1e-12)
    carried = propagate(probe, defocus, energy_eV=300e3, pixel_size_m=PIXEL, electrons=True)
    assert abs(np.vdot(carried, focused)) == pytest.approx(1, abs=1e-4)
    with_c10 = ElectronOptics(SEMIANGLE).with_aberrations(read_aberrations(f"C10={-defocus}m"))
    np.testing.assert_array_equal(with_c10.probe(N, PIXEL, WAVELENGTH), probe)


def test_astigmatism_turns_with_its_azimuth() -> None:
    """Light below focus is a line: along columns or rows by the azimuth, from columns (x) towards rows (y)."""
    spread = []
    for azimuth in (0.0, math.pi / 2):
        optics = ElectronOptics(SEMIANGLE, 6e-9, {"C12": (6e-9, azimuth)})
        intensity = np.abs(optics.probe(N, PIXEL, WAVELENGTH)) ** 2
        axis = (np.arange(N) - N // 2) ** 2
        spread.append((float(intensity.sum(axis=1) @ axis), float(intensity.sum(axis=0) @ axis)))
    # chi = -defocus + C12 along the azimuth: focused there, twice as defocused across it
    assert spread[0][1] < 0.3 * spread[0][0]
    assert spread[1][0] < 0.3 * spread[1][1]


lengths = st.floats(1e-12, 1e-2).flatmap(lambda size: st.sampled_from([size, -size]))


@given(st.dictionaries(st.sampled_from(list(ABERRATIONS)), st.tuples(lengths, st.floats(-3.1, 3.1))))
def test_aberrations_survive_their_text(given_: dict[str, tuple[float, float]]) -> None:
    """Length and azimuth come back as the same aberration; the azimuth only up to the symmetry of its kind."""
    found = read_aberrations(aberrations_text(given_))
    assert list(found) == list(given_)
    for name, (length, azimuth) in given_.items():
        m = ABERRATIONS[name][1]
        wanted, there = (a * np.exp(1j * m * b) for a, b in ((length, azimuth), found[name]))
        assert there == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("A1=5nm@30deg", "C12=5nm@30"),
        ("B2=10nm@0.5rad", "C21=30nm@0.5rad"),
        ("S3=1um@20", "C32=4um@20deg"),
        ("A2=40 nm @ -10 deg, Cs=1.2mm", "C23=40nm@-10,C30=1.2mm"),
        ("C12a=3nm,C12b=4nm", f"C12=5nm@{math.atan2(4, 3) / 2}rad"),
        ("c_12 = 50angstrom @ 500mrad", "C12=5nm@0.5rad"),
        ("C1=-20nm,A3=0nm", "C10=-20nm,C34=0nm"),
    ],
)
def test_spellings_of_the_same_aberrations(text: str, same: str) -> None:
    one, other = read_aberrations(text), read_aberrations(same)
    assert list(one) == list(other)
    for name in one:
        assert one[name] == pytest.approx(other[name], rel=1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("C12", "NAME=LENGTH@AZIMUTH, for example"),
        ("X1=5nm", "expected one of C10, C12"),
        ("C30=1um@20deg", "round aberration has none"),
        ("C12=5nm,A1=5nm", "C12 twice"),
        ("C12=2px", "a length, for example"),
        ("C12a=2nm@10deg", "components a and b"),
        ("C30a=2nm", "expected one of"),
    ],
)
def test_other_spellings_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_aberrations(text)


def test_every_letter_of_haider_names_an_aberration_with_as_many_folds() -> None:
    for letters, (name, factor) in HAIDER.items():
        n, m = ABERRATIONS[name]
        assert factor in (1, n + 1)
        if letters[0] in "AC" and letters != "CS":
            assert n == int(letters[1])
            assert m == (0 if letters[0] == "C" else n + 1)


def test_partial_coherence_is_the_mixture_of_shifted_and_defocused_probes() -> None:
    """Against many probes at random points of the source and defoci: the same light at the sample."""
    optics = ElectronOptics(SEMIANGLE, 4e-9, source_size_m=4e-11, defocus_spread_m=1.5e-9)
    modes = optics.modes(N, PIXEL, WAVELENGTH)
    assert np.sum(np.abs(modes) ** 2) == pytest.approx(1)
    flat = modes.reshape(len(modes), -1)
    gram = flat @ flat.conj().T
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-9)
    assert np.all(np.diff(np.diag(gram).real) <= 1e-12)
    rng = np.random.default_rng(0)
    mixture = np.zeros((N, N))
    frequency = np.fft.fftfreq(N)
    for _ in range(1500):
        shift, away = rng.normal(size=2) * 4e-11 / FWHM / PIXEL, 4e-9 + rng.normal() * 1.5e-9
        spectrum = np.fft.fft2(ElectronOptics(SEMIANGLE, away).probe(N, PIXEL, WAVELENGTH))
        turn = np.exp(-2j * np.pi * (frequency[:, None] * shift[0] + frequency * shift[1]))
        mixture += np.abs(np.fft.ifft2(spectrum * turn)) ** 2
    ours = np.sum(np.abs(modes) ** 2, axis=0)
    assert np.abs(ours - mixture / 1500).sum() < 0.06
    alone = np.abs(ElectronOptics(SEMIANGLE, 4e-9).probe(N, PIXEL, WAVELENGTH)) ** 2
    assert np.abs(ours - alone).sum() > 0.2


@settings(max_examples=20, deadline=None)
@given(defocus=st.floats(-6e-9, 6e-9), size=st.floats(0, 6e-11), spread=st.floats(0, 3e-9))
def test_modes_of_any_microscope(defocus: float, size: float, spread: float) -> None:
    optics = ElectronOptics(SEMIANGLE, defocus, source_size_m=size, defocus_spread_m=spread)
    modes = optics.modes(32, 2 * PIXEL, WAVELENGTH)
    assert 1 <= len(modes) <= 8
    assert np.sum(np.abs(modes) ** 2) == pytest.approx(1)
    spectrum = np.abs(np.fft.fftshift(np.fft.fft2(modes, norm="ortho"), axes=(-2, -1))) ** 2
    y, x = np.indices((32, 32)) - 16
    assert spectrum[:, np.hypot(y, x) > 13.5].max() < 1e-20
    if size == spread == 0:
        assert len(modes) == 1


@pytest.mark.parametrize("defocus", [0.0, 2e-9, 8e-9])
def test_the_estimate_of_the_diameter_is_that_of_the_probe(defocus: float) -> None:
    optics = ElectronOptics(SEMIANGLE, defocus)
    measured = probe_diameter_px(optics.probe(N, PIXEL, WAVELENGTH)[None]) * PIXEL
    assert measured == pytest.approx(optics.diameter_m(WAVELENGTH), rel=0.35)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="the detector ends at"):
        ElectronOptics(0.2).probe(N, PIXEL, WAVELENGTH)
    for wrong in ({"semiangle_rad": 21.4}, {"source_size_m": -1.0}, {"aberrations": {"C10": (1e-9, 0.0)}}):
        with pytest.raises(InputError):
            ElectronOptics(**{"semiangle_rad": SEMIANGLE, **wrong})


def test_the_measured_aperture_takes_the_place_of_a_sharp_one() -> None:
    y, x = np.indices((N, N)) - N // 2
    measured = np.where(np.hypot(y, x) < 12, 1 + 0.3 * x / 12, 0.0)
    probe = ElectronOptics(SEMIANGLE, 3e-9, transmission=measured).probe(N, PIXEL, WAVELENGTH)
    light = np.abs(np.fft.fftshift(np.fft.fft2(probe, norm="ortho"))) ** 2
    np.testing.assert_allclose(light * measured.sum(), measured, atol=1e-9)
