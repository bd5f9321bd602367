"""A simulated scan with electrons from one description and one seed: what ``ptycho-ray simulate --electrons`` runs.

Legend: n patterns, N their side, S slices, H and W the object in its pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.position_maps import position_matrix
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.files import atomic_path
from ptycho_ray.physics.electron_optics import ElectronOptics
from ptycho_ray.physics.optics import electron_wavelength_m
from ptycho_ray.simulation.electrons.electron_spec import ElectronSpec
from ptycho_ray.simulation.electrons.multislice import diffraction_of_positions, modes_of_source
from ptycho_ray.simulation.electrons.potentials import resampled, slice_phases, transmissions
from ptycho_ray.simulation.electrons.specimens import (
    MOS2_CELL,
    SRTIO3_CELL,
    Specimen,
    globule,
    molybdenum_disulphide,
    shaken,
    strontium_titanate,
    tilted,
    with_foreign_atom,
)

#: Object pixels around the outermost window.
MARGIN = 4
FWHM_PER_SIGMA = 2 * np.sqrt(2 * np.log(2))


@dataclass(frozen=True)
class ElectronScan:
    """A simulated scan and its truth.

    Attributes:
        spec: what was asked for.
        scan: what the microscope records, with its errors, and the projected true object.
        frames: the recorded patterns [rows, columns, N, N] in the detector's units.
        slice_phases: mean true phase of each slice [S, H, W] in radian, on the pixels of the true object.
        true_probe: the modes [P, N, N] of the beam at the entrance, with its electrons.
        truth: what is known about specimen, beam and scan, JSON-ready.
    """

    spec: ElectronSpec
    scan: RawData
    frames: NDArray[Any]
    slice_phases: NDArray[np.float32]
    true_probe: NDArray[np.complex64]
    truth: dict[str, Any]

    def write_truth(self, path: Path) -> None:
        """Write an NPZ with ``slice_phases``, the true ``probe`` [P, N, N], and each entry of ``truth`` under its name."""
        arrays: dict[str, Any] = {name: np.array(value) for name, value in self.truth.items() if value is not None}
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, slice_phases=self.slice_phases, probe=self.true_probe, **arrays)


def simulate_electrons(spec: ElectronSpec, on_progress: Callable[[int, int], None] | None = None) -> ElectronScan:
    """Simulate the scan that ``spec`` describes; ``on_progress`` is told how many arrangements of its atoms are done.

    Globule, phonons, positions and noise draw from independent streams of the seed, so that changing one of them (the dose,
    say) leaves the others as they were. The description is in ``metadata['simulation']``, the true positions (row, column) are
    in ``metadata['true_positions_px']``, and what else is known in ``metadata['truth']``.
    """
    for_atoms, for_phonons, for_scan, for_noise = (
        np.random.default_rng(child) for child in np.random.SeedSequence(spec.seed).spawn(4)
    )
    energy = spec.voltage_kV * 1e3
    wavelength = electron_wavelength_m(energy) * 1e10
    pixel = wavelength / (spec.N * spec.angle_per_pixel_mrad * 1e-3)
    recorded, true = _positions(spec, pixel, for_scan)
    corner, shape = _canvas(spec, np.concatenate([recorded, true]))
    recorded, true = recorded - corner, true - corner
    fine, fine_shape = pixel / spec.oversampling, (shape[0] * spec.oversampling, shape[1] * spec.oversampling)

    at_rest, dopant = _specimen(spec, (shape[0] * pixel, shape[1] * pixel), -corner * pixel, for_atoms)
    slices = max(1, round(at_rest.thickness / spec.slice_angstrom))
    distance = at_rest.thickness / slices
    probe = _probe(spec, spec.N * spec.oversampling * spec.finer, fine)
    frames = np.zeros((len(true), spec.N, spec.N))
    mean_phases = np.zeros((slices, *shape), dtype=np.float32)
    configurations = max(1, spec.phonons)
    for number in range(configurations):
        atoms = tilted(shaken(at_rest, for_phonons) if spec.phonons else at_rest, _tilt(spec))
        phases = slice_phases(_inside(atoms, fine_shape, fine), slices, fine_shape, fine, energy)
        mean_phases += resampled(phases, shape) / np.float32(configurations)
        frames += (
            diffraction_of_positions(
                transmissions(phases), probe, true * spec.oversampling, wavelength * distance / fine**2,
                N=spec.N, finer=spec.finer,
            )
            / configurations
        )  # fmt: skip
        if on_progress is not None:
            on_progress(number + 1, configurations)

    measured = _recorded(spec, frames * _electrons(spec), for_noise)
    optics = _optics(spec, spec.defocus_nm * (1 + spec.defocus_error))
    believed = optics.probe(spec.N, pixel * 1e-10, wavelength * 1e-10) * np.sqrt(_electrons(spec))
    truth: dict[str, Any] = {
        "true_positions_px": true.tolist(),
        "rotation_deg": spec.rotation_deg,
        "flip": spec.flip,
        "step_angstrom": spec.step_angstrom * spec.step_scale,
        "defocus_nm": spec.defocus_nm,
        "thickness_angstrom": at_rest.thickness,
        "slice_distance_angstrom": distance,
        "slice_distance_px2": wavelength * distance / pixel**2,
        "tilt_mrad": list(spec.tilt_mrad),
        "dopant_place_angstrom": dopant,
        "electrons_per_pattern": _electrons(spec),
        "share_on_detector": float(frames.sum(axis=(1, 2)).mean()),
    }
    true_in_file = {"true_positions_px": truth["true_positions_px"]}
    true_in_file["truth"] = {name: value for name, value in truth.items() if name not in true_in_file}
    scan = RawData(
        recorded[:, 1],
        recorded[:, 0],
        None,
        None,
        measured,
        believed.astype(np.complex64),
        objectGuess=np.exp(1j * mean_phases.sum(axis=0)).astype(np.complex64),
        metadata={"simulation": dataclasses.asdict(spec), "nphotons": _electrons(spec), **true_in_file},
        domain="intensity",
        counts_are_photons=spec.counts_per_electron == 1,
        pixel_size_m=pixel * 1e-10,
        energy_eV=energy,
        electrons=True,
        optics=optics,
    )
    frames_4d = measured.reshape(*spec.raster, spec.N, spec.N)
    true_probe = _probe(spec, spec.N, pixel) * np.float32(np.sqrt(_electrons(spec)))
    return ElectronScan(spec, scan, frames_4d, mean_phases, true_probe, truth)


def _electrons(spec: ElectronSpec) -> float:
    """Electrons of the incident beam at one position."""
    return spec.dose_e_per_A2 * spec.step_angstrom**2


def _tilt(spec: ElectronSpec) -> tuple[float, float]:
    return spec.tilt_mrad[0] * 1e-3, spec.tilt_mrad[1] * 1e-3


def _optics(spec: ElectronSpec, defocus_nm: float) -> ElectronOptics:
    aberrations = {
        "C30": (spec.spherical_aberration_um * 1e-6, 0.0),
        "C12": (spec.astigmatism_nm * 1e-9, float(np.deg2rad(spec.astigmatism_deg))),
    }
    present = {name: value for name, value in aberrations.items() if value[0]}
    return ElectronOptics(spec.semiangle_mrad * 1e-3, defocus_nm * 1e-9, present)


def _probe(spec: ElectronSpec, side: int, pixel: float) -> NDArray[np.complex64]:
    """The true modes [P, side, side] of the beam, of unit energy, on pixels in angstrom."""
    wavelength = electron_wavelength_m(spec.voltage_kV * 1e3)
    coherent = _optics(spec, spec.defocus_nm).probe(side, pixel * 1e-10, wavelength)
    return modes_of_source(coherent, spec.source_size_angstrom / FWHM_PER_SIGMA / pixel)


def _positions(
    spec: ElectronSpec, pixel: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Recorded and true positions [n, 2] in object pixels about the middle of the scan."""
    grid = np.indices(spec.raster).reshape(2, -1).T - (np.array(spec.raster) - 1) / 2
    recorded = grid * spec.step_angstrom / pixel
    turn = position_matrix(spec.step_scale, np.deg2rad(spec.rotation_deg))
    time = np.linspace(-0.5, 0.5, len(grid))
    errors = rng.standard_normal(grid.shape) * spec.jitter_angstrom + time[:, None] * np.array(spec.drift_angstrom)
    return recorded, recorded @ turn.T + errors / pixel


