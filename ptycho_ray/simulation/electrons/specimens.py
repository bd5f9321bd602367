"""Specimens as lists of atoms: crystals cut to a field, a globule of light atoms; a foreign atom, tilt and frozen phonons.

Positions are [atoms, 3] (depth, row, column) in angstrom; the beam meets depth 0 first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ptycho_ray.errors import InputError

Field = tuple[float, float]
Placed = list[tuple[str, float, NDArray[np.float64]]]

SRTIO3_CELL = 3.905
#: Root mean square displacement u along an axis at room temperature: B = 8 pi**2 u**2 = 0.62, 0.44 and 0.73 square angstrom
#: for Sr, Ti and O (Abramov et al., Acta Crystallographica B 51 (1995) 942).
SRTIO3_RMS = {"Sr": 0.089, "Ti": 0.075, "O": 0.096}
MOS2_CELL, MOS2_SULPHUR_HEIGHT, MOS2_LAYER_DISTANCE = 3.16, 1.56, 6.15
#: Round numbers of the size that is found in layered disulphides at room temperature, not those of one measurement.
MOS2_RMS = {"Mo": 0.07, "S": 0.08}
#: Atoms heavier than hydrogen in a protein: their shares, and how many there are in a cubic angstrom at 1.35 g/cm**3.
PROTEIN_SHARES = {"C": 0.63, "N": 0.17, "O": 0.195, "S": 0.005}
PROTEIN_DENSITY = 0.058
CLOSEST_ATOMS = 1.2


@dataclass(frozen=True)
class Specimen:
    """Atoms between depth 0 and ``thickness``.

    Attributes:
        positions: [atoms, 3] (depth, row, column) in angstrom.
        symbols: the element of each atom, [atoms].
        thickness: in angstrom.
        rms: root mean square displacement along an axis of each element, in angstrom; elements that are not named rest.
        host: the element that a foreign atom replaces.
    """

    positions: NDArray[np.float64]
    symbols: NDArray[np.str_]
    thickness: float
    rms: Mapping[str, float]
    host: str


def strontium_titanate(field: Field, thickness: float) -> Specimen:
    """SrTiO3 along [001], entered through SrO: planes of SrO and TiO2 in turn, half a cell apart."""
    a = SRTIO3_CELL
    planes = 2 * max(1, round(thickness / a))
    whole = _corners(field, (a, a))
    in_plane = {0: (("Sr", 0.0, 0.0), ("O", 0.5, 0.5)), 1: (("Ti", 0.5, 0.5), ("O", 0.5, 0.0), ("O", 0.0, 0.5))}
    placed = [
        (symbol, (plane + 0.5) * a / 2, whole + np.array([row, column]) * a)
        for plane in range(planes)
        for symbol, row, column in in_plane[plane % 2]
    ]
    return _cut(placed, field, planes * a / 2, SRTIO3_RMS, "Sr")


def molybdenum_disulphide(field: Field, layers: int) -> Specimen:
    """Layers of 2H-MoS2 seen along [001], each turned by half a turn against the one before: Mo lies over S."""
    a = MOS2_CELL
    cell = np.array([a * np.sqrt(3), a])
    corners = _corners(field, (cell[0], cell[1]))
    sites = [(np.array([0.0, 0.0]), np.array([0.5, 0.5])), (np.array([1 / 6, 0.5]), np.array([2 / 3, 0.0]))]
    placed = []
    for layer in range(layers):
        depth = MOS2_LAYER_DISTANCE * (layer + 0.5)
        metal, sulphur = sites if layer % 2 == 0 else sites[::-1]
        placed += [("Mo", depth, corners + site * cell) for site in metal]
        for height in (-MOS2_SULPHUR_HEIGHT, MOS2_SULPHUR_HEIGHT):
            placed += [("S", depth + height, corners + site * cell) for site in sulphur]
    return _cut(placed, field, layers * MOS2_LAYER_DISTANCE, MOS2_RMS, "Mo")


def _corners(field: Field, cell: tuple[float, float]) -> NDArray[np.float64]:
    """Corners [n, 2] (row, column) of the cells that cover the field."""
    axes = [np.arange(int(side / length) + 1) * length for side, length in zip(field, cell, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)


def _cut(placed: Placed, field: Field, thickness: float, rms: Mapping[str, float], host: str) -> Specimen:
    """What of the atoms (element, depth, places [n, 2]) lies in the field."""
    positions = np.concatenate([np.insert(places, 0, depth, axis=1) for _, depth, places in placed])
    symbols = np.concatenate([np.full(len(places), symbol) for symbol, _, places in placed])
    inside = np.all((positions[:, 1:] >= 0) & (positions[:, 1:] < field), axis=1)
    return Specimen(positions[inside], symbols[inside], thickness, rms, host)


def globule(field: Field, diameter: float, rng: np.random.Generator) -> Specimen:
    """A ball of C, N, O and S in the middle of the field, as many as a protein has, nowhere closer than 1.2 angstrom.

    Hydrogen and the ice around are left out. Where the field is smaller than the ball, the rest is cut off.
    """
    wanted = round(PROTEIN_DENSITY * np.pi / 6 * diameter**3)
    kept = np.empty((0, 3))
    while len(kept) < wanted:
        new = rng.uniform(-diameter / 2, diameter / 2, (2 * wanted, 3))
        kept = np.concatenate([kept, new[np.linalg.norm(new, axis=1) <= diameter / 2]])
        pairs = cKDTree(kept).query_pairs(CLOSEST_ATOMS, output_type="ndarray")
        kept = np.delete(kept, np.unique(pairs.max(axis=1)), axis=0)[:wanted] if len(pairs) else kept[:wanted]
    symbols = rng.choice(list(PROTEIN_SHARES), wanted, p=list(PROTEIN_SHARES.values()))
    positions = kept + np.array([diameter / 2, field[0] / 2, field[1] / 2])
    inside = np.all((positions[:, 1:] >= 0) & (positions[:, 1:] < field), axis=1)
    return Specimen(positions[inside], symbols[inside], diameter, {}, "C")


def with_foreign_atom(specimen: Specimen, element: str, place: tuple[float, float, float]) -> tuple[Specimen, int]:
    """``specimen`` with the host atom that is nearest to ``place`` (depth, row, column) replaced, and the number of that atom.

    The foreign atom moves as its host does.
    """
    hosts = np.flatnonzero(specimen.symbols == specimen.host)
    if not len(hosts):
        raise InputError(field="dopant", found=f"no atom of {specimen.host}", expected="a specimen that has some")
    chosen = int(hosts[np.argmin(np.linalg.norm(specimen.positions[hosts] - np.array(place), axis=1))])
    symbols = specimen.symbols.astype("<U2")
    symbols[chosen] = element
    rms = {**specimen.rms, **({element: specimen.rms[specimen.host]} if specimen.host in specimen.rms else {})}
    return replace(specimen, symbols=symbols, rms=rms), chosen


def tilted(specimen: Specimen, tilt_rad: tuple[float, float]) -> Specimen:
    """The specimen turned by small angles about its entrance: an atom at depth z moves by z tan(tilt) along each axis."""
    moved = specimen.positions.copy()
    moved[:, 1:] += moved[:, :1] * np.tan(tilt_rad)
    return replace(specimen, positions=moved)


def shaken(specimen: Specimen, rng: np.random.Generator) -> Specimen:
    """One frozen phonon: each atom displaced on its own, normally distributed by the rms of its element (Einstein's model)."""
    widths = np.array([specimen.rms.get(str(symbol), 0.0) for symbol in specimen.symbols])
    moved = specimen.positions + rng.standard_normal(specimen.positions.shape) * widths[:, None]
    return replace(specimen, positions=moved)
