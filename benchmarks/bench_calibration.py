"""Rotation, defocus and astigmatism by the patterns alone: of simulated scans where they are known, or of a measured one.

python benchmarks/bench_calibration.py [../shared/data/rotavirus_train.npz]
"""

from __future__ import annotations

import sys
import time
import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ptycho_ray.calibration.deflection import turn_matrix
from ptycho_ray.calibration.microscope import calibrate_scan
from ptycho_ray.data import RawData, load_data
from ptycho_ray.physics.electron_optics import ElectronOptics
from ptycho_ray.physics.optics import electron_wavelength_m

N, PIXEL_M, SEMIANGLE_RAD, RASTER, STEP_PX, STRENGTH = 32, 0.4e-10, 15e-3, 24, 1.5, 0.1


def simulated(defocus_nm: float, angle_deg: float, mirrored: bool, dose: float, side_steps: int = RASTER) -> RawData:
    """A scan of atoms at random places, turned against the detector; ``dose`` in electrons per square angstrom."""
    rng = np.random.default_rng(4)
    side = int(side_steps * STEP_PX * 1.5) + N + 8
    phase = gaussian_filter((rng.random((side, side)) < 0.02).astype(float), 1.2)
    raster = (np.indices((side_steps, side_steps)).reshape(2, -1).T - (side_steps - 1) / 2) * STEP_PX
    true: NDArray[np.float64] = raster @ turn_matrix(np.radians(angle_deg), mirrored).T + side / 2
    probe = ElectronOptics(SEMIANGLE_RAD, defocus_nm * 1e-9).probe(N, PIXEL_M, electron_wavelength_m(300e3))
    electrons = dose * (STEP_PX * PIXEL_M * 1e10) ** 2
    image = np.exp(1j * STRENGTH * phase / phase.std())
    scan = RawData.from_simulation(true[:, 1], true[:, 0], probe, image, nphotons=electrons, generator=rng)
    scan = scan.at((raster + side / 2).astype(np.float64))
    scan.electrons, scan.energy_eV, scan.pixel_size_m, scan.optics = True, 300e3, PIXEL_M, ElectronOptics(SEMIANGLE_RAD)
    return scan


def line(name: str, scan: RawData) -> str:
    """One row of a table."""
    began = time.process_time()
    found = calibrate_scan(scan)
    seconds = time.process_time() - began
    cells = [name]
    for value in ("rotation", "defocus", "C12"):
        each = found[value]
        cells.append("undecided" if each.found is None else f"{each.found:.2f} ± {each.error or 0:.2f} {each.unit}")
    hand = "undecided" if found["mirrored"].answer == "undecided" else "mirrored" if found.lens.mirrored else "not"
    curl = f"{np.degrees(found.turn.angle_rad):.1f} ± {np.degrees(found.turn.error_rad):.1f} deg"
    return "| " + " | ".join([*cells, hand, found.twin, curl, f"{seconds:.1f}"]) + " |"


def by_chance(orders: int = 16) -> str:
    """The largest figures of patterns in random order, which tell nothing."""
    scan = simulated(20.0, 7.0, False, 1e4)
    found = []
    for seed in range(orders):
        order = np.random.default_rng(seed).permutation(len(scan))
        made = calibrate_scan(scan.select(order).at(scan.positions_px))
        found.append((made.parallax.significance, made.parallax.mirror_significance, made.turn.significance))
    lens, hand, curl = np.max(found, axis=0)
    return (
        f"{orders} random orders: lens {lens:.1f}, handedness {hand:.1f}, curl {curl:.1f} standard errors at the most"
    )


def main() -> None:
    warnings.simplefilter("ignore")
    print("| scan | rotation | defocus | C12 | mirrored | sign by | curl alone | CPU s |\n" + "| --- " * 8 + "|")
    if len(sys.argv) > 1:
        scan = load_data(sys.argv[1], voltage_kV=300, semiangle_mrad=1.03, pixel_size_m=0.93e-9, defocus_nm=13500)
        for turned in (0.0, 30.8):
            positions = scan.positions_px @ turn_matrix(np.radians(turned), False).T
            print(line(f"positions turned by {turned:g} degrees", scan.at(positions)))
        return
    for defocus_nm in (20.0, -20.0, 0.0):
        for angle_deg, mirrored in ((7.0, False), (-31.0, True)):
            for dose in (1e3, 1e4, 1e6):
                name = f"{defocus_nm:g} nm, {angle_deg:g} deg{', mirrored' if mirrored else ''}, {dose:.0e} e/Å²"
                print(line(name, simulated(defocus_nm, angle_deg, mirrored, dose)), flush=True)
    print(line("20 nm, 7 deg, 1e+03 e/Å², 64 x 64 positions", simulated(20.0, 7.0, False, 1e3, 64)))
    print(by_chance())


if __name__ == "__main__":
    main()
