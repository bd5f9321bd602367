"""What a user says about a file that does not say it itself, or says it wrongly: the one option group of all commands that
read a scan, of ``load_data`` and of the service.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ptycho_ray.errors import InputError


def _named(name: str) -> Any:
    return tyro.conf.arg(metavar=name)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the file is read, where it does not say so itself or says it wrongly. 'ptycho-ray info FILE' says what is
    missing."""

    companion: Annotated[Path | None, _named("FILE")] = None
    """An auxiliary file with what the first does not hold: positions, probe, object or patterns."""
    frames: Annotated[str | None, _named("KEY")] = None
    """The dataset that holds the patterns."""
    positions: Annotated[str | None, _named("KEY|FILE")] = None
    """The dataset of positions (row, column), two of them as ROWS,COLUMNS, or a file with a table."""
    mask: Annotated[str | None, _named("KEY|FILE|none")] = None
    """The dataset or file that marks bad pixels; what it covers tells whether 1 is good or bad. 'none' ignores the file's."""
    probe: Annotated[str | None, _named("KEY|FILE")] = None
    """The dataset or file that holds the probe."""
    axes: Annotated[str | None, _named("nyx|yxn|rcyx|...")] = None
    """Axes of the patterns as stored: n counts them, or r and c count the rows and columns of a raster; y and x are the
    rows and columns of the detector."""
    raster: Annotated[str | None, _named("ROWSxCOLUMNS")] = None
    """Positions on a raster, row by row; needs --step."""
    step: Annotated[str | None, _named("LENGTH[xLENGTH]")] = None
    """Step of a raster, or of positions that count steps, in metres or with a unit: 0.5um, 40nm, 2.5px; rows x columns."""
    units: Annotated[str | None, _named("UNIT")] = None
    """Unit of the positions: m, mm, um, nm, angstrom, px."""
    rotation: Annotated[float, _named("DEGREES")] = 0.0
    """Turn all positions about their centre, rows towards columns."""
    select: Annotated[str | None, _named("FIRST:END[:STEP]")] = None
    """Use only these patterns, and the positions with the same numbers."""
    drop: Annotated[str | None, _named("NUMBERS")] = None
    """Leave these patterns out: 77,120."""
    shape: Annotated[str | None, _named("NxROWSxCOLUMNS")] = None
    """Shape of a raw binary file; its type follows a colon: 300x130x128:float32."""
    beam: Literal["auto", "photons", "electrons"] = "auto"
    """What the beam consists of; 'auto' is what the file says, photons if it says nothing."""
    domain: Literal["auto", "amplitude", "intensity"] = "auto"
    """Quantity stored in the patterns; 'auto' decides by the format and the values."""
    transpose: bool = False
    """Exchange rows and columns of every pattern."""
    pixel_size_m: Annotated[float | None, _named("METRES")] = None
    """Size of an object pixel, for a file that does not state it."""
    energy_eV: Annotated[float | None, _named("EV")] = None
    """Energy of a photon, or accelerating voltage of the electrons."""
    voltage_kV: Annotated[float | None, _named("KV")] = None
    """Accelerating voltage of the electrons; says that the beam consists of electrons."""
    semiangle_mrad: Annotated[float | None, _named("MRAD")] = None
    """Convergence semi-angle of the electrons."""
    defocus_nm: Annotated[float | None, _named("NM")] = None
    """Defocus of the electrons, -C1: above zero for underfocus."""
    aberrations: Annotated[str | None, _named("NAME=LENGTH@AZIMUTH,...")] = None
    """Aberrations of the probe-forming lens by Krivanek's names or Haider's letters: C12=5nm@30deg,C30=1um, or A1, B2, A2,
    C3."""
    vacuum: Annotated[str | None, _named("KEY|FILE")] = None
    """A pattern of the electrons without a sample, on the same detector: amplitude and radius of the aperture."""
    source_size_angstrom: Annotated[float | None, _named("ANGSTROM")] = None
    """Full width at half maximum of the electrons' source at the sample; the probe starts with the modes that it makes."""
    defocus_spread_nm: Annotated[float | None, _named("NM")] = None
    """Standard deviation of the defocus by the electrons' spread of energy; the probe starts with the modes that it makes."""
    detector_distance_m: Annotated[float | None, _named("METRES")] = None
    """Distance from sample to detector."""
    detector_pixel_m: Annotated[float | None, _named("METRES")] = None
    """Size of a detector pixel."""
    keys_only: Annotated[bool, tyro.conf.Suppress] = False
    """Refuse names of other files: for a service, whose files are not the sender's."""

    def with_changes(self, changes: Mapping[str, Any]) -> Reading:
        """The same with other values. InputError names the nearest field for one that does not exist."""
        known = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise InputError(
                    field=name,
                    found="an unknown option of reading",
                    expected=f"one of {', '.join(known)}",
                    hint=f"did you mean {near[0]!r}?" if near else None,
                )
        return dataclasses.replace(self, **changes)

    def chosen(self) -> dict[str, Any]:
        """The options that differ from their defaults."""
        return {f.name: value for f in dataclasses.fields(self) if (value := getattr(self, f.name)) != f.default}

    def files(self) -> dict[str, Path]:
        """The other files that are named, by the option that names them."""
        others = {name: getattr(self, name) for name in ("positions", "mask", "probe", "vacuum")}
        named = {name: Path(value) for name, value in others.items() if value is not None and Path(value).is_file()}
        return named if self.companion is None else {"companion": self.companion, **named}

    def absolute(self) -> Reading:
        """The same on a machine or in a process with another working folder."""
        paths = {name: path.absolute() for name, path in self.files().items()}
        return self.with_changes({name: path if name == "companion" else str(path) for name, path in paths.items()})

    def words(self) -> list[str]:
        """The same as words of a command line."""
        words = []
        for name, value in self.chosen().items():
            option = name.replace("_", "-")
            said = f"{value:.12g}" if isinstance(value, float) else str(value)
            words += [f"--{'' if value else 'no-'}{option}"] if isinstance(value, bool) else [f"--{option}", said]
        return words


def read_indices(text: str, n: int, field: str) -> list[int]:
    """The numbers that '0:297', '0:300:2', '77,120' or '0:10,77' stand for among ``n``. InputError for any other text."""
    chosen: list[int] = []
    try:
        for piece in filter(str.strip, text.split(",")):
            parts = [int(part) if part.strip() else None for part in piece.split(":")]
            if len(parts) > 3 or (len(parts) == 3 and not parts[2]):
                raise ValueError
            chosen += [int(piece)] if len(parts) == 1 else list(range(n))[slice(*parts)]
    except ValueError:
        raise InputError(
            field=field, found=repr(text), expected="FIRST:END, FIRST:END:STEP or numbers: 77,120"
        ) from None
    wrong = [number for number in chosen if not -n <= number < n]
    if wrong or not (chosen or ":" in text):
        raise InputError(field=field, found=wrong[0] if wrong else repr(text), expected=f"numbers from 0 to {n - 1}")
    return [number % n for number in chosen]
