"""Defocus and turn of a scan of electrons by short trials: which are made and what is taken, without the solver."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ptycho_ray.automatic import lens
from ptycho_ray.automatic.lens import STEP_RAD, defoci_m, lens_by_trials, probe_is_of_optics
from ptycho_ray.automatic.trials import Assumption, Trial
from ptycho_ray.physics.electron_optics import ElectronOptics
from ptycho_ray.physics.optics import electron_wavelength_m
from ptycho_ray.refinement.unseen import PatternFigures

N, PIXEL_M, WAVELENGTH_M, OPTICS = 64, 0.236e-10, electron_wavelength_m(300e3), ElectronOptics(21.4e-3)
STEP_NM = 1e9 * STEP_RAD * WAVELENGTH_M / (np.pi * OPTICS.semiangle_rad**2)
PROBE = OPTICS.probe(N, PIXEL_M, WAVELENGTH_M)[None]


def scan_of(optics: ElectronOptics = OPTICS) -> SimpleNamespace:
    patterns = SimpleNamespace(mean_energy=lambda: 1.0)
    return SimpleNamespace(
        N=N, pixel_size_m=PIXEL_M, wavelength_m=WAVELENGTH_M, optics=optics, patterns=patterns, probe=PROBE
    )


class TruePart:
    """A part of a scan whose trials explain more the nearer defocus and turn are to the true ones, and nothing far off."""

    def __init__(self, defocus_nm: float, angle_deg: float, mirrored: bool = False) -> None:
        self.true, self.trials, self.allowed = (defocus_nm, angle_deg, mirrored), [], 0.0
        self.whole, self.seed, self.photons_per_unit, self.budget_s = scan_of(), 0, 1.0, None

    def run(self, assumption: Assumption, iterations: int = 12) -> Trial:
        (defocus, angle, mirrored), matrix = self.true, assumption.matrix
        found = 1e9 * (assumption.optics.defocus_m or 0.0)
        turn = np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))
        apart = abs((turn - angle + 180) % 360 - 180)
        blind = (np.linalg.det(matrix) < 0) != mirrored or apart > 60
        near = 0.0 if blind else np.exp(-(((found - defocus) / STEP_NM) ** 2) / 2 - (apart / 40) ** 2)
        noise = np.ones(10)
        figures = PatternFigures(True, (10 - 8 * near) * np.linspace(0.99, 1.01, 10), noise, noise, noise, noise)
        self.trials.append(Trial(assumption, figures, 0.0, assumption.probe, 1.0))
        return self.trials[-1]


@pytest.fixture(autouse=True)
def same_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trials on fewer patterns are those of the whole part."""
    made: list[TruePart] = []
    monkeypatch.setattr(lens, "with_mean_photons", lambda probe, patterns: np.asarray(probe).reshape(-1, N, N))
    monkeypatch.setattr(lens, "Part", lambda scan, *_, trials, **__: next(p for p in made if p.trials is trials))
    original = TruePart.__init__

    def kept(self: TruePart, *arguments: float) -> None:
        original(self, *arguments)
        made.append(self)

    monkeypatch.setattr(TruePart, "__init__", kept)


@pytest.mark.parametrize(("defocus_nm", "angle_deg"), [(20.0, 0.0), (-13.0, 7.0), (6.0, -31.0)])
def test_defocus_and_turn_are_found_from_a_lens_in_focus(defocus_nm, angle_deg):
    part = TruePart(defocus_nm, angle_deg)
    found = lens_by_trials(part, Assumption("first", PROBE), [np.eye(2)], lambda line: None)
    assert found is not None
    assert 1e9 * found.optics.defocus_m == pytest.approx(defocus_nm, abs=0.75 * STEP_NM)
    assert np.degrees(np.arctan2(found.matrix[1, 0], found.matrix[0, 0])) == pytest.approx(angle_deg, abs=2)
    assert "+- 0.2 degrees" in found.name  # judges that do not scatter know no more than a parabola does
    assert part.allowed == len(part.trials)


def test_where_no_defocus_stands_out_none_is_taken():
    told: list[str] = []
    part = TruePart(1e3, 0.0)
    assert lens_by_trials(part, Assumption("first", PROBE), [np.eye(2)], told.append) is None
    assert told[0].startswith("no defocus explains clearly more")


def test_the_defoci_lie_on_both_sides_and_fit_the_window():
    defoci = defoci_m(scan_of(), OPTICS)
    assert 0 in defoci
    np.testing.assert_allclose(defoci, -defoci[::-1])
    assert 2 * defoci[-1] * OPTICS.semiangle_rad < N * PIXEL_M
    assert len(defoci) < 50


def test_the_probe_of_a_file_is_told_from_that_of_its_optics():
    scan = scan_of()
    assert probe_is_of_optics(scan)
    scan.probe = OPTICS.with_aberrations({"C10": (10e-9, 0.0)}).probe(N, PIXEL_M, WAVELENGTH_M)[None]
    assert not probe_is_of_optics(scan)