def _canvas(spec: ElectronSpec, positions: NDArray[np.float64]) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """Corner and size, in object pixels, of a canvas that holds the windows of all positions."""
    reach = spec.N * spec.finer // 2 + MARGIN
    corner = np.floor(positions.min(axis=0)) - reach
    height, width = (int(side) + 2 - int(side) % 2 for side in np.ceil(positions.max(axis=0)) + reach - corner)
    return corner, (height, width)


def _specimen(
    spec: ElectronSpec, field: tuple[float, float], middle: NDArray[np.float64], rng: np.random.Generator
) -> tuple[Specimen, list[float] | None]:
    """The atoms at rest over the field and what tilt brings into it, and the place (depth, row, column) of a foreign atom.

    A corner of the crystal's cell, or the ball's centre, lies in the ``middle`` of the scan, whatever the field.
    """
    cells = {"SrTiO3": (SRTIO3_CELL, SRTIO3_CELL), "MoS2": (MOS2_CELL * np.sqrt(3), MOS2_CELL)}
    around = 2.0 + np.abs(np.tan(_tilt(spec))) * spec.total_thickness_angstrom
    if spec.specimen == "globule":
        half = np.maximum(middle, np.array(field) - middle) + around
        made, start = globule((2 * half[0], 2 * half[1]), spec.thickness_angstrom, rng), half
    else:
        cell = np.array(cells[spec.specimen])
        start = np.ceil((middle + around) / cell) * cell
        end = start + np.array(field) - middle + around
        larger = (float(end[0]), float(end[1]))
        made = (
            strontium_titanate(larger, spec.thickness_angstrom)
            if spec.specimen == "SrTiO3"
            else molybdenum_disulphide(larger, spec.layers)
        )
    made = dataclasses.replace(made, positions=made.positions + np.insert(middle - start, 0, 0.0))
    place = None
    if spec.dopant is not None:
        made, atom = with_foreign_atom(made, spec.dopant, (spec.dopant_depth_angstrom, middle[0], middle[1]))
        place = made.positions[atom].tolist()
    if spec.rms_displacement_angstrom is not None:
        elements = np.unique(made.symbols).tolist()
        made = dataclasses.replace(made, rms=dict.fromkeys(elements, spec.rms_displacement_angstrom))
    return made, place


def _inside(specimen: Specimen, shape: tuple[int, int], pixel: float) -> Specimen:
    """The atoms over the grid: those beyond would come back in at its other side."""
    places = specimen.positions[:, 1:]
    kept = np.all((places >= 0) & (places < np.array(shape) * pixel), axis=1)
    return dataclasses.replace(specimen, positions=specimen.positions[kept], symbols=specimen.symbols[kept])


def _recorded(spec: ElectronSpec, mean: NDArray[np.float64], rng: np.random.Generator) -> NDArray[Any]:
    """The frames as they are recorded: electrons counted, turned over, times the gain. The zero frequency stays at N // 2."""
    frames = rng.poisson(mean).astype(np.uint32) if spec.noise else mean.astype(np.float32)
    if spec.flip == "transpose":
        frames = frames.swapaxes(1, 2)
    elif spec.flip != "none":
        axis = 1 if spec.flip == "rows" else 2
        frames = np.roll(np.flip(frames, axis), 1, axis)
    if spec.counts_per_electron != 1:
        frames = (frames * spec.counts_per_electron).astype(np.float32)
    return np.ascontiguousarray(frames)
