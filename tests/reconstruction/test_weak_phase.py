"""The phase of a weak object from one linear step, in and out of focus, on a raster that is coarser than the object."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ptycho_ray.data.raw_data import RawData
from ptycho_ray.errors import InputError
from ptycho_ray.physics.electron_optics import ElectronOptics
from ptycho_ray.physics.optics import electron_wavelength_m
from ptycho_ray.reconstruction.named_start import named_start
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.reconstruction.weak_phase import weak_phase_image
from ptycho_ray.refinement.config import RefinementConfig
from ptycho_ray.refinement.solver import Refinement
from ptycho_ray.simulation.simulate import simulate_patterns

N, DISC_PX, PIXEL = 48, 9, 0.2e-10
WAVELENGTH = electron_wavelength_m(3e5)
#: Half the angle that the disc spans: no phase is transferred beyond 2 DISC_PX / N cycles a pixel.
SEMIANGLE = DISC_PX * WAVELENGTH / (N * PIXEL)


def weak_phase() -> np.ndarray:
    phase = gaussian_filter(np.random.default_rng(3).normal(size=(120, 120)), 2.2, mode="wrap")
    return 0.1 * phase / phase.std()


def scan_of(defocus_m: float, step: float, degrees: float) -> RawData:
    """16 x 16 positions, 1e5 electrons each, of a phase object of 0.1 rad."""
    turn = np.radians(degrees)
    axes = step * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    index = np.stack(np.indices((16, 16)), -1).reshape(-1, 2) - 7.5
    positions = index @ axes + 60
    probe = ElectronOptics(SEMIANGLE, defocus_m).probe(N, PIXEL, WAVELENGTH)
    counts = simulate_patterns(np.exp(1j * weak_phase()), probe, positions, photons=1e5, rng=np.random.default_rng(0))
    return RawData(positions[:, 1], positions[:, 0], None, None, counts, probe.astype(np.complex64))


@pytest.mark.parametrize(
    ("defocus_m", "step", "degrees"), [(0.0, 1.5, 0.0), (12e-9, 1.5, 25.0), (12e-9, 3.7, 0.0), (-12e-9, 3.7, -20.0)]
)
def test_the_phase_of_a_weak_object(defocus_m: float, step: float, degrees: float) -> None:
    found = weak_phase_image(scan_of(defocus_m, step, degrees))
    inner = found.covered()
    for _ in range(4):  # away from the border, beyond which nothing was measured
        inner[1:-1, 1:-1] &= inner[2:, 1:-1] & inner[:-2, 1:-1] & inner[1:-1, 2:] & inner[1:-1, :-2]
    row, column = (int(at) for at in found.origin_px)
    truth = weak_phase()[row : row + inner.shape[0], column : column + inner.shape[1]]
    ours = np.angle(found.image)[inner]
    assert np.corrcoef(ours, truth[inner])[0, 1] > 0.9
    assert ours.std() == pytest.approx(truth[inner].std(), rel=0.35)


def test_a_wrong_sign_of_the_defocus_shows() -> None:
    scan = scan_of(12e-9, 3.7, 0.0)
    wrong = scan.at(scan.positions_px, ElectronOptics(SEMIANGLE, -12e-9).probe(N, PIXEL, WAVELENGTH)[None].astype("c8"))
    truth = weak_phase()
    likeness = []
    for each in (scan, wrong):
        found = weak_phase_image(each)
        row, column = (int(at) for at in found.origin_px)
        part = truth[row : row + found.image.shape[0], column : column + found.image.shape[1]]
        likeness.append(np.corrcoef(np.angle(found.image)[found.covered()], part[found.covered()])[0, 1])
    assert likeness[0] > 0.85 > 0.5 > likeness[1]


def test_the_solver_starts_from_it() -> None:
    scan = scan_of(12e-9, 3.7, 0.0)
    start = named_start("direct", scan)
    assert isinstance(start, StitchedObject)
    config = RefinementConfig(iterations=1)
    ours, flat = (Refinement(scan, config, start=each) for each in (start, None))
    rows = np.arange(len(scan))
    assert ours.judge(rows).deviance < 0.5 * flat.judge(rows).deviance


def test_patterns_without_a_disc_are_refused() -> None:
    scan = scan_of(0.0, 1.5, 0.0)
    flat = RawData(scan.xcoords, scan.ycoords, None, None, np.full((len(scan), N, N), 5, np.uint16), scan.probeGuess)
    with pytest.raises(InputError, match="bright-field disc"):
        weak_phase_image(flat)
